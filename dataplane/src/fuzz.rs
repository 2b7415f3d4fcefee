//! Bodies of the fuzz tests, shared by `fuzz/` and by the ordinary tests, which replay the corpora.

pub use crate::store::fuzz::{checkpoint, journal, superblock};

#[cfg(test)]
mod tests {
    use super::*;
    use nvmeof_target::testing::replay;

    #[test]
    fn corpora_are_borne() {
        replay("checkpoint", checkpoint);
        replay("journal", journal);
        replay("superblock", superblock);
    }
}
