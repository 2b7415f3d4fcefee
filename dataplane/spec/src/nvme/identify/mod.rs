//! Data structures of the Identify command (section 5.17).

mod controller;
mod namespace;

pub use controller::*;
pub use namespace::*;

use bitfield_struct::bitfield;
use open_enum::open_enum;

/// Bytes of every Identify data structure.
pub const IDENTIFY_SIZE: usize = 4096;

/// Controller or Namespace Structure: what to identify.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cns {
    /// A namespace, as [`IdentifyNamespace`].
    Namespace = 0x00,
    /// This controller, as [`IdentifyController`].
    Controller = 0x01,
    /// Active namespaces.
    ActiveNamespaces = 0x02,
    /// Descriptors of a namespace's identity.
    NamespaceDescriptors = 0x03,
    /// A namespace, for its command set, as [`NvmNamespace`].
    CommandSetNamespace = 0x05,
    /// This controller, for a command set, as [`NvmController`].
    CommandSetController = 0x06,
    /// Active namespaces of a command set.
    CommandSetActiveNamespaces = 0x07,
    /// A namespace whatever its command set, as [`IndependentNamespace`].
    IndependentNamespace = 0x08,
    /// Allocated namespaces.
    AllocatedNamespaces = 0x10,
    /// An allocated namespace.
    AllocatedNamespace = 0x11,
    /// Controllers that a namespace is attached to.
    NamespaceControllers = 0x12,
    /// Controllers of the subsystem.
    SubsystemControllers = 0x13,
    /// Primary controller, as [`PrimaryController`].
    PrimaryController = 0x14,
    /// Allocated namespaces of a command set.
    CommandSetAllocatedNamespaces = 0x1A,
    /// Command sets that work together.
    CommandSets = 0x1C,
}

/// Dword 10 of Identify.
#[bitfield(u32)]
pub struct IdentifyDword10 {
    /// [`Cns`].
    pub cns: u8,
    __: u8,
    /// Controller that is meant, for some structures.
    pub controller_id: u16,
}

/// Dword 11 of Identify.
#[bitfield(u32)]
pub struct IdentifyDword11 {
    /// CNS specific identifier.
    pub specific: u16,
    __: u8,
    /// Command set identifier: 0 for NVM.
    pub command_set: u8,
}

/// Command set identifier of the NVM command set.
pub const COMMAND_SET_NVM: u8 = 0;
/// Zoned namespaces.
pub const COMMAND_SET_ZONED: u8 = 2;

/// Namespace id that means all of them.
pub const NSID_ALL: u32 = 0xFFFF_FFFF;
