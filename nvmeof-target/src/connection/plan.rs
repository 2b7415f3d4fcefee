//! What a command asks for, checked against its namespace and against what this controller does.
//! Pure: nothing here changes a connection.

use super::slots::{Kind, NONE};
use crate::io::{TRANSFER_MAX, VolumeIndex};
use crate::limits::LONG_COMMAND_MAX;
use crate::seam::{ADMIN_DATA_MAX, Access, COPY_RANGES_MAX, FABRICS_DATA_MAX, Namespace};
use storage_spec::crc32c::BLOCK;
use storage_spec::nvme::command::{
    COPY_RANGE_FORMAT_0, COPY_RANGE_FORMAT_1, Command, CopyDword12, DSM_RANGES_MAX, Direction,
    DsmDword10, DsmDword11, DsmRange, FABRICS_OPCODE, IoDword12, NvmOpcode, PSDT_SGL,
    SGL_IN_CAPSULE, SGL_TRANSPORT,
};
use storage_spec::nvme::status::Status;

/// Which way the data go, and how those from the host come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Movement {
    /// No data.
    None,
    /// In C2HData PDUs.
    ToHost,
    /// In the capsule of the command.
    InCapsule,
    /// In H2CData PDUs, once asked for.
    Fetch,
}

/// A valid command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) movement: Movement,
    /// Bytes moved.
    pub(super) transfer: u32,
    pub(super) namespace_id: u32,
    pub(super) volume: VolumeIndex,
    pub(super) block_shift: u8,
    /// First byte of the range within the volume.
    pub(super) offset: u64,
    /// Bytes of the range.
    pub(super) len: u64,
    /// Where data begin in their buffer.
    pub(super) head: u16,
    /// Ranges listed in the data.
    pub(super) ranges: u16,
    /// Bytes of each.
    pub(super) stride: u8,
    /// First of the fused pair, for its second.
    pub(super) partner: u16,
}

impl Plan {
    /// Length of the buffer: whole pages.
    pub(super) fn buffer_len(&self) -> usize {
        (usize::from(self.head) + self.transfer as usize).next_multiple_of(BLOCK)
    }

    fn without_data(kind: Kind) -> Self {
        Self {
            kind,
            movement: Movement::None,
            transfer: 0,
            namespace_id: 0,
            volume: VolumeIndex(0),
            block_shift: 0,
            offset: 0,
            len: 0,
            head: 0,
            ranges: 0,
            stride: 0,
            partner: NONE,
        }
    }
}

/// Plans a command for the target: Fabrics, or anything on an admin queue.
pub(super) fn plan_event(command: &Command, capsule_len: u32) -> Result<Plan, Status> {
    let mut plan = Plan::without_data(Kind::Event);
    let len = command.sgl.length.get();
    match command.direction() {
        Direction::None | Direction::Both => {}
        Direction::HostToController if len == 0 => {}
        Direction::HostToController => {
            let is_fabrics = command.opcode == FABRICS_OPCODE;
            let max = if is_fabrics { FABRICS_DATA_MAX } else { ADMIN_DATA_MAX };
            if len > max {
                return Err(Status::DATA_SGL_LENGTH_INVALID);
            }
            let source = source(command, len, len, capsule_len)?;
            (plan.movement, plan.transfer) = source;
        }
        Direction::ControllerToHost if len == 0 => {}
        Direction::ControllerToHost => {
            sink(command, len)?;
            (plan.movement, plan.transfer) = (Movement::ToHost, len);
        }
    }
    Ok(plan)
}

/// Plans a command of the NVM command set.
pub(super) fn plan_nvm(
    namespaces: &[Option<Namespace>],
    command: &Command,
    capsule_len: u32,
) -> Result<Plan, Status> {
    let opcode = NvmOpcode(command.opcode);
    if is_reservation(opcode) {
        lookup(namespaces, command.namespace_id.get())?;
        return plan_event(command, capsule_len);
    }
    if opcode == NvmOpcode::Flush && command.namespace_id.get() == u32::MAX {
        return Ok(Plan::without_data(Kind::Flush));
    }
    let (kind, writes) = match opcode {
        NvmOpcode::Read => (Kind::Read, false),
        NvmOpcode::Write => (Kind::Write, true),
        NvmOpcode::Flush => (Kind::Flush, false),
        NvmOpcode::Compare => (Kind::Compare, false),
        NvmOpcode::WriteZeroes => (Kind::Zero, true),
        NvmOpcode::Verify => (Kind::Verify, false),
        NvmOpcode::WriteUncorrectable => (Kind::Poison, true),
        NvmOpcode::DatasetManagement => (Kind::Dataset, false),
        NvmOpcode::Copy => (Kind::Copy, true),
        _ => return Err(Status::INVALID_OPCODE),
    };
    let namespace = lookup(namespaces, command.namespace_id.get())?;
    if !is_permitted(namespace.access, kind) {
        return Err(Status::RESERVATION_CONFLICT);
    }
    if writes && namespace.read_only {
        return Err(Status::WRITE_PROTECTED);
    }
    let mut plan = Plan::without_data(kind);
    plan.namespace_id = command.namespace_id.get();
    plan.volume = namespace.volume;
    plan.block_shift = namespace.block_shift;
    match kind {
        Kind::Flush => {}
        Kind::Dataset => plan_dataset(&mut plan, command, &namespace, capsule_len)?,
        Kind::Copy => plan_copy(&mut plan, command, capsule_len)?,
        _ => plan_range(&mut plan, command, &namespace, capsule_len)?,
    }
    Ok(plan)
}

/// Whether reservations let a command of this kind be executed (NVM section 3.2).
pub(super) fn is_permitted(access: Access, kind: Kind) -> bool {
    match kind {
        Kind::Refused | Kind::Event => true,
        Kind::Read | Kind::Compare | Kind::FusedCompare | Kind::Verify => access.read,
        Kind::Flush
        | Kind::Write
        | Kind::FusedWrite
        | Kind::Zero
        | Kind::Poison
        | Kind::Dataset => access.write,
        Kind::Copy => access.read && access.write,
    }
}

/// Whether the target answers it, though it comes by an I/O queue.
fn is_reservation(opcode: NvmOpcode) -> bool {
    matches!(
        opcode,
        NvmOpcode::ReservationRegister
            | NvmOpcode::ReservationReport
            | NvmOpcode::ReservationAcquire
            | NvmOpcode::ReservationRelease
    )
}

/// The namespace with this identifier, if the queue may address it.
pub(super) fn lookup(namespaces: &[Option<Namespace>], id: u32) -> Result<Namespace, Status> {
    let index = (id as usize).wrapping_sub(1);
    namespaces.get(index).copied().flatten().ok_or(Status::INVALID_NAMESPACE)
}

/// Bytes of `blocks` logical blocks from `lba`: their offset and length.
pub(super) fn range_bytes(
    namespace: &Namespace,
    lba: u64,
    blocks: u64,
) -> Result<(u64, u64), Status> {
    let capacity = namespace.capacity >> namespace.block_shift;
    match lba.checked_add(blocks) {
        Some(end) if end <= capacity => {
            Ok((lba << namespace.block_shift, blocks << namespace.block_shift))
        }
        _ => Err(Status::LBA_OUT_OF_RANGE),
    }
}

/// Commands that name one range in dwords 10 to 12.
fn plan_range(
    plan: &mut Plan,
    command: &Command,
    namespace: &Namespace,
    capsule_len: u32,
) -> Result<(), Status> {
    let dword_12 = IoDword12::from(command.dword(12));
    if dword_12.protection() != 0 {
        return Err(Status::INVALID_PROTECTION_INFORMATION);
    }
    let blocks = u64::from(dword_12.blocks_z()) + 1;
    (plan.offset, plan.len) = range_bytes(namespace, command.lba(), blocks)?;
    let moves_data = matches!(plan.kind, Kind::Read | Kind::Write | Kind::Compare);
    if !moves_data {
        let on_grid = plan.offset.is_multiple_of(BLOCK as u64);
        let whole_pages = on_grid && plan.len.is_multiple_of(BLOCK as u64);
        // What cannot be read is kept by the page: part of one would take readable data with it.
        let is_unfit = plan.kind == Kind::Poison && !whole_pages;
        return if is_unfit || plan.len > LONG_COMMAND_MAX {
            Err(Status::INVALID_FIELD)
        } else {
            Ok(())
        };
    }
    if plan.len > TRANSFER_MAX as u64 {
        return Err(Status::INVALID_FIELD);
    }
    let len = plan.len as u32;
    plan.head = (plan.offset % BLOCK as u64) as u16;
    plan.transfer = len;
    if plan.kind == Kind::Read {
        plan.movement = Movement::ToHost;
        sink(command, len)
    } else {
        plan.movement = source(command, len, len, capsule_len)?.0;
        Ok(())
    }
}

fn plan_dataset(
    plan: &mut Plan,
    command: &Command,
    namespace: &Namespace,
    capsule_len: u32,
) -> Result<(), Status> {
    plan.stride = size_of::<DsmRange>() as u8;
    let listed = u32::from(DsmDword10::from(command.dword(10)).ranges_z()) + 1;
    let need = listed * u32::from(plan.stride);
    // Linux always sends room for all ranges.
    let most = (DSM_RANGES_MAX * size_of::<DsmRange>()) as u32;
    (plan.movement, plan.transfer) = source(command, need, most, capsule_len)?;
    // Without the deallocate attribute it is a hint, taken by doing nothing.
    if DsmDword11::from(command.dword(11)).deallocate() {
        plan.ranges = listed as u16;
        if namespace.read_only {
            return Err(Status::WRITE_PROTECTED);
        }
    }
    Ok(())
}

fn plan_copy(plan: &mut Plan, command: &Command, capsule_len: u32) -> Result<(), Status> {
    let dword_12 = CopyDword12::from(command.dword(12));
    if dword_12.protection_read() != 0 || dword_12.protection_write() != 0 {
        return Err(Status::INVALID_PROTECTION_INFORMATION);
    }
    let stride = match dword_12.format() {
        0 => COPY_RANGE_FORMAT_0,
        1 => COPY_RANGE_FORMAT_1,
        _ => return Err(Status::INVALID_FIELD),
    };
    plan.stride = stride as u8;
    // Blocks for now: how many there are the list has to tell.
    plan.offset = command.lba();
    plan.ranges = u16::from(dword_12.ranges_z()) + 1;
    if plan.ranges > COPY_RANGES_MAX {
        return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED);
    }
    let need = u32::from(plan.ranges) * stride as u32;
    let most = u32::from(COPY_RANGES_MAX) * stride as u32;
    (plan.movement, plan.transfer) = source(command, need, most, capsule_len)?;
    Ok(())
}

/// How data of `need` to `most` bytes come from the host, and how many: what the SGL says, but not
/// more than `most` where the host is asked for them.
fn source(
    command: &Command,
    need: u32,
    most: u32,
    capsule_len: u32,
) -> Result<(Movement, u32), Status> {
    let is_fabrics = command.opcode == FABRICS_OPCODE;
    if command.command_flags().psdt() != PSDT_SGL && !is_fabrics {
        return Err(Status::INVALID_FIELD);
    }
    let len = command.sgl.length.get();
    match command.sgl.identifier {
        SGL_IN_CAPSULE if command.sgl.address.get() != 0 => Err(Status::SGL_OFFSET_INVALID),
        SGL_IN_CAPSULE if len < need || len != capsule_len || len > most.max(need) => {
            Err(Status::DATA_SGL_LENGTH_INVALID)
        }
        SGL_IN_CAPSULE => Ok((Movement::InCapsule, len)),
        SGL_TRANSPORT if len < need || (len > need && most == need) => {
            Err(Status::DATA_SGL_LENGTH_INVALID)
        }
        SGL_TRANSPORT => Ok((Movement::Fetch, len.min(most))),
        _ => Err(Status::SGL_TYPE_INVALID),
    }
}

/// Whether the host has room for `len` bytes, and no more: some hosts (Linux) take a successful
/// read that does not fill their buffer for an error of the transport.
fn sink(command: &Command, len: u32) -> Result<(), Status> {
    let is_fabrics = command.opcode == FABRICS_OPCODE;
    if command.command_flags().psdt() != PSDT_SGL && !is_fabrics {
        return Err(Status::INVALID_FIELD);
    }
    if command.sgl.identifier != SGL_TRANSPORT {
        return Err(Status::SGL_TYPE_INVALID);
    }
    if command.sgl.length.get() != len {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    if len > TRANSFER_MAX as u32 {
        return Err(Status::INVALID_FIELD);
    }
    Ok(())
}
