//! The built program's iSCSI target beside Linux's `tgtd` and SPDK's `iscsi_tgt`: one initiator,
//! one processor for every target, in turns.
//!
//! What a target needs is counted in its processor time too: a fast target that burns more of it is
//! none.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use iscsi_target::testing::{Finished, Initiator, InitiatorConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BLOCK: u32 = 4096;
const VOLUME: u64 = 1 << 30;
const START_TRIES: u32 = 400;
const START_PERIOD: Duration = Duration::from_millis(50);
/// Longest wait for a target's answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ticks of processor time in a second (USER_HZ), on every Linux architecture that is served.
const TICKS: f64 = 100.0;
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
}

/// A target that runs. It is stopped (SIGSTOP) except while it is measured.
struct Target {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    iqn: String,
    lun: u16,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize)]
struct Measured {
    iops: f64,
    iops_per_cpu_second: f64,
    p50_us: f64,
    p99_us: f64,
}

#[derive(Debug, Serialize)]
struct Cell {
    target: &'static str,
    write: bool,
    depth: usize,
    #[serde(flatten)]
    median: Measured,
}

/// Measures every cell, prints a table, and writes `iscsi.json`.
pub(crate) fn run(options: &Options) -> Result<()> {
    fs::create_dir_all(&options.out)?;
    let mut targets = vec![basalt(options)?, tgtd(options)?];
    if let Some(tree) = &options.spdk {
        targets.push(spdk(options, tree)?);
    }
    pin(options.load_core)?;
    for target in &targets {
        target.prepare()?;
        target.signal(Signal::STOP)?;
    }
    let mut cells = Vec::new();
    println!(
        "{:8} {:6} {:>5} {:>10} {:>14} {:>9} {:>9}",
        "target", "", "depth", "IOPS", "IOPS per CPU s", "p50 us", "p99 us"
    );
    for (write, &depth) in
        [false, true].into_iter().flat_map(|write| options.depths.iter().map(move |d| (write, d)))
    {
        let mut all = vec![Vec::new(); targets.len()];
        for _ in 0..options.runs {
            for (target, measured) in targets.iter().zip(&mut all) {
                target.signal(Signal::CONT)?;
                measured.push(target.measure(write, depth, options.seconds)?);
                target.signal(Signal::STOP)?;
            }
        }
        for (target, measured) in targets.iter().zip(&all) {
            let median = median(measured);
            let Measured { iops, iops_per_cpu_second, p50_us, p99_us } = median;
            let what = if write { "write" } else { "read" };
            println!(
                "{:8} {what:6} {depth:5} {iops:10.0} {iops_per_cpu_second:14.0} {p50_us:9.1} \
                {p99_us:9.1}",
                target.name
            );
            cells.push(Cell { target: target.name, write, depth, median });
        }
    }
    fs::write(options.out.join("iscsi.json"), serde_json::to_string_pretty(&cells)?)?;
    Ok(())
}

/// Each figure's median.
fn median(all: &[Measured]) -> Measured {
    let of = |figure: fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = all.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Measured {
        iops: of(|m| m.iops),
        iops_per_cpu_second: of(|m| m.iops_per_cpu_second),
        p50_us: of(|m| m.p50_us),
        p99_us: of(|m| m.p99_us),
    }
}

fn basalt(options: &Options) -> Result<Target> {
    let (address, other) = (free_address()?, free_address()?);
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
    let child = spawn(command, &folder.join("basalt.log"))?;
    let mut target = Target { name: "basalt", child, address, iqn, lun: 0 };
    target.wait(folder)?;
    let size = format!("{}MiB", VOLUME >> 20);
    for arguments in [&["host", "allow", "*"][..], &["volume", "create", "v", &size]] {
        let mut command = Command::new(&options.program);
        tell(command.args(arguments).arg("--socket").arg(&socket))?;
    }
    Ok(target)
}

fn tgtd(options: &Options) -> Result<Target> {
    let address = free_address()?;
    let iqn = "iqn.2026-01.bench:tgt".to_owned();
    fs::create_dir_all("/run/tgtd")?;
    let mut command = Command::new("taskset");
    command.args(["-c", &options.target_core.to_string(), "tgtd", "-f", "-C", TGTD]);
    command.args(["--iscsi", &format!("portal={address}")]);
    let child = spawn(command, &options.out.join("tgtd.log"))?;
    let mut target = Target { name: "tgtd", child, address, iqn: iqn.clone(), lun: 1 };
    target.wait(&options.out)?;
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
    Ok(target)
}

fn spdk(options: &Options, tree: &Path) -> Result<Target> {
    let address = free_address()?;
    let configuration = json!({"subsystems": [
        {"subsystem": "bdev", "config": [
            {"method": "bdev_malloc_create", "params":
                {"name": "disk", "num_blocks": VOLUME / u64::from(BLOCK), "block_size": BLOCK}},
        ]},
        {"subsystem": "iscsi", "config": [
            {"method": "iscsi_set_options", "params":
                {"nop_timeout": 600, "nop_in_interval": 60}},
            {"method": "iscsi_create_portal_group", "params": {"tag": 1, "portals":
                [{"host": "127.0.0.1", "port": address.port().to_string()}]}},
            {"method": "iscsi_create_initiator_group", "params":
                {"tag": 2, "initiators": ["ANY"], "netmasks": ["127.0.0.0/8"]}},
            {"method": "iscsi_create_target_node", "params":
                {"name": "bench", "alias_name": "bench", "queue_depth": 64, "disable_chap": true,
                 "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}],
                 "luns": [{"lun_id": 0, "bdev_name": "disk"}]}},
        ]},
    ]});
    let file = options.out.join("spdk.json");
    fs::write(&file, configuration.to_string())?;
    let mut command = Command::new(tree.join("build/bin/iscsi_tgt"));
    command.arg("-m").arg(format!("[{}]", options.target_core)).arg("-c").arg(&file);
    command.arg("-r").arg(options.out.join("spdk.sock"));
    let child = spawn(command, &options.out.join("spdk.log"))?;
    let iqn = "iqn.2016-06.io.spdk:bench".to_owned();
    let mut target = Target { name: "spdk", child, address, iqn, lun: 0 };
    target.wait(&options.out)?;
    Ok(target)
}

impl Target {
    fn wait(&mut self, folder: &Path) -> Result<()> {
        for _ in 0..START_TRIES {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(START_PERIOD);
        }
        bail!("{} did not start: see {}/{}.log", self.name, folder.display(), self.name);
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Writes every block, so that none is a hole.
    fn prepare(&self) -> Result<()> {
        let mut session = Session::open(self)?;
        let data = vec![0xA5; 256 << 10];
        let blocks = (data.len() as u32) / BLOCK;
        for at in 0..VOLUME / data.len() as u64 {
            let cdb = cdb(0x8A, at * u64::from(blocks), blocks);
            let tag = session.initiator.write(self.lun, &cdb, &data);
            let finished = session.finish(tag)?;
            ensure!(finished.status == 0, "{}: a write ended with {finished:?}", self.name);
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn measure(&self, write: bool, depth: usize, seconds: f64) -> Result<Measured> {
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
                cpu = self.processor_seconds()?;
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
        let cpu = self.processor_seconds()? - cpu;
        let elapsed = warm.elapsed().as_secs_f64();
        let count = latencies.len() as f64;
        latencies.sort_by(f64::total_cmp);
        let at = |part: f64| latencies[((count - 1.0) * part) as usize];
        Ok(Measured {
            iops: count / elapsed,
            iops_per_cpu_second: count / cpu,
            p50_us: at(0.5),
            p99_us: at(0.99),
        })
    }

    /// Of all its threads.
    fn processor_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name is in parentheses and may hold spaces; the 12th and 13th field after it.
        let (_, rest) = stat.rsplit_once(')').context("a strange /proc/PID/stat")?;
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        Ok(ticks as f64 / TICKS)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        let stream = TcpStream::connect(target.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // What every target takes.
        let config = InitiatorConfig { first_burst: 8192, send_max: 8192, ..Default::default() };
        let initiator = Initiator::new(config);
        let mut session = Self { stream, initiator, bytes: vec![0; 1 << 20] };
        session.initiator.login(&target.iqn);
        while !session.initiator.is_in {
            session.turn()?;
        }
        // Unit attentions of the new session.
        for _ in 0..8 {
            let tag = session.initiator.read(target.lun, &[0; 6], 0);
            if session.finish(tag)?.status == 0 {
                return Ok(session);
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

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::create(log)?;
    command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
    let name = command.get_program().to_string_lossy().into_owned();
    command.spawn().with_context(|| format!("cannot start {name}: is it built, or installed?"))
}

fn tell(command: &mut Command) -> Result<()> {
    let told = command.output()?;
    ensure!(told.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told.stderr));
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn pin(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
