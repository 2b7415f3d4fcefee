//! The node against stock Linux hosts: Debian's kernel, nvme-cli and open-iscsi in QEMU machines.
//!
//! Each scenario prints a line `PASS`, `FAIL` or `SKIP`; the last line counts them. `--node nvmet`
//! runs them against the kernel's own target instead, which tells a wrong scenario from a wrong
//! node.
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
mod scenario;
mod shell;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use bed::{Bed, Kind, Maker};
use image::Image;
use node::Shape;
use scenario::{Outcome, SCENARIOS, Scenario};

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
    let failed = run_all(maker, SCENARIOS.iter().filter(chosen));
    if failed == 0 {
        let _ = fs::remove_dir_all(&folder);
    } else {
        println!("logs are left in {}", shown(&folder));
    }
    Ok(failed)
}

/// Runs scenarios one after the other on one bed, and on a fresh one after a failure.
fn run_all<'a>(mut maker: Maker, scenarios: impl Iterator<Item = &'a Scenario>) -> u32 {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut bed: Option<Bed> = None;
    for scenario in scenarios {
        let started = Instant::now();
        let outcome = run_one(&mut maker, &mut bed, scenario);
        let took = started.elapsed().as_secs_f32();
        match outcome {
            Ok(Outcome::Passed) => {
                passed += 1;
                println!("PASS {} ({took:.1} s)", scenario.name);
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                println!("SKIP {}: {reason}", scenario.name);
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {} ({took:.1} s): {error:#}", scenario.name);
                if let Some(mut bed) = bed.take() {
                    println!("{}\n{}", bed.guest.diagnosis(), bed.node.log());
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed
}

fn run_one(maker: &mut Maker, bed: &mut Option<Bed>, scenario: &Scenario) -> Result<Outcome> {
    match scenario.run {
        scenario::Run::OnBed(shape, run) => {
            if shape == Shape::Wide && maker.kind != Kind::Basalt {
                let reason = "it looks into our own node".to_owned();
                return Ok(Outcome::Skipped(reason));
            }
            // Only one machine at a time: it takes all processors as it is.
            *bed = bed.take().filter(|bed| bed.shape == shape);
            if bed.is_none() {
                ensure!(!maker.is_broken, "there is nothing to run it on: see above");
                maker.is_broken = true;
                *bed = Some(maker.make(shape, None)?);
                maker.is_broken = false;
            }
            let bed = bed.as_mut().context("a bed was just made")?;
            let outcome = run(bed)?;
            bed.clear().context("after the scenario")?;
            Ok(outcome)
        }
        scenario::Run::Alone(run) => {
            ensure!(!maker.is_broken, "there is nothing to run it on: see above");
            *bed = None;
            run(maker)
        }
    }
}

fn shown(folder: &Path) -> String {
    folder.display().to_string()
}
