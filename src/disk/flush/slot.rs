//! What a slot of the disk holds.

use uuid::Uuid;

/// Bytes of a slot: what a drive writes as one.
pub(super) const SLOT: usize = 4096;

const MAGIC: &[u8; 16] = b"basalt flush 1\r\n";

/// One slot: whose it is, where it belongs, and how new it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) session: Uuid,
    pub(super) place: u64,
    pub(super) number: u64,
}

impl Slot {
    /// Fills a slot's bytes: the fields, repeated over all sectors, so that a torn slot is seen.
    pub(super) fn encode(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), SLOT);
        for copy in bytes.chunks_exact_mut(64) {
            copy.fill(0);
            copy[..16].copy_from_slice(MAGIC);
            copy[16..32].copy_from_slice(self.session.as_bytes());
            copy[32..40].copy_from_slice(&self.place.to_le_bytes());
            copy[40..48].copy_from_slice(&self.number.to_le_bytes());
        }
    }

    /// `None`: the bytes are no whole slot.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<SLOT>()?;
        let (copies, _) = bytes.as_chunks::<64>();
        let is_whole = copies.iter().all(|copy| copy == &copies[0]) && copies[0].starts_with(MAGIC);
        let u64_at = |at: usize| {
            let bytes = copies[0][at..].first_chunk().expect("within the copy");
            u64::from_le_bytes(*bytes)
        };
        let session = copies[0][16..].first_chunk().expect("within the copy");
        let slot =
            Self { session: Uuid::from_bytes(*session), place: u64_at(32), number: u64_at(40) };
        is_whole.then_some(slot)
    }
}
