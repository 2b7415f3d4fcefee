//! Cases that the standards name one by one.

use super::{nvme, scsi};
use crate::*;

const WE: Kind = Kind::WriteExclusive;
const EA: Kind = Kind::ExclusiveAccess;
const WE_RO: Kind = Kind::WriteExclusiveRegistrantsOnly;
const EA_AR: Kind = Kind::ExclusiveAccessAllRegistrants;
const WE_AR: Kind = Kind::WriteExclusiveAllRegistrants;

fn preempt(key: Key, victim: Key, kind: Kind) -> Order {
    Order::Preempt { key, victim, kind, abort: false }
}

fn told(outcome: &Outcome) -> Vec<Notify> {
    let mut notices = outcome.notices.clone();
    notices.sort();
    notices
}

fn notify(who: Registrant, what: Notice) -> Notify {
    Notify { who, what }
}

/// Three hosts with keys 1, 2 and 3, the second by iSCSI.
fn three() -> (Table, [Registrant; 3]) {
    let hosts = [nvme(1), scsi(2, 1), nvme(3)];
    let mut table = Table::new();
    for (key, host) in (1..).zip(&hosts) {
        table.join(host, key).unwrap();
    }
    (table, hosts)
}

#[test]
fn codes_are_those_of_the_standards() {
    let codes: Vec<_> = Kind::ALL.iter().map(|kind| (kind.nvme(), kind.scsi())).collect();
    assert_eq!(codes, [(1, 1), (2, 3), (3, 5), (4, 6), (5, 7), (6, 8)]);
    for kind in Kind::ALL {
        assert_eq!(Kind::from_nvme(kind.nvme()), Some(kind));
        assert_eq!(Kind::from_scsi(kind.scsi()), Some(kind));
    }
    assert_eq!([0, 7, 255].map(Kind::from_nvme), [None; 3]);
    assert_eq!([0, 2, 4, 9, 15].map(Kind::from_scsi), [None; 5]);
}

#[test]
fn access_is_that_of_the_tables() {
    // Reads and writes of the holder, another registrant, and a stranger.
    let expected = [
        (Kind::WriteExclusive, "rw r- r-"),
        (Kind::ExclusiveAccess, "rw -- --"),
        (Kind::WriteExclusiveRegistrantsOnly, "rw rw r-"),
        (Kind::ExclusiveAccessRegistrantsOnly, "rw rw --"),
        (Kind::WriteExclusiveAllRegistrants, "rw rw r-"),
        (Kind::ExclusiveAccessAllRegistrants, "rw rw --"),
    ];
    for (kind, expected) in expected {
        let (mut table, [a, b, _]) = three();
        table.take(&a, 1, kind).unwrap();
        let show = |access: Access| {
            let may = |is: bool, what| if is { what } else { '-' };
            format!("{}{}", may(access.read, 'r'), may(access.write, 'w'))
        };
        let stranger = nvme(9);
        assert_eq!(table.access(&stranger), table.access_of_strangers());
        let seen = [&a, &b, &stranger].map(|who| show(table.access(who))).join(" ");
        assert_eq!(seen, expected, "{kind:?}");
        assert!(table.access(&stranger).allows(CommandClass::Always));
    }
}

#[test]
fn registering_again_is_told_apart_by_the_key() {
    let (mut table, [a, ..]) = three();
    let register =
        |current, key| Order::Register { current, key, also: vec![], persist: Persist::Unchanged };
    assert_eq!(table.apply(&a, &register(Current::NoneOrSame, 7)), Err(Refusal::Conflict));
    let again = table.apply(&a, &register(Current::NoneOrSame, 1)).unwrap();
    assert!(!again.changed);
    assert_eq!(table.apply(&a, &register(Current::None, 1)), Err(Refusal::Conflict));
    assert_eq!(table.apply(&a, &register(Current::Is(2), 7)), Err(Refusal::Conflict));
    assert!(table.apply(&a, &register(Current::Is(1), 7)).unwrap().changed);
    assert!(table.apply(&a, &register(Current::Any, 8)).unwrap().changed);
    assert!(table.apply(&nvme(9), &register(Current::Any, 8)).unwrap().changed);
    assert_eq!(table.apply(&nvme(8), &register(Current::Is(0), 8)), Err(Refusal::Conflict));
    assert_eq!(table.apply(&nvme(8), &register(Current::None, 0)), Err(Refusal::BadKey));
    assert_eq!(table.key_of(&a), Some(8));
}

#[test]
fn a_new_key_alters_no_reservation() {
    let (mut table, [a, b, _]) = three();
    table.take(&a, 1, EA).unwrap();
    let order = Order::Register {
        current: Current::Is(1),
        key: 9,
        also: vec![],
        persist: Persist::Unchanged,
    };
    assert_eq!(told(&table.apply(&a, &order).unwrap()), []);
    let reservation = table.reservation().unwrap();
    assert_eq!((reservation.kind, reservation.key, reservation.holder), (EA, 9, Some(&a)));
    assert_eq!(table.access(&b), Access::NONE);
}

#[test]
fn an_order_with_a_foreign_key_is_a_conflict() {
    let (mut table, [a, ..]) = three();
    let before = table.clone();
    for order in [
        Order::Reserve { key: 2, kind: WE },
        Order::Release { key: 2, kind: WE },
        Order::Clear { key: 2 },
        preempt(2, 3, WE),
        Order::Unregister { current: Current::Is(2), persist: Persist::On },
    ] {
        assert_eq!(table.apply(&a, &order), Err(Refusal::Conflict), "{order:?}");
        assert_eq!(table.apply(&nvme(9), &order), Err(Refusal::Conflict), "{order:?}");
    }
    assert_eq!(table, before);
}

#[test]
fn reserving_again_is_no_order_for_another_type() {
    let (mut table, [a, b, _]) = three();
    assert!(table.take(&a, 1, WE_RO).unwrap().changed);
    assert!(!table.take(&a, 1, WE_RO).unwrap().changed);
    assert_eq!(table.take(&a, 1, WE), Err(Refusal::Conflict));
    assert_eq!(table.take(&b, 2, WE_RO), Err(Refusal::Conflict));
}

#[test]
fn every_registrant_may_reserve_again_what_all_hold() {
    let (mut table, [a, b, c]) = three();
    table.take(&a, 1, WE_AR).unwrap();
    assert!(!table.take(&b, 2, WE_AR).unwrap().changed);
    assert_eq!(table.take(&b, 2, EA_AR), Err(Refusal::Conflict));
    assert!(table.registrations().all(|registration| registration.is_holder));
    assert_eq!(table.reservation().unwrap().key, 0);
    let done = table.apply(&b, &Order::Release { key: 2, kind: WE_AR }).unwrap();
    let released = |who: &Registrant| notify(who.clone(), Notice::ReservationReleased);
    assert_eq!(told(&done), [released(&a), released(&c)]);
    assert_eq!(table.reservation(), None);
}

#[test]
fn a_holder_that_unregisters_takes_the_reservation_along() {
    for kind in Kind::ALL {
        let (mut table, [a, b, c]) = three();
        table.take(&a, 1, kind).unwrap();
        let done = table.leave(&a, 1).unwrap();
        if kind.is_all_registrants() {
            assert!(table.reservation().is_some() && done.notices.is_empty());
            table.leave(&b, 2).unwrap();
            assert!(table.reservation().is_some());
            assert_eq!(told(&table.leave(&c, 3).unwrap()), []);
        } else if kind.includes_registrants() {
            let released = |who: &Registrant| notify(who.clone(), Notice::ReservationReleased);
            assert_eq!(told(&done), [released(&c), released(&b)], "{kind:?}");
        } else {
            assert_eq!(told(&done), [], "{kind:?}");
        }
        assert_eq!(table.reservation(), None);
        assert_eq!(table.access(&nvme(9)), Access::ALL);
    }
}

#[test]
fn release_by_a_registrant_that_does_not_hold_does_nothing() {
    let (mut table, [a, b, _]) = three();
    let release = |key, kind| Order::Release { key, kind };
    assert_eq!(table.apply(&a, &release(1, WE)), Ok(Outcome::default()));
    table.take(&a, 1, WE).unwrap();
    assert_eq!(table.apply(&b, &release(2, EA)), Ok(Outcome::default()));
    assert!(table.reservation().is_some());
}

#[test]
fn release_with_the_wrong_type_is_an_error_of_the_holder() {
    let (mut table, [a, ..]) = three();
    table.take(&a, 1, WE).unwrap();
    let release = |kind| Order::Release { key: 1, kind };
    assert_eq!(table.apply(&a, &release(EA)), Err(Refusal::WrongKind));
    let done = table.apply(&a, &release(WE)).unwrap();
    assert!(done.changed && done.notices.is_empty());
}

#[test]
fn the_holder_is_preempted_by_its_key() {
    let (mut table, [a, b, c]) = three();
    // Another with the holder's key goes, too.
    table.join(&nvme(4), 1).unwrap();
    table.take(&a, 1, EA).unwrap();
    let order = Order::Preempt { key: 2, victim: 1, kind: WE_RO, abort: true };
    let done = table.apply(&b, &order).unwrap();
    let preempted = |who: Registrant| notify(who, Notice::RegistrationPreempted);
    let expected =
        [preempted(a.clone()), notify(c.clone(), Notice::ReservationReleased), preempted(nvme(4))];
    assert_eq!(told(&done), expected);
    assert_eq!(done.aborts, [a, nvme(4)]);
    assert_eq!(table.reservation().unwrap().holder, Some(&b));
    assert_eq!(table.registrations().len(), 2);
}

#[test]
fn a_registrant_that_does_not_hold_is_preempted_alone() {
    let (mut table, [a, b, c]) = three();
    table.take(&a, 1, WE).unwrap();
    let done = table.apply(&b, &preempt(2, 3, EA)).unwrap();
    assert_eq!(told(&done), [notify(c, Notice::RegistrationPreempted)]);
    assert!(done.aborts.is_empty());
    let reservation = table.reservation().unwrap();
    assert_eq!((reservation.kind, reservation.holder), (WE, Some(&a)));
    assert_eq!(table.apply(&b, &preempt(2, 3, EA)), Err(Refusal::Conflict), "nobody has key 3");
}

#[test]
fn preempting_without_a_reservation_makes_none() {
    let (mut table, [a, b, _]) = three();
    assert!(table.apply(&b, &preempt(2, 1, EA)).unwrap().changed);
    assert_eq!((table.key_of(&a), table.reservation()), (None, None));
    assert_eq!(table.apply(&b, &preempt(2, 0, EA)), Err(Refusal::BadKey));
}

#[test]
fn key_zero_preempts_everyone_who_holds_with_others() {
    let (mut table, [a, b, c]) = three();
    table.take(&a, 1, WE_AR).unwrap();
    let done = table.apply(&b, &preempt(2, 0, EA)).unwrap();
    let preempted = |who| notify(who, Notice::RegistrationPreempted);
    assert_eq!(told(&done), [preempted(a), preempted(c)]);
    let reservation = table.reservation().unwrap();
    assert_eq!((reservation.kind, reservation.holder), (EA, Some(&b)));
    assert_eq!(table.apply(&b, &preempt(2, 0, EA)), Err(Refusal::BadKey));
}

#[test]
fn a_key_preempts_only_its_registrants_of_what_all_hold() {
    let (mut table, [a, b, c]) = three();
    table.take(&a, 1, WE_AR).unwrap();
    table.apply(&b, &preempt(2, 1, EA)).unwrap();
    assert_eq!(table.reservation().unwrap().kind, WE_AR);
    assert_eq!(table.registrations().map(|one| one.who).collect::<Vec<_>>(), [&b, &c]);
}

#[test]
fn who_preempts_its_own_key_stays() {
    let (mut table, [a, _, c]) = three();
    table.join(&nvme(4), 1).unwrap();
    // Without holding: others with the key go.
    table.apply(&a, &preempt(1, 1, WE)).unwrap();
    assert_eq!((table.key_of(&a), table.key_of(&nvme(4))), (Some(1), None));
    assert!(!table.apply(&a, &preempt(1, 1, WE)).unwrap().changed);
    // Holding: the type becomes another one.
    table.take(&a, 1, WE_RO).unwrap();
    let done = table.apply(&a, &preempt(1, 1, EA)).unwrap();
    assert!(done.notices.contains(&notify(c, Notice::ReservationReleased)));
    let reservation = table.reservation().unwrap();
    assert_eq!((reservation.kind, reservation.holder), (EA, Some(&a)));
}

#[test]
fn clearing_tells_everyone_else() {
    let (mut table, [a, b, c]) = three();
    table.take(&a, 1, EA).unwrap();
    let done = table.apply(&b, &Order::Clear { key: 2 }).unwrap();
    let cleared = |who| notify(who, Notice::ReservationPreempted);
    assert_eq!(told(&done), [cleared(a), cleared(c)]);
    assert_eq!((table.registrations().len(), table.reservation()), (0, None));
    assert_eq!(table.access_of_strangers(), Access::ALL);
}

#[test]
fn only_what_ends_or_makes_registrations_counts() {
    let (mut table, [a, b, _]) = three();
    assert_eq!(table.generation(), 3);
    table.take(&a, 1, WE).unwrap();
    table.apply(&a, &Order::Release { key: 1, kind: WE }).unwrap();
    table.take(&a, 1, WE).unwrap_or_default();
    table.take(&b, 2, WE).unwrap_err();
    table.apply(&b, &preempt(9, 1, WE)).unwrap_err();
    assert_eq!(table.generation(), 3);
    table.apply(&b, &preempt(2, 1, WE)).unwrap();
    assert_eq!(table.generation(), 4);
    table.apply(&b, &Order::Clear { key: 2 }).unwrap();
    assert_eq!(table.generation(), 5);
}

#[test]
fn the_holder_moves_its_reservation() {
    let (mut table, [a, b, c]) = three();
    let give = |key, to: &Registrant, unregister| Order::Move {
        key,
        new_key: 7,
        to: to.clone(),
        unregister,
        persist: Persist::Unchanged,
    };
    assert_eq!(table.apply(&a, &give(1, &b, false)), Err(Refusal::BadMove), "none to move");
    table.take(&a, 1, EA).unwrap();
    assert_eq!(table.apply(&b, &give(2, &c, false)), Err(Refusal::Conflict), "not the holder");
    assert_eq!(table.apply(&a, &give(1, &a, false)), Err(Refusal::BadMove));
    table.apply(&a, &give(1, &b, false)).unwrap();
    assert_eq!((table.key_of(&a), table.key_of(&b)), (Some(1), Some(7)));
    assert_eq!(table.reservation().unwrap().holder, Some(&b));
    table.apply(&b, &give(7, &nvme(9), true)).unwrap();
    assert_eq!((table.key_of(&b), table.key_of(&nvme(9))), (None, Some(7)));
    assert_eq!(table.reservation().unwrap().holder, Some(&nvme(9)));
    let (mut table, [a, b, _]) = three();
    table.take(&a, 1, EA_AR).unwrap();
    assert_eq!(table.apply(&a, &give(1, &b, false)), Err(Refusal::Conflict), "all hold it");
}

#[test]
fn all_that_an_order_registers_or_nothing() {
    let mut table = Table::new();
    let register =
        |current, also| Order::Register { current, key: 5, also, persist: Persist::Unchanged };
    // All target ports for one initiator port, again with another key.
    table.apply(&scsi(1, 1), &register(Current::None, vec![scsi(1, 2), scsi(1, 3)])).unwrap();
    table.apply(&scsi(1, 1), &register(Current::Any, vec![scsi(1, 2), scsi(1, 3)])).unwrap();
    assert_eq!(table.registrations().len(), 3);
    // Another initiator port that is registered already.
    let before = table.clone();
    let order = register(Current::None, vec![scsi(3, 1), scsi(1, 2)]);
    assert_eq!(table.apply(&scsi(2, 1), &order), Err(Refusal::Conflict));
    let others: Vec<_> = (2..).map(|number| scsi(number, 9)).take(REGISTRANTS_MAX - 3).collect();
    let order = register(Current::None, others.clone());
    assert_eq!(table.apply(&scsi(2, 1), &order), Err(Refusal::Full));
    assert_eq!(table, before);
    let order = register(Current::None, others[1..].to_vec());
    table.apply(&scsi(2, 1), &order).unwrap();
    assert_eq!(table.join(&nvme(1), 1), Err(Refusal::Full));
    assert_eq!(table.encode().len() % 4, 0);
}

#[test]
fn each_path_of_iscsi_is_a_registrant_and_all_of_an_nvme_host_are_one() {
    let mut table = Table::new();
    table.join(&scsi(1, 1), 5).unwrap();
    table.take(&scsi(1, 1), 5, EA).unwrap();
    assert_eq!(table.access(&scsi(1, 2)), Access::NONE);
    assert_eq!(table.access(&nvme(1)), Access::NONE);
    table.apply(&scsi(1, 1), &Order::Clear { key: 5 }).unwrap();
    table.join(&nvme(1), 5).unwrap();
    assert_eq!(table.join(&nvme(1), 5), Err(Refusal::Conflict));
}

#[test]
fn persistence_follows_the_last_order_that_names_it() {
    let mut table = Table::new();
    let register = |current, key, persist| Order::Register { current, key, also: vec![], persist };
    let a = nvme(1);
    let keep = |table: &mut Table, order: Order| table.apply(&a, &order).unwrap().keep;
    assert_eq!(keep(&mut table, register(Current::None, 1, Persist::Off)), Keep::Unchanged);
    assert_eq!(keep(&mut table, register(Current::Any, 1, Persist::On)), Keep::Write);
    assert_eq!(keep(&mut table, Order::Reserve { key: 1, kind: WE }), Keep::Write);
    assert_eq!(keep(&mut table, Order::Reserve { key: 1, kind: WE }), Keep::Unchanged);
    assert_eq!(keep(&mut table, Order::SetPersist(true)), Keep::Unchanged);
    assert_eq!(keep(&mut table, register(Current::Any, 1, Persist::Off)), Keep::Delete);
    assert_eq!(keep(&mut table, Order::SetPersist(true)), Keep::Write);
    assert!(table.persists());
    assert_eq!(keep(&mut table, Order::Clear { key: 1 }), Keep::Write);
    assert!(table.persists() && !table.is_new());
}

#[test]
fn a_lost_table_lets_nobody_in_until_it_is_replaced() {
    let mut table = Table::lost();
    assert_eq!(table.join(&nvme(1), 1), Err(Refusal::Lost));
    assert_eq!((table.access(&nvme(1)), table.access_of_strangers()), (Access::NONE, Access::NONE));
    let order = Order::ReplaceLost { key: 4, kind: WE };
    let done = table.apply(&scsi(1, 1), &order).unwrap();
    assert_eq!((done.keep, table.is_lost()), (Keep::Write, false));
    assert_eq!(table.access(&nvme(1)), Access { read: true, write: false });
    assert_eq!(table.apply(&scsi(1, 1), &order), Err(Refusal::NotLost));
}

#[test]
fn a_reserved_unit_is_its_sessions_alone() {
    let mut table = Table::new();
    let (a, b) = (scsi(1, 1), nvme(2));
    assert!(table.apply(&a, &Order::ReserveUnit).unwrap().changed);
    assert!(!table.apply(&a, &Order::ReserveUnit).unwrap().changed);
    assert_eq!(table.apply(&b, &Order::ReserveUnit), Err(Refusal::Conflict));
    assert_eq!((table.access(&a), table.access(&b)), (Access::ALL, Access::NONE));
    assert_eq!(table.join(&b, 1), Err(Refusal::Conflict));
    assert_eq!(table.join(&a, 1), Err(Refusal::Conflict));
    assert!(!table.apply(&b, &Order::ReleaseUnit).unwrap().changed);
    assert!(table.apply(&a, &Order::ReleaseUnit).unwrap().changed);
    // Registrants keep others from reserving the unit, and take part themselves.
    table.join(&b, 1).unwrap();
    assert_eq!(table.apply(&a, &Order::ReserveUnit), Err(Refusal::Conflict));
    table.take(&b, 1, WE_RO).unwrap();
    table.join(&a, 2).unwrap();
    assert!(!table.apply(&a, &Order::ReserveUnit).unwrap().changed);
    assert_eq!(table.unit_holder(), None);
}
