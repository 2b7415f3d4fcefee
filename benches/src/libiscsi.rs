//! libiscsi's `iscsi-perf` as an initiator: random reads only, counted by itself.

use anyhow::{Context, Result};
use std::process::Command;

/// Seconds that it may take beside its measurement.
const PATIENCE: u64 = 10;
/// What stands before the figure that counts, the last of its kind.
const AVERAGE: &str = "iops average ";

/// Reads single blocks of the unit at `url` for so many seconds, `depth` at a time: IOPS.
///
/// # Errors
/// When it is not installed, fails, or does not end.
pub(crate) fn run(url: &str, depth: usize, seconds: u64, core: usize) -> Result<f64> {
    // It cannot be asked to end.
    let output = Command::new("timeout")
        .args(["-s", "KILL", &(seconds + PATIENCE).to_string()])
        .args(["taskset", "-c", &core.to_string(), "iscsi-perf", "-r", "-b", "1"])
        .args(["-t", &seconds.to_string(), "-m", &depth.to_string(), url])
        .output()
        .context("cannot start timeout")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    average(&said).with_context(|| format!("iscsi-perf (of libiscsi-bin) said: {said}"))
}

/// The figure in what it printed.
fn average(said: &str) -> Option<f64> {
    let (_, figure) = said.rsplit_once(AVERAGE)?;
    figure.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_average_counts() {
        let said = "connected\n\r00:01:01 - lba 7, iops current 41 (0 MB/s), iops average 40 \
                    (0 MB/s)      \riops average 39871 (155 MB/s)        \n\nfinished.\n";
        assert_eq!(average(said), Some(39871.0));
        assert_eq!(average("Login Failed."), None);
    }
}
