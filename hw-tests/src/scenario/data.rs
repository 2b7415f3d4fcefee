//! Data written and read back in every way that a host has.

use anyhow::{Result, ensure};

use super::Outcome;
use crate::bed::Bed;
use crate::node::Ability;

const MIB: u64 = 1 << 20;

/// ext4 on both block sizes.
pub(crate) fn ext4(bed: &mut Bed) -> Result<Outcome> {
    for block in [512, 4096] {
        let name = format!("ext4-{block}");
        let nsid = bed.volume(&name, 256 * MIB, block)?;
        file_system(bed, nsid, "mkfs.ext4 -q", "e2fsck -fn")?;
        bed.delete(&name)?;
    }
    Ok(Outcome::Passed)
}

/// xfs on both block sizes; 300 MiB is the least that it takes.
pub(crate) fn xfs(bed: &mut Bed) -> Result<Outcome> {
    for block in [512, 4096] {
        let name = format!("xfs-{block}");
        let nsid = bed.volume(&name, 512 * MIB, block)?;
        file_system(bed, nsid, "mkfs.xfs -q -f", "xfs_repair -n")?;
        bed.delete(&name)?;
    }
    Ok(Outcome::Passed)
}

fn file_system(bed: &Bed, nsid: u32, make: &str, check: &str) -> Result<()> {
    bed.run(&format!(
        "connect
         d=$(device {nsid})
         {make} $d
         mount $d /mnt
         for n in 1 2 3 4 5 6 7 8; do
             head -c $((n * 777777)) /dev/urandom > /mnt/$n
         done
         cp -r /usr/lib/udev /mnt/tree 2> /dev/null || cp -r /etc /mnt/tree
         rm /mnt/3 /mnt/5
         (cd /mnt && find . -type f -exec md5sum {{}} +) | sort > /tmp/sums
         [ -s /tmp/sums ]
         fstrim /mnt
         umount /mnt
         {check} $d
         disconnect"
    ))?;
    bed.run(&format!(
        "connect
         mount -o ro $(device {nsid}) /mnt
         (cd /mnt && find . -type f -exec md5sum {{}} +) | sort | diff - /tmp/sums
         umount /mnt
         disconnect"
    ))?;
    Ok(())
}

/// fio verifies every block it wrote, with sizes mixed, while another job trims beside it.
pub(crate) fn fio_verify(bed: &mut Bed) -> Result<Outcome> {
    for (block, sizes) in [(512, "512-96k"), (4096, "4k-256k")] {
        let name = format!("fio-{block}");
        let nsid = bed.volume(&name, 128 * MIB, block)?;
        bed.run(&format!(
            "connect
             d=$(device {nsid})
             fio --filename=$d --ioengine=libaio --direct=1 --randseed={block} \
                 --name=mixed --size=24M --io_size=24M --rw=randwrite --iodepth=16 \
                 --bsrange={sizes} --blockalign={block} \
                 --verify=crc32c --verify_fatal=1 --do_verify=1 \
                 --name=trim --offset=64M --size=32M --rw=randtrim --bs=64k --iodepth=4
             disconnect"
        ))?;
        bed.delete(&name)?;
    }
    Ok(Outcome::Passed)
}

/// Trimmed ranges of any alignment read as zeroes, and what lies beside them is untouched.
pub(crate) fn trim(bed: &mut Bed) -> Result<Outcome> {
    for block in [512, 4096] {
        let name = format!("trim-{block}");
        let nsid = bed.volume(&name, 32 * MIB, block)?;
        bed.run(&format!(
            "connect
             d=$(device {nsid})
             head -c 8M /dev/urandom > /tmp/model
             dd if=/tmp/model of=$d bs=1M oflag=direct status=none
             RANDOM={block}
             for _ in $(seq 24); do
                 first=$((RANDOM % 1900 * 4096 / {block} + RANDOM % (65536 / {block})))
                 count=$((RANDOM % (262144 / {block}) + 1))
                 blkdiscard -o $((first * {block})) -l $((count * {block})) $d
                 dd if=/dev/zero of=/tmp/model bs={block} seek=$first count=$count \
                     conv=notrunc status=none
             done
             truncate -s 8M /tmp/model
             dd if=$d bs=1M count=8 iflag=direct status=none | cmp - /tmp/model
             disconnect"
        ))?;
        bed.delete(&name)?;
    }
    Ok(Outcome::Passed)
}

/// The commands that a file system does not use, as passthrough from nvme-cli.
pub(crate) fn commands(bed: &mut Bed) -> Result<Outcome> {
    if !bed.node.offers(Ability::AllCommands) {
        return Ok(Outcome::Skipped(format!("{} lacks most of them", bed.node.name())));
    }
    let nsid = bed.volume("commands", 64 * MIB, 4096)?;
    bed.run(&format!(
        "connect
         d=$(device {nsid})
         head -c 16384 /dev/urandom > /tmp/data
         nvme write $d -s 8 -c 3 -z 16384 -d /tmp/data
         nvme write $d -s 8 -c 3 -z 16384 -d /tmp/data --force-unit-access
         nvme flush $d
         nvme read $d -s 8 -c 3 -z 16384 -d /tmp/back && cmp /tmp/data /tmp/back
         nvme compare $d -s 8 -c 3 -z 16384 -d /tmp/data
         nvme verify $d -s 8 -c 3
         nvme copy $d --sdlba=100 --slbs=8 --blocks=3
         nvme compare $d -s 100 -c 3 -z 16384 -d /tmp/data
         nvme write-zeroes $d -s 9 -c 0
         nvme dsm $d --ad --slbs=10 --blocks=1
         head -c 4096 /tmp/data > /tmp/after; head -c 8192 /dev/zero >> /tmp/after
         tail -c 4096 /tmp/data >> /tmp/after
         nvme compare $d -s 8 -c 3 -z 16384 -d /tmp/after"
    ))?;
    let said = bed.run_to_fail(&format!(
        "nvme compare $(device {nsid}) -s 100 -c 3 -z 16384 -d /tmp/after 2>&1"
    ))?;
    ensure!(said.to_lowercase().contains("compare"), "not a compare failure: {said}");
    let said = bed.run_to_fail(&format!(
        "nvme read $(device {nsid}) -s 16384 -c 0 -z 4096 -d /tmp/back 2>&1"
    ))?;
    ensure!(said.to_lowercase().contains("lba"), "not an LBA out of range: {said}");
    bed.run(&format!("nvme write-uncor $(device {nsid}) -s 200 -c 0"))?;
    bed.run_to_fail(&format!("nvme read $(device {nsid}) -s 200 -c 0 -z 4096 -d /tmp/back 2>&1"))?;
    bed.run(&format!(
        "d=$(device {nsid})
         nvme write $d -s 200 -c 0 -z 4096 -d /tmp/data
         nvme read $d -s 200 -c 0 -z 4096 -d /tmp/back && cmp -n 4096 /tmp/data /tmp/back
         disconnect"
    ))?;
    // Failed on purpose: no complaint is made of these.
    bed.run("dmesg -C")?;
    Ok(Outcome::Passed)
}

/// Linux sends no fused commands and its passthrough refuses them.
pub(crate) fn fused(_bed: &mut Bed) -> Result<Outcome> {
    Ok(Outcome::Skipped(
        "Linux never sends fused commands and its passthrough refuses the flag; \
         the target's own tests cover them"
            .to_owned(),
    ))
}
