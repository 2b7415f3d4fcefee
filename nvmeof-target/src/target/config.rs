//! What a target is told: names, limits, subsystems, namespaces, ports.

use crate::io::VolumeIndex;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use std::collections::BTreeSet;
use std::sync::Arc;
use storage_spec::fabrics::{DISCOVERY_NQN, NQN_MAX};

/// Most subsystems of a node.
pub const SUBSYSTEMS_MAX: usize = 256;
/// Most ports of a node.
pub const PORTS_MAX: usize = 64;
/// Most hosts on the list of a subsystem.
pub const HOSTS_MAX: usize = 4096;

/// NVMe qualified name of a host or a subsystem: 1 to 223 bytes of UTF-8 without control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nqn(Arc<str>);

impl Nqn {
    /// Checks a name that a person gave.
    ///
    /// # Errors
    /// When it is empty, too long, has control characters, or does not begin with `nqn.`.
    pub fn new(name: &str) -> Result<Self, ConfigError> {
        if !name.starts_with("nqn.") {
            return Err(ConfigError::BadNqn("an NVMe qualified name begins with `nqn.`"));
        }
        Self::checked(name)
    }

    /// The discovery subsystem's.
    #[must_use]
    pub fn discovery() -> Self {
        Self(DISCOVERY_NQN.into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a NUL terminated field of Connect data. Does not insist on `nqn.`: hosts are known by
    /// whatever they call themselves.
    pub(super) fn from_field(field: &[u8; 256]) -> Result<Self, ConfigError> {
        let end = field.iter().position(|&byte| byte == 0);
        let end = end.ok_or(ConfigError::BadNqn("the name is not terminated"))?;
        let name = core::str::from_utf8(&field[..end])
            .map_err(|_| ConfigError::BadNqn("the name is not UTF-8"))?;
        Self::checked(name)
    }

    /// Fills a NUL terminated field.
    pub(super) fn to_field(&self) -> [u8; 256] {
        let mut field = [0; 256];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }

    fn checked(name: &str) -> Result<Self, ConfigError> {
        if name.is_empty() {
            Err(ConfigError::BadNqn("the name is empty"))
        } else if name.len() > NQN_MAX {
            Err(ConfigError::BadNqn("the name is longer than 223 bytes"))
        } else if name.chars().any(char::is_control) {
            Err(ConfigError::BadNqn("the name has control characters"))
        } else {
            Ok(Self(name.into()))
        }
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a namespace within its subsystem: 1 to [`crate::limits::NAMESPACES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(pub u32);

/// Number of a port, unique in the cluster (PORTID).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Fixed for the life of a target.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Firmware revision, ASCII, cut to 8 characters.
    pub firmware: String,
    /// Most controllers with namespaces at once; as many discovery controllers come on top. One
    /// host gets at most a quarter of either, or 8 if that is more.
    pub controllers_max: usize,
    /// Most I/O queues of a controller.
    pub io_queues_max: u16,
    /// Most entries of a queue (1-based), at least 32.
    pub queue_entries_max: u16,
    /// Most in-capsule data of a command on an I/O queue in bytes, a multiple of 16.
    pub in_capsule_max: u32,
    /// Where controller ids begin within their range, and the generation of the discovery log:
    /// another at each start, so that a restarted node does not reuse those of its former life at
    /// once.
    pub seed: u64,
}

/// Controllers that every host may have, however few there are in all.
const CONTROLLERS_OF_HOST_MIN: usize = 8;

impl TargetConfig {
    /// Most controllers of one kind that one host has at once, so that it leaves some to others.
    pub(super) fn controllers_of_host_max(&self) -> usize {
        (self.controllers_max / 4).max(CONTROLLERS_OF_HOST_MIN)
    }
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            firmware: env!("CARGO_PKG_VERSION").into(),
            controllers_max: 128,
            io_queues_max: 128,
            queue_entries_max: 128,
            in_capsule_max: 8192,
            seed: 0,
        }
    }
}

/// Which hosts a subsystem admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    /// Every host, listed or not.
    pub any: bool,
    /// These.
    pub listed: BTreeSet<Nqn>,
}

impl AllowedHosts {
    /// Whether `host` is admitted.
    #[must_use]
    pub fn admits(&self, host: &Nqn) -> bool {
        self.any || self.listed.contains(host)
    }
}

/// A subsystem.
#[derive(Debug, Clone)]
pub struct SubsystemConfig {
    /// Its name.
    pub nqn: Nqn,
    /// Serial number, ASCII, cut to 20 characters; the same on every node.
    pub serial: String,
    /// Model, ASCII, cut to 40 characters; the same on every node.
    pub model: String,
    /// Controller ids that this node may use: within 1 to FFEFh, disjoint from other nodes'.
    pub controller_ids: RangeInclusive<u16>,
    /// Hosts that may connect.
    pub hosts: AllowedHosts,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceConfig {
    /// Its number.
    pub id: NamespaceId,
    /// The volume behind it.
    pub volume: VolumeIndex,
    /// Identity, never used again; not all zeroes. NGUID and EUI64 are made from it.
    pub uuid: [u8; 16],
    /// Bytes, a multiple of 4096, not 0.
    pub capacity: u64,
    /// log2 of the logical block size: 9 or 12.
    pub block_shift: u8,
    /// Hosts may not write.
    pub read_only: bool,
    /// For people; in the vendor specific part of Identify Namespace.
    pub name: String,
}

/// A listening socket, as discovery sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Where it listens; the address may be unspecified.
    pub listen: SocketAddr,
    /// What hosts are told to connect to; if none, the listening address, or, where that is
    /// unspecified, the address by which the asking host reached us.
    pub advertised: Option<SocketAddr>,
    /// Serves the discovery subsystem alone.
    pub discovery_only: bool,
}

impl Port {
    /// The address to name to a host that reached us at `local` through a port listening on
    /// `asked`; `None` if it cannot be of use to that host.
    pub(super) fn address_for(&self, local: IpAddr, asked: &Self) -> Option<SocketAddr> {
        let local = local.to_canonical();
        let address = match self.advertised {
            Some(address) => address,
            None if !self.listen.ip().is_unspecified() => self.listen,
            // An IPv4 host came in through `[::]`: it would do so again.
            None if self.listen.is_ipv4() == local.is_ipv4()
                || (self.listen.is_ipv6() && asked.listen.is_ipv6()) =>
            {
                SocketAddr::new(local, self.listen.port())
            }
            None => return None,
        };
        let ip = address.ip().to_canonical();
        let reachable =
            ip.is_ipv4() == local.is_ipv4() && (!ip.is_loopback() || local.is_loopback());
        reachable.then(|| SocketAddr::new(ip, address.port()))
    }
}

/// Why a change of the configuration was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a qualified name.
    #[error("{0}")]
    BadNqn(&'static str),
    /// A value out of its range.
    #[error("{0}")]
    BadValue(&'static str),
    /// The subsystem, namespace or port is there already.
    #[error("{0} is there already")]
    Exists(&'static str),
    /// No such subsystem, namespace or port.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A limit was reached.
    #[error("there are as many {0} as can be")]
    TooMany(&'static str),
}
