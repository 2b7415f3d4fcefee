//! MODE SENSE and MODE SELECT (SPC-4 sections 6.11 to 6.14 and 7.5, SBC-3 section 6.5).

use super::{Device, LogicalUnit, allocation_16, cut};
use crate::scsi::{Attention, Lun, Sense};
use storage_spec::scsi::Opcode;
use storage_spec::scsi::parameter::{
    MODE_PAGE_CACHING, MODE_PAGE_CONTROL, MODE_PAGE_EXCEPTIONS, MODE_PAGE_RECOVERY,
};
use storage_spec::scsi::sense::AdditionalSense;
use target_io::ConnectionId;

/// Pages, rising.
const PAGES: [u8; 4] =
    [MODE_PAGE_RECOVERY, MODE_PAGE_CACHING, MODE_PAGE_CONTROL, MODE_PAGE_EXCEPTIONS];
/// Every page.
const PAGE_ALL: u8 = 0x3F;
/// Every subpage.
const SUBPAGE_ALL: u8 = 0xFF;
/// D_SENSE, in byte 2 of the Control page.
const D_SENSE: u8 = 0x04;
/// SWP, in byte 4 of the Control page.
const SWP: u8 = 0x08;
/// Write protected, in the device-specific parameter.
const WP: u8 = 0x80;
/// DPO and FUA are understood.
const DPOFUA: u8 = 0x10;
/// LONGLBA, in byte 4 of the header of ten.
const LONG_LBA: u8 = 0x01;

/// What hosts can change of a unit. Not kept over restarts: SAVED values are not supported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) descriptor_sense: bool,
    pub(super) write_protect: bool,
}

/// Which values (PC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Current(Modes),
    Changeable,
}

impl Values {
    /// With its header.
    fn page(self, code: u8) -> Vec<u8> {
        let is_current = matches!(self, Self::Current(_));
        let modes = match self {
            Self::Current(modes) => modes,
            Self::Changeable => Modes { descriptor_sense: true, write_protect: true },
        };
        let mut page = vec![0; if code == MODE_PAGE_CACHING { 20 } else { 12 }];
        page[0] = code;
        page[1] = (page.len() - 2) as u8;
        match code {
            // AWRE and ARRE: the store mends what it can.
            MODE_PAGE_RECOVERY if is_current => page[2] = 0xC0,
            MODE_PAGE_CONTROL => {
                page[2] = if modes.descriptor_sense { D_SENSE } else { 0 };
                page[4] = if modes.write_protect { SWP } else { 0 };
                if is_current {
                    // GLTSD; commands are reordered without restriction; TAS: who did not ask is
                    // told of aborted commands; busy for no limit.
                    page[2] |= 0x02;
                    page[3] = 0x10;
                    page[5] = 0x40;
                    page[8..10].copy_from_slice(&[0xFF, 0xFF]);
                }
            }
            // No write cache: what is acknowledged is durable.
            _ => {}
        }
        page
    }
}

impl LogicalUnit {
    /// MODE SENSE of either length.
    pub(super) fn mode_sense(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        let is_long = Opcode(cdb[0]) == Opcode::ModeSense10;
        let (code, subpage) = (cdb[2] & 0x3F, cdb[3]);
        let values = match cdb[2] >> 6 {
            0 => Values::Current(self.modes),
            1 => Values::Changeable,
            2 => Values::Current(Modes::default()),
            _ => return Err(Sense::illegal(AdditionalSense::SavingParametersNotSupported)),
        };
        let is_all = code == PAGE_ALL;
        if !is_all && !PAGES.contains(&code) {
            return Err(Sense::cdb_bit(2, 5));
        }
        if subpage != 0 && subpage != SUBPAGE_ALL {
            return Err(Sense::cdb_byte(3));
        }
        let (no_descriptor, long_lba) = (cdb[1] & 0x08 != 0, is_long && cdb[1] & 0x10 != 0);
        let descriptor = match (no_descriptor, long_lba) {
            (true, _) => Vec::new(),
            (false, long_lba) => self.block_descriptor(long_lba),
        };
        let pages: Vec<u8> = PAGES
            .into_iter()
            .filter(|&page| is_all || page == code)
            .flat_map(|page| values.page(page))
            .collect();
        let specific = DPOFUA | if self.is_write_protected() { WP } else { 0 };
        let body = descriptor.len() + pages.len();
        let mut data = if is_long {
            let [len_high, len] = ((body + 6) as u16).to_be_bytes();
            let long = if long_lba && !no_descriptor { LONG_LBA } else { 0 };
            vec![len_high, len, 0, specific, long, 0, 0, descriptor.len() as u8]
        } else {
            vec![(body + 3) as u8, 0, specific, descriptor.len() as u8]
        };
        data.extend_from_slice(&descriptor);
        data.extend_from_slice(&pages);
        let allocation = if is_long { allocation_16(cdb, 7) } else { cdb[4].into() };
        Ok(cut(data, allocation))
    }

    /// Block descriptor (SBC-3 section 6.5.2), short or long.
    fn block_descriptor(&self, long_lba: bool) -> Vec<u8> {
        let blocks = self.config.capacity >> self.config.block_shift;
        let block_len = (1_u32 << self.config.block_shift).to_be_bytes();
        if long_lba {
            [&blocks.to_be_bytes()[..], &[0; 4], &block_len].concat()
        } else {
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            [blocks.to_be_bytes(), block_len].concat()
        }
    }

    pub(super) fn is_write_protected(&self) -> bool {
        self.config.read_only || self.modes.write_protect
    }

    /// The modes that a parameter list asks for.
    fn select(&self, list: &[u8], is_long: bool) -> Result<Modes, Sense> {
        let too_short = Sense::illegal(AdditionalSense::ParameterListLengthError);
        let header = if is_long { 8 } else { 4 };
        let head = list.get(..header).ok_or(too_short)?;
        let descriptor_len = match is_long {
            true => u16::from_be_bytes([head[6], head[7]]).into(),
            false => usize::from(head[3]),
        };
        let long_lba = is_long && head[4] & LONG_LBA != 0;
        let at = header + descriptor_len;
        let descriptor = list.get(header..at).ok_or(too_short)?;
        self.check_descriptor(descriptor, long_lba, header)?;
        let mut modes = self.modes;
        let (mut at, mut rest) = (at, &list[at..]);
        while let Some((&first, _)) = rest.split_first() {
            let len = 2 + usize::from(*rest.get(1).ok_or(too_short)?);
            let code = first & 0x3F;
            if first & 0x40 != 0 || !PAGES.contains(&code) {
                return Err(Sense::list_byte(at));
            }
            let expected = Values::Current(self.modes).page(code);
            if len != expected.len() {
                return Err(Sense::list_byte(at + 1));
            }
            let page = rest.get(..len).ok_or(too_short)?;
            let changeable = Values::Changeable.page(code);
            for byte in 2..len {
                if (page[byte] ^ expected[byte]) & !changeable[byte] != 0 {
                    return Err(Sense::list_byte(at + byte));
                }
            }
            if code == MODE_PAGE_CONTROL {
                modes.descriptor_sense = page[2] & D_SENSE != 0;
                modes.write_protect = page[4] & SWP != 0;
            }
            rest = &rest[len..];
            at += len;
        }
        Ok(modes)
    }

    /// Neither block length nor capacity can be changed by a host.
    fn check_descriptor(&self, descriptor: &[u8], long_lba: bool, at: usize) -> Result<(), Sense> {
        let expected = self.block_descriptor(long_lba);
        let (count_len, len_at) = if long_lba { (8, 13) } else { (4, 5) };
        if descriptor.is_empty() {
            return Ok(());
        }
        if descriptor.len() != expected.len() {
            return Err(Sense::list_byte(at - 1));
        }
        // 0 blocks: as many as there are.
        let count = &descriptor[..count_len];
        if count != &expected[..count_len] && count.iter().any(|&byte| byte != 0) {
            return Err(Sense::list_byte(at));
        }
        if descriptor[len_at..] != expected[len_at..] {
            return Err(Sense::list_byte(at + len_at));
        }
        Ok(())
    }
}

impl Device {
    /// MODE SELECT of either length.
    pub(super) fn mode_select(
        &mut self,
        connection: ConnectionId,
        lun: Lun,
        cdb: &[u8; 16],
        list: &[u8],
    ) -> Result<Vec<u8>, Sense> {
        // Without PF pages would have a vendor's format; SP would save them.
        if cdb[1] & 0x10 == 0 {
            return Err(Sense::cdb_bit(1, 4));
        }
        if cdb[1] & 0x01 != 0 {
            return Err(Sense::cdb_bit(1, 0));
        }
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let is_long = Opcode(cdb[0]) == Opcode::ModeSelect10;
        let unit = self.units.get_mut(&lun).expect("the caller has seen it");
        let modes = unit.select(list, is_long)?;
        if modes != unit.modes {
            unit.modes = modes;
            self.changed(&[lun], Some(connection), Attention::ModeParametersChanged);
        }
        Ok(Vec::new())
    }
}
