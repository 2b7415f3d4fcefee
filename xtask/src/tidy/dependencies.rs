//! What the workspace takes from others, against `deny.toml`, `docs/dependencies.md` and a
//! ratchet on the number of packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{File, Findings, licence};
use crate::process;

const PAGE: &str = "docs/dependencies.md";
const RATCHET: &str = "xtask/lock-packages-max";

/// The part of `deny.toml` that is checked here; cargo-deny, where installed, reads all of it.
#[derive(Deserialize)]
struct Policy {
    bans: Bans,
    licenses: Licences,
    sources: Sources,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    source: Option<String>,
}

/// Checks bans, licences, sources, the page of reasons and the ratchet.
pub(super) fn check(root: &Path, files: &[File], findings: &mut Findings) -> Result<()> {
    let policy: Policy = read_toml(&root.join("deny.toml"))?;
    let lock: Lock = read_toml(&root.join("Cargo.lock"))?;
    for locked in &lock.package {
        check_locked(&policy, locked, findings);
    }
    check_licences(&policy, findings)?;
    check_reasons(root, files, findings)?;
    let max: usize = read_ratchet(root)?;
    let packages = lock.package.len();
    if packages > max {
        findings.wrong(format!(
            "Cargo.lock has {packages} packages, {max} are allowed: do without, or raise {RATCHET} \
             and say why in the commit"
        ));
    } else if packages < max {
        findings.note(format!("{packages} packages, {max} allowed: `cargo xtask fix` lowers it"));
    }
    Ok(())
}

/// Sets the allowed number of packages to the present one, if that is lower.
pub(super) fn lower_ratchet(root: &Path) -> Result<()> {
    let lock: Lock = read_toml(&root.join("Cargo.lock"))?;
    let packages = lock.package.len();
    if packages < read_ratchet(root)? {
        fs::write(root.join(RATCHET), format!("{packages}\n"))?;
    }
    Ok(())
}

fn check_locked(policy: &Policy, locked: &Locked, findings: &mut Findings) {
    let name = &locked.name;
    if let Some(ban) = policy.bans.deny.iter().find(|ban| ban.name == *name) {
        findings.wrong(format!("Cargo.lock: {name} is banned: {}", ban.reason));
    }
    let Some(source) = &locked.source else { return };
    let place = source.trim_start_matches("registry+").trim_start_matches("sparse+");
    if !policy.sources.allow_registry.iter().any(|allowed| allowed == place) {
        findings.wrong(format!("Cargo.lock: {name} comes from {source}"));
    }
}

fn check_licences(policy: &Policy, findings: &mut Findings) -> Result<()> {
    let metadata = process::cargo(["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    for package in metadata.packages.iter().filter(|package| package.source.is_some()) {
        let licence = package.license.as_deref().unwrap_or_default();
        if !licence::is_allowed(licence, &policy.licenses.allow) {
            let Package { name, version, .. } = package;
            findings.wrong(format!("{name} {version}: licence `{licence}` is not allowed"));
        }
    }
    Ok(())
}

/// Each crate that a manifest names has a line on the page, and each line its crate.
fn check_reasons(root: &Path, files: &[File], findings: &mut Findings) -> Result<()> {
    let mut named: BTreeMap<String, &str> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let manifest: toml::Table = read_toml(&root.join(&file.path))?;
        for (name, needs) in dependencies(&manifest) {
            let ours = needs.get("path").is_some();
            let inherited = needs.get("workspace").is_some();
            if !ours && !inherited {
                named.entry(name.clone()).or_insert(&file.path);
            }
            let in_root = file.path == "Cargo.toml" || file.path.starts_with("fuzz/");
            if !in_root && !inherited {
                let path = &file.path;
                findings.wrong(format!("{path}: {name} is not taken from the workspace"));
            }
        }
    }
    let page = files.iter().find(|file| file.path == PAGE).map_or("", |file| &file.text);
    let listed: BTreeSet<&str> = page.lines().filter_map(listed_name).collect();
    for (name, path) in &named {
        if !listed.contains(name.as_str()) {
            findings.wrong(format!("{PAGE}: no reason for {name}, which {path} names"));
        }
    }
    for name in listed.iter().filter(|name| !named.contains_key(**name)) {
        findings.wrong(format!("{PAGE}: gives a reason for {name}, which nothing names"));
    }
    Ok(())
}

/// Every dependency of a manifest: of the workspace, of the package, of any kind.
fn dependencies(manifest: &toml::Table) -> Vec<(&String, &toml::Value)> {
    let mut tables: Vec<&toml::Value> = Vec::new();
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    tables.extend(kinds.iter().filter_map(|kind| manifest.get(*kind)));
    tables.extend(manifest.get("workspace").and_then(|w| w.get("dependencies")));
    if let Some(toml::Value::Table(targets)) = manifest.get("target") {
        let all = targets.values().flat_map(|t| kinds.iter().filter_map(|kind| t.get(*kind)));
        tables.extend(all);
    }
    tables.into_iter().filter_map(toml::Value::as_table).flatten().collect()
}

/// The crate that a line of the page is about: the first cell of a table row, or the first word
/// of a list item, in backquotes.
fn listed_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let item = line.strip_prefix("| `").or_else(|| line.strip_prefix("- `"))?;
    item.split('`').next()
}

fn read_ratchet(root: &Path) -> Result<usize> {
    let text = fs::read_to_string(root.join(RATCHET));
    let text = text.with_context(|| format!("cannot read {RATCHET}"))?;
    text.trim().parse().with_context(|| format!("{RATCHET} holds no number"))
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_by_table_or_list() {
        assert_eq!(listed_name("| `anyhow` | errors |"), Some("anyhow"));
        assert_eq!(listed_name("- `clap`: command line"), Some("clap"));
        assert_eq!(listed_name("The `ring` crate"), None);
    }

    #[test]
    fn bans_and_sources_are_seen_in_the_lock() {
        let policy: Policy = toml::from_str(
            "bans.deny = [{ crate = \"paste\", reason = \"gone\" }]\nlicenses.allow = []\n\
             sources.allow-registry = [\"https://here\"]",
        )
        .expect("the policy is well formed");
        let check = |name: &str, source: &str| {
            let locked = Locked { name: name.to_owned(), source: Some(source.to_owned()) };
            let mut findings = Findings::default();
            check_locked(&policy, &locked, &mut findings);
            findings.wrong.len()
        };
        assert_eq!(check("paste", "registry+https://here"), 1);
        assert_eq!(check("syn", "git+https://there"), 1);
        assert_eq!(check("syn", "registry+https://here"), 0);
    }
}
