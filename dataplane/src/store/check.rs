//! Reads everything that a disk holds and compares it with what is said of it. Writes nothing.

use super::checkpoint::{Header, Tables};
use super::layout::Areas;
use super::map::Owner;
use super::page::{self, Page};
use super::port::{Port, block_on};
use super::recovery::{identify, newest_checkpoint, read_contents};
use super::redo::{Redo, Survey, block_number};
use super::scan::Ring;
use super::superblock::{self, Copy};
use super::{CheckOptions, CheckReport, Finding, MountError, Progress};
use crate::disk::{self, Disk};
use crate::dma::{Buf, Pool};
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

/// Blocks read at once.
const READ_BLOCKS: u16 = 128;
/// Pages kept in memory beside those that the journal has changed.
const PAGES_MAX: usize = 1024;

/// Reads every structure and every block that a chunk holds, and writes nothing. Blocks the caller.
///
/// # Errors
/// [`MountError`] when there is nothing that could be checked: no superblock, or a device that
/// fails. Shards that could not be mounted are findings.
pub fn check(
    data: Box<dyn Disk>,
    journal: Option<Box<dyn Disk>>,
    options: CheckOptions,
    pool: &Pool,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, MountError> {
    let data = Port::new(data, pool);
    let journal = journal.map(|disk| Port::new(disk, pool));
    let mut check = Check {
        data: &data,
        journal: journal.as_ref(),
        options,
        report: CheckReport::default(),
        progress,
        read: Progress { done: 0, total: 0 },
    };
    block_on(check.run())?;
    Ok(check.report)
}

struct Check<'a> {
    data: &'a Port<'a>,
    journal: Option<&'a Port<'a>>,
    options: CheckOptions,
    report: CheckReport,
    progress: &'a mut dyn FnMut(Progress),
    read: Progress,
}

impl Check<'_> {
    async fn run(&mut self) -> Result<(), MountError> {
        for (port, name) in [(Some(self.data), "data"), (self.journal, "journal")] {
            let Some(port) = port else { continue };
            let found = superblock::read(port).await?;
            for (copy, end) in found.copies.into_iter().zip(["start", "end"]) {
                let what = match copy {
                    Copy::Good => continue,
                    Copy::Stale => "is of before the disk grew; `basalt disk grow` completes it",
                    Copy::Damaged => "damaged",
                };
                self.find(None, false, format!("{name} disk: superblock at the {end} {what}"));
            }
        }
        let identity = identify(self.data, self.journal).await?.identity;
        self.report.extensions = identity.layout.extensions.len() as u32;
        for shard in 0..identity.layout.shards {
            let areas = identity.layout.areas(shard, identity.incarnation);
            match self.check_shard(&areas).await {
                Ok(()) => {}
                Err(MountError::Disk(error)) => return Err(error.into()),
                Err(error) => self.find(Some(shard), true, error.to_string()),
            }
        }
        Ok(())
    }

    async fn check_shard(&mut self, areas: &Areas) -> Result<(), MountError> {
        self.check_checkpoints(areas).await?;
        let (header, tables) = newest_checkpoint(self.data, areas).await?;
        let ring = Ring::new(self.journal.unwrap_or(self.data), areas);
        let survey = Survey::take(&ring, header.start).await?;
        self.report.batches += survey.batches;
        let mut redo = Redo::new(self.data, areas, tables, PAGES_MAX, true);
        redo.run(&ring, &survey).await?;
        if redo.lost_blocks > 0 {
            let what = format!("{} blocks are neither old nor new", redo.lost_blocks);
            self.find(Some(areas.shard), true, what);
        }
        let mapped = mapped_slabs(&redo.tables);
        self.read.total += mapped.len() as u64 * (SLAB_BLOCKS * BLOCK) as u64;
        for (slab, owner) in mapped {
            self.report.slabs += 1;
            let page = redo.page(slab).await?.clone();
            let is_waiting = |block| redo.in_journal.contains(&block_number(slab, block));
            if !page.poisoned.is_empty() && !redo.lost_pages.contains_key(&slab) {
                let count = page.poisoned.count();
                let what = format!("{}: {count} blocks known bad", place(owner));
                self.find(Some(areas.shard), true, what);
            }
            self.check_slab(areas, slab, owner, &page, is_waiting).await?;
            self.read.done += (SLAB_BLOCKS * BLOCK) as u64;
            (self.progress)(self.read);
        }
        for lost in redo.lost_pages.into_values() {
            let why = if lost.is_unreadable { "cannot be read" } else { "is damaged or lost" };
            let what = format!("{}: the metadata page {why}", place(lost.owner));
            self.find(Some(areas.shard), true, what);
        }
        Ok(())
    }

    /// A damaged checkpoint is of no harm while the other one is there; it is told all the same.
    async fn check_checkpoints(&mut self, areas: &Areas) -> Result<(), MountError> {
        for region in [0, 1] {
            let block = match self.data.read(areas.checkpoint_offset(region, 0), BLOCK).await {
                Ok(block) => block,
                Err(disk::Error::Media) => {
                    let what = format!("checkpoint {region}: header unreadable");
                    self.find(Some(areas.shard), false, what);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(header) = Header::decode(&block, areas, region) else {
                // The second region is empty until the second checkpoint.
                if block.iter().any(|&byte| byte != 0) {
                    let what = format!("checkpoint {region}: header damaged");
                    self.find(Some(areas.shard), false, what);
                }
                continue;
            };
            if read_contents(self.data, areas, &header).await?.is_none() {
                let what = format!("checkpoint {region}: contents damaged or unfinished");
                self.find(Some(areas.shard), false, what);
            }
        }
        Ok(())
    }

    async fn check_slab(
        &mut self,
        areas: &Areas,
        slab: u32,
        owner: Owner,
        page: &Page,
        is_waiting: impl Fn(u16) -> bool,
    ) -> Result<(), MountError> {
        self.report.blocks += u64::from(page.allocated.count());
        if self.options.metadata_only {
            return Ok(());
        }
        for first in (0..SLAB_BLOCKS as u16).step_by(usize::from(READ_BLOCKS)) {
            if !page.holds(first, READ_BLOCKS) {
                continue;
            }
            let many = self.read_blocks(areas, slab, first, READ_BLOCKS).await?;
            for block in first..first + READ_BLOCKS {
                let Some(crc) = page.crc(block) else { continue };
                if is_waiting(block) {
                    continue;
                }
                let at = usize::from(block - first) * BLOCK;
                let is_good = match &many {
                    Some(bytes) => page::matches(&bytes[at..at + BLOCK], crc),
                    None => {
                        let one = self.read_blocks(areas, slab, block, 1).await?;
                        one.is_some_and(|bytes| page::matches(&bytes, crc))
                    }
                };
                if !is_good {
                    let what = format!("{}, block {block}: checksum differs", place(owner));
                    self.find(Some(areas.shard), true, what);
                }
            }
        }
        Ok(())
    }

    async fn read_blocks(
        &self,
        areas: &Areas,
        slab: u32,
        first: u16,
        count: u16,
    ) -> Result<Option<Buf>, MountError> {
        let offset = areas.data_offset(slab, first);
        match self.data.read(offset, usize::from(count) * BLOCK).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(disk::Error::Media) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn find(&mut self, shard: Option<u16>, data_lost: bool, what: String) {
        self.report.findings_total += 1;
        if self.report.findings.len() < CheckReport::FINDINGS_MAX {
            self.report.findings.push(Finding { shard, what, data_lost });
        }
    }
}

fn mapped_slabs(tables: &Tables) -> Vec<(u32, Owner)> {
    (0..tables.map.slab_count()).filter_map(|slab| Some((slab, tables.map.owner(slab)?))).collect()
}

fn place(owner: Owner) -> String {
    format!("volume {}, chunk {}, slab {}", owner.volume.0, owner.chunk, owner.index)
}
