//! What is on a disk, as far as it matters before it is overwritten.

use super::medium::{Bench, Medium};
use crate::failure::{Exit, Failure};
use dataplane::disk::{Disk, Op};
use dataplane::dma::Pool;
use dataplane::store::{self, MountError, Probe};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How much of the start of a disk is looked at: the first partition begins at 1 MiB, mostly.
const HEAD: u64 = 1 << 20;
/// How much of its end: backups of partition tables, and RAID superblocks.
const TAIL: u64 = 128 << 10;

/// What is on a disk.
#[derive(Debug)]
pub(super) enum Content {
    /// Zeroes where anything would begin.
    Empty,
    /// A disk of ours.
    Basalt(Probe),
    /// A disk of ours that cannot be read, and why.
    Damaged(String),
    /// Something else.
    Foreign(&'static str),
}

/// Signatures: where, what bytes, whose. The first that matches names the content.
const SIGNATURES: [(u64, &[u8], &str); 15] = [
    (1080, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a Btrfs file system"),
    (536, b"LVM2 001", "an LVM physical volume"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
    (3, b"NTFS    ", "an NTFS file system"),
    (0x1fe, &[0x55, 0xaa], "a partition table or boot sector"),
    (512, b"EFI PART", "a partition table"),
    (4096, b"EFI PART", "a partition table"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (0, b"QFI\xfb", "a QCOW2 image"),
    (0x8001, b"CD001", "an ISO 9660 image"),
];

/// Whether content that [`of`] names is part of something larger, put together at start.
pub(super) fn is_member(what: &str) -> bool {
    ["LVM", "RAID", "Ceph", "Btrfs"].iter().any(|word| what.contains(word))
}

/// Looks at a disk. With `open`, disks of ours are told from others.
pub(super) fn of(path: &Path, open: Option<(&Bench, &Medium)>) -> Result<Content, Failure> {
    if let Some((bench, medium)) = open {
        match store::probe(bench.drive(medium)?, bench.pool()) {
            Ok(probe) => return Ok(Content::Basalt(probe)),
            Err(MountError::NotFormatted) => {}
            Err(error) => return Ok(Content::Damaged(error.to_string())),
        }
        if let Medium::Device(..) = medium {
            let mut disk = bench.drive(medium)?;
            let end = disk.info().capacity;
            let head = read(&mut *disk, bench.pool(), 0, HEAD.min(end))?;
            let tail = read(&mut *disk, bench.pool(), end - TAIL.min(end), TAIL.min(end))?;
            return Ok(classify(&head, &tail));
        }
    }
    let explain = |error| Failure::io(format!("cannot read {}", path.display()), &error);
    let mut file = File::open(path).map_err(explain)?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut head).map_err(explain)?;
    let end = file.seek(SeekFrom::End(0)).map_err(explain)?;
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL))).map_err(explain)?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).map_err(explain)?;
    Ok(classify(&head, &tail))
}

/// Reads a disk that only we can reach.
fn read(disk: &mut dyn Disk, pool: &Pool, offset: u64, len: u64) -> Result<Vec<u8>, Failure> {
    const PIECE: u64 = 128 << 10;
    let name = disk.info().name.clone();
    let mut bytes = Vec::with_capacity(len as usize);
    while (bytes.len() as u64) < len {
        let done = bytes.len() as u64;
        let size = PIECE.min(len - done) as usize;
        let buf = pool.alloc(size).expect("the pool of a tool is empty between two reads");
        disk.submit(0, Op::Read { offset: offset + done, buf });
        let mut ended = Vec::with_capacity(1);
        while ended.is_empty() {
            disk.poll(&mut ended);
        }
        let ended = ended.swap_remove(0);
        let explain = |error| Failure::new(Exit::Failed, format!("cannot read {name}: {error}"));
        ended.result.map_err(explain)?;
        let Op::Read { buf, .. } = ended.op else { unreachable!("a read comes back as one") };
        bytes.extend_from_slice(&buf[..size]);
    }
    Ok(bytes)
}

fn classify(head: &[u8], tail: &[u8]) -> Content {
    let found = SIGNATURES.iter().find(|(offset, bytes, _)| {
        head.get(*offset as usize..).is_some_and(|rest| rest.starts_with(bytes))
    });
    if let Some((_, _, what)) = found {
        return Content::Foreign(what);
    }
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match (is_zero(head), is_zero(tail)) {
        (true, true) => Content::Empty,
        (false, _) => Content::Foreign("data of an unknown kind"),
        (true, false) => Content::Foreign("data at its end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_known() {
        for (offset, bytes, name) in SIGNATURES {
            let mut head = vec![0; HEAD as usize];
            head[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            let found = classify(&head, &[]);
            assert!(matches!(found, Content::Foreign(what) if what == name), "{name}: {found:?}");
        }
    }

    #[test]
    fn only_zeroes_are_empty() {
        assert!(matches!(classify(&[0; 4096], &[0; 512]), Content::Empty));
        assert!(matches!(classify(&[], &[]), Content::Empty));
        let mut stray = [0; 8192];
        stray[5000] = 1;
        assert!(matches!(classify(&stray, &[]), Content::Foreign(_)));
        assert!(matches!(classify(&[0; 4096], &stray), Content::Foreign(_)));
    }
}
