//! `basalt stat`: rates and latency percentiles between two snapshots.

use crate::output::Table;
use crate::size::Size;
use dataplane::node::{LATENCY_BUCKETS, OperationCounters, Snapshot, bucket_limit_ns};
use serde::Serialize;
use std::collections::HashMap;

/// Rates of one interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rates {
    /// Length of the interval in seconds.
    pub seconds: f64,
    /// By volume, as in the snapshot.
    pub volumes: Vec<VolumeRates>,
    /// By core, in the order of their processors.
    pub cores: Vec<CoreRates>,
}

/// Rates of one volume.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeRates {
    /// Its name.
    pub name: String,
    /// Reads.
    pub reads: OperationRates,
    /// Writes.
    pub writes: OperationRates,
    /// Failed requests a second.
    pub errors: f64,
}

/// Rates of one kind of operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationRates {
    /// Operations a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// Median latency in microseconds; `None` without operations.
    pub p50_us: Option<f64>,
    /// 99th percentile.
    pub p99_us: Option<f64>,
    /// 99.9th percentile.
    pub p999_us: Option<f64>,
}

/// Rates of one core.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CoreRates {
    /// The processor.
    pub processor: usize,
    /// Commands a second.
    pub iops: f64,
    /// Reads of the hosts that it serves.
    pub reads: OperationRates,
    /// Writes of the hosts that it serves.
    pub writes: OperationRates,
    /// Share of its turns that found work, 0 to 1.
    pub busy: f64,
    /// Share of the time asleep, 0 to 1.
    pub asleep: f64,
    /// System calls for each command; `None` without commands.
    pub system_calls_per_command: Option<f64>,
    /// Connections now.
    pub connections: u64,
    /// Bytes of buffers free now.
    pub buffers_free: u64,
}

/// What happened between two snapshots of the same run of a node. A node that restarted in between
/// is measured from its start.
#[must_use]
pub fn rates(before: &Snapshot, after: &Snapshot) -> Rates {
    let restarted = after.uptime_ns < before.uptime_ns;
    let none = Snapshot::default();
    let before = if restarted { &none } else { before };
    let seconds = (after.uptime_ns - before.uptime_ns).max(1) as f64 / 1e9;
    let old: HashMap<&str, _> = before.volumes.iter().map(|v| (v.name.as_str(), v)).collect();
    let nothing = OperationCounters::default();
    let volumes = after.volumes.iter().map(|now| {
        let then = old.get(now.name.as_str());
        let (reads, writes) = then.map_or((&nothing, &nothing), |then| (&then.reads, &then.writes));
        VolumeRates {
            name: now.name.clone(),
            reads: operations(reads, &now.reads, seconds),
            writes: operations(writes, &now.writes, seconds),
            errors: now.errors.saturating_sub(then.map_or(0, |then| then.errors)) as f64 / seconds,
        }
    });
    let cores = after.cores.iter().map(|now| {
        let then = before.cores.iter().find(|then| then.processor == now.processor);
        let then = then.cloned().unwrap_or_default();
        let commands = now.commands.saturating_sub(then.commands) as f64;
        let turns = now.turns.saturating_sub(then.turns).max(1) as f64;
        let calls = now.system_calls.saturating_sub(then.system_calls) as f64;
        CoreRates {
            processor: now.processor,
            iops: commands / seconds,
            reads: operations(&then.reads, &now.reads, seconds),
            writes: operations(&then.writes, &now.writes, seconds),
            busy: now.busy_turns.saturating_sub(then.busy_turns) as f64 / turns,
            asleep: now.asleep_ns.saturating_sub(then.asleep_ns) as f64 / 1e9 / seconds,
            system_calls_per_command: (commands > 0.0).then_some(calls / commands),
            connections: now.connections,
            buffers_free: now.buffers_free,
        }
    });
    let mut cores: Vec<CoreRates> = cores.collect();
    cores.sort_by_key(|core| core.processor);
    Rates { seconds, volumes: volumes.collect(), cores }
}

fn operations(then: &OperationCounters, now: &OperationCounters, seconds: f64) -> OperationRates {
    let old = then.latency.iter().copied().chain(std::iter::repeat(0));
    let counts: Vec<u64> =
        now.latency.iter().zip(old).map(|(now, then)| now.saturating_sub(then)).collect();
    let percentile = |percent| percentile_us(&counts, percent);
    OperationRates {
        iops: now.operations.saturating_sub(then.operations) as f64 / seconds,
        bytes: now.bytes.saturating_sub(then.bytes) as f64 / seconds,
        p50_us: percentile(50.0),
        p99_us: percentile(99.0),
        p999_us: percentile(99.9),
    }
}

/// The upper limit of the bucket in which the percentile lies.
fn percentile_us(counts: &[u64], percent: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = ((total as f64 * percent / 100.0).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    bucket.map(|index| bucket_limit_ns(index.min(LATENCY_BUCKETS - 1)) as f64 / 1000.0)
}

impl Rates {
    /// Three tables: what was done for volumes, what by cores, and how busy the cores were.
    #[must_use]
    pub fn render(&self) -> String {
        let mut volumes = work("VOLUME", &[">ERR/S"]);
        for volume in &self.volumes {
            volumes.row(
                std::iter::once(volume.name.clone())
                    .chain(cells(&volume.reads))
                    .chain(cells(&volume.writes))
                    .chain([count(volume.errors)]),
            );
        }
        let mut cores = work("CORE", &[]);
        let mut load = Table::new(&[
            "CORE",
            ">COMMANDS/S",
            ">BUSY",
            ">ASLEEP",
            ">SYSCALLS/CMD",
            ">CONNECTIONS",
            ">BUFFERS FREE",
        ]);
        for core in &self.cores {
            let name = core.processor.to_string();
            cores.row(
                std::iter::once(name.clone()).chain(cells(&core.reads)).chain(cells(&core.writes)),
            );
            load.row([
                name,
                count(core.iops),
                format!("{:.0} %", core.busy * 100.0),
                format!("{:.0} %", core.asleep * 100.0),
                core.system_calls_per_command.map_or("-".to_owned(), |n| format!("{n:.2}")),
                core.connections.to_string(),
                Size(core.buffers_free).to_string(),
            ]);
        }
        format!("{}\n{}\n{}", volumes.render(), cores.render(), load.render())
    }
}

/// A table of reads and writes.
fn work(first: &'static str, last: &[&'static str]) -> Table {
    const READS: [&str; 5] = [">READ/S", ">READ B/S", ">P50", ">P99", ">P99.9"];
    const WRITES: [&str; 5] = [">WRITE/S", ">WRITE B/S", ">P50", ">P99", ">P99.9"];
    Table::new(&[&[first], &READS[..], &WRITES[..], last].concat())
}

fn cells(rates: &OperationRates) -> [String; 5] {
    let OperationRates { iops, bytes: moved, p50_us, p99_us, p999_us } = rates;
    [count(*iops), bytes(*moved), time(*p50_us), time(*p99_us), time(*p999_us)]
}

fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn bytes(value: f64) -> String {
    Size(value as u64).to_string()
}

fn time(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1e3 => format!("{us:.0} µs"),
        Some(us) if us < 1e6 => format!("{:.1} ms", us / 1e3),
        Some(us) => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::node::{CoreCounters, VolumeCounters, bucket_of};

    fn snapshot(seconds: u64, reads: u64, slow: u64) -> Snapshot {
        let mut latency = vec![0; LATENCY_BUCKETS];
        latency[bucket_of(20_000)] = reads - slow;
        latency[bucket_of(5_000_000)] = slow;
        let bytes = reads * 4096;
        let reads =
            OperationCounters { operations: reads, bytes, latency, ..OperationCounters::default() };
        Snapshot {
            uptime_ns: seconds * 1_000_000_000,
            volumes: vec![VolumeCounters {
                name: "v".to_owned(),
                reads: reads.clone(),
                ..VolumeCounters::default()
            }],
            cores: vec![CoreCounters {
                processor: 1,
                commands: seconds * 1000,
                system_calls: seconds * 100,
                writes: reads,
                ..CoreCounters::default()
            }],
            disks: Vec::new(),
        }
    }

    #[test]
    fn rates_are_of_the_interval_alone() {
        let rates = rates(&snapshot(10, 1000, 900), &snapshot(12, 3000, 920));
        assert_eq!(rates.seconds, 2.0);
        let reads = &rates.volumes[0].reads;
        assert_eq!(reads.iops, 1000.0);
        assert_eq!(reads.bytes, 4_096_000.0);
        assert!(reads.p50_us.expect("reads") >= 20.0 && reads.p50_us.expect("reads") < 25.0);
        assert!(reads.p999_us.expect("reads") >= 5000.0);
        assert_eq!(rates.volumes[0].writes.p50_us, None);
        assert_eq!(rates.cores[0].iops, 1000.0);
        assert_eq!(rates.cores[0].system_calls_per_command, Some(0.1));
        let of_core = &rates.cores[0].writes;
        assert_eq!(
            (of_core.iops, of_core.bytes, of_core.p50_us),
            (1000.0, 4_096_000.0, reads.p50_us)
        );
        assert_eq!(rates.cores[0].reads.p50_us, None);
        let line = rates.render().lines().filter(|line| line.starts_with("1 ")).count();
        assert_eq!(line, 2, "what the core did, and how busy it was");
        assert!(rates.render().contains("4096000") || rates.render().contains("3.91 MiB"));
    }

    #[test]
    fn a_restart_is_measured_from_its_start() {
        let rates = rates(&snapshot(100, 5000, 0), &snapshot(4, 400, 0));
        assert_eq!(rates.volumes[0].reads.iops, 100.0);
    }
}
