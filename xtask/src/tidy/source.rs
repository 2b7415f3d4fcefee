//! One file at a time: sizes, names, markers, and where `unsafe` may stand.

use super::{File, Findings};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
const FILE_LINES_SOFT: usize = 500;
/// Width of a line in characters.
pub(super) const LINE_CHARS_MAX: usize = 100;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "manager", "managers", "base"];

/// Where a module may opt in to `unsafe`, with a `// UNSAFETY:` line.
const UNSAFE_FOLDERS: [&str; 4] =
    ["dataplane/src/dma/", "dataplane/src/uring/", "dataplane/src/vfio/", "benches/"];

/// Left in a file, each of these stops a merge. Written in halves, so that this file may pass.
const MARKERS: [&str; 3] = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X:")];

/// Places that exist on one machine alone, and hosts that a client is configured for elsewhere.
const FOREIGN: [&str; 10] = [
    concat!("deb.deb", "ian.org"),
    concat!("snapshot.deb", "ian.org"),
    concat!("static.cra", "tes.io"),
    concat!("index.cra", "tes.io"),
    concat!("py", "pi.org"),
    concat!("registry.np", "mjs.org"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

/// Checks one file.
pub(super) fn check(file: &File, findings: &mut Findings) {
    check_name(file, findings);
    check_words(file, findings);
    if file.path.ends_with(".rs") || file.path.ends_with(".sh") || file.path == ".ci/run" {
        check_size(file, findings);
    }
    if file.path.ends_with(".rs") {
        check_functions(file, findings);
        check_unsafe(file, findings);
    }
}

fn check_name(file: &File, findings: &mut Findings) {
    for part in file.path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        let empty = |word: &str| EMPTY_NAMES.contains(&word);
        if stem.split(['_', '-']).any(empty) {
            findings.wrong(format!("{}: `{stem}` says nothing about what it holds", file.path));
        }
    }
}

fn check_words(file: &File, findings: &mut Findings) {
    for (number, line) in numbered(&file.text) {
        for marker in MARKERS {
            if line.contains(marker) {
                findings.wrong(format!("{}:{number}: {marker} is left over", file.path));
            }
        }
        for foreign in FOREIGN {
            if line.contains(foreign) {
                findings.wrong(format!("{}:{number}: names `{foreign}`", file.path));
            }
        }
    }
}

fn check_size(file: &File, findings: &mut Findings) {
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.wrong(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", file.path));
    } else if lines > FILE_LINES_SOFT {
        findings.note(format!("{}: {lines} lines; think of splitting it", file.path));
    }
    for (number, line) in numbered(&file.text) {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            findings.wrong(format!("{}:{number}: {chars} characters wide", file.path));
        }
    }
}

/// Finds long functions by rustfmt's layout: a body ends at the first `}` that stands as far in
/// as its `fn`. `verify` checks the format, so this cannot be led astray.
fn check_functions(file: &File, findings: &mut Findings) {
    let lines: Vec<&str> = file.text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let Some((indent, name)) = function_start(line) else { continue };
        let Some(length) = function_length(&lines[start..], indent) else { continue };
        if length > FUNCTION_LINES_MAX {
            let (path, number) = (&file.path, start + 1);
            findings.wrong(format!(
                "{path}:{number}: `{name}` has {length} lines, at most {FUNCTION_LINES_MAX}"
            ));
        }
    }
}

/// The lines from the first of a function to its closing brace; none if it has no body.
fn function_length(lines: &[&str], indent: usize) -> Option<usize> {
    for (index, line) in lines.iter().enumerate() {
        let at_indent = line.len() - line.trim_start().len() == indent;
        if at_indent && line.ends_with('}') {
            return Some(index + 1);
        }
        if at_indent && line.ends_with(';') {
            return None;
        }
    }
    None
}

/// The indentation and the name, if a function starts on this line.
fn function_start(line: &str) -> Option<(usize, &str)> {
    let code = line.trim_start();
    let indent = line.len() - code.len();
    let mut words = code.split(' ');
    loop {
        match words.next()? {
            "fn" => break,
            "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"" | "default" => {}
            word if word.starts_with("pub(") || word.ends_with(')') => {}
            _ => return None,
        }
    }
    let name = words.next()?.split(['(', '<']).next()?;
    Some((indent, name))
}

fn check_unsafe(file: &File, findings: &mut Findings) {
    let opts_in = |line: &str| {
        let code = line.trim_start();
        code.starts_with("#") && code.contains("(unsafe_code") && !code.contains("forbid")
    };
    let Some((number, _)) = numbered(&file.text).find(|(_, line)| opts_in(line)) else { return };
    if !UNSAFE_FOLDERS.iter().any(|folder| file.path.starts_with(folder)) {
        findings.wrong(format!("{}:{number}: `unsafe` has no place here", file.path));
    }
    if !file.text.contains("// UNSAFETY:") {
        findings.wrong(format!("{}:{number}: no `// UNSAFETY:` line says why", file.path));
    }
}

/// The lines with their numbers, counted from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        check(&File { path: path.to_owned(), text: text.to_owned() }, &mut findings);
        findings.wrong
    }

    #[test]
    fn a_function_of_71_lines_is_one_too_many() {
        let body = "        step();\n".repeat(69);
        let fine = format!("impl A {{\n    pub fn run(&self) {{\n{}    }}\n}}\n", &body[16..]);
        let long = format!("impl A {{\n    pub(crate) fn run(&self) {{\n{body}    }}\n}}\n");
        assert_eq!(findings("a.rs", &fine), Vec::<String>::new());
        assert_eq!(findings("a.rs", &long), ["a.rs:2: `run` has 71 lines, at most 70"]);
    }

    #[test]
    fn a_declaration_without_body_is_no_function() {
        let text =
            format!("trait A {{\n    fn run(\n        &self,\n    );\n{}}}\n", "\n".repeat(90));
        assert_eq!(findings("a.rs", &text), Vec::<String>::new());
    }

    #[test]
    fn names_markers_and_width_are_checked() {
        assert_eq!(findings("src/net_utils.rs", "").len(), 1);
        assert_eq!(findings("src/database.rs", "").len(), 0);
        assert_eq!(findings("a.md", concat!("TO", "DO: later")).len(), 1);
        assert_eq!(findings("a.rs", &format!("// {}", "x".repeat(98))).len(), 1);
        assert_eq!(findings("a.toml", concat!("cd /wo", "rk/x")).len(), 1);
    }

    #[test]
    fn unsafe_needs_its_place_and_its_reason() {
        assert_eq!(findings("src/a.rs", "#![forbid(unsafe_code)]\n").len(), 0);
        let text = "#![expect(unsafe_code)]\n";
        assert_eq!(findings("dataplane/src/store/a.rs", text).len(), 2);
        assert_eq!(findings("dataplane/src/dma/a.rs", text).len(), 1);
        let text = "#![expect(unsafe_code)]\n// UNSAFETY: memory for devices\n";
        assert_eq!(findings("dataplane/src/dma/a.rs", text).len(), 0);
    }
}
