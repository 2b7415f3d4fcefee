//! Vital product data pages (SPC-4 section 7.8, SBC-3 section 6.6).

use super::inquiry::{VENDOR, padded};
use super::log::THRESHOLD_SHIFT;
use super::{Device, LogicalUnit, Nexus};
use crate::scsi::{
    COMPARE_AND_WRITE_BLOCKS_MAX, COPIES_MAX, COPY_DESCRIPTORS_LEN_MAX, COPY_DEVICES_MAX,
    COPY_GRANULARITY_SHIFT, COPY_SEGMENT_BYTES_MAX, COPY_SEGMENTS_MAX, TRANSFER_BYTES_MAX,
    UNMAP_BYTES_MAX, UNMAP_RANGES_MAX, WRITE_SAME_BYTES_MAX,
};
use storage_spec::crc32c::BLOCK;
use storage_spec::scsi::inquiry::{BlockLimits, Designator, page};
use storage_spec::scsi::parameter::{COPY_BLOCK_TO_BLOCK, COPY_DEVICE_IDENTIFICATION};
use storage_spec::scsi::{COPY_OPERATING_PARAMETERS, COPY_STATUS_LID1, EXTENDED_COPY_LID1};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Pages of a unit, rising.
const PAGES: [u8; 11] = [
    page::SUPPORTED,
    page::SERIAL_NUMBER,
    page::IDENTIFICATION,
    page::NETWORK_ADDRESSES,
    page::EXTENDED,
    page::MODE_POLICY,
    page::PORTS,
    page::THIRD_PARTY_COPY,
    page::BLOCK_LIMITS,
    page::CHARACTERISTICS,
    page::PROVISIONING,
];

/// The most that an optimal transfer is said to be.
const OPTIMAL_BYTES: u64 = 256 << 10;

/// Code sets of designators.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

/// Associations and types of designators, with PIV where a protocol is named.
const OF_UNIT: u8 = 0x00;
const OF_PORT: u8 = 0x90;
const OF_TARGET: u8 = 0xA0;
const T10_VENDOR_ID: u8 = 1;
const NAA: u8 = 3;
const RELATIVE_PORT: u8 = 4;
const PORT_GROUP: u8 = 5;
const SCSI_NAME: u8 = 8;
/// Protocol iSCSI in the high bits of the code set.
const ISCSI: u8 = 0x50;

/// The one target port group.
pub(super) const PORT_GROUP_ID: u16 = 1;

impl Device {
    /// What follows the header of a page; `None` for a page that is not supported.
    pub(super) fn vital_page(
        &self,
        code: u8,
        unit: &LogicalUnit,
        nexus: &Nexus,
    ) -> Option<Vec<u8>> {
        Some(match code {
            page::SUPPORTED => PAGES.to_vec(),
            page::SERIAL_NUMBER => serial(&unit.config.uuid).into_bytes(),
            page::IDENTIFICATION => self.identification(unit, nexus),
            // There is no address to manage a unit at.
            page::NETWORK_ADDRESSES => Vec::new(),
            page::EXTENDED => extended(),
            // Every page is shared by all nexuses.
            page::MODE_POLICY => vec![0x3F, 0xFF, 0, 0],
            page::PORTS => self.ports(),
            page::THIRD_PARTY_COPY => third_party_copy(),
            page::BLOCK_LIMITS => unit.block_limits(),
            page::CHARACTERISTICS => characteristics(),
            page::PROVISIONING => provisioning(unit.config.block_shift),
            _ => return None,
        })
    }

    fn identification(&self, unit: &LogicalUnit, nexus: &Nexus) -> Vec<u8> {
        let uuid = &unit.config.uuid;
        let mut data = Vec::new();
        designator(&mut data, BINARY, OF_UNIT | NAA, &naa(uuid));
        let mut vendor = padded::<8>(VENDOR).to_vec();
        vendor.extend_from_slice(serial(uuid).as_bytes());
        designator(&mut data, ASCII, OF_UNIT | T10_VENDOR_ID, &vendor);
        let port = self.config.ports.iter().find(|port| port.tag == nexus.tag);
        let relative = port.map_or(1, |port| port.relative);
        let number = |value: u16| [[0; 2], value.to_be_bytes()].concat();
        designator(&mut data, ISCSI | BINARY, OF_PORT | RELATIVE_PORT, &number(relative));
        designator(&mut data, ISCSI | BINARY, OF_PORT | PORT_GROUP, &number(PORT_GROUP_ID));
        let name = self.port_name(nexus.tag);
        designator(&mut data, ISCSI | UTF_8, OF_PORT | SCSI_NAME, &name);
        let name = terminated(&self.config.name);
        designator(&mut data, ISCSI | UTF_8, OF_TARGET | SCSI_NAME, &name);
        data
    }

    /// SCSI ports (SPC-4 section 7.8.14).
    fn ports(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for port in &self.config.ports {
            let mut names = Vec::new();
            designator(&mut names, ISCSI | UTF_8, OF_PORT | SCSI_NAME, &self.port_name(port.tag));
            let [high, low] = port.relative.to_be_bytes();
            let [len_high, len] = (names.len() as u16).to_be_bytes();
            data.extend_from_slice(&[0, 0, high, low, 0, 0, 0, 0, 0, 0, len_high, len]);
            data.extend_from_slice(&names);
        }
        data
    }

    /// Name of a target port (RFC 7143 section 4.4.1).
    pub(super) fn port_name(&self, tag: u16) -> Vec<u8> {
        terminated(&format!("{},t,0x{tag:04x}", self.config.name))
    }
}

impl LogicalUnit {
    fn block_limits(&self) -> Vec<u8> {
        let shift = self.config.block_shift;
        let blocks_32 = |bytes: u64| U32::new((bytes >> shift) as u32);
        let mut data = BlockLimits::new_zeroed();
        data.compare_and_write_max = COMPARE_AND_WRITE_BLOCKS_MAX;
        data.granularity = U16::new(1 << self.physical_exponent());
        data.transfer_max = blocks_32(TRANSFER_BYTES_MAX);
        data.transfer_optimal = blocks_32(OPTIMAL_BYTES);
        data.unmap_blocks_max = blocks_32(UNMAP_BYTES_MAX);
        data.unmap_descriptors_max = U32::new(UNMAP_RANGES_MAX);
        data.unmap_granularity = blocks_32(BLOCK as u64);
        data.unmap_alignment = U32::new(1 << 31);
        data.write_same_max = U64::new(WRITE_SAME_BYTES_MAX >> shift);
        data.as_bytes().to_vec()
    }
}

/// Extended INQUIRY data (SPC-4 section 7.8.7).
fn extended() -> Vec<u8> {
    /// HEADSUP, ORDSUP, SIMPSUP.
    const ATTRIBUTES: u8 = 0x07;
    /// LUICLR: a unit attention of a nexus that is lost is gone.
    const LOST_WITH_NEXUS: u8 = 0x01;
    let mut data = vec![0; 60];
    data[1] = ATTRIBUTES;
    data[3] = LOST_WITH_NEXUS;
    data
}

/// Block device characteristics (SBC-3 section 6.6.2).
fn characteristics() -> Vec<u8> {
    /// WABEREQ: blocks that were erased read without an error.
    const ERASED_READS: u8 = 0x40;
    let mut data = vec![0; 60];
    // Not rotating.
    data[1] = 1;
    data[3] = ERASED_READS;
    data
}

/// Third-party copy (SPC-4 section 7.8.17).
fn third_party_copy() -> Vec<u8> {
    let mut data = Vec::new();
    let mut descriptor = |kind: u16, value: &[u8]| {
        let len = value.len().next_multiple_of(4);
        data.extend_from_slice(&kind.to_be_bytes());
        data.extend_from_slice(&(len as u16).to_be_bytes());
        data.extend_from_slice(value);
        data.resize(data.len() + len - value.len(), 0);
    };
    // Commands with their service actions.
    descriptor(
        1,
        &[7, 0x83, 1, EXTENDED_COPY_LID1, 0x84, 2, COPY_STATUS_LID1, COPY_OPERATING_PARAMETERS],
    );
    let mut parameters = [0; 28];
    parameters[4..6].copy_from_slice(&COPY_DEVICES_MAX.to_be_bytes());
    parameters[6..8].copy_from_slice(&COPY_SEGMENTS_MAX.to_be_bytes());
    parameters[8..12].copy_from_slice(&COPY_DESCRIPTORS_LEN_MAX.to_be_bytes());
    descriptor(4, &parameters);
    descriptor(8, &[2, COPY_DEVICE_IDENTIFICATION, COPY_BLOCK_TO_BLOCK]);
    let mut general = [0; 32];
    general[..4].copy_from_slice(&COPIES_MAX.to_be_bytes());
    general[4..8].copy_from_slice(&COPIES_MAX.to_be_bytes());
    general[8..12].copy_from_slice(&COPY_SEGMENT_BYTES_MAX.to_be_bytes());
    general[12] = COPY_GRANULARITY_SHIFT;
    descriptor(0x8001, &general);
    data
}

/// LBPU, LBPWS, LBPWS10, LBPRZ; thin (SBC-3 section 6.6.4).
fn provisioning(block_shift: u8) -> Vec<u8> {
    const UNMAPS_AND_ZEROES: u8 = 0xE4;
    const THIN: u8 = 2;
    vec![THRESHOLD_SHIFT - block_shift, UNMAPS_AND_ZEROES, THIN, 0]
}

/// Unit serial number: the UUID.
fn serial(uuid: &[u8; 16]) -> String {
    uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// NAA 3, locally assigned, is too short to be unique: so NAA 6 (IEEE registered extended), made of
/// the UUID but for its first half byte, which is that of the format.
pub(crate) fn naa(uuid: &[u8; 16]) -> [u8; 16] {
    let mut naa = *uuid;
    naa[0] = 0x60 | naa[0] & 0x0F;
    naa
}

fn designator(data: &mut Vec<u8>, code_set: u8, kind: u8, value: &[u8]) {
    let len = u8::try_from(value.len()).expect("designators are short");
    let head = Designator { code_set, kind, reserved: 0, len };
    data.extend_from_slice(head.as_bytes());
    data.extend_from_slice(value);
}

/// Terminated and filled up with zeroes to a multiple of four.
pub(super) fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes
}
