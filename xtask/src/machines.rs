//! The machine tests: the node on this host, and a stock Debian guest in QEMU that uses it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tally::Tally;
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

/// Runs them and counts. Where the machine cannot hold them they are skipped, with the reason.
pub(crate) fn test(root: &Path) -> Result<Tally> {
    if let Err(error) = debian::need(&PROGRAMS) {
        return Ok(Tally::skip(format!("machines: {error:#}")));
    }
    if !debian::is_root() {
        return Ok(Tally::skip("machines: building the guest needs root"));
    }
    build(root)?;
    let printed = hw_tests(&[]).run_and_keep()?;
    Ok(test::count("machines", &printed))
}

/// Runs them with the arguments given: `cargo xtask machines [SCENARIO...]`.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    debian::need(&PROGRAMS)?;
    build(root)?;
    hw_tests(arguments).run()
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
    hw_tests(&["--measure".into(), shown(&file), "--binary".into(), shown(&binary)]).run()?;
    Ok(file)
}

/// The node is tested as the ordinary build makes it; its assertions are on either way.
fn build(_root: &Path) -> Result<()> {
    process::cargo(["build", "--quiet", "-p", "basalt", "-p", "hw-tests"]).run()?;
    // What tries devices out in the guest.
    process::cargo(["build", "--quiet", "-p", "dataplane", "--example", "device_check"]).run()
}

fn hw_tests(arguments: &[String]) -> process::Program {
    process::cargo(["run", "--quiet", "-p", "hw-tests", "--"]).args(arguments)
}
