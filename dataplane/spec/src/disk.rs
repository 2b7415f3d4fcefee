//! What lies on a disk. Everything is little-endian, in blocks of 4 KiB, and carries a CRC32C, its
//! own position, and the incarnation of the disk; `docs/on-disk-format.md` has the drawings.

use crate::crc32c;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a block.
pub const BLOCK: usize = crc32c::BLOCK;
/// Blocks in a slab: the unit in which chunks take space.
pub const SLAB_BLOCKS: usize = 512;
/// Slabs in a chunk.
pub const CHUNK_SLABS: usize = 128;
/// Blocks in a region, which has one version.
pub const REGION_BLOCKS: usize = 16;
/// Regions in a slab.
pub const SLAB_REGIONS: usize = SLAB_BLOCKS / REGION_BLOCKS;
/// Version of the format that this crate describes: disks that have grown have it.
pub const VERSION: u16 = 2;
/// Version of disks that have not grown, so that releases which know of no extensions read them.
pub const VERSION_PLAIN: u16 = 1;
/// Most times that a disk can grow.
pub const EXTENSIONS_MAX: usize = 32;

/// First bytes of every superblock.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"BASALT01";
/// First bytes of a slab's metadata page.
pub const PAGE_MAGIC: U32 = U32::from_bytes(*b"bslP");
/// First bytes of a journal batch.
pub const BATCH_MAGIC: U32 = U32::from_bytes(*b"bslJ");
/// First bytes of a checkpoint's header.
pub const CHECKPOINT_MAGIC: U32 = U32::from_bytes(*b"bslC");
/// First bytes of a checkpoint's content page.
pub const CONTENT_MAGIC: U32 = U32::from_bytes(*b"bslc");

/// A structure whose first field is the CRC32C of the rest of its bytes.
pub trait Sealed: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// The checksum that it carries.
    fn crc(&self) -> U32;
    /// Sets the checksum to that of the contents.
    fn seal(&mut self);
    /// Whether the checksum is that of the contents.
    fn is_intact(&self) -> bool {
        self.crc().get() == crc32c::checksum(&self.as_bytes()[4..])
    }
}

macro_rules! sealed {
    ($($name:ty),*) => {$(
        impl Sealed for $name {
            fn crc(&self) -> U32 {
                self.crc
            }
            fn seal(&mut self) {
                self.crc = crc32c::checksum(&self.as_bytes()[4..]).into();
            }
        }
    )*};
}
sealed!(Superblock, SlabPage, CheckpointHeader, ContentPage);

/// What a disk is, at its first and at its last block.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct Superblock {
    /// Of the rest of the block.
    pub crc: U32,
    /// [`VERSION_PLAIN`] without extensions, else [`VERSION`]; a reader refuses a newer one.
    pub version: U16,
    /// 0 the first block, 1 the last.
    pub copy: u8,
    /// 0 a data disk, 1 a journal disk.
    pub role: u8,
    /// [`SUPERBLOCK_MAGIC`].
    pub magic: [u8; 8],
    /// Of this disk.
    pub disk: [u8; 16],
    /// Of the journal disk that belongs to a data disk, or the other way round; zero for none.
    pub partner: [u8; 16],
    /// New at every format; everything on the disk carries it.
    pub incarnation: U64,
    /// Rises with every rewrite; the higher one of two valid copies counts.
    pub generation: U64,
    /// Bytes of the disk when it was formatted, or grew last.
    pub capacity: U64,
    /// 0 intent, 1 data.
    pub mode: u8,
    /// Reserved, zero.
    pub reserved: u8,
    /// How many shards follow one another.
    pub shards: U16,
    /// Slabs in each shard when it was formatted.
    pub slabs: U32,
    /// First block of the first shard (on a data disk) or of the first journal (on a journal disk).
    pub first_block: U64,
    /// Blocks from one shard to the next.
    pub shard_blocks: U64,
    /// Blocks of each shard's journal.
    pub journal_blocks: U64,
    /// Blocks of each of a shard's two checkpoint regions before it grew.
    pub checkpoint_blocks: U64,
    /// Bytes of catalogue that each shard has room for.
    pub catalogue_bytes: U64,
    /// How many of `extensions` there are; the others are zero.
    pub extension_count: U32,
    /// Reserved, zero.
    pub reserved_end: U32,
    /// What was added when the disk grew, in that order.
    pub extensions: [Extension; EXTENSIONS_MAX],
    /// Zero.
    pub padding: [u8; BLOCK - 128 - EXTENSIONS_MAX * size_of::<Extension>()],
}
const _: () = assert!(size_of::<Superblock>() == BLOCK);

/// What a disk gained when it grew: a part for each shard, one after another, from the first
/// multiple of 256 blocks at or after `first_block` on.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct Extension {
    /// Blocks of the disk before: the superblock at its end was in the block before this one.
    pub first_block: U64,
    /// Blocks from one shard's part to the next.
    pub shard_blocks: U64,
    /// Slabs in each part; their numbers go on from those before.
    pub slabs: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<Extension>() == 24);

/// Metadata of one slab. Two copies lie side by side; the one at `generation & 1` is newest.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct SlabPage {
    /// Of the rest of the block.
    pub crc: U32,
    /// [`PAGE_MAGIC`].
    pub magic: U32,
    /// Of the disk.
    pub incarnation: U64,
    /// Number of the slab in its shard.
    pub slab: U32,
    /// How often the page has been written.
    pub generation: U32,
    /// Owner: the volume.
    pub volume: U64,
    /// Owner: the chunk's index in the volume.
    pub chunk: U32,
    /// Owner: the slab's index in the chunk.
    pub index: U32,
    /// A bit per block that holds data.
    pub allocated: [U64; SLAB_BLOCKS / 64],
    /// A bit per block that answers reads with an error.
    pub poisoned: [U64; SLAB_BLOCKS / 64],
    /// Version tag of the last write to each region.
    pub versions: [U32; SLAB_REGIONS],
    /// CRC32C of each allocated block.
    pub crcs: [U32; SLAB_BLOCKS],
    /// Zero.
    pub padding: [u8; BLOCK - 40 - 128 - 128 - 2048],
}
const _: () = assert!(size_of::<SlabPage>() == BLOCK);

/// Start of a journal batch. Its records follow at once, zeroes to the end of the block, then the
/// payload blocks.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct BatchHeader {
    /// Of the rest of the header and of the records.
    pub crc: U32,
    /// [`BATCH_MAGIC`].
    pub magic: U32,
    /// Of the disk.
    pub incarnation: U64,
    /// Rises by one from batch to batch; recovery skips some.
    pub sequence: U64,
    /// Block within the ring at which the batch starts.
    pub position: U64,
    /// Number of the first record; the others follow one by one.
    pub first_lsn: U64,
    /// Data of every record up to here that was written in place are durable.
    pub completed_lsn: U64,
    /// Every record up to here was durable in the journal when this batch was written.
    pub durable_lsn: U64,
    /// How many records.
    pub records: U32,
    /// Their bytes.
    pub record_bytes: U32,
    /// Blocks of payload.
    pub payload_blocks: U32,
    /// `crc` of the batch before, or the seed that the checkpoint names.
    pub previous_crc: U32,
    /// Which shard of the disk.
    pub shard: U16,
    /// Zero.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<BatchHeader>() == 80);

/// Start of a journal record.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct RecordHead {
    /// One of `RECORD_*`.
    pub kind: u8,
    /// Of a write: one of `PATH_*`. Zero otherwise.
    pub path: u8,
    /// Bytes of the record with this head; a multiple of 4.
    pub len: U16,
}
const _: () = assert!(size_of::<RecordHead>() == 4);

/// Blocks were written: a [`BlockRange`], then a CRC32C for each block.
pub const RECORD_WRITE: u8 = 1;
/// A slab was given to a chunk: [`MapRecord`].
pub const RECORD_MAP: u8 = 2;
/// A slab was taken from its chunk: [`MapRecord`].
pub const RECORD_UNMAP: u8 = 3;
/// Blocks hold nothing any more: [`BlockRange`].
pub const RECORD_TRIM: u8 = 4;
/// Blocks answer reads with an error: [`BlockRange`].
pub const RECORD_POISON: u8 = 5;
/// A catalogue entry: [`EntryHead`], key, value, zeroes to a multiple of 4.
pub const RECORD_PUT: u8 = 6;
/// A catalogue entry is gone: [`EntryHead`], key, zeroes to a multiple of 4.
pub const RECORD_DELETE: u8 = 7;

/// The blocks held nothing; data went in place in parallel with the record.
pub const PATH_FRESH: u8 = 1;
/// The data are payload of the batch.
pub const PATH_PAYLOAD: u8 = 2;
/// Data went in place after the record was durable.
pub const PATH_ORDERED: u8 = 3;

/// Blocks of one slab.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct BlockRange {
    /// The slab's number in the shard.
    pub slab: U32,
    /// First block within the slab.
    pub first: U16,
    /// How many blocks.
    pub count: U16,
    /// Version tag for the regions.
    pub tag: U32,
}
const _: () = assert!(size_of::<BlockRange>() == 12);

/// Which slab stands at which place of which chunk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct MapRecord {
    /// The volume.
    pub volume: U64,
    /// The chunk's index in the volume.
    pub chunk: U32,
    /// The slab's index in the chunk.
    pub index: U32,
    /// The slab's number in the shard.
    pub slab: U32,
    /// Generation of the slab's page before: this life's pages have higher ones.
    pub generation: U32,
}
const _: () = assert!(size_of::<MapRecord>() == 24);

/// Start of a catalogue entry.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct EntryHead {
    /// Bytes of the key.
    pub key_len: U16,
    /// Bytes of the value.
    pub value_len: U16,
}
const _: () = assert!(size_of::<EntryHead>() == 4);

/// First block of a checkpoint region, written last: with it the checkpoint counts.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct CheckpointHeader {
    /// Of the rest of the block.
    pub crc: U32,
    /// [`CHECKPOINT_MAGIC`].
    pub magic: U32,
    /// Of the disk.
    pub incarnation: U64,
    /// Rises by one; odd ones are in region 1, even ones in region 0.
    pub sequence: U64,
    /// Content pages that follow.
    pub pages: U64,
    /// Block within the ring at which redo starts.
    pub journal_position: U64,
    /// Sequence of the first batch to redo.
    pub next_sequence: U64,
    /// Number of its first record.
    pub next_lsn: U64,
    /// What its `previous_crc` is.
    pub previous_crc: U32,
    /// Which shard of the disk.
    pub shard: U16,
    /// 1 when the shard was shut down in order.
    pub clean: u8,
    /// Zero.
    pub reserved: u8,
    /// CRC32C over the `crc` fields of the content pages in order.
    pub content_crc: U32,
    /// Zero.
    pub padding: [u8; BLOCK - 68],
}
const _: () = assert!(size_of::<CheckpointHeader>() == BLOCK);

/// Bytes of entries that a content page holds.
pub const CONTENT_BYTES: usize = BLOCK - 32;

/// A page of a checkpoint.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct ContentPage {
    /// Of the rest of the block.
    pub crc: U32,
    /// [`CONTENT_MAGIC`].
    pub magic: U32,
    /// Of the checkpoint.
    pub sequence: U64,
    /// Position of the page in the checkpoint, from 0.
    pub index: U64,
    /// One of `CONTENT_*`.
    pub kind: U16,
    /// Which shard of the disk.
    pub shard: U16,
    /// Bytes of `entries` that count.
    pub used: U32,
    /// Entries one after another; none crosses a page.
    pub entries: [u8; CONTENT_BYTES],
}
const _: () = assert!(size_of::<ContentPage>() == BLOCK);

/// Entries are page generations (u32) of slabs in order.
pub const CONTENT_GENERATIONS: u16 = 1;
/// Entries are [`ChunkEntry`], each followed by a u32 for every bit set in `mapped`.
pub const CONTENT_CHUNKS: u16 = 2;
/// Entries are [`EntryHead`], key, value, zeroes to a multiple of 4.
pub const CONTENT_CATALOGUE: u16 = 3;

/// Entries are numbers (u32) of slabs that nobody has and that the device has not yet been told of:
/// a mount goes on with freeing them.
pub const CONTENT_LEAVING: u16 = 4;

/// A chunk of the map.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub struct ChunkEntry {
    /// The volume.
    pub volume: U64,
    /// The chunk's index in the volume.
    pub chunk: U32,
    /// Zero.
    pub flags: U32,
    /// A bit for each slab index that is mapped.
    pub mapped: [U64; CHUNK_SLABS / 64],
}
const _: () = assert!(size_of::<ChunkEntry>() == 32);
