//! Bodies of the fuzz tests, shared by `fuzz/` and by the ordinary tests, which replay the corpora.

pub use crate::connection::fuzz::{connection, pdu_stream};
pub use crate::target::fuzz::{admin, connect_data, log_offsets};

use storage_spec::crc32c;

/// A checksum put together from its parts is the checksum of the whole, wherever the cut.
pub fn crc_combine(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = crc32c::checksum(bytes);
    let (left, right) = (crc32c::checksum(first), crc32c::checksum(second));
    assert_eq!(crc32c::combine(left, right, second.len() as u64), whole);
    assert_eq!(crc32c::append(left, second), whole);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::replay;

    #[test]
    fn corpora_are_borne() {
        replay("admin", admin);
        replay("connect_data", connect_data);
        replay("connection", connection);
        replay("crc_combine", crc_combine);
        replay("log_offsets", log_offsets);
        replay("pdu_stream", pdu_stream);
    }
}
