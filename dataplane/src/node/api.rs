//! What the command line, the management API and the metrics know of a node: plain data.

use crate::disk::health::Health;
use crate::disk::single::Unit;
use crate::pci::PciAddress;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Everything a node needs to start. Validated by [`crate::node::start`], not here.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name of the node, for people: a–z A–Z 0–9 _ -.
    pub name: String,
    /// NVMe qualified name of the default subsystem.
    pub nqn: String,
    /// iSCSI name of the target.
    pub iqn: String,
    /// Processors to run on, one reactor each. The first serves admin queues and management.
    pub cores: Vec<usize>,
    /// Never sleep: lowest latency, a whole processor each.
    pub poll: bool,
    /// Whether devices without an IOMMU may be driven, which can write anywhere in memory.
    pub no_iommu: bool,
    /// Buffer memory of each core in bytes.
    pub buffers_per_core: usize,
    /// Metadata cache of all shards together in bytes.
    pub metadata_cache: usize,
    /// Disks to serve from.
    pub disks: Vec<DiskConfig>,
    /// Addresses to listen on.
    pub portals: Vec<PortalConfig>,
    /// Most connections at once.
    pub max_connections: usize,
}

/// One disk.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Where it is.
    pub source: DiskSource,
    /// The device that holds its journals, if not itself.
    pub journal: Option<PathBuf>,
    /// Whether slabs that are given back are zeroed before they have another owner.
    pub zero_on_free: bool,
    /// Whether reads and writes of an NVMe namespace of the kernel's go past its block layer, where
    /// it has that.
    pub passthrough: bool,
}

/// What kind of disk.
#[derive(Debug, Clone)]
pub enum DiskSource {
    /// A formatted file or block device.
    Path(PathBuf),
    /// A formatted disk of a controller that `vfio-pci` has: the node drives it itself.
    Device {
        /// The controller.
        address: PciAddress,
        /// Which of its disks.
        unit: Unit,
        /// Whether Force Unit Access does what it says; if not, writes are flushed instead.
        fua: bool,
    },
    /// Memory, formatted at start and lost at the end: for benchmarks.
    Ram {
        /// Bytes.
        size: u64,
        /// How many shards to format; 0: one per core.
        shards: u32,
    },
}

/// What hosts speak at a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// NVMe over TCP.
    #[default]
    Nvme,
    /// iSCSI.
    Iscsi,
}

/// One portal.
#[derive(Debug, Clone)]
pub struct PortalConfig {
    /// What hosts speak there.
    pub protocol: Protocol,
    /// Address to bind.
    pub listen: SocketAddr,
    /// Address that discovery names to hosts, if not the one they reached us by.
    pub advertise: Option<SocketAddr>,
    /// Serve NVMe discovery alone.
    pub discovery_only: bool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration cannot be.
    #[error("{0}")]
    Config(String),
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}{hint}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A disk could not be opened or mounted.
    #[error("disk {path}: {reason}")]
    Disk {
        /// Which.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// None of several disks could be opened or mounted.
    #[error("{0}")]
    NoDisk(String),
    /// The system refused memory, threads, or io_uring.
    #[error("{0}")]
    System(String),
}

/// A management command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Makes a volume, zero until written.
    CreateVolume {
        /// 1 to 63 of a–z A–Z 0–9 _ - . but not `.` or `..`.
        name: String,
        /// Bytes; a multiple of 4096.
        size: u64,
        /// Logical block size: 512 or 4096.
        block_size: u32,
        /// Its identity; drawn by the caller.
        uuid: Uuid,
        /// Disk to place it on by path; the one with most free space if none.
        disk: Option<String>,
    },
    /// Shows a volume through these protocols alone.
    ExportVolume {
        /// Which.
        name: String,
        /// The protocols.
        exports: Exports,
    },
    /// Deletes a volume and frees its space.
    DeleteVolume {
        /// Which.
        name: String,
    },
    /// Grows a volume.
    ResizeVolume {
        /// Which.
        name: String,
        /// New size in bytes, not below the present one.
        size: u64,
    },
    /// Renames a volume.
    RenameVolume {
        /// Which.
        name: String,
        /// New name.
        to: String,
    },
    /// All volumes.
    ListVolumes,
    /// One volume.
    ShowVolume {
        /// Which.
        name: String,
    },
    /// Lets a host connect; `*` for every host.
    AllowHost {
        /// The host's NQN, or the initiator's iSCSI name.
        nqn: String,
    },
    /// Lets an iSCSI initiator connect that proves by CHAP who it is.
    AllowInitiator {
        /// Its iSCSI name.
        name: String,
        /// What is to be proved.
        chap: Chap,
    },
    /// Takes it back, and disconnects the host.
    DenyHost {
        /// Its name, or `*`.
        nqn: String,
    },
    /// Hosts that may connect.
    ListHosts,
    /// Disks of the node.
    ListDisks,
    /// Serve a disk that is offline or has failed, now.
    OnlineDisk {
        /// As the node calls it.
        disk: String,
    },
    /// End what is in flight on a disk, settle it, and let it go.
    OfflineDisk {
        /// As the node calls it.
        disk: String,
    },
    /// Hosts that are connected.
    ListConnections,
    /// Sends initiators that log in from now on to another portal, or no more. Forgotten when the
    /// node stops.
    RedirectInitiators {
        /// Where.
        to: Option<Redirect>,
    },
    /// Where initiators are sent.
    ShowRedirect,
    /// Nothing; done when every core has taken a turn. For watchdogs.
    Ping,
}

/// Where initiators that log in are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The portal, as initiators see it: of another node, or of this one, where they are served.
    pub to: SocketAddr,
    /// Whether they may remember it: "moved permanently", not "temporarily".
    #[serde(default)]
    pub permanent: bool,
}

/// What an initiator must prove by CHAP, and what is proved to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chap {
    /// The user name that the initiator gives.
    pub user: String,
    /// What only it and the node know: 12 to 255 bytes.
    pub secret: Password,
    /// The same the other way, if the node is to prove who it is as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<(String, Password)>,
}

/// A secret. Never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// What a command gives back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// One volume.
    Volume(VolumeInfo),
    /// All of them.
    Volumes(Vec<VolumeInfo>),
    /// Allowed hosts.
    Hosts(Vec<HostInfo>),
    /// Disks.
    Disks(Vec<DiskInfo>),
    /// Connections.
    Connections(Vec<ConnectionInfo>),
    /// Where initiators are sent, if so.
    Redirect(Option<Redirect>),
}

/// Why a command failed.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum CommandError {
    /// No such volume, host or disk.
    #[error("{0}")]
    NotFound(String),
    /// Exists already.
    #[error("{0}")]
    Exists(String),
    /// Not a possible value.
    #[error("{0}")]
    Invalid(String),
    /// The disk has no room, or has failed.
    #[error("{0}")]
    Disk(String),
    /// The node is stopping or did not answer in time.
    #[error("{0}")]
    Unavailable(String),
}

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Bytes that hosts see.
    pub size: u64,
    /// Bytes of slabs mapped.
    pub used: u64,
    /// Logical block size.
    pub block_size: u32,
    /// Its namespace id.
    pub nsid: u32,
    /// The subsystem that it is in.
    pub subsystem: String,
    /// The disk that it is on.
    pub disk: String,
    /// Whether a host has forbidden writes to it.
    #[serde(default)]
    pub write_protected: bool,
    /// Its logical unit number for iSCSI.
    #[serde(default)]
    pub lun: u16,
    /// Through which protocols hosts see it.
    #[serde(default)]
    pub exports: Exports,
}

/// Through which protocols hosts see a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exports {
    /// Over NVMe/TCP.
    pub nvme: bool,
    /// Over iSCSI.
    pub iscsi: bool,
}

impl Exports {
    /// Hosts do not see it.
    pub const NONE: Self = Self { nvme: false, iscsi: false };
}

impl Default for Exports {
    /// Through every protocol.
    fn default() -> Self {
        Self { nvme: true, iscsi: true }
    }
}

impl std::fmt::Display for Exports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.nvme, self.iscsi) {
            (true, true) => "NVMe and iSCSI",
            (true, false) => "NVMe",
            (false, true) => "iSCSI",
            (false, false) => "none",
        })
    }
}

/// A host on the allowed list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostInfo {
    /// Its NQN or iSCSI name, or `*`.
    pub nqn: String,
    /// Whether it must prove by CHAP who it is.
    #[serde(default)]
    pub chap: bool,
}

/// A disk of the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its path.
    pub path: String,
    /// Its identity; `None` where it could not be read.
    pub uuid: Option<Uuid>,
    /// Bytes for data.
    pub capacity: u64,
    /// Bytes of free slabs.
    pub free: u64,
    /// Number of shards that are served.
    pub shards: u32,
    /// Cores that have them.
    pub cores: Vec<u16>,
    /// `intent` or `data`; `None` where it could not be read.
    pub mode: Option<String>,
    /// `ok`, `failed` (it takes no more writes) or `offline` (it is not served).
    pub state: String,
    /// Why it is offline, and what to do.
    pub reason: Option<String>,
    /// How the node reaches it: `basalt` (by itself), `kernel`, `kernel polled` or `kernel
    /// passthrough`; `None` where it is offline or in memory.
    #[serde(default)]
    pub access: Option<String>,
    /// What it says of itself, if the node drives it by itself.
    #[serde(default)]
    pub drive: Option<DriveInfo>,
}

/// What a drive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveInfo {
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Bytes of the namespace, or of the drive.
    pub size: u64,
    /// SMART, as it was read last: not more than some minutes ago.
    pub health: Option<Health>,
}

/// A queue of a connected host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Number of the connection.
    pub id: u64,
    /// The host's address.
    pub peer: String,
    /// The host's NQN or the initiator's name, once connected.
    pub host: String,
    /// What it speaks: `nvme` or `iscsi`.
    #[serde(default)]
    pub protocol: String,
    /// Controller id, or handle of the session, once connected.
    pub controller: Option<u16>,
    /// Queue id: 0 is the admin queue, or an iSCSI session.
    pub queue: Option<u16>,
    /// Core that serves it.
    pub core: usize,
}

/// Something worth telling the operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Counts from 1 at start.
    pub sequence: u64,
    /// Milliseconds since 1970 (UTC).
    pub unix_ms: u64,
    /// How bad.
    pub severity: Severity,
    /// A stable word to filter by, such as `volume.created` or `disk.checksum`.
    pub kind: String,
    /// For people.
    pub text: String,
}

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// For the record.
    Info,
    /// Look at it.
    Warning,
    /// Something failed.
    Error,
}

/// Counters of everything at one moment; all count up from start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Nanoseconds since start.
    pub uptime_ns: u64,
    /// One per core.
    pub cores: Vec<CoreCounters>,
    /// One per volume.
    pub volumes: Vec<VolumeCounters>,
    /// One per disk.
    pub disks: Vec<DiskCounters>,
}

/// What a core did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CoreCounters {
    /// Processor number.
    pub processor: usize,
    /// Turns of the reactor.
    pub turns: u64,
    /// Turns that found work.
    pub busy_turns: u64,
    /// Nanoseconds asleep.
    pub asleep_ns: u64,
    /// System calls made by the reactor.
    pub system_calls: u64,
    /// Connections served.
    pub connections: u64,
    /// Bytes of buffers free.
    pub buffers_free: u64,
    /// Digests that needed a pass of their own over the data.
    pub digest_second_passes: u64,
    /// Data or header digests that did not match.
    pub digest_errors: u64,
    /// Commands executed on I/O queues.
    pub commands: u64,
    /// Reads of the hosts that this core serves.
    #[serde(default)]
    pub reads: OperationCounters,
    /// Their writes, compare-and-write, and zeroing.
    #[serde(default)]
    pub writes: OperationCounters,
}

/// What hosts did to a volume, over all cores.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VolumeCounters {
    /// Its name.
    pub name: String,
    /// Reads.
    pub reads: OperationCounters,
    /// Writes, compare-and-write, and zeroing.
    pub writes: OperationCounters,
    /// Requests that failed.
    pub errors: u64,
}

/// Operations of one kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct OperationCounters {
    /// Completed.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Sum of their latencies in nanoseconds.
    #[serde(default)]
    pub latency_ns: u64,
    /// Latency histogram: see [`bucket_limit_ns`].
    pub latency: Vec<u64>,
}

/// Buckets of a latency histogram: four to each power of two from 1 µs.
pub const LATENCY_BUCKETS: usize = 96;

/// Upper limit in nanoseconds of bucket `index`; the last takes everything above.
#[must_use]
pub fn bucket_limit_ns(index: usize) -> u64 {
    let (octave, quarter) = (index / 4, index % 4);
    let base = 1000_u64 << octave;
    base + base / 4 * (quarter as u64 + 1)
}

/// The bucket of a latency.
#[must_use]
pub fn bucket_of(latency_ns: u64) -> usize {
    let units = latency_ns / 1000;
    if units == 0 {
        return 0;
    }
    let octave = units.ilog2() as usize;
    let base = 1000_u64 << octave;
    let quarter = ((latency_ns - base) * 4 / base) as usize;
    (octave * 4 + quarter).min(LATENCY_BUCKETS - 1)
}

/// What a disk did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DiskCounters {
    /// Its path.
    pub path: String,
    /// Bytes for data.
    pub capacity: u64,
    /// Bytes of free slabs.
    pub free: u64,
    /// Writes to new places that were refused for want of room.
    #[serde(default)]
    pub refused_full: u64,
    /// Blocks whose bytes did not match their checksum.
    pub checksum_errors: u64,
    /// Bytes written to journals.
    pub journal_bytes: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Metadata pages found in memory.
    pub metadata_hits: u64,
    /// Metadata pages read from the disk.
    pub metadata_misses: u64,
    /// Whether it has failed.
    pub failed: bool,
    /// Whether it was missing or unusable when the node started, and is not served.
    #[serde(default)]
    pub offline: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_limits_agree() {
        for index in 0..LATENCY_BUCKETS - 1 {
            let limit = bucket_limit_ns(index);
            assert_eq!(bucket_of(limit - 1), index);
            assert_eq!(bucket_of(limit), index + 1);
        }
        assert_eq!(bucket_of(u64::MAX / 8), LATENCY_BUCKETS - 1);
    }
}
