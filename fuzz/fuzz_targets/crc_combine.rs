//! A checksum put together from its parts is the checksum of the whole, wherever the cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_spec::crc32c;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = crc32c::checksum(bytes);
    let (left, right) = (crc32c::checksum(first), crc32c::checksum(second));
    assert_eq!(crc32c::combine(left, right, second.len() as u64), whole);
    assert_eq!(crc32c::append(left, second), whole);
});
