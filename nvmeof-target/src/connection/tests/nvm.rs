use super::*;
use crate::io::BlockError;
use crate::testing::{Transfer, command};
use storage_spec::nvme::command::{Command, NvmOpcode};
use zerocopy::little_endian::U32;

fn read(link: &mut Link, namespace: u32, lba: u64, blocks: u32, shift: u32) -> Vec<u8> {
    let len = (blocks as usize) << shift;
    let finished =
        link.execute(command(NvmOpcode::Read, namespace, lba, blocks), Transfer::Read(len));
    assert_eq!(finished.status, Status::SUCCESS);
    finished.data
}

fn status(link: &mut Link, command: Command, transfer: Transfer) -> Status {
    link.execute(command, transfer).status
}

#[test]
fn reads_what_was_written() {
    for host in [HostConfig::default(), digests()] {
        let mut link = io_queue(host);
        for (namespace, shift, lba, blocks) in
            [(1, 9, 0, 1), (1, 9, 7, 2), (1, 9, 13, 300), (2, 12, 0, 1), (2, 12, 5, 256)]
        {
            let data = bytes(blocks << shift, 3 + blocks as u8);
            let write = command(NvmOpcode::Write, namespace, lba, blocks as u32);
            assert_eq!(status(&mut link, write, Transfer::Write(data.clone())), Status::SUCCESS);
            assert_eq!(read(&mut link, namespace, lba, blocks as u32, shift), data);
        }
        assert_eq!(link.connection.counters().data_digest_errors, 0);
        assert_eq!(link.memory.live(), 0);
    }
}

#[test]
fn a_read_completes_by_flag_only_without_flow_control() {
    for flow_control_disabled in [true, false] {
        let mut link = io_queue(HostConfig { flow_control_disabled, ..HostConfig::default() });
        let finished = link.execute(command(NvmOpcode::Read, 2, 0, 1), Transfer::Read(4096));
        assert_eq!(finished.by_flag, flow_control_disabled);
    }
}

#[test]
fn whole_pages_need_no_second_pass_for_their_digests() {
    let mut link = io_queue(digests());
    for (lba, blocks) in [(0, 1), (3, 2), (8, 64), (0, 256)] {
        let data = bytes((blocks as usize) << 12, 9);
        let write = command(NvmOpcode::Write, 2, lba, blocks);
        assert_eq!(status(&mut link, write, Transfer::Write(data)), Status::SUCCESS);
        read(&mut link, 2, lba, blocks, 12);
    }
    // Parts of pages have no checksum before the digest is made: that pass is the first.
    let write = command(NvmOpcode::Write, 1, 3, 20);
    status(&mut link, write, Transfer::Write(bytes(20 << 9, 1)));
    assert_eq!(link.connection.counters().digest_second_pass, 0);
    read(&mut link, 1, 3, 20, 9);
    assert_eq!(link.connection.counters().digest_second_pass, 1);
}

#[test]
fn a_range_must_lie_in_the_namespace() {
    let mut link = io_queue(HostConfig::default());
    let end = (SIZE >> 12) as u64;
    for opcode in [
        NvmOpcode::Read,
        NvmOpcode::Write,
        NvmOpcode::Compare,
        NvmOpcode::WriteZeroes,
        NvmOpcode::Verify,
        NvmOpcode::WriteUncorrectable,
    ] {
        let transfer = match opcode {
            NvmOpcode::Read => Transfer::Read(8192),
            NvmOpcode::Write | NvmOpcode::Compare => Transfer::Write(vec![0; 8192]),
            _ => Transfer::None,
        };
        for lba in [end - 1, end, u64::MAX, u64::MAX - 1] {
            let command = command(opcode, 2, lba, 2);
            let status = status(&mut link, command, transfer.clone());
            assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr(), "{opcode:?} at {lba}");
        }
    }
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn unfit_commands_are_refused() {
    let mut link = io_queue(HostConfig::default());
    let page = || Transfer::Write(vec![1; 4096]);
    let mut protected = command(NvmOpcode::Read, 1, 0, 8);
    protected.dwords[2] = U32::new(protected.dword(12) | 1 << 26);
    for (command, transfer, expected) in [
        (command(NvmOpcode::Read, 0, 0, 8), Transfer::Read(4096), Status::INVALID_NAMESPACE),
        (command(NvmOpcode::Read, 4, 0, 8), Transfer::Read(4096), Status::INVALID_NAMESPACE),
        (command(NvmOpcode::Write, u32::MAX, 0, 8), page(), Status::INVALID_NAMESPACE),
        (command(NvmOpcode::Write, 3, 0, 8), page(), Status::WRITE_PROTECTED),
        (command(NvmOpcode::WriteZeroes, 3, 0, 8), Transfer::None, Status::WRITE_PROTECTED),
        (command(NvmOpcode(0x03), 1, 0, 1), Transfer::None, Status::INVALID_OPCODE),
        (command(NvmOpcode(0x12), 1, 0, 1), Transfer::None, Status::INVALID_OPCODE),
        (protected, Transfer::Read(4096), Status::INVALID_PROTECTION_INFORMATION),
        (command(NvmOpcode::Read, 1, 0, 8), Transfer::Read(2048), Status::DATA_SGL_LENGTH_INVALID),
        (command(NvmOpcode::Write, 1, 0, 9), page(), Status::DATA_SGL_LENGTH_INVALID),
        (command(NvmOpcode::Write, 1, 0, 7), page(), Status::DATA_SGL_LENGTH_INVALID),
        (command(NvmOpcode::Read, 1, 0, 8), page(), Status::SGL_TYPE_INVALID),
        (command(NvmOpcode::Read, 1, 0, 2049), Transfer::Read(2049 << 9), Status::INVALID_FIELD),
        (command(NvmOpcode::Flush, 9, 0, 1), Transfer::None, Status::INVALID_NAMESPACE),
        (command(NvmOpcode::WriteUncorrectable, 1, 0, 7), Transfer::None, Status::INVALID_FIELD),
        (command(NvmOpcode::WriteUncorrectable, 1, 1, 8), Transfer::None, Status::INVALID_FIELD),
    ] {
        let finished = link.execute(command, transfer);
        assert_eq!(finished.status, expected.dnr(), "{command:?}");
    }
    assert_eq!(read(&mut link, 1, 0, 8, 9).len(), 4096, "the queue lives on");
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn commands_without_data_have_a_limit_too() {
    let mut link = io_queue(HostConfig::default());
    let mut large = namespaces()[1];
    large.capacity = 1 << 30;
    link.connection.set_namespaces([Some(large)].into());
    for opcode in [NvmOpcode::WriteZeroes, NvmOpcode::Verify, NvmOpcode::WriteUncorrectable] {
        let status = status(&mut link, command(opcode, 1, 0, 8193), Transfer::None);
        assert_eq!(status, Status::INVALID_FIELD.dnr());
    }
}

#[test]
fn flush_takes_all_namespaces() {
    let mut link = io_queue(HostConfig::default());
    for namespace in [1, u32::MAX] {
        let flush = command(NvmOpcode::Flush, namespace, 0, 1);
        assert_eq!(status(&mut link, flush, Transfer::None), Status::SUCCESS);
    }
}

#[test]
fn compare_tells_whether_it_is_equal() {
    let mut link = io_queue(digests());
    let mut data = link.memory.volumes[0][512..512 + 6 * 512].to_vec();
    let compare = command(NvmOpcode::Compare, 1, 1, 6);
    assert_eq!(status(&mut link, compare, Transfer::Write(data.clone())), Status::SUCCESS);
    data[3000] ^= 1;
    assert_is(status(&mut link, compare, Transfer::Write(data)), Status::COMPARE_FAILURE);
}

#[test]
fn zeroes_and_deallocated_ranges_read_as_zero() {
    let mut link = io_queue(HostConfig::default());
    let zero = command(NvmOpcode::WriteZeroes, 1, 3, 100);
    assert_eq!(status(&mut link, zero, Transfer::None), Status::SUCCESS);
    let found = read(&mut link, 1, 2, 102, 9);
    assert!(found[512..][..100 << 9].iter().all(|&byte| byte == 0));
    assert!(found[..512].iter().any(|&byte| byte != 0));

    let ranges = [(0_u32, 1000_u64), (8, 2000), (1, 4000)];
    let before = link.memory.volumes[0].clone();
    for deallocate in [false, true] {
        let mut command = command(NvmOpcode::DatasetManagement, 1, 0, 1);
        command.dwords[0] = U32::new(ranges.len() as u32 - 1);
        command.dwords[1] = U32::new(if deallocate { 4 } else { 3 });
        // Linux sends room for 256 ranges whatever their number.
        let mut list = vec![0xEE; 4096];
        for (index, (blocks, lba)) in ranges.into_iter().enumerate() {
            list[index * 16 + 4..][..4].copy_from_slice(&blocks.to_le_bytes());
            list[index * 16 + 8..][..8].copy_from_slice(&lba.to_le_bytes());
        }
        assert_eq!(status(&mut link, command, Transfer::Write(list)), Status::SUCCESS);
        assert_eq!(link.memory.volumes[0] == before, !deallocate);
    }
    assert!(link.memory.volumes[0][2000 << 9..2008 << 9].iter().all(|&byte| byte == 0));
    assert!(link.memory.volumes[0][4000 << 9..4001 << 9].iter().all(|&byte| byte == 0));
    assert_eq!(link.memory.volumes[0][1000 << 9..1001 << 9], before[1000 << 9..1001 << 9]);
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn a_dataset_with_one_range_outside_changes_nothing() {
    let mut link = io_queue(HostConfig::default());
    let before = link.memory.volumes[0].clone();
    let mut command = command(NvmOpcode::DatasetManagement, 1, 0, 1);
    command.dwords[0] = U32::new(1);
    command.dwords[1] = U32::new(4);
    let mut list = vec![0; 32];
    list[4] = 8;
    list[20] = 1;
    list[24..32].copy_from_slice(&((SIZE >> 9) as u64).to_le_bytes());
    let finished = link.execute(command, Transfer::WriteByR2t(list));
    assert_is(finished.status, Status::LBA_OUT_OF_RANGE);
    assert_eq!(link.memory.volumes[0], before);
}

#[test]
fn long_ranges_are_deallocated_in_pieces() {
    let size = 80_usize << 20;
    let mut namespace = namespaces()[1];
    namespace.volume = VolumeIndex(0);
    namespace.capacity = size as u64;
    let mut memory = Memory::new(&[]);
    memory.volumes.push(vec![1; size]);
    let host = HostConfig::default();
    let mut link = Link::connected(host, Config::default(), memory, &[namespace], 1);
    let mut command = command(NvmOpcode::DatasetManagement, 1, 0, 1);
    command.dwords[1] = U32::new(4);
    let mut list = vec![0; 16];
    list[4..8].copy_from_slice(&(size as u32 / 4096 - 2).to_le_bytes());
    list[8] = 1;
    link.hold_blocks = true;
    let command_id = link.host.submit(command, Transfer::Write(list));
    for _ in 0..3 {
        link.run();
        assert!(link.host.finished(command_id).is_none());
        link.complete(0);
    }
    assert_eq!(link.finish(command_id).status, Status::SUCCESS);
    let volume = &link.memory.volumes[0];
    assert!(volume[..4096].iter().chain(&volume[size - 4096..]).all(|&byte| byte == 1));
    assert!(volume[4096..size - 4096].iter().all(|&byte| byte == 0));
}

#[test]
fn uncorrectable_blocks_fail_until_written() {
    let mut link = io_queue(HostConfig::default());
    let poison = command(NvmOpcode::WriteUncorrectable, 1, 8, 8);
    assert_eq!(status(&mut link, poison, Transfer::None), Status::SUCCESS);
    let verify = command(NvmOpcode::Verify, 1, 0, 64);
    assert_is(status(&mut link, verify, Transfer::None), Status::UNRECOVERED_READ_ERROR);
    let one = command(NvmOpcode::Read, 1, 15, 1);
    assert_is(status(&mut link, one, Transfer::Read(512)), Status::UNRECOVERED_READ_ERROR);
    let write = command(NvmOpcode::Write, 1, 8, 8);
    status(&mut link, write, Transfer::Write(vec![3; 4096]));
    assert_eq!(status(&mut link, verify, Transfer::None), Status::SUCCESS);
}

#[test]
fn failures_of_the_store_reach_the_host() {
    let mut link = io_queue(HostConfig::default());
    let write = command(NvmOpcode::Write, 2, 0, 1);
    let data = || Transfer::Write(vec![0; 4096]);
    let read = command(NvmOpcode::Read, 2, 0, 1);
    for (error, command, transfer, expected) in [
        (BlockError::Full, write, data(), Status::CAPACITY_EXCEEDED.dnr()),
        (BlockError::DiskFailed, write, data(), Status::WRITE_FAULT),
        (BlockError::DiskFailed, read, Transfer::Read(4096), Status::INTERNAL_ERROR),
        (BlockError::VolumeGone, read, Transfer::Read(4096), Status::NAMESPACE_NOT_READY),
        (
            BlockError::Media { offset: 0 },
            read,
            Transfer::Read(4096),
            Status::UNRECOVERED_READ_ERROR,
        ),
    ] {
        link.memory.fail_next = Some(error);
        assert_eq!(status(&mut link, command, transfer), expected);
    }
    assert_eq!(link.connection.counters().failed, 5);
}

fn copy(ranges: &[(u64, u32)], format: u32, destination: u64) -> (Command, Transfer) {
    let mut copy = command(NvmOpcode::Copy, 1, destination, 1);
    copy.dwords[2] = U32::new((ranges.len() as u32 - 1) | (format << 8));
    let stride = if format == 0 { 32 } else { 40 };
    let mut list = vec![0; ranges.len() * stride];
    for (index, &(lba, blocks)) in ranges.iter().enumerate() {
        list[index * stride + 8..][..8].copy_from_slice(&lba.to_le_bytes());
        list[index * stride + 16..][..2].copy_from_slice(&(blocks as u16 - 1).to_le_bytes());
    }
    (copy, Transfer::Write(list))
}

#[test]
fn copies_whatever_the_alignment() {
    let mut link = io_queue(HostConfig::default());
    for (format, ranges, destination) in [
        (0, vec![(8, 8)], 4096),
        (1, vec![(1, 9), (100, 1), (64, 1500)], 4003),
        (0, vec![(7, 2048), (3000, 7), (11, 13)], 5000),
        (1, vec![(0, 2047); 2], 4097),
    ] {
        let mut expected = link.memory.volumes[0].clone();
        let mut at = (destination as usize) << 9;
        for &(lba, blocks) in &ranges {
            let len = (blocks as usize) << 9;
            expected.copy_within((lba as usize) << 9..((lba as usize) << 9) + len, at);
            at += len;
        }
        let (command, list) = copy(&ranges, format, destination);
        assert_eq!(status(&mut link, command, list), Status::SUCCESS);
        assert!(link.memory.volumes[0] == expected, "{ranges:?} to {destination}");
    }
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn copies_beyond_the_limits_are_refused() {
    let mut link = io_queue(HostConfig::default());
    let before = link.memory.volumes[0].clone();
    for (ranges, format, destination, expected, result) in [
        (vec![(0, 1), (0, 4097)], 0, 5000, Status::COMMAND_SIZE_LIMIT_EXCEEDED, 1),
        (vec![(0, 1); 129], 0, 5000, Status::COMMAND_SIZE_LIMIT_EXCEEDED, 0),
        (vec![(0, 2)], 0, 8191, Status::LBA_OUT_OF_RANGE, 0),
        (vec![(0, 1), (8191, 2)], 0, 5000, Status::LBA_OUT_OF_RANGE, 1),
        (vec![(0, 8), (16, 8)], 0, 23, Status::OVERLAPPING_RANGE, 1),
    ] {
        let (command, list) = copy(&ranges, format, destination);
        let finished = link.execute(command, list);
        assert_eq!(finished.status, expected.dnr());
        assert_eq!(finished.result, result);
    }
    let (mut command, list) = copy(&[(0, 1)], 0, 5000);
    command.dwords[2] = U32::new(2 << 8);
    assert_is(status(&mut link, command, list), Status::INVALID_FIELD);
    assert!(link.memory.volumes[0] == before);
}

#[test]
fn a_failed_copy_tells_which_range() {
    let mut link = io_queue(HostConfig::default());
    let poison = command(NvmOpcode::WriteUncorrectable, 1, 800, 8);
    status(&mut link, poison, Transfer::None);
    let (command, list) = copy(&[(0, 8), (8, 8), (790, 20), (0, 1)], 0, 5000);
    let finished = link.execute(command, list);
    assert_is(finished.status, Status::UNRECOVERED_READ_ERROR);
    assert_eq!(finished.result, 2);
}

#[test]
fn a_disabled_association_executes_nothing() {
    let mut link = io_queue(HostConfig::default());
    link.host.hold_r2ts = true;
    let before = link.memory.volumes[1].clone();
    let write = command(NvmOpcode::Write, 2, 0, 1);
    let waiting = link.host.submit(write, Transfer::WriteByR2t(vec![1; 4096]));
    link.run();
    link.hold_blocks = true;
    link.memory.buffers_max = 2;
    let executes = link.host.submit(command(NvmOpcode::Read, 2, 0, 1), Transfer::Read(4096));
    let starves = link.host.submit(command(NvmOpcode::Read, 2, 0, 1), Transfer::Read(4096));
    link.run();
    link.association.set_enabled(false);
    link.hold_blocks = false;
    assert_eq!(link.finish(executes).status, Status::SUCCESS);
    assert_is(link.finish(starves).status, Status::ABORTED_SQ_DELETION);
    assert_is(
        status(&mut link, command(NvmOpcode::Read, 2, 0, 1), Transfer::Read(4096)),
        Status::ABORTED_SQ_DELETION,
    );
    link.host.answer_r2ts();
    assert_is(link.finish(waiting).status, Status::ABORTED_SQ_DELETION);
    assert_eq!(link.memory.volumes[1], before);
}

#[test]
fn a_new_snapshot_of_namespaces_serves_the_next_command() {
    let mut link = io_queue(HostConfig::default());
    let mut grown = namespaces();
    grown[1].capacity = 1 << 20;
    grown.truncate(2);
    link.connection.set_namespaces(grown.into_iter().map(Some).collect());
    let command_at = |namespace, lba| command(NvmOpcode::Read, namespace, lba, 1);
    assert_is(
        status(&mut link, command_at(2, 256), Transfer::Read(4096)),
        Status::LBA_OUT_OF_RANGE,
    );
    assert_is(status(&mut link, command_at(3, 0), Transfer::Read(512)), Status::INVALID_NAMESPACE);
    assert_eq!(status(&mut link, command_at(2, 255), Transfer::Read(4096)), Status::SUCCESS);
}
