//! Bodies of the store's fuzz tests: a disk's bytes, with checksums that match, so that what they
//! guard is reached too.

use super::checkpoint::{Decoder, Header, Mark, chain_seed};
use super::layout::{Areas, Layout};
use super::port::{Port, block_on};
use super::superblock::Identity;
use super::{CheckOptions, FormatOptions, Mode, MountError, OpenOptions, Shard, check, format};
use crate::disk::Disk;
use crate::dma::{Arena, Pool};
use crate::sim::{SimDiskConfig, SimMedia};
use std::mem::ManuallyDrop;
use std::rc::Rc;
use storage_spec::crc32c;
use storage_spec::disk::{
    self as spec, BLOCK, BatchHeader, CONTENT_BYTES, CheckpointHeader, ContentPage, Sealed,
    Superblock,
};
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Bytes of records in one run: a chunk far out in its volume takes some memory.
const RECORDS_MAX: usize = 1024;
const CAPACITY: u64 = 20 << 20;
/// Largest disk that one is let grow to.
const CAPACITY_MAX: u64 = 1 << 59;

thread_local! {
    /// Not dropped with its thread: arenas are for ever, and without it the leak sanitizer would
    /// find this one lost.
    static POOL: ManuallyDrop<Rc<Pool>> =
        ManuallyDrop::new(Rc::new(Arena::new(16 << 20, 1).expect("memory").pool(0)));
}

/// A superblock: refused, or every place that follows from it is on the disk.
pub fn superblock(bytes: &[u8]) {
    let mut block = [0; BLOCK];
    let len = bytes.len().min(BLOCK);
    block[..len].copy_from_slice(&bytes[..len]);
    let mut block = Superblock::read_from_bytes(&block).expect("a block");
    block.magic = spec::SUPERBLOCK_MAGIC;
    block.seal();
    let Ok(identity) = Identity::decode(&block) else { return };
    for capacity in [identity.capacity, identity.capacity.saturating_mul(2), u64::MAX] {
        let _ = identity.describe([true, true], capacity);
    }
    if block.role != 0 {
        return;
    }
    let layout = &identity.layout;
    places_are_sane(layout, &identity);
    // What it grows to is as sane.
    let twice = identity.capacity.saturating_mul(2).min(CAPACITY_MAX);
    if twice / BLOCK as u64 > identity.capacity / BLOCK as u64
        && let Ok(grown) = layout.extend(identity.capacity, twice)
    {
        assert!(grown.is_sane(twice));
        places_are_sane(&grown, &Identity { capacity: twice, ..identity.clone() });
    }
}

/// Every segment is behind the one before, and the last one on the disk.
fn places_are_sane(layout: &Layout, identity: &Identity) {
    for shard in [0, layout.shards - 1] {
        let areas = layout.areas(shard, identity.incarnation);
        assert!(areas.journal_offset(areas.journal_blocks - 1) > 0);
        let mut end = BLOCK as u64;
        for segment in 0..areas.segments().len() {
            let slabs = areas.slabs_of(segment);
            assert!(!slabs.is_empty());
            let (first, last) = (slabs.start, slabs.end - 1);
            assert!(areas.page_offset(first, 0) >= end);
            assert!(areas.page_offset(last, 1) < areas.data_offset(first, 0));
            end = areas.data_offset(last, 511) + BLOCK as u64;
        }
        assert!(end < identity.capacity);
        let last = areas.slabs_of(areas.segments().len() - 1);
        let checkpoints = areas.checkpoint_offset(1, areas.checkpoint_blocks - 1);
        assert!(checkpoints < areas.page_offset(last.start, 0));
    }
}

/// Batches: length of the records, payload and completeness, count, records. The disk is mounted or
/// refused, and once mounted can be mounted again; a check ends.
pub fn journal(bytes: &[u8]) {
    let pool = POOL.with(|pool| Rc::clone(pool));
    let config = SimDiskConfig { is_slow: false, ..SimDiskConfig::new(CAPACITY) };
    let media = SimMedia::new(&config, 1);
    let options = options();
    format(Box::new(media.open()), None, &options, &pool).expect("a good disk");
    let areas = areas(&media.open());
    let port = Port::new(Box::new(media.open()), &pool);
    block_on(write_batches(&port, &areas, &bytes[..bytes.len().min(RECORDS_MAX)]));
    let check = check(Box::new(media.open()), None, CheckOptions::default(), &pool, &mut |_| {});
    check.expect("a device without faults");
    let mount = || {
        let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
        Shard::mount(Box::new(media.open()), None, 0, &options, Rc::clone(&pool)).wait()
    };
    match mount() {
        Ok(_) => drop(mount().expect("mounted once, the journal is empty")),
        Err(error) => assert!(!matches!(error, MountError::Disk(_) | MountError::Memory)),
    }
}

/// A checkpoint's header, or its pages: kind, count of bytes, entries.
pub fn checkpoint(bytes: &[u8]) {
    let media = SimMedia::new(&SimDiskConfig::new(CAPACITY), 1);
    let areas = areas(&media.open());
    let mut block = [0; BLOCK];
    let len = bytes.len().min(BLOCK);
    block[..len].copy_from_slice(&bytes[..len]);
    let mut header = CheckpointHeader::read_from_bytes(&block).expect("a block");
    header.magic = spec::CHECKPOINT_MAGIC;
    header.incarnation = areas.incarnation.into();
    header.seal();
    if let Some(header) = Header::decode(header.as_bytes(), &areas, 0) {
        assert!(header.pages < areas.checkpoint_blocks);
    }
    let mut decoder = Decoder::new(&areas, 2);
    let mut rest = &bytes[..bytes.len().min(RECORDS_MAX)];
    for index in 0u64.. {
        let Some((&[kind, len], more)) = rest.split_first_chunk::<2>() else { break };
        let (entries, more) = more.split_at(usize::from(len).min(more.len()));
        rest = more;
        let mut page = ContentPage::new_zeroed();
        page.magic = spec::CONTENT_MAGIC;
        page.sequence = 2.into();
        page.index = index.into();
        page.kind = u16::from(kind).into();
        page.shard = areas.shard.into();
        page.used = (entries.len() as u32).into();
        page.entries[..entries.len()].copy_from_slice(entries);
        page.seal();
        if decoder.take(page.as_bytes()).is_none() {
            return;
        }
    }
    assert!(decoder.tables.map.slab_count() == areas.slabs);
    let _ = (decoder.is_complete(), decoder.tables.map.free_the_rest());
    const { assert!(u8::MAX as usize <= CONTENT_BYTES) }
}

fn options() -> FormatOptions {
    let mut options = FormatOptions::new(Uuid::from_u128(0xF), 0xF022);
    options.mode = Some(Mode::Intent);
    options.journal_bytes = 64 * BLOCK as u64;
    options.catalogue_bytes = 16 << 10;
    options
}

fn areas(disk: &dyn Disk) -> Areas {
    let options = options();
    let layout = Layout::plan(disk.info(), None, &options).expect("a disk large enough");
    layout.areas(0, options.incarnation)
}

/// Lays the batches one behind the other, as the journal does, each payload block all zeroes.
async fn write_batches(port: &Port<'_>, areas: &Areas, mut rest: &[u8]) {
    let headers = super::recovery::newest_checkpoint(port, areas).await;
    let (header, _) = headers.expect("the format made it");
    let mut mark: Mark = header.start;
    assert!(mark.crc == chain_seed(areas, header.sequence));
    while let Some((&[len, flags, count], more)) = rest.split_first_chunk::<3>() {
        let (records, more) = more.split_at(usize::from(len).min(more.len()));
        rest = more;
        let payload = u32::from(flags & 0x0F);
        let is_complete = flags & 0x80 != 0;
        let last = mark.lsn + u64::from(count);
        let mut head = BatchHeader::new_zeroed();
        head.magic = spec::BATCH_MAGIC;
        head.incarnation = areas.incarnation.into();
        head.sequence = mark.sequence.into();
        head.position = (mark.position % areas.journal_blocks).into();
        head.first_lsn = mark.lsn.into();
        head.completed_lsn = if is_complete { last } else { mark.lsn - 1 }.into();
        head.records = u32::from(count).into();
        head.record_bytes = (records.len() as u32).into();
        head.payload_blocks = payload.into();
        head.previous_crc = mark.crc.into();
        head.shard = areas.shard.into();
        let mut block = [0; BLOCK];
        let len = size_of::<BatchHeader>() + records.len();
        block[..size_of::<BatchHeader>()].copy_from_slice(head.as_bytes());
        block[size_of::<BatchHeader>()..len].copy_from_slice(records);
        let crc = crc32c::checksum(&block[4..len]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        let offset = areas.journal_offset(mark.position);
        port.write_block(offset, &block).await.expect("a good disk");
        let position = mark.position + 1 + u64::from(payload);
        if position >= areas.journal_blocks {
            break;
        }
        mark = Mark { position, sequence: mark.sequence + 1, lsn: last, crc };
    }
    port.flush().await.expect("a good disk");
}
