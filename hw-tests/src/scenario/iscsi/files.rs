//! File systems and fio on logical units.

use anyhow::Result;

use super::{MIB, Outcome, lacking, step, unit};
use crate::bed::Bed;

/// ext4 on blocks of 512 bytes, xfs on blocks of 4096, and fio that verifies both kinds.
pub(crate) fn files(bed: &mut Bed) -> Result<Outcome> {
    if let Some(outcome) = lacking(bed) {
        return Ok(outcome);
    }
    let small = unit(bed, "iscsi-ext4", 256 * MIB, 512)?;
    let large = unit(bed, "iscsi-xfs", 512 * MIB, 4096)?;
    for (lun, make, check) in
        [(small, "mkfs.ext4 -q", "e2fsck -fn"), (large, "mkfs.xfs -q -f", "xfs_repair -n")]
    {
        step(
            bed,
            &format!(
                "login node.conn[0].iscsi.DataDigest=CRC32C
                 d=$(unit {lun})
                 {make} $d
                 mount $d /mnt
                 for n in 1 2 3 4 5; do
                     head -c $((n * 777777)) /dev/urandom > /mnt/$n
                 done
                 cp -r /etc /mnt/tree
                 rm /mnt/3
                 (cd /mnt && find . -type f -exec md5sum {{}} +) | sort > /tmp/sums
                 [ -s /tmp/sums ]
                 fstrim -v /mnt
                 umount /mnt
                 {check} $d
                 logout
                 login
                 mount -o ro $(unit {lun}) /mnt
                 (cd /mnt && find . -type f -exec md5sum {{}} +) | sort | diff - /tmp/sums
                 umount /mnt
                 logout"
            ),
        )?;
    }
    step(bed, "login node.conn[0].iscsi.HeaderDigest=CRC32C node.conn[0].iscsi.DataDigest=CRC32C")?;
    for (lun, sizes, block) in [(small, "512-96k", 512), (large, "4k-256k", 4096)] {
        step(
            bed,
            &format!(
                "fio --filename=$(unit {lun}) --ioengine=libaio --direct=1 --randseed={block} \\
                     --name=mixed --size=24M --io_size=16M --rw=randwrite --iodepth=16 \\
                     --bsrange={sizes} --blockalign={block} \\
                     --verify=crc32c --verify_fatal=1 --do_verify=1 \\
                     --name=trim --offset=64M --size=32M --rw=randtrim --bs=64k --iodepth=4"
            ),
        )?;
    }
    step(bed, "logout")?;
    Ok(Outcome::Passed)
}
