//! What becomes of requests whose commands have ended, or will not.

use super::super::health::Health;
use super::super::{Completion, Error, Op};
use super::life::State;
use super::options::Trouble;
use super::port::{Flight, Port};
use super::request::{Job, RETRIES_MAX, Request, Stage, Verdict, judge};
use crate::hardware::Registers;
use storage_spec::ahci::SLOTS_MAX;
use storage_spec::ata::{AtaError, AtaStatus, QueuedErrorLog, QueuedErrorTag, SMART_EXCEEDED};
use zerocopy::{FromBytes, IntoBytes};

impl<R: Registers> Port<R> {
    /// What ends without the drive.
    pub(super) fn outcome_at_once(&self, request: &Request) -> Option<Result<(), Error>> {
        if let State::Ended(error) = self.state {
            return Some(Err(error));
        }
        let Job::Op { op, .. } = &request.job else { return None };
        if self.has_failed && !request.is_read() {
            return Some(Err(Error::Failed));
        }
        let facts = self.facts();
        match op {
            Op::Flush if !facts.is_cached(&self.options) => Some(Ok(())),
            Op::Deallocate { .. } if facts.trim_blocks.is_none() => Some(Err(Error::Unsupported)),
            _ => None,
        }
    }

    /// The commands in these slots have succeeded.
    #[inline]
    pub(super) fn succeed(&mut self, slots: u32) {
        let mut rest = slots;
        while rest != 0 {
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let request = self.slots[slot].take().expect("slots in use hold requests");
            self.go_on(request);
        }
        self.flight.slots &= !slots;
        if self.flight.slots == 0 {
            self.flight = Flight::default();
            while let Some(rider) = self.riders.pop() {
                self.go_on(rider);
            }
        }
    }

    /// The present command of a request has succeeded.
    #[inline]
    fn go_on(&mut self, mut request: Request) {
        if matches!(request.job, Job::Health) {
            self.take_in_health(request.stage);
        }
        let facts = self.facts.as_ref().expect("it was asked once it was identified");
        if request.advance(facts, &self.options) {
            return self.finish(request, Ok(()));
        }
        (request.retries, request.is_suspect) = (0, false);
        self.backlog.push_back(request);
    }

    fn take_in_health(&mut self, stage: Stage) {
        if stage == Stage::First {
            let frame = self.memory().register_frame();
            let address = u64::from(frame.lba_low[1]) << 8 | u64::from(frame.lba_low[2]) << 16;
            let health = self.health.get_or_insert_default();
            health.is_failing = address == SMART_EXCEEDED;
        } else {
            let is_failing = self.health.is_some_and(|health| health.is_failing);
            let data = self.memory().scratch();
            let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            if sum == 0 {
                self.health = Some(Health::from_ata(&data, is_failing));
            }
        }
    }

    /// The end of a request, which waits for its submitter then.
    #[inline]
    pub(super) fn finish(&mut self, request: Request, result: Result<(), Error>) {
        self.counters.errors += u64::from(result.is_err());
        let Job::Op { client, tag, op } = request.job else { return };
        let is_read = matches!(op, Op::Read { .. });
        // Deallocation is advice: nothing is lost where it is refused.
        self.has_failed |= matches!(result, Err(Error::Failed | Error::Removed))
            && !is_read
            && !matches!(op, Op::Deallocate { .. });
        let is_void = result.is_ok() && !is_read && self.has_failed;
        let result = if is_void { Err(Error::Failed) } else { result };
        self.client(client).ready.push_back(Completion { tag, op, result });
    }

    /// The drive has failed a command alone in flight, and with it those that rode on it.
    pub(super) fn fail_alone(&mut self, status: AtaStatus, error: AtaError) {
        self.flight = Flight::default();
        for slot in 0..SLOTS_MAX {
            if let Some(request) = self.slots[slot].take() {
                self.fail(request, status, error);
            }
        }
        while let Some(rider) = self.riders.pop() {
            self.fail(rider, status, error);
        }
    }

    /// The drive has failed one of the queued commands, and dropped all others. `log`: what it says
    /// of it, if it does.
    pub(super) fn fail_queued(&mut self, log: Option<[u8; 512]>, was: (AtaStatus, AtaError)) {
        let flight = std::mem::take(&mut self.flight);
        let culprit = log.and_then(|log| culprit(&log, flight.slots));
        if let Some((slot, status, error)) = culprit {
            let request = self.slots[slot].take().expect("slots in use hold requests");
            self.fail(request, status, error);
        } else if flight.slots.count_ones() == 1 {
            // Nothing else can be meant.
            let slot = flight.slots.trailing_zeros() as usize;
            let request = self.slots[slot].take().expect("slots in use hold requests");
            self.fail(request, was.0, was.1);
        }
        for slot in (0..SLOTS_MAX).rev() {
            let Some(mut request) = self.slots[slot].take() else { continue };
            request.is_suspect |= culprit.is_none();
            self.put_back(request);
        }
    }

    fn fail(&mut self, mut request: Request, status: AtaStatus, error: AtaError) {
        if matches!(request.job, Job::Health | Job::Rest) {
            // A drive that has none of it.
            return;
        }
        match judge(&request, status, error) {
            Verdict::Fail(error) => self.finish(request, Err(error)),
            Verdict::Retry => {
                request.retries += 1;
                self.put_back(request);
            }
        }
    }

    /// Takes everything in flight back, for the port has been reset. `pays`: whether that counts as
    /// one try.
    pub(super) fn reclaim(&mut self, pays: bool) {
        self.flight = Flight::default();
        for slot in (0..SLOTS_MAX).rev() {
            if let Some(request) = self.slots[slot].take() {
                self.take_back(request, pays);
            }
        }
        while let Some(rider) = self.riders.pop() {
            self.take_back(rider, pays);
        }
    }

    fn take_back(&mut self, mut request: Request, pays: bool) {
        request.retries += u8::from(pays);
        if request.retries > RETRIES_MAX {
            self.finish(request, Err(Error::Failed));
        } else {
            self.put_back(request);
        }
    }

    fn put_back(&mut self, request: Request) {
        let queue = if request.is_suspect { &mut self.suspects } else { &mut self.backlog };
        queue.push_front(request);
    }

    /// The end of the port: of all requests, and of all that come.
    pub(super) fn end_all(&mut self, error: Error, trouble: Trouble) {
        self.state = State::Ended(error);
        self.trouble = Some(trouble);
        self.flight = Flight::default();
        for slot in 0..SLOTS_MAX {
            if let Some(request) = self.slots[slot].take() {
                self.finish(request, Err(error));
            }
        }
        while let Some(rider) = self.riders.pop() {
            self.finish(rider, Err(error));
        }
        while let Some(request) = self.suspects.pop_front().or_else(|| self.backlog.pop_front()) {
            self.finish(request, Err(error));
        }
    }
}

/// Which of the commands in `slots` has failed, and how, by log 10h. `None` where that makes no
/// sense.
fn culprit(log: &[u8; 512], slots: u32) -> Option<(usize, AtaStatus, AtaError)> {
    let log = QueuedErrorLog::ref_from_bytes(log).ok()?;
    let tag = QueuedErrorTag::from(log.tag);
    let sum = log.as_bytes().iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let is_meant = !tag.not_queued() && !tag.unload() && slots >> tag.tag() & 1 == 1;
    (sum == 0 && is_meant).then(|| (usize::from(tag.tag()), log.status.into(), log.error.into()))
}
