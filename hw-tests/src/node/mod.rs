//! What the scenarios ask of the node under test, so that each can run against two of them.

mod basalt;
mod management;
mod nvmet;

use anyhow::{Result, bail};

pub(crate) use basalt::{Basalt, Chap};
pub(crate) use nvmet::Nvmet;

use crate::guest::Guest;

/// Where to connect, as the guest sees it.
#[derive(Clone, Debug)]
pub(crate) struct Portal {
    pub(crate) address: String,
    pub(crate) port: u16,
}

/// What a node is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One core, one disk, IPv4.
    Plain,
    /// Two cores where the machine has them, a small disk beside the large one, IPv6 beside IPv4
    /// where the machine has it, and a limit of connections that a test can reach.
    Wide,
}

/// What not every node can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Compare, Verify, Copy and Write Uncorrectable.
    AllCommands,
    /// Lists of hosts that may connect.
    HostLists,
}

/// A node that serves volumes as namespaces of one subsystem.
pub(crate) trait Node {
    /// For the report.
    fn name(&self) -> &'static str;

    /// Starts it, or starts it again with everything that it had when it was killed.
    fn start(&mut self, guest: &Guest) -> Result<()>;

    /// Ends it at once, without a chance to tidy up.
    fn kill(&mut self, guest: &Guest) -> Result<()>;

    /// The subsystem that holds all volumes.
    fn nqn(&self) -> &str;

    fn portal(&self) -> Portal;

    /// Where the discovery subsystem listens alone.
    fn discovery(&self) -> Portal;

    /// Name and portal of its iSCSI target, if it has one.
    fn iscsi(&self) -> Option<(&str, Portal)> {
        None
    }

    fn offers(&self, ability: Ability) -> bool;

    /// Makes a volume and returns its namespace id.
    fn create_volume(&mut self, guest: &Guest, name: &str, bytes: u64, block: u32) -> Result<u32>;

    fn resize_volume(&mut self, guest: &Guest, name: &str, bytes: u64) -> Result<()>;

    fn delete_volume(&mut self, guest: &Guest, name: &str) -> Result<()>;

    /// Lets a host connect, or no longer; `*` means every host.
    fn allow(&mut self, host: &str, allowed: bool) -> Result<()>;

    /// Our own node, for scenarios that look into it.
    fn basalt(&mut self) -> Result<&mut Basalt> {
        bail!("{} is not the node for this", self.name())
    }

    /// What the node has written about itself, for the report of a failure.
    fn log(&mut self) -> String;
}
