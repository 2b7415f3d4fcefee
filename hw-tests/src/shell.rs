//! Scripts on the host, with a time limit.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Runs a bash script and returns what it printed on standard output.
///
/// # Errors
/// If it fails or takes longer than `limit`; the error holds the end of its standard error.
pub(crate) fn run(script: &str, limit: Duration) -> Result<String> {
    let output = Command::new("timeout")
        .args(["-k", "5", &limit.as_secs().to_string(), "bash", "-c", script])
        .stdin(Stdio::null())
        .output()
        .context("cannot run bash")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let shown = last_lines(&said, 20);
        let command = script.trim().lines().next().unwrap_or_default();
        bail!("`{command}` failed ({}):\n{shown}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
