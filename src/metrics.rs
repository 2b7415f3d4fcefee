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

const CORES: [Row<CoreCounters>; 14] = [
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
    ("core_reads", "Reads completed for its hosts", MetricType::Counter, |c| {
        c.reads.operations as f64
    }),
    ("core_read_bytes", "Bytes read for its hosts", MetricType::Counter, |c| c.reads.bytes as f64),
    ("core_writes", "Writes completed for its hosts", MetricType::Counter, |c| {
        c.writes.operations as f64
    }),
    ("core_written_bytes", "Bytes written for its hosts", MetricType::Counter, |c| {
        c.writes.bytes as f64
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

const DISKS: [Row<DiskCounters>; 10] = [
    ("disk_capacity_bytes", "Bytes for data", MetricType::Gauge, |d| d.capacity as f64),
    ("disk_free_bytes", "Bytes free", MetricType::Gauge, |d| d.free as f64),
    ("disk_refused_full", "Writes refused for want of room", MetricType::Counter, |d| {
        d.refused_full as f64
    }),
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
        let (cores, volumes) = (&snapshot.cores, &snapshot.volumes);
        let core = |c: &CoreCounters| ("core", c.processor.to_string());
        let volume = |v: &VolumeCounters| ("volume", v.name.clone());
        latency(&mut encoder, "core_read_latency_seconds", cores, core, |c| &c.reads)?;
        latency(&mut encoder, "core_write_latency_seconds", cores, core, |c| &c.writes)?;
        latency(&mut encoder, "volume_read_latency_seconds", volumes, volume, |v| &v.reads)?;
        latency(&mut encoder, "volume_write_latency_seconds", volumes, volume, |v| &v.writes)
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

fn latency<T>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &str,
    items: &[T],
    label: impl Fn(&T) -> (&'static str, String),
    of: impl Fn(&T) -> &OperationCounters,
) -> fmt::Result {
    let help = "Time from a command's arrival to its completion";
    let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Histogram)?;
    for item in items {
        let OperationCounters { latency: counts, latency_ns, .. } = of(item);
        let octaves = counts.chunks(BUCKETS_PER_OCTAVE).enumerate().map(|(octave, counts)| {
            let limit = bucket_limit_ns(octave * BUCKETS_PER_OCTAVE + BUCKETS_PER_OCTAVE - 1);
            (limit as f64 / NS_PER_S, total(counts))
        });
        let mut buckets: Vec<(f64, u64)> = octaves.collect();
        // What the last bucket counts has no upper limit.
        let last = buckets.pop().map_or(0, |(_, count)| count);
        buckets.push((f64::INFINITY, last));
        family.encode_family(&[label(item)])?.encode_histogram::<NoLabelSet>(
            *latency_ns as f64 / NS_PER_S,
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

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::node::{LATENCY_BUCKETS, bucket_of};

    fn snapshot() -> Snapshot {
        let mut latency = vec![0; LATENCY_BUCKETS];
        latency[bucket_of(1_500)] = 3;
        latency[bucket_of(1_000_000)] = 1;
        let reads =
            OperationCounters { operations: 4, bytes: 16384, latency_ns: 1_004_321, latency };
        Snapshot {
            uptime_ns: 1_500_000_000,
            cores: vec![CoreCounters {
                processor: 2,
                turns: 7,
                writes: reads.clone(),
                ..CoreCounters::default()
            }],
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
            "basalt_volume_read_latency_seconds_sum{volume=\"a\\\"b\"} 0.001004321",
            "basalt_core_writes_total{core=\"2\"} 4.0",
            "basalt_core_write_latency_seconds_sum{core=\"2\"} 0.001004321",
            "basalt_core_write_latency_seconds_bucket{le=\"0.000002\",core=\"2\"} 3",
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
