//! The drawing of the folders in `docs/architecture.md` against the folders.

use std::collections::BTreeSet;

use super::{File, Findings};

const PAGE: &str = "docs/architecture.md";

/// Folders that hold code and whose own folders are drawn too.
const DRAWN_BELOW: [&str; 2] = ["dataplane/", "dataplane/src/"];

/// Checks that each drawn folder exists and that each folder of code is drawn.
pub(super) fn check(files: &[File], findings: &mut Findings) {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        findings.wrong(format!("{PAGE} is missing: it draws the tree"));
        return;
    };
    let drawn = drawn_folders(&page.text);
    let present = present_folders(files);
    for folder in drawn.difference(&present) {
        findings.wrong(format!("{PAGE}: draws {folder}, which is not there"));
    }
    for folder in present.difference(&drawn) {
        if is_expected(folder) {
            findings.wrong(format!("{PAGE}: does not draw {folder}"));
        }
    }
}

/// The folders of the first fenced block that has any: a line is a folder if its first word ends
/// in `/`; two spaces further in is one level deeper.
fn drawn_folders(page: &str) -> BTreeSet<String> {
    let blocks = page.split("```").skip(1).step_by(2);
    let mut folders = blocks.map(block_folders);
    folders.find(|folders| !folders.is_empty()).unwrap_or_default()
}

fn block_folders(block: &str) -> BTreeSet<String> {
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut folders = BTreeSet::new();
    for line in block.lines().skip(1) {
        let name = line.split_whitespace().next().unwrap_or_default();
        if !name.ends_with('/') {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        above.retain(|(outer, _)| *outer < indent);
        let outer = above.last().map_or("", |(_, path)| path);
        let path = format!("{outer}{name}");
        folders.insert(path.clone());
        above.push((indent, path));
    }
    folders
}

fn present_folders(files: &[File]) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for file in files {
        let ends = file.path.match_indices('/');
        folders.extend(ends.map(|(end, _)| file.path[..=end].to_owned()));
    }
    folders
}

/// Top folders, and those of the plane; hidden ones and a package's plain `src/` explain
/// themselves.
fn is_expected(folder: &str) -> bool {
    let (outer, name) = match folder.trim_end_matches('/').rsplit_once('/') {
        Some((outer, name)) => (format!("{outer}/"), name),
        None => (String::new(), folder.trim_end_matches('/')),
    };
    let plain = ["src", "tests", "benches", "examples", "proptest-regressions"];
    if outer.is_empty() {
        return !name.starts_with('.');
    }
    DRAWN_BELOW.contains(&outer.as_str()) && !plain.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(page: &str, paths: &[&str]) -> Vec<String> {
        let file = |path: &&str| File { path: (*path).to_owned(), text: String::new() };
        let mut files: Vec<File> = paths.iter().map(file).collect();
        files.push(File { path: PAGE.to_owned(), text: page.to_owned() });
        let mut findings = Findings::default();
        check(&files, &mut findings);
        findings.wrong
    }

    #[test]
    fn the_drawing_and_the_folders_must_agree() {
        let page = "text\n```\na/     one\n  src/x/  two\ndocs/\nREADME.md\n```\n";
        assert_eq!(wrong(page, &["a/src/x/lib.rs"]), Vec::<String>::new());
        let found = wrong(page, &["a/src/lib.rs", "b/c.rs"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("draws a/src/x/") && found[1].contains("not draw b/"));
    }
}
