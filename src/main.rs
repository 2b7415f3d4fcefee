//! The `basalt` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    basalt::cli::run()
}
