//! The superblocks at both ends of a disk.

use super::layout::Layout;
use super::port::Port;
use super::{Mode, MountError, Probe};
use crate::disk;
use storage_spec::disk::{self as spec, BLOCK, Sealed, Superblock};
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What role a disk plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Data,
    Journal,
}

/// A disk's identity and division.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) disk: Uuid,
    pub(super) partner: Option<Uuid>,
    pub(super) role: Role,
    pub(super) incarnation: u64,
    pub(super) capacity: u64,
    pub(super) layout: Layout,
}

impl Identity {
    fn encode(&self, copy: u8, generation: u64) -> Superblock {
        let mut block = Superblock::new_zeroed();
        block.version = spec::VERSION.into();
        block.copy = copy;
        block.role = u8::from(self.role == Role::Journal);
        block.magic = spec::SUPERBLOCK_MAGIC;
        block.disk = self.disk.into_bytes();
        block.partner = self.partner.unwrap_or(Uuid::nil()).into_bytes();
        block.incarnation = self.incarnation.into();
        block.generation = generation.into();
        block.capacity = self.capacity.into();
        block.mode = u8::from(self.layout.mode == Mode::Data);
        block.shards = self.layout.shards.into();
        block.slabs = self.layout.slabs.into();
        block.first_block = self.layout.first_block.into();
        block.shard_blocks = self.layout.shard_blocks.into();
        block.journal_blocks = self.layout.journal_blocks.into();
        block.checkpoint_blocks = self.layout.checkpoint_blocks.into();
        block.catalogue_bytes = self.layout.catalogue_bytes.into();
        block.seal();
        block
    }

    /// What a superblock says, if it is one of ours.
    pub(super) fn decode(block: &Superblock) -> Result<Self, MountError> {
        let version = block.version.get();
        if version != spec::VERSION {
            return Err(MountError::Version { found: version, known: spec::VERSION });
        }
        let partner = Uuid::from_bytes(block.partner);
        let role = if block.role == 0 { Role::Data } else { Role::Journal };
        let partner = (!partner.is_nil()).then_some(partner);
        let layout = Layout {
            mode: if block.mode == 0 { Mode::Intent } else { Mode::Data },
            shards: block.shards.get(),
            slabs: block.slabs.get(),
            first_block: block.first_block.get(),
            shard_blocks: block.shard_blocks.get(),
            journal_blocks: block.journal_blocks.get(),
            checkpoint_blocks: block.checkpoint_blocks.get(),
            catalogue_bytes: block.catalogue_bytes.get(),
            journal_apart: partner.is_some(),
        };
        let capacity = block.capacity.get();
        if role == Role::Data && !layout.is_sane(capacity) {
            return Err(MountError::NotFormatted);
        }
        Ok(Self {
            disk: Uuid::from_bytes(block.disk),
            partner,
            role,
            incarnation: block.incarnation.get(),
            capacity,
            layout,
        })
    }

    /// What people are told of it.
    pub(super) fn describe(&self, intact: [bool; 2]) -> Probe {
        // A journal disk's geometry counts for nothing, and nobody has looked at it.
        let slabs = u64::from(self.layout.slabs) * u64::from(self.layout.shards);
        Probe {
            disk: self.disk,
            partner: self.partner,
            is_journal: self.role == Role::Journal,
            version: spec::VERSION,
            incarnation: self.incarnation,
            mode: self.layout.mode,
            shards: self.layout.shards,
            data_bytes: slabs.saturating_mul((spec::SLAB_BLOCKS * BLOCK) as u64),
            journal_bytes: self.layout.journal_blocks.saturating_mul(BLOCK as u64),
            intact,
        }
    }
}

/// Writes both superblocks, the far one first, and makes them durable.
pub(super) async fn write(port: &Port<'_>, identity: &Identity) -> Result<(), disk::Error> {
    for copy in [1, 0] {
        let block = identity.encode(copy, 1);
        port.write_block(offset(copy, identity.capacity), block.as_bytes()).await?;
        port.flush().await?;
    }
    Ok(())
}

/// Makes a disk's superblocks invalid, so that an interrupted format is seen as such.
pub(super) async fn erase(port: &Port<'_>) -> Result<(), disk::Error> {
    for copy in [0, 1] {
        port.write_block(offset(copy, port.info().capacity), &[0; BLOCK]).await?;
    }
    port.flush().await
}

/// Reads both superblocks; which of them are intact, and what the newer says.
pub(super) async fn read(port: &Port<'_>) -> Result<(Identity, [bool; 2]), MountError> {
    let capacity = port.info().capacity;
    if capacity < 2 * BLOCK as u64 {
        return Err(MountError::NotFormatted);
    }
    let mut found: Option<(u64, Superblock)> = None;
    let mut intact = [false; 2];
    for copy in [0, 1] {
        let bytes = match port.read(offset(copy, capacity), BLOCK).await {
            Ok(bytes) => bytes,
            Err(disk::Error::Media) => continue,
            Err(error) => return Err(error.into()),
        };
        let (block, _) = Superblock::read_from_prefix(&bytes).expect("a block was read");
        let is_ours =
            block.magic == spec::SUPERBLOCK_MAGIC && block.copy == copy && block.is_intact();
        if is_ours {
            intact[usize::from(copy)] = true;
            let generation = block.generation.get();
            if found.as_ref().is_none_or(|&(newest, _)| generation > newest) {
                found = Some((generation, block));
            }
        }
    }
    let (_, block) = found.ok_or(MountError::NotFormatted)?;
    let identity = Identity::decode(&block)?;
    if identity.capacity > capacity {
        return Err(MountError::Truncated { capacity, formatted: identity.capacity });
    }
    Ok((identity, intact))
}

/// Byte offset of a copy on a disk of `capacity` bytes.
fn offset(copy: u8, capacity: u64) -> u64 {
    if copy == 0 { 0 } else { capacity / BLOCK as u64 * BLOCK as u64 - BLOCK as u64 }
}
