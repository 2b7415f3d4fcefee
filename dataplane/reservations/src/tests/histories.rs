//! Random histories against an oracle: a list of hosts with their keys, and rules written down as
//! the standards tell them, one host at a time.

use super::{nvme, scsi};
use crate::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn somebody() -> impl Strategy<Value = Registrant> {
    prop_oneof![(1..4_u8).prop_map(nvme), (1..3_u8, 1..3_u16).prop_map(|(n, g)| scsi(n, g))]
}

fn some_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&Kind::ALL[..])
}

fn some_persist() -> impl Strategy<Value = Persist> {
    prop::sample::select(&[Persist::Unchanged, Persist::Off, Persist::On][..])
}

fn some_current() -> impl Strategy<Value = Current> {
    prop_oneof![
        3 => Just(Current::None),
        1 => Just(Current::NoneOrSame),
        2 => (0..4_u64).prop_map(Current::Is),
        2 => Just(Current::Any),
    ]
}

fn some_order() -> impl Strategy<Value = Order> {
    let key = 0..4_u64;
    let register = (some_current(), key.clone(), prop::collection::vec(somebody(), 0..2))
        .prop_flat_map(|(current, key, also)| {
            some_persist().prop_map(move |persist| Order::Register {
                current,
                key,
                also: also.clone(),
                persist,
            })
        });
    prop_oneof![
        6 => register,
        2 => (some_current(), some_persist())
            .prop_map(|(current, persist)| Order::Unregister { current, persist }),
        6 => (key.clone(), some_kind()).prop_map(|(key, kind)| Order::Reserve { key, kind }),
        4 => (key.clone(), key.clone(), some_kind(), any::<bool>())
            .prop_map(|(key, victim, kind, abort)| Order::Preempt { key, victim, kind, abort }),
        2 => (key.clone(), some_kind()).prop_map(|(key, kind)| Order::Release { key, kind }),
        1 => key.clone().prop_map(|key| Order::Clear { key }),
        1 => (key.clone(), key, somebody(), any::<bool>()).prop_map(
            |(key, new_key, to, unregister)| {
                let persist = Persist::Unchanged;
                Order::Move { key, new_key, to, unregister, persist }
            }
        ),
        1 => any::<bool>().prop_map(Order::SetPersist),
    ]
}

pub(super) fn history() -> impl Strategy<Value = Vec<(Registrant, Order)>> {
    prop::collection::vec((somebody(), some_order()), 0..40)
}

/// What the table must say.
#[derive(Debug, Clone, Default, PartialEq)]
struct Oracle {
    keys: BTreeMap<Registrant, Key>,
    kind: Option<Kind>,
    /// All of them for a type of all registrants.
    holders: Vec<Registrant>,
}

impl Oracle {
    fn holds(&self, who: &Registrant) -> bool {
        self.holders.contains(who)
    }

    fn set_holder(&mut self, kind: Kind, who: &Registrant) {
        self.kind = Some(kind);
        self.holders = vec![who.clone()];
    }

    /// Whether the order is done, and who is unregistered against his will.
    fn apply(&mut self, who: &Registrant, order: &Order) -> Option<Vec<Registrant>> {
        let own = self.keys.get(who).copied();
        let mut gone = Vec::new();
        match order.clone() {
            Order::Register { current, key, also, .. } => {
                let fits = fits(current, own, Some(key));
                let elsewhere = |one: &&Registrant| match (*one, who) {
                    (Registrant::Scsi(one), Registrant::Scsi(who)) => {
                        one.isid() != who.isid() || one.initiator() != who.initiator()
                    }
                    (one, who) => one != who,
                };
                let taken = also.iter().filter(elsewhere).any(|one| self.keys.contains_key(one));
                if !fits || key == 0 || taken {
                    return None;
                }
                for one in also.into_iter().chain([who.clone()]) {
                    self.keys.insert(one, key);
                }
            }
            Order::Unregister { current, .. } => {
                if !fits(current, own, own) {
                    return None;
                }
                self.keys.remove(who);
            }
            Order::SetPersist(_) => {}
            Order::Reserve { key, kind } => {
                if own != Some(key) || self.kind.is_some_and(|k| k != kind || !self.holds(who)) {
                    return None;
                }
                if self.kind.is_none() {
                    self.set_holder(kind, who);
                }
            }
            Order::Release { key, kind } => {
                if own != Some(key) || self.holds(who) && self.kind != Some(kind) {
                    return None;
                }
                if self.holds(who) {
                    self.kind = None;
                }
            }
            Order::Clear { key } => {
                if own != Some(key) {
                    return None;
                }
                self.keys.clear();
            }
            Order::Preempt { .. } => gone = self.preempt(who, order)?,
            Order::Move { .. } => self.hand_over(who, order)?,
            Order::ReplaceLost { .. } | Order::ReserveUnit | Order::ReleaseUnit => unreachable!(),
        }
        self.settle();
        Some(gone)
    }

    fn preempt(&mut self, who: &Registrant, order: &Order) -> Option<Vec<Registrant>> {
        let Order::Preempt { key, victim, kind, .. } = *order else { unreachable!() };
        if self.keys.get(who) != Some(&key) {
            return None;
        }
        let all = self.kind.is_some_and(Kind::is_all_registrants);
        let wins = match victim {
            0 => all,
            _ => !all && self.holders.iter().any(|one| self.keys[one] == victim),
        };
        if victim == 0 && !all || victim != 0 && self.keys.values().all(|k| *k != victim) {
            return None;
        }
        let meant = self.keys.iter().filter(|(_, key)| victim == 0 || **key == victim);
        let gone: Vec<_> = meant.map(|(one, _)| one.clone()).filter(|one| one != who).collect();
        for one in &gone {
            self.keys.remove(one);
        }
        if wins {
            self.set_holder(kind, who);
        }
        Some(gone)
    }

    fn hand_over(&mut self, who: &Registrant, order: &Order) -> Option<()> {
        let Order::Move { key, new_key, to, unregister, .. } = order else { unreachable!() };
        let sole = self.holds(who) && !self.kind.is_some_and(Kind::is_all_registrants);
        if self.keys.get(who) != Some(key) || !sole || *new_key == 0 || to == who {
            return None;
        }
        self.keys.insert(to.clone(), *new_key);
        self.holders = vec![to.clone()];
        if *unregister {
            self.keys.remove(who);
        }
        Some(())
    }

    /// What follows from who is registered.
    fn settle(&mut self) {
        if self.kind.is_some_and(Kind::is_all_registrants) {
            self.holders = self.keys.keys().cloned().collect();
        } else {
            self.holders.retain(|one| self.keys.contains_key(one));
        }
        if self.holders.is_empty() {
            self.kind = None;
        }
        if self.kind.is_none() {
            self.holders.clear();
        }
    }

    fn access(&self, who: &Registrant) -> (bool, bool) {
        use Kind::*;
        let registered = self.keys.contains_key(who);
        match self.kind {
            None => (true, true),
            Some(_) if self.holds(who) => (true, true),
            Some(WriteExclusive) => (true, false),
            Some(ExclusiveAccess) => (false, false),
            Some(WriteExclusiveRegistrantsOnly | WriteExclusiveAllRegistrants) => {
                (true, registered)
            }
            Some(ExclusiveAccessRegistrantsOnly | ExclusiveAccessAllRegistrants) => {
                (registered, registered)
            }
        }
    }
}

fn fits(current: Current, own: Option<Key>, new: Option<Key>) -> bool {
    match current {
        Current::None => own.is_none(),
        Current::NoneOrSame => own.is_none() || own == new,
        Current::Is(key) => own == Some(key),
        Current::Any => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn tables_are_what_the_oracle_says(orders in history()) {
        let (mut table, mut oracle) = (Table::new(), Oracle::default());
        for (who, order) in orders {
            let before = table.clone();
            let result = table.apply(&who, &order);
            let gone = oracle.apply(&who, &order);
            prop_assert_eq!(result.is_ok(), gone.is_some(), "{:?} {:?}", order, result);
            let Ok(outcome) = result else {
                prop_assert_eq!(&table, &before);
                continue;
            };
            let keys: BTreeMap<_, _> =
                table.registrations().map(|one| (one.who.clone(), one.key)).collect();
            prop_assert_eq!(&keys, &oracle.keys);
            prop_assert_eq!(table.reservation().map(|held| held.kind), oracle.kind);
            for one in table.registrations() {
                prop_assert_eq!(one.is_holder, oracle.holds(one.who));
            }
            for number in 1..4 {
                for who in [nvme(number), scsi(number, 1), scsi(number, 2)] {
                    let access = table.access(&who);
                    prop_assert_eq!((access.read, access.write), oracle.access(&who));
                    if table.access(&who) != before.access(&who) {
                        prop_assert!(outcome.changed);
                    }
                }
            }
            let is_preempt = matches!(order, Order::Preempt { .. });
            let preempted: Vec<_> = outcome.notices.iter()
                .filter(|notify| notify.what == Notice::RegistrationPreempted)
                .map(|notify| notify.who.clone()).collect();
            let mut sorted = preempted.clone();
            sorted.sort();
            prop_assert_eq!(sorted, gone.unwrap_or_default());
            prop_assert!(outcome.notices.iter().all(|notify| notify.who != who));
            let aborts = matches!(order, Order::Preempt { abort: true, .. });
            prop_assert_eq!(outcome.aborts, if aborts { preempted } else { vec![] });
            prop_assert!(is_preempt || before.registrations().len() < 2 || !aborts);
        }
    }
}
