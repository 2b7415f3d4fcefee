//! What a node with a large thin volume needs: memory, and time to its first I/O.
//!
//! The volume is touched in every slab, so that all of its metadata are there; the disk is a sparse
//! file. The node runs as a process of its own, as a person starts it.

use crate::load::{self, Load, Pattern};
use crate::peer::free_address;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:4f1d2c3b-0000-4000-8000-0000000ba5a3";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:4f1d2c3b-0000-4000-8000-0000000ba5a4";
/// Bytes of a slab.
const SLAB: u64 = 2 << 20;
const MIB: u64 = 1 << 20;
const BUFFERS: u64 = 64 * MIB;
const CACHE: u64 = 64 * MIB;
const FIRST_IO_TRIES: u32 = 6000;
const FIRST_IO_PERIOD: Duration = Duration::from_millis(5);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Size {
    /// The program.
    #[arg(long, default_value = "target/release/basalt")]
    program: PathBuf,
    /// Folder for the disk (sparse: about 8 GiB are written for each TiB) and the node's files.
    #[arg(long, default_value = "target/bench/size")]
    out: PathBuf,
    /// GiB of the volume.
    #[arg(long, default_value_t = 1024)]
    gib: u64,
    /// Seconds under load before the node is killed.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Runs it and prints what was seen.
pub(crate) fn run(size: &Size) -> Result<()> {
    std::fs::create_dir_all(&size.out)?;
    let disk = size.out.join("disk.img");
    let _ = std::fs::remove_file(&disk);
    let bytes = size.gib << 30;
    let file_gib = (size.gib + size.gib / 64 + 4).to_string() + "GiB";
    let format = ["disk", "format", "--allocate", "sparse", "--mode", "intent", "--size"];
    call(size, &[&format[..], &[&file_gib, &disk.display().to_string()]].concat())?;
    let address = free_address();
    configure(size, &disk, address)?;

    let mut node = start(size)?;
    wait_for(size)?;
    call(size, &["host", "allow", HOST])?;
    call(size, &["volume", "create", "large", &format!("{}GiB", size.gib)])?;
    first_io(address)?;
    report("memory with the volume empty", node.id())?;
    let touched = load::run(&Load { commands: Some(bytes / SLAB), ..touch(address, bytes) })?;
    println!("{} slabs touched, {:.0} a second", bytes / SLAB, touched.iops);
    report("memory with every slab touched", node.id())?;

    let stopping = Clock::start()?;
    kill_process(Pid::from_child(&node), Signal::TERM)?;
    ensure!(node.wait()?.success(), "the node did not end well");
    println!("clean stop: {:.0} ms", stopping.ms()?);
    let (mut node, ms) = start_to_first_io(size, address)?;
    println!("start to first I/O after it: {ms:.0} ms");

    let random = Load {
        pattern: Pattern::RandWrite,
        stride: None,
        depth: 32,
        seconds: size.seconds * 2.0,
        ..touch(address, bytes)
    };
    let writer = std::thread::spawn(move || load::run(&random));
    std::thread::sleep(Duration::from_secs_f64(size.seconds + 1.0));
    report("memory under load", node.id())?;
    node.kill()?;
    node.wait()?;
    let cut = writer.join().expect("the load generator lives");
    ensure!(cut.is_err(), "the load ended before the node was killed");
    let (mut node, ms) = start_to_first_io(size, address)?;
    println!("start to first I/O after `kill -9` under load: {ms:.0} ms");
    report("memory after recovery", node.id())?;
    kill_process(Pid::from_child(&node), Signal::TERM)?;
    node.wait()?;
    std::fs::remove_file(&disk)?;
    Ok(())
}

fn configure(size: &Size, disk: &Path, address: SocketAddr) -> Result<()> {
    let disk = disk.canonicalize()?;
    let text = format!(
        "[node]\nnqn = \"{NQN}\"\ncores = [0]\nbuffers = {BUFFERS}\nmetadata_cache = {CACHE}\n\
         [[disk]]\npath = \"{}\"\n[[portal]]\nlisten = \"{address}\"\n[management]\n\
         socket = \"{}\"\n",
        disk.display(),
        socket(size)?.display(),
    );
    Ok(std::fs::write(size.out.join("node.toml"), text)?)
}

fn socket(size: &Size) -> Result<PathBuf> {
    Ok(size.out.canonicalize()?.join("sock"))
}

fn start(size: &Size) -> Result<Child> {
    let log = File::create(size.out.join("node.log"))?;
    Command::new(&size.program)
        .args(["serve", "--config"])
        .arg(size.out.join("node.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{}: build it first", size.program.display()))
}

fn call(size: &Size, arguments: &[&str]) -> Result<()> {
    let output =
        Command::new(&size.program).args(arguments).env("BASALT_SOCKET", socket(size)?).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn wait_for(size: &Size) -> Result<()> {
    for _ in 0..FIRST_IO_TRIES {
        if call(size, &["node"]).is_ok() {
            return Ok(());
        }
        std::thread::sleep(FIRST_IO_PERIOD);
    }
    bail!("the node does not answer: see {}/node.log", size.out.display());
}

fn touch(address: SocketAddr, bytes: u64) -> Load {
    Load {
        address,
        subsystem: NQN.into(),
        host: HOST.into(),
        namespace: 1,
        pattern: Pattern::Write,
        size: 4096,
        block: 4096,
        span: bytes,
        stride: Some(SLAB),
        depth: 64,
        queues: 1,
        seconds: 1.0,
        core: None,
        commands: None,
    }
}

/// Reads one block; tries until the node answers.
fn first_io(address: SocketAddr) -> Result<()> {
    let one = Load {
        pattern: Pattern::RandRead,
        commands: Some(1),
        depth: 1,
        stride: None,
        ..touch(address, 1 << 30)
    };
    for _ in 0..FIRST_IO_TRIES {
        if load::run(&one).is_ok() {
            return Ok(());
        }
        std::thread::sleep(FIRST_IO_PERIOD);
    }
    bail!("no I/O at {address}");
}

fn start_to_first_io(size: &Size, address: SocketAddr) -> Result<(Child, f64)> {
    let clock = Clock::start()?;
    let node = start(size)?;
    first_io(address)?;
    Ok((node, clock.ms()?))
}

fn report(what: &str, process: u32) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    println!(
        "{what}: {} MiB resident; buffers may be {} MiB of them, the metadata cache {} MiB",
        kib >> 10,
        BUFFERS / MIB,
        CACHE / MIB
    );
    Ok(())
}

/// Time since the machine started, of which measurements are differences.
struct Clock(f64);

impl Clock {
    fn start() -> Result<Self> {
        Ok(Self(now()))
    }

    fn ms(&self) -> Result<f64> {
        Ok((now() - self.0) * 1e3)
    }
}

fn now() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
