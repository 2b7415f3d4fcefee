//! Every chore of the repository: `cargo xtask NAME`.
//!
//! `verify` looks and never writes; `fix` writes; `test` runs everything that can fail. The other
//! chores hand over to the package that does the work, so that this program stays small and quick
//! to build.

mod debian;
mod fuzz;
mod machines;
mod process;
mod tally;
mod test;
mod tidy;
mod verify;
mod workspace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check format, lints, house style and dependencies. Writes nothing.
    Verify,
    /// Check house style and dependencies alone: the quick part of `verify`.
    Tidy,
    /// Format, and apply what the linter can mend by itself.
    Fix,
    /// Run every test and close with one line `N passed, N failed, N skipped`.
    Test {
        /// Only what takes less than two minutes: no QEMU machine.
        #[arg(long)]
        fast: bool,
    },
    /// Fuzz each target (or one) and keep the inputs that reach new code.
    Fuzz {
        /// Time for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// One target by name; all of them if left out.
        target: Option<String>,
    },
    /// Run the simulator; what follows is its own arguments, such as `--seed 7 --count 100`.
    Sim(Rest),
    /// Run the benchmarks in release; what follows is their own arguments. `--guest` adds fio in
    /// the guest to the suite.
    Bench(Rest),
    /// Build the guest and run the machine tests alone; what follows is their own arguments.
    Machines(Rest),
    /// Build a node image; what follows is the image builder's own arguments.
    Image(Rest),
}

/// Arguments handed on as they are.
#[derive(clap::Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // No backtrace: what went wrong is in the program that was run.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = repository_root();
    std::env::set_current_dir(&root)?;
    match Arguments::parse().chore {
        Chore::Verify => verify::verify(&root),
        Chore::Tidy => tidy::tidy(&root),
        Chore::Fix => verify::fix(&root),
        Chore::Test { fast } => test::test(fast),
        Chore::Fuzz { seconds, target } => fuzz::fuzz(&root, seconds, target.as_deref()),
        Chore::Sim(rest) => test::simulate(&rest.arguments),
        Chore::Bench(rest) => bench(&root, rest.arguments),
        Chore::Machines(rest) => machines::run(&rest.arguments),
        Chore::Image(_) => anyhow::bail!("no node image is built yet: there is no images/ folder"),
    }
}

/// With `--guest`, fio in the guest is measured first, and its figures join those of the suite.
fn bench(root: &Path, mut arguments: Vec<String>) -> Result<()> {
    let benches = process::cargo(["run", "--release", "-p", "benches", "--"]);
    let before = arguments.len();
    arguments.retain(|argument| argument != "--guest");
    if arguments.len() == before {
        return benches.args(&arguments).run();
    }
    let file = machines::measure(root)?;
    benches.args(["suite", "--guest"]).args([file]).args(&arguments).run()
}

/// The folder that holds the workspace's `Cargo.toml`.
fn repository_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the xtask package lies one folder below the root").to_path_buf()
}
