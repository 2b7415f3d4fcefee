//! Programs run on behalf of a chore: echoed before, and an error when they fail.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};

/// One program with its arguments.
pub(crate) struct Program {
    command: Command,
    shown: String,
}

/// What a program printed on both streams, in the order of arrival, and how it ended.
pub(crate) struct Printed {
    pub(crate) lines: Vec<String>,
    pub(crate) succeeded: bool,
}

/// `cargo` with these arguments.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Program {
    // Not the toolchain's own path from $CARGO: a `+toolchain` argument needs the proxy.
    program("cargo").args(arguments)
}

/// Any program.
pub(crate) fn program(name: &str) -> Program {
    Program { command: Command::new(name), shown: name.to_owned() }
}

/// Whether a program of this name is on the path, or where a system administrator has it.
pub(crate) fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|folder| folder.join(name).is_file())
}

impl Program {
    pub(crate) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        for argument in arguments {
            self.shown.push(' ');
            self.shown.push_str(&argument.as_ref().to_string_lossy());
            self.command.arg(argument);
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it with its output straight to the terminal.
    pub(crate) fn run(mut self) -> Result<()> {
        println!("$ {}", self.shown);
        let status = self.command.status().with_context(|| format!("cannot run {}", self.shown))?;
        if !status.success() {
            bail!("`{}` failed ({status})", self.shown);
        }
        Ok(())
    }

    /// Starts it and leaves it running beside others.
    pub(crate) fn start(mut self) -> Result<Child> {
        println!("$ {} &", self.shown);
        self.command.spawn().with_context(|| format!("cannot run {}", self.shown))
    }

    /// Runs it silently and returns its standard output.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self.command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot run {}", self.shown))?;
        if !output.status.success() {
            bail!("`{}` failed ({})", self.shown, output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs it, shows each line as it comes, and returns all of them. A failing program is no
    /// error here: its lines say what failed.
    pub(crate) fn run_and_keep(mut self) -> Result<Printed> {
        println!("$ {}", self.shown);
        let started = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("cannot run {}", self.shown))?;
        let (sender, receiver) = mpsc::channel();
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        let readers = [forward(stdout, sender.clone()), forward(stderr, sender)];
        let mut lines = Vec::new();
        let mut terminal = std::io::stdout().lock();
        for line in receiver {
            writeln!(terminal, "{line}")?;
            lines.push(line);
        }
        for reader in readers {
            reader.join().expect("a reader does not panic");
        }
        Ok(Printed { lines, succeeded: child.wait()?.success() })
    }
}

fn forward(
    stream: impl std::io::Read + Send + 'static,
    sender: mpsc::Sender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(stream.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    })
}
