//! Debian packages that a chore needs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{self, Program};

/// QEMU is taken from backports where Debian 12 has only 7.2: what the machine tests rely on was
/// measured with 10.0.
const BACKPORTED: &str = "qemu-system-x86";

/// Makes sure that each `(program, package)` is there: installs what is missing if this is root
/// on Debian, and otherwise names it.
pub(crate) fn need(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| !process::is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !process::is_installed("apt-get") {
        bail!("install these Debian packages first: {}", missing.join(" "));
    }
    apt_get(&["update", "-qq"]).run()?;
    let (backported, plain): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|package| *package == BACKPORTED);
    if !plain.is_empty() {
        install(&[], &plain)?;
    }
    if !backported.is_empty() {
        let from_backports = backports_sources().and_then(|sources| {
            apt_get(&["update", "-qq"]).args(&sources).run()?;
            let mut options = vec!["-t".to_owned(), format!("{}-backports", codename()?)];
            options.extend(sources);
            install(&options, &backported)
        });
        if let Err(error) = from_backports {
            println!("note: no {BACKPORTED} from backports ({error:#}); taking the release's own");
            install(&[], &backported)?;
        }
    }
    Ok(())
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn install(options: &[String], packages: &[&str]) -> Result<()> {
    apt_get(&["install", "-qq", "-y", "--no-install-recommends"]).args(options).args(packages).run()
}

fn apt_get(arguments: &[&str]) -> Program {
    process::program("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive")
}

/// Options that make apt see this release with its backports, from the mirror that the machine
/// uses, without touching the machine's own sources.
fn backports_sources() -> Result<Vec<String>> {
    let release = codename()?;
    let folder = std::env::current_dir()?.join("target/apt-backports");
    let (parts, lists) = (folder.join("sources"), folder.join("lists"));
    fs::create_dir_all(&parts)?;
    fs::create_dir_all(lists.join("partial"))?;
    let mirror = mirror()?;
    let line =
        |suite: &str| format!("deb [signed-by={}] {mirror} {suite} main\n", keyring().display());
    let text = format!("{}{}", line(&release), line(&format!("{release}-backports")));
    fs::write(parts.join("backports.list"), text)?;
    let options = [
        "Dir::Etc::sourcelist=/dev/null".to_owned(),
        format!("Dir::Etc::sourceparts={}", parts.display()),
        format!("Dir::State::lists={}", lists.display()),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
    ];
    Ok(options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect())
}

fn keyring() -> &'static Path {
    Path::new("/usr/share/keyrings/debian-archive-keyring.gpg")
}

/// The Debian mirror that this machine is set up for.
fn mirror() -> Result<String> {
    let arguments = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let mirrors = process::program("apt-get").args(arguments).output()?;
    let debian = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    let found = mirrors.lines().find(debian).context("apt has no Debian mirror")?;
    Ok(found.to_owned())
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("this is no Debian")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("this Debian has no code name")?.to_owned())
}
