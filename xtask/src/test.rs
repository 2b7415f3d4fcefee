//! Every test there is, in groups, closed by one line that counts them all.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::process::{self, Printed};
use crate::tally::Tally;
use crate::{debian, machines};

/// Debian packages that the tests call by the programs in them.
const TEST_PROGRAMS: [(&str, &str); 4] =
    [("git", "git"), ("cc", "gcc"), ("kill", "procps"), ("iscsi-test-cu", "libiscsi-bin")];

/// One group of tests that has run.
struct Group {
    name: &'static str,
    tally: Tally,
}

/// Runs everything; with `fast` nothing that takes longer than two minutes.
pub(crate) fn test(root: &Path, fast: bool) -> Result<()> {
    debian::need(&TEST_PROGRAMS)?;
    let mut groups = vec![workspace()?, documentation()?, simulator()?];
    let tally =
        if fast { Tally::skip("machines: left out by --fast") } else { machines::test(root)? };
    groups.push(Group { name: "machines", tally });
    report(&groups)
}

/// Runs the simulator with the arguments given.
pub(crate) fn simulate(_root: &Path, arguments: &[String]) -> Result<()> {
    match find_simulator()? {
        Some(target) => process::cargo(target.run_arguments(true)).args(arguments).run(),
        None => bail!("there is no simulator: no package has a program or example called `sim`"),
    }
}

/// Prints what each group did, why tests were left out, and the closing line.
fn report(groups: &[Group]) -> Result<()> {
    println!();
    let mut sum = Tally::default();
    for Group { name, tally } in groups {
        println!("{name:>14}: {tally}");
        sum += tally.clone();
    }
    for reason in &sum.reasons {
        println!("       skipped: {reason}");
    }
    for name in &sum.again {
        println!("  only when run again: {name}");
    }
    println!("{sum}");
    if sum.failed > 0 {
        bail!("{} tests failed", sum.failed);
    }
    if sum.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Unit, property and replay tests of all packages.
fn workspace() -> Result<Group> {
    let runner = if process::is_installed("cargo-nextest") {
        process::cargo(["nextest", "run", "--workspace", "--no-fail-fast"])
            .args(["--no-tests", "warn", "--status-level", "slow"])
            .env("NEXTEST_HIDE_PROGRESS_BAR", "1")
    } else {
        process::cargo(["test", "--quiet", "--workspace", "--no-fail-fast"])
            .args(["--lib", "--bins", "--tests"])
    };
    Ok(Group { name: "workspace", tally: count("workspace", &runner.run_and_keep()?) })
}

/// Examples in the documentation, which nextest does not run.
fn documentation() -> Result<Group> {
    let runner = process::cargo(["test", "--quiet", "--workspace", "--no-fail-fast", "--doc"]);
    Ok(Group { name: "documentation", tally: count("documentation", &runner.run_and_keep()?) })
}

/// The simulator's ordinary run: each seed is one test.
fn simulator() -> Result<Group> {
    let tally = match find_simulator()? {
        Some(target) => {
            let runner = process::cargo(target.run_arguments(false)).args(["--ordinary"]);
            count("simulator", &runner.run_and_keep()?)
        }
        None => Tally::skip("simulator: no package has a program or example called `sim`"),
    };
    Ok(Group { name: "simulator", tally })
}

/// Counts what was printed. A runner that failed without naming a failed test counts as one.
pub(crate) fn count(group: &str, printed: &Printed) -> Tally {
    let mut tally = Tally::from_lines(&printed.lines);
    if !printed.succeeded && tally.failed == 0 {
        println!("{group}: the runner itself failed");
        tally.failed = 1;
    }
    tally
}

/// A program or example called `sim`.
struct Simulator {
    package: String,
    kind: &'static str,
}

impl Simulator {
    fn run_arguments(&self, release: bool) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["run", "--quiet", "-p", &self.package, "--features", "sim", self.kind, "sim"]
                .map(str::to_owned)
                .into();
        arguments.extend(release.then(|| "--release".to_owned()));
        arguments.push("--".to_owned());
        arguments
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn find_simulator() -> Result<Option<Simulator>> {
    let metadata = process::cargo(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    for package in metadata.packages {
        for target in package.targets.iter().filter(|target| target.name == "sim") {
            let is = |kind: &str| target.kind.iter().any(|k| k == kind);
            let kind = if is("bin") {
                "--bin"
            } else if is("example") {
                "--example"
            } else {
                continue;
            };
            return Ok(Some(Simulator { package: package.name, kind }));
        }
    }
    Ok(None)
}
