//! Taking into use what a disk has gained since it was formatted, or grew last.
//!
//! ```text
//!  checkpoints in the new areas ─► superblock at the new end ─► superblock at the start ─►
//!  superblock at the former end erased
//! ```
//!
//! Nothing of what the disk was before is written over until the superblock at the new end is
//! durable: cut short before, the disk is as it was; after, it has grown, and a mount or another
//! growth does what is left. The journal is not touched: what it says goes on from the copies of
//! the newest checkpoint in the new areas as from the checkpoint itself.

use super::checkpoint::Header;
use super::format::write_checkpoint;
use super::layout::{Areas, Layout};
use super::port::{Port, block_on};
use super::recovery::newest_checkpoint;
use super::superblock::{self, Found, Identity, Role};
use super::{GrowError, Grown, MountError};
use crate::disk::{self, Disk};
use crate::dma::Pool;
use std::ops::Range;
use storage_spec::disk::BLOCK;

/// Takes the rest of a device into use that is larger than its disk was, whether or not the disk
/// was stopped in order. A journal disk is not needed. No shard of the disk may be mounted.
///
/// `reserve` is given the ranges of bytes that will hold metadata, before any of them is written:
/// a file gets its space there, so that a file system that fills up fails first writes alone.
///
/// Where there is nothing to take, a growth that was cut short is completed. Blocks the caller.
///
/// # Errors
/// See [`GrowError`]; the disk is what it was, unless the device failed at the very end.
pub fn grow(
    disk: Box<dyn Disk>,
    pool: &Pool,
    reserve: &mut dyn FnMut(Range<u64>) -> Result<(), disk::Error>,
) -> Result<Grown, GrowError> {
    let port = Port::new(disk, pool);
    block_on(async {
        let grown = grow_port(&port, reserve).await;
        port.quiesce().await;
        grown
    })
}

async fn grow_port(
    port: &Port<'_>,
    reserve: &mut dyn FnMut(Range<u64>) -> Result<(), disk::Error>,
) -> Result<Grown, GrowError> {
    let found = superblock::read(port).await?;
    if found.identity.role == Role::Journal {
        return Err(MountError::Inconsistent("a journal disk does not grow").into());
    }
    // What the device still has in its cache must not count as durable.
    port.flush().await?;
    let before = found.describe(port).data_bytes;
    let capacity = port.info().capacity;
    let is_larger = capacity / BLOCK as u64 > found.identity.capacity / BLOCK as u64;
    let found = if is_larger { extend(port, found, capacity, reserve).await? } else { found };
    superblock::heal(port, &found).await?;
    superblock::erase_former(port, &found.identity).await?;
    let now = found.describe(port);
    Ok(Grown {
        disk: now.disk,
        added_bytes: now.data_bytes - before,
        data_bytes: now.data_bytes,
        extensions: now.extensions,
    })
}

/// Makes the disk larger, up to both superblocks.
async fn extend(
    port: &Port<'_>,
    found: Found,
    capacity: u64,
    reserve: &mut dyn FnMut(Range<u64>) -> Result<(), disk::Error>,
) -> Result<Found, GrowError> {
    let Found { identity, generation, .. } = &found;
    let layout = identity.layout.extend(identity.capacity, capacity)?;
    for shard in 0..layout.shards {
        reserve(metadata(&layout.areas(shard, identity.incarnation)))?;
    }
    // Its place must be found again should this growth be cut short, and another one go further.
    superblock::heal(port, &found).await?;
    for shard in 0..layout.shards {
        let [old, new] = [&identity.layout, &layout]
            .map(|layout: &Layout| layout.areas(shard, identity.incarnation));
        copy_checkpoint(port, &old, &new).await?;
    }
    let grown = Found {
        identity: Identity { capacity, layout, ..identity.clone() },
        generation: generation + 1,
        copies: found.copies,
    };
    superblock::write(port, &grown.identity, grown.generation).await?;
    Ok(Found { copies: [superblock::Copy::Good; 2], ..grown })
}

/// The bytes of the newest segment's checkpoints and pages.
fn metadata(areas: &Areas) -> Range<u64> {
    let data = areas.segments().last().expect("the disk has been extended").data;
    areas.checkpoints[0] * BLOCK as u64..data * BLOCK as u64
}

/// Writes the newest checkpoint of a shard to its new areas, twice, with the new slabs in it.
async fn copy_checkpoint(port: &Port<'_>, old: &Areas, new: &Areas) -> Result<(), GrowError> {
    let (header, mut tables) = newest_checkpoint(port, old).await?;
    if tables.catalogue.bytes() > new.catalogue_bytes {
        return Err(MountError::Inconsistent("the catalogue is larger than its room").into());
    }
    tables.map.grow(new.slabs);
    for region in [0, 1] {
        // Remains of a growth that was cut short are none of this one.
        port.write_block(new.checkpoint_offset(region, 0), &[0; BLOCK]).await?;
    }
    port.flush().await?;
    let Header { sequence, start, clean, .. } = header;
    for sequence in [sequence, sequence + 1] {
        write_checkpoint(port, new, &tables, sequence, start, clean).await?;
    }
    Ok(())
}
