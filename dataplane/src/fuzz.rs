//! Bodies of the fuzz tests, shared by `fuzz/` and by the ordinary tests, which replay the corpora.

pub use crate::store::fuzz::{checkpoint, journal, superblock};

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
    fn corpus_of_superblock() {
        replay("superblock", superblock);
    }

    #[test]
    fn corpus_of_journal() {
        replay("journal", journal);
    }

    #[test]
    fn corpus_of_checkpoint() {
        replay("checkpoint", checkpoint);
    }
}
