//! Commands that concern what nexuses share.

use super::*;
use crate::scsi::harness::unit_config;

/// The parameter list of an EXTENDED COPY of one segment between two units of the harness, each
/// given as its number and block shift; places in blocks of each, the length in blocks of the
/// source.
pub(super) fn copy_list(
    source: (u8, u8),
    destination: (u8, u8),
    (from, to, blocks): (u64, u64, u16),
) -> Vec<u8> {
    let mut list = vec![9, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    for (number, shift) in [source, destination] {
        list.extend_from_slice(&[0xE4, 0, 0, 0, 1, 3, 0, 16, 0x60, 1, 2, 3, 4, 5, 6, 7]);
        list.extend_from_slice(&[8, 9, 10, 11, 12, 13, 14, number, 0, 0, 0, 0, 0, 0]);
        list.extend_from_slice(&(1_u16 << shift).to_be_bytes());
    }
    list.extend_from_slice(&[2, 0, 0, 24, 0, 0, 0, 1, 0, 0]);
    list.extend_from_slice(&blocks.to_be_bytes());
    list.extend_from_slice(&from.to_be_bytes());
    list.extend_from_slice(&to.to_be_bytes());
    list
}

fn copy_cdb(len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x83, len as u8);
    cdb
}

/// INQUIRY for a vital product data page, after its header.
fn page(harness: &mut Harness, code: u8) -> Vec<u8> {
    let data = bytes_of(harness.request(&[0x12, 1, code, 1, 0, 0], &[]));
    assert_eq!((data[1], usize::from(data[3])), (code, data.len() - 4));
    data[4..].to_vec()
}

#[test]
fn standard_inquiry() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let data = bytes_of(harness.request(&[0x12, 0, 0, 0, 255, 0], &[]));
    assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x38, 0x10, 2]);
    assert_eq!(&data[8..36], b"BASALT  Volume          1   ");
    assert_eq!(data[58..66], [0, 0xA0, 4, 0x60, 4, 0xC0, 9, 0x60]);
    assert_eq!(bytes_of(harness.request(&[0x12, 0, 0, 0, 5, 0], &[])).len(), 5);
    assert_eq!(sense(harness.request(&[0x12, 0, 0x80, 0, 255, 0], &[])), INVALID_CDB);
    assert_eq!(sense(harness.request(&[0x12, 1, 0x81, 0, 255, 0], &[])), INVALID_CDB);
}

#[test]
fn vital_product_data() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let pages = page(&mut harness, 0);
    assert_eq!(pages, [0, 0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0x8F, 0xB0, 0xB1, 0xB2]);
    for code in pages {
        page(&mut harness, code);
    }
    assert_eq!(page(&mut harness, 0x80), b"a00102030405060708090a0b0c0d0e00");
    let names = page(&mut harness, 0x83);
    assert_eq!(names[..4], [1, 3, 0, 16]);
    assert_eq!(names[4..20], [0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0]);
    let rest = &names[20 + 4 + 40..];
    assert_eq!(rest[..16], [0x51, 0x94, 0, 4, 0, 0, 0, 1, 0x51, 0x95, 0, 4, 0, 0, 0, 1]);
    assert_eq!(&rest[16..48], b"\x53\x98\0\x1Ciqn.2026-01.x:t,t,0x0001\0\0\0\0");
    assert_eq!(&rest[48..], b"\x53\xA8\0\x10iqn.2026-01.x:t\0");
    let limits = page(&mut harness, 0xB0);
    assert_eq!(limits[..12], [0, 1, 0, 8, 0, 0, 128, 0, 0, 0, 2, 0]);
    assert_eq!(limits[16..32], [0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0x80, 0, 0, 0]);
    assert_eq!(limits[32..40], [0, 0, 0, 0, 0, 0, 0x80, 0]);
    assert_eq!(page(&mut harness, 0xB1)[..4], [0, 1, 0, 0x40]);
    assert_eq!(page(&mut harness, 0xB2), [11, 0xE4, 2, 0]);
}

#[test]
fn capacity_and_luns() {
    let mut harness = Harness::new(&[(1 << 20, 9), (1 << 20, 12)]);
    assert_eq!(bytes_of(harness.request(&[0x25], &[])), [0, 0, 7, 0xFF, 0, 0, 2, 0]);
    let cdb = [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    let capacity = bytes_of(harness.request(&cdb, &[]));
    assert_eq!(capacity[..16], [0, 0, 0, 0, 0, 0, 7, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0]);
    let capacity = bytes_of(harness.run(0, Lun(1), &cdb, &[]));
    assert_eq!(capacity[..16], [0, 0, 0, 0, 0, 0, 0, 0xFF, 0, 0, 16, 0, 0, 0, 0xC0, 0]);
    let luns = [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for select in [0, 2] {
        let cdb = [0xA0, 0, select, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(bytes_of(harness.request(&cdb, &[])), luns);
    }
    let well_known = [0xA0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    assert_eq!(bytes_of(harness.request(&well_known, &[])), [0; 8]);
    assert_eq!(sense(harness.request(&[0xA0, 0, 3, 0, 0, 0, 0, 0, 1], &[])), INVALID_CDB);
    assert_eq!(sense(harness.request(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 15], &[])), INVALID_CDB);
}

#[test]
fn modes_are_read_and_changed() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let sense_6 = |page| [0x1A, 0, page, 0, 255, 0];
    let all = bytes_of(harness.request(&sense_6(0x3F), &[]));
    assert_eq!(all[..12], [67, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    assert_eq!(all[12..14], [1, 10]);
    assert_eq!((all[24], all[44], all[56], all.len()), (8, 0x0A, 0x1C, 68));
    let control = bytes_of(harness.request(&[0x1A, 8, 0x0A, 0, 255, 0], &[]));
    assert_eq!(control, [15, 0, 0x10, 0, 0xA, 10, 2, 0x10, 0, 0x40, 0, 0, 0xFF, 0xFF, 0, 0]);
    let changeable = bytes_of(harness.request(&[0x1A, 8, 0x4A, 0, 255, 0], &[]));
    assert_eq!(changeable[4..], [0xA, 10, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    let long = bytes_of(harness.request(&[0x5A, 0x10, 0x0A, 0, 0, 0, 0, 0, 255, 0], &[]));
    assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(long[8..24], [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(sense(harness.request(&sense_6(0xCA), &[])), (ILLEGAL, 0x39, 0));
    assert_eq!(sense(harness.request(&sense_6(0x02), &[])), INVALID_CDB);

    // SWP and D_SENSE.
    let mut list = control;
    list[0] = 0;
    list[6] |= 4;
    list[8] |= 8;
    let select = [0x15, 0x10, 0, 0, 16, 0];
    bytes_of(harness.request(&select, &list));
    let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let ending = harness.request(&write, &[0; 512]);
    assert_eq!(ending.sense.expect("protected").to_bytes()[..4], [0x72, 7, 0x27, 2]);
    assert_eq!(bytes_of(harness.request(&sense_6(0x0A), &[]))[2], 0x90);
    let ending = harness.run(1, Lun(0), &write, &[0; 512]);
    assert_eq!(ending.sense.expect("an attention").to_bytes()[..4], [0x72, 6, 0x2A, 1]);
    list[6] &= !4;
    list[8] &= !8;
    bytes_of(harness.request(&select, &list));
    bytes_of(harness.request(&write, &[0; 512]));

    list[7] = 0;
    let ending = harness.request(&select, &list);
    assert_eq!(ending.sense, Some(Sense::list_byte(7)));
    assert_eq!(sense(harness.request(&[0x15, 0x10, 0, 0, 15, 0], &list)), LIST_LENGTH);
    assert_eq!(sense(harness.request(&[0x15, 0x11, 0, 0, 16, 0], &list)), INVALID_CDB);
    assert_eq!(sense(harness.request(&[0x15, 0, 0, 0, 16, 0], &list)), INVALID_CDB);
}

#[test]
fn logs() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let log = |page: u8, subpage: u8| [0x4D, 0, 0x40 | page, subpage, 0, 0, 0, 0, 255, 0];
    assert_eq!(bytes_of(harness.request(&log(0, 0), &[])), [0, 0, 0, 3, 0, 0x0C, 0x0D]);
    let all = bytes_of(harness.request(&log(0, 0xFF), &[]));
    assert_eq!(all, [0x40, 0xFF, 0, 8, 0, 0, 0, 0xFF, 0x0C, 0, 0x0D, 0]);
    let temperature = bytes_of(harness.request(&log(0x0D, 0), &[]));
    assert_eq!(temperature, [0x0D, 0, 0, 6, 0, 0, 3, 2, 0, 0xFF]);
    harness.device.set_usage(Lun(0), control::Usage { used: 5 << 20, available: 300 << 20 });
    let space = bytes_of(harness.request(&log(0x0C, 0), &[]));
    let expected = [0, 1, 3, 8, 0, 0, 1, 44, 1, 0, 0, 0, 0, 2, 3, 8, 0, 0, 0, 5, 1, 0, 0, 0];
    assert_eq!(space[4..], expected);
    assert_eq!(sense(harness.request(&log(0x0E, 0), &[])), INVALID_CDB);
    assert_eq!(sense(harness.request(&log(0x0D, 1), &[])), INVALID_CDB);
}

#[test]
fn supported_commands_and_functions() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let report =
        |options, opcode, service| [0xA3, 0x0C, options, opcode, 0, service, 0, 0, 0x40, 0, 0, 0];
    let all = bytes_of(harness.request(&report(0, 0, 0), &[]));
    assert_eq!(all[..20], [0, 0, 2, 8, 0, 0, 0, 0, 0, 0, 0, 6, 3, 0, 0, 0, 0, 0, 0, 6]);
    let one = bytes_of(harness.request(&report(0x81, 0x25, 0), &[]));
    assert_eq!(one[..8], [0, 0x83, 0, 10, 0x25, 0, 0, 0]);
    assert_eq!(one[14..], [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let service = bytes_of(harness.request(&report(2, 0x9E, 0x12), &[]));
    assert_eq!(service[..6], [0, 3, 0, 16, 0x9E, 0x1F]);
    assert_eq!(bytes_of(harness.request(&report(2, 0x9E, 0x13), &[])), [0, 1, 0, 0]);
    assert_eq!(bytes_of(harness.request(&report(1, 0x04, 0), &[])), [0, 1, 0, 0]);
    assert_eq!(sense(harness.request(&report(1, 0x9E, 0), &[])), INVALID_CDB);
    assert_eq!(sense(harness.request(&report(2, 0x25, 0), &[])), INVALID_CDB);
    assert_eq!(bytes_of(harness.request(&report(3, 0x25, 0), &[]))[1], 3);
    let functions = |byte| [0xA3, 0x0D, byte, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    assert_eq!(bytes_of(harness.request(&functions(0), &[])), [0xDE, 7, 0, 0]);
    assert_eq!(bytes_of(harness.request(&functions(0x80), &[])).len(), 16);
    let defects = [0x37, 0, 0x1D, 0, 0, 0, 0, 0, 8, 0];
    assert_eq!(bytes_of(harness.request(&defects, &[])), [0, 0x1D, 0, 0]);
}

#[test]
fn port_groups_are_told_and_set() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let report = |format: u8| [0xA3, format << 5 | 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    let groups = bytes_of(harness.request(&report(0), &[]));
    assert_eq!(groups, [0, 0, 0, 12, 0, 0x8F, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    let extended = bytes_of(harness.request(&report(1), &[]));
    assert_eq!(extended[..8], [0, 0, 0, 16, 0x10, 10, 0, 0]);
    let set = [0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    bytes_of(harness.request(&set, &[0, 0, 0, 0, 1, 0, 0, 1]));
    bytes_of(harness.request(&[0], &[]));
    assert_eq!(bytes_of(harness.request(&report(0), &[]))[4..8], [1, 0x8F, 0, 1]);
    assert_eq!(sense(harness.run(1, Lun(0), &[0], &[])), (6, 0x2A, 6));
    bytes_of(harness.request(&set, &[0, 0, 0, 0, 0, 0, 0, 1]));
    let ending = harness.request(&set, &[0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(ending.sense, Some(Sense::list_byte(6)));
    let ending = harness.request(&set, &[0, 0, 0, 0, 7, 0, 0, 1]);
    assert_eq!(ending.sense, Some(Sense::list_byte(4)));
}

#[test]
fn hosts_do_not_undo_what_the_node_says_of_access() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let set = [0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    let to = |state| [0, 0, 0, 0, state, 0, 0, 1];
    // Nor make units inaccessible for all others.
    for state in [2, 3] {
        assert_eq!(sense(harness.request(&set, &to(state))), (4, 0x67, 0x0A));
        bytes_of(harness.run(1, Lun(0), &[0], &[]));
    }
    for (state, refusal) in [
        (control::AccessState::Standby, (4, 0x67, 0x0A)),
        (control::AccessState::Unavailable, (4, 0x67, 0x0A)),
        (control::AccessState::Transitioning, (2, 4, 0x0A)),
    ] {
        harness.device.set_access_state(state);
        harness.carry_effects();
        assert_eq!(sense(harness.request(&[0], &[])), (6, 0x2A, 6));
        for host in [0, 1] {
            assert_eq!(sense(harness.request(&set, &to(host))), refusal);
        }
        assert_eq!(sense(harness.request(&[0], &[])).0, 2, "{state:?}");
    }
}

#[test]
fn a_nexus_gets_one_snapshot_however_many_units_change() {
    let mut harness = Harness::new(&[(1 << 20, 9); 5]);
    let snapshots = |harness: &mut Harness| {
        let effects = core::iter::from_fn(|| harness.device.take_effect());
        effects.filter(|effect| matches!(effect, control::Effect::Units(_))).count()
    };
    harness.device.set_access_state(control::AccessState::NonOptimized);
    assert_eq!(snapshots(&mut harness), 2);
    harness.device.reset(None);
    assert_eq!(snapshots(&mut harness), 2);
}

#[test]
fn copies_go_where_the_initiator_may() {
    let mut harness = Harness::new(&[(1 << 20, 9), (1 << 20, 9)]);
    let status = |list_id| [0x84, 0, list_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0];
    assert_eq!(sense(harness.request(&status(9), &[])), INVALID_CDB);
    let list = copy_list((0, 9), (1, 9), (3, 10, 20));
    bytes_of(harness.request(&copy_cdb(list.len()), &list));
    let source = harness.memory.volumes[0][3 * 512..23 * 512].to_vec();
    assert_eq!(harness.memory.volumes[1][10 * 512..30 * 512], source);
    let told = bytes_of(harness.request(&status(9), &[]));
    assert_eq!(told, [0, 0, 0, 8, 1, 0, 1, 1, 0, 0, 0, 10]);
    let parameters = [0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    let parameters = bytes_of(harness.request(&parameters, &[]));
    assert_eq!((parameters[3], parameters[43]), (42, 2));
    assert_eq!(parameters[44..], [2, 0xE4]);

    // Not one that it does not see (CVE-2020-28374), even if there is such a volume.
    let before = harness.memory.volumes.clone();
    harness.device.remove(Lun(1));
    for (source, destination) in [(0, 1), (1, 0)] {
        let list = copy_list((source, 9), (destination, 9), (3, 10, 20));
        assert_eq!(sense(harness.request(&copy_cdb(list.len()), &list)), (0xA, 8, 4));
    }
    assert_eq!(harness.memory.volumes, before);
    while harness.device.take_effect().is_some() {}
    // Nor to one that it may not write.
    let config = control::UnitConfig { read_only: true, ..unit_config(1, 1 << 20, 9) };
    assert!(harness.device.add(Lun(1), config));
    assert_eq!(sense(harness.request(&copy_cdb(list.len()), &list)), (0xA, 8, 4));
    let far = copy_list((0, 9), (0, 9), (2040, 0, 20));
    assert_eq!(sense(harness.request(&copy_cdb(far.len()), &far)), (0xA, 8, 4));
    let onto_itself = copy_list((0, 9), (0, 9), (0, 10, 20));
    assert_eq!(sense(harness.request(&copy_cdb(92 + 16), &onto_itself)), INVALID_LIST);
    let mut other = copy_list((0, 9), (0, 9), (0, 100, 20));
    assert_eq!(sense(harness.request(&copy_cdb(107), &other)), LIST_LENGTH);
    other[16] = 0xE0;
    assert_eq!(sense(harness.request(&copy_cdb(108), &other)), (ILLEGAL, 0x26, 7));
    other[16] = 0xE4;
    other[80] = 0x0B;
    assert_eq!(sense(harness.request(&copy_cdb(108), &other)), (ILLEGAL, 0x26, 9));
    assert_eq!(harness.memory.volumes, before);
    bytes_of(harness.request(&copy_cdb(0), &[]));
}
