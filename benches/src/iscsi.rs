//! The built program's iSCSI target beside Linux's `tgtd` and SPDK's `iscsi_tgt`: one initiator,
//! one processor for every target, in turns.
//!
//! What a target needs is counted in its processor time too: a fast target that burns more of it is
//! none.

use crate::libiscsi;
use crate::peer::{Peer, free_address};
use crate::spdk;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use iscsi_target::testing::{Finished, Initiator, InitiatorConfig};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use storage_spec::iscsi::{LoginResponse, Opcode};
use zerocopy::FromBytes;

const BLOCK: u32 = 4096;
const VOLUME: u64 = 1 << 30;
/// Longest wait for a target's answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a target is asked to let the initiator in after it listens.
const LOGIN_TRIES: u32 = 100;
const LOGIN_PERIOD: Duration = Duration::from_millis(50);
/// The control number of our `tgtd`, beside any that runs.
const TGTD: &str = "77";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Folder for logs and configurations.
    #[arg(long, default_value = "target/bench-iscsi")]
    out: PathBuf,
    /// The built program.
    #[arg(long, default_value = "target/release/basalt")]
    program: PathBuf,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Rounds, in each of which every target is measured once; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Commands in flight.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    depths: Vec<usize>,
    /// Processor of the targets.
    #[arg(long, default_value_t = 0)]
    target_core: usize,
    /// Processor of the initiator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// A built tree of SPDK.
    #[arg(long)]
    spdk: Option<PathBuf>,
    /// Leaves `tgtd` out.
    #[arg(long)]
    no_tgtd: bool,
    /// Initiators, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [By::Ours])]
    by: Vec<By>,
}

/// Who loads the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    /// The initiator of this program: reads and writes.
    Ours,
    /// libiscsi's `iscsi-perf`: reads, whose latencies it does not tell, in whole seconds.
    IscsiPerf,
}

/// A target that runs. It is stopped (SIGSTOP) except while it is measured.
struct Target {
    name: &'static str,
    peer: Peer,
    iqn: String,
    lun: u16,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize)]
struct Measured {
    iops: f64,
    iops_per_cpu_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
}

/// What is measured of each target.
#[derive(Debug, Clone, Copy, Serialize)]
struct Workload {
    by: By,
    write: bool,
    depth: usize,
}

#[derive(Debug, Serialize)]
struct Cell {
    target: &'static str,
    #[serde(flatten)]
    workload: Workload,
    #[serde(flatten)]
    median: Measured,
}

/// Measures every cell, prints a table, and writes `iscsi.json`.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0, "`--runs` is 1 at least");
    fs::create_dir_all(&options.out)?;
    let mut targets = vec![basalt(options)?.prepared()?];
    if !options.no_tgtd {
        targets.push(tgtd(options)?.prepared()?);
    }
    if let Some(tree) = &options.spdk {
        let peer = spdk::iscsi(tree, &options.out, options.target_core, VOLUME)?;
        let target = Target { name: "spdk", peer, iqn: spdk::IQN.into(), lun: 0 };
        targets.push(target.prepared()?);
    }
    pin(options.load_core)?;
    let mut cells = Vec::new();
    println!(
        "{:8} {:10} {:6} {:>5} {:>10} {:>14} {:>9} {:>9}",
        "target", "by", "", "depth", "IOPS", "IOPS per CPU s", "p50 us", "p99 us"
    );
    for workload in options.workloads() {
        let mut all = vec![Vec::new(); targets.len()];
        for _ in 0..options.runs {
            for (target, measured) in targets.iter().zip(&mut all) {
                target.peer.resume()?;
                measured.push(target.measure(workload, options)?);
                target.peer.pause()?;
            }
        }
        for (target, measured) in targets.iter().zip(&all) {
            let cell = Cell { target: target.name, workload, median: median(measured) };
            cell.print();
            cells.push(cell);
        }
    }
    fs::write(options.out.join("iscsi.json"), serde_json::to_string_pretty(&cells)?)?;
    Ok(())
}

impl Options {
    fn workloads(&self) -> Vec<Workload> {
        let mut all = Vec::new();
        for &by in &self.by {
            let kinds = if by == By::Ours { &[false, true][..] } else { &[false] };
            for &write in kinds {
                all.extend(self.depths.iter().map(|&depth| Workload { by, write, depth }));
            }
        }
        all
    }
}

impl Cell {
    fn print(&self) {
        let Workload { by, write, depth } = self.workload;
        let by = by.to_possible_value().expect("none is hidden");
        let what = if write { "write" } else { "read" };
        let Measured { iops, iops_per_cpu_second, p50_us, p99_us } = self.median;
        let shown = |figure: Option<f64>| figure.map_or("-".into(), |us| format!("{us:.1}"));
        println!(
            "{:8} {:10} {what:6} {depth:5} {iops:10.0} {iops_per_cpu_second:14.0} {:>9} {:>9}",
            self.target,
            by.get_name(),
            shown(p50_us),
            shown(p99_us),
        );
    }
}

/// Each figure's median.
fn median(all: &[Measured]) -> Measured {
    let of = |figure: fn(&Measured) -> Option<f64>| {
        let mut figures: Vec<f64> = all.iter().filter_map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    };
    Measured {
        iops: of(|m| Some(m.iops)).expect("measured once at least"),
        iops_per_cpu_second: of(|m| Some(m.iops_per_cpu_second)).expect("as above"),
        p50_us: of(|m| m.p50_us),
        p99_us: of(|m| m.p99_us),
    }
}

fn basalt(options: &Options) -> Result<Target> {
    let (address, other) = (free_address(), free_address());
    let (iqn, folder) = ("iqn.2026-01.bench:basalt".to_owned(), &options.out);
    let text = format!(
        "[node]\nnqn = \"nqn.2026-01.bench:basalt\"\niqn = \"{iqn}\"\ncores = [{}]\n\
         [[disk]]\nram = \"{}MiB\"\n[[portal]]\nlisten = \"{other}\"\n\
         [[portal]]\nprotocol = \"iscsi\"\nlisten = \"{address}\"\n",
        options.target_core,
        (VOLUME >> 20) + 512,
    );
    let (file, socket) = (folder.join("basalt.toml"), folder.join("s"));
    fs::write(&file, text)?;
    let mut command = Command::new(&options.program);
    command.arg("serve").arg("--config").arg(&file).arg("--socket").arg(&socket);
    let peer = Peer::start(command, "basalt", address, folder)?;
    let size = format!("{}MiB", VOLUME >> 20);
    for arguments in [&["host", "allow", "*"][..], &["volume", "create", "v", &size]] {
        let mut command = Command::new(&options.program);
        tell(command.args(arguments).arg("--socket").arg(&socket))?;
    }
    Ok(Target { name: "basalt", peer, iqn, lun: 0 })
}

fn tgtd(options: &Options) -> Result<Target> {
    let address = free_address();
    let iqn = "iqn.2026-01.bench:tgt".to_owned();
    fs::create_dir_all("/run/tgtd")?;
    let mut command = Command::new("taskset");
    command.args(["-c", &options.target_core.to_string(), "tgtd", "-f", "-C", TGTD]);
    command.args(["--iscsi", &format!("portal={address}")]);
    let peer = Peer::start(command, "tgtd", address, &options.out)?;
    // In memory, without checksums.
    let file = PathBuf::from(format!("/dev/shm/basalt-bench-{}", std::process::id()));
    File::create(&file)?.set_len(VOLUME)?;
    let backing = file.display().to_string();
    let unit = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"];
    let block = BLOCK.to_string();
    for arguments in [
        &["--op", "new", "--mode", "target", "--tid", "1", "-T", &iqn][..],
        &[&unit[..], &["-b", &backing, "--blocksize", &block]].concat(),
        &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
    ] {
        tell(Command::new("tgtadm").args(["-C", TGTD, "--lld", "iscsi"]).args(arguments))?;
    }
    // It stays open.
    fs::remove_file(&file)?;
    Ok(Target { name: "tgtd", peer, iqn, lun: 1 })
}

impl Target {
    /// Writes every block, so that none is a hole; then stops it, before the next shares its
    /// processor.
    fn prepared(self) -> Result<Self> {
        let mut session = self.first_session()?;
        let data = vec![0xA5; 256 << 10];
        let blocks = (data.len() as u32) / BLOCK;
        for at in 0..VOLUME / data.len() as u64 {
            let cdb = cdb(0x8A, at * u64::from(blocks), blocks);
            let tag = session.initiator.write(self.lun, &cdb, &data);
            let finished = session.finish(tag)?;
            ensure!(finished.status == 0, "{}: a write ended with {finished:?}", self.name);
        }
        self.peer.pause()?;
        Ok(self)
    }

    /// SPDK listens before its target is there, and turns who comes then away.
    fn first_session(&self) -> Result<Session> {
        for _ in 0..LOGIN_TRIES {
            if let Some(session) = Session::try_open(self)? {
                return Ok(session);
            }
            std::thread::sleep(LOGIN_PERIOD);
        }
        bail!("{}: the target does not let the initiator in", self.name);
    }

    fn measure(&self, workload: Workload, options: &Options) -> Result<Measured> {
        let Workload { by, write, depth } = workload;
        match by {
            By::Ours => self.measure_by_ours(write, depth, options.seconds),
            By::IscsiPerf => self.measure_by_iscsi_perf(depth, options),
        }
    }

    fn measure_by_iscsi_perf(&self, depth: usize, options: &Options) -> Result<Measured> {
        let seconds = options.seconds.ceil() as u64;
        let url = format!("iscsi://{}/{}/{}", self.peer.address, self.iqn, self.lun);
        let before = self.peer.processor_seconds()?;
        let iops = libiscsi::run(&url, depth, seconds, options.load_core)?;
        // Its login and logout are a part of this, too small to matter.
        let cpu = self.peer.processor_seconds()? - before;
        let iops_per_cpu_second = iops * seconds as f64 / cpu;
        Ok(Measured { iops, iops_per_cpu_second, p50_us: None, p99_us: None })
    }

    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn measure_by_ours(&self, write: bool, depth: usize, seconds: f64) -> Result<Measured> {
        let mut session = Session::open(self)?;
        let data = vec![0x5A; BLOCK as usize];
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        let mut flying: Vec<(u32, Instant)> = Vec::with_capacity(depth);
        let mut latencies = Vec::with_capacity(1 << 20);
        // The first part warms up.
        let (begin, mut cpu) = (Instant::now(), 0.0);
        let warm = begin + Duration::from_secs_f64(seconds / 4.0);
        let end = warm + Duration::from_secs_f64(seconds);
        let mut is_warm = false;
        loop {
            let now = Instant::now();
            if !is_warm && now >= warm {
                is_warm = true;
                latencies.clear();
                cpu = self.peer.processor_seconds()?;
            }
            if now >= end {
                break;
            }
            while flying.len() < depth {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let block = random % (VOLUME / u64::from(BLOCK));
                let tag = match write {
                    true => session.initiator.write(self.lun, &cdb(0x8A, block, 1), &data),
                    false => session.initiator.read(self.lun, &cdb(0x88, block, 1), BLOCK),
                };
                flying.push((tag, Instant::now()));
            }
            session.turn()?;
            let mut failed = None;
            flying.retain(|&(tag, at)| match session.initiator.finished(tag) {
                None => true,
                Some(finished) => {
                    latencies.push(at.elapsed().as_nanos() as f64 / 1e3);
                    failed = (finished.status != 0).then_some(finished.status).or(failed);
                    false
                }
            });
            ensure!(failed.is_none(), "{}: a command ended with {failed:?}", self.name);
        }
        let cpu = self.peer.processor_seconds()? - cpu;
        let elapsed = warm.elapsed().as_secs_f64();
        let count = latencies.len() as f64;
        latencies.sort_by(f64::total_cmp);
        let at = |part: f64| latencies[((count - 1.0) * part) as usize];
        Ok(Measured {
            iops: count / elapsed,
            iops_per_cpu_second: count / cpu,
            p50_us: Some(at(0.5)),
            p99_us: Some(at(0.99)),
        })
    }
}

/// A session of the one initiator.
struct Session {
    stream: TcpStream,
    initiator: Initiator,
    bytes: Vec<u8>,
}

impl Session {
    fn open(target: &Target) -> Result<Self> {
        let session = Self::try_open(target)?;
        session.with_context(|| format!("{}: the login is refused", target.name))
    }

    /// A session, if the target lets the initiator in.
    fn try_open(target: &Target) -> Result<Option<Self>> {
        let stream = TcpStream::connect(target.peer.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // What every target takes.
        let config = InitiatorConfig {
            first_burst: 8192,
            send_max: 8192,
            counts: false,
            ..Default::default()
        };
        let initiator = Initiator::new(config);
        let mut session = Self { stream, initiator, bytes: vec![0; 1 << 20] };
        session.initiator.login(&target.iqn);
        while !session.initiator.is_in {
            session.turn()?;
            while let Some(pdu) = session.initiator.take(Opcode::LoginResponse) {
                let response = LoginResponse::read_from_bytes(&pdu.header);
                if response.map_or(0, |response| response.status.get()) != 0 {
                    return Ok(None);
                }
            }
        }
        // Unit attentions of the new session.
        for _ in 0..8 {
            let tag = session.initiator.read(target.lun, &[0; 6], 0);
            if session.finish(tag)?.status == 0 {
                return Ok(Some(session));
            }
        }
        bail!("{}: the unit does not become ready", target.name);
    }

    /// Sends what there is, and takes what comes.
    fn turn(&mut self) -> Result<()> {
        let output = self.initiator.take_output();
        self.stream.write_all(&output)?;
        let count = self.stream.read(&mut self.bytes)?;
        ensure!(count > 0, "the target hung up");
        self.initiator.input(&self.bytes[..count]);
        Ok(())
    }

    fn finish(&mut self, tag: u32) -> Result<Finished> {
        loop {
            if let Some(finished) = self.initiator.finished(tag) {
                return Ok(finished);
            }
            self.turn()?;
        }
    }
}

fn cdb(opcode: u8, block: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&block.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn tell(command: &mut Command) -> Result<()> {
    let told = command.output()?;
    ensure!(told.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told.stderr));
    Ok(())
}

fn pin(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
