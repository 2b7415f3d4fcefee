//! A node on more than one core.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::agent::Job;
use crate::bed::Bed;

const MIB: u64 = 1 << 20;

/// Four queues on two cores: verified load and trims, while a volume grows, others come and go, and
/// the node is killed twice.
pub(crate) fn several(bed: &mut Bed) -> Result<Outcome> {
    let cores = bed.node.basalt()?.core_counter("commands")?.len();
    if cores < 2 {
        return Ok(Outcome::Skipped("this machine has one processor".to_owned()));
    }
    let nsid = bed.volume("cores", 128 * MIB, 4096)?;
    // Sizes mixed on half of the volume, read back at the end, after everything else.
    let mixed = "--name=mixed --offset=64M --size=24M --rw=randwrite --iodepth=16 \
                 --bsrange=4k-128k --blockalign=4k --verify=crc32c --verify_fatal=1 \
                 --ioengine=libaio --direct=1 --randseed=11";
    bed.run(&format!(
        "connect --nr-io-queues=4 --data-digest
         [ $(cat /sys/class/nvme/$(controller)/queue_count) = 5 ]
         fio --filename=$(device {nsid}) {mixed} --do_verify=1"
    ))?;
    let load = load(bed, nsid)?;
    change_volumes(bed, nsid)?;
    let before = bed.node.basalt()?.core_counter("commands")?;
    ensure!(before.iter().all(|&commands| commands > 50), "an idle core: {before:?} commands");
    for pause in [1, 2] {
        bed.kill_and_restart(Duration::from_secs(pause))?;
        bed.run(
            "c=$(controller)
             live() { grep -q live /sys/class/nvme/$c/state; }
             until_true 60 live",
        )?;
        sleep(Duration::from_secs(2));
    }
    bed.end_load(load)?;
    let after = bed.node.basalt()?.core_counter("commands")?;
    ensure!(after.iter().all(|&commands| commands > 50), "an idle core: {after:?} commands");
    bed.run(&format!(
        "fio --filename=$(device {nsid}) {mixed} --verify_only
         disconnect
         dmesg -C"
    ))?;
    Ok(Outcome::Passed)
}

/// Three verified jobs, each bound to a processor and so to a queue, and one that trims.
fn load(bed: &Bed, nsid: u32) -> Result<Job> {
    let mut jobs = String::new();
    for job in 0..3 {
        jobs += &format!(
            "--name=job{job} --cpus_allowed={job} --offset={}M --size=12M --rw=randrw --bs=4k \
             --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_backlog=64 ",
            job * 12
        );
    }
    bed.load(
        &format!("d=$(device {nsid})"),
        &format!(
            "--filename=$d {jobs} --name=trim --cpus_allowed=3 --offset=96M --size=32M \
                 --rw=randtrim --bs=64k --iodepth=4"
        ),
    )
}

/// The volume under load grows; another comes, is used and goes.
fn change_volumes(bed: &mut Bed, nsid: u32) -> Result<()> {
    bed.resize("cores", 160 * MIB)?;
    let other = bed.volume("visitor", 32 * MIB, 512)?;
    bed.run(&format!(
        "d=$(device {nsid})
         grown() {{ [ $(blockdev --getsize64 $d) = {} ]; }}
         until_true 20 grown
         v=$(device {other})
         head -c 1M /dev/urandom > /tmp/some
         dd if=/tmp/some of=$v bs=256k oflag=direct status=none
         dd if=$v bs=256k count=4 iflag=direct status=none | cmp - /tmp/some",
        160 * MIB
    ))?;
    bed.delete("visitor")?;
    bed.run(&format!(
        "gone() {{ ! grep -sqx {other} /sys/block/nvme*n*/nsid; }}
         until_true 20 gone"
    ))?;
    Ok(())
}
