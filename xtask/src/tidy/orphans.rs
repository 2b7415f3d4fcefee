//! Rust files that no crate reaches: they look like code, and nothing compiles them.

use std::collections::BTreeSet;

use super::{File, Findings};

/// Names every `.rs` file below a package that no `mod` line leads to.
pub(super) fn check(files: &[File], findings: &mut Findings) {
    let rust = || files.iter().filter(|file| file.path.ends_with(".rs"));
    let all: BTreeSet<&str> = rust().map(|file| file.path.as_str()).collect();
    let manifests = files.iter().filter_map(|file| file.path.strip_suffix("Cargo.toml"));
    let packages: Vec<&str> = manifests.collect();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut queue: Vec<String> = Vec::new();
    for file in rust() {
        if is_root(&packages, &file.path) {
            queue.push(file.path.clone());
        }
    }
    while let Some(path) = queue.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        let Some(file) = files.iter().find(|file| file.path == path) else { continue };
        let is_root = is_root(&packages, &path);
        queue.extend(children(file, is_root).into_iter().filter(|c| all.contains(c.as_str())));
    }
    for path in all {
        if !reached.contains(path) {
            findings.wrong(format!("{path}: no `mod` line leads here"));
        }
    }
}

/// Whether cargo compiles this file by its own convention (or by a `[[bin]]` path in fuzz).
fn is_root(packages: &[&str], path: &str) -> bool {
    let package = packages.iter().filter(|package| path.starts_with(**package));
    let Some(package) = package.max_by_key(|package| package.len()) else { return false };
    let parts: Vec<&str> = path[package.len()..].split('/').collect();
    matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "benches" | "examples" | "fuzz_targets", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    )
}

/// The files that the `mod` and `include!` lines of this one may mean.
fn children(file: &File, is_root: bool) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let stem = name.trim_end_matches(".rs");
    let owns_folder = is_root || stem == "mod";
    let below = if owns_folder { folder.to_owned() } else { format!("{folder}/{stem}") };
    let mut found = Vec::new();
    let mut inline: Vec<&str> = Vec::new();
    for line in file.text.lines() {
        let code = line.trim();
        if let Some(rest) = code.strip_prefix("#[path = \"") {
            found.push(format!("{folder}/{}", rest.trim_end_matches("\"]")));
        }
        if let Some((_, rest)) = code.split_once("include!(\"") {
            let path = rest.split('"').next().unwrap_or(rest);
            found.push(format!("{folder}/{path}"));
        }
        let Some(declared) = module_line(code) else { continue };
        if let Some(module) = declared.strip_suffix(';') {
            let nested = inline.iter().map(|part| format!("/{part}")).collect::<String>();
            for below in [below.clone(), format!("{below}{nested}")] {
                found.push(format!("{below}/{module}.rs"));
                found.push(format!("{below}/{module}/mod.rs"));
            }
        } else if let Some(module) = declared.strip_suffix(" {") {
            inline.push(module);
        }
    }
    found
}

/// What follows `mod ` on a line that declares a module.
fn module_line(code: &str) -> Option<&str> {
    let code = code.strip_prefix("#[cfg(test)] ").unwrap_or(code);
    let code = match code.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => code,
    };
    code.strip_prefix("mod ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphans(files: &[(&str, &str)]) -> Vec<String> {
        let file =
            |(path, text): &(&str, &str)| File { path: (*path).into(), text: (*text).into() };
        let files: Vec<File> = files.iter().map(file).collect();
        let mut findings = Findings::default();
        check(&files, &mut findings);
        findings.wrong
    }

    #[test]
    fn modules_are_followed_and_the_rest_is_named() {
        let files = [
            ("a/Cargo.toml", ""),
            ("a/src/lib.rs", "pub mod x;\n#[cfg(test)]\nmod tests;\n"),
            ("a/src/tests.rs", ""),
            ("a/src/x/mod.rs", "pub(crate) mod y;"),
            ("a/src/x/y.rs", "mod z;"),
            ("a/src/x/y/z.rs", ""),
            ("a/src/x/lost.rs", ""),
            ("a/tests/end.rs", ""),
        ];
        assert_eq!(orphans(&files), ["a/src/x/lost.rs: no `mod` line leads here"]);
    }
}
