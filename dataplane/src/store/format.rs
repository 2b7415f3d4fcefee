//! Making a disk ours, and reading what a disk says it is.

use super::checkpoint::{Encoder, Header, Mark, Tables, chain_seed};
use super::layout::{Areas, END_BLOCKS, Layout};
use super::port::{Port, block_on};
use super::superblock::{self, Identity, Role};
use super::{FormatError, FormatOptions, Formatted, MountError, Probe};
use crate::disk::{self, Disk};
use crate::dma::Pool;
use storage_spec::disk::BLOCK;
use zerocopy::IntoBytes;

/// Writes superblocks and empty checkpoints. `journal` is the separate journal disk, if any.
///
/// Blocks the caller.
///
/// # Errors
/// See [`FormatError`]; unless it is `Disk`, nothing has been written.
pub fn format(
    data: Box<dyn Disk>,
    journal: Option<Box<dyn Disk>>,
    options: &FormatOptions,
    pool: &Pool,
) -> Result<Formatted, FormatError> {
    let data = Port::new(data, pool);
    let journal = journal.map(|disk| Port::new(disk, pool));
    block_on(async {
        let formatted = format_ports(&data, journal.as_ref(), options).await;
        data.quiesce().await;
        formatted
    })
}

/// Reads the superblocks of a disk. Blocks the caller.
///
/// # Errors
/// [`MountError::NotFormatted`] if it has none of ours; others as the device fails.
pub fn probe(disk: Box<dyn Disk>, pool: &Pool) -> Result<Probe, MountError> {
    let port = Port::new(disk, pool);
    let found = block_on(superblock::read(&port))?;
    Ok(found.describe(&port))
}

async fn format_ports(
    data: &Port<'_>,
    journal: Option<&Port<'_>>,
    options: &FormatOptions,
) -> Result<Formatted, FormatError> {
    let layout = Layout::plan(data.info(), journal.map(Port::info), options)?;
    for port in [Some(data), journal].into_iter().flatten() {
        if !options.force {
            refuse_if_ours(port).await?;
        }
    }
    for port in [Some(data), journal].into_iter().flatten() {
        superblock::erase(port).await?;
    }
    for shard in 0..layout.shards {
        let areas = layout.areas(shard, options.incarnation);
        format_shard(data, journal.unwrap_or(data), &areas).await?;
    }
    let partner = journal.map(|_| options.journal_disk);
    let identity = Identity {
        disk: options.disk,
        partner,
        role: Role::Data,
        incarnation: options.incarnation,
        capacity: data.info().capacity,
        layout: layout.clone(),
    };
    if let Some(journal) = journal {
        let layout = Layout { first_block: END_BLOCKS, ..layout.clone() };
        let identity = Identity {
            disk: options.journal_disk,
            partner: Some(options.disk),
            role: Role::Journal,
            capacity: journal.info().capacity,
            layout,
            ..identity.clone()
        };
        superblock::write(journal, &identity, 1).await?;
    }
    superblock::write(data, &identity, 1).await?;
    let probe = identity.describe([true; 2], identity.capacity);
    Ok(Formatted {
        disk: probe.disk,
        mode: probe.mode,
        shards: probe.shards,
        data_bytes: probe.data_bytes,
        journal_bytes: probe.journal_bytes,
    })
}

async fn refuse_if_ours(port: &Port<'_>) -> Result<(), FormatError> {
    match superblock::read(port).await {
        Ok(found) => Err(FormatError::InUse(found.identity.disk)),
        Err(MountError::Disk(error)) => Err(error.into()),
        Err(_) => Ok(()),
    }
}

async fn format_shard(
    data: &Port<'_>,
    journal: &Port<'_>,
    areas: &Areas,
) -> Result<(), disk::Error> {
    let sequence = 2;
    let start = Mark { position: 0, sequence: 1, lsn: 1, crc: chain_seed(areas, sequence) };
    journal.write_block(areas.journal_offset(0), &[0; BLOCK]).await?;
    journal.flush().await?;
    data.write_block(areas.checkpoint_offset(sequence + 1, 0), &[0; BLOCK]).await?;
    write_checkpoint(data, areas, &Tables::new(areas.slabs), sequence, start, true).await
}

/// Writes a whole checkpoint and makes it durable.
pub(super) async fn write_checkpoint(
    port: &Port<'_>,
    areas: &Areas,
    tables: &Tables,
    sequence: u64,
    start: Mark,
    clean: bool,
) -> Result<(), disk::Error> {
    let mut encoder = Encoder::new(sequence, areas.shard);
    loop {
        let mut block = port.buffer(BLOCK).await;
        if !encoder.next_page(tables, &mut block) {
            break;
        }
        let offset = areas.checkpoint_offset(sequence, encoder.pages);
        port.write_background(offset, block.freeze()).await?;
    }
    port.flush().await?;
    let header =
        Header { sequence, pages: encoder.pages, content_crc: encoder.content_crc, start, clean };
    let offset = areas.checkpoint_offset(sequence, 0);
    port.write_block(offset, header.encode(areas).as_bytes()).await?;
    port.flush().await
}
