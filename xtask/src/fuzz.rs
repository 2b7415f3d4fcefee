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
    let (mut failed, mut reports) = (Vec::new(), Vec::new());
    for name in chosen {
        match fuzz_one(root, name, seconds) {
            Ok(report) => reports.push(report),
            Err(error) => {
                println!("fuzz: {name}: {error:#}");
                failed.push(name.as_str());
            }
        }
    }
    reports.iter().for_each(|report| println!("{report}"));
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
fn fuzz_one(root: &Path, name: &str, seconds: u32) -> Result<String> {
    let binary = root.join("fuzz/target").join(HOST).join("release").join(name);
    let kept = root.join("fuzz/corpus").join(name);
    let scratch = root.join("fuzz/target/corpus").join(name);
    let merged = root.join("fuzz/target/merged").join(name);
    let artifacts = root.join("fuzz/artifacts").join(name);
    let _ = fs::remove_dir_all(&merged);
    for folder in [&kept, &scratch, &merged, &artifacts] {
        fs::create_dir_all(folder)?;
    }
    let fuzzer = || process::program(&binary.to_string_lossy());
    let printed = fuzzer()
        .args([format!("-max_total_time={seconds}"), format!("-max_len={INPUT_BYTES_MAX}")])
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"])
        .args([format!("-artifact_prefix={}/", artifacts.display())])
        .args([&scratch, &kept])
        .run_and_keep()?;
    if !printed.succeeded {
        bail!("it broke");
    }
    let executions = number_after(&printed.lines, "stat::number_of_executed_units:");
    // Kept is what covers every edge that was reached: how often it was would be far more.
    fuzzer()
        .args(["-set_cover_merge=1", "-use_counters=0", "-verbosity=0"])
        .args([&merged, &kept, &scratch])
        .run()?;
    let before = fs::read_dir(&kept)?.count();
    fs::remove_dir_all(&kept)?;
    fs::rename(&merged, &kept)?;
    let covered = fuzzer().args(["-runs=0"]).args([&kept]).run_and_keep()?;
    let edges = number_after(&covered.lines, "INITED cov:");
    let after = fs::read_dir(&kept)?.count();
    let corpus = format!("corpus {before} -> {after} inputs");
    Ok(format!("{name:>14}: {executions} executions, {edges} edges covered, {corpus}"))
}

/// The number that libFuzzer printed last after this mark; 0 if it printed none.
fn number_after(lines: &[String], mark: &str) -> u64 {
    let number = |line: &String| {
        let (_, rest) = line.split_once(mark)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    lines.iter().rev().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_what_the_fuzzer_prints() {
        let lines =
            ["#2\tINITED cov: 31 ft: 32 corp: 1/1b", "stat::number_of_executed_units: 52428"];
        let lines = lines.map(str::to_owned);
        assert_eq!(number_after(&lines, "INITED cov:"), 31);
        assert_eq!(number_after(&lines, "stat::number_of_executed_units:"), 52428);
        assert_eq!(number_after(&lines, "stat::peak_rss_mb:"), 0);
    }

    #[test]
    fn every_target_has_inputs_that_are_replayed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("a manifest");
        let replays = [
            "nvmeof-target/src/fuzz.rs",
            "iscsi-target/src/fuzz.rs",
            "iscsi-target/src/scsi/fuzz.rs",
            "dataplane/src/fuzz.rs",
            "src/config/tests.rs",
        ]
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
