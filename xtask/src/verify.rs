//! What must hold before a change lands, and what can be mended by a program.

use std::path::Path;

use anyhow::Result;

use crate::{process, tidy};

const LINTS: [&str; 7] =
    ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];

/// Format, house style, dependency policy, lints. Writes nothing but build output.
pub(crate) fn verify(root: &Path) -> Result<()> {
    process::cargo(["fmt", "--all", "--check"]).run()?;
    fuzz_manifest(["fmt", "--check"]).run()?;
    tidy::tidy(root)?;
    if process::is_installed("cargo-deny") {
        process::cargo(["deny", "check", "bans", "licenses", "sources"]).run()?;
    }
    process::cargo(LINTS).run()
}

/// Formats and applies the linter's own corrections.
pub(crate) fn fix(root: &Path) -> Result<()> {
    tidy::fix(root)?;
    process::cargo(["clippy", "--fix", "--allow-dirty", "--workspace", "--all-targets"]).run()?;
    process::cargo(["fmt", "--all"]).run()?;
    fuzz_manifest(["fmt"]).run()
}

/// `cargo` on the fuzz crate, which is no member of the workspace.
fn fuzz_manifest<const N: usize>(arguments: [&str; N]) -> process::Program {
    let [first, rest @ ..] = arguments.as_slice() else { unreachable!("a subcommand is given") };
    process::cargo([first, &"--manifest-path", &"fuzz/Cargo.toml"]).args(rest)
}
