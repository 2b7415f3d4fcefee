//! Commands from CDB to ending, against bytes of the standards.

mod blocks;
mod oracle;
mod pieces;
mod reserve;
mod shared;

use super::control::supported::{self, COMMANDS};
use super::harness::{Harness, bytes_of};
use super::*;

/// The sense data of a command that has failed: key, additional sense code and qualifier.
fn sense<B: core::fmt::Debug>(ending: Ending<B>) -> (u8, u8, u8) {
    assert_eq!(ending.status, Status::CheckCondition, "{ending:?}");
    let bytes = ending.sense.expect("there is with CHECK CONDITION").to_bytes();
    (bytes[2] & 0xF, bytes[12], bytes[13])
}

const ILLEGAL: u8 = 5;
const OUT_OF_RANGE: (u8, u8, u8) = (ILLEGAL, 0x21, 0);
const INVALID_CDB: (u8, u8, u8) = (ILLEGAL, 0x24, 0);
const INVALID_LIST: (u8, u8, u8) = (ILLEGAL, 0x26, 0);
const LIST_LENGTH: (u8, u8, u8) = (ILLEGAL, 0x1A, 0);
const WRONG_DATA_LENGTH: (u8, u8, u8) = (ILLEGAL, 0x0E, 3);

#[test]
fn luns_on_the_wire() {
    for (lun, wire) in [(0, [0, 0]), (7, [0, 7]), (255, [0, 255]), (256, [0x41, 0])] {
        let [high, low] = wire;
        let wire = [high, low, 0, 0, 0, 0, 0, 0];
        assert_eq!(Lun(lun).to_wire(), wire);
        assert_eq!(Lun::from_wire(wire), Some(Lun(lun)));
    }
    assert_eq!(Lun::from_wire([0x40, 7, 0, 0, 0, 0, 0, 0]), Some(Lun(7)));
    assert_eq!(Lun::from_wire([1, 7, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(Lun::from_wire([0, 7, 0, 1, 0, 0, 0, 0]), None);
    assert_eq!(Lun::from_wire([0xC1, 1, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn what_is_reported_as_supported_is_what_is_executed() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    for opcode in 0..=0xFF_u8 {
        for service in 0..0x20_u8 {
            let known = |command: &&supported::Command| {
                command.usage[0] == opcode
                    && command.service.is_none_or(|known| known == u16::from(service))
            };
            let has_services = COMMANDS.iter().any(|c| c.usage[0] == opcode && c.service.is_some());
            let is_known = COMMANDS.iter().any(|command| known(&command));
            if !has_services && service != 0 {
                continue;
            }
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            cdb[1] = if has_services { service } else { 0 };
            let ending = harness.request(&cdb, &[0; 64]);
            let code = ending.sense.map(|sense| sense.code.0);
            let is_executed = match code {
                Some(0x2000) => false,
                Some(0x2400) if has_services => {
                    let sense = ending.sense.expect("just seen");
                    sense.specific != Sense::cdb_bit(1, 4).specific
                }
                _ => true,
            };
            assert_eq!(is_executed, is_known, "{opcode:02X}/{service:02X}: {code:04X?}");
        }
    }
}

#[test]
fn units_that_are_not_there() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let inquiry = [0x12, 0, 0, 0, 96, 0];
    assert_eq!(bytes_of(harness.run(0, Lun(1), &inquiry, &[]))[0], 0x7F);
    harness.device.remove(Lun(0));
    let standard = bytes_of(harness.request(&inquiry, &[]));
    assert_eq!((standard[0], standard.len()), (0x3F, 96));
    let luns = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(bytes_of(harness.request(&luns, &[])), [0; 8]);
    assert_eq!(sense(harness.request(&[0], &[])), (ILLEGAL, 0x25, 0));
    let fixed = bytes_of(harness.request(&[3, 0, 0, 0, 252, 0], &[]));
    assert_eq!((fixed.len(), fixed[2], fixed[12]), (18, ILLEGAL, 0x25));
    let descriptor = bytes_of(harness.request(&[3, 1, 0, 0, 252, 0], &[]));
    assert_eq!(descriptor, [0x72, ILLEGAL, 0x25, 0, 0, 0, 0, 0]);
}

#[test]
fn attentions_come_before_commands() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    assert!(harness.device.resize(Lun(0), 1 << 19));
    harness.carry_effects();
    bytes_of(harness.request(&[0x12, 0, 0, 0, 96, 0], &[]));
    assert_eq!(sense(harness.request(&[0], &[])), (6, 0x2A, 9));
    bytes_of(harness.request(&[0], &[]));
    // The other nexus asks.
    let told = bytes_of(harness.run(1, Lun(0), &[3, 0, 0, 0, 252, 0], &[]));
    assert_eq!((told[2], told[12], told[13]), (6, 0x2A, 9));
    bytes_of(harness.run(1, Lun(0), &[0], &[]));
    harness.device.reset(Some(Lun(0)));
    harness.carry_effects();
    assert_eq!(sense(harness.request(&[0], &[])), (6, 0x29, 3));
}
