//! One I/O queue pair on its core: the requests in flight, those that wait, and those that ended.

use super::super::{Completion, Error, Op, Tag};
use super::link::{Link, Phase, PhaseWord, Plea, Reason};
use super::options::NvmeOptions;
use super::pointers::Pointers;
use super::request::{RETRIES_MAX, Request, Stage, Target, Verdict, judge};
use super::ring::{Entry, Ring};
use super::slots::Slots;
use crate::dma::DeviceMemory;
use crate::hardware::{CoreTime, Registers};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use storage_spec::nvme::status::Status;

/// Most completions that are taken in one poll.
const REAP_MAX: usize = 256;
/// Rest before a command is tried again, where the controller names none.
const RETRY_REST: Duration = Duration::from_millis(10);

/// A queue pair, with everything that its commands need.
pub(super) struct Queue<R: Registers> {
    parts: QueueParts<R>,
    link: Arc<Link>,
    place: usize,
    word: PhaseWord,
    /// Whether commands may be started and completions taken.
    is_up: bool,
    slots: Slots<Request>,
    /// Requests that wait for a slot, or for the controller.
    backlog: VecDeque<Request>,
    /// Requests that rest until a time.
    resting: Vec<(Duration, Request)>,
    clients: Vec<Option<Client>>,
    time: CoreTime,
    next_check: Duration,
    counters: QueueCounters,
}

/// What a queue is made of, and by the controller before the cores start.
pub(super) struct QueueParts<R> {
    pub(super) ring: Ring<R>,
    pub(super) pointers: Pointers,
    /// What commands on formats with metadata carry, and how much of it each slot has.
    pub(super) metadata: Option<(DeviceMemory, usize)>,
    pub(super) options: NvmeOptions,
    /// CRDT1 to CRDT3.
    pub(super) retry_delays: [Duration; 3],
}

/// One user of the queue: a disk handle.
struct Client {
    target: Target,
    /// Ended, not yet reported.
    ready: VecDeque<Completion>,
    in_flight: usize,
}

/// What a queue counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Commands that were started.
    pub commands: u64,
    /// Commands that were started again.
    pub retries: u64,
    /// Commands that ended with an error that was reported.
    pub errors: u64,
    /// Commands that had to be aborted.
    pub timeouts: u64,
    /// Completions that made no sense.
    pub nonsense: u64,
}

impl<R: Registers> Queue<R> {
    /// `used_in`: the phase in which the rings were used last, if they were.
    pub(super) fn new(
        parts: QueueParts<R>,
        link: Arc<Link>,
        (place, used_in): (usize, Option<PhaseWord>),
        time: CoreTime,
    ) -> Self {
        let depth = usize::from(parts.ring.entries()) - 1;
        let mut queue = Self {
            parts,
            link,
            place,
            word: PhaseWord::FIRST,
            is_up: false,
            slots: Slots::new(depth),
            backlog: VecDeque::with_capacity(depth),
            resting: Vec::with_capacity(depth),
            clients: Vec::new(),
            time,
            next_check: Duration::ZERO,
            counters: QueueCounters::default(),
        };
        let word = queue.link.word();
        // Nothing is in the rings: what `Clear` asks for is so. The controller that has been reset
        // meanwhile begins at their start.
        if used_in.is_some_and(|used_in| used_in != word) {
            queue.parts.ring.restart();
        }
        queue.word = word;
        queue.is_up = word.phase() == Phase::Running;
        queue.link.answer(queue.place, word);
        queue
    }

    pub(super) fn depth(&self) -> usize {
        usize::from(self.parts.ring.entries()) - 1
    }

    pub(super) fn counters(&self) -> QueueCounters {
        self.counters
    }

    pub(super) fn add_client(&mut self, target: Target) -> u16 {
        let client = Client { target, ready: VecDeque::with_capacity(self.depth()), in_flight: 0 };
        self.backlog.reserve(self.depth());
        let place = self.clients.iter().position(Option::is_none).unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        self.clients[place] = Some(client);
        u16::try_from(place).expect("no more than 65535 handles")
    }

    /// The handle is dropped. A caller that keeps the contract has nothing in flight; what is
    /// nevertheless ends unreported.
    pub(super) fn remove_client(&mut self, client: u16) {
        let slot = &mut self.clients[usize::from(client)];
        if slot.as_ref().is_some_and(|client| client.in_flight == 0) {
            *slot = None;
        }
    }

    /// Whether nothing is in flight, or rests, or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.backlog.is_empty() && self.resting.is_empty()
    }

    /// The queue is on no core for now: what it is made of, and the phase that its rings are in.
    pub(super) fn detach(self) -> (QueueParts<R>, Arc<Link>, usize, PhaseWord) {
        self.link.detach(self.place);
        (self.parts, self.link, self.place, self.word)
    }

    /// Ends the queue.
    pub(super) fn close(self) {
        let Self { parts, slots, link, place, .. } = self;
        link.leave(place, Box::new(parts), Box::new(slots));
    }

    pub(super) fn in_flight_total(&self) -> usize {
        self.clients.iter().flatten().map(|client| client.in_flight).sum()
    }

    pub(super) fn in_flight(&self, client: u16) -> usize {
        self.client(client).in_flight
    }

    /// Whether a poll would do something now. What else happens wakes the core: by an interrupt of
    /// the controller, or by the link.
    pub(super) fn has_work(&self) -> bool {
        self.link.word() != self.word
            || (self.is_up && self.parts.ring.has_work())
            || self.clients.iter().flatten().any(|client| !client.ready.is_empty())
    }

    #[inline]
    pub(super) fn submit(&mut self, client: u16, tag: Tag, op: Op, stage: Stage) {
        let depth = self.depth();
        let in_flight = &mut self.client_mut(client).in_flight;
        assert!(*in_flight < depth, "no more than the queue is deep");
        *in_flight += 1;
        let request = Request::new(client, tag, op, stage);
        if let Some(result) = self.outcome_at_once(&request) {
            return self.finish(request, result, None);
        }
        if self.is_up && self.backlog.is_empty() {
            if let Err(request) = self.start(request) {
                self.backlog.push_back(request);
            }
        } else {
            self.backlog.push_back(request);
        }
    }

    /// Advances everything; what has ended for `client` is appended to `done`.
    #[inline]
    pub(super) fn poll(&mut self, client: u16, done: &mut Vec<Completion>) {
        let word = self.link.word();
        if word != self.word {
            self.take_over(word);
        }
        if self.is_up {
            self.parts.ring.tell_submissions();
            self.reap(client, done);
            if !self.backlog.is_empty() || !self.resting.is_empty() {
                self.start_waiting();
            }
            let now = self.time.now();
            if now >= self.next_check {
                self.check_times(now);
            }
        }
        let ready = &mut self.client_mut(client).ready;
        if !ready.is_empty() {
            let room = (done.capacity() - done.len()).min(ready.len());
            done.extend(ready.drain(..room));
            self.client_mut(client).in_flight -= room;
        }
    }

    /// What ends without the controller.
    fn outcome_at_once(&self, request: &Request) -> Option<Result<(), Error>> {
        let target = &self.client(request.client).target;
        let facts = target.namespace.facts();
        match self.word.phase() {
            Phase::Removed => return Some(Err(Error::Removed)),
            Phase::Failed => return Some(Err(Error::Failed)),
            _ => {}
        }
        if target.namespace.is_gone() {
            return Some(Err(Error::Removed));
        }
        if target.namespace.has_failed() && !request.is_read() {
            return Some(Err(Error::Failed));
        }
        match request.op {
            Op::Flush if !facts.volatile_cache => Some(Ok(())),
            Op::WriteZeroes { .. } if facts.zeroes_max.is_none() => Some(Err(Error::Unsupported)),
            _ if request.stage == Stage::Compare && !facts.compare => Some(Err(Error::Unsupported)),
            Op::Deallocate { .. } if facts.deallocate_max.is_none() => {
                Some(Err(Error::Unsupported))
            }
            _ => None,
        }
    }

    /// Puts the request's next command in the ring; gives it back where there is no room.
    #[inline]
    fn start(&mut self, mut request: Request) -> Result<(), Request> {
        let Some((slot, command_id)) = self.slots.take() else { return Err(request) };
        let client = self.clients[usize::from(request.client)].as_ref().expect("it has requests");
        let pointers = &mut self.parts.pointers;
        let Some(mut command) = request.command(&client.target, slot, command_id, pointers) else {
            self.slots.put_back(slot);
            return Err(request);
        };
        let carries = client.target.namespace.facts().metadata.carried > 0
            && matches!(request.op, Op::Read { .. } | Op::Write { .. })
            && request.stage != Stage::Flush;
        if let (true, Some((memory, len))) = (carries, &self.parts.metadata) {
            command.metadata.set(memory.address(usize::from(slot) * len));
        }
        request.since = self.time.now();
        self.slots.fill(slot, request);
        self.parts.ring.push(command);
        self.counters.commands += 1;
        Ok(())
    }

    #[inline]
    fn reap(&mut self, client: u16, done: &mut Vec<Completion>) {
        for _ in 0..REAP_MAX {
            if done.len() == done.capacity() {
                break;
            }
            let Some(entry) = self.parts.ring.next() else { break };
            let Some(request) = self.take_in(entry) else { return };
            self.settle(request, entry.status, Some((client, &mut *done)));
        }
        self.parts.ring.tell_completions();
    }

    /// The request that a completion is for. A controller that names none, or another queue, may
    /// have done anything: it is stopped, and everything in flight is tried again after a reset.
    #[inline]
    fn take_in(&mut self, entry: Entry) -> Option<Request> {
        let reason = if usize::from(entry.queue) != self.place + 1 {
            Reason::WrongQueue
        } else if entry.submission_head >= self.parts.ring.entries() {
            Reason::WrongHead
        } else if let Some((slot, request)) = self.slots.end(entry.command_id) {
            self.parts.pointers.release(slot);
            return Some(request);
        } else {
            Reason::UnknownCommand
        };
        self.counters.nonsense += 1;
        self.plead_reset(reason);
        None
    }

    /// A command has ended: so has its request, or it goes on, or is tried again.
    #[inline]
    fn settle(
        &mut self,
        mut request: Request,
        status: Status,
        done: Option<(u16, &mut Vec<Completion>)>,
    ) {
        if status.is_success() {
            let client = self.clients[usize::from(request.client)].as_ref();
            if request.advance(&client.expect("it has requests").target) {
                return self.finish(request, Ok(()), done);
            }
            (request.is_aborted, request.retries) = (false, 0);
            return self.backlog.push_back(request);
        }
        match judge(&request, status) {
            Verdict::Fail(error) => {
                self.counters.errors += 1;
                self.finish(request, Err(error), done);
            }
            Verdict::Retry(delay) => {
                let rest = match delay {
                    0 => RETRY_REST,
                    delay => self.parts.retry_delays[usize::from(delay) - 1].max(RETRY_REST),
                };
                self.retry(request, Some(self.time.now() + rest));
            }
        }
    }

    fn retry(&mut self, mut request: Request, not_before: Option<Duration>) {
        request.retries += 1;
        request.is_aborted = false;
        self.counters.retries += 1;
        match not_before {
            Some(at) => self.resting.push((at, request)),
            None => self.backlog.push_back(request),
        }
    }

    /// The end of a request: to `done` if that is its client's and has room.
    #[inline]
    fn finish(
        &mut self,
        request: Request,
        result: Result<(), Error>,
        done: Option<(u16, &mut Vec<Completion>)>,
    ) {
        let is_read = request.is_read();
        let Request { client: number, tag, op, .. } = request;
        let client = self.clients[usize::from(number)].as_mut().expect("it has requests");
        let namespace = &client.target.namespace;
        // Deallocation is advice: nothing is lost where it is refused.
        let is_harm = matches!(result, Err(Error::Failed | Error::Removed))
            && !is_read
            && !matches!(op, Op::Deallocate { .. });
        if is_harm {
            namespace.set_failed();
        }
        // A flush that failed on one core may have lost what another wrote.
        let is_void = result.is_ok() && !is_read && namespace.has_failed();
        let result = if is_void { Err(Error::Failed) } else { result };
        let completion = Completion { tag, op, result };
        match done {
            Some((of, done)) if of == number && done.len() < done.capacity() => {
                client.in_flight -= 1;
                done.push(completion);
            }
            _ => client.ready.push_back(completion),
        }
    }

    fn start_waiting(&mut self) {
        let now = self.time.now();
        while let Some(at) = self.resting.iter().position(|(at, _)| *at <= now) {
            let (_, request) = self.resting.swap_remove(at);
            self.backlog.push_back(request);
        }
        while self.slots.has_room() {
            let Some(request) = self.backlog.pop_front() else { break };
            if let Some(result) = self.outcome_at_once(&request) {
                self.finish(request, result, None);
            } else if let Err(request) = self.start(request) {
                self.backlog.push_front(request);
                break;
            }
        }
        self.parts.ring.tell_submissions();
    }

    /// Has the oldest command aborted that takes too long, and the controller reset if that does
    /// not end it.
    fn check_times(&mut self, now: Duration) {
        let NvmeOptions { timeout, patience, .. } = self.parts.options;
        self.next_check = now + timeout.min(patience) / 4;
        let mut oldest: Option<(Duration, u16)> = None;
        let mut is_hopeless = false;
        for (command_id, request) in self.slots.iter_mut() {
            let age = now.saturating_sub(request.since);
            is_hopeless |= request.is_aborted && age >= timeout + patience;
            let is_late = age >= timeout && !request.is_aborted;
            if is_late && oldest.is_none_or(|(since, _)| request.since < since) {
                oldest = Some((request.since, command_id));
            }
        }
        if is_hopeless {
            return self.plead_reset(Reason::Timeout);
        }
        let Some((_, command_id)) = oldest else { return };
        self.counters.timeouts += 1;
        for (id, request) in self.slots.iter_mut() {
            if id == command_id {
                request.is_aborted = true;
                // Patience begins now: others may have been aborted before this one.
                request.since = now - timeout;
            }
        }
        self.link.plead(self.place, Plea::Abort(command_id));
    }

    /// Touches nothing any more until the controller has been reset.
    fn plead_reset(&mut self, reason: Reason) {
        self.is_up = false;
        self.link.plead(self.place, Plea::Reset(reason));
    }

    fn take_over(&mut self, word: PhaseWord) {
        self.word = word;
        self.is_up = word.phase() == Phase::Running;
        match word.phase() {
            Phase::Running | Phase::Stop => {}
            Phase::Clear => self.take_back(),
            Phase::Failed => self.end_all(Error::Failed),
            Phase::Removed => self.end_all(Error::Removed),
        }
        self.link.answer(self.place, word);
    }

    /// The controller has no access any more: every command is tried again, or has been too often.
    fn take_back(&mut self) {
        self.parts.ring.restart();
        self.parts.pointers.release_all();
        let mut taken: Vec<Request> = self.slots.drain().collect();
        taken.sort_by_key(|request| request.since);
        for request in taken {
            if request.retries >= RETRIES_MAX {
                self.counters.errors += 1;
                self.finish(request, Err(Error::Failed), None);
            } else {
                self.retry(request, None);
            }
        }
    }

    fn end_all(&mut self, error: Error) {
        let mut all: Vec<Request> = self.slots.drain().collect();
        all.extend(self.backlog.drain(..));
        all.extend(self.resting.drain(..).map(|(_, request)| request));
        self.parts.pointers.release_all();
        for request in all {
            self.finish(request, Err(error), None);
        }
    }

    fn client(&self, client: u16) -> &Client {
        self.clients[usize::from(client)].as_ref().expect("its handle is there")
    }

    fn client_mut(&mut self, client: u16) -> &mut Client {
        self.clients[usize::from(client)].as_mut().expect("its handle is there")
    }
}
