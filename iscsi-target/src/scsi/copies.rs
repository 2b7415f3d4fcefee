//! What came of the copies of a nexus: RECEIVE COPY STATUS and OPERATING PARAMETERS (SPC-4
//! sections 6.18 and 6.22).

use super::{
    COPIES_MAX, COPY_DESCRIPTORS_LEN_MAX, COPY_DEVICES_MAX, COPY_GRANULARITY_SHIFT,
    COPY_SEGMENT_BYTES_MAX, COPY_SEGMENTS_MAX, Sense,
};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use storage_spec::scsi::parameter::{COPY_BLOCK_TO_BLOCK, COPY_DEVICE_IDENTIFICATION};

/// How far a copy has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum CopyState {
    Running = 0,
    Done = 1,
    Failed = 2,
}

/// The status of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyStatus {
    pub(super) list_id: u8,
    pub(super) state: CopyState,
    /// Segments that are done.
    pub(super) segments: u16,
    /// Bytes that are written.
    pub(super) bytes: u64,
}

/// The latest copies of a nexus. Tasks and commands of one connection are on one core; it only must
/// be possible to send it to another with them.
#[derive(Debug, Default)]
pub(super) struct CopyLog {
    /// Packed: used, list identifier, state, segments, KiB.
    entries: [AtomicU64; COPIES_MAX as usize],
    next: AtomicUsize,
}

impl CopyLog {
    /// Replaces what is known of the list, or the oldest.
    pub(super) fn note(&self, status: CopyStatus) {
        let kibibytes = u32::try_from(status.bytes >> 10).unwrap_or(u32::MAX).to_be_bytes();
        let [high, low] = status.segments.to_be_bytes();
        let [a, b, c, d] = kibibytes;
        let state = 0x80 | status.state as u8;
        let packed = u64::from_be_bytes([state, status.list_id, high, low, a, b, c, d]);
        let at = self
            .find(status.list_id)
            .unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed) % self.entries.len());
        self.entries[at].store(packed, Ordering::Relaxed);
    }

    fn find(&self, list_id: u8) -> Option<usize> {
        self.entries.iter().position(|entry| {
            let [state, found, ..] = entry.load(Ordering::Relaxed).to_be_bytes();
            state != 0 && found == list_id
        })
    }

    /// RECEIVE COPY STATUS (LID1).
    pub(super) fn status(&self, list_id: u8) -> Result<Vec<u8>, Sense> {
        /// TRANSFER COUNT UNITS: KiB.
        const KIBIBYTES: u8 = 1;
        let at = self.find(list_id).ok_or(Sense::cdb_byte(2))?;
        let packed = self.entries[at].load(Ordering::Relaxed).to_be_bytes();
        let [state, _, high, low, a, b, c, d] = packed;
        Ok(vec![0, 0, 0, 8, state & 0x7F, high, low, KIBIBYTES, a, b, c, d])
    }
}

/// RECEIVE COPY OPERATING PARAMETERS.
pub(super) fn operating_parameters() -> Vec<u8> {
    /// SNLID: a copy may be without a list identifier.
    const NO_LIST_ID: u8 = 1;
    let kinds = [COPY_BLOCK_TO_BLOCK, COPY_DEVICE_IDENTIFICATION];
    let mut data = vec![0; 44];
    data[4] = NO_LIST_ID;
    data[8..10].copy_from_slice(&COPY_DEVICES_MAX.to_be_bytes());
    data[10..12].copy_from_slice(&COPY_SEGMENTS_MAX.to_be_bytes());
    data[12..16].copy_from_slice(&COPY_DESCRIPTORS_LEN_MAX.to_be_bytes());
    data[16..20].copy_from_slice(&COPY_SEGMENT_BYTES_MAX.to_be_bytes());
    data[34..36].copy_from_slice(&(COPIES_MAX as u16).to_be_bytes());
    data[36] = COPIES_MAX as u8;
    data[37] = COPY_GRANULARITY_SHIFT;
    data[43] = kinds.len() as u8;
    data.extend_from_slice(&kinds);
    let len = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&len.to_be_bytes());
    data
}
