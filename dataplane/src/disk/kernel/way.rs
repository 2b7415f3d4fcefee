//! By which way reads and writes reach the kernel's driver, and whether they still do.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// A way of reads and writes to a disk of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By the block layer or a file system, with interrupts.
    Plain,
    /// By the block layer, polled for by the kernel.
    Polled,
    /// As NVMe commands, past the block layer.
    Passthrough,
}

impl Access {
    /// The event that tells that a disk is not accessed in this way though it should be.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::Plain | Self::Polled => "disk.unpolled",
            Self::Passthrough => "disk.passthrough",
        }
    }
}

/// As `basalt disk list` shows it.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "kernel",
            Self::Polled => "kernel polled",
            Self::Passthrough => "kernel passthrough",
        })
    }
}

/// The way of a disk, for all its parts. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Way(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    access: Access,
    /// A better one that there might have been, and why it was not gone from the first.
    refused: Option<(Access, String)>,
    /// Why it is not gone any more.
    left: OnceLock<String>,
}

impl Way {
    pub(crate) fn new(access: Access, refused: Option<(Access, String)>) -> Self {
        Self(Arc::new(Inner { access, refused, left: OnceLock::new() }))
    }

    /// How the disk is accessed now.
    #[must_use]
    pub fn access(&self) -> Access {
        if self.left().is_some() { Access::Plain } else { self.0.access }
    }

    /// A better way that there might have been when it was opened, and why it is not gone.
    #[must_use]
    pub fn refused(&self) -> Option<(Access, &str)> {
        self.0.refused.as_ref().map(|(access, why)| (*access, why.as_str()))
    }

    /// How it was accessed first, and why not any more; `None` while it is.
    #[must_use]
    pub fn left(&self) -> Option<(Access, &str)> {
        Some((self.0.access, self.0.left.get()?))
    }

    /// Gives the way up for good: the plain one is gone from now on. The first reason counts.
    pub(crate) fn leave(&self, why: impl FnOnce() -> String) {
        self.0.left.get_or_init(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_left_once() {
        let way = Way::new(Access::Polled, None);
        assert_eq!((way.access(), way.left()), (Access::Polled, None));
        let part = way.clone();
        part.leave(|| "refused".into());
        way.leave(|| "again".into());
        assert_eq!(way.access(), Access::Plain);
        assert_eq!(way.left(), Some((Access::Polled, "refused")));
        assert_eq!(way.left().unwrap().0.event(), "disk.unpolled");
    }
}
