//! Measurements: micro benchmarks of the parts, load on a running target, comparisons.

mod initiator;
mod load;

use anyhow::Result;
use clap::Parser;

/// Measures Basalt.
#[derive(Parser)]
enum Command {
    /// Loads an NVMe/TCP namespace and prints what was measured as JSON.
    Load(load::Load),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Load(load) => println!("{}", serde_json::to_string(&load::run(&load)?)?),
    }
    Ok(())
}
