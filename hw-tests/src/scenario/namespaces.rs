//! Volumes that change while hosts are connected.

use anyhow::Result;

use super::Outcome;
use crate::bed::Bed;

const MIB: u64 = 1 << 20;

/// A volume grows; the host sees it without being asked to look, and the new part is usable.
pub(crate) fn resize(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("growing", 64 * MIB, 4096)?;
    bed.run(&format!(
        "connect
         head -c 1M /dev/urandom > /tmp/old
         dd if=/tmp/old of=$(device {nsid}) bs=1M seek=63 oflag=direct status=none"
    ))?;
    bed.resize("growing", 96 * MIB)?;
    bed.run(&format!(
        "d=$(device {nsid})
         grown() {{ [ $(blockdev --getsize64 $d) = {} ]; }}
         until_true 20 grown
         dd if=$d bs=1M skip=63 count=1 iflag=direct status=none | cmp - /tmp/old
         dd if=$d bs=1M skip=64 count=32 iflag=direct status=none | cmp -n 32M - /dev/zero
         dd if=/tmp/old of=$d bs=1M seek=95 oflag=direct status=none
         dd if=$d bs=1M skip=95 count=1 iflag=direct status=none | cmp - /tmp/old
         disconnect",
        96 * MIB
    ))?;
    Ok(Outcome::Passed)
}

/// Volumes are made and deleted beside one that is in use; that one notices nothing.
pub(crate) fn come_and_go(bed: &mut Bed) -> Result<Outcome> {
    let steady = bed.volume("steady", 64 * MIB, 4096)?;
    bed.run("connect")?;
    let load = bed.load(
        &format!("d=$(device {steady})"),
        "--name=load --filename=$d --size=16M --rw=randrw --bs=8k --iodepth=4 --verify=crc32c \
             --verify_fatal=1 --verify_backlog=32",
    )?;
    for round in 0..2 {
        let name = format!("guest-{round}");
        let nsid = bed.volume(&name, 32 * MIB, if round == 0 { 512 } else { 4096 })?;
        bed.run(&format!(
            "d=$(device {nsid})
             head -c 1M /dev/urandom > /tmp/some
             dd if=/tmp/some of=$d bs=256k oflag=direct status=none
             dd if=$d bs=256k count=4 iflag=direct status=none | cmp - /tmp/some"
        ))?;
        bed.delete(&name)?;
        bed.run(&format!(
            "gone() {{ ! cat /sys/block/nvme*n*/nsid | grep -qx {nsid}; }}
             until_true 20 gone"
        ))?;
    }
    bed.end_load(load)?;
    bed.run("disconnect")?;
    Ok(Outcome::Passed)
}
