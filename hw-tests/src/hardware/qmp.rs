//! QEMU's monitor: devices come and go, and fail, while the guest runs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// A connection to the monitor.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Events that came while something else was waited for.
    events: Vec<Value>,
}

impl Qmp {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket).context("cannot reach QEMU's monitor")?;
        writer.set_read_timeout(Some(LIMIT))?;
        let mut qmp =
            Self { reader: BufReader::new(writer.try_clone()?), writer, events: Vec::new() };
        qmp.read()?;
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// One command and its answer.
    pub(crate) fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes())?;
        loop {
            let answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            self.events.push(answer);
        }
    }

    /// Waits for an event of this name about this device.
    pub(crate) fn wait_for(&mut self, event: &str, device: &str) -> Result<()> {
        let is_it = |value: &Value| value["event"] == event && value["data"]["device"] == device;
        if let Some(at) = self.events.iter().position(is_it) {
            self.events.remove(at);
            return Ok(());
        }
        loop {
            let value = self.read().with_context(|| format!("no {event} of {device}"))?;
            if is_it(&value) {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).context("QEMU's monitor is silent")? == 0 {
            bail!("QEMU has ended");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
