//! Taking a checkpoint while requests go on, a bounded step at each poll.
//!
//! ```text
//!  Idle ─► Drain ─► Pages ─► Destage ─► Flush ─► Contents ─► Journal ─► Flush ─► Header ─► Idle
//! ```
//!
//! The start is the end of the last durable batch. Everything before it is in pages and in place,
//! and durable, before the header is written; everything behind it is redone after a crash, in
//! which it does no harm that the contents have some of it already.

use super::cache::{CLEAN, State};
use super::checkpoint::{Encoder, Header, Mark};
use super::device::{Class, What};
use super::shard::Shard;
use crate::disk::WriteData;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Slots looked at, and pages made, in one step.
const STEP: usize = 64;
/// Content pages in flight.
const CONTENTS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// Until every earlier record has had its effect.
    Drain,
    /// Until every page with an earlier effect is durable.
    Pages(usize),
    /// Until all earlier payload is in place.
    Destage,
    /// Until that is durable.
    FlushData,
    /// Until the tables are written.
    Contents,
    /// Until the tables are no longer written; then once more from the start.
    GiveUp,
    /// Until every record that they may contain is durable.
    Journal(u64),
    /// Until they are.
    FlushContents,
    /// Until the header is.
    Header,
}

/// The checkpoint that is being taken, or when the next one will be.
#[derive(Debug)]
pub(super) struct Checkpointing {
    phase: Phase,
    /// Sequence of the newest complete checkpoint.
    sequence: u64,
    /// Where that one starts in the journal.
    covered: u64,
    start: Mark,
    /// As `Journal::durable_named` at the start.
    start_named: u64,
    encoder: Encoder,
    contents: usize,
    /// When the oldest record behind the newest checkpoint was first seen.
    dirty_since: Option<Duration>,
    is_final: bool,
    is_clean: bool,
    /// The last step got on, so that the next one may.
    has_step: bool,
}

impl Checkpointing {
    pub(super) fn new(sequence: u64, covered: u64) -> Self {
        Self {
            phase: Phase::Idle,
            sequence,
            covered,
            start: Mark { position: covered, sequence: 0, lsn: 0, crc: 0 },
            start_named: 0,
            encoder: Encoder::new(0, 0),
            contents: 0,
            dirty_since: None,
            is_final: false,
            is_clean: false,
            has_step: false,
        }
    }

    /// Whether a checkpoint covers everything and the shard is stopping.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// The device failed: there will be no more checkpoints.
    pub(super) fn stop(&mut self) {
        self.phase = Phase::Idle;
    }
}

impl Shard {
    /// Whether the next [`Shard::poll`] has something to do though no I/O ends before.
    #[must_use]
    pub fn has_step(&self) -> bool {
        self.checkpointing.has_step
    }

    /// Does a bounded part of what the checkpoint needs next.
    pub(super) fn step_checkpoint(&mut self) {
        let before = self.checkpointing.phase;
        if !self.is_failed {
            self.run_phase();
        }
        self.checkpointing.has_step = self.checkpointing.phase != before;
    }

    fn run_phase(&mut self) {
        match self.checkpointing.phase {
            Phase::Idle => self.begin_checkpoint_if_due(),
            Phase::Drain => {
                if self.is_past(self.intents.first_pending()) {
                    self.checkpointing.phase = Phase::Pages(0);
                }
            }
            Phase::Pages(next) => self.write_old_pages(next),
            Phase::Destage => {
                if self.is_past(self.destages.first_pending()) {
                    self.checkpointing.phase = Phase::FlushData;
                    self.data.flush();
                }
            }
            Phase::Contents => self.write_contents(),
            Phase::GiveUp => {
                if self.checkpointing.contents == 0 {
                    self.checkpointing.phase = Phase::Idle;
                }
            }
            Phase::Journal(lsn) => {
                if self.journal.durable.lsn >= lsn {
                    self.checkpointing.phase = Phase::FlushContents;
                    self.data.flush();
                }
            }
            Phase::FlushData | Phase::FlushContents | Phase::Header => {}
        }
    }

    fn is_past(&self, pending: Option<u64>) -> bool {
        pending.is_none_or(|lsn| lsn >= self.checkpointing.start.lsn)
    }

    fn begin_checkpoint_if_due(&mut self) {
        let is_dirty = self.journal.durable.position != self.checkpointing.covered;
        let checkpointing = &mut self.checkpointing;
        if !is_dirty {
            checkpointing.dirty_since = None;
            if self.is_stopping && self.requests.len() == 0 && self.journal.is_idle() {
                checkpointing.is_clean = true;
            }
            return;
        }
        let since = *checkpointing.dirty_since.get_or_insert(self.now);
        let is_half_full = self.journal.used() > self.areas.journal_blocks / 2;
        let is_old = self.now.saturating_sub(since) >= self.options.checkpoint_interval;
        let is_final = self.is_stopping && self.requests.len() == 0 && self.journal.is_idle();
        if is_half_full || self.journal.names_many() || is_old || is_final {
            checkpointing.start = self.journal.durable;
            checkpointing.start_named = self.journal.durable_named;
            checkpointing.is_final = is_final;
            checkpointing.phase = Phase::Drain;
        }
    }

    fn write_old_pages(&mut self, mut next: usize) {
        let start = self.checkpointing.start.lsn;
        let end = (next + STEP).min(self.cache.slots.len());
        for slot in next..end {
            let page = &self.cache.slots[slot];
            if page.state == State::Ready && page.first_dirty < start && !page.writing {
                self.write_page(slot as u32);
            }
        }
        while next < end {
            let page = &self.cache.slots[next];
            if page.writing || (page.first_dirty != CLEAN && page.first_dirty < start) {
                break;
            }
            next += 1;
        }
        let is_done = next == self.cache.slots.len();
        self.checkpointing.phase = if is_done { Phase::Destage } else { Phase::Pages(next) };
    }

    /// What the checkpoint waited for is durable.
    pub(super) fn checkpoint_flushed(&mut self) {
        let sequence = self.checkpointing.sequence + 1;
        match self.checkpointing.phase {
            Phase::FlushData => {
                self.checkpointing.encoder = Encoder::new(sequence, self.areas.shard);
                self.checkpointing.phase = Phase::Contents;
            }
            Phase::FlushContents => self.write_header(sequence),
            _ => assert!(self.is_failed, "a flush belongs to a phase"),
        }
    }

    fn write_contents(&mut self) {
        for _ in 0..STEP {
            if self.checkpointing.contents == CONTENTS_MAX {
                return;
            }
            let Some(mut buf) = self.page_buf() else { return };
            let encoder = &mut self.checkpointing.encoder;
            if !encoder.next_page(&self.tables, &mut buf) {
                self.return_page_buf(buf);
                if self.checkpointing.contents == 0 {
                    self.checkpointing.phase = Phase::Journal(self.journal.next_lsn());
                }
                return;
            }
            if encoder.pages >= self.areas.checkpoint_blocks {
                // The tables changed so much meanwhile that their old and new parts do not fit.
                self.return_page_buf(buf);
                self.checkpointing.phase = Phase::GiveUp;
                return;
            }
            let offset = self.areas.checkpoint_offset(encoder.sequence, encoder.pages);
            self.checkpointing.contents += 1;
            self.data.write_one(What::Content, 0, offset, buf.freeze(), Class::Lazy);
        }
    }

    pub(super) fn content_written(&mut self, data: WriteData) {
        self.checkpointing.contents -= 1;
        self.recycle(data);
    }

    fn write_header(&mut self, sequence: u64) {
        let Some(mut buf) = self.page_buf() else {
            // Once more around: the flush costs little, and memory comes back.
            self.data.flush();
            return;
        };
        let checkpointing = &mut self.checkpointing;
        let header = Header {
            sequence,
            pages: checkpointing.encoder.pages,
            content_crc: checkpointing.encoder.content_crc,
            start: checkpointing.start,
            clean: checkpointing.is_final,
        };
        buf.copy_from_slice(header.encode(&self.areas).as_bytes());
        let offset = self.areas.checkpoint_offset(sequence, 0);
        checkpointing.phase = Phase::Header;
        self.data.write_one(What::Header, 0, offset, buf.freeze(), Class::Prompt);
    }

    /// The checkpoint counts: the journal before its start is free.
    pub(super) fn header_written(&mut self) {
        let checkpointing = &mut self.checkpointing;
        if !matches!(checkpointing.phase, Phase::Header) {
            return;
        }
        checkpointing.phase = Phase::Idle;
        checkpointing.sequence += 1;
        checkpointing.covered = checkpointing.start.position;
        checkpointing.dirty_since = None;
        self.journal.start = checkpointing.covered;
        self.journal.start_named = checkpointing.start_named;
        self.counters.checkpoints += 1;
    }
}
