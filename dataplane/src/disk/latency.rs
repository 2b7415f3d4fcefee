//! How long a disk's reads and writes take, in a histogram that one core writes and any may read.

use super::{Completion, Disk, Info, Op, Tag};
use crate::hardware::CoreTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets for each power of two: a latency is known to an eighth.
const PARTS: usize = 8;
/// From 1 µs, all below together, to 64 s, all above together.
const POWERS: usize = 26;
const BUCKETS: usize = PARTS * POWERS;

/// Counts of latencies since the start, for one disk (or one shard of it).
pub struct Latencies(Box<[AtomicU64; BUCKETS]>);

/// Latencies of some time: the difference of two readings, or the sum of several disks' parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution(Vec<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Box::new([const { AtomicU64::new(0) }; BUCKETS]))
    }
}

impl Latencies {
    /// Counts one. Called by one core alone.
    pub fn record(&self, latency: Duration) {
        let cell = &self.0[bucket(latency)];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Adds the counts so far to `sum`.
    pub fn add_to(&self, sum: &mut Distribution) {
        for (count, cell) in sum.0.iter_mut().zip(&*self.0) {
            *count += cell.load(Ordering::Relaxed);
        }
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Distribution {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What came since an earlier reading of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().zip(&earlier.0).map(|(now, then)| now - then).collect())
    }

    /// The latency that `percent` of all stay below or at; `None` if there are none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        assert!((1..=100).contains(&percent));
        let count = self.count();
        let wanted = (count * percent).div_ceil(100);
        let mut seen = 0;
        let reaches = |part: &u64| {
            seen += part;
            count > 0 && seen >= wanted
        };
        self.0.iter().position(reaches).map(upper_bound)
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = latency.as_micros().min(1 << 40) as u64;
    if micros < PARTS as u64 {
        return micros as usize;
    }
    let power = micros.ilog2() as usize;
    let part = (micros >> (power - 3)) as usize - PARTS;
    ((power - 2) * PARTS + part).min(BUCKETS - 1)
}

/// The largest latency of a bucket, to the microsecond.
fn upper_bound(bucket: usize) -> Duration {
    if bucket < PARTS {
        return Duration::from_micros(bucket as u64);
    }
    let (power, part) = (bucket / PARTS + 2, bucket % PARTS);
    Duration::from_micros((((PARTS + part + 1) as u64) << (power - 3)) - 1)
}

/// A disk whose reads and writes are timed.
pub struct Timed {
    disk: Box<dyn Disk>,
    time: CoreTime,
    latencies: Arc<Latencies>,
    /// What is in flight, by the tag that the disk below sees.
    slots: Vec<(Tag, Duration)>,
    free: Vec<u32>,
}

impl Timed {
    /// Times `disk` by the clock of its core.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, time: CoreTime, latencies: Arc<Latencies>) -> Self {
        let depth = disk.info().queue_depth;
        let slots = vec![(0, Duration::ZERO); depth];
        Self { disk, time, latencies, slots, free: (0..depth as u32).rev().collect() }
    }
}

impl Disk for Timed {
    fn info(&self) -> &Info {
        self.disk.info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        let slot = self.free.pop().expect("no more in flight than the queue is deep");
        self.slots[slot as usize] = (tag, self.time.now());
        self.disk.submit(u64::from(slot), op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let first = done.len();
        self.disk.poll(done);
        for completion in &mut done[first..] {
            let slot = completion.tag as u32;
            let (tag, start) = self.slots[slot as usize];
            self.free.push(slot);
            completion.tag = tag;
            if matches!(completion.op, Op::Read { .. } | Op::Write { .. }) {
                self.latencies.record(self.time.now() - start);
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }

    fn must_poll(&self) -> bool {
        self.disk.must_poll()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;
    use crate::disk::ram::RamDisk;

    #[test]
    fn conformance_of_a_timed_disk() {
        conformance::run(&mut || {
            let disk = Box::new(RamDisk::new("timed", 64 << 20).unwrap());
            Box::new(Timed::new(disk, CoreTime::default(), Arc::default()))
        });
    }

    #[test]
    fn buckets_are_in_order_and_know_a_latency_to_an_eighth() {
        let mut last = 0;
        for micros in (0..4096).chain((12..36).map(|power| 1 << power)) {
            let at = bucket(Duration::from_micros(micros));
            assert!(at >= last && at < BUCKETS);
            last = at;
            if at < BUCKETS - 1 {
                let bound = upper_bound(at).as_micros() as u64;
                assert!(bound >= micros && bound <= micros + micros / 8 + 1, "{micros}: {bound}");
            }
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles() {
        let latencies = Latencies::default();
        let mut before = Distribution::default();
        assert_eq!(before.percentile(50), None);
        latencies.add_to(&mut before);
        (1..=100).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        let mut now = Distribution::default();
        latencies.add_to(&mut now);
        let half = now.since(&before).percentile(50).unwrap().as_micros();
        assert!((50..=56).contains(&half), "{half}");
        assert!(now.percentile(100).unwrap().as_micros() >= 100);
        assert_eq!(now.since(&now).count(), 0);
    }
}
