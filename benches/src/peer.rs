//! Targets that are measured in turns: other programs, stopped except while they are.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use target_io::testing::free_port;

const START_TRIES: u32 = 600;
const START_PERIOD: Duration = Duration::from_millis(50);
/// Ticks of processor time in a second (USER_HZ), on every Linux architecture that is served.
const TICKS: f64 = 100.0;

/// A target in a process of its own. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts what will listen at `address`, and waits until it does. What it says goes to
    /// `NAME.log` in `out`.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not listen in time.
    pub(crate) fn start(
        mut command: Command,
        name: &str,
        address: SocketAddr,
        out: &Path,
    ) -> Result<Self> {
        let path = out.join(format!("{name}.log"));
        let log = File::create(&path)?;
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .with_context(|| format!("cannot start {program}: is it built, or installed?"))?;
        let mut peer = Self { child, address };
        for _ in 0..START_TRIES {
            if TcpStream::connect(address).is_ok() {
                return Ok(peer);
            }
            if peer.child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(START_PERIOD);
        }
        bail!("{name} did not start: see {}", path.display());
    }

    /// Takes the processor away from it.
    pub(crate) fn pause(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Gives the processor back.
    pub(crate) fn resume(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Processor time of all its threads so far, in seconds.
    pub(crate) fn processor_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name is in parentheses and may hold spaces; the 12th and 13th field after it.
        let (_, rest) = stat.rsplit_once(')').context("a strange /proc/PID/stat")?;
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        Ok(ticks as f64 / TICKS)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address on loopback at which nobody listens.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}
