//! Where everything lies on a disk: computed once at format, read from the superblock afterwards.

use super::{FormatError, FormatOptions, Mode};
use crate::disk::Info;
use storage_spec::disk::{BLOCK, CONTENT_BYTES, SLAB_BLOCKS};

/// Blocks kept free for the superblock at either end, so that everything else is aligned.
pub(super) const END_BLOCKS: u64 = 256;
/// Fewest blocks of a journal.
pub(super) const JOURNAL_BLOCKS_MIN: u64 = 64;
/// Fewest slabs in a shard.
pub(super) const SLABS_MIN: u32 = 4;
/// Most slabs in a shard: 32 TiB.
pub(super) const SLABS_MAX: u32 = 1 << 24;
/// Most shards of a disk.
pub(super) const SHARDS_MAX: u16 = 256;

const SLAB: u64 = SLAB_BLOCKS as u64;
const JOURNAL_MIB_MAX: u64 = 256;

/// How a disk, and its journal disk, are divided. In blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) mode: Mode,
    pub(super) shards: u16,
    pub(super) slabs: u32,
    pub(super) first_block: u64,
    pub(super) shard_blocks: u64,
    pub(super) journal_blocks: u64,
    pub(super) checkpoint_blocks: u64,
    pub(super) catalogue_bytes: u64,
    /// Whether journals are on a disk of their own, from its block [`END_BLOCKS`] on.
    pub(super) journal_apart: bool,
}

/// One shard's areas, in blocks from the start of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Areas {
    pub(super) shard: u16,
    pub(super) incarnation: u64,
    pub(super) slabs: u32,
    pub(super) journal: u64,
    pub(super) journal_blocks: u64,
    pub(super) checkpoints: [u64; 2],
    pub(super) checkpoint_blocks: u64,
    pub(super) pages: u64,
    pub(super) data: u64,
    pub(super) catalogue_bytes: u64,
}

impl Layout {
    /// Divides a disk.
    pub(super) fn plan(
        data: &Info,
        journal: Option<&Info>,
        options: &FormatOptions,
    ) -> Result<Self, FormatError> {
        let shards = u64::from(options.shards);
        if !(1..=SHARDS_MAX).contains(&options.shards) {
            return Err(FormatError::Option("shards must be 1 to 256"));
        }
        if !(16 << 10..=64 << 20).contains(&options.catalogue_bytes) {
            return Err(FormatError::Option("the catalogue must have 16 KiB to 64 MiB"));
        }
        let is_atomic = data.atomic_write as usize >= BLOCK;
        let mode = options.mode.unwrap_or(if is_atomic { Mode::Intent } else { Mode::Data });
        let usable = (data.capacity / BLOCK as u64).saturating_sub(2 * END_BLOCKS);
        let shard_blocks = usable / shards / SLAB * SLAB;
        let journal_blocks = journal_blocks(shard_blocks, journal, options)?;
        let inside = if journal.is_some() { 0 } else { journal_blocks };
        let room = shard_blocks.saturating_sub(inside);
        let mut slabs = (room / SLAB).min(u64::from(SLABS_MAX)) as u32;
        let meta =
            |slabs| 2 * checkpoint_blocks(slabs, options.catalogue_bytes) + 2 * u64::from(slabs);
        let needs = |slabs| (inside + meta(slabs)).next_multiple_of(SLAB) + u64::from(slabs) * SLAB;
        while slabs >= SLABS_MIN && needs(slabs) > shard_blocks {
            slabs -= 1;
        }
        if slabs < SLABS_MIN {
            let needed = (needs(SLABS_MIN) * shards + 2 * END_BLOCKS + SLAB) * BLOCK as u64;
            return Err(FormatError::TooSmall { capacity: data.capacity, needed });
        }
        Ok(Self {
            mode,
            shards: options.shards,
            slabs,
            first_block: END_BLOCKS,
            shard_blocks,
            journal_blocks,
            checkpoint_blocks: checkpoint_blocks(slabs, options.catalogue_bytes),
            catalogue_bytes: options.catalogue_bytes,
            journal_apart: journal.is_some(),
        })
    }

    /// Whether the numbers of a superblock are ones that [`Layout::plan`] could have made for a
    /// disk of `capacity` bytes: they are a disk's bytes, and every offset is computed from them.
    pub(super) fn is_sane(&self, capacity: u64) -> bool {
        let blocks = capacity / BLOCK as u64;
        let small = |value: u64| value <= 1 << 48;
        (1..=SHARDS_MAX).contains(&self.shards)
            && (SLABS_MIN..=SLABS_MAX).contains(&self.slabs)
            && self.journal_blocks >= JOURNAL_BLOCKS_MIN
            && [self.journal_blocks, self.checkpoint_blocks, self.shard_blocks, self.first_block]
                .into_iter()
                .all(small)
            // On a disk of its own the journal is bounded by nothing that is known here.
            && small(u64::from(self.shards) * self.journal_blocks)
            && (16 << 10..=64 << 20).contains(&self.catalogue_bytes)
            && self.checkpoint_blocks == checkpoint_blocks(self.slabs, self.catalogue_bytes)
            && self.first_block == END_BLOCKS
            && self.first_block + u64::from(self.shards) * self.shard_blocks + END_BLOCKS <= blocks
            && self.areas(0, 0).data + u64::from(self.slabs) * SLAB
                <= self.first_block + self.shard_blocks
    }

    /// The areas of one shard.
    pub(super) fn areas(&self, shard: u16, incarnation: u64) -> Areas {
        let base = self.first_block + u64::from(shard) * self.shard_blocks;
        let (journal, after) = if self.journal_apart {
            (END_BLOCKS + u64::from(shard) * self.journal_blocks, base)
        } else {
            (base, base + self.journal_blocks)
        };
        let pages = after + 2 * self.checkpoint_blocks;
        let inside = (pages + 2 * u64::from(self.slabs) - base).next_multiple_of(SLAB);
        Areas {
            shard,
            incarnation,
            slabs: self.slabs,
            journal,
            journal_blocks: self.journal_blocks,
            checkpoints: [after, after + self.checkpoint_blocks],
            checkpoint_blocks: self.checkpoint_blocks,
            pages,
            data: base + inside,
            catalogue_bytes: self.catalogue_bytes,
        }
    }
}

impl Areas {
    /// Byte offset of a slab's metadata page: of the copy for `generation`.
    pub(super) fn page_offset(&self, slab: u32, generation: u32) -> u64 {
        (self.pages + 2 * u64::from(slab) + u64::from(generation & 1)) * BLOCK as u64
    }

    /// Byte offset of a block of a slab.
    pub(super) fn data_offset(&self, slab: u32, block: u16) -> u64 {
        (self.data + u64::from(slab) * SLAB + u64::from(block)) * BLOCK as u64
    }

    /// Byte offset of block `block` of the journal ring, on the journal's device.
    pub(super) fn journal_offset(&self, block: u64) -> u64 {
        (self.journal + block % self.journal_blocks) * BLOCK as u64
    }

    /// Byte offset of block `block` of the checkpoint region that `sequence` uses.
    pub(super) fn checkpoint_offset(&self, sequence: u64, block: u64) -> u64 {
        assert!(block < self.checkpoint_blocks);
        (self.checkpoints[(sequence & 1) as usize] + block) * BLOCK as u64
    }
}

fn journal_blocks(
    shard_blocks: u64,
    journal: Option<&Info>,
    options: &FormatOptions,
) -> Result<u64, FormatError> {
    let wanted = options.journal_bytes / BLOCK as u64;
    if wanted > 0 && wanted < JOURNAL_BLOCKS_MIN {
        return Err(FormatError::Option("a journal must have at least 256 KiB"));
    }
    let per_mib = (1 << 20) / BLOCK as u64;
    let Some(journal) = journal else {
        let chosen = (shard_blocks / 32).clamp(per_mib, JOURNAL_MIB_MAX * per_mib);
        return Ok(if wanted > 0 { wanted } else { chosen });
    };
    let usable = (journal.capacity / BLOCK as u64).saturating_sub(2 * END_BLOCKS);
    let each = usable / u64::from(options.shards);
    if each < wanted.max(JOURNAL_BLOCKS_MIN) {
        let needed = wanted.max(JOURNAL_BLOCKS_MIN) * u64::from(options.shards) + 2 * END_BLOCKS;
        let needed = needed * BLOCK as u64;
        return Err(FormatError::TooSmall { capacity: journal.capacity, needed });
    }
    let chosen = each.min(8 * JOURNAL_MIB_MAX * per_mib);
    Ok(if wanted > 0 { wanted } else { chosen })
}

/// Room for a checkpoint: its header, generations, chunks however thinly filled, and the catalogue,
/// the last two doubled, since a checkpoint is taken while they change.
fn checkpoint_blocks(slabs: u32, catalogue_bytes: u64) -> u64 {
    const CHUNK_ENTRY_MAX: u64 = 32 + 128 * 4;
    const CATALOGUE_ENTRY_MAX: u64 = 4 + 64 + 1024;
    let page = CONTENT_BYTES as u64;
    let slabs = u64::from(slabs);
    1 + (slabs * 4).div_ceil(page)
        + (2 * slabs * 36).div_ceil(page - CHUNK_ENTRY_MAX)
        + (2 * catalogue_bytes).div_ceil(page - CATALOGUE_ENTRY_MAX)
        + 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn info(capacity: u64) -> Info {
        Info {
            name: "test".into(),
            capacity,
            block_size: 4096,
            atomic_write: 4096,
            volatile_cache: false,
            fua: true,
            deallocate: true,
            rotational: false,
            queue_depth: 32,
            transfer_max: 1 << 20,
        }
    }

    #[test]
    fn areas_do_not_overlap_and_stay_inside() {
        for (capacity, shards) in [(64 << 20, 1), (1 << 30, 4), (1 << 40, 8), (20 << 40, 2)] {
            let mut options = FormatOptions::new(Uuid::from_u128(1), 1);
            options.shards = shards;
            options.catalogue_bytes = 64 << 10;
            let layout = Layout::plan(&info(capacity), None, &options).unwrap();
            assert!(layout.is_sane(capacity));
            let mut end = END_BLOCKS;
            for shard in 0..shards {
                let areas = layout.areas(shard, 1);
                assert!(areas.journal >= end);
                assert!(areas.checkpoints[0] >= areas.journal + areas.journal_blocks);
                assert_eq!(areas.checkpoints[1], areas.checkpoints[0] + areas.checkpoint_blocks);
                assert_eq!(areas.pages, areas.checkpoints[1] + areas.checkpoint_blocks);
                assert!(areas.data >= areas.pages + 2 * u64::from(areas.slabs));
                end = areas.data + u64::from(areas.slabs) * SLAB;
            }
            assert!(end + END_BLOCKS <= capacity / 4096);
            let data = u64::from(layout.slabs) * u64::from(shards) * SLAB * 4096;
            assert!(capacity < 1 << 30 || data * 100 > capacity * 95, "{data} of {capacity}");
        }
    }

    #[test]
    fn too_small_says_how_much() {
        let mut options = FormatOptions::new(Uuid::from_u128(1), 1);
        options.catalogue_bytes = 16 << 10;
        let Err(FormatError::TooSmall { needed, .. }) =
            Layout::plan(&info(4 << 20), None, &options)
        else {
            panic!("4 MiB is too small");
        };
        assert!(Layout::plan(&info(needed), None, &options).is_ok());
    }
}
