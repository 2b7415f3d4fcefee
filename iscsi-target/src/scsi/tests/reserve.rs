//! Persistent reservations, and those of a session.

use super::*;
use crate::scsi::harness::connection;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const REGISTER_AND_IGNORE: u8 = 6;
const MOVE: u8 = 7;

const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE_ACCESS: u8 = 3;

/// Keys of the two nexuses.
const KEYS: [u64; 2] = [0xA1, 0xB2];

impl Harness {
    fn out(&mut self, nexus: usize, action: u8, kind: u8, keys: (u64, u64)) -> Status {
        let mut list = [0; 24];
        list[..8].copy_from_slice(&keys.0.to_be_bytes());
        list[8..16].copy_from_slice(&keys.1.to_be_bytes());
        let cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
        self.run(nexus, Lun(0), &cdb, &list).status
    }

    fn read_in(&mut self, action: u8) -> Vec<u8> {
        bytes_of(self.request(&[0x5E, action, 0, 0, 0, 0, 0, 2, 0, 0], &[]))
    }

    fn registered() -> Self {
        let mut harness = Self::new(&[(1 << 20, 9)]);
        for (nexus, key) in KEYS.into_iter().enumerate() {
            assert_eq!(harness.out(nexus, REGISTER, 0, (0, key)), Status::Good);
        }
        harness
    }

    fn statuses(&mut self, nexus: usize) -> [Status; 4] {
        let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        [
            self.run(nexus, Lun(0), &[0], &[]).status,
            self.run(nexus, Lun(0), &read, &[]).status,
            self.run(nexus, Lun(0), &write, &[0; 512]).status,
            self.run(nexus, Lun(0), &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).status,
        ]
    }
}

const GOOD: Status = Status::Good;
const CONFLICT: Status = Status::ReservationConflict;

#[test]
fn registrations_are_reported() {
    let mut harness = Harness::registered();
    let keys = harness.read_in(0);
    assert_eq!(keys[..8], [0, 0, 0, 2, 0, 0, 0, 16]);
    assert_eq!(keys[8..], [0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 0, 0, 0, 0xB2]);
    let cut = bytes_of(harness.request(&[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]));
    assert_eq!(cut, [0, 0, 0, 2, 0, 0, 0, 16]);
    assert_eq!(harness.read_in(1), [0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(harness.out(0, RESERVE, EXCLUSIVE_ACCESS, (KEYS[0], 0)), GOOD);
    let reservation = harness.read_in(1);
    assert_eq!(reservation[4..8], [0, 0, 0, 16]);
    assert_eq!(reservation[8..], [0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 0, 3, 0, 0]);
    assert_eq!(harness.read_in(2), [0, 8, 0x9D, 0x90, 0xEA, 1, 0, 0]);
    let full = harness.read_in(3);
    assert_eq!(
        full[8..32],
        [0, 0, 0, 0, 0, 0, 0, 0xA1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 40,]
    );
    assert_eq!(&full[32..70], b"\x45\0\0\x24iqn.2026-01.x:i0,i,0x800000000000\0");
    let second = &full[72..];
    assert_eq!((second[7], second[12], second[13]), (0xB2, 0, 0));
    let bad = harness.request(&[0x5E, 4, 0, 0, 0, 0, 0, 2, 0, 0], &[]);
    assert_eq!(sense(bad), INVALID_CDB);
}

#[test]
fn types_allow_what_they_say() {
    for (kind, stranger, registered) in [
        (1, [GOOD, GOOD, CONFLICT, CONFLICT], [GOOD, GOOD, CONFLICT, CONFLICT]),
        (3, [GOOD, CONFLICT, CONFLICT, CONFLICT], [GOOD, CONFLICT, CONFLICT, CONFLICT]),
        (5, [GOOD, GOOD, CONFLICT, CONFLICT], [GOOD; 4]),
        (6, [GOOD, CONFLICT, CONFLICT, CONFLICT], [GOOD; 4]),
        (7, [GOOD, GOOD, CONFLICT, CONFLICT], [GOOD; 4]),
        (8, [GOOD, CONFLICT, CONFLICT, CONFLICT], [GOOD; 4]),
    ] {
        let mut harness = Harness::registered();
        assert_eq!(harness.out(0, RESERVE, kind, (KEYS[0], 0)), GOOD);
        assert_eq!(harness.statuses(0), [GOOD; 4], "type {kind}");
        assert_eq!(harness.statuses(1), registered, "type {kind}");
        assert_eq!(harness.out(1, REGISTER, 0, (KEYS[1], 0)), GOOD);
        assert_eq!(harness.statuses(1), stranger, "type {kind}");
        assert_eq!(harness.out(0, RELEASE, kind, (KEYS[0], 0)), GOOD);
        assert_eq!(harness.statuses(1), [GOOD; 4], "type {kind}");
    }
}

#[test]
fn refusals_are_told() {
    let mut harness = Harness::registered();
    assert_eq!(harness.out(0, REGISTER, 0, (7, 8)), CONFLICT);
    assert_eq!(harness.out(0, REGISTER_AND_IGNORE, 0, (7, KEYS[0])), GOOD);
    assert_eq!(harness.out(0, RESERVE, 2, (KEYS[0], 0)), Status::CheckCondition);
    assert_eq!(harness.out(0, RESERVE, 0x11, (KEYS[0], 0)), Status::CheckCondition);
    assert_eq!(harness.out(0, RESERVE, WRITE_EXCLUSIVE, (KEYS[0], 0)), GOOD);
    assert_eq!(harness.out(1, RESERVE, WRITE_EXCLUSIVE, (KEYS[1], 0)), CONFLICT);
    let mut list = [0; 24];
    list[7] = KEYS[0] as u8;
    let wrong = harness.request(&[0x5F, RELEASE, 3, 0, 0, 0, 0, 0, 24, 0], &list);
    assert_eq!(sense(wrong), (ILLEGAL, 0x26, 4));
    let short = harness.request(&[0x5F, RELEASE, 1, 0, 0, 0, 0, 0, 23, 0], &list);
    assert_eq!(sense(short), LIST_LENGTH);
    let long = harness.request(&[0x5F, RELEASE, 1, 0, 0, 0, 0, 0, 25, 0], &[0; 25]);
    assert_eq!(sense(long), LIST_LENGTH);
    assert_eq!(sense(harness.request(&[0x5F, 9, 1, 0, 0, 0, 0, 0, 24, 0], &list)), INVALID_CDB);
}

#[test]
fn those_preempted_and_cleared_are_told() {
    let mut harness = Harness::registered();
    assert_eq!(harness.out(0, RESERVE, 5, (KEYS[0], 0)), GOOD);
    assert_eq!(harness.out(1, PREEMPT, 5, (KEYS[1], KEYS[0])), GOOD);
    assert_eq!(sense(harness.request(&[0], &[])), (6, 0x2A, 5));
    assert_eq!(harness.statuses(0)[2], CONFLICT);
    assert_eq!(harness.out(0, REGISTER, 0, (0, KEYS[0])), GOOD);
    assert_eq!(harness.out(1, RELEASE, 5, (KEYS[1], 0)), GOOD);
    assert_eq!(sense(harness.request(&[0], &[])), (6, 0x2A, 4));
    assert_eq!(harness.out(1, CLEAR, 0, (KEYS[1], 0)), GOOD);
    assert_eq!(sense(harness.request(&[0], &[])), (6, 0x2A, 3));
    assert_eq!(harness.read_in(0)[4..8], [0; 4]);
}

#[test]
fn others_are_registered_and_handed_to() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let id = b"\x45\0\0\x24iqn.2026-01.x:i1,i,0x800000000001\0\0\0";
    let mut list = vec![0; 24];
    list[15] = 5;
    list[20] = 8;
    list.extend_from_slice(&[0, 0, 0, 40]);
    list.extend_from_slice(id);
    bytes_of(harness.request(&[0x5F, REGISTER, 0, 0, 0, 0, 0, 0, 68, 0], &list));
    assert_eq!(harness.read_in(0).len(), 8 + 16);
    list[32] = b'x';
    let bad = harness.request(&[0x5F, REGISTER, 0, 0, 0, 0, 0, 0, 67, 0], &list);
    assert_eq!(sense(bad), INVALID_LIST);

    assert_eq!(harness.out(0, RESERVE, EXCLUSIVE_ACCESS, (5, 0)), GOOD);
    let mut list = vec![0; 24];
    (list[7], list[15], list[19], list[23]) = (5, 6, 1, 40);
    list.extend_from_slice(id);
    bytes_of(harness.request(&[0x5F, MOVE, 0, 0, 0, 0, 0, 0, 64, 0], &list));
    assert_eq!(harness.statuses(0)[1], CONFLICT);
    assert_eq!(harness.statuses(1), [GOOD; 4]);
    list[19] = 2;
    let bad = harness.request(&[0x5F, MOVE, 0, 0, 0, 0, 0, 0, 64, 0], &list);
    assert_eq!(bad.sense, Some(Sense::list_byte(18)));
}

#[test]
fn sessions_reserve_until_they_end() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    bytes_of(harness.request(&reserve, &[]));
    bytes_of(harness.request(&reserve, &[]));
    assert_eq!(harness.run(1, Lun(0), &reserve, &[]).status, CONFLICT);
    assert_eq!(harness.statuses(0), [GOOD; 4]);
    assert_eq!(harness.statuses(1), [CONFLICT; 4]);
    bytes_of(harness.run(1, Lun(0), &[0x12, 0, 0, 0, 36, 0], &[]));
    // Not one's own: nothing, and no error.
    bytes_of(harness.run(1, Lun(0), &release, &[]));
    assert_eq!(harness.statuses(1), [CONFLICT; 4]);
    bytes_of(harness.request(&release, &[]));
    assert_eq!(harness.statuses(1), [GOOD; 4]);
    bytes_of(harness.request(&reserve, &[]));
    harness.device.reset(None);
    harness.carry_effects();
    assert_eq!(harness.statuses(1)[1..], [GOOD; 3]);
    bytes_of(harness.run(1, Lun(0), &reserve, &[]));
    harness.device.detach(connection(1));
    harness.carry_effects();
    assert_eq!(harness.statuses(0)[1..], [GOOD; 3]);
}

#[test]
fn names_that_come_twice_count_once_whatever_their_case() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let port = b"\x45\0\0\x24iqn.2026-01.x:I1,i,0x800000000001\0\0\0";
    let device = b"\x05\0\0\x14IQN.2026-01.X:i1\0\0\0\0";
    let ids = [&port[..], device].concat().repeat(100);
    let mut list = vec![0; 24];
    (list[15], list[20]) = (5, 8);
    list.extend_from_slice(&(ids.len() as u32).to_be_bytes());
    list.extend_from_slice(&ids);
    let [high, low] = (list.len() as u16).to_be_bytes();
    let cdb = [0x5F, REGISTER, 0, 0, 0, 0, 0, high, low, 0];
    // The order itself names everybody once.
    let Admitted::Control(command, _) = harness.admit(0, Lun(0), &cdb, list.len()) else {
        panic!("a command for the device")
    };
    harness.device.execute(connection(0), 3, &command, &list);
    let order = core::iter::from_fn(|| harness.device.take_effect()).find_map(|effect| {
        let control::Effect::Reserve { order, .. } = effect else { return None };
        Some(order)
    });
    let Some(reservations::Order::Register { also, .. }) = order else { panic!("{order:?}") };
    assert_eq!(also.len(), 1);
    bytes_of(harness.request(&cdb, &list));
    assert_eq!(harness.read_in(0).len(), 8 + 16);
    assert_eq!(harness.statuses(1), [GOOD; 4]);
}
