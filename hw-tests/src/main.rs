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

/// How often a scenario is run before it has failed: emulated processors, and hosts that are not
/// ours, now and then fail by themselves on a busy machine.
const TRIES: usize = 2;

/// What reports of failures say of wrong data, and of a node that ended by itself.
const NEVER_BY_CHANCE: &[&str] = &[
    "verify:",
    "verify failed",
    "differ",
    "ismatch",
    "orrupt",
    "checksum",
    "panicked",
    "assertion",
    "ended by itself",
    "lost",
    "stale",
    "foreign",
];

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
    let failed = run_all(maker, SCENARIOS.iter().filter(chosen), tries);
    if failed == 0 {
        let _ = fs::remove_dir_all(&folder);
    } else {
        println!("logs are left in {}", shown(&folder));
    }
    Ok(failed)
}

/// Runs scenarios one after the other on one bed, and on a fresh one after a failure.
fn run_all<'a>(
    mut maker: Maker,
    scenarios: impl Iterator<Item = &'a Scenario>,
    tries: usize,
) -> u32 {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut bed: Option<Bed> = None;
    for scenario in scenarios {
        match run_up_to(tries, &mut maker, &mut bed, scenario) {
            Some(Outcome::Passed) => passed += 1,
            Some(Outcome::Skipped(_)) => skipped += 1,
            None => failed += 1,
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed
}

/// Runs a scenario until it does not fail, and says how it ended; nothing if it failed for good.
fn run_up_to(
    tries: usize,
    maker: &mut Maker,
    bed: &mut Option<Bed>,
    scenario: &Scenario,
) -> Option<Outcome> {
    let name = scenario.name;
    for attempt in 1..=tries {
        let started = Instant::now();
        let outcome = run_one(maker, bed, scenario);
        let took = started.elapsed().as_secs_f32();
        let error = match outcome {
            Ok(Outcome::Passed) => {
                println!("PASS {name} ({took:.1} s)");
                if attempt > 1 {
                    println!("AGAIN {name}: it failed at first, see above");
                }
                return Some(Outcome::Passed);
            }
            Ok(Outcome::Skipped(reason)) => {
                println!("SKIP {name}: {reason}");
                return Some(Outcome::Skipped(reason));
            }
            Err(error) => error,
        };
        let mut report = format!("({took:.1} s): {error:#}");
        if let Some(mut bed) = bed.take() {
            report += &format!("\n{}\n{}", bed.guest.diagnosis(), bed.node.log());
        }
        if attempt == tries || maker.is_broken || is_beyond_doubt(&report) {
            println!("FAIL {name} {report}");
            return None;
        }
        println!("{name} failed and is run again {report}");
    }
    None
}

/// Whether this failure tells of wrong data or of a node that stopped by itself, which no busy
/// machine and no other program can cause, so that once is enough.
fn is_beyond_doubt(report: &str) -> bool {
    NEVER_BY_CHANCE.iter().any(|word| report.contains(word))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_data_and_a_dead_node_are_not_tried_again() {
        for report in [
            "(1.0 s): fio: verify: bad magic header 0, wanted acca at file /dev/nvme0n1",
            "(1.0 s): cmp: EOF: - /dev/zero differ: byte 1, line 1",
            "(1.0 s): the node\nbasalt ended by itself (signal: 6); its log ends:\n",
            "(1.0 s): thread 'core-0' panicked at store/shard.rs",
        ] {
            assert!(is_beyond_doubt(report), "{report}");
        }
        assert!(!is_beyond_doubt("(90.0 s): `connect` took longer than 90 s in the guest:\n"));
    }
}
