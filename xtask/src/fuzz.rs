//! Fuzzing with libFuzzer, as cargo-fuzz drives it, without needing cargo-fuzz.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{self, Program};

/// Coverage that libFuzzer reads: the instrumentation that cargo-fuzz asks for.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// With the nightly compiler the address sanitizer watches as well.
const ADDRESS: &str = " -Zsanitizer=address";

const HOST: &str = "x86_64-unknown-linux-gnu";

/// Inputs longer than this find nothing that shorter ones do not, and fill the repository.
const INPUT_BYTES_MAX: u32 = 4096;

/// Fuzzes one target, or each in turn, for `seconds`.
pub(crate) fn fuzz(root: &Path, seconds: u32, target: Option<&str>) -> Result<()> {
    let all = targets(root)?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| target.is_none_or(|t| t == *name)).collect();
    if chosen.is_empty() {
        bail!("no such target; there are: {}", all.join(", "));
    }
    let nightly = has_nightly();
    println!("address sanitizer: {}", if nightly { "on" } else { "off, for want of nightly" });
    build(nightly).run()?;
    let mut failed = Vec::new();
    for name in chosen {
        if let Err(error) = fuzz_one(root, name, seconds) {
            println!("fuzz: {name}: {error:#}");
            failed.push(name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("these targets broke, their inputs are in fuzz/artifacts: {}", failed.join(", "));
    }
    Ok(())
}

/// The names of the targets: one file each in `fuzz/fuzz_targets`.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("there is no fuzz/fuzz_targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let stem = path.file_stem().unwrap_or_default();
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn has_nightly() -> bool {
    let listed = process::program("rustup").args(["toolchain", "list"]).output();
    listed.is_ok_and(|listed| listed.lines().any(|line| line.starts_with("nightly")))
}

fn build(nightly: bool) -> Program {
    let flags = format!("{COVERAGE}{}", if nightly { ADDRESS } else { "" });
    let toolchain = nightly.then_some("+nightly");
    process::cargo(toolchain)
        .args(["build", "--release", "--bins", "--manifest-path", "fuzz/Cargo.toml"])
        .args(["--target", HOST])
        .env("RUSTFLAGS", flags)
}

/// Runs one target into a scratch corpus, then merges what reached new code into the kept one.
fn fuzz_one(root: &Path, name: &str, seconds: u32) -> Result<()> {
    let binary = root.join("fuzz/target").join(HOST).join("release").join(name);
    let kept = root.join("fuzz/corpus").join(name);
    let scratch = root.join("fuzz/target/corpus").join(name);
    let merged = root.join("fuzz/target/merged").join(name);
    let artifacts = root.join("fuzz/artifacts").join(name);
    let _ = fs::remove_dir_all(&merged);
    for folder in [&kept, &scratch, &merged, &artifacts] {
        fs::create_dir_all(folder)?;
    }
    let binary = binary.to_str().context("the path is not UTF-8")?;
    process::program(binary)
        .args([format!("-max_total_time={seconds}"), format!("-max_len={INPUT_BYTES_MAX}")])
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"])
        .args([format!("-artifact_prefix={}/", artifacts.display())])
        .args([&scratch, &kept])
        .run()?;
    process::program(binary)
        .args(["-merge=1", "-verbosity=0"])
        .args([&merged, &kept, &scratch])
        .run()?;
    let before = fs::read_dir(&kept)?.count();
    fs::remove_dir_all(&kept)?;
    fs::rename(&merged, &kept)?;
    println!("{name}: corpus {before} -> {} inputs", fs::read_dir(&kept)?.count());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_inputs_that_are_replayed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("a manifest");
        let replays = ["nvmeof-target/src/fuzz.rs", "dataplane/src/fuzz.rs", "src/config/tests.rs"]
            .map(|path| fs::read_to_string(root.join(path)).expect("a replay"))
            .concat();
        let mut corpora: Vec<_> = fs::read_dir(root.join("fuzz/corpus"))
            .expect("corpora")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        corpora.sort();
        let targets = targets(root).expect("targets");
        assert_eq!(targets, corpora);
        for name in targets {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
            assert!(replays.contains(&format!("replay(\"{name}\"")), "{name} is not replayed");
        }
    }
}
