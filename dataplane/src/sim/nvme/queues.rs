//! Queues: commands are fetched, executed in some order, and completed, rightly or wrongly.

use super::faults::NvmeFault;
use super::model::Model;
use hashbrown::HashSet;
use std::time::Duration;
use storage_spec::nvme::command::{AdminOpcode, Command, Completion};
use storage_spec::nvme::status::Status;
use zerocopy::{FromBytes, IntoBytes};

/// A submission queue.
pub(super) struct SubmissionQueue {
    base: u64,
    entries: u16,
    head: u16,
    /// As the doorbell said last.
    tail: u16,
    pub(super) completion: u16,
    /// Identifiers in use.
    outstanding: HashSet<u16>,
    /// Doorbell in memory: value, event.
    shadow: Option<(u64, u64)>,
    /// Whether the value in memory is looked at; if not, the host has to ring.
    is_awake: bool,
}

/// A completion queue.
pub(super) struct CompletionQueue {
    base: u64,
    entries: u16,
    head: u16,
    tail: u16,
    phase: bool,
    pub(super) shadow: Option<u64>,
    /// Its interrupt.
    pub(super) vector: Option<u16>,
}

/// A command that has been fetched.
pub(super) struct Work {
    pub(super) queue: u16,
    pub(super) command: Command,
    /// When it may complete.
    due: Duration,
}

impl SubmissionQueue {
    pub(super) fn new(
        base: u64,
        entries: u16,
        completion: u16,
        shadow: Option<(u64, u64)>,
    ) -> Self {
        let outstanding = HashSet::new();
        let (head, tail, is_awake) = (0, 0, false);
        Self { base, entries, head, tail, completion, outstanding, shadow, is_awake }
    }
}

impl CompletionQueue {
    pub(super) fn new(base: u64, entries: u16) -> Self {
        Self { base, entries, head: 0, tail: 0, phase: true, shadow: None, vector: None }
    }
}

impl Model {
    /// A doorbell is written.
    pub(super) fn ring(&mut self, offset: usize, value: u32) {
        self.doorbells += 1;
        if self.is_forgetful {
            return;
        }
        let stride = 4 << self.config.stride;
        let (number, is_completion) = ((offset / stride / 2) as u16, offset / stride % 2 == 1);
        if !offset.is_multiple_of(stride) || !self.is_enabled() {
            return self.violation(format!("doorbell {offset:#x} written"));
        }
        let known = if is_completion {
            self.completion.get_mut(&number).map(|queue| (queue.entries, &mut queue.head))
        } else {
            self.submission.get_mut(&number).map(|queue| {
                queue.is_awake = true;
                (queue.entries, &mut queue.tail)
            })
        };
        match known {
            Some((entries, place)) if value < u32::from(entries) => *place = value as u16,
            _ => self.violation(format!("doorbell of queue {number} set to {value}")),
        }
    }

    /// Fetches what is in the submission queues.
    pub(super) fn fetch_all(&mut self) {
        let numbers: Vec<u16> = self.submission.keys().copied().collect();
        for number in numbers {
            self.fetch(number);
        }
    }

    /// Completes some of what was fetched.
    pub(super) fn complete_some(&mut self) {
        let mut at = 0;
        while at < self.works.len() {
            let is_due = self.works[at].due <= self.now;
            let has_turn = !self.config.is_slow || self.random.chance(50);
            let has_room = self.has_room(self.works[at].queue);
            if !(is_due && has_turn && has_room) {
                at += 1;
                continue;
            }
            let work = if self.config.is_slow {
                self.works.swap_remove(at)
            } else {
                self.works.remove(at)
            };
            self.complete(work);
            if self.is_fatal || !self.is_enabled() {
                return;
            }
        }
    }

    /// Ends a command that was fetched, because of an Abort; whether it was there.
    pub(super) fn abort(&mut self, queue: u16, command_id: u16) -> bool {
        let mut works = self.works.iter();
        let Some(at) = works
            .position(|work| work.queue == queue && work.command.command_id.get() == command_id)
        else {
            return false;
        };
        let work = self.works.swap_remove(at);
        // It may have been executed, in whole.
        if self.random.chance(50) {
            let _ = self.execute(&work);
        }
        self.post(queue, command_id, Status::ABORT_REQUESTED, 0);
        true
    }

    /// Posts a completion.
    pub(super) fn post(&mut self, queue: u16, command_id: u16, status: Status, result: u64) {
        let Some(submission) = self.submission.get_mut(&queue) else { return };
        submission.outstanding.remove(&command_id);
        let mut entry = Completion::new(command_id, status, result, submission.head);
        entry.sq_id.set(queue);
        let completion = submission.completion;
        self.post_entry(completion, entry, false);
        self.completed += 1;
    }

    fn fetch(&mut self, number: u16) {
        let Some(bus) = self.bus.clone() else { return };
        let queue = self.submission.get_mut(&number).expect("it is listed");
        loop {
            let mut tail = queue.tail;
            if let Some((value, _)) = queue.shadow {
                if !queue.is_awake {
                    return;
                }
                let mut bytes = [0; 4];
                let _ = bus.read(value, &mut bytes);
                tail = u32::from_le_bytes(bytes) as u16;
            }
            if tail >= queue.entries {
                return self.violation(format!("queue {number}: position {tail}"));
            }
            if queue.head == tail {
                let Some((value, event)) = queue.shadow else { return };
                // Sleeps, unless something came before the host could know.
                let _ = bus.write(event, &u32::from(tail).to_le_bytes());
                let mut bytes = [0; 4];
                let _ = bus.read(value, &mut bytes);
                queue.is_awake = u32::from_le_bytes(bytes) as u16 != tail;
                return;
            }
            let mut bytes = [0; 64];
            if bus.read(queue.base + u64::from(queue.head) * 64, &mut bytes).is_err() {
                self.is_fatal = true;
                return;
            }
            queue.head = (queue.head + 1) % queue.entries;
            let command = Command::read_from_bytes(&bytes).expect("its size");
            let command_id = command.command_id.get();
            let is_new = queue.outstanding.insert(command_id);
            let is_too_much = queue.outstanding.len() >= usize::from(queue.entries);
            self.works.push(Work { queue: number, command, due: self.now });
            if !is_new || is_too_much {
                return self.violation(format!("queue {number}: command {command_id:#x} again"));
            }
        }
    }

    fn complete(&mut self, work: Work) {
        let is_event = work.queue == 0 && work.command.opcode == AdminOpcode::AsyncEventRequest.0;
        if is_event {
            self.event_requests.push_back(work.command.command_id.get());
            return;
        }
        match self.next_fault(work.queue == 0) {
            None => self.complete_well(&work),
            Some(fault) => self.complete_wrongly(work, fault),
        }
    }

    fn complete_well(&mut self, work: &Work) {
        let (status, result) = self.execute(work);
        self.post(work.queue, work.command.command_id.get(), status, result);
    }

    fn complete_wrongly(&mut self, mut work: Work, fault: NvmeFault) {
        let command_id = work.command.command_id.get();
        let Some(queue) = self.submission.get(&work.queue) else { return };
        let (head, entries, completion) = (queue.head, queue.entries, queue.completion);
        let mut entry = Completion::new(command_id, Status::SUCCESS, 0, head);
        entry.sq_id.set(work.queue);
        match fault {
            NvmeFault::Lost => {
                if self.random.chance(50) {
                    let _ = self.execute(&work);
                }
            }
            NvmeFault::Stuck => {
                work.due = Duration::MAX;
                self.works.push(work);
            }
            NvmeFault::Late => {
                work.due = self.now + Duration::from_secs(3);
                self.works.push(work);
            }
            NvmeFault::WrongCommand => {
                let _ = self.execute(&work);
                let first = self.random.below(16);
                let queue = &self.submission[&work.queue];
                let wrong = (0..16).map(|bit| command_id ^ (1 << ((first + bit) % 16)));
                let mut strange = wrong.filter(|named| !queue.outstanding.contains(named));
                entry.command_id.set(strange.next().unwrap_or(u16::MAX));
                self.post_entry(completion, entry, false);
            }
            NvmeFault::Twice => {
                self.complete_well(&work);
                if self.has_room(work.queue) {
                    self.post_entry(completion, entry, false);
                }
            }
            NvmeFault::WrongPhase => {
                let _ = self.execute(&work);
                self.post_entry(completion, entry, true);
            }
            NvmeFault::WrongQueue => {
                let _ = self.execute(&work);
                entry.sq_id.set(work.queue + 1);
                self.post_entry(completion, entry, false);
            }
            NvmeFault::WrongHead => {
                let _ = self.execute(&work);
                entry.sq_head.set(entries + 5);
                self.post_entry(completion, entry, false);
            }
            NvmeFault::Error(status) => self.post(work.queue, command_id, status, 0),
            NvmeFault::Fatal => self.is_fatal = true,
            NvmeFault::PowerCycle => self.power_cycle(),
        }
    }

    /// Whether a completion finds room.
    fn has_room(&mut self, queue: u16) -> bool {
        let Some(submission) = self.submission.get(&queue) else { return false };
        let (completion, bus) = (submission.completion, self.bus.clone());
        let queue = self.completion.get_mut(&completion).expect("it has one");
        if let (Some(address), Some(bus)) = (queue.shadow, bus) {
            let mut bytes = [0; 4];
            let _ = bus.read(address, &mut bytes);
            queue.head = u32::from_le_bytes(bytes) as u16 % queue.entries;
        }
        let used = (queue.tail + queue.entries - queue.head) % queue.entries;
        used + 1 < queue.entries
    }

    fn post_entry(&mut self, number: u16, mut entry: Completion, is_phase_wrong: bool) {
        let Some(bus) = self.bus.clone() else { return };
        let queue = self.completion.get_mut(&number).expect("a queue's completion queue");
        let phase = u16::from(queue.phase != is_phase_wrong);
        entry.status_and_phase.set(entry.status_and_phase.get() & !1 | phase);
        let address = queue.base + u64::from(queue.tail) * 16;
        let bytes = entry.as_bytes();
        let word = u64::from_le_bytes(bytes[8..].try_into().expect("8 of 16"));
        let written = bus.write(address, &bytes[..8]).and_then(|()| bus.publish(address + 8, word));
        self.is_fatal |= written.is_err();
        queue.tail = (queue.tail + 1) % queue.entries;
        queue.phase ^= queue.tail == 0;
        if let Some(event) = queue.vector.and_then(|vector| self.armed.get(&vector)) {
            self.interrupts += 1;
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    fn execute(&mut self, work: &Work) -> (Status, u64) {
        if work.queue == 0 {
            self.execute_admin(&work.command)
        } else {
            (self.execute_io(&work.command), 0)
        }
    }
}
