use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A sorted map that does the same, slowly: keyed by tick, then by insertion.
#[derive(Default)]
struct Oracle {
    timers: BTreeMap<(u64, u64), u64>,
    now: u64,
}

impl Oracle {
    fn pop_due(&mut self, now: Now) -> Option<u64> {
        self.now = ticks_passed(now);
        let entry = self.timers.first_entry().filter(|entry| entry.key().0 <= self.now)?;
        Some(entry.remove())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(Duration),
    Cancel(usize),
    Advance(Duration),
    TakeOne,
}

/// From less than a tick to beyond the horizon, near the borders of slots more often than not.
fn spans() -> impl Strategy<Value = Duration> {
    let near_a_border = (0..8u32, 0..70u64, -2i64..3).prop_map(|(level, slots, ticks)| {
        let span = (slots << (SLOT_BITS * level).min(50)).saturating_add_signed(ticks);
        Duration::from_nanos(span.saturating_mul(TICK).min(u64::MAX / 4))
    });
    let any = (0..60u32).prop_flat_map(|bits| 0..1u64 << bits).prop_map(Duration::from_nanos);
    prop_oneof![near_a_border, any]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => spans().prop_map(Step::Insert),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => spans().prop_map(Step::Advance),
        1 => Just(Step::TakeOne),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn does_what_a_sorted_map_does(start in spans(), steps in steps()) {
        let mut wheel = Wheel::new(start, 0);
        let mut oracle = Oracle { now: ticks_passed(start), ..Oracle::default() };
        let mut now = start;
        let mut set = Vec::new();
        for (number, step) in (0u64..).zip(steps) {
            match step {
                Step::Insert(after) => {
                    let deadline = now.saturating_add(after);
                    let key = (ticks_until_end(deadline).max(oracle.now), number);
                    set.push((wheel.insert(deadline, number), key));
                    oracle.timers.insert(key, number);
                }
                Step::Cancel(which) if !set.is_empty() => {
                    let (id, key) = set[which % set.len()];
                    prop_assert_eq!(wheel.cancel(id), oracle.timers.remove(&key));
                }
                Step::Cancel(_) => {}
                Step::Advance(by) => {
                    now = now.saturating_add(by).min(Duration::from_nanos(u64::MAX / 2));
                    loop {
                        let due = wheel.pop_due(now);
                        prop_assert_eq!(due, oracle.pop_due(now));
                        if due.is_none() {
                            break;
                        }
                    }
                }
                Step::TakeOne => prop_assert_eq!(wheel.pop_due(now), oracle.pop_due(now)),
            }
            prop_assert_eq!(wheel.len(), oracle.timers.len());
            let next = oracle.timers.first_key_value().map(|((tick, _), _)| *tick);
            let told = wheel.next_deadline().map(ticks_passed);
            prop_assert_eq!(told.is_some(), next.is_some());
            prop_assert!(told <= next, "told {:?}, due {:?}", told, next);
        }
    }
}

#[test]
fn following_the_deadlines_reaches_every_timer_in_few_steps() {
    let mut wheel = Wheel::new(Duration::ZERO, 8);
    let deadlines = [1, 7, 100, 5_000, 1_000_000, 90_000_000, 7_000_000_000];
    for millis in deadlines {
        wheel.insert(Duration::from_millis(millis), millis);
    }
    let mut steps = 0;
    let mut due = Vec::new();
    while let Some(now) = wheel.next_deadline() {
        steps += 1;
        while let Some(millis) = wheel.pop_due(now) {
            assert!(now >= Duration::from_millis(millis), "never early");
            assert!(now <= Duration::from_millis(millis) + Duration::from_nanos(TICK));
            due.push(millis);
        }
    }
    assert_eq!(due, deadlines);
    assert!(steps <= deadlines.len() * LEVELS, "{steps} wake-ups");
}

#[test]
fn deadlines_are_rounded_up_to_a_tick() {
    let mut wheel = Wheel::new(Duration::ZERO, 1);
    wheel.insert(Duration::from_nanos(TICK + 1), ());
    assert_eq!(wheel.next_deadline(), Some(Duration::from_nanos(2 * TICK)));
    assert_eq!(wheel.pop_due(Duration::from_nanos(2 * TICK - 1)), None);
    assert_eq!(wheel.pop_due(Duration::from_nanos(2 * TICK)), Some(()));
}

#[test]
fn a_cancelled_timer_frees_its_place_and_its_id() {
    let mut wheel = Wheel::new(Duration::ZERO, 1);
    let first = wheel.insert(Duration::from_secs(1), 'a');
    assert_eq!(wheel.cancel(first), Some('a'));
    assert_eq!(wheel.cancel(first), None);
    let second = wheel.insert(Duration::from_secs(1), 'b');
    assert_eq!(wheel.cancel(first), None, "the old id does not reach the new timer");
    assert_eq!(wheel.pop_due(Duration::from_secs(2)), Some('b'));
    assert_eq!(wheel.cancel(second), None);
    assert_eq!((wheel.len(), wheel.entries.len()), (0, 1));
    assert_eq!(wheel.next_deadline(), None);
}
