//! Taking a command in: which state the connection must be in for it, its plan, its slot, and the
//! rules of fused pairs.

use super::execute::charge;
use super::plan::{Movement, Plan, plan_event, plan_nvm};
use super::slots::{Kind, State};
use super::{Connection, Fused, Phase, REPLIES_MAX, TOUCH_INTERVAL};
use crate::io::{Buffer, Now, Surroundings};
use storage_spec::crc32c::BLOCK;
use storage_spec::nvme::command::{Command, FABRICS_OPCODE, FUSE_FIRST, FUSE_NONE, FUSE_SECOND};
use storage_spec::nvme::status::Status;
use zerocopy::IntoBytes;

/// Fabrics command type of Connect.
const CONNECT: u8 = 0x01;

impl<B: Buffer> Connection<B> {
    /// Takes a command and begins what can begin. `None`: it must wait for a slot, or for a buffer
    /// for the data in its capsule; nothing has changed then.
    pub(super) fn accept<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        command: &Command,
        capsule_len: u32,
        abort: bool,
        around: &mut S,
    ) -> Option<u16> {
        if self.slots.is_full() {
            return None;
        }
        let command_id = command.command_id.get();
        let is_conflict = self.slots.find(command_id).is_some();
        let mut planned = if is_conflict {
            Err(Status::COMMAND_ID_CONFLICT.dnr())
        } else if abort {
            Err(Status::ABORT_REQUESTED)
        } else {
            self.plan(command, capsule_len)
        };
        let (mut buf, mut held, mut owed) = (None, 0, 0);
        if let Ok(plan) = &planned {
            if plan.kind == Kind::Event && plan.movement == Movement::ToHost {
                owed = plan.transfer;
                let all = self.slots.owed();
                if all > 0 && all + owed as usize > REPLIES_MAX {
                    return None;
                }
            } else if plan.kind != Kind::Event && plan.movement == Movement::InCapsule {
                held = charge(plan.kind, plan.buffer_len());
                let is_allowed = self.may_hold(held, false);
                buf = is_allowed.then(|| around.alloc(plan.buffer_len())).flatten();
                if buf.is_none() {
                    self.counters.buffer_waits += 1;
                    return None;
                }
            }
        }
        self.counters.aborted += u64::from(abort);
        self.note_arrival(now);
        let slot = self.slots.take(command_id, !is_conflict);
        self.slots.charge(slot, held);
        self.slots.owe(slot, owed);
        let is_nvm = matches!(self.phase, Phase::Io) && command.opcode != FABRICS_OPCODE;
        let entry = &mut self.slots[slot];
        entry.namespace_id = command.namespace_id.get();
        entry.lba = if is_nvm { command.lba() } else { 0 };
        let fuse = command.command_flags().fuse();
        if fuse != FUSE_NONE || self.fused != Fused::None {
            planned = self.fuse(slot, fuse, planned);
        }
        self.begin(slot, command, capsule_len, planned, buf, around);
        Some(slot)
    }

    fn note_arrival(&mut self, now: Now) {
        match &self.queue {
            Some(queue) => {
                self.sq_head += 1;
                if self.sq_head == queue.entries {
                    self.sq_head = 0;
                }
                if self.touched.is_none_or(|touched| now >= touched + TOUCH_INTERVAL) {
                    queue.association.touch(now);
                    self.touched = Some(now);
                }
            }
            None => self.sq_head = self.sq_head.wrapping_add(1),
        }
    }

    fn plan(&self, command: &Command, capsule_len: u32) -> Result<Plan, Status> {
        let is_fabrics = command.opcode == FABRICS_OPCODE;
        let planned = match self.phase {
            Phase::AwaitConnect { pending } => {
                if pending.is_some() || !is_connect(command) {
                    return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
                }
                plan_event(command, capsule_len)
            }
            Phase::Admin | Phase::Io if is_connect(command) => {
                return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
            }
            Phase::Io if !is_fabrics => {
                if !self.is_enabled() {
                    return Err(Status::ABORTED_SQ_DELETION);
                }
                plan_nvm(&self.namespaces, command, capsule_len)
            }
            _ => plan_event(command, capsule_len),
        };
        let plan = planned.map_err(Status::dnr)?;
        if capsule_len > 0 && plan.movement != Movement::InCapsule {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok(plan)
    }

    fn begin<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        command: &Command,
        capsule_len: u32,
        planned: Result<Plan, Status>,
        buf: Option<B>,
        around: &mut S,
    ) {
        let plan = match planned {
            Ok(plan) => plan,
            Err(status) => {
                self.refuse(slot, status, capsule_len);
                return;
            }
        };
        self.counters.accepted(plan.kind);
        if let Phase::AwaitConnect { pending } = &mut self.phase {
            *pending = Some(slot);
        }
        let entry = &mut self.slots[slot];
        entry.kind = plan.kind;
        entry.partner = plan.partner;
        entry.volume = plan.volume;
        entry.block_shift = plan.block_shift;
        entry.offset = plan.offset;
        entry.len = plan.len;
        entry.head = plan.head;
        entry.transfer = plan.transfer;
        if matches!(plan.kind, Kind::Dataset | Kind::Copy) {
            entry.progress = super::slots::Progress {
                ranges: plan.ranges,
                stride: plan.stride,
                ..Default::default()
            };
        } else {
            entry.progress.begun = false;
        }
        if plan.kind == Kind::Event {
            let mut sqe = Box::new([0; 64]);
            sqe.copy_from_slice(command.as_bytes());
            entry.event = Some(sqe);
            if matches!(plan.movement, Movement::InCapsule | Movement::Fetch) {
                entry.bytes = Vec::with_capacity(plan.transfer as usize);
            }
        }
        match plan.movement {
            Movement::None => self.execute(slot, around),
            Movement::ToHost if plan.kind == Kind::Event => self.execute(slot, around),
            Movement::ToHost => {
                self.start_read(slot, around);
            }
            Movement::InCapsule => {
                entry.buf = buf;
                entry.state = State::Receiving;
            }
            Movement::Fetch => {
                self.fetch(slot, around);
            }
        }
    }

    /// Completes a command with an error, after the data of its capsule have passed.
    fn refuse(&mut self, slot: u16, status: Status, capsule_len: u32) {
        self.counters.accepted(Kind::Refused);
        let entry = &mut self.slots[slot];
        entry.kind = Kind::Refused;
        entry.status = status;
        entry.transfer = 0;
        entry.head = 0;
        if capsule_len > 0 {
            entry.state = State::Receiving;
        } else {
            self.respond(slot);
        }
    }

    /// Applies the rules of fused operations (Base section 3.4.2): the second comes right after the
    /// first, on the same queue, or both fail.
    fn fuse(&mut self, slot: u16, fuse: u8, planned: Result<Plan, Status>) -> Result<Plan, Status> {
        match (core::mem::replace(&mut self.fused, Fused::None), fuse) {
            (Fused::First(first), FUSE_SECOND) => return self.pair(first, planned, slot),
            (Fused::FirstFailed, FUSE_SECOND) => return Err(Status::ABORTED_FAILED_FUSED),
            (Fused::None, FUSE_SECOND) => return Err(Status::ABORTED_MISSING_FUSED),
            (Fused::First(first), _) => self.fail(first, Status::ABORTED_MISSING_FUSED),
            _ => {}
        }
        match fuse {
            FUSE_NONE => planned,
            FUSE_FIRST => {
                let planned = planned.and_then(first_of_pair);
                self.fused = if planned.is_ok() { Fused::First(slot) } else { Fused::FirstFailed };
                planned
            }
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    fn pair(
        &mut self,
        first: u16,
        planned: Result<Plan, Status>,
        slot: u16,
    ) -> Result<Plan, Status> {
        let mut plan = planned.inspect_err(|_| self.fail(first, Status::ABORTED_FAILED_FUSED))?;
        let compare = &mut self.slots[first];
        let is_same_range = (plan.namespace_id, plan.offset, plan.len)
            == (compare.namespace_id, compare.offset, compare.len);
        if plan.kind != Kind::Write || !is_same_range {
            self.fail(first, Status::INVALID_FIELD.dnr());
            return Err(Status::INVALID_FIELD.dnr());
        }
        compare.partner = slot;
        plan.kind = Kind::FusedWrite;
        plan.partner = first;
        Ok(plan)
    }
}

fn is_connect(command: &Command) -> bool {
    command.opcode == FABRICS_OPCODE && command.namespace_id.get() as u8 == CONNECT
}

/// Compare is the only first of a pair, and the store is atomic within one page.
fn first_of_pair(mut plan: Plan) -> Result<Plan, Status> {
    if plan.kind != Kind::Compare {
        return Err(Status::INVALID_FIELD.dnr());
    }
    if usize::from(plan.head) + plan.transfer as usize > BLOCK {
        return Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
    }
    plan.kind = Kind::FusedCompare;
    Ok(plan)
}
