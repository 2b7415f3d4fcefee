//! The machine tests: the node on this host, and a stock Debian guest in QEMU that uses it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::Result;

use crate::tally::Tally;
use crate::workspace::Workspace;
use crate::{debian, process, test};

/// What `hw-tests` calls beside what every Debian has, and the package that has it.
const PROGRAMS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("tshark", "tshark"),
    ("mke2fs", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("xz", "xz-utils"),
];

/// Builds them and starts to make the guest's image, which takes a minute or two and for the most
/// part waits for a mirror; `None` where the machine cannot hold them.
pub(crate) fn begin(found: &Workspace) -> Result<Option<Child>> {
    if lacking().is_some() {
        return Ok(None);
    }
    build()?;
    // If it fails, they make it themselves, or say why they cannot.
    found.program("hw-tests").args(["--image"]).start().map(Some)
}

/// Runs them and counts. Where the machine cannot hold them they are skipped, with the reason.
pub(crate) fn test(found: &Workspace) -> Result<Tally> {
    if let Some(reason) = lacking() {
        return Ok(Tally::skip(format!("machines: {reason}")));
    }
    build()?;
    let printed = found.program("hw-tests").run_and_keep()?;
    Ok(test::count("machines", &printed))
}

/// Runs them with the arguments given: `cargo xtask machines [SCENARIO...]`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    debian::need(&PROGRAMS)?;
    build()?;
    Workspace::find()?.program("hw-tests").args(arguments).run()
}

/// Measures fio in the guest against the node in release, and returns the file with its figures.
pub(crate) fn measure(root: &Path) -> Result<PathBuf> {
    debian::need(&PROGRAMS)?;
    process::cargo(["build", "--quiet", "--release", "-p", "basalt"]).run()?;
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("guest.json");
    let binary = root.join("target/release/basalt");
    let shown = |path: &Path| path.display().to_string();
    process::cargo(["run", "--quiet", "-p", "hw-tests", "--"])
        .args(["--measure".into(), shown(&file), "--binary".into(), shown(&binary)])
        .run()?;
    Ok(file)
}

/// What this machine lacks to hold them.
fn lacking() -> Option<String> {
    if let Err(error) = debian::need(&PROGRAMS) {
        return Some(format!("{error:#}"));
    }
    (!debian::is_root()).then(|| "building the guest needs root".to_owned())
}

/// The node is tested as the ordinary build makes it; its assertions are on either way. With it
/// come the tests themselves and what tries devices out in the guest.
fn build() -> Result<()> {
    process::cargo(["build", "--quiet", "-p", "basalt", "-p", "hw-tests", "-p", "dataplane"])
        .args(["--bins", "--example", "device_check"])
        .run()
}
