//! The admin queue, and the commands that go through it.

use super::pointers::DataPointer;
use super::registers::Doorbell;
use super::ring::{COMPLETION_ENTRY, Ring, SUBMISSION_ENTRY};
use super::slots::Slots;
use crate::dma::DeviceMemory;
use crate::hardware::{Device, DeviceError, Registers};
use std::time::Duration;
use storage_spec::nvme::command::{AdminOpcode, Command};
use storage_spec::nvme::feature::{Feature, FeatureDword10, NumberOfQueues};
use storage_spec::nvme::identify::{AsyncEvents, Cns, IdentifyDword10};
use storage_spec::nvme::log::{LogDword10, LogPage};
use storage_spec::nvme::pci::{
    AbortDword10, CreateCompletionDword11, CreateQueueDword10, CreateSubmissionDword11,
};
use storage_spec::nvme::status::Status;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

/// Entries of the admin queue.
pub(super) const ADMIN_ENTRIES: u16 = 32;

/// The admin queue. `P` says what a command is for.
pub(super) struct Admin<R, P> {
    ring: Ring<R>,
    slots: Slots<Pending<P>>,
}

struct Pending<P> {
    purpose: P,
    /// When it has to have ended.
    until: Duration,
}

/// A command that has ended.
pub(super) struct Ended<P> {
    pub(super) purpose: P,
    pub(super) status: Status,
    /// Dword 0.
    pub(super) result: u32,
}

/// A completion on the admin queue that made no sense.
pub(super) struct Nonsense;

impl<R: Registers, P> Admin<R, P> {
    pub(super) fn new<D>(device: &D, stride: u8) -> Result<Self, DeviceError>
    where
        D: Device<Registers = R>,
    {
        let entries = usize::from(ADMIN_ENTRIES);
        let submission = queue_memory(device, entries * SUBMISSION_ENTRY)?;
        let completion = queue_memory(device, entries * COMPLETION_ENTRY)?;
        let doorbells = Doorbell::pair(0, stride);
        let ring = Ring::new(device.registers(), submission, completion, doorbells);
        Ok(Self { ring, slots: Slots::new(entries - 1) })
    }

    /// Where its queues are: submission, completion.
    pub(super) fn addresses(&self) -> (u64, u64) {
        self.ring.addresses()
    }

    /// Begins anew; the controller is disabled.
    pub(super) fn restart(&mut self) {
        self.slots.drain().for_each(drop);
        self.ring.restart();
    }

    /// Starts a command, which has to have ended at `until`. There is always room: each purpose has
    /// a bound.
    pub(super) fn start(&mut self, mut command: Command, purpose: P, until: Duration) {
        let (slot, command_id) = self.slots.take().expect("fewer purposes than entries");
        command.command_id = U16::new(command_id);
        self.slots.fill(slot, Pending { purpose, until });
        self.ring.push(command);
        self.ring.tell_submissions();
    }

    /// A command that has ended.
    pub(super) fn next(&mut self) -> Option<Result<Ended<P>, Nonsense>> {
        let entry = self.ring.next()?;
        let result = self.ring.result();
        self.ring.tell_completions();
        if entry.queue != 0 || entry.submission_head >= self.ring.entries() {
            return Some(Err(Nonsense));
        }
        let Some((_, pending)) = self.slots.end(entry.command_id) else {
            return Some(Err(Nonsense));
        };
        Some(Ok(Ended { purpose: pending.purpose, status: entry.status, result }))
    }

    /// What a command is for that should have ended long ago.
    pub(super) fn late(&mut self, now: Duration) -> Option<&P> {
        let mut all = self.slots.iter_mut();
        all.find(|(_, pending)| now >= pending.until).map(|(_, pending)| &pending.purpose)
    }
}

/// Memory of a ring, as long as asked for.
pub(super) fn queue_memory<D: Device>(device: &D, len: usize) -> Result<DeviceMemory, DeviceError> {
    let mut memory = device.allocate(len)?;
    if memory.len() > len {
        drop(memory.split_off(len));
    }
    Ok(memory)
}

fn command(opcode: AdminOpcode, namespace: u32, data: u64) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode.0;
    command.namespace_id = U32::new(namespace);
    command.sgl.address = U64::new(data);
    command
}

/// Identify: 4096 bytes to `data`.
pub(super) fn identify(cns: Cns, namespace: u32, data: u64) -> Command {
    let mut command = command(AdminOpcode::Identify, namespace, data);
    command.dwords[0] = U32::new(IdentifyDword10::new().with_cns(cns.0).into());
    command
}

/// Set Features of what is one dword.
pub(super) fn set_feature(feature: Feature, value: u32, data: u64) -> Command {
    let mut command = command(AdminOpcode::SetFeatures, 0, data);
    command.dwords[0] = U32::new(FeatureDword10::new().with_feature(feature.0).into());
    command.dwords[1] = U32::new(value);
    command
}

/// Get Features.
pub(super) fn get_feature(feature: Feature) -> Command {
    let mut command = command(AdminOpcode::GetFeatures, 0, 0);
    command.dwords[0] = U32::new(FeatureDword10::new().with_feature(feature.0).into());
    command
}

/// Asks for `count` I/O queues of each kind.
pub(super) fn number_of_queues(count: u16) -> Command {
    let value =
        NumberOfQueues::new().with_submission_z(count - 1).with_completion_z(count - 1).into();
    set_feature(Feature::NumberOfQueues, value, 0)
}

/// Asks for events.
pub(super) fn configure_events(events: AsyncEvents) -> Command {
    set_feature(Feature::AsyncEventConfiguration, events.into(), 0)
}

/// Asynchronous Event Request.
pub(super) fn event_request() -> Command {
    command(AdminOpcode::AsyncEventRequest, 0, 0)
}

/// Doorbell Buffer Config.
pub(super) fn doorbell_buffers(values: u64, events: u64) -> Command {
    let mut command = command(AdminOpcode::DoorbellBufferConfig, 0, values);
    command.sgl = DataPointer::prp(values, events).value;
    command
}

/// Create I/O Completion Queue; `vector`: its interrupt.
pub(super) fn create_completion_queue(
    queue: u16,
    entries: u16,
    address: u64,
    vector: Option<u16>,
) -> Command {
    let mut command = command(AdminOpcode::CreateCompletionQueue, 0, address);
    let dword_10 = CreateQueueDword10::new().with_queue(queue).with_entries_z(entries - 1);
    let dword_11 = CreateCompletionDword11::new()
        .with_contiguous(true)
        .with_interrupts(vector.is_some())
        .with_vector(vector.unwrap_or(0));
    command.dwords[0] = U32::new(dword_10.into());
    command.dwords[1] = U32::new(dword_11.into());
    command
}

/// Create I/O Submission Queue, for the completion queue of the same number.
pub(super) fn create_submission_queue(queue: u16, entries: u16, address: u64) -> Command {
    let mut command = command(AdminOpcode::CreateSubmissionQueue, 0, address);
    let dword_10 = CreateQueueDword10::new().with_queue(queue).with_entries_z(entries - 1);
    let dword_11 =
        CreateSubmissionDword11::new().with_contiguous(true).with_completion_queue(queue);
    command.dwords[0] = U32::new(dword_10.into());
    command.dwords[1] = U32::new(dword_11.into());
    command
}

/// Abort.
pub(super) fn abort(queue: u16, command_id: u16) -> Command {
    let mut command = command(AdminOpcode::Abort, 0, 0);
    let dword_10 = AbortDword10::new().with_queue(queue).with_command_id(command_id);
    command.dwords[0] = U32::new(dword_10.into());
    command
}

/// Get Log Page of `len` bytes; reading it lets its event come again.
pub(super) fn log_page(page: LogPage, len: usize, data: u64) -> Command {
    let mut command = command(AdminOpcode::GetLogPage, 0xFFFF_FFFF, data);
    let dwords_z = (len / 4 - 1) as u16;
    let dword_10 = LogDword10::new().with_page(page.0).with_dwords_low(dwords_z);
    command.dwords[0] = U32::new(dword_10.into());
    command
}
