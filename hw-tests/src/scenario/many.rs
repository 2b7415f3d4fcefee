//! As many controllers and namespaces as a node has room for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nvmeof_target::testing::HostConfig;
use serde_json::Value;
use storage_spec::nvme::status::Status;

use super::Outcome;
use crate::bed::Bed;
use crate::initiator::Queue;

const MIB: u64 = 1 << 20;
const CONTROLLERS: usize = 128;
/// Hosts that share them: one has at most a quarter.
const HOSTS: usize = 8;
const NAMESPACES: usize = 1024;
/// A thousand of anything takes time in an emulated machine.
const LIMIT: Duration = Duration::from_secs(300);

/// 128 controllers of eight kernel hosts, and I/O through all of them; the next is refused; they go
/// and come again.
pub(crate) fn controllers(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("shared", 64 * MIB, 4096)?;
    let connect_all = format!(
        "for host in $(seq {HOSTS}); do
             id=6e8a0a5c-3c0f-4c6c-8d0e-5d1f6f6b1$(printf %03d $host)
             for _ in $(seq {}); do
                 connect --duplicate-connect --nr-io-queues=1 --keep-alive-tmo=30 \
                     --hostid=$id --hostnqn=nqn.2014-08.org.nvmexpress:uuid:$id
             done
         done
         [ $(grep -sl live /sys/class/nvme/nvme*/state | wc -l) = {CONTROLLERS} ]",
        CONTROLLERS / HOSTS
    );
    for round in 0..2 {
        run_long(bed, &connect_all).with_context(|| format!("round {round}"))?;
        // One device, whose I/O goes over every path in turn.
        run_long(
            bed,
            &format!(
                "d=$(device {nsid})
                 [ $(ls -d /sys/block/nvme*c*n*/ | wc -l) = {CONTROLLERS} ]
                 echo round-robin > /sys/class/nvme-subsystem/nvme-subsys*/iopolicy
                 fio --name=paths --filename=$d --size=8M --rw=randwrite --bs=4k \
                     --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 \
                     --do_verify=1
                 for p in /sys/block/nvme*c*n*/stat; do
                     read -r reads _ < $p
                     [ $reads -gt 0 ] || {{ echo \"no I/O over $p\"; exit 1; }}
                 done"
            ),
        )?;
        one_too_many(bed)?;
        run_long(bed, "nvme disconnect -n $NQN > /dev/null; [ -z \"$(ls /sys/class/nvme)\" ]")?;
    }
    // The refusal on purpose.
    bed.run("dmesg -C")?;
    Ok(Outcome::Passed)
}

/// The next controller is refused with Controller Busy, which does not keep a host from trying
/// again: told to a host of ours, and to the kernel's.
fn one_too_many(bed: &mut Bed) -> Result<()> {
    let nqn = bed.node.nqn().to_owned();
    let mut queue = Queue::open(bed.node.basalt()?.address(), HostConfig::default())?;
    let refused = queue.connect_admin(&nqn, "nqn.2026-11.io.example:one-too-many")?;
    ensure!(
        refused.status == Status::CONNECT_CONTROLLER_BUSY,
        "controller {} was answered with {:?}",
        CONTROLLERS + 1,
        refused.status
    );
    bed.run("dmesg -C")?;
    bed.run_to_fail("connect --duplicate-connect --nr-io-queues=1")?;
    bed.run("dmesg | grep -iE 'Connect.*busy'")?;
    Ok(())
}

/// 1,024 volumes: the host lists all, uses the first, the last and one between, and sees one go and
/// come.
pub(crate) fn namespaces(bed: &mut Bed) -> Result<Outcome> {
    let names: Vec<String> = (0..NAMESPACES).map(|number| format!("many-{number}")).collect();
    bed.node.basalt()?.create_many(&names, 16 * MIB)?;
    let outcome = among_many(bed, &names);
    if outcome.is_ok() {
        bed.node.basalt()?.delete_many(&names)?;
    }
    outcome
}

fn among_many(bed: &mut Bed, names: &[String]) -> Result<Outcome> {
    let node = bed.node.basalt()?;
    ensure!(node.create_many(&["beyond".to_owned()], 16 * MIB).is_err(), "a volume too many");
    let last = node.namespace(&names[NAMESPACES - 1])?;
    // With one queue Linux would give each device an I/O scheduler with requests of its own. It
    // stops its keep-alives before it removes the devices one by one, which takes an emulated
    // machine a minute: with the usual time of 5 s the node would have ended the controller then.
    run_long(
        bed,
        &format!(
            "connect --nr-io-queues=4 --keep-alive-tmo=120
             all() {{ [ $(cat /sys/block/nvme*n*/nsid | sort -u | wc -l) = {NAMESPACES} ]; }}
             until_true 200 all"
        ),
    )?;
    // The list in two parts.
    for (from, expected) in [(1, NAMESPACES), (601, NAMESPACES - 600)] {
        let printed = bed.run(&format!("nvme list-ns /dev/$(controller) -n {from} -o json"))?;
        let listed: Value = serde_json::from_str(&printed)?;
        let count = listed["nsid_list"].as_array().map_or(0, Vec::len);
        ensure!(count == expected, "{count} namespaces from {from}: {printed}");
    }
    for nsid in [1, 500, last] {
        bed.run(&format!(
            "fio --name=n{nsid} --filename=$(device {nsid}) --size=2M --rw=randwrite --bs=8k \
                 --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 \
                 --do_verify=1"
        ))?;
    }
    let node = bed.node.basalt()?;
    let middle = node.namespace(&names[500])?;
    node.delete_many(&names[500..501])?;
    run_long(
        bed,
        &format!(
            "gone() {{ ! grep -sqx {middle} /sys/block/nvme*n*/nsid; }}
             until_true 100 gone"
        ),
    )?;
    bed.node.basalt()?.create_many(&names[500..501], 16 * MIB)?;
    let back = bed.node.basalt()?.namespace(&names[500])?;
    run_long(
        bed,
        &format!(
            "back() {{ grep -sqx {back} /sys/block/nvme*n*/nsid; }}
             until_true 100 back
             d=$(device {back})
             dd if=$d bs=64k count=4 iflag=direct status=none | cmp -n 256k - /dev/zero
             disconnect"
        ),
    )?;
    Ok(Outcome::Passed)
}

fn run_long(bed: &Bed, script: &str) -> Result<String> {
    bed.guest.finish(bed.start(script, LIMIT)?)
}
