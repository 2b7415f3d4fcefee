//! The management API: JSON over HTTP on the node's Unix socket, and metrics.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/node` | | [`NodeInfo`] |
//! | `GET /v1/volumes` | | list of `VolumeInfo` |
//! | `POST /v1/volumes` | [`NewVolume`] | `VolumeInfo`, status 201 |
//! | `GET /v1/volumes/{name}` | | `VolumeInfo` |
//! | `PATCH /v1/volumes/{name}` | [`VolumeChange`] | `VolumeInfo` |
//! | `DELETE /v1/volumes/{name}` | | `{}` |
//! | `GET /v1/hosts` | | list of `HostInfo` |
//! | `POST /v1/hosts` | [`Host`] | `{}`, status 201 |
//! | `DELETE /v1/hosts?nqn=NQN` | | `{}` |
//! | `GET /v1/disks`, `/v1/connections` | | lists of `DiskInfo`, `ConnectionInfo` |
//! | `GET /v1/iscsi/redirect` | | `Redirect`, or `null` |
//! | `PUT /v1/iscsi/redirect` | `Redirect` | `{}` |
//! | `DELETE /v1/iscsi/redirect` | | `{}` |
//! | `GET /v1/counters` | | `Snapshot` |
//! | `GET /v1/events?since=N&wait_ms=M` | | list of `NodeEvent` after sequence N, waiting up to M |
//! | `GET /metrics` | | Prometheus text |
//!
//! Errors are [`ErrorBody`] with status 400, 404, 409, 503 or 507.

mod routes;
mod server;

pub use routes::{metrics_router, router};
pub use server::{Server, ServerError};

use dataplane::node::{Chap, Exports};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use uuid::Uuid;

/// Longest wait for events that is granted, in milliseconds.
pub const WAIT_MS_MAX: u64 = 30_000;
/// Most events in one answer.
pub const EVENTS_MAX: usize = 1000;

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// NQN of its subsystem.
    pub nqn: String,
    /// iSCSI name of its target.
    #[serde(default)]
    pub iqn: String,
    /// Version of the program.
    pub version: String,
    /// Where it listens for hosts that speak NVMe.
    pub addresses: Vec<SocketAddr>,
    /// Where it listens for those that speak iSCSI.
    #[serde(default)]
    pub iscsi_addresses: Vec<SocketAddr>,
}

/// A volume to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Logical block size: 512 or 4096 (default).
    #[serde(default = "default_block_size")]
    pub block_size: u32,
    /// Its identity; drawn at random if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Disk to place it on by path; the one with most free space if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

fn default_block_size() -> u32 {
    4096
}

/// What to change of a volume: one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeChange {
    /// New size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// New name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Through which protocols hosts are to see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exports: Option<Exports>,
}

/// A host to allow or deny.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its NQN or iSCSI name, or `*` for every host.
    pub nqn: String,
    /// What it must prove by CHAP, of an iSCSI initiator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<Chap>,
}

/// A disk to serve, or to let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskName {
    /// As the node calls it: its path, or `pci:ADDRESS/N`.
    pub disk: String,
}

/// Answer to a request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorText,
}

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorText {
    /// A stable word: `invalid`, `not_found`, `exists`, `disk`, `unavailable`.
    pub kind: String,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests;
