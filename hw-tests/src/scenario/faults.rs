//! Connections and nodes that end in the middle of I/O.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::Outcome;
use crate::bed::Bed;

const MIB: u64 = 1 << 20;

/// The host resets its controller again and again; its I/O goes on.
pub(crate) fn reset(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("reset", 64 * MIB, 4096)?;
    bed.run("connect")?;
    let load = bed.verified_load(&format!("d=$(device {nsid})"))?;
    for _ in 0..3 {
        sleep(Duration::from_secs(1));
        bed.run(
            "c=$(controller)
             nvme reset /dev/$c
             live() { grep -q live /sys/class/nvme/$c/state; }
             until_true 30 live",
        )?;
    }
    bed.end_load(load)?;
    bed.run("disconnect")?;
    Ok(Outcome::Passed)
}

/// The node is killed under load and comes back; the host connects again by itself, no I/O fails,
/// and everything that was written is there.
pub(crate) fn kill(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("killed", 64 * MIB, 4096)?;
    bed.run("connect --data-digest")?;
    let load = bed.verified_load(&format!("d=$(device {nsid})"))?;
    for pause in [1, 3] {
        sleep(Duration::from_secs(2));
        bed.kill_and_restart(Duration::from_secs(pause))?;
        bed.run(
            "c=$(controller)
             live() { grep -q live /sys/class/nvme/$c/state; }
             until_true 60 live",
        )?;
    }
    bed.end_load(load)?;
    bed.run("disconnect")?;
    // The kernel says which requests it tried again.
    bed.run("dmesg -C")?;
    Ok(Outcome::Passed)
}

/// Files synced before a kill are read back after it, by a host that has no cache of them.
pub(crate) fn acknowledged(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("kept", 256 * MIB, 512)?;
    bed.run(&format!(
        "connect
         d=$(device {nsid})
         mkfs.ext4 -q $d
         mount $d /mnt
         for n in $(seq 20); do head -c $((n * 50021)) /dev/urandom > /mnt/$n; done
         sync
         (cd /mnt && md5sum [0-9]*) > /tmp/sums
         umount /mnt
         disconnect"
    ))?;
    bed.kill_and_restart(Duration::from_millis(100))?;
    bed.run(&format!(
        "connect
         d=$(device {nsid})
         e2fsck -fn $d
         mount $d /mnt
         (cd /mnt && md5sum --quiet -c /tmp/sums)
         umount /mnt
         disconnect"
    ))?;
    Ok(Outcome::Passed)
}
