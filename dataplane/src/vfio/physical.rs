//! Physical addresses, for devices without an IOMMU.

use crate::dma::PAGE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// One entry of `/proc/PID/pagemap` (Linux: Documentation/admin-guide/mm/pagemap.rst).
#[bitfield_struct::bitfield(u64)]
struct Entry {
    #[bits(55)]
    frame: u64,
    soft_dirty: bool,
    exclusive: bool,
    #[bits(4)]
    _zero: u8,
    #[bits(1)]
    _file: u8,
    swapped: bool,
    present: bool,
}

/// The physical address of each page of memory that is there: written before, and locked.
///
/// # Errors
/// The kernel's, and `PermissionDenied` where it hides addresses from this process.
pub(super) fn addresses(start: usize, len: usize) -> io::Result<Vec<u64>> {
    assert!(start.is_multiple_of(PAGE) && len.is_multiple_of(PAGE));
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut entries = vec![0; len / PAGE * 8];
    pagemap.read_exact_at(&mut entries, (start / PAGE * 8) as u64)?;
    let (entries, _) = entries.as_chunks::<8>();
    entries.iter().map(|entry| address(u64::from_ne_bytes(*entry))).collect()
}

fn address(entry: u64) -> io::Result<u64> {
    let entry = Entry::from_bits(entry);
    if !entry.present() {
        return Err(io::Error::other("a page of locked memory is not there"));
    }
    if entry.frame() == 0 {
        let why = "the kernel hides physical addresses: CAP_SYS_ADMIN is needed";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(entry.frame() * PAGE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_understood() {
        assert_eq!(address(1 << 63 | 1 << 55 | 0x1234).unwrap(), 0x123_4000);
        assert!(address(1 << 62 | 5).is_err(), "swapped out");
        let hidden = address(1 << 63).unwrap_err();
        assert_eq!(hidden.kind(), io::ErrorKind::PermissionDenied);
    }
}
