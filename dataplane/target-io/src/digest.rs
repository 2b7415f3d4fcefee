//! Digests of data, from the checksums of whole pages where there are any.

use crate::Buffer;
use core::ops::Range;
use storage_spec::crc32c::{self, BLOCK};

/// Sets the checksum cells of pages that the arrival of `arrived` has completed. `data` is the part
/// of the buffer that the command fills, in order.
pub fn seal_pages<B: Buffer>(buf: &mut B, data: &Range<usize>, arrived: Range<usize>) {
    let first = (arrived.start / BLOCK).max(data.start.div_ceil(BLOCK));
    for page in first..arrived.end / BLOCK {
        let crc = crc32c::checksum(&buf.bytes()[page * BLOCK..(page + 1) * BLOCK]);
        buf.crcs_mut()[page] = crc;
    }
}

/// Digest of a run of bytes of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct RunDigest {
    /// CRC32C of the run.
    pub crc: u32,
    /// Whether bytes were read that a page's checksum covers already.
    pub second_pass: bool,
}

/// Digest of `run`, not empty, which lies within `sealed`: the part whose whole pages have their
/// checksums.
#[must_use]
pub fn digest<B: Buffer>(buf: &B, sealed: &Range<usize>, run: Range<usize>) -> RunDigest {
    let first = run.start.next_multiple_of(BLOCK);
    let last = run.end / BLOCK * BLOCK;
    let has_cell = |at: usize| {
        let page = at / BLOCK * BLOCK;
        page >= sealed.start && page + BLOCK <= sealed.end
    };
    if first >= last {
        let crc = crc32c::checksum(&buf.bytes()[run.clone()]);
        return RunDigest { crc, second_pass: has_cell(run.start) || has_cell(run.end - 1) };
    }
    let mut crc = 0;
    let mut second_pass = false;
    if run.start < first {
        crc = crc32c::checksum(&buf.bytes()[run.start..first]);
        second_pass |= has_cell(run.start);
    }
    for &cell in &buf.crcs()[first / BLOCK..last / BLOCK] {
        crc = crc32c::append_block(crc, cell);
    }
    if last < run.end {
        crc = crc32c::append(crc, &buf.bytes()[last..run.end]);
        second_pass |= has_cell(last);
    }
    RunDigest { crc, second_pass }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Plain(Vec<u8>, Vec<u32>);
    impl Buffer for Plain {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
        fn crcs(&self) -> &[u32] {
            &self.1
        }
        fn crcs_mut(&mut self) -> &mut [u32] {
            &mut self.1
        }
    }

    proptest! {
        #[test]
        fn combined_equals_direct(
            head in 0..8_usize, sectors in 1..40_usize, cuts: [prop::sample::Index; 2],
        ) {
            let data = head * 512..(head + sectors) * 512;
            let len = data.end.next_multiple_of(BLOCK);
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
            let mut buf = Plain(bytes, vec![0xDEAD_BEEF; len / BLOCK]);
            let cut = |index: usize| data.start + cuts[index].index(data.len() + 1);
            let (one, two) = (cut(0).min(cut(1)), cut(0).max(cut(1)));
            for arrived in [data.start..one, one..two, two..data.end] {
                seal_pages(&mut buf, &data, arrived);
            }
            if one < two {
                let got = digest(&buf, &data, one..two);
                prop_assert_eq!(got.crc, crc32c::checksum(&buf.0[one..two]));
            }
            let whole = digest(&buf, &data, data.clone());
            prop_assert_eq!(whole.crc, crc32c::checksum(&buf.0[data.clone()]));
            prop_assert!(!whole.second_pass);
        }
    }

    #[test]
    fn a_cut_page_is_a_second_pass() {
        let mut buf = Plain(vec![1; 2 * BLOCK], vec![0; 2]);
        seal_pages(&mut buf, &(0..2 * BLOCK), 0..2 * BLOCK);
        assert!(digest(&buf, &(0..2 * BLOCK), 0..BLOCK + 4).second_pass);
        assert!(digest(&buf, &(0..2 * BLOCK), 4..12).second_pass);
        assert!(!digest(&buf, &(0..2 * BLOCK), 0..BLOCK).second_pass);
    }
}
