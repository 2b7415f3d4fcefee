//! Runs worlds of the simulator: `--seed N [--count N]`, or `--ordinary` for the usual 200.
//!
//! Prints one line for each seed in the manner of a test runner; a failure names its seed, and that
//! seed alone repeats it.

use dataplane::sim::Stage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

const ORDINARY: u64 = 200;

fn main() -> ExitCode {
    let (first, count) = match arguments() {
        Ok(range) => range,
        Err(message) => {
            eprintln!("{message}\nusage: sim [--ordinary] [--seed N] [--count N]");
            return ExitCode::from(2);
        }
    };
    // Worlds know nothing of each other: each thread takes the next seed.
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count as usize);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run_worlds(&next, first + count, &failed));
        }
    });
    let failed = failed.load(Ordering::Relaxed);
    println!("{} passed, {failed} failed, 0 skipped", count - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one world after another until `end`.
fn run_worlds(next: &AtomicU64, end: u64, failed: &AtomicU64) {
    let mut stage = Stage::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| stage.run(seed))) {
            Ok(report) => println!(
                "seed {seed}: {} commands, {} reconnects, {} crashes, {} changes, {} faults, trace \
                 {:016x}",
                report.commands,
                report.reconnects,
                report.crashes,
                report.changes,
                report.faults,
                report.trace
            ),
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("seed {seed}: FAILED; `cargo xtask sim --seed {seed}` repeats it");
                // A broken world may have left buffers in use.
                stage = Stage::default();
            }
        }
    }
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
