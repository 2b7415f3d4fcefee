//! `basalt disk`: work on disks, most of it without a node.
//!
//! What may hold somebody's data is left alone unless the user insists; what is mounted or
//! otherwise in use is left alone always.

mod bind;
mod content;
mod drive;
mod flush;
mod grow;
mod list;
mod medium;
mod serving;

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Format, print, print_json};
use crate::size::Size;
use clap::{Args, Subcommand, ValueEnum};
use content::Content;
use dataplane::disk::kernel::{Allocation, create_file, reserve_file};
use dataplane::disk::single::Unit;
use dataplane::pci::Machine;
use dataplane::store;
use medium::{Bench, DeviceName, Medium, Trust, opened};
use serde::Serialize;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Least size of a file to make, in bytes.
const FILE_MIN: u64 = 64 << 20;

/// `basalt disk`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare a disk or file for a node; refuses what may hold data
    Format(FormatOptions),
    /// Take into use what a disk's device or file has gained; its data stay as they are
    Grow(grow::GrowOptions),
    /// List the machine's disks, or these, and what is on them
    List {
        /// Only these
        paths: Vec<PathBuf>,
    },
    /// Give a controller to vfio-pci, for a node to drive; refuses one whose disks are in use
    Bind(bind::BindOptions),
    /// Give a controller back to its kernel driver
    Unbind(bind::UnbindOptions),
    /// Show all that is known of a drive, and light its slot
    Identify(bind::IdentifyOptions),
    /// Find out, by cutting the power, whether a drive keeps what it said that it flushed
    #[command(subcommand)]
    CheckFlush(flush::Command),
    /// Have the running node serve a disk that is offline or has failed
    Online(serving::Which),
    /// Have the running node settle a disk and let it go, so that it may be pulled, grown, or
    /// unbound; the requests of hosts to its volumes fail meanwhile
    Offline(serving::Which),
    /// Verify every structure and every checksum of a disk that no node runs on; writes nothing
    Check(CheckOptions),
}

/// `basalt disk format`.
#[derive(Debug, Args)]
pub struct FormatOptions {
    /// A block device, a file, or pci:ADDRESS/N of a controller given to vfio-pci: namespace N of
    /// an NVMe controller (1 if left out), or the drive on port N of an AHCI adapter
    pub path: PathBuf,
    /// Make a file of this size, which must not be there yet
    #[arg(long, conflicts_with = "force")]
    pub size: Option<Size>,
    /// How a new file gets its space
    #[arg(long, default_value = "reserved", requires = "size")]
    pub allocate: Allocate,
    /// Another device or file for the journal
    #[arg(long, value_name = "PATH")]
    pub journal: Option<PathBuf>,
    /// How overwrites are made safe [default: intent where the device writes 4 KiB atomically]
    #[arg(long)]
    pub mode: Option<Mode>,
    /// Shards: as many as cores shall serve the disk
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Overwrite what is on the disk
    #[arg(long)]
    pub force: bool,
    /// What the operator accepts of a controller.
    #[command(flatten)]
    pub trust: Trust,
}

/// How overwrites are made safe over a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The device writes 4 KiB wholly or not at all: only intents are journaled
    Intent,
    /// Nothing is known of the device: data are journaled first
    Data,
}

/// How a new file gets its space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Allocate {
    /// As it is written; may run out later
    Sparse,
    /// At once, quickly
    Reserved,
    /// At once, by writing all of it: slow now, fastest later
    Written,
}

/// `basalt disk check`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The disk
    pub path: PathBuf,
    /// Its journal device, if it has one
    #[arg(long, value_name = "PATH")]
    pub journal: Option<PathBuf>,
    /// Leave the data unread
    #[arg(long)]
    pub metadata_only: bool,
    /// What the operator accepts of a controller.
    #[command(flatten)]
    pub trust: Trust,
}

/// Runs the command.
///
/// # Errors
/// As the disk, its content and its users have it.
pub fn run(command: &Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Format(options) => format(options, global.output),
        Command::Grow(options) => grow::grow(options, global.output),
        Command::List { paths } => list::list(paths, global),
        Command::Bind(options) => bind::bind(options, global.output),
        Command::Unbind(options) => bind::unbind(options, global.output),
        Command::Identify(options) => bind::identify(options, global),
        Command::Online(which) => serving::online(which, global),
        Command::Offline(which) => serving::offline(which, global),
        Command::Check(options) => check(options, global.output),
        Command::CheckFlush(command) => flush::run(command, global.output),
    }
}

/// Makes and formats a sparse file for a node of this machine. Room is reserved for all but the
/// data, so that a file system that fills up fails first writes of blocks, and not the disk.
///
/// # Errors
/// As `basalt disk format --size`. What was made is removed.
pub fn make_file(path: &Path, size: u64) -> Result<(), Failure> {
    create_file(path, size, Allocation::Sparse, &mut |_| {}).map_err(|e| opened(&e))?;
    fill(path, size).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

fn fill(path: &Path, size: u64) -> Result<(), Failure> {
    let bench = Bench::new()?;
    let file = medium::open(path)?;
    let options = store::FormatOptions::new(Uuid::new_v4(), incarnation());
    let made = format_open(&bench, &file, None, options)?;
    // The data are last.
    reserve_file(path, 0..size - made.data_bytes).map_err(|e| opened(&e))
}

/// Whether a file is what an interrupted [`make_file`] leaves: nothing in it.
///
/// # Errors
/// If it cannot be read.
pub fn is_unfinished(path: &Path) -> Result<bool, Failure> {
    Ok(matches!(content::of(path, None)?, Content::Empty))
}

#[derive(Debug, Serialize)]
struct FormattedDisk<'a> {
    path: &'a Path,
    uuid: Uuid,
    mode: &'static str,
    shards: u16,
    data_bytes: u64,
    journal_bytes: u64,
}

fn format(options: &FormatOptions, output: Format) -> Result<(), Failure> {
    let FormatOptions { path, journal, force, .. } = options;
    if journal.as_ref() == Some(path) {
        let text = "the journal is on the disk itself unless --journal names another one";
        return Err(Failure::new(Exit::Usage, text));
    }
    if let Some(Size(size)) = options.size {
        make_for_format(path, size, options.allocate)?;
    }
    let bench = Bench::trusting(options.trust)?;
    let data = take(&bench, path, *force)?;
    let journal = journal.as_ref().map(|path| take(&bench, path, *force)).transpose()?;
    let chosen = store::FormatOptions {
        mode: options.mode.map(|mode| match mode {
            Mode::Intent => store::Mode::Intent,
            Mode::Data => store::Mode::Data,
        }),
        shards: options.shards,
        force: *force,
        ..store::FormatOptions::new(Uuid::new_v4(), incarnation())
    };
    let made = format_open(&bench, &data, journal.as_ref(), chosen)?;
    let mode = mode_name(made.mode);
    if output == Format::Json {
        let store::Formatted { disk: uuid, shards, data_bytes, journal_bytes, .. } = made;
        return print_json(&FormattedDisk { path, uuid, mode, shards, data_bytes, journal_bytes });
    }
    let shown = path.display();
    print(&format!(
        "{shown} is formatted.\n\nuuid    {}\nmode    {mode}\nshards  {}\ndata    {}\n\
         journal {} each shard\n\nFor the configuration:\n\n[[disk]]\n{}\n{}",
        made.disk,
        made.shards,
        Size(made.data_bytes),
        Size(made.journal_bytes),
        configured(path),
        options
            .journal
            .as_ref()
            .map(|p| format!("journal = {}\n", absolute(p)))
            .unwrap_or_default()
    ))
}

/// The lines that name the disk in a configuration.
fn configured(path: &Path) -> String {
    match DeviceName::parse(path) {
        Some(Ok(name)) => match name.unit(&Machine::this()) {
            Ok(Unit::Port(port)) => format!("device = \"pci:{}\"\nport = {port}", name.address),
            Ok(Unit::Namespace(id)) => {
                format!("device = \"pci:{}\"\nnamespace = {id}", name.address)
            }
            Err(_) => format!("device = \"pci:{}\"", name.address),
        },
        _ => format!("path = {}", absolute(path)),
    }
}

fn absolute(path: &Path) -> toml::Value {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    toml::Value::String(whole.display().to_string())
}

impl From<Allocate> for Allocation {
    fn from(allocate: Allocate) -> Self {
        match allocate {
            Allocate::Sparse => Self::Sparse,
            Allocate::Reserved => Self::Reserved,
            Allocate::Written => Self::Written,
        }
    }
}

fn make_for_format(path: &Path, size: u64, allocate: Allocate) -> Result<(), Failure> {
    if size < FILE_MIN || !size.is_multiple_of(4096) {
        let text = format!("a file has {} at least, in whole 4096 bytes", Size(FILE_MIN));
        return Err(Failure::new(Exit::Usage, text));
    }
    let bar = medium::bar("writing", size);
    let made = create_file(path, size, allocate.into(), &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    made.map_err(|error| opened(&error))
}

/// Opens a disk that is to be overwritten, once it is sure that it may be.
fn take(bench: &Bench, path: &Path, force: bool) -> Result<Medium, Failure> {
    let file = medium::open(path)?;
    let shown = path.display();
    let held = match content::of(path, Some((bench, &file)))? {
        Content::Empty => return Ok(file),
        _ if force => return Ok(file),
        Content::Basalt(probe) => format!("a Basalt disk, {}", probe.disk),
        Content::Damaged(why) => format!("a Basalt disk that cannot be read ({why})"),
        Content::Foreign(what) => what.to_owned(),
    };
    let text = format!("{shown} is not empty: {held}");
    let hint = "if its data are not needed, give --force to overwrite it";
    Err(Failure::new(Exit::Refused, text).hint(hint))
}

fn format_open(
    bench: &Bench,
    data: &Medium,
    journal: Option<&Medium>,
    options: store::FormatOptions,
) -> Result<store::Formatted, Failure> {
    let journal = journal.map(|file| bench.drive(file)).transpose()?;
    store::format(bench.drive(data)?, journal, &options, bench.pool()).map_err(|error| {
        let exit = match error {
            store::FormatError::InUse(_) => Exit::Refused,
            store::FormatError::Option(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: {error}", data.name()))
    })
}

fn incarnation() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

fn mode_name(mode: store::Mode) -> &'static str {
    match mode {
        store::Mode::Intent => "intent",
        store::Mode::Data => "data",
    }
}

fn count_growths(extensions: u32) -> String {
    if extensions == 1 { "grown once".to_owned() } else { format!("grown {extensions} times") }
}

fn count_shards(shards: u32) -> String {
    if shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") }
}

#[derive(Debug, Serialize)]
struct Report {
    /// How often the disk has grown.
    extensions: u32,
    chunks: u64,
    slabs: u64,
    blocks: u64,
    batches: u64,
    findings_total: u64,
    findings: Vec<ReportFinding>,
}

#[derive(Debug, Serialize)]
struct ReportFinding {
    shard: Option<u16>,
    what: String,
    data_lost: bool,
}

fn check(options: &CheckOptions, output: Format) -> Result<(), Failure> {
    let bench = Bench::trusting(options.trust)?;
    let data = medium::open(&options.path)?;
    let journal = options.journal.as_ref().map(|path| medium::open(path)).transpose()?;
    let journal = journal.as_ref().map(|file| bench.drive(file)).transpose()?;
    let bar = medium::bar("checking", 0);
    let wanted = store::CheckOptions { metadata_only: options.metadata_only };
    let checked = store::check(bench.drive(&data)?, journal, wanted, bench.pool(), &mut |at| {
        bar.set_length(at.total);
        bar.set_position(at.done);
    });
    bar.finish_and_clear();
    let shown = options.path.display();
    let report = checked.map_err(|error| {
        let exit = match error {
            store::MountError::NotFormatted
            | store::MountError::JournalDisk(_)
            | store::MountError::Version { .. }
            | store::MountError::Memory => Exit::Failed,
            _ => Exit::Damage,
        };
        Failure::new(exit, format!("{shown}: {error}"))
    })?;
    let total = report.findings_total;
    show_report(report, &options.path, output)?;
    if total == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Damage, format!("{shown}: {total} findings")))
}

fn show_report(report: store::CheckReport, path: &Path, output: Format) -> Result<(), Failure> {
    let findings = report.findings.into_iter().map(|finding| ReportFinding {
        shard: finding.shard,
        what: finding.what,
        data_lost: finding.data_lost,
    });
    let report = Report {
        extensions: report.extensions,
        chunks: report.chunks,
        slabs: report.slabs,
        blocks: report.blocks,
        batches: report.batches,
        findings_total: report.findings_total,
        findings: findings.collect(),
    };
    if output == Format::Json {
        return print_json(&report);
    }
    for finding in &report.findings {
        let place = finding.shard.map_or("disk".to_owned(), |shard| format!("shard {shard}"));
        let weight = if finding.data_lost { "data lost" } else { "metadata copy" };
        print(&format!("{place}: {weight}: {}\n", finding.what))?;
    }
    let Report { extensions, chunks, slabs, blocks, batches, findings_total, .. } = report;
    print(&format!(
        "{}: {}{chunks} chunks, {slabs} slabs, {blocks} blocks of data, {batches} journal batches \
         to redo, {findings_total} findings\n",
        path.display(),
        if extensions > 0 { format!("{}, ", count_growths(extensions)) } else { String::new() }
    ))
}
