//! SPDK's targets with a malloc disk, as peers on the same core.

use crate::peer::{Peer, free_address};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Subsystem of `nvmf_tgt`; its namespace 1 is the malloc disk.
pub(crate) const NQN: &str = "nqn.2016-06.io.spdk:bench";
/// Target of `iscsi_tgt`; its unit 0 is the malloc disk.
pub(crate) const IQN: &str = "iqn.2016-06.io.spdk:bench";
const BLOCK: u64 = 4096;
/// Huge pages of 2 MiB beside the disk: buffers of the transport and of DPDK.
const HUGE_PAGES_BESIDE: u64 = 768;

/// Starts `tree/build/bin/nvmf_tgt` on `core` with a malloc disk of `size` bytes. Its log and
/// configuration go to `out`.
///
/// # Errors
/// When the tree is not built, huge pages are missing, or it does not listen in time.
pub(crate) fn nvmf(tree: &Path, out: &Path, core: usize, size: u64) -> Result<Peer> {
    start("nvmf_tgt", (tree, out, core), size, nvmf_subsystem)
}

/// As [`nvmf`], with `iscsi_tgt`.
///
/// # Errors
/// As there.
pub(crate) fn iscsi(tree: &Path, out: &Path, core: usize, size: u64) -> Result<Peer> {
    start("iscsi_tgt", (tree, out, core), size, iscsi_subsystem)
}

fn start(
    name: &str,
    (tree, out, core): (&Path, &Path, usize),
    size: u64,
    subsystem: fn(SocketAddr) -> Value,
) -> Result<Peer> {
    need_huge_pages(size)?;
    let address = free_address();
    let disk = json!({"method": "bdev_malloc_create", "params":
        {"name": "disk", "num_blocks": size / BLOCK, "block_size": BLOCK}});
    let disks = json!({"subsystem": "bdev", "config": [disk]});
    let configuration = json!({"subsystems": [disks, subsystem(address)]});
    let path = out.join("spdk.json");
    std::fs::write(&path, configuration.to_string())?;
    let mut command = Command::new(tree.join("build/bin").join(name));
    command.arg("-m").arg(format!("[{core}]")).arg("-c").arg(&path);
    command.arg("-r").arg(out.join("spdk.sock"));
    Peer::start(command, name, address, out)
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

fn nvmf_subsystem(address: SocketAddr) -> Value {
    json!({"subsystem": "nvmf", "config": [
        {"method": "nvmf_create_transport", "params": {"trtype": "TCP"}},
        {"method": "nvmf_create_subsystem", "params":
            {"nqn": NQN, "allow_any_host": true, "serial_number": "BENCH"}},
        {"method": "nvmf_subsystem_add_ns", "params":
            {"nqn": NQN, "namespace": {"nsid": 1, "bdev_name": "disk"}}},
        {"method": "nvmf_subsystem_add_listener", "params":
            {"nqn": NQN, "listen_address": {"trtype": "TCP", "adrfam": "IPv4",
                "traddr": address.ip().to_string(), "trsvcid": address.port().to_string()}}},
    ]})
}

fn iscsi_subsystem(address: SocketAddr) -> Value {
    let (_, name) = IQN.split_once(':').expect("the constant has a colon");
    json!({"subsystem": "iscsi", "config": [
        {"method": "iscsi_set_options", "params": {"nop_timeout": 600, "nop_in_interval": 60}},
        {"method": "iscsi_create_portal_group", "params": {"tag": 1, "portals":
            [{"host": address.ip().to_string(), "port": address.port().to_string()}]}},
        {"method": "iscsi_create_initiator_group", "params":
            {"tag": 2, "initiators": ["ANY"], "netmasks": ["127.0.0.0/8"]}},
        {"method": "iscsi_create_target_node", "params":
            {"name": name, "alias_name": name, "queue_depth": 64, "disable_chap": true,
             "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}],
             "luns": [{"lun_id": 0, "bdev_name": "disk"}]}},
    ]})
}
