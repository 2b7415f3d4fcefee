//! INQUIRY (SPC-4 section 6.6).

use super::{Device, Nexus, allocation_16, cut};
use crate::scsi::{Lun, Sense};
use storage_spec::scsi::inquiry::{
    PERIPHERAL_ABSENT, PERIPHERAL_DISK, PERIPHERAL_NONE, PageHeader, StandardInquiry, version,
};
use zerocopy::big_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

/// T10 vendor identification.
pub(super) const VENDOR: &str = "BASALT";

/// VERSION: SPC-4.
const VERSION_SPC_4: u8 = 6;
/// HISUP and the response data format.
const RESPONSE_FORMAT: u8 = 0x12;
/// TPGS: implicit and explicit; 3PC.
const GROUPS_AND_COPY: u8 = 0x38;
/// MULTIP.
const SEVERAL_PORTS: u8 = 0x10;
/// CMDQUE.
const QUEUING: u8 = 0x02;

impl Device {
    pub(super) fn inquiry(
        &self,
        cdb: &[u8; 16],
        lun: Option<Lun>,
        nexus: &Nexus,
    ) -> Result<Vec<u8>, Sense> {
        let (is_vital, page) = (cdb[1] & 1 == 1, cdb[2]);
        if cdb[1] & 0b10 != 0 {
            return Err(Sense::cdb_bit(1, 1));
        }
        let unit = lun.and_then(|lun| self.units.get(&lun));
        let data = match (unit, is_vital) {
            (_, false) if page != 0 => return Err(Sense::cdb_byte(2)),
            (unit, false) => self.standard(peripheral(lun, unit.is_some())),
            (Some(unit), true) => {
                let body = self.vital_page(page, unit, nexus).ok_or(Sense::cdb_byte(2))?;
                with_header(page, PERIPHERAL_DISK, &body)
            }
            // A unit that is not there has but the list of its pages.
            (None, true) if page == 0 => with_header(page, peripheral(lun, false), &[0]),
            (None, true) => return Err(Sense::cdb_byte(2)),
        };
        Ok(cut(data, allocation_16(cdb, 3)))
    }

    fn standard(&self, peripheral: u8) -> Vec<u8> {
        let mut data = StandardInquiry::new_zeroed();
        data.peripheral = peripheral;
        data.version = VERSION_SPC_4;
        data.response_format = RESPONSE_FORMAT;
        data.additional_len = (size_of::<StandardInquiry>() - 5) as u8;
        data.flags_5 = GROUPS_AND_COPY;
        data.flags_6 = SEVERAL_PORTS;
        data.flags_7 = QUEUING;
        data.vendor = padded(VENDOR);
        data.product = padded(&self.config.product);
        data.revision = padded(&self.config.revision);
        let versions = [version::SAM_5, version::SPC_4, version::SBC_3, version::ISCSI];
        for (field, version) in data.versions.iter_mut().zip(versions) {
            *field = U16::new(version);
        }
        data.as_bytes().to_vec()
    }
}

/// LUN 0 could have a unit and answers in any case; the others have none.
fn peripheral(lun: Option<Lun>, is_there: bool) -> u8 {
    match (lun, is_there) {
        (_, true) => PERIPHERAL_DISK,
        (Some(Lun(0)), false) => PERIPHERAL_ABSENT,
        (_, false) => PERIPHERAL_NONE,
    }
}

fn with_header(code: u8, peripheral: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("pages are short");
    let header = PageHeader { peripheral, code, len: U16::new(len) };
    let mut data = header.as_bytes().to_vec();
    data.extend_from_slice(body);
    data
}

/// Left aligned, filled up with spaces.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let len = text.len().min(N);
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    field
}
