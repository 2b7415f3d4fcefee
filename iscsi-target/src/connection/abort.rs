//! Task management: which tasks it ends, and when it is answered.

use super::receive::{Section, Violation};
use super::slots::{Aborted, Entry, Kind, State};
use super::{Connection, SessionKind};
use crate::io::{Buffer, VolumeIndex};
use crate::scsi::{Attention, DataIn, Lun, Status};
use crate::seam::{Event, Slot};
use storage_spec::iscsi::{RejectReason, TaskFunction, TaskManagementRequest, TaskResponse};
use zerocopy::FromBytes;

/// iSCSIProtocolLevel from which on there are QUERY TASK and the functions after it.
const PROTOCOL_LEVEL_QUERIES: u16 = 2;

/// Tasks that are being ended, and who waits for that.
#[derive(Debug)]
pub(super) struct Aborting {
    scope: Scope,
    after: After,
}

/// Which tasks.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Tag(u32),
    Unit(Lun),
    All,
}

/// What follows.
#[derive(Debug, Clone, Copy)]
enum After {
    /// A task of this session is answered.
    Answer(u16),
    /// The target is told.
    Tell(u64),
}

impl Scope {
    fn includes<B>(self, entry: &Entry<B>) -> bool {
        match self {
            Self::Tag(tag) => entry.tag == tag,
            Self::Unit(lun) => entry.unit() == Some(lun),
            Self::All => true,
        }
    }
}

impl<B: Buffer> Connection<B> {
    /// Takes a task management request.
    pub(super) fn on_management(
        &mut self,
        header: &[u8],
        section: Section,
    ) -> Result<(), Violation> {
        let pdu = TaskManagementRequest::ref_from_bytes(header)
            .expect("the length is that of the structure");
        let Some(slot) = self.take_slot(header, section)? else { return Ok(()) };
        if section.len > 0 || self.session.kind == SessionKind::Discovery {
            self.slots.release(slot);
            return Err(Violation::Reject(RejectReason::Protocol));
        }
        let function = TaskFunction(pdu.function & 0x7F);
        let lun = Lun::from_wire(pdu.lun);
        let is_there = lun.is_some_and(|lun| self.has_unit(lun));
        let names_unit = names_unit(function);
        // Those of RFC 7144 are for who has agreed on it.
        let is_known = function.0 <= TaskFunction::TaskReassign.0
            || self.session.protocol_level >= PROTOCOL_LEVEL_QUERIES;
        self.slots[slot].kind = Kind::Management(function, TaskResponse::FunctionComplete);
        let tag = pdu.referenced_tag.get();
        let response = match function {
            _ if !is_known => TaskResponse::NotSupported,
            _ if names_unit && !is_there => TaskResponse::LunDoesNotExist,
            TaskFunction::AbortTask => match self.find_active(tag) {
                Some(_) => {
                    self.abort(Scope::Tag(tag), Aborted::Silently, After::Answer(slot));
                    return Ok(());
                }
                None if self.skip_command_sn(pdu.referenced_sn.get()) => {
                    TaskResponse::FunctionComplete
                }
                None => TaskResponse::TaskDoesNotExist,
            },
            TaskFunction::AbortTaskSet => {
                let unit = Scope::Unit(lun.expect("it is there"));
                self.abort(unit, Aborted::Silently, After::Answer(slot));
                return Ok(());
            }
            TaskFunction::ItNexusReset => {
                self.lose_nexus();
                self.abort(Scope::All, Aborted::Silently, After::Answer(slot));
                return Ok(());
            }
            TaskFunction::ClearTaskSet
            | TaskFunction::LogicalUnitReset
            | TaskFunction::TargetWarmReset
            | TaskFunction::TargetColdReset => {
                self.slots[slot].state = State::WithTarget;
                let lun = names_unit.then_some(lun).flatten();
                self.events.push_back(Event::Management { slot: Slot(slot), function, lun });
                return Ok(());
            }
            TaskFunction::QueryTask => found(self.find_active(tag).is_some()),
            TaskFunction::QueryTaskSet => {
                let unit = Scope::Unit(lun.expect("it is there"));
                found(self.active().any(|entry| unit.includes(entry)))
            }
            TaskFunction::QueryAsynchronousEvent => {
                found(lun.is_some_and(|lun| self.attentions.first(lun).is_some()))
            }
            TaskFunction::TaskReassign => TaskResponse::ReassignNotSupported,
            _ => TaskResponse::NotSupported,
        };
        self.answer_management(slot, response);
        Ok(())
    }

    /// The target's answer to task management.
    pub(super) fn management_replied(&mut self, slot: u16, response: TaskResponse) {
        assert!(self.slots[slot].state == State::WithTarget, "an event is replied to once");
        self.answer_management(slot, response);
    }

    /// Ends tasks because the target wants it; it is told when they have ended.
    pub(super) fn abort_for_target(&mut self, token: u64, lun: Option<Lun>, with_status: bool) {
        let how = if with_status { Aborted::WithStatus } else { Aborted::Silently };
        self.abort(lun.map_or(Scope::All, Scope::Unit), how, After::Tell(token));
    }

    /// Ends every command that touches a volume: its initiator was preempted. It is told of each
    /// (TAS is set).
    pub fn preempt(&mut self, volume: VolumeIndex) {
        if !self.is_live() {
            return;
        }
        for slot in 0..self.slots.len() {
            let entry = &self.slots[slot];
            let is_meant = entry.is_active() && entry.touches(volume);
            if is_meant && entry.aborted == Aborted::No {
                self.abort_one(slot, Aborted::WithStatus);
            }
        }
    }

    /// Whether nothing that [`Connection::preempt`] has ended is being executed on a volume.
    #[must_use]
    pub fn is_idle_on(&self, volume: VolumeIndex) -> bool {
        let is_closed = !self.is_live();
        (0..self.slots.len()).map(|slot| &self.slots[slot]).all(|entry| {
            let is_ended = entry.aborted != Aborted::No || is_closed;
            entry.state != State::Submitted || !is_ended || !entry.touches(volume)
        })
    }

    /// Ends all commands of the session; then this slot is answered.
    pub(super) fn abort_all(&mut self, slot: u16) {
        self.abort(Scope::All, Aborted::Silently, After::Answer(slot));
    }

    fn abort(&mut self, scope: Scope, how: Aborted, after: After) {
        if let After::Answer(slot) = after {
            self.slots[slot].state = State::AwaitingTasks;
        }
        for slot in 0..self.slots.len() {
            let entry = &self.slots[slot];
            if entry.is_active() && entry.aborted == Aborted::No && scope.includes(entry) {
                self.abort_one(slot, how);
            }
        }
        self.aborting.push(Aborting { scope, after });
        self.settle_aborting();
    }

    fn abort_one(&mut self, slot: u16, how: Aborted) {
        self.counters.aborted += 1;
        if self.receiver.slot() == Some(slot) {
            // Nobody waits for an initiator that may never send the rest.
            self.receiver.disown(self.session.data_digest);
        }
        let entry = &mut self.slots[slot];
        entry.aborted = how;
        match entry.state {
            // It ends with its block request, or the reply.
            State::Submitted | State::WithTarget => return,
            State::Receiving => {}
            State::AwaitingBuffer => self.waiting.retain(|waiting| *waiting != slot),
            State::R2tQueued | State::Delivering => self.sender.forget(slot),
            State::AwaitingData => self.awaiting_data -= 1,
            State::AwaitingTurn => self.turns -= 1,
            state => unreachable!("a command in {state:?} is not active"),
        }
        self.end_aborted(slot);
    }

    /// An aborted command has come to rest.
    pub(super) fn end_aborted(&mut self, slot: u16) {
        match self.slots[slot].aborted {
            Aborted::No => unreachable!("only what was aborted ends so"),
            Aborted::Silently => self.slots.release(slot),
            Aborted::WithStatus => {
                let entry = &mut self.slots[slot];
                entry.kind = Kind::Ended;
                entry.buf = None;
                // What went before tells no more than how much it was.
                entry.base += core::mem::take(&mut entry.delivered);
                (entry.data, entry.deliver, entry.available) = (DataIn::None, 0, entry.base);
                entry.status = Status::TaskAborted;
                self.slots.discharge(slot);
                self.respond(slot);
            }
        }
        self.settle_aborting();
    }

    /// Answers task management whose tasks have all ended.
    fn settle_aborting(&mut self) {
        let is_over = |slots: &super::Slots<B>, scope: Scope| {
            (0..slots.len()).map(|slot| &slots[slot]).all(|entry| {
                !entry.is_active() || entry.aborted == Aborted::No || !scope.includes(entry)
            })
        };
        while let Some(at) =
            self.aborting.iter().position(|aborting| is_over(&self.slots, aborting.scope))
        {
            match self.aborting.remove(at).after {
                After::Answer(slot) => self.respond(slot),
                After::Tell(token) => self.events.push_back(Event::Aborted { token }),
            }
        }
    }

    fn answer_management(&mut self, slot: u16, response: TaskResponse) {
        let Kind::Management(function, _) = self.slots[slot].kind else {
            unreachable!("task management alone is answered so");
        };
        self.slots[slot].kind = Kind::Management(function, response);
        self.respond(slot);
    }

    /// What a session forgets when its nexus is lost.
    fn lose_nexus(&mut self) {
        for lun in 0..self.units.len() {
            if self.units[lun].is_some() {
                self.attentions.post(Lun(lun as u16), Attention::NexusLoss);
            }
        }
    }

    fn has_unit(&self, lun: Lun) -> bool {
        self.units.get(usize::from(lun.0)).is_some_and(Option::is_some)
    }

    /// A command with this tag. One whose response waits to be sent has ended: it comes first.
    fn find_active(&self, tag: u32) -> Option<u16> {
        self.slots.find(tag).filter(|slot| self.slots[*slot].is_active())
    }

    fn active(&self) -> impl Iterator<Item = &Entry<B>> {
        (0..self.slots.len()).map(|slot| &self.slots[slot]).filter(|entry| entry.is_active())
    }
}

/// Whether a function concerns one unit.
fn names_unit(function: TaskFunction) -> bool {
    matches!(
        function,
        TaskFunction::AbortTaskSet
            | TaskFunction::ClearTaskSet
            | TaskFunction::LogicalUnitReset
            | TaskFunction::QueryTaskSet
            | TaskFunction::QueryAsynchronousEvent
    )
}

fn found(is_found: bool) -> TaskResponse {
    if is_found { TaskResponse::FunctionSucceeded } else { TaskResponse::FunctionComplete }
}
