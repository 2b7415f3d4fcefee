//! One pair of rings in memory, submission and completion, with their doorbells.
//!
//! Knows positions and phases, not what the entries mean.

use super::registers::Doorbell;
use crate::dma::DeviceMemory;
use crate::hardware::Registers;
use std::sync::atomic::{Ordering, fence};
use storage_spec::nvme::command::Command;
use storage_spec::nvme::status::Status;

/// Bytes of a submission queue entry.
pub(super) const SUBMISSION_ENTRY: usize = 64;
/// Bytes of a completion queue entry.
pub(super) const COMPLETION_ENTRY: usize = 16;

/// A pair of rings of `entries` each, of which one less may be outstanding.
pub(super) struct Ring<R> {
    registers: R,
    submission: DeviceMemory,
    completion: DeviceMemory,
    entries: u16,
    tail: Bell,
    head: Bell,
    /// What the phase bit of the next completion will be.
    phase: bool,
}

/// A completion queue entry, as far as every command needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Which command, as the controller says.
    pub(super) command_id: u16,
    /// Which submission queue, as the controller says.
    pub(super) queue: u16,
    /// How far the controller has fetched, as it says.
    pub(super) submission_head: u16,
    pub(super) status: Status,
}

/// A position that the controller is told by a doorbell: here, told, and where to.
struct Bell {
    at: u16,
    told: u16,
    doorbell: Doorbell,
    shadow: Option<Shadow>,
}

/// A doorbell in memory (Doorbell Buffer Config): the position, and up to where the controller
/// wants to be told by register no more.
pub(super) struct Shadow {
    /// 4 bytes that we write.
    pub(super) value: DeviceMemory,
    /// 4 bytes that the controller writes.
    pub(super) event: DeviceMemory,
}

impl<R: Registers> Ring<R> {
    /// Rings over memory that is all zeroes. `doorbells`: submission, completion.
    pub(super) fn new(
        registers: R,
        submission: DeviceMemory,
        completion: DeviceMemory,
        doorbells: (Doorbell, Doorbell),
    ) -> Self {
        let entries = completion.len() / COMPLETION_ENTRY;
        assert_eq!(submission.len() / SUBMISSION_ENTRY, entries);
        let bell = |doorbell| Bell { at: 0, told: 0, doorbell, shadow: None };
        Self {
            registers,
            submission,
            completion,
            entries: u16::try_from(entries).expect("at most 65535 entries"),
            tail: bell(doorbells.0),
            head: bell(doorbells.1),
            phase: true,
        }
    }

    /// Has the positions told by way of memory: of submissions, of completions.
    pub(super) fn set_shadows(&mut self, tail: Shadow, head: Shadow) {
        self.tail.shadow = Some(tail);
        self.head.shadow = Some(head);
    }

    /// Begins anew. The controller must have no access to the queues.
    pub(super) fn restart(&mut self) {
        self.completion.clear();
        for bell in [&mut self.tail, &mut self.head] {
            (bell.at, bell.told) = (0, 0);
            if let Some(shadow) = &bell.shadow {
                shadow.value.store32(0, 0);
                shadow.event.store32(0, 0);
            }
        }
        self.phase = true;
    }

    /// Where the controller finds the queues: submission, completion.
    pub(super) fn addresses(&self) -> (u64, u64) {
        (self.submission.address(0), self.completion.address(0))
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// Puts a command in the ring. The caller keeps less than [`Ring::entries`] outstanding, so
    /// that what is overwritten has been fetched long ago.
    #[inline]
    pub(super) fn push(&mut self, command: Command) {
        let words: [u64; 8] = zerocopy::transmute!(command);
        self.submission.write_words(usize::from(self.tail.at) * SUBMISSION_ENTRY, &words);
        self.tail.advance(self.entries);
    }

    /// Tells the controller of all commands since the last time: one doorbell for a batch.
    #[inline]
    pub(super) fn tell_submissions(&mut self) {
        self.tail.tell(&self.registers, self.entries);
    }

    /// The next completion, if there is one. Its place is given back by
    /// [`Ring::tell_completions`].
    #[inline]
    pub(super) fn next(&mut self) -> Option<Entry> {
        let word = self.completion.load64(usize::from(self.head.at) * COMPLETION_ENTRY + 8);
        if (word >> 48) & 1 != u64::from(self.phase) {
            return None;
        }
        self.head.advance(self.entries);
        self.phase ^= self.head.at == 0;
        Some(Entry {
            submission_head: word as u16,
            queue: (word >> 16) as u16,
            command_id: (word >> 32) as u16,
            status: Status::from((word >> 49) as u16),
        })
    }

    /// Whether a completion waits, or a command of which the controller has not been told.
    pub(super) fn has_work(&self) -> bool {
        let word = self.completion.load64(usize::from(self.head.at) * COMPLETION_ENTRY + 8);
        (word >> 48) & 1 == u64::from(self.phase) || self.tail.at != self.tail.told
    }

    /// Dword 0 of the completion that [`Ring::next`] gave last.
    pub(super) fn result(&self) -> u32 {
        let last = if self.head.at == 0 { self.entries - 1 } else { self.head.at - 1 };
        self.completion.load32(usize::from(last) * COMPLETION_ENTRY)
    }

    /// Gives the places of completions back: one doorbell for a batch.
    #[inline]
    pub(super) fn tell_completions(&mut self) {
        self.head.tell(&self.registers, self.entries);
    }
}

impl Bell {
    #[inline]
    fn advance(&mut self, entries: u16) {
        self.at += 1;
        if self.at == entries {
            self.at = 0;
        }
    }

    #[inline]
    fn tell<R: Registers>(&mut self, registers: &R, entries: u16) {
        if self.at == self.told {
            return;
        }
        if self.shadow.as_ref().is_none_or(|shadow| shadow.must_ring(self.told, self.at, entries)) {
            self.doorbell.ring(registers, self.at);
        }
        self.told = self.at;
    }
}

impl Shadow {
    /// Publishes the position; whether the controller has to be told by register too, because it
    /// has stopped to look (base specification, annex B.5).
    fn must_ring(&self, old: u16, new: u16, entries: u16) -> bool {
        self.value.store32(0, u32::from(new));
        // The store above, then the load below: the controller does the reverse.
        fence(Ordering::SeqCst);
        let event = self.event.load32(0) as u16;
        let distance = |from: u16, to: u16| {
            let (from, to) = (u32::from(from), u32::from(to));
            (to + u32::from(entries) - from) % u32::from(entries)
        };
        // A position that the controller cannot mean: ring, that is always right.
        event >= entries || distance(old, event) < distance(old, new)
    }
}
