//! The node against stock Linux hosts: Debian's kernel, nvme-cli and open-iscsi in QEMU machines.
//!
//! Each scenario prints a line `PASS`, `FAIL` or `SKIP`; the last line counts them. One that fails
//! is run once more in a new guest, unless its failure cannot be the machine's fault; if it passes
//! then, a line `AGAIN` says so. `--node nvmet` runs them against the kernel's own target instead,
//! which tells a wrong scenario from a wrong node.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "tests wait in real time for real programs")]

mod agent;
mod bed;
mod guest;
mod hardware;
mod image;
mod initiator;
mod measure;
mod node;
mod run;
mod scenario;
mod shell;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;

use bed::{Kind, Maker};
use image::Image;
use scenario::{SCENARIOS, Scenario};

/// How often a scenario is run before it has failed: emulated processors, and hosts that are not
/// ours, now and then fail by themselves on a busy machine.
const TRIES: usize = 2;

/// Machines of one processor at a time, unless told: QEMU has work besides that of their processor.
const LANES_MAX: usize = 2;

/// Tests of the node with a stock Linux host in QEMU.
#[derive(Parser)]
struct Arguments {
    /// Scenarios to run, by parts of their names; all if none.
    names: Vec<String>,
    /// Name the scenarios and stop.
    #[arg(long)]
    list: bool,
    /// The node under test.
    #[arg(long, value_enum, default_value = "basalt")]
    node: Kind,
    /// The program under test; the one beside this program if left out.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Run nothing twice: what fails has failed.
    #[arg(long)]
    once: bool,
    /// Machines of one processor at a time; two if left out, where there are processors for them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    lanes: Option<u8>,
    /// Build the guest image and stop.
    #[arg(long)]
    image: bool,
    /// Run no scenario: measure fio in the guest against the node, and write this file.
    #[arg(long, value_name = "FILE")]
    measure: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{:24} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("hw-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the chosen scenarios and returns how many failed.
fn run(arguments: &Arguments) -> Result<u32> {
    let program = std::env::current_exe()?;
    let build = program.parent().context("this program lies in no folder")?;
    let target = build.parent().context("the build folder lies in no folder")?;
    let image = Image::ready(target)?;
    if arguments.image {
        return Ok(0);
    }
    let folder = target.join("hil").join(format!("run-{}", std::process::id()));
    let binary = arguments.binary.clone().unwrap_or_else(|| build.join("basalt"));
    let mut maker = Maker {
        image,
        kind: arguments.node,
        binary,
        folder: folder.clone(),
        made: 0,
        is_broken: false,
    };
    if let Some(file) = &arguments.measure {
        measure::run(&mut maker, file)?;
        let _ = fs::remove_dir_all(&folder);
        return Ok(0);
    }
    let chosen = |scenario: &&Scenario| {
        let names = &arguments.names;
        names.is_empty() || names.iter().any(|name| scenario.name.contains(name.as_str()))
    };
    let tries = if arguments.once { 1 } else { TRIES };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let lanes = arguments.lanes.map_or(processors.min(LANES_MAX), usize::from);
    let chosen: Vec<&Scenario> = SCENARIOS.iter().filter(chosen).collect();
    let failed = run::all(maker, &chosen, tries, lanes);
    if failed == 0 {
        let _ = fs::remove_dir_all(&folder);
    } else {
        println!("logs are left in {}", shown(&folder));
    }
    Ok(failed)
}

fn shown(folder: &Path) -> String {
    folder.display().to_string()
}
