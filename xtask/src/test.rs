//! Every test there is, in groups, closed by one line that counts them all.

use anyhow::{Result, bail};

use crate::process::{self, Printed};
use crate::tally::Tally;
use crate::workspace::{Simulator, Workspace};
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
pub(crate) fn test(fast: bool) -> Result<()> {
    debian::need(&TEST_PROGRAMS)?;
    let found = Workspace::find()?;
    let image = if fast { None } else { machines::begin(&found)? };
    // What fails to build is told again, and counted, when it should run.
    process::cargo(["test", "--quiet", "--workspace", "--no-run"])
        .args(found.features())
        .run_and_keep()?;
    // No test runs beside it.
    if let Some(mut image) = image {
        image.wait()?;
    }
    let mut groups = vec![workspace(&found)?, documentation(&found)?, simulator(&found)?];
    let tally =
        if fast { Tally::skip("machines: left out by --fast") } else { machines::test(&found)? };
    groups.push(Group { name: "machines", tally });
    report(&groups)
}

/// Runs the simulator with the arguments given.
pub(crate) fn simulate(arguments: &[String]) -> Result<()> {
    let Some(Simulator { package, kind, .. }) = Workspace::find()?.simulator else {
        bail!("there is no simulator: no package has a program or example called `sim`");
    };
    process::cargo(["run", "--quiet", "--release", "-p", &package, "--features", "sim"])
        .args([kind, "sim", "--"])
        .args(arguments)
        .run()
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
fn workspace(found: &Workspace) -> Result<Group> {
    let runner = if process::is_installed("cargo-nextest") {
        process::cargo(["nextest", "run", "--workspace", "--no-fail-fast"])
            .args(["--no-tests", "warn", "--status-level", "slow"])
            .env("NEXTEST_HIDE_PROGRESS_BAR", "1")
    } else {
        process::cargo(["test", "--quiet", "--workspace", "--no-fail-fast"])
            .args(["--lib", "--bins", "--tests"])
    };
    let printed = runner.args(found.features()).run_and_keep()?;
    Ok(Group { name: "workspace", tally: count("workspace", &printed) })
}

/// Examples in the documentation, which nextest does not run.
fn documentation(found: &Workspace) -> Result<Group> {
    let runner = process::cargo(["test", "--quiet", "--workspace", "--no-fail-fast", "--doc"])
        .args(found.features());
    Ok(Group { name: "documentation", tally: count("documentation", &runner.run_and_keep()?) })
}

/// The simulator's ordinary run: each seed is one test.
fn simulator(found: &Workspace) -> Result<Group> {
    let tally = match &found.simulator {
        Some(Simulator { kind, file, .. }) => {
            process::cargo(["build", "--quiet", "--workspace", kind, "sim"])
                .args(found.features())
                .run()?;
            let runner = found.program(file).args(["--ordinary"]);
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
