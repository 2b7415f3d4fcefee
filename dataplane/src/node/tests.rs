//! A whole node in this process: real threads, rings and sockets, disks in memory or of
//! emulated controllers, and hosts of the tests' own.

mod fence;
mod full;
mod host;
mod initiator;
mod iscsi;
mod rig;
mod sata;
mod slow;
mod ssd;

use super::*;
use host::Queue;
use std::net::SocketAddr;

const NQN: &str = "nqn.2026-11.io.basalt:test";
const IQN: &str = "iqn.2026-11.io.basalt:test";

/// A node that ends with the test.
struct Bench {
    node: NodeHandle,
}

impl Bench {
    /// A node on two cores with one memory disk for each of these sizes, open to every host.
    fn start(disks: &[u64]) -> Self {
        let ram = |&size| DiskSource::Ram { size, shards: 1 };
        Self::of(start(&Self::config(disks.iter().map(ram))))
    }

    /// What such a node is made of, with these disks.
    fn config(disks: impl Iterator<Item = DiskSource>) -> NodeConfig {
        let disk =
            |source| DiskConfig { source, journal: None, zero_on_free: false, passthrough: false };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let portal =
            |protocol| PortalConfig { protocol, listen, advertise: None, discovery_only: false };
        NodeConfig {
            name: "test".into(),
            nqn: NQN.into(),
            iqn: IQN.into(),
            cores: vec![0, 1],
            poll: false,
            no_iommu: false,
            buffers_per_core: 64 << 20,
            metadata_cache: 4 << 20,
            disks: disks.map(disk).collect(),
            portals: [Protocol::Nvme, Protocol::Iscsi].map(portal).into(),
            max_connections: 64,
        }
    }

    fn of(started: Result<NodeHandle, StartError>) -> Self {
        let node = started.unwrap();
        node.call(Command::AllowHost { nqn: "*".into() }).unwrap();
        Self { node }
    }

    /// Makes a volume with blocks of 4096 bytes on a disk; its namespace id.
    fn create(&self, name: &str, size: u64, disk: &str) -> u32 {
        let uuid = uuid::Uuid::new_v4();
        let command = Command::CreateVolume {
            name: name.into(),
            size,
            block_size: 4096,
            uuid,
            disk: Some(disk.into()),
        };
        match self.node.call(command) {
            Ok(Answer::Volume(volume)) => volume.nsid,
            other => panic!("no volume: {other:?}"),
        }
    }

    /// A host with one I/O queue.
    fn host(&self) -> (Queue, Queue) {
        self.host_as([7; 16])
    }

    /// A host with this identity.
    fn host_as(&self, id: [u8; 16]) -> (Queue, Queue) {
        host::connect(self.node.local_addresses()[0], NQN, id)
    }

    fn has_event(&self, kind: &str) -> bool {
        self.node.events_since(0).iter().any(|event| event.kind == kind)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let ended = self.node.shutdown();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}
