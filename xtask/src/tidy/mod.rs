//! The house style as a program. It reads, it never writes, and it names every finding at once.
//!
//! What rustc and clippy check by themselves (documentation, arity, `unwrap`, `unsafe` outside the
//! modules that opt in) is not repeated here.

mod dependencies;
mod licence;
mod orphans;
mod source;
mod tree;
mod wrap;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;

/// What is wrong, each line naming its file.
#[derive(Default)]
pub(crate) struct Findings {
    wrong: Vec<String>,
    notes: Vec<String>,
}

impl Findings {
    /// Something that must be mended.
    fn wrong(&mut self, text: impl Into<String>) {
        self.wrong.push(text.into());
    }

    /// Something worth knowing that stops nobody.
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// A text file that the repository tracks, or would track once added.
pub(crate) struct File {
    /// Relative to the root, with `/` between parts.
    path: String,
    text: String,
}

/// Checks everything; an error if anything is wrong.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let files = read_files(root)?;
    let mut findings = Findings::default();
    for file in &files {
        source::check(file, &mut findings);
    }
    orphans::check(&files, &mut findings);
    tree::check(&files, &mut findings);
    dependencies::check(root, &files, &mut findings)?;
    for note in &findings.notes {
        println!("note: {note}");
    }
    for wrong in &findings.wrong {
        println!("tidy: {wrong}");
    }
    if !findings.wrong.is_empty() {
        bail!("tidy found {} things to mend", findings.wrong.len());
    }
    println!("tidy: {} files in order", files.len());
    Ok(())
}

/// Mends what a program can: wraps wide comments, lowers the ratchet to what is needed now.
pub(crate) fn fix(root: &Path) -> Result<()> {
    for file in read_files(root)?.iter().filter(|file| file.path.ends_with(".rs")) {
        let wrapped = wrap::wrapped(&file.text);
        if wrapped != file.text {
            fs::write(root.join(&file.path), wrapped)?;
        }
    }
    dependencies::lower_ratchet(root)
}

/// Every text file that is tracked or new, without what `.gitignore` leaves out.
fn read_files(root: &Path) -> Result<Vec<File>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listed = process::program("git").args(arguments).output()?;
    let mut files = Vec::new();
    for path in listed.split_terminator('\0') {
        let full: PathBuf = root.join(path);
        if !full.is_file() {
            continue; // deleted in the work tree, or a link to a folder
        }
        let bytes = fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
