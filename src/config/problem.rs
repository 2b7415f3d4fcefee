//! What is wrong with a configuration, and where.

use crate::size::Size;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use toml::Spanned;

/// Most problems told of one file.
const PROBLEMS_MAX: usize = 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; `None` where it is about the file as a whole.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub text: String,
}

/// Everything that is wrong with one file; not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The file's name.
    pub origin: String,
    /// The problems, by line.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match problem.line {
                Some(line) => write!(f, "{}:{line}:{}: ", self.origin, problem.column)?,
                None => write!(f, "{}: ", self.origin)?,
            }
            f.write_str(&problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Collects problems of a text.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Invalid,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str, origin: &str) -> Self {
        Self { text, found: Invalid { origin: origin.to_owned(), problems: Vec::new() } }
    }

    /// At this range of the text.
    pub(super) fn add(&mut self, span: Range<usize>, text: String) {
        let (line, column) = position(self.text, span.start);
        self.push(Problem { line: Some(line), column, text });
    }

    /// About the file as a whole.
    pub(super) fn add_whole(&mut self, text: String) {
        self.push(Problem { line: None, column: 1, text });
    }

    pub(super) fn add_toml(&mut self, error: &toml::de::Error) {
        let text = error.message().trim().replace('\n', "; ");
        match error.span() {
            Some(span) => self.add(span, text),
            None => self.add_whole(text),
        }
    }

    fn push(&mut self, problem: Problem) {
        if self.found.problems.len() < PROBLEMS_MAX {
            self.found.problems.push(problem);
        }
    }

    /// Whether all is well so far.
    pub(super) fn check(&mut self) -> Result<(), Invalid> {
        if self.found.problems.is_empty() {
            return Ok(());
        }
        let origin = self.found.origin.clone();
        Err(std::mem::replace(&mut self.found, Invalid { origin, problems: Vec::new() }).sorted())
    }

    pub(super) fn into_invalid(self) -> Invalid {
        self.found.sorted()
    }

    /// A size within `limits`; `default` where it is not given.
    pub(super) fn size(
        &mut self,
        size: Option<&Spanned<Size>>,
        key: &str,
        limits: (u64, u64),
        default: usize,
    ) -> usize {
        size.map_or(default, |size| self.range(size, key, limits) as usize)
    }

    /// A size within `limits`.
    pub(super) fn range(&mut self, size: &Spanned<Size>, key: &str, limits: (u64, u64)) -> u64 {
        let Size(bytes) = *size.get_ref();
        let (low, high) = limits;
        if !(low..=high).contains(&bytes) {
            let (low, high) = (Size(low), Size(high));
            self.add(size.span(), format!("{key} is {low} to {high}, not {}", Size(bytes)));
        } else if !bytes.is_multiple_of(4096) {
            self.add(size.span(), format!("{key} is a multiple of 4096 bytes"));
        }
        bytes
    }

    /// An address that a socket can have, with this port where the text names none.
    pub(super) fn address(&mut self, text: &Spanned<String>, port: u16) -> Option<SocketAddr> {
        let inner = text.get_ref();
        let bare = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
        let address = match (inner.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(address), _) => address,
            (_, Ok(ip)) => SocketAddr::new(ip, port),
            _ => {
                let good = "write 192.0.2.1:4420 or [2001:db8::1]:4420";
                self.add(text.span(), format!("{inner:?} is not an IP address and port; {good}"));
                return None;
            }
        };
        let why = match () {
            () if address.port() == 0 => "port 0 is not a port",
            () if address.ip().is_multicast() => "a multicast address cannot be listened on",
            () => return Some(address),
        };
        self.add(text.span(), format!("{address}: {why}"));
        None
    }
}

impl Invalid {
    fn sorted(mut self) -> Self {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}
