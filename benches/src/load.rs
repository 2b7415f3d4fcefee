//! The load generator: keeps commands in flight on NVMe/TCP queues and measures them.

use crate::initiator::{Controller, Destination, Queue};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What is done to the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pattern {
    /// Random reads.
    RandRead,
    /// Random writes.
    RandWrite,
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
}

impl Pattern {
    fn is_read(self) -> bool {
        matches!(self, Self::RandRead | Self::Read)
    }

    fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite)
    }
}

/// What to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Portal of the target.
    #[arg(long, default_value = "127.0.0.1:4420")]
    pub(crate) address: SocketAddr,
    /// Subsystem.
    #[arg(long)]
    pub(crate) subsystem: String,
    /// Our host NQN.
    #[arg(long, default_value = "nqn.2014-08.org.nvmexpress:uuid:basalt-load")]
    pub(crate) host: String,
    /// Namespace.
    #[arg(long, default_value_t = 1)]
    pub(crate) namespace: u32,
    /// What to do.
    #[arg(long, value_enum, default_value = "rand-read")]
    pub(crate) pattern: Pattern,
    /// Bytes of each command.
    #[arg(long, default_value_t = 4096)]
    pub(crate) size: usize,
    /// Logical block size of the namespace.
    #[arg(long, default_value_t = 4096)]
    pub(crate) block: usize,
    /// Bytes of the namespace that are used.
    #[arg(long, default_value_t = 1 << 30)]
    pub(crate) span: u64,
    /// Bytes from one position to the next; the command's size when not given.
    #[arg(long)]
    pub(crate) stride: Option<u64>,
    /// Commands in flight on each queue.
    #[arg(long, default_value_t = 32)]
    pub(crate) depth: u16,
    /// I/O queues, each a connection.
    #[arg(long, default_value_t = 1)]
    pub(crate) queues: u16,
    /// Seconds to measure, after one of warming up.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Processor to run on.
    #[arg(long)]
    pub(crate) core: Option<usize>,
    /// Stop after this many commands instead (for filling: span / size).
    #[arg(long)]
    pub(crate) commands: Option<u64>,
}

impl Load {
    fn stride(&self) -> u64 {
        self.stride.unwrap_or(self.size as u64)
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    /// As asked.
    pub(crate) pattern: Pattern,
    /// Bytes of each command.
    pub(crate) size: usize,
    /// Commands in flight on each queue.
    pub(crate) depth: u16,
    /// Queues.
    pub(crate) queues: u16,
    /// Commands a second.
    pub(crate) iops: f64,
    /// Bytes a second.
    pub(crate) bytes_per_second: f64,
    /// Mean latency in microseconds.
    pub(crate) mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// System calls of the host per command.
    pub(crate) host_calls_per_command: f64,
}

/// Latencies in nanoseconds, log-linear: 16 buckets to each power of two.
struct Histogram(Vec<u64>);

impl Histogram {
    fn new() -> Self {
        Self(vec![0; 64 * 16])
    }

    fn record(&mut self, ns: u64) {
        let ns = ns.max(16);
        let octave = ns.ilog2() as usize;
        self.0[octave * 16 + (ns >> (octave - 4)) as usize % 16] += 1;
    }

    fn percentile(&self, part: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let mut left = (total as f64 * part).ceil() as u64;
        for (index, &count) in self.0.iter().enumerate() {
            if count >= left {
                let (octave, step) = (index / 16, index % 16);
                return ((16 + step) as f64 + 0.5) * 2_f64.powi(octave as i32 - 4);
            }
            left -= count;
        }
        0.0
    }
}

/// One queue and the commands that are in flight on it.
struct Lane {
    queue: Queue,
    started: Vec<u64>,
    done: Vec<(u16, u16)>,
}

/// A generator of positions.
struct Positions {
    state: u64,
    next: u64,
    count: u64,
    is_random: bool,
}

impl Positions {
    /// The next position, in strides.
    fn next(&mut self) -> u64 {
        if self.is_random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            return ((u128::from(self.state) * u128::from(self.count)) >> 64) as u64;
        }
        let position = self.next;
        self.next = (self.next + 1) % self.count;
        position
    }
}

struct Run<'a> {
    load: &'a Load,
    lanes: Vec<Lane>,
    positions: Positions,
    clock: Instant,
    histogram: Histogram,
    completed: u64,
    latency_sum: u64,
}

/// Connects, warms up, measures.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub(crate) fn run(load: &Load) -> Result<Measured> {
    ensure!(load.size.is_multiple_of(load.block), "a command is a multiple of the block");
    if let Some(core) = load.core {
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    let destination = Destination {
        address: load.address,
        subsystem: load.subsystem.clone(),
        host: load.host.clone(),
    };
    let controller = Controller::connect(&destination)?;
    let mut lanes = Vec::new();
    for queue in 1..=load.queues {
        let queue = controller.queue(queue, 128.max(load.depth))?;
        let started = vec![0; usize::from(load.depth)];
        lanes.push(Lane { queue, started, done: Vec::with_capacity(usize::from(load.depth)) });
    }
    let positions = Positions {
        state: 0x9E37_79B9_7F4A_7C15,
        next: 0,
        count: load.span / load.stride(),
        is_random: load.pattern.is_random(),
    };
    let mut run = Run {
        load,
        lanes,
        positions,
        clock: Instant::now(),
        histogram: Histogram::new(),
        completed: 0,
        latency_sum: 0,
    };
    run.go()
}

impl Run<'_> {
    fn go(&mut self) -> Result<Measured> {
        for lane in 0..self.lanes.len() {
            for command in 0..self.load.depth {
                self.start(lane, command);
            }
        }
        if let Some(commands) = self.load.commands {
            let began = self.now();
            while self.completed < commands {
                self.turn()?;
            }
            return Ok(self.measured(self.now() - began, 0));
        }
        self.until(Duration::from_secs(1))?;
        self.histogram = Histogram::new();
        (self.completed, self.latency_sum) = (0, 0);
        let (began, calls) = (self.now(), self.calls());
        self.until(Duration::from_secs_f64(self.load.seconds))?;
        Ok(self.measured(self.now() - began, calls))
    }

    fn until(&mut self, time: Duration) -> Result<()> {
        let end = self.now() + time.as_nanos() as u64;
        while self.now() < end {
            for _ in 0..16 {
                self.turn()?;
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let done = &mut lane.done;
            lane.queue.poll(|command| done.push((command.command_id, command.status)))?;
            if lane.done.is_empty() {
                continue;
            }
            let mut done = std::mem::take(&mut lane.done);
            let now = self.now();
            for (command, status) in done.drain(..) {
                ensure!(status == 0, "command {command} failed with status {status:#x}");
                let latency = now - self.lanes[index].started[usize::from(command)];
                self.histogram.record(latency);
                self.latency_sum += latency;
                self.completed += 1;
                self.start(index, command);
            }
            self.lanes[index].done = done;
            self.lanes[index].queue.flush()?;
        }
        Ok(())
    }

    fn start(&mut self, lane: usize, command: u16) {
        let blocks = self.load.size / self.load.block;
        let lba = self.positions.next() * self.load.stride() / self.load.block as u64;
        let now = self.now();
        let lane = &mut self.lanes[lane];
        lane.started[usize::from(command)] = now;
        let (namespace, len) = (self.load.namespace, self.load.size);
        if self.load.pattern.is_read() {
            lane.queue.read(command, namespace, lba, blocks as u32, len);
        } else {
            lane.queue.write(command, namespace, lba, blocks as u32, len);
        }
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn calls(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.queue.calls).sum()
    }

    fn measured(&self, ns: u64, calls_before: u64) -> Measured {
        let seconds = ns as f64 / 1e9;
        let iops = self.completed as f64 / seconds;
        let percentile = |part| self.histogram.percentile(part) / 1000.0;
        Measured {
            pattern: self.load.pattern,
            size: self.load.size,
            depth: self.load.depth,
            queues: self.load.queues,
            iops,
            bytes_per_second: iops * self.load.size as f64,
            mean_us: self.latency_sum as f64 / self.completed.max(1) as f64 / 1000.0,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            host_calls_per_command: (self.calls() - calls_before) as f64
                / self.completed.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_near_what_was_recorded() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|us| histogram.record(us * 1000));
        for (part, expected) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = histogram.percentile(part);
            assert!((found / expected - 1.0).abs() < 0.05, "{part}: {found}");
        }
    }

    #[test]
    fn positions_cover_the_span() {
        let mut positions = Positions { state: 1, next: 0, count: 10, is_random: true };
        let mut seen = [false; 10];
        (0..1000).for_each(|_| seen[positions.next() as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}
