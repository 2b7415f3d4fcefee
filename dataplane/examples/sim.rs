//! Runs worlds of the simulator: `--seed N [--count N]`, or `--ordinary` for the usual 200.
//!
//! Prints one line for each seed in the manner of a test runner; a failure names its seed, and that
//! seed alone repeats it.

use dataplane::sim::Stage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

const ORDINARY: u64 = 200;

fn main() -> ExitCode {
    let (first, count) = match arguments() {
        Ok(range) => range,
        Err(message) => {
            eprintln!("{message}\nusage: sim [--ordinary] [--seed N] [--count N]");
            return ExitCode::from(2);
        }
    };
    let (mut passed, mut failed) = (0, 0);
    let mut stage = Stage::default();
    for seed in first..first + count {
        match catch_unwind(AssertUnwindSafe(|| stage.run(seed))) {
            Ok(report) => {
                passed += 1;
                println!(
                    "seed {seed}: {} commands, {} reconnects, {} crashes, trace {:016x}",
                    report.commands, report.reconnects, report.crashes, report.trace
                );
            }
            Err(_) => {
                failed += 1;
                println!("seed {seed}: FAILED; `cargo xtask sim --seed {seed}` repeats it");
                // A broken world may have left buffers in use.
                stage = Stage::default();
            }
        }
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// First seed and number of seeds.
fn arguments() -> Result<(u64, u64), String> {
    let (mut first, mut count) = (1, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().unwrap_or_default();
            value.parse().map_err(|_| format!("{argument} wants a number, not {value:?}"))
        };
        match argument.as_str() {
            "--ordinary" => count = Some(ORDINARY),
            "--seed" => first = number()?,
            "--count" => count = Some(number()?),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok((first, count.unwrap_or(1)))
}
