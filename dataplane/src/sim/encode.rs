//! Operations as commands of the NVM command set, with their data.

use super::Random;
use super::draw::{Kind, Operation};
use super::model::BLOCK;
use nvmeof_target::testing::{Transfer, command};
use storage_spec::fabrics::{FabricsType, PropertyCommand};
use storage_spec::nvme::command::{
    COPY_RANGE_FORMAT_0, Command, CommandFlags, CopyRange, DsmRange, FABRICS_OPCODE, FUSE_FIRST,
    FUSE_SECOND, NvmOpcode,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Dataset Management: deallocate, in dword 11.
const DSM_DEALLOCATE: u32 = 4;

/// A command to a property of the controller, or to its queue.
pub(super) fn property(fabrics_type: FabricsType, offset: u32, value: u64) -> Command {
    let mut command = PropertyCommand::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.fabrics_type = fabrics_type.0;
    command.offset = offset.into();
    command.value = value.into();
    Command::read_from_bytes(command.as_bytes()).expect("both are 64 bytes")
}

/// An operation as its command, or as a fused pair.
pub(super) fn encode(
    operation: &Operation,
    namespace: u32,
    shift: u8,
    random: &mut Random,
) -> Vec<(Command, Transfer)> {
    let (lba, blocks) = (operation.offset >> shift, (operation.len >> shift) as u32);
    let plain = |opcode| command(opcode, namespace, lba, blocks);
    let send = |bytes, random: &mut Random| {
        if random.chance(50) { Transfer::WriteByR2t(bytes) } else { Transfer::Write(bytes) }
    };
    let (command, transfer) = match &operation.kind {
        Kind::Read | Kind::Look { .. } => {
            (plain(NvmOpcode::Read), Transfer::Read(operation.len as usize))
        }
        Kind::Write { versions } => {
            (plain(NvmOpcode::Write), send(operation.content(versions), random))
        }
        Kind::Compare { versions } => {
            (plain(NvmOpcode::Compare), send(operation.content(versions), random))
        }
        Kind::Zero { ranges: 0 } => (plain(NvmOpcode::WriteZeroes), Transfer::None),
        Kind::Zero { ranges } => deallocate(operation, namespace, shift, *ranges),
        Kind::Verify => (plain(NvmOpcode::Verify), Transfer::None),
        Kind::Poison => (plain(NvmOpcode::WriteUncorrectable), Transfer::None),
        Kind::Copy { from, .. } => copy(operation, namespace, shift, *from, random),
        Kind::Flush => {
            let mut command = command(NvmOpcode::Flush, namespace, 0, 1);
            command.dwords = [0; 6].map(Into::into);
            (command, Transfer::None)
        }
        Kind::Swap { swap, .. } => {
            let half = |opcode, fuse, version, random: &mut Random| {
                let mut command = plain(opcode);
                command.flags = u8::from(CommandFlags::new().with_fuse(fuse));
                let versions = vec![version; operation.len as usize / 512];
                (command, send(operation.content(&versions), random))
            };
            let first = half(NvmOpcode::Compare, FUSE_FIRST, swap.expected, random);
            return vec![first, half(NvmOpcode::Write, FUSE_SECOND, swap.new, random)];
        }
    };
    vec![(command, transfer)]
}

/// Dataset Management of the operation's range in several ranges, some of which may be empty.
fn deallocate(
    operation: &Operation,
    namespace: u32,
    shift: u8,
    ranges: u64,
) -> (Command, Transfer) {
    // Ranges are deallocated one after another; no block lies in two.
    let cut = |number: u64| {
        let at = operation.offset + operation.len * number / ranges;
        if number == ranges { at } else { (at - at % BLOCK).max(operation.offset) }
    };
    let mut list = Vec::new();
    for number in 0..ranges {
        let (start, end) = (cut(number), cut(number + 1));
        let mut range = DsmRange::new_zeroed();
        range.lba = (start >> shift).into();
        range.blocks = (((end - start) >> shift) as u32).into();
        list.extend_from_slice(range.as_bytes());
    }
    let mut command = command(NvmOpcode::DatasetManagement, namespace, 0, 1);
    command.dwords = [0; 6].map(Into::into);
    command.dwords[0] = (ranges as u32 - 1).into();
    command.dwords[1] = DSM_DEALLOCATE.into();
    (command, Transfer::Write(list))
}

/// Copy from one range, or from two that lie side by side.
fn copy(
    operation: &Operation,
    namespace: u32,
    shift: u8,
    from: u64,
    random: &mut Random,
) -> (Command, Transfer) {
    let (source, blocks) = (from >> shift, operation.len >> shift);
    let cut = random.below(blocks);
    let mut list = Vec::new();
    for (start, end) in [(0, cut), (cut, blocks)] {
        if start < end {
            let mut range = CopyRange::new_zeroed();
            range.lba = (source + start).into();
            range.blocks_z = ((end - start - 1) as u16).into();
            let mut bytes = [0; COPY_RANGE_FORMAT_0];
            bytes[..size_of::<CopyRange>()].copy_from_slice(range.as_bytes());
            list.extend_from_slice(&bytes);
        }
    }
    let ranges = (list.len() / COPY_RANGE_FORMAT_0) as u32;
    let mut command = command(NvmOpcode::Copy, namespace, operation.offset >> shift, 1);
    command.dwords[2] = (ranges - 1).into();
    (command, Transfer::Write(list))
}
