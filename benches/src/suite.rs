//! The macro suite: a node on one core, the load generator on another, over loopback.
//!
//! Every cell is measured several times and the median kept. System calls and heap allocations of
//! the node are counted beside.

use crate::allocations;
use crate::load::{self, Load, Measured, Pattern};
use crate::plot;
use crate::spdk;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use dataplane::disk::kernel::{Allocation, KernelFile, KernelOptions, SelfDriven, create_file};
use dataplane::dma::Arena;
use dataplane::node::{
    Answer, Command, DiskConfig, DiskSource, NodeConfig, NodeHandle, PortalConfig, start,
};
use dataplane::store::{self, FormatOptions, Mode};
use dataplane::uring::{Ring, RingOptions};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:4f1d2c3b-0000-4000-8000-0000000ba5a1";
const DISK: u64 = 3 << 30;
const VOLUME: u64 = 2 << 30;
/// Counters are published this often at least.
const SETTLE: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Suite {
    /// Folder for the results, and for the disk file.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measurements of each cell, of which the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Processor of the node.
    #[arg(long, default_value_t = 0)]
    node_core: usize,
    /// Processor of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Parts to run; all that can be, when not given.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only cells of this depth.
    #[arg(long)]
    depth: Option<u16>,
    /// A built tree of SPDK, for the part `spdk`.
    #[arg(long)]
    spdk: Option<PathBuf>,
    /// Figures of fio in a guest, which join the others.
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
}

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A disk in memory.
    Ram,
    /// A disk in a file, in turns with fio.
    File,
    /// A disk in memory, in turns with SPDK's target.
    Spdk,
}

impl Suite {
    fn has(&self, part: Part) -> bool {
        let is_possible = part != Part::Spdk || self.spdk.is_some();
        if self.parts.is_empty() { is_possible } else { self.parts.contains(&part) }
    }

    fn wants(&self, depth: u16) -> bool {
        self.depth.is_none_or(|only| only == depth)
    }
}

/// One cell of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    /// `ram` or `file`.
    pub(crate) disk: &'static str,
    /// The median run.
    #[serde(flatten)]
    pub(crate) measured: Measured,
    /// System calls of the node per command.
    pub(crate) node_calls_per_command: f64,
    /// Heap allocations of the node per command.
    pub(crate) node_allocations_per_command: f64,
}

/// A comparison with a peer, in one run on one machine, in turns.
#[derive(Debug, Clone, Serialize)]
struct Comparison {
    what: String,
    ours_iops: f64,
    ours_mean_us: f64,
    peer: &'static str,
    peer_iops: f64,
    peer_mean_us: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    cells: Vec<Cell>,
    comparisons: Vec<Comparison>,
    /// What a stock host in an emulated machine reaches: far less than the node can.
    guest: Option<Guest>,
}

/// fio in a guest, as the machine tests measured it.
#[derive(Debug, Serialize, Deserialize)]
struct Guest {
    host: String,
    disk: String,
    cells: Vec<GuestCell>,
}

#[derive(Debug, Serialize, Deserialize)]
struct GuestCell {
    pattern: String,
    size: u32,
    depth: u32,
    iops: f64,
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Runs the suite, prints a table, writes `results.json` and `throughput.svg`.
pub(crate) fn run(suite: &Suite) -> Result<()> {
    allocations::exempt_this_thread();
    std::fs::create_dir_all(&suite.out)?;
    let (mut cells, mut comparisons) = (Vec::new(), Vec::new());
    if suite.has(Part::Ram) {
        cells = ram_cells(suite)?;
    }
    if suite.has(Part::Spdk) {
        let tree = suite.spdk.as_ref().context("`--parts spdk` needs `--spdk TREE`")?;
        spdk_cells(suite, tree, &mut comparisons)?;
    }
    if suite.has(Part::File) {
        file_cells(suite, &mut cells, &mut comparisons)?;
    }
    let guest = suite.guest.as_deref().map(read_guest).transpose()?;
    print_table(&cells, &comparisons);
    guest.iter().for_each(print_guest);
    std::fs::write(suite.out.join("throughput.svg"), plot::throughput(&cells))?;
    let results = Results { cells, comparisons, guest };
    let json = serde_json::to_string_pretty(&results)?;
    std::fs::write(suite.out.join("results.json"), json)?;
    println!("\nwritten: {0}/results.json, {0}/throughput.svg", suite.out.display());
    Ok(())
}

fn read_guest(path: &Path) -> Result<Guest> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

fn ram_cells(suite: &Suite) -> Result<Vec<Cell>> {
    let node = Node::start(suite, DiskSource::Ram { size: DISK, shards: 1 }, true)?;
    node.fill(suite)?;
    let mut cells = Vec::new();
    let workloads = ram_workloads(&[1, 4, 16, 32, 64, 128]);
    for (pattern, size, depth) in workloads.into_iter().filter(|w| suite.wants(w.2)) {
        cells.push(node.cell(suite, "ram", pattern, size, depth)?);
    }
    node.stop()?;
    Ok(cells)
}

fn ram_workloads(depths: &[u16]) -> Vec<(Pattern, usize, u16)> {
    let mut workloads = Vec::new();
    for pattern in [Pattern::RandRead, Pattern::RandWrite] {
        workloads.extend(depths.iter().map(|&depth| (pattern, 4096, depth)));
    }
    for pattern in [Pattern::Read, Pattern::Write] {
        workloads.extend([(pattern, 128 << 10, 8), (pattern, 128 << 10, 32)]);
    }
    workloads
}

/// The verified store in memory beside SPDK's malloc disk, one core each in turns, by one load
/// generator. Ours sleeps while the peer is measured; the peer, which cannot, is stopped.
fn spdk_cells(suite: &Suite, tree: &Path, comparisons: &mut Vec<Comparison>) -> Result<()> {
    let peer = spdk::nvmf(tree, &suite.out, suite.node_core, VOLUME)?;
    peer.pause()?;
    let node = Node::start(suite, DiskSource::Ram { size: DISK, shards: 1 }, false)?;
    node.fill(suite)?;
    let at_peer = |load: Load| -> Result<Measured> {
        peer.resume()?;
        let measured =
            load::run(&Load { address: peer.address, subsystem: spdk::NQN.into(), ..load })?;
        peer.pause()?;
        Ok(measured)
    };
    at_peer(node.filling(suite))?;
    let workloads = ram_workloads(&[1, 32, 128]);
    for (pattern, size, depth) in workloads.into_iter().filter(|w| suite.wants(w.2)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..suite.runs {
            let load = node.load(suite, pattern, size, depth);
            ours.push(load::run(&load)?);
            theirs.push(at_peer(load)?);
        }
        let ours = median(ours, |measured| measured.iops);
        let theirs = median(theirs, |measured| measured.iops);
        comparisons.push(Comparison {
            what: format!("memory, {} KiB {pattern:?}, depth {depth}", size >> 10),
            ours_iops: ours.iops,
            ours_mean_us: ours.mean_us,
            peer: "SPDK nvmf_tgt, malloc",
            peer_iops: theirs.iops,
            peer_mean_us: theirs.mean_us,
        });
    }
    node.stop()
}

/// Small random writes on a file, in turns with fio on another file of the same file system.
fn file_cells(
    suite: &Suite,
    cells: &mut Vec<Cell>,
    comparisons: &mut Vec<Comparison>,
) -> Result<()> {
    let disk = suite.out.join("disk.img");
    let peer = suite.out.join("fio.img");
    for path in [&disk, &peer] {
        let _ = std::fs::remove_file(path);
        create_file(path, DISK, Allocation::Written, &mut |_| {})?;
    }
    format(&disk)?;
    let node = Node::start(suite, DiskSource::Path(disk.clone()), true)?;
    node.fill(suite)?;
    for depth in [1, 32].into_iter().filter(|&depth| suite.wants(depth)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..suite.runs {
            ours.push(node.cell_once(suite, "file", Pattern::RandWrite, 4096, depth)?);
            if let Some(measured) = fio(&peer, depth, suite.seconds)? {
                theirs.push(measured);
            }
        }
        let cell = median(ours, |cell| cell.measured.iops);
        if theirs.is_empty() {
            println!("fio is not installed: no comparison at depth {depth}");
        } else {
            let (peer_iops, peer_mean_us) = median(theirs, |(iops, _)| *iops);
            comparisons.push(Comparison {
                what: format!("file, 4 KiB random write, depth {depth}"),
                ours_iops: cell.measured.iops,
                ours_mean_us: cell.measured.mean_us,
                peer: "fio io_uring O_DIRECT O_DSYNC",
                peer_iops,
                peer_mean_us,
            });
        }
        cells.push(cell);
    }
    node.stop()?;
    for path in [&disk, &peer] {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn format(path: &Path) -> Result<()> {
    let file = KernelFile::open(path, &KernelOptions::default())?;
    let pool = Rc::new(Arena::new(16 << 20, 1)?.pool(0));
    let disk = Box::new(SelfDriven::new(&file, Ring::new(RingOptions::default())?));
    let incarnation = Uuid::new_v4().as_u64_pair().0;
    let mode = Some(Mode::Intent);
    let options = FormatOptions { mode, ..FormatOptions::new(Uuid::new_v4(), incarnation) };
    store::format(disk, None, &options, &pool)?;
    Ok(())
}

/// A node in this process.
struct Node {
    handle: NodeHandle,
    address: SocketAddr,
}

impl Node {
    fn start(suite: &Suite, source: DiskSource, poll: bool) -> Result<Self> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let handle = start(&NodeConfig {
            name: "bench".into(),
            nqn: NQN.into(),
            iqn: "iqn.2026-11.io.basalt:test".into(),
            cores: vec![suite.node_core],
            poll,
            no_iommu: false,
            buffers_per_core: 256 << 20,
            metadata_cache: 64 << 20,
            disks: vec![DiskConfig {
                source,
                journal: None,
                zero_on_free: false,
                passthrough: false,
            }],
            portals: vec![PortalConfig {
                protocol: Default::default(),
                listen,
                advertise: None,
                discovery_only: false,
            }],
            max_connections: 64,
        })?;
        handle.call(Command::AllowHost { nqn: "*".into() })?;
        let volume = Command::CreateVolume {
            name: "bench".into(),
            size: VOLUME,
            block_size: 4096,
            uuid: Uuid::new_v4(),
            disk: None,
        };
        match handle.call(volume)? {
            Answer::Volume(_) => {}
            other => bail!("a strange answer: {other:?}"),
        }
        let address = *handle.local_addresses().first().context("the node listens")?;
        Ok(Self { handle, address })
    }

    fn load(&self, suite: &Suite, pattern: Pattern, size: usize, depth: u16) -> Load {
        Load {
            address: self.address,
            subsystem: NQN.into(),
            host: "nqn.2014-08.org.nvmexpress:uuid:4f1d2c3b-0000-4000-8000-0000000ba5a2".into(),
            namespace: 1,
            pattern,
            size,
            block: 4096,
            span: VOLUME,
            stride: None,
            depth,
            queues: 1,
            seconds: suite.seconds,
            core: Some(suite.load_core),
            commands: None,
        }
    }

    /// Writes the whole volume once, so that everything read is really there.
    fn fill(&self, suite: &Suite) -> Result<()> {
        load::run(&self.filling(suite))?;
        Ok(())
    }

    fn filling(&self, suite: &Suite) -> Load {
        let mut load = self.load(suite, Pattern::Write, 128 << 10, 16);
        load.commands = Some(VOLUME / load.size as u64);
        load
    }

    fn cell(
        &self,
        suite: &Suite,
        disk: &'static str,
        pattern: Pattern,
        size: usize,
        depth: u16,
    ) -> Result<Cell> {
        let cells = (0..suite.runs)
            .map(|_| self.cell_once(suite, disk, pattern, size, depth))
            .collect::<Result<Vec<_>>>()?;
        Ok(median(cells, |cell| cell.measured.iops))
    }

    fn cell_once(
        &self,
        suite: &Suite,
        disk: &'static str,
        pattern: Pattern,
        size: usize,
        depth: u16,
    ) -> Result<Cell> {
        let load = self.load(suite, pattern, size, depth);
        let before = self.totals();
        let measured = load::run(&load)?;
        let after = self.totals();
        let commands = (after.commands - before.commands).max(1) as f64;
        Ok(Cell {
            disk,
            measured,
            node_calls_per_command: (after.calls - before.calls) as f64 / commands,
            node_allocations_per_command: (after.allocations - before.allocations) as f64
                / commands,
        })
    }

    fn totals(&self) -> Totals {
        std::thread::sleep(SETTLE);
        let core = &self.handle.counters().cores[0];
        Totals {
            commands: core.commands,
            calls: core.system_calls,
            allocations: allocations::count(),
        }
    }

    fn stop(self) -> Result<()> {
        self.handle.shutdown()?;
        Ok(())
    }
}

struct Totals {
    commands: u64,
    calls: u64,
    allocations: u64,
}

/// One run of fio: IOPS and mean latency in microseconds; `None` where there is no fio.
fn fio(path: &Path, depth: u16, seconds: f64) -> Result<Option<(f64, f64)>> {
    let output = std::process::Command::new("fio")
        .args(["--name=peer", "--ioengine=io_uring", "--direct=1", "--sync=dsync"])
        .args(["--rw=randwrite", "--bs=4k", "--time_based", "--output-format=json"])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--size={VOLUME}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--runtime={}", seconds.ceil()))
        .output();
    let Ok(output) = output else { return Ok(None) };
    ensure!(output.status.success(), "fio failed: {}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let write = &json["jobs"][0]["write"];
    let iops = write["iops"].as_f64().context("fio names its IOPS")?;
    let latency = write["lat_ns"]["mean"].as_f64().context("fio names its latency")?;
    Ok(Some((iops, latency / 1000.0)))
}

fn median<T>(mut values: Vec<T>, by: impl Fn(&T) -> f64) -> T {
    values.sort_by(|a, b| by(a).total_cmp(&by(b)));
    let middle = values.len() / 2;
    values.swap_remove(middle)
}

fn print_table(cells: &[Cell], comparisons: &[Comparison]) {
    println!(
        "{:<5} {:<10} {:>7} {:>5} {:>10} {:>8} {:>9} {:>9} {:>7} {:>7}",
        "disk", "pattern", "bytes", "depth", "IOPS", "MB/s", "p50 us", "p99 us", "calls", "allocs"
    );
    for cell in cells {
        let measured = &cell.measured;
        let pattern = format!("{:?}", measured.pattern);
        println!(
            "{:<5} {pattern:<10} {:>7} {:>5} {:>10.0} {:>8.0} {:>9.1} {:>9.1} {:>7.3} {:>7.3}",
            cell.disk,
            measured.size,
            measured.depth,
            measured.iops,
            measured.bytes_per_second / 1e6,
            measured.p50_us,
            measured.p99_us,
            cell.node_calls_per_command,
            cell.node_allocations_per_command,
        );
    }
    for other in comparisons {
        println!(
            "{}: {:.0} IOPS, {:.1} us; {}: {:.0} IOPS, {:.1} us; {:.2} of its rate, {:.2} of its \
             latency",
            other.what,
            other.ours_iops,
            other.ours_mean_us,
            other.peer,
            other.peer_iops,
            other.peer_mean_us,
            other.ours_iops / other.peer_iops,
            other.ours_mean_us / other.peer_mean_us,
        );
    }
}

fn print_guest(guest: &Guest) {
    println!("fio on {} (not what the node can do):", guest.host);
    for cell in &guest.cells {
        println!(
            "{:<5} {:<10} {:>7} {:>5} {:>10.0} {:>8.0} {:>9.1} {:>9.1}",
            guest.disk,
            cell.pattern,
            cell.size,
            cell.depth,
            cell.iops,
            cell.iops * f64::from(cell.size) / 1e6,
            cell.p50_us,
            cell.p99_us,
        );
    }
}
