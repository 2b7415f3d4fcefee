//! Measurements: load on a running target, and the suite that compares.

mod allocations;
mod initiator;
mod iscsi;
mod libiscsi;
mod load;
mod micro;
mod peer;
mod plot;
mod size;
mod spdk;
mod suite;

use anyhow::Result;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Measures Basalt.
#[derive(Parser)]
enum Command {
    /// The iSCSI target beside others, by one initiator.
    Iscsi(iscsi::Options),
    /// Loads an NVMe/TCP namespace and prints what was measured as JSON.
    Load(load::Load),
    /// Nanoseconds per operation of the parts.
    Micro,
    /// Memory of a node with a large thin volume, and time to its first I/O.
    Size(size::Size),
    /// Runs a node and every cell of the table; writes JSON and an image.
    Suite(suite::Suite),
}

fn main() -> Result<()> {
    // `cargo xtask bench` alone runs the whole suite.
    let arguments = std::env::args();
    let command = match arguments.len() {
        0 | 1 => Command::parse_from(["benches", "suite"]),
        _ => Command::parse(),
    };
    match command {
        Command::Iscsi(options) => iscsi::run(&options)?,
        Command::Load(load) => println!("{}", serde_json::to_string(&load::run(&load)?)?),
        Command::Micro => micro::run()?,
        Command::Size(size) => size::run(&size)?,
        Command::Suite(suite) => suite::run(&suite)?,
    }
    Ok(())
}
