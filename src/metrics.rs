//! The node's counters as Prometheus text. `docs/operating/events-and-metrics.md` lists them.

use dataplane::node::{
    CoreCounters, DiskCounters, OperationCounters, Snapshot, VolumeCounters, bucket_limit_ns,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// Content type of [`text()`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Latency buckets are told by octave: every fourth of the node's.
const BUCKETS_PER_OCTAVE: usize = 4;
const NS_PER_S: f64 = 1e9;

/// The snapshot in the OpenMetrics text format.
#[must_use]
pub fn text(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("basalt");
    registry.register_collector(Box::new(Scrape(snapshot.clone())));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a String takes everything");
    out
}

#[derive(Debug)]
struct Scrape(Snapshot);

type Value<T> = fn(&T) -> f64;
/// Name, help, and where the value is; a counter's name gets `_total` from the encoder.
type Row<T> = (&'static str, &'static str, MetricType, Value<T>);

const CORES: [Row<CoreCounters>; 10] = [
    ("core_turns", "Turns of the core's loop", MetricType::Counter, |c| c.turns as f64),
    ("core_busy_turns", "Turns that found work", MetricType::Counter, |c| c.busy_turns as f64),
    ("core_asleep_seconds", "Time asleep", MetricType::Counter, |c| c.asleep_ns as f64 / NS_PER_S),
    ("core_system_calls", "System calls made", MetricType::Counter, |c| c.system_calls as f64),
    ("core_connections", "Connections served now", MetricType::Gauge, |c| c.connections as f64),
    ("core_buffers_free_bytes", "Buffer memory free", MetricType::Gauge, |c| c.buffers_free as f64),
    (
        "core_digest_second_passes",
        "Digests that needed a pass of their own over the data",
        MetricType::Counter,
        |c| c.digest_second_passes as f64,
    ),
    ("core_digest_errors", "Digests that did not match", MetricType::Counter, |c| {
        c.digest_errors as f64
    }),
    ("core_commands", "Commands executed on I/O queues", MetricType::Counter, |c| {
        c.commands as f64
    }),
    ("core_up", "1 for each core of the node", MetricType::Gauge, |_| 1.0),
];

const VOLUMES: [Row<VolumeCounters>; 5] = [
    ("volume_reads", "Reads completed", MetricType::Counter, |v| v.reads.operations as f64),
    ("volume_read_bytes", "Bytes read", MetricType::Counter, |v| v.reads.bytes as f64),
    ("volume_writes", "Writes completed", MetricType::Counter, |v| v.writes.operations as f64),
    ("volume_written_bytes", "Bytes written", MetricType::Counter, |v| v.writes.bytes as f64),
    ("volume_errors", "Requests that failed", MetricType::Counter, |v| v.errors as f64),
];

const DISKS: [Row<DiskCounters>; 8] = [
    ("disk_capacity_bytes", "Bytes for data", MetricType::Gauge, |d| d.capacity as f64),
    ("disk_free_bytes", "Bytes free", MetricType::Gauge, |d| d.free as f64),
    (
        "disk_checksum_errors",
        "Blocks that did not match their checksum",
        MetricType::Counter,
        |d| d.checksum_errors as f64,
    ),
    ("disk_journal_bytes", "Bytes written to journals", MetricType::Counter, |d| {
        d.journal_bytes as f64
    }),
    ("disk_checkpoints", "Checkpoints taken", MetricType::Counter, |d| d.checkpoints as f64),
    ("disk_metadata_hits", "Metadata pages found in memory", MetricType::Counter, |d| {
        d.metadata_hits as f64
    }),
    ("disk_metadata_misses", "Metadata pages read from the disk", MetricType::Counter, |d| {
        d.metadata_misses as f64
    }),
    ("disk_failed", "1 if the disk has failed", MetricType::Gauge, |d| {
        f64::from(u8::from(d.failed))
    }),
    ("disk_offline", "1 if the disk is not served", MetricType::Gauge, |d| {
        f64::from(u8::from(d.offline))
    }),
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = &self.0;
        let uptime = "Time since the node started";
        encoder
            .encode_descriptor("uptime_seconds", uptime, None, MetricType::Gauge)?
            .encode_gauge(&(snapshot.uptime_ns as f64 / NS_PER_S))?;
        rows(&mut encoder, "core", &CORES, &snapshot.cores, |core| core.processor.to_string())?;
        rows(&mut encoder, "volume", &VOLUMES, &snapshot.volumes, |volume| volume.name.clone())?;
        rows(&mut encoder, "disk", &DISKS, &snapshot.disks, |disk| disk.path.clone())?;
        latency(&mut encoder, "volume_read_latency_seconds", &snapshot.volumes, |v| &v.reads)?;
        latency(&mut encoder, "volume_write_latency_seconds", &snapshot.volumes, |v| &v.writes)
    }
}

fn rows<T>(
    encoder: &mut DescriptorEncoder<'_>,
    label: &'static str,
    rows: &[Row<T>],
    items: &[T],
    name: impl Fn(&T) -> String,
) -> fmt::Result {
    for (metric, help, kind, value) in rows {
        let mut family = encoder.encode_descriptor(metric, help, None, *kind)?;
        for item in items {
            let labels = [(label, name(item))];
            let mut one = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => {
                    one.encode_counter::<NoLabelSet, f64, f64>(&value(item), None)?;
                }
                _ => one.encode_gauge(&value(item))?,
            }
        }
    }
    Ok(())
}

fn latency(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &str,
    volumes: &[VolumeCounters],
    of: impl Fn(&VolumeCounters) -> &OperationCounters,
) -> fmt::Result {
    let help = "Time from a command's arrival to its completion; the sum is from bucket midpoints";
    let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Histogram)?;
    for volume in volumes {
        let counts = &of(volume).latency;
        let octaves = counts.chunks(BUCKETS_PER_OCTAVE).enumerate().map(|(octave, counts)| {
            let limit = bucket_limit_ns(octave * BUCKETS_PER_OCTAVE + BUCKETS_PER_OCTAVE - 1);
            (limit as f64 / NS_PER_S, counts.iter().sum::<u64>())
        });
        let mut buckets: Vec<(f64, u64)> = octaves.collect();
        // What the last bucket counts has no upper limit.
        buckets.pop();
        buckets
            .push((f64::INFINITY, counts.chunks(BUCKETS_PER_OCTAVE).next_back().map_or(0, total)));
        let labels = [("volume", volume.name.clone())];
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            sum_seconds(counts),
            total(counts),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().sum()
}

fn sum_seconds(counts: &[u64]) -> f64 {
    let middle = |index: usize| {
        let below = index.checked_sub(1).map_or(0, bucket_limit_ns);
        (below + bucket_limit_ns(index)) as f64 / 2.0 / NS_PER_S
    };
    counts.iter().enumerate().fold(0.0, |sum, (index, count)| sum + middle(index) * *count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::node::{LATENCY_BUCKETS, bucket_of};

    fn snapshot() -> Snapshot {
        let mut latency = vec![0; LATENCY_BUCKETS];
        latency[bucket_of(1_500)] = 3;
        latency[bucket_of(1_000_000)] = 1;
        let reads = OperationCounters { operations: 4, bytes: 16384, latency };
        Snapshot {
            uptime_ns: 1_500_000_000,
            cores: vec![CoreCounters { processor: 2, turns: 7, ..CoreCounters::default() }],
            volumes: vec![VolumeCounters {
                name: "a\"b".to_owned(),
                reads,
                ..VolumeCounters::default()
            }],
            disks: vec![DiskCounters {
                path: "/dev/x".to_owned(),
                failed: true,
                ..DiskCounters::default()
            }],
        }
    }

    #[test]
    fn the_text_has_every_family() {
        let text = text(&snapshot());
        for line in [
            "basalt_uptime_seconds 1.5",
            "basalt_core_turns_total{core=\"2\"} 7.0",
            "basalt_volume_reads_total{volume=\"a\\\"b\"} 4.0",
            "basalt_disk_failed{disk=\"/dev/x\"} 1.0",
            "basalt_disk_offline{disk=\"/dev/x\"} 0.0",
            "basalt_volume_read_latency_seconds_count{volume=\"a\\\"b\"} 4",
            "basalt_volume_read_latency_seconds_bucket{le=\"0.000002\",volume=\"a\\\"b\"} 3",
            "basalt_volume_read_latency_seconds_bucket{le=\"+Inf\",volume=\"a\\\"b\"} 4",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn an_idle_node_has_text_too() {
        assert!(text(&Snapshot::default()).ends_with("# EOF\n"));
    }
}
