//! LOG SENSE (SPC-4 sections 6.8 and 7.3, SBC-3 section 6.4).

use super::{LogicalUnit, allocation_16, cut};
use crate::scsi::Sense;
use storage_spec::scsi::parameter::{LOG_PAGE_PROVISIONING, LOG_PAGE_TEMPERATURE};

/// Pages, rising.
const PAGES: [u8; 3] = [0, LOG_PAGE_PROVISIONING, LOG_PAGE_TEMPERATURE];
const SUBPAGE_ALL: u8 = 0xFF;
/// A list that is binary (FORMAT AND LINKING).
const BINARY_LIST: u8 = 0x03;
/// There is no thermometer in a volume.
const TEMPERATURE_UNKNOWN: u8 = 0xFF;

/// log2 of the bytes that space is counted in: the threshold set size of VPD page B2h.
pub(super) const THRESHOLD_SHIFT: u8 = 20;

/// What a unit's disk has, and what it uses of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated to the unit.
    pub used: u64,
    /// Bytes that it can still be given.
    pub available: u64,
}

impl LogicalUnit {
    pub(super) fn log_sense(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        // Nothing is saved (SP), and parameters are told whole (PPC, PARAMETER POINTER).
        if cdb[1] & 0b11 != 0 {
            return Err(Sense::cdb_bit(1, if cdb[1] & 0b10 != 0 { 1 } else { 0 }));
        }
        let (code, subpage) = (cdb[2] & 0x3F, cdb[3]);
        if !PAGES.contains(&code) {
            return Err(Sense::cdb_bit(2, 5));
        }
        if subpage != 0 && !(code == 0 && subpage == SUBPAGE_ALL) {
            return Err(Sense::cdb_byte(3));
        }
        let first = allocation_16(cdb, 5);
        let mut body = Vec::new();
        let mut parameter = |number: u16, value: &[u8]| {
            if usize::from(number) >= first {
                let [high, low] = number.to_be_bytes();
                body.extend_from_slice(&[high, low, BINARY_LIST, value.len() as u8]);
                body.extend_from_slice(value);
            }
        };
        match code {
            0 if subpage == 0 => body.extend_from_slice(&PAGES),
            0 => body.extend(
                [[0, 0], [0, SUBPAGE_ALL], [LOG_PAGE_PROVISIONING, 0], [LOG_PAGE_TEMPERATURE, 0]]
                    .concat(),
            ),
            LOG_PAGE_TEMPERATURE => parameter(0, &[0, TEMPERATURE_UNKNOWN]),
            _ => {
                parameter(1, &resource(self.usage.available));
                parameter(2, &resource(self.usage.used));
            }
        }
        if first > 2 && code != 0 {
            return Err(Sense::cdb_byte(5));
        }
        // SPF where a subpage is told.
        let spf = if subpage == 0 { 0 } else { 0x40 };
        let [high, low] = (body.len() as u16).to_be_bytes();
        let mut data = vec![spf | code, subpage, high, low];
        data.extend_from_slice(&body);
        Ok(cut(data, allocation_16(cdb, 7)))
    }
}

/// A resource count: of this unit alone (SCOPE 1).
fn resource(bytes: u64) -> [u8; 8] {
    let count = u32::try_from(bytes >> THRESHOLD_SHIFT).unwrap_or(u32::MAX);
    let [a, b, c, d] = count.to_be_bytes();
    [a, b, c, d, 1, 0, 0, 0]
}
