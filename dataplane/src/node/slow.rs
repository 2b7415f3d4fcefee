//! Fail-slow detection: a disk that works, but slower than its peers, and stays so.
//!
//! Every period the median and the 99th percentile of each disk's latencies are compared with the
//! medians of the same among its peers, disks of the same kind. A disk several times slower counts
//! as slow once it was so for several periods, and no longer once it was not for several more: one
//! burst makes no event, and a disk at the edge does not make many.

use crate::disk::latency::Distribution;
use std::time::Duration;

/// A period with fewer operations says nothing.
const COUNT_MIN: u64 = 50;
/// Peers that there must be, with enough operations, to compare with.
const PEERS_MIN: usize = 2;
/// So many times slower than its peers' median.
const FACTOR: u32 = 3;
/// Whoever is as fast as this is not slow, whatever the peers do.
const FAST: Duration = Duration::from_millis(1);
/// Periods in a row until a disk counts as slow, and until it no longer does.
const PERIODS_SLOW: u32 = 6;
const PERIODS_WELL: u32 = 12;

/// What one disk did in a period.
#[derive(Debug, Clone)]
pub(crate) struct Period {
    /// Disks of different kinds are not compared.
    pub(crate) rotational: bool,
    pub(crate) latencies: Distribution,
}

/// A change of mind about a disk, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is slow: its percentile, and its peers'.
    Slow { disk: usize, percent: u64, own: Duration, peers: Duration },
    /// It is not, any more.
    Well { disk: usize },
}

/// What is known of the disks so far.
#[derive(Debug, Default)]
pub(crate) struct SlowWatch {
    disks: Vec<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    is_slow: bool,
    /// Periods in a row that spoke against the present state.
    against: u32,
}

impl SlowWatch {
    /// Takes one period of all disks, and returns what changed.
    pub(crate) fn see(&mut self, periods: &[Period]) -> Vec<Verdict> {
        self.disks.resize(periods.len(), State::default());
        let mut verdicts = Vec::new();
        for disk in 0..periods.len() {
            // Nothing to say about it now: neither better nor worse.
            let Some(compared) = compare(periods, disk) else { continue };
            let state = &mut self.disks[disk];
            if compared.is_some() == state.is_slow {
                state.against = 0;
                continue;
            }
            state.against += 1;
            let patience = if state.is_slow { PERIODS_WELL } else { PERIODS_SLOW };
            if state.against < patience {
                continue;
            }
            *state = State { is_slow: !state.is_slow, against: 0 };
            verdicts.push(match compared {
                Some((percent, own, peers)) => Verdict::Slow { disk, percent, own, peers },
                None => Verdict::Well { disk },
            });
        }
        verdicts
    }
}

/// `None`: there is nothing to compare. `Some(None)`: as fast as its peers. Otherwise by which
/// percentile it is slow, its own and the peers'.
fn compare(periods: &[Period], disk: usize) -> Option<Option<(u64, Duration, Duration)>> {
    let own = &periods[disk];
    let says = |period: &Period| period.latencies.count() >= COUNT_MIN;
    let is_peer = |(number, period): &(usize, &Period)| {
        *number != disk && period.rotational == own.rotational && says(period)
    };
    let peers: Vec<&Period> =
        periods.iter().enumerate().filter(is_peer).map(|(_, period)| period).collect();
    if !says(own) || peers.len() < PEERS_MIN {
        return None;
    }
    let slow = [50, 99].into_iter().find_map(|percent| {
        let of = |period: &Period| period.latencies.percentile(percent).unwrap_or_default();
        let mut theirs: Vec<Duration> = peers.iter().map(|peer| of(peer)).collect();
        theirs.sort_unstable();
        let median = theirs[theirs.len() / 2];
        let is_slow = of(own) > FAST && of(own) > median * FACTOR;
        is_slow.then(|| (percent, of(own), median))
    });
    Some(slow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::latency::Latencies;

    /// Disks that each did a hundred operations of this many microseconds.
    fn periods(micros: &[u64]) -> Vec<Period> {
        let period = |&micros: &u64| {
            let recorded = Latencies::default();
            (0..100).for_each(|_| recorded.record(Duration::from_micros(micros)));
            let mut latencies = Distribution::default();
            recorded.add_to(&mut latencies);
            Period { rotational: false, latencies }
        };
        micros.iter().map(period).collect()
    }

    #[test]
    fn a_slow_disk_is_told_once_and_again_when_it_is_well() {
        let mut watch = SlowWatch::default();
        let (slow, well) = (periods(&[200, 9_000, 220, 180]), periods(&[200, 190, 220, 180]));
        for _ in 1..PERIODS_SLOW {
            assert_eq!(watch.see(&slow), []);
        }
        let told = watch.see(&slow);
        assert!(matches!(told[..], [Verdict::Slow { disk: 1, percent: 50, .. }]), "{told:?}");
        for _ in 0..20 {
            assert_eq!(watch.see(&slow), []);
        }
        for _ in 1..PERIODS_WELL {
            assert_eq!(watch.see(&well), []);
        }
        assert_eq!(watch.see(&slow), [], "one bad period, and it starts over");
        for _ in 1..PERIODS_WELL {
            assert_eq!(watch.see(&well), []);
        }
        assert_eq!(watch.see(&well), [Verdict::Well { disk: 1 }]);
    }

    #[test]
    fn what_cannot_be_compared_is_not_judged() {
        let mut watch = SlowWatch::default();
        for _ in 0..50 {
            assert_eq!(watch.see(&periods(&[100, 90_000])), [], "one peer tells nothing");
            assert_eq!(watch.see(&periods(&[100, 900, 110])), [], "fast enough");
            assert_eq!(watch.see(&periods(&[20_000, 21_000, 19_000])), [], "all alike");
            let mut mixed = periods(&[100, 9_000, 100]);
            mixed[1].rotational = true;
            assert_eq!(watch.see(&mixed), [], "another kind");
        }
    }

    #[test]
    fn a_long_tail_is_slow_too() {
        let recorded = Latencies::default();
        (0..97).for_each(|_| recorded.record(Duration::from_micros(100)));
        (0..3).for_each(|_| recorded.record(Duration::from_millis(400)));
        let mut latencies = Distribution::default();
        recorded.add_to(&mut latencies);
        let mut disks = periods(&[100, 100, 100]);
        disks[2].latencies = latencies;
        let mut watch = SlowWatch::default();
        let told: Vec<Verdict> = (0..PERIODS_SLOW).flat_map(|_| watch.see(&disks)).collect();
        assert!(matches!(told[..], [Verdict::Slow { disk: 2, percent: 99, .. }]), "{told:?}");
    }
}
