//! From what a crash, or an orderly stop, has left to a shard that takes requests.
//!
//! ```text
//!  superblocks ─► newer intact checkpoint ─► survey of the journal ─► redo ─► new checkpoint ─►
//!  shard
//! ```
//!
//! The journal is empty when the shard starts: what recovery decided about a block need not be
//! decided again from records that later ones would make look certain.

use super::checkpoint::{Decoder, Header, Mark, Tables, chain_seed};
use super::format::write_checkpoint;
use super::layout::Areas;
use super::port::Port;
use super::redo::{Redo, Survey};
use super::request::TRANSFER_MIN;
use super::scan::Ring;
use super::shard::{Recovered, Shard};
use super::superblock::{self, Found, Role};
use super::{Event, MountError, OpenOptions};
use crate::disk::{self, Disk};
use crate::dma::Pool;
use std::rc::Rc;
use storage_spec::disk::BLOCK;

/// Blocks of a checkpoint read at once.
const READ_BLOCKS: u64 = 64;
/// Bytes that a page takes during recovery.
const PAGE_BYTES: usize = 2400;
/// Fewest pages held during recovery.
const PAGES_MIN: usize = 16;

/// Recovers a shard.
pub(super) async fn mount(
    data: Box<dyn Disk>,
    journal: Option<Box<dyn Disk>>,
    shard: u16,
    options: OpenOptions,
    pool: Rc<Pool>,
) -> Result<Shard, MountError> {
    let data = Port::new(data, &pool);
    let journal = journal.map(|disk| Port::new(disk, &pool));
    let recovered = recover(&data, journal.as_ref(), shard, &options).await;
    for port in [Some(&data), journal.as_ref()].into_iter().flatten() {
        port.quiesce().await;
    }
    let recovered = recovered?;
    let data = data.into_disk();
    let journal = journal.map(Port::into_disk);
    Shard::new(data, journal, recovered, options, pool)
}

async fn recover(
    data: &Port<'_>,
    journal: Option<&Port<'_>>,
    shard: u16,
    options: &OpenOptions,
) -> Result<Recovered, MountError> {
    let found = identify(data, journal).await?;
    let identity = &found.identity;
    for port in [Some(data), journal].into_iter().flatten() {
        if port.info().transfer_max < TRANSFER_MIN {
            return Err(MountError::Inconsistent("the device cannot transfer 512 KiB at once"));
        }
        // What the device still has in its cache must not count as durable.
        port.flush().await?;
    }
    if shard >= identity.layout.shards {
        return Err(MountError::NoShard(identity.layout.shards));
    }
    // Shards that mount side by side write the same.
    superblock::heal(data, &found).await?;
    let areas = identity.layout.areas(shard, identity.incarnation);
    let (header, tables) = newest_checkpoint(data, &areas).await?;
    let ring = Ring::new(journal.unwrap_or(data), &areas);
    let survey = Survey::take(&ring, header.start).await?;
    let pages_max = (options.cache_bytes / PAGE_BYTES).max(PAGES_MIN);
    let mut redo = Redo::new(data, &areas, tables, pages_max, false);
    redo.run(&ring, &survey).await?;
    redo.write_pages().await?;
    let mut events: Vec<Event> =
        redo.lost_pages.values().map(|lost| lost.owner.page_error()).collect();
    let page_errors = events.len() as u64;
    let (lost_blocks, tables) = (redo.lost_blocks, redo.tables);
    let (mut checkpoint, mut mark) = (header.sequence, survey.end);
    if survey.batches > 0 || survey.is_torn {
        checkpoint += 1;
        let sequence = survey.end.sequence + 1;
        mark = Mark { sequence, crc: chain_seed(&areas, checkpoint), ..survey.end };
        write_checkpoint(data, &areas, &tables, checkpoint, mark, false).await?;
        events.push(Event::Recovered { batches: survey.batches, lost_blocks });
    }
    let mode = identity.layout.mode;
    Ok(Recovered { areas, mode, tables, checkpoint, mark, page_errors, events })
}

/// What the data disk says it is, provided that the journal disk is the one that belongs to it.
pub(super) async fn identify(
    data: &Port<'_>,
    journal: Option<&Port<'_>>,
) -> Result<Found, MountError> {
    let found = superblock::read(data).await?;
    let identity = &found.identity;
    if identity.role == Role::Journal {
        return Err(MountError::Inconsistent("this is a journal disk; name its data disk first"));
    }
    match (identity.partner, journal) {
        (None, _) => {}
        (Some(partner), None) => return Err(MountError::JournalDisk(partner)),
        (Some(partner), Some(journal)) => {
            let other = superblock::read(journal).await?.identity;
            let is_the_one = other.disk == partner
                && other.role == Role::Journal
                && other.partner == Some(identity.disk)
                && other.incarnation == identity.incarnation;
            if !is_the_one {
                return Err(MountError::JournalDisk(partner));
            }
        }
    }
    Ok(found)
}

/// The newer of the two checkpoints, or the older where the newer is damaged or was never finished.
pub(super) async fn newest_checkpoint(
    port: &Port<'_>,
    areas: &Areas,
) -> Result<(Header, Tables), MountError> {
    let mut headers = Vec::new();
    for region in [0, 1] {
        match port.read(areas.checkpoint_offset(region, 0), BLOCK).await {
            Ok(block) => headers.extend(Header::decode(&block, areas, region)),
            Err(disk::Error::Media) => {}
            Err(error) => return Err(error.into()),
        }
    }
    headers.sort_by_key(|header| std::cmp::Reverse(header.sequence));
    for header in headers {
        if let Some(tables) = read_contents(port, areas, &header).await? {
            return Ok((header, tables));
        }
    }
    Err(MountError::NoCheckpoint)
}

/// A checkpoint's tables, if it is intact.
pub(super) async fn read_contents(
    port: &Port<'_>,
    areas: &Areas,
    header: &Header,
) -> Result<Option<Tables>, disk::Error> {
    let mut decoder = Decoder::new(areas, header.sequence);
    let mut block = 1;
    while block <= header.pages {
        let count = READ_BLOCKS.min(header.pages + 1 - block);
        let offset = areas.checkpoint_offset(header.sequence, block);
        let bytes = match port.read(offset, count as usize * BLOCK).await {
            Ok(bytes) => bytes,
            Err(disk::Error::Media) => return Ok(None),
            Err(error) => return Err(error),
        };
        for page in bytes.chunks_exact(BLOCK) {
            if decoder.take(page).is_none() {
                return Ok(None);
            }
        }
        block += count;
    }
    let is_whole = decoder.is_complete() && decoder.content_crc == header.content_crc;
    Ok(is_whole.then_some(decoder.tables))
}
