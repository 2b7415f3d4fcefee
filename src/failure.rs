//! How a command of the program fails: what happened, what to do about it, and the exit code.

use serde_json::json;
use std::fmt;
use std::io;

/// Exit codes of the program. 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command was understood and could not be carried out.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration file is wrong.
    Config = 3,
    /// No node answers at the management socket.
    NoNode = 4,
    /// A disk was left alone because it may hold somebody's data, or is in use.
    Refused = 5,
    /// `basalt disk check` found damage.
    Damage = 6,
}

/// A command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// What happened.
    pub text: String,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), hint: None }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// From what the operating system said of `what`.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let failure = Self::new(Exit::Failed, format!("{what}: {error}"));
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                failure.hint("run as root, or as a user with rights to it")
            }
            io::ErrorKind::StorageFull => failure.hint("make room on the file system"),
            _ => failure,
        }
    }
}

impl Failure {
    /// One line of JSON: `{"error": {"exit", "message", "help"}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { exit, text, hint } = self;
        let error = json!({ "exit": *exit as u8, "message": text, "help": hint });
        json!({ "error": error }).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  help: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
