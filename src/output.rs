//! Tables for people, JSON for programs.

use crate::failure::{Exit, Failure};
use clap::ValueEnum;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// JSON: one document, or one line for each item of something that goes on.
    Json,
}

/// Columns with a heading.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Headings; one that begins with `>` is for numbers and aligned right.
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet. A heading that begins with `>` is aligned right.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().collect();
        assert_eq!(row.len(), self.headings.len(), "a cell for each heading");
        self.rows.push(row);
    }

    /// Text with a line feed after each row.
    #[must_use]
    pub fn render(&self) -> String {
        let heading = |at: usize| self.headings[at].trim_start_matches('>');
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.chain([heading(at).chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &[&str]| {
            let mut row = String::new();
            for ((cell, width), title) in cells.iter().zip(&widths).zip(&self.headings) {
                let written = match title.starts_with('>') {
                    true => write!(row, "{cell:>width$}  "),
                    false => write!(row, "{cell:<width$}  "),
                };
                written.expect("a String takes everything");
            }
            text.push_str(row.trim_end());
            text.push('\n');
        };
        line(&(0..self.headings.len()).map(heading).collect::<Vec<_>>());
        for row in &self.rows {
            line(&row.iter().map(String::as_str).collect::<Vec<_>>());
        }
        text
    }
}

/// Writes to standard output.
///
/// # Errors
/// If it cannot be written; not if its reader has gone, in which case the program ends well.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot write the output: {error}"))),
    }
}

/// Writes a line to standard error. A node goes on when nobody is there to read it.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes a JSON document.
///
/// # Errors
/// As [`print`].
pub fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("plain data serialises");
    print(&format!("{text}\n"))
}

/// Writes a JSON document on one line.
///
/// # Errors
/// As [`print`].
pub fn print_json_line<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).expect("plain data serialises");
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(["a".to_owned(), "10 GiB".to_owned()]);
        table.row(["longer".to_owned(), "1 B".to_owned()]);
        assert_eq!(table.render(), "NAME      SIZE\na       10 GiB\nlonger     1 B\n");
    }
}
