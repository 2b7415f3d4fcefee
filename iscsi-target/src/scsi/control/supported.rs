//! What is supported: REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4
//! sections 6.35 and 6.36), and READ DEFECT DATA of a medium without any.

use super::{allocation_16, allocation_32, cut};
use crate::scsi::Sense;
use storage_spec::scsi::Opcode;

/// A command: its operation code, its service action, and which bits of its CDB count. The first
/// byte of the last is the operation code.
pub(in crate::scsi) struct Command {
    pub(in crate::scsi) service: Option<u16>,
    pub(in crate::scsi) usage: &'static [u8],
}

const fn plain(usage: &'static [u8]) -> Command {
    Command { service: None, usage }
}

const fn action(service: u8, usage: &'static [u8]) -> Command {
    Command { service: Some(service as u16), usage }
}

/// NACA is looked at, to be refused.
const CONTROL: u8 = 0x04;

const fn range_10(opcode: u8, flags: u8) -> [u8; 10] {
    [opcode, flags, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]
}

const fn range_12(opcode: u8, flags: u8) -> [u8; 12] {
    [opcode, flags, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]
}

const fn range_16(opcode: u8, flags: u8) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, i, j, ..] = range_12(opcode, flags);
    [a, b, c, d, e, f, g, h, i, j, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]
}

const SANITIZE: [u8; 10] = [0x48, 0x9F, 0, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL];
const RESERVE_IN: [u8; 10] = [0x5E, 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL];
const RESERVE_OUT: [u8; 10] = [0x5F, 0x1F, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, CONTROL];
const COMPARE_AND_WRITE: [u8; 16] =
    [0x89, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0, CONTROL];

/// Every command that is executed, rising.
#[rustfmt::skip]
pub(in crate::scsi) const COMMANDS: &[Command] = &[
    plain(&[0x00, 0, 0, 0, 0, CONTROL]),
    plain(&[0x03, 0x01, 0, 0, 0xFF, CONTROL]),
    plain(&[0x08, 0x1F, 0xFF, 0xFF, 0xFF, CONTROL]),
    plain(&[0x0A, 0x1F, 0xFF, 0xFF, 0xFF, CONTROL]),
    plain(&[0x12, 0x01, 0xFF, 0xFF, 0xFF, CONTROL]),
    plain(&[0x15, 0x11, 0, 0, 0xFF, CONTROL]),
    plain(&[0x16, 0, 0, 0, 0, CONTROL]),
    plain(&[0x17, 0, 0, 0, 0, CONTROL]),
    plain(&[0x1A, 0x08, 0xFF, 0xFF, 0xFF, CONTROL]),
    plain(&[0x1B, 0x01, 0, 0xF, 0xF7, CONTROL]),
    plain(&[0x1E, 0, 0, 0, 0x03, CONTROL]),
    plain(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL]),
    plain(&range_10(0x28, 0x18)),
    plain(&range_10(0x2A, 0x18)),
    plain(&range_10(0x2E, 0x16)),
    plain(&range_10(0x2F, 0x16)),
    plain(&range_10(0x34, 0x02)),
    plain(&range_10(0x35, 0x02)),
    plain(&[0x37, 0, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    plain(&range_10(0x41, 0x08)),
    plain(&[0x42, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    action(0x02, &SANITIZE),
    action(0x1F, &SANITIZE),
    plain(&[0x4D, 0, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF, 0xFF, CONTROL]),
    plain(&[0x55, 0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    plain(&[0x56, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL]),
    plain(&[0x57, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL]),
    plain(&[0x5A, 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    action(0x00, &RESERVE_IN),
    action(0x01, &RESERVE_IN),
    action(0x02, &RESERVE_IN),
    action(0x03, &RESERVE_IN),
    action(0x00, &RESERVE_OUT),
    action(0x01, &RESERVE_OUT),
    action(0x02, &RESERVE_OUT),
    action(0x03, &RESERVE_OUT),
    action(0x04, &RESERVE_OUT),
    action(0x05, &RESERVE_OUT),
    action(0x06, &RESERVE_OUT),
    action(0x07, &RESERVE_OUT),
    action(0x08, &RESERVE_OUT),
    action(0x00, &[0x83, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x00, &[0x84, 0x1F, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x03, &[0x84, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    plain(&range_16(0x88, 0x18)),
    plain(&COMPARE_AND_WRITE),
    plain(&range_16(0x8A, 0x18)),
    plain(&range_16(0x8B, 0x18)),
    plain(&range_16(0x8E, 0x16)),
    plain(&range_16(0x8F, 0x16)),
    plain(&range_16(0x90, 0x02)),
    plain(&range_16(0x91, 0x02)),
    plain(&range_16(0x93, 0x09)),
    action(0x10, &[0x9E, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x12, &range_16(0x9E, 0x1F)),
    plain(&[0xA0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x0A, &[0xA3, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x0C, &[0xA3, 0x1F, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x0D, &[0xA3, 0x1F, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    action(0x0A, &[0xA4, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    plain(&range_12(0xA8, 0x18)),
    plain(&range_12(0xAA, 0x18)),
    plain(&range_12(0xAE, 0x16)),
    plain(&range_12(0xAF, 0x16)),
    plain(&[0xB7, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
];

/// Command timeouts descriptor without timeouts: nominal and recommended ones are not told.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// SUPPORT of one command: it is, as the standard has it; it is not.
const SUPPORTED: u8 = 3;
const NOT_SUPPORTED: u8 = 1;

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK, TARGET RESET.
const FUNCTIONS: u8 = 0xDE;
/// QUERY ASYNCHRONOUS EVENT, QUERY TASK SET, I_T NEXUS RESET.
const MORE_FUNCTIONS: u8 = 0x07;

/// REPORT SUPPORTED OPERATION CODES.
pub(super) fn opcodes(cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let wants_timeouts = cdb[2] & 0x80 != 0;
    let (opcode, service) = (cdb[3], u16::from_be_bytes([cdb[4], cdb[5]]));
    let mut of_opcode = COMMANDS.iter().filter(|command| command.usage[0] == opcode);
    let found = |service| {
        let mut commands = COMMANDS.iter();
        commands.find(|command| command.usage[0] == opcode && command.service == service)
    };
    let has_services = of_opcode.clone().any(|command| command.service.is_some());
    let is_known = of_opcode.next().is_some();
    let data = match cdb[2] & 0x07 {
        0 => all(wants_timeouts),
        1 if has_services => return Err(Sense::cdb_bit(2, 2)),
        1 => one(found(None), wants_timeouts),
        2 if is_known && !has_services => return Err(Sense::cdb_bit(2, 2)),
        2 => one(found(Some(service)), wants_timeouts),
        3 if has_services => one(found(Some(service)), wants_timeouts),
        3 if service != 0 => one(None, wants_timeouts),
        3 => one(found(None), wants_timeouts),
        _ => return Err(Sense::cdb_bit(2, 2)),
    };
    Ok(cut(data, allocation_32(cdb, 6)))
}

fn all(wants_timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for Command { service, usage } in COMMANDS {
        let [high, low] = service.unwrap_or(0).to_be_bytes();
        let flags = u8::from(service.is_some()) | if wants_timeouts { 0b10 } else { 0 };
        data.extend_from_slice(&[usage[0], 0, high, low, 0, flags, 0, usage.len() as u8]);
        if wants_timeouts {
            data.extend_from_slice(&TIMEOUTS);
        }
    }
    let len = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&len.to_be_bytes());
    data
}

fn one(command: Option<&Command>, wants_timeouts: bool) -> Vec<u8> {
    let Some(Command { usage, .. }) = command else {
        return vec![0, NOT_SUPPORTED, 0, 0];
    };
    let timeouts = if wants_timeouts { 0x80 } else { 0 };
    let mut data = vec![0, timeouts | SUPPORTED, 0, usage.len() as u8];
    data.extend_from_slice(usage);
    if wants_timeouts {
        data.extend_from_slice(&TIMEOUTS);
    }
    data
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub(super) fn functions(cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let is_extended = cdb[2] & 0x80 != 0;
    let mut data = vec![FUNCTIONS, MORE_FUNCTIONS, 0, 0];
    if is_extended {
        data[3] = 12;
        data.resize(16, 0);
    }
    // SPC-4 asks for room for four bytes.
    let allocation = allocation_32(cdb, 6);
    if allocation < 4 { Err(Sense::cdb_byte(6)) } else { Ok(cut(data, allocation)) }
}

/// READ DEFECT DATA of either length: lists without an entry.
pub(super) fn defects(cdb: &[u8; 16]) -> Vec<u8> {
    if Opcode(cdb[0]) == Opcode::ReadDefectData10 {
        cut(vec![0, cdb[2] & 0x1F, 0, 0], allocation_16(cdb, 7))
    } else {
        cut(vec![0, cdb[1] & 0x1F, 0, 0, 0, 0, 0, 0], allocation_32(cdb, 6))
    }
}
