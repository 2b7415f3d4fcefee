//! Every rule of the connection against a host that holds it to them.

mod commands;
mod errors;
mod fused;
mod nvm;
mod protocol;
mod quota;
mod random;
mod reservation;

use crate::connection::Config;
use crate::io::VolumeIndex;
use crate::seam::{Access, Namespace};
use crate::testing::{HostConfig, Link, Memory, command};
use std::sync::OnceLock;
use storage_spec::nvme::command::{AdminOpcode, Command, NvmOpcode};
use storage_spec::nvme::status::Status;

const SIZE: usize = 4 << 20;

/// A connection moves to the core of its queue.
const fn is_send<T: Send>() {}
const _: () = is_send::<crate::connection::Connection<crate::testing::PlainBuf>>();

/// Namespace 1 has blocks of 512 bytes, 2 of 4096, 3 is read only; each 4 MiB.
fn namespaces() -> Vec<Namespace> {
    let namespace = |volume, block_shift, read_only| Namespace {
        volume: VolumeIndex(volume),
        capacity: SIZE as u64,
        block_shift,
        read_only,
        access: Access::ALL,
    };
    vec![namespace(0, 9, false), namespace(1, 12, false), namespace(2, 9, true)]
}

fn memory() -> Memory {
    static FILLED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let volumes = FILLED.get_or_init(|| Memory::new(&[SIZE, SIZE, SIZE]).volumes);
    let mut memory = Memory::new(&[]);
    memory.volumes.clone_from(volumes);
    memory
}

fn io_queue(host: HostConfig) -> Link {
    Link::connected(host, Config::default(), memory(), &namespaces(), 1)
}

fn admin_queue(host: HostConfig) -> Link {
    Link::connected(host, Config::default(), memory(), &namespaces(), 0)
}

fn fresh() -> Link {
    let mut link = Link::new(HostConfig::default(), Config::default(), memory(), &namespaces());
    link.host.take_output();
    link
}

fn admin(opcode: AdminOpcode) -> Command {
    command(NvmOpcode(opcode.0), 0, 0, 1)
}

/// With both digests.
fn digests() -> HostConfig {
    HostConfig { header_digest: true, data_digest: true, ..HostConfig::default() }
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(seed | 1).wrapping_add((at >> 8) as u8)).collect()
}

#[track_caller]
fn assert_is(status: Status, expected: Status) {
    assert!(status.is(expected), "{status:?} is not {expected:?}");
}
