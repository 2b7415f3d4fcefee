//! As many controllers as a node has room for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nvmeof_target::testing::HostConfig;
use storage_spec::nvme::status::Status;

use super::Outcome;
use crate::bed::Bed;
use crate::initiator::Queue;

const MIB: u64 = 1 << 20;
const CONTROLLERS: usize = 128;
/// Hosts that share them: one has at most a quarter.
const HOSTS: usize = 8;
/// A hundred of anything takes time in an emulated machine.
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

fn run_long(bed: &Bed, script: &str) -> Result<String> {
    bed.guest.finish(bed.start(script, LIMIT)?)
}
