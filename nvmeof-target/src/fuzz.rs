//! Bodies of the fuzz tests, shared by `fuzz/` and by the ordinary tests, which replay the corpora.

pub use crate::connection::fuzz::{connection, pdu_stream};
pub use crate::target::fuzz::{admin, connect_data, log_offsets};

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Runs `body` on every file of `fuzz/corpus/<name>`; there is at least one.
    fn replay(name: &str, body: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let mut count = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            body(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }

    #[test]
    fn corpus_of_pdu_stream() {
        replay("pdu_stream", pdu_stream);
    }

    #[test]
    fn corpus_of_connection() {
        replay("connection", connection);
    }

    #[test]
    fn corpus_of_connect_data() {
        replay("connect_data", connect_data);
    }

    #[test]
    fn corpus_of_log_offsets() {
        replay("log_offsets", log_offsets);
    }

    #[test]
    fn corpus_of_admin() {
        replay("admin", admin);
    }
}
