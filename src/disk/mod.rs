//! `basalt disk`: work on disks without a node.

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::size::Size;
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// `basalt disk`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare a disk or file for a node; refuses what may hold data
    Format(FormatOptions),
    /// List the machine's disks and what is on them
    List {
        /// Only these
        paths: Vec<PathBuf>,
    },
    /// Verify every structure and every checksum of a disk that no node runs on; writes nothing
    Check(CheckOptions),
}

/// `basalt disk format`.
#[derive(Debug, Args)]
pub struct FormatOptions {
    /// A block device, or a file
    pub path: PathBuf,
    /// Make a file of this size, which must not be there yet
    #[arg(long, conflicts_with = "force")]
    pub size: Option<Size>,
    /// Another device for the journal
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
}

/// How overwrites are made safe over a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The device writes 4 KiB wholly or not at all: only intents are journaled
    Intent,
    /// Nothing is known of the device: data are journaled first
    Data,
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
}

/// Runs the command.
///
/// # Errors
/// As the disk, its content and its users have it.
pub fn run(command: &Command, global: &Global) -> Result<(), Failure> {
    let _ = (command, global);
    Err(Failure::new(Exit::Failed, "this build does not work on disks"))
}

/// Makes and formats a file for a node of this machine.
///
/// # Errors
/// As `basalt disk format --size`.
pub fn make_file(path: &Path, size: u64) -> Result<(), Failure> {
    let _ = size;
    Err(Failure::new(Exit::Failed, format!("this build cannot format {}", path.display())))
}

/// Whether a file is what an interrupted [`make_file`] leaves: nothing in it.
///
/// # Errors
/// If it cannot be read.
pub fn is_unfinished(path: &Path) -> Result<bool, Failure> {
    let _ = path;
    Ok(false)
}
