//! CRC32C (Castagnoli, reflected, initial value and final XOR all ones): the digest of NVMe/TCP
//! (NVMe TCP Transport 1.1, section 3.3.1), of iSCSI (RFC 7143, section 13.1), and of every 4 KiB
//! block that the store keeps.
//!
//! A block's checksum is computed once, where its bytes enter; digests of longer runs are
//! *combined* from block checksums without touching the bytes again.

/// Bytes in one checksummed block.
pub const BLOCK: usize = 4096;

/// Checksum of one block of zeroes: what a block that was never written reads as.
pub const ZERO_BLOCK: u32 = shift_block(0xFFFF_FFFF) ^ 0xFFFF_FFFF;

const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Checksum of the concatenation of a run whose checksum is `crc` and `bytes`.
#[must_use]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    combine(crc, checksum(bytes), bytes.len() as u64)
}

/// Checksum of the concatenation of two runs, of which the second has checksum `second` and
/// `second_len` bytes.
#[must_use]
pub fn combine(first: u32, second: u32, second_len: u64) -> u32 {
    shift(first, second_len) ^ second
}

/// As [`combine`], for a second run of exactly one [`BLOCK`]; a few table look-ups.
#[must_use]
pub fn append_block(crc: u32, block: u32) -> u32 {
    shift_block_by_table(crc) ^ block
}

/// `crc · x^(8·len) mod P`: what `len` bytes that follow do to the contribution of those before.
fn shift(crc: u32, mut len: u64) -> u32 {
    let mut result = crc;
    let mut power = X8;
    while len != 0 {
        if len & 1 == 1 {
            result = multiply(result, power);
        }
        power = multiply(power, power);
        len >>= 1;
    }
    result
}

/// The polynomial x^8 in reflected order (bit 31 is x^0).
const X8: u32 = 1 << (31 - 8);

/// Product of two reflected polynomials modulo P.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

/// x^(8·BLOCK) mod P, by twelve squarings of x^8.
const X_BLOCK: u32 = {
    let mut power = X8;
    let mut doubled = 1;
    while doubled < BLOCK {
        power = multiply(power, power);
        doubled *= 2;
    }
    power
};

const fn shift_block(crc: u32) -> u32 {
    multiply(crc, X_BLOCK)
}

/// `TABLE[k][b]` is the shift by one block of byte `b` at byte position `k`.
static SHIFT_BLOCK: [[u32; 256]; 4] = {
    let mut table = [[0; 256]; 4];
    let mut position = 0;
    while position < 4 {
        let mut byte = 0;
        while byte < 256 {
            table[position][byte] = shift_block((byte as u32) << (8 * position));
            byte += 1;
        }
        position += 1;
    }
    table
};

fn shift_block_by_table(crc: u32) -> u32 {
    let [a, b, c, d] = crc.to_le_bytes();
    SHIFT_BLOCK[0][usize::from(a)]
        ^ SHIFT_BLOCK[1][usize::from(b)]
        ^ SHIFT_BLOCK[2][usize::from(c)]
        ^ SHIFT_BLOCK[3][usize::from(d)]
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn check_values_of_rfc_7143() {
        assert_eq!(checksum(b"123456789"), 0xE306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8A91_36AA);
        assert_eq!(checksum(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(checksum(&[]), 0);
    }

    #[test]
    fn zero_block() {
        assert_eq!(checksum(&[0; BLOCK]), ZERO_BLOCK);
    }

    proptest! {
        #[test]
        fn combination_equals_one_pass(bytes: Vec<u8>, at: prop::sample::Index) {
            let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
            let whole = checksum(&bytes);
            prop_assert_eq!(combine(checksum(head), checksum(tail), tail.len() as u64), whole);
            prop_assert_eq!(append(checksum(head), tail), whole);
        }

        #[test]
        fn block_by_table_equals_by_polynomial(crc: u32, block: u32) {
            prop_assert_eq!(append_block(crc, block), combine(crc, block, BLOCK as u64));
        }
    }
}
