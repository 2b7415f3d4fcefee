//! A disk without room.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Outcome;
use crate::bed::Bed;

const MIB: u64 = 1 << 20;
/// The unit in which volumes take room, and give it back.
const SLAB: u64 = 2 * MIB;

/// Writes of `bytes` from the start of a volume, each with what identifies its place.
fn writes(nsid: u32, bytes: u64) -> String {
    format!(
        "fio --name=fill --filename=$(device {nsid}) --rw=write --bs=128k --size={bytes} \
         --ioengine=psync --direct=1 --verify=crc32c --verify_fatal=1 --randseed=3"
    )
}

/// A volume fills a disk: its writes end in ENOSPC and nothing else suffers. Overwrites, trims and
/// deletion go on, writes go on when there is room again, by growth of the disk as well, and
/// everything acknowledged is there, after a kill too.
pub(crate) fn disk(bed: &mut Bed) -> Result<Outcome> {
    let filler = bed.small_volume("filler", 1024 * MIB)?;
    let files = bed.small_volume("files", 64 * MIB)?;
    let victim = bed.small_volume("victim", 64 * MIB)?;
    let other = bed.volume("elsewhere", 64 * MIB, 4096)?;
    bed.run(&format!(
        "connect
         d=$(device {files})
         mkfs.ext4 -q -O ^has_journal -E nodiscard,lazy_itable_init=0 $d
         mount $d /mnt
         head -c 16M /dev/urandom > /mnt/stays
         head -c 24M /dev/urandom > /mnt/goes
         md5sum /mnt/stays > /tmp/stays
         sync
         {}",
        writes(victim, 16 * MIB)
    ))?;
    let mut load = bed.load(
        &format!("d=$(device {other})"),
        "--name=elsewhere --filename=$d --size=8M --rw=randwrite --bs=8k --iodepth=4 \
             --verify=crc32c --verify_fatal=1 --verify_backlog=64",
    )?;
    let written = fill(bed, filler)?;
    refuses(bed, filler, written)?;
    ensure!(load.is_running(), "the load elsewhere ended before the disk was full");
    // What is there can be read and written over.
    bed.run(&writes(filler, 4 * MIB))?;
    bed.run(&format!("{} --verify_only", writes(filler, written)))?;
    bed.end_load(load)?;
    make_room(bed, (filler, files), written)?;
    grow(bed, filler)?;
    bed.kill_and_restart(Duration::from_millis(100))?;
    bed.run(&format!(
        "live() {{ grep -q live /sys/class/nvme/$(controller)/state; }}
         until_true 60 live
         {} --verify_only
         mount -o ro $(device {files}) /mnt
         md5sum --quiet -c /tmp/stays
         umount /mnt
         e2fsck -fn $(device {files})
         disconnect",
        writes(filler, written)
    ))?;
    // Full on purpose: no complaint is made of these.
    bed.run("dmesg -C")?;
    Ok(Outcome::Passed)
}

/// Writes until the disk is full; the bytes that were acknowledged.
fn fill(bed: &Bed, nsid: u32) -> Result<u64> {
    let fio = format!("{} --do_verify=0 --output-format=json", writes(nsid, 1024 * MIB));
    let said = bed.run_to_fail(&format!("{fio} --output=/tmp/fill; code=$?; exit $code"))?;
    let told = bed.run("sed -n '/^{/,$p' /tmp/fill")?;
    let told: Value = serde_json::from_str(&told).with_context(|| format!("{said}\n{told}"))?;
    let job = &told["jobs"][0];
    // ENOSPC and nothing else.
    ensure!(job["error"].as_u64() == Some(28), "fio's error is {} ({said})", job["error"]);
    let written = job["write"]["io_bytes"].as_u64().context("fio counts its bytes")?;
    println!("full after {} MiB", written / MIB);
    ensure!(written > 24 * MIB, "full after {written} bytes already");
    Ok(written)
}

/// The same write fails again, and the kernel tells why.
fn refuses(bed: &Bed, nsid: u32, written: u64) -> Result<()> {
    let said = bed.run_to_fail(&format!(
        "LC_ALL=C dd if=/dev/urandom of=$(device {nsid}) bs=64k count=1 oflag=direct,seek_bytes \
             seek={} conv=notrunc 2>&1",
        (written + SLAB).next_multiple_of(SLAB)
    ))?;
    ensure!(said.contains("No space left on device"), "not ENOSPC: {said}");
    Ok(())
}

/// The disk is full once more. A write that the guest tries again and again succeeds once the disk
/// has grown, without anything done in the guest.
fn grow(bed: &mut Bed, filler: u32) -> Result<()> {
    bed.run_to_fail(&format!(
        "LC_ALL=C dd if=/dev/urandom of=$(device {filler}) bs=64k count=4096 seek={} \
             oflag=direct,seek_bytes conv=notrunc",
        640 * MIB
    ))?;
    let write = format!(
        "dd if=/dev/urandom of=$(device {filler}) bs=64k count=256 seek={} oflag=direct,seek_bytes \
             conv=notrunc status=none 2> /dev/null",
        960 * MIB
    );
    bed.run_to_fail(&write).context("the disk is full")?;
    let tries = format!("until {write}\ndo\n    sleep 0.5\ndone");
    let load = bed.start(&tries, Duration::from_secs(120))?;
    bed.kill_and_grow(64)?;
    bed.guest.finish(load).context("writes go on after growth")?;
    Ok(())
}

/// Room comes from a trimmed range, a trimmed file system and a deleted volume in turn; after each
/// the filler grows, and is full again.
fn make_room(bed: &mut Bed, (filler, files): (u32, u32), written: u64) -> Result<()> {
    let mut end = written.next_multiple_of(SLAB) + SLAB;
    let mut grow = |bed: &Bed, bytes: u64, what: &str| -> Result<()> {
        bed.run(&format!(
            "write() {{
                 dd if=/dev/urandom of=$(device {filler}) bs=64k count={} seek={end} \
                     oflag=direct,seek_bytes conv=notrunc status=none 2> /dev/null
             }}
             until_true 20 write",
            bytes >> 16
        ))
        .with_context(|| format!("room from {what}"))?;
        end += bytes;
        Ok(())
    };
    bed.run(&format!(
        "umount /mnt
         mount $(device {files}) /mnt
         rm /mnt/goes
         fstrim /mnt
         umount /mnt"
    ))?;
    grow(bed, 8 * MIB, "a trimmed file system")?;
    bed.delete("victim")?;
    grow(bed, 8 * MIB, "a deleted volume")?;
    // What was grown is given back by the trim of a range.
    let from = written.next_multiple_of(SLAB) + SLAB;
    bed.run(&format!("blkdiscard -o {from} -l {} $(device {filler})", 16 * MIB))?;
    grow(bed, 8 * MIB, "a trimmed range")
}
