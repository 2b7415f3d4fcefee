//! The error log of one controller (section 5.16.1.2).

use crate::seam::{CommandError, CommandErrors};
use core::mem::offset_of;
use std::collections::VecDeque;
use storage_spec::fabrics::TRANSPORT_TCP;
use storage_spec::nvme::command::{Command, SglDescriptor};
use storage_spec::nvme::log::ErrorEntry;
use storage_spec::nvme::status::Status;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Entries of the error log.
pub(super) const ERROR_ENTRIES: u8 = 64;

/// [`ErrorEntry::location`] of an error that no one field of the command has caused.
const NO_LOCATION: u16 = 0xFFFF;

/// Errors since Connect, over resets: an association's controller begins with none.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    /// Newest first.
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    /// Errors ever noted, those no more in the log included.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn note(&mut self, queue_id: u16, errors: &CommandErrors) {
        self.count += errors.lost;
        for error in &errors.errors {
            self.count += 1;
            self.entries.truncate(usize::from(ERROR_ENTRIES) - 1);
            self.entries.push_front(entry(self.count, queue_id, error));
        }
    }

    /// The log page: zeroes where there is no entry.
    pub(super) fn page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(usize::from(ERROR_ENTRIES) * size_of::<ErrorEntry>());
        for entry in &self.entries {
            page.extend_from_slice(entry.as_bytes());
        }
        page.resize(page.capacity(), 0);
        page
    }
}

fn entry(count: u64, queue_id: u16, error: &CommandError) -> ErrorEntry {
    let mut entry = ErrorEntry::new_zeroed();
    entry.count = U64::new(count);
    entry.queue_id = U16::new(queue_id);
    entry.command_id = U16::new(error.command_id);
    entry.status = U16::new(u16::from(error.status.with_more(true)) << 1);
    entry.location = U16::new(location(error.status));
    entry.lba = U64::new(error.lba);
    entry.namespace_id = U32::new(error.namespace_id);
    entry.transport = TRANSPORT_TCP;
    entry
}

/// The first byte of the field of the command that this error is about.
fn location(status: Status) -> u16 {
    let sgl = offset_of!(Command, sgl);
    let fields = [
        (Status::INVALID_OPCODE, offset_of!(Command, opcode)),
        (Status::COMMAND_ID_CONFLICT, offset_of!(Command, command_id)),
        (Status::INVALID_NAMESPACE, offset_of!(Command, namespace_id)),
        (Status::SGL_OFFSET_INVALID, sgl + offset_of!(SglDescriptor, address)),
        (Status::DATA_SGL_LENGTH_INVALID, sgl + offset_of!(SglDescriptor, length)),
        (Status::SGL_TYPE_INVALID, sgl + offset_of!(SglDescriptor, identifier)),
        (Status::LBA_OUT_OF_RANGE, offset_of!(Command, dwords)),
        (Status::INVALID_LOG_PAGE, offset_of!(Command, dwords)),
    ];
    let found = fields.into_iter().find(|&(known, _)| status.is(known));
    found.map_or(NO_LOCATION, |(_, offset)| offset as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(first: u16, count: u16, lost: u64) -> CommandErrors {
        let error = |command_id| CommandError {
            command_id,
            status: Status::LBA_OUT_OF_RANGE.dnr(),
            namespace_id: 3,
            lba: 0x1_0000_0005,
        };
        CommandErrors { errors: (first..first + count).map(error).collect(), lost }
    }

    #[test]
    fn newest_come_first_and_the_oldest_go() {
        let mut log = ErrorLog::default();
        assert_eq!(log.page(), vec![0; 4096]);
        log.note(2, &errors(100, 8, 0));
        log.note(2, &errors(200, 8, 5));
        assert_eq!(log.count(), 21);
        let page = log.page();
        assert_eq!(page[..8], 21_u64.to_le_bytes());
        assert_eq!(page[8..12], [2, 0, 207, 0]);
        assert_eq!(page[12..14], (0x6080_u16 << 1).to_le_bytes(), "DNR, More, 0/80h");
        assert_eq!(page[14..16], [40, 0]);
        assert_eq!(page[16..24], 0x1_0000_0005_u64.to_le_bytes());
        assert_eq!(page[24..30], [3, 0, 0, 0, 0, 3]);
        assert_eq!(page[8 * 64..8 * 64 + 8], 8_u64.to_le_bytes());
        assert_eq!(page[16 * 64..], vec![0; 48 * 64]);
        for _ in 0..10 {
            log.note(1, &errors(0, 8, 0));
        }
        let page = log.page();
        assert_eq!((page.len(), log.entries.len()), (4096, 64));
        assert_eq!(page[63 * 64..63 * 64 + 8], (log.count() - 63).to_le_bytes());
    }
}
