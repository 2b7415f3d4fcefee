//! Counters of one volume on one core: written by that core alone, read at scrape.

use crate::node::{LATENCY_BUCKETS, OperationCounters, bucket_of};
use nvmeof_target::io::Now;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds to a counter that only this thread writes: cheaper than an atomic addition.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// Operations of one kind.
pub(crate) struct OperationStats {
    operations: AtomicU64,
    bytes: AtomicU64,
    latency_ns: AtomicU64,
    latency: Box<[AtomicU64]>,
}

impl OperationStats {
    fn new() -> Self {
        let latency = (0..LATENCY_BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let zero = || AtomicU64::new(0);
        Self { operations: zero(), bytes: zero(), latency_ns: zero(), latency }
    }

    /// Counts one operation.
    pub(crate) fn record(&self, bytes: u64, latency: Now) {
        add(&self.operations, 1);
        add(&self.bytes, bytes);
        let latency_ns = latency.as_nanos() as u64;
        add(&self.latency_ns, latency_ns);
        add(&self.latency[bucket_of(latency_ns)], 1);
    }

    /// Operations and their bytes.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.operations.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Adds what was counted here to `sum`.
    pub(crate) fn add_to(&self, sum: &mut OperationCounters) {
        sum.operations += self.operations.load(Ordering::Relaxed);
        sum.bytes += self.bytes.load(Ordering::Relaxed);
        sum.latency_ns += self.latency_ns.load(Ordering::Relaxed);
        sum.latency.resize(LATENCY_BUCKETS, 0);
        for (total, bucket) in sum.latency.iter_mut().zip(&self.latency) {
            *total += bucket.load(Ordering::Relaxed);
        }
    }
}

/// What one core counts for one volume.
pub(crate) struct VolumeStats {
    /// Reads, compares and verifies.
    pub(crate) reads: OperationStats,
    /// Everything that changes the volume.
    pub(crate) writes: OperationStats,
    /// Requests that failed.
    pub(crate) errors: AtomicU64,
}

impl VolumeStats {
    pub(crate) fn new() -> Self {
        Self {
            reads: OperationStats::new(),
            writes: OperationStats::new(),
            errors: AtomicU64::new(0),
        }
    }
}
