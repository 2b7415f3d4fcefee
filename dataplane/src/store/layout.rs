//! Where everything lies on a disk: computed once at format and once each time it grows, read from
//! the superblock afterwards.

use super::{FormatError, FormatOptions, GrowError, Mode};
use crate::disk::Info;
use arrayvec::ArrayVec;
#[cfg(any(test, fuzzing, feature = "sim"))]
use std::ops::Range;
use storage_spec::disk::{BLOCK, CONTENT_BYTES, EXTENSIONS_MAX, SLAB_BLOCKS};

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
    /// What it has gained since it was formatted.
    pub(super) extensions: ArrayVec<Extension, EXTENSIONS_MAX>,
}

/// What a disk has gained at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extension {
    /// Blocks of the disk before.
    pub(super) first_block: u64,
    /// Blocks from one shard's part to the next.
    pub(super) shard_blocks: u64,
    /// Slabs in each part.
    pub(super) slabs: u32,
}

/// Most segments of a shard.
const SEGMENTS_MAX: usize = 1 + EXTENSIONS_MAX;

/// Slabs of a shard that lie side by side, and their pages, in blocks from the start of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Segment {
    /// Number of its first slab.
    pub(super) first_slab: u32,
    pub(super) pages: u64,
    pub(super) data: u64,
}

/// One shard's areas, in blocks from the start of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Areas {
    pub(super) shard: u16,
    pub(super) incarnation: u64,
    /// Slabs in all segments.
    pub(super) slabs: u32,
    pub(super) journal: u64,
    pub(super) journal_blocks: u64,
    pub(super) checkpoints: [u64; 2],
    pub(super) checkpoint_blocks: u64,
    pub(super) catalogue_bytes: u64,
    segments: [Segment; SEGMENTS_MAX],
    segment_count: usize,
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
            extensions: ArrayVec::new(),
        })
    }

    /// The layout with one more extension, on a device that had `old` bytes and has `new` ones.
    /// Everything that is there stays where it is.
    pub(super) fn extend(&self, old: u64, new: u64) -> Result<Self, GrowError> {
        let shards = u64::from(self.shards);
        let first_block = old / BLOCK as u64;
        let usable = (new / BLOCK as u64).saturating_sub(aligned(first_block) + END_BLOCKS);
        let shard_blocks = usable / shards / SLAB * SLAB;
        let present = self.total_slabs();
        let needs = |slabs| self.part_blocks(present, slabs) + u64::from(slabs) * SLAB;
        let mut slabs = (shard_blocks / SLAB).min(u64::from(SLABS_MAX - present)) as u32;
        while slabs >= SLABS_MIN && needs(slabs) > shard_blocks {
            slabs -= 1;
        }
        if SLABS_MAX - present < SLABS_MIN {
            return Err(GrowError::Largest);
        }
        if slabs < SLABS_MIN {
            let part = needs(SLABS_MIN).next_multiple_of(SLAB);
            let needed = aligned(first_block) + shards * part + END_BLOCKS;
            let needed = needed.saturating_mul(BLOCK as u64);
            return Err(GrowError::TooLittle { capacity: new, needed });
        }
        let mut grown = self.clone();
        let added = grown.extensions.try_push(Extension { first_block, shard_blocks, slabs });
        added.map_err(|_| GrowError::TooOften)?;
        Ok(grown)
    }

    /// Slabs in each shard.
    pub(super) fn total_slabs(&self) -> u32 {
        self.slabs + self.extensions.iter().map(|extension| extension.slabs).sum::<u32>()
    }

    /// Blocks of what precedes the data in a shard's part of an extension of `slabs` slabs, where
    /// the shard had `present` slabs before.
    fn part_blocks(&self, present: u32, slabs: u32) -> u64 {
        let checkpoint = checkpoint_blocks(present + slabs, self.catalogue_bytes);
        (2 * checkpoint + 2 * u64::from(slabs)).next_multiple_of(SLAB)
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
            && self.first_segment(0).1.data + u64::from(self.slabs) * SLAB
                <= self.first_block + self.shard_blocks
            && self.are_extensions_sane(blocks)
    }

    /// Whether each extension is behind what was there before, and the last one on the disk.
    fn are_extensions_sane(&self, blocks: u64) -> bool {
        let shards = u64::from(self.shards);
        let mut end = self.first_block + shards * self.shard_blocks + END_BLOCKS;
        let mut present = self.slabs;
        for extension in &self.extensions {
            let &Extension { first_block, shard_blocks, slabs } = extension;
            let is_sane = (end..=1 << 48).contains(&first_block)
                && shard_blocks <= 1 << 48
                && (SLABS_MIN..=SLABS_MAX - present).contains(&slabs)
                && self.part_blocks(present, slabs) + u64::from(slabs) * SLAB <= shard_blocks;
            if !is_sane {
                return false;
            }
            present += slabs;
            end = aligned(first_block) + shards * shard_blocks + END_BLOCKS;
        }
        end <= blocks
    }

    /// The areas of one shard.
    pub(super) fn areas(&self, shard: u16, incarnation: u64) -> Areas {
        let (mut areas, first) = self.first_segment(shard);
        areas.incarnation = incarnation;
        areas.add(first, self.slabs);
        for extension in &self.extensions {
            let base = aligned(extension.first_block) + u64::from(shard) * extension.shard_blocks;
            let blocks = checkpoint_blocks(areas.slabs + extension.slabs, self.catalogue_bytes);
            areas.checkpoint_blocks = blocks;
            areas.checkpoints = [base, base + blocks];
            let first_slab = areas.slabs;
            let data = base + self.part_blocks(first_slab, extension.slabs);
            let segment = Segment { first_slab, pages: base + 2 * blocks, data };
            areas.add(segment, extension.slabs);
        }
        areas
    }

    /// What a shard had at format, but for its one segment, and that.
    fn first_segment(&self, shard: u16) -> (Areas, Segment) {
        let base = self.first_block + u64::from(shard) * self.shard_blocks;
        let (journal, after) = if self.journal_apart {
            (END_BLOCKS + u64::from(shard) * self.journal_blocks, base)
        } else {
            (base, base + self.journal_blocks)
        };
        let pages = after + 2 * self.checkpoint_blocks;
        let inside = (pages + 2 * u64::from(self.slabs) - base).next_multiple_of(SLAB);
        let areas = Areas {
            shard,
            incarnation: 0,
            slabs: 0,
            journal,
            journal_blocks: self.journal_blocks,
            checkpoints: [after, after + self.checkpoint_blocks],
            checkpoint_blocks: self.checkpoint_blocks,
            catalogue_bytes: self.catalogue_bytes,
            segments: [Segment::default(); SEGMENTS_MAX],
            segment_count: 0,
        };
        (areas, Segment { first_slab: 0, pages, data: base + inside })
    }
}

impl Areas {
    fn add(&mut self, segment: Segment, slabs: u32) {
        self.segments[self.segment_count] = segment;
        self.segment_count += 1;
        self.slabs += slabs;
    }

    /// The shard's segments in the order of their slabs.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments[..self.segment_count]
    }

    /// The slabs of one of the segments.
    #[cfg(any(test, fuzzing, feature = "sim"))]
    pub(super) fn slabs_of(&self, segment: usize) -> Range<u32> {
        let next = self.segments().get(segment + 1).map_or(self.slabs, |next| next.first_slab);
        self.segments[segment].first_slab..next
    }

    /// Whether a slab does not follow the one before it on the medium.
    pub(super) fn starts_segment(&self, slab: u64) -> bool {
        self.segments().iter().any(|segment| u64::from(segment.first_slab) == slab)
    }

    /// Byte offset of a slab's metadata page: of the copy for `generation`.
    pub(super) fn page_offset(&self, slab: u32, generation: u32) -> u64 {
        let segment = self.segment_of(slab);
        let page = 2 * u64::from(slab - segment.first_slab) + u64::from(generation & 1);
        (segment.pages + page) * BLOCK as u64
    }

    /// Byte offset of a block of a slab.
    pub(super) fn data_offset(&self, slab: u32, block: u16) -> u64 {
        let segment = self.segment_of(slab);
        let first = segment.data + u64::from(slab - segment.first_slab) * SLAB;
        (first + u64::from(block)) * BLOCK as u64
    }

    fn segment_of(&self, slab: u32) -> &Segment {
        let mut newest_first = self.segments().iter().rev();
        newest_first.find(|segment| segment.first_slab <= slab).expect("the first one begins at 0")
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

/// Where parts begin: a multiple of 1 MiB.
fn aligned(block: u64) -> u64 {
    block.next_multiple_of(END_BLOCKS)
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
                let first = areas.segments()[0];
                assert_eq!(first.pages, areas.checkpoints[1] + areas.checkpoint_blocks);
                assert!(first.data >= first.pages + 2 * u64::from(areas.slabs));
                end = first.data + u64::from(areas.slabs) * SLAB;
            }
            assert!(end + END_BLOCKS <= capacity / 4096);
            let data = u64::from(layout.slabs) * u64::from(shards) * SLAB * 4096;
            assert!(capacity < 1 << 30 || data * 100 > capacity * 95, "{data} of {capacity}");
        }
    }

    #[test]
    fn extensions_lie_one_behind_the_other() {
        let mut options = FormatOptions::new(Uuid::from_u128(1), 1);
        options.catalogue_bytes = 16 << 10;
        for shards in [1, 3, 8] {
            options.shards = shards;
            let mut capacity = 200 << 20;
            let mut layout = Layout::plan(&info(capacity), None, &options).unwrap();
            for by in [100 << 20, 1 << 40, (3 << 30) + 4096, (400 << 20) - 512] {
                let before = layout.clone();
                layout = layout.extend(capacity, capacity + by).unwrap();
                assert!(before.is_sane(capacity));
                capacity += by;
                assert!(layout.is_sane(capacity) && !layout.is_sane(capacity - by));
                let first = before.areas(shards - 1, 1);
                let same = layout.areas(shards - 1, 1);
                for slab in [0, first.slabs - 1] {
                    assert_eq!(same.page_offset(slab, 1), first.page_offset(slab, 1));
                    assert_eq!(same.data_offset(slab, 511), first.data_offset(slab, 511));
                }
                assert_eq!(
                    (same.journal, same.journal_blocks),
                    (first.journal, first.journal_blocks)
                );
                let added = u64::from(same.slabs - first.slabs) * u64::from(shards) * (2 << 20);
                assert!(by < 3 << 30 || added * 100 > by * 95, "{added} of {by}");
            }
            let mut used: Vec<Range<u64>> = Vec::new();
            for shard in 0..shards {
                let areas = layout.areas(shard, 1);
                let blocks = |start: u64, count: u64| start..start + count;
                used.push(blocks(areas.journal, areas.journal_blocks));
                used.extend(areas.checkpoints.map(|at| blocks(at, areas.checkpoint_blocks)));
                for (at, segment) in areas.segments().iter().enumerate() {
                    let slabs = u64::from(areas.slabs_of(at).len() as u32);
                    used.push(blocks(segment.pages, 2 * slabs));
                    used.push(blocks(segment.data, slabs * SLAB));
                }
            }
            used.extend(
                layout.extensions.iter().map(|part| part.first_block - 1..part.first_block),
            );
            used.sort_by_key(|range| range.start);
            assert!(used.windows(2).all(|pair| pair[0].end <= pair[1].start), "{used:?}");
            assert!(used[0].start >= END_BLOCKS);
            assert!(used.last().unwrap().end + END_BLOCKS <= capacity / 4096);
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
