//! SPDK's NVMe-oF target with a malloc disk, as a peer on the same core.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Subsystem of the peer; its namespace 1 is the malloc disk.
pub(crate) const NQN: &str = "nqn.2016-06.io.spdk:bench";
const BLOCK: u64 = 4096;
const START_TRIES: u32 = 600;
const START_PERIOD: Duration = Duration::from_millis(50);
/// Huge pages of 2 MiB beside the disk: buffers of the transport and of DPDK.
const HUGE_PAGES_BESIDE: u64 = 768;

/// A running `nvmf_tgt`, stopped (SIGSTOP) except while it is measured: it never sleeps by itself.
pub(crate) struct Spdk {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Spdk {
    /// Starts `tree/build/bin/nvmf_tgt` on `core` with a malloc disk of `size` bytes. Its log and
    /// configuration go to `out`.
    ///
    /// # Errors
    /// When the tree is not built, huge pages are missing, or it does not listen in time.
    pub(crate) fn start(tree: &Path, out: &Path, core: usize, size: u64) -> Result<Self> {
        need_huge_pages(size)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let path = out.join("spdk.json");
        std::fs::write(&path, configuration(size, port).to_string())?;
        let log = File::create(out.join("spdk.log"))?;
        let program = tree.join("build/bin/nvmf_tgt");
        let child = Command::new(&program)
            .arg("-m")
            .arg(format!("[{core}]"))
            .arg("-c")
            .arg(&path)
            .arg("-r")
            .arg(out.join("spdk.sock"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}: is SPDK built there?", program.display()))?;
        let mut peer = Self { child, address };
        peer.wait_until_listening(out)?;
        peer.pause()?;
        Ok(peer)
    }

    /// Takes the processor away from it.
    pub(crate) fn pause(&self) -> Result<()> {
        Ok(kill_process(self.pid(), Signal::STOP)?)
    }

    /// Gives the processor back.
    pub(crate) fn resume(&self) -> Result<()> {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn wait_until_listening(&mut self, out: &Path) -> Result<()> {
        for _ in 0..START_TRIES {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(START_PERIOD);
        }
        bail!("SPDK's target did not start: see {}/spdk.log", out.display());
    }
}

impl Drop for Spdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn need_huge_pages(size: u64) -> Result<()> {
    let path = "/proc/sys/vm/nr_hugepages";
    let reserved: u64 = std::fs::read_to_string(path)?.trim().parse()?;
    let needed = size.div_ceil(2 << 20) + HUGE_PAGES_BESIDE;
    if reserved < needed {
        bail!("SPDK needs {needed} huge pages, {reserved} are reserved: echo {needed} > {path}");
    }
    Ok(())
}

fn configuration(size: u64, port: u16) -> serde_json::Value {
    json!({"subsystems": [
        {"subsystem": "bdev", "config": [
            {"method": "bdev_malloc_create", "params":
                {"name": "disk", "num_blocks": size / BLOCK, "block_size": BLOCK}},
        ]},
        {"subsystem": "nvmf", "config": [
            {"method": "nvmf_create_transport", "params": {"trtype": "TCP"}},
            {"method": "nvmf_create_subsystem", "params":
                {"nqn": NQN, "allow_any_host": true, "serial_number": "BENCH"}},
            {"method": "nvmf_subsystem_add_ns", "params":
                {"nqn": NQN, "namespace": {"nsid": 1, "bdev_name": "disk"}}},
            {"method": "nvmf_subsystem_add_listener", "params":
                {"nqn": NQN, "listen_address": {"trtype": "TCP", "adrfam": "IPv4",
                    "traddr": "127.0.0.1", "trsvcid": port.to_string()}}},
        ]},
    ]})
}
