//! READ CAPACITY (SBC-3 sections 5.15 and 5.16) and REPORT LUNS (SPC-4 section 6.33).

use super::{Device, LogicalUnit, allocation_32, cut};
use crate::scsi::Sense;
use storage_spec::crc32c::BLOCK;
use storage_spec::scsi::parameter::{
    Capacity10, Capacity16, PROVISIONING_MANAGED, PROVISIONING_ZEROES,
};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

impl LogicalUnit {
    /// log2 of the logical blocks in a block of the store.
    pub(super) fn physical_exponent(&self) -> u8 {
        BLOCK.ilog2() as u8 - self.config.block_shift
    }

    fn last_lba(&self) -> u64 {
        (self.config.capacity >> self.config.block_shift).saturating_sub(1)
    }

    pub(super) fn capacity_10(&self) -> Vec<u8> {
        let data = Capacity10 {
            last_lba: U32::new(u32::try_from(self.last_lba()).unwrap_or(u32::MAX)),
            block_len: U32::new(1 << self.config.block_shift),
        };
        data.as_bytes().to_vec()
    }

    pub(super) fn capacity_16(&self) -> Vec<u8> {
        let mut data = Capacity16::new_zeroed();
        data.last_lba = U64::new(self.last_lba());
        data.block_len = U32::new(1 << self.config.block_shift);
        data.physical_exponent = self.physical_exponent();
        data.provisioning = U16::new(PROVISIONING_MANAGED | PROVISIONING_ZEROES);
        data.as_bytes().to_vec()
    }
}

/// Head of the list of LUNs.
const LIST_HEADER: usize = 8;

impl Device {
    pub(super) fn report_luns(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        let allocation = allocation_32(cdb, 6);
        // SPC-4 asks for room for the header and one LUN.
        if allocation < 2 * LIST_HEADER {
            return Err(Sense::cdb_byte(6));
        }
        let mut data = vec![0; LIST_HEADER];
        match cdb[2] {
            // There are no well known units.
            1 => {}
            0 | 2 => {
                for lun in self.units.keys() {
                    data.extend_from_slice(&lun.to_wire());
                }
            }
            _ => return Err(Sense::cdb_byte(2)),
        }
        let len = (data.len() - LIST_HEADER) as u32;
        data[..4].copy_from_slice(&len.to_be_bytes());
        Ok(cut(data, allocation))
    }
}
