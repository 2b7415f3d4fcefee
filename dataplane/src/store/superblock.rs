//! The superblocks at both ends of a disk.
//!
//! Of two copies the one with the higher generation counts; they differ while a disk grows, and
//! after a growth that was cut short. The far one of a disk that has grown is at its new end, and
//! is written first: with it the disk has grown.

use super::layout::{Extension, Layout};
use super::port::Port;
use super::{Mode, MountError, Probe};
use crate::disk;
use arrayvec::ArrayVec;
use storage_spec::disk::{self as spec, BLOCK, EXTENSIONS_MAX, Sealed, Superblock};
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
        block.version = self.version().into();
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
        block.extension_count = (self.layout.extensions.len() as u32).into();
        for (to, extension) in block.extensions.iter_mut().zip(&self.layout.extensions) {
            to.first_block = extension.first_block.into();
            to.shard_blocks = extension.shard_blocks.into();
            to.slabs = extension.slabs.into();
        }
        block.seal();
        block
    }

    /// Of the format: that of releases which know of no extensions, where there are none.
    fn version(&self) -> u16 {
        if self.layout.extensions.is_empty() { spec::VERSION_PLAIN } else { spec::VERSION }
    }

    /// What a superblock says, if it is one of ours.
    pub(super) fn decode(block: &Superblock) -> Result<Self, MountError> {
        let version = block.version.get();
        if !(spec::VERSION_PLAIN..=spec::VERSION).contains(&version) {
            return Err(MountError::Version { found: version, known: spec::VERSION });
        }
        let partner = Uuid::from_bytes(block.partner);
        let role = if block.role == 0 { Role::Data } else { Role::Journal };
        let partner = (!partner.is_nil()).then_some(partner);
        let extensions = match role {
            Role::Data => extensions(block).ok_or(MountError::NotFormatted)?,
            Role::Journal => ArrayVec::new(),
        };
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
            extensions,
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

    /// What people are told of it, on a device of `capacity` bytes.
    pub(super) fn describe(&self, intact: [bool; 2], capacity: u64) -> Probe {
        // A journal disk's geometry counts for nothing, and nobody has looked at it.
        let (slabs, grown) =
            (self.layout.total_slabs(), || self.layout.extend(self.capacity, capacity));
        let more = match self.role {
            Role::Data if blocks(capacity) > blocks(self.capacity) => {
                grown().map_or(0, |layout| layout.total_slabs() - slabs)
            }
            _ => 0,
        };
        let bytes = |slabs: u32| {
            let slabs = u64::from(slabs) * u64::from(self.layout.shards);
            slabs.saturating_mul((spec::SLAB_BLOCKS * BLOCK) as u64)
        };
        Probe {
            disk: self.disk,
            partner: self.partner,
            is_journal: self.role == Role::Journal,
            version: self.version(),
            incarnation: self.incarnation,
            mode: self.layout.mode,
            shards: self.layout.shards,
            data_bytes: bytes(slabs),
            extensions: self.layout.extensions.len() as u32,
            growable_bytes: bytes(more),
            journal_bytes: self.layout.journal_blocks.saturating_mul(BLOCK as u64),
            intact,
        }
    }
}

/// What a superblock says was added; `None` if that cannot be.
fn extensions(block: &Superblock) -> Option<ArrayVec<Extension, EXTENSIONS_MAX>> {
    let entries = block.extensions.get(..block.extension_count.get() as usize)?;
    let is_plain = block.version == spec::VERSION_PLAIN;
    if is_plain != entries.is_empty() {
        return None;
    }
    let extension = |entry: &spec::Extension| Extension {
        first_block: entry.first_block.get(),
        shard_blocks: entry.shard_blocks.get(),
        slabs: entry.slabs.get(),
    };
    Some(entries.iter().map(extension).collect())
}

/// One of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// Says what counts.
    Good,
    /// Says what the disk was before it grew.
    Stale,
    /// Cannot be read, or is none.
    Damaged,
}

/// What the superblocks of a disk say.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) generation: u64,
    /// At the start, at the end.
    pub(super) copies: [Copy; 2],
}

impl Found {
    pub(super) fn intact(&self) -> [bool; 2] {
        self.copies.map(|copy| copy == Copy::Good)
    }

    pub(super) fn describe(&self, port: &Port<'_>) -> Probe {
        self.identity.describe(self.intact(), port.info().capacity)
    }
}

/// Writes both superblocks, the far one first, and makes them durable one after the other.
pub(super) async fn write(
    port: &Port<'_>,
    identity: &Identity,
    generation: u64,
) -> Result<(), disk::Error> {
    for copy in [1, 0] {
        write_copy(port, identity, generation, copy).await?;
    }
    Ok(())
}

async fn write_copy(
    port: &Port<'_>,
    identity: &Identity,
    generation: u64,
    copy: u8,
) -> Result<(), disk::Error> {
    let block = identity.encode(copy, generation);
    port.write_block(offset(copy, identity.capacity), block.as_bytes()).await?;
    port.flush().await
}

/// Makes both copies say what counts. A stale one must not stay when the rest of the disk changes:
/// should the device be enlarged once more, it would be the only one in its place.
///
/// # Errors
/// As the device fails; for a damaged copy alone that is no error: the disk has done without it.
pub(super) async fn heal(port: &Port<'_>, found: &Found) -> Result<(), disk::Error> {
    let Found { identity, generation, copies } = found;
    for (copy, state) in [(1, copies[1]), (0, copies[0])] {
        if state == Copy::Good {
            continue;
        }
        match write_copy(port, identity, *generation, copy).await {
            Err(disk::Error::Media | disk::Error::Failed) if state == Copy::Damaged => {}
            written => written?,
        }
    }
    Ok(())
}

/// Takes away the superblocks at the ends that a disk had before it grew, once both copies are
/// durable at its present ends.
pub(super) async fn erase_former(port: &Port<'_>, identity: &Identity) -> Result<(), disk::Error> {
    for extension in &identity.layout.extensions {
        port.write_block((extension.first_block - 1) * BLOCK as u64, &[0; BLOCK]).await?;
    }
    port.flush().await
}

/// Makes a disk's superblocks invalid, so that an interrupted format is seen as such.
pub(super) async fn erase(port: &Port<'_>) -> Result<(), disk::Error> {
    for copy in [0, 1] {
        port.write_block(offset(copy, port.info().capacity), &[0; BLOCK]).await?;
    }
    port.flush().await
}

/// Reads the superblocks, and decides what counts.
///
/// The far one is looked for at the end of the device, and, if the near one says that the disk is
/// smaller, at that end too.
pub(super) async fn read(port: &Port<'_>) -> Result<Found, MountError> {
    let capacity = port.info().capacity;
    if blocks(capacity) < 2 {
        return Err(MountError::NotFormatted);
    }
    let near = read_copy(port, 0, capacity).await?;
    let mut far = read_copy(port, 1, capacity).await?;
    if let Some(near) = &near {
        // Remains of an earlier format at the end of the device say nothing.
        let is_of_one = |far: &Superblock| {
            (far.disk, far.incarnation) == (near.disk, near.incarnation)
                && far.generation >= near.generation
        };
        far = far.filter(is_of_one);
        let said = near.capacity.get();
        if far.is_none() && (2..blocks(capacity)).contains(&blocks(said)) {
            far = read_copy(port, 1, said).await?.filter(is_of_one);
        }
    }
    let newest = match (&near, &far) {
        (Some(near), Some(far)) if far.generation > near.generation => far,
        (Some(newest), _) | (None, Some(newest)) => newest,
        (None, None) => return Err(MountError::NotFormatted),
    };
    let identity = Identity::decode(newest)?;
    if identity.capacity > capacity {
        return Err(MountError::Truncated { capacity, formatted: identity.capacity });
    }
    let generation = newest.generation.get();
    let state = |copy: &Option<Superblock>| match copy {
        Some(block) if block.generation.get() == generation => Copy::Good,
        Some(_) => Copy::Stale,
        None => Copy::Damaged,
    };
    let copies = [state(&near), state(&far)];
    Ok(Found { identity, generation, copies })
}

/// Reads one copy as it lies on a disk of `capacity` bytes; `None` if it is no intact one.
async fn read_copy(
    port: &Port<'_>,
    copy: u8,
    capacity: u64,
) -> Result<Option<Superblock>, disk::Error> {
    let bytes = match port.read(offset(copy, capacity), BLOCK).await {
        Ok(bytes) => bytes,
        Err(disk::Error::Media) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (block, _) = Superblock::read_from_prefix(&bytes).expect("a block was read");
    let is_ours = block.magic == spec::SUPERBLOCK_MAGIC && block.copy == copy && block.is_intact();
    Ok(is_ours.then_some(block))
}

fn blocks(capacity: u64) -> u64 {
    capacity / BLOCK as u64
}

/// Byte offset of a copy on a disk of `capacity` bytes.
fn offset(copy: u8, capacity: u64) -> u64 {
    if copy == 0 { 0 } else { (blocks(capacity) - 1) * BLOCK as u64 }
}
