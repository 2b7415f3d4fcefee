//! What reservations leave to the host of a queue.

use super::*;
use crate::testing::{Transfer, command};
use std::collections::VecDeque;
use storage_spec::nvme::command::{FUSE_FIRST, FUSE_SECOND};
use zerocopy::little_endian::U32;

fn snapshot(access: Access) -> crate::seam::Namespaces {
    namespaces().into_iter().map(|namespace| Some(Namespace { access, ..namespace })).collect()
}

const READER: Access = Access { read: true, write: false };

fn deallocate() -> (Command, Transfer) {
    let mut command = command(NvmOpcode::DatasetManagement, 1, 0, 1);
    command.dwords[1] = U32::new(4);
    let mut list = vec![0; 16];
    list[4] = 8;
    (command, Transfer::Write(list))
}

fn copy() -> (Command, Transfer) {
    let command = command(NvmOpcode::Copy, 1, 64, 0x1_0000);
    (Command { dwords: [64, 0, 0, 0, 0, 0].map(U32::new), ..command }, {
        Transfer::Write(vec![0; 32])
    })
}

/// Each command with whether it reads and whether it writes.
fn commands() -> Vec<(Command, Transfer, bool, bool)> {
    let block = || Transfer::Write(vec![1; 512]);
    let (dataset, ranges) = deallocate();
    let (copy, sources) = copy();
    vec![
        (command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(512), true, false),
        (command(NvmOpcode::Compare, 1, 0, 1), block(), true, false),
        (command(NvmOpcode::Verify, 1, 0, 1), Transfer::None, true, false),
        (command(NvmOpcode::Write, 1, 0, 1), block(), false, true),
        (command(NvmOpcode::WriteZeroes, 1, 0, 1), Transfer::None, false, true),
        (command(NvmOpcode::WriteUncorrectable, 1, 0, 8), Transfer::None, false, true),
        (command(NvmOpcode::Flush, 1, 0, 1), Transfer::None, false, true),
        (dataset, ranges, false, true),
        (copy, sources, true, true),
    ]
}

#[test]
fn each_command_needs_the_access_of_its_class() {
    for access in [READER, Access::NONE, Access::ALL] {
        for (command, transfer, reads, writes) in commands() {
            let mut link = io_queue(HostConfig::default());
            link.connection.set_namespaces(snapshot(access));
            let before = link.memory.volumes.clone();
            let status = link.execute(command, transfer).status;
            let is_allowed = (!reads || access.read) && (!writes || access.write);
            let is_conflict = status == Status::RESERVATION_CONFLICT.dnr();
            assert_eq!(is_conflict, !is_allowed, "{command:?} {access:?}: {status:?}");
            assert!(is_allowed || link.memory.volumes == before);
        }
    }
}

#[test]
fn reservation_commands_go_to_the_target_whatever_the_access() {
    let mut link = io_queue(HostConfig::default());
    link.connection.set_namespaces(snapshot(Access::NONE));
    let acquire = command(NvmOpcode::ReservationAcquire, 1, 0, 1);
    let done = link.execute(acquire, Transfer::Write(vec![5; 16]));
    assert_eq!(done.status, Status::SUCCESS);
    let nowhere = command(NvmOpcode::ReservationAcquire, 9, 0, 1);
    let done = link.execute(nowhere, Transfer::Write(vec![5; 16]));
    assert_is(done.status, Status::INVALID_NAMESPACE);
}

#[test]
fn a_write_whose_data_come_after_the_reservation_is_not_executed() {
    let mut link = io_queue(HostConfig::default());
    link.host.hold_r2ts = true;
    let before = link.memory.volumes.clone();
    let write = command(NvmOpcode::Write, 1, 0, 8);
    let write = link.host.submit(write, Transfer::WriteByR2t(vec![9; 4096]));
    link.run();
    link.connection.set_namespaces(snapshot(READER));
    link.host.answer_r2ts();
    assert_is(link.finish(write).status, Status::RESERVATION_CONFLICT);
    assert_eq!(link.memory.volumes, before);
}

#[test]
fn a_fused_pair_whose_second_half_comes_after_the_reservation_fails() {
    let mut link = io_queue(HostConfig::default());
    link.host.hold_r2ts = true;
    let before = link.memory.volumes.clone();
    let [mut first, mut second] =
        [NvmOpcode::Compare, NvmOpcode::Write].map(|opcode| command(opcode, 1, 0, 1));
    (first.flags, second.flags) = (FUSE_FIRST, FUSE_SECOND);
    let same = before[0][..512].to_vec();
    let first = link.host.submit(first, Transfer::Write(same));
    let second = link.host.submit(second, Transfer::WriteByR2t(vec![9; 512]));
    link.run();
    link.connection.set_namespaces(snapshot(READER));
    link.host.answer_r2ts();
    assert_is(link.finish(first).status, Status::RESERVATION_CONFLICT);
    assert_is(link.finish(second).status, Status::ABORTED_FAILED_FUSED);
    assert_eq!(link.memory.volumes, before);
}

#[test]
fn who_is_preempted_has_nothing_begun_and_is_idle_when_the_rest_has_ended() {
    let mut link = io_queue(HostConfig::default());
    link.host.hold_r2ts = true;
    link.hold_blocks = true;
    let write = command(NvmOpcode::Write, 1, 0, 1);
    let executing = link.host.submit(write, Transfer::Write(vec![9; 512]));
    let waiting = link.host.submit(write, Transfer::WriteByR2t(vec![8; 512]));
    let elsewhere = command(NvmOpcode::Write, 2, 0, 1);
    let elsewhere = link.host.submit(elsewhere, Transfer::WriteByR2t(vec![8; 4096]));
    link.run();
    link.connection.preempt(VolumeIndex(0));
    assert!(!link.connection.is_idle_on(VolumeIndex(0)));
    assert!(link.connection.is_idle_on(VolumeIndex(1)));
    link.complete(0);
    assert!(link.connection.is_idle_on(VolumeIndex(0)));
    assert_eq!(link.finish(executing).status, Status::SUCCESS);
    link.host.answer_r2ts();
    assert_eq!(link.finish(waiting).status, Status::PREEMPTED);
    link.hold_blocks = false;
    assert_eq!(link.finish(elsewhere).status, Status::SUCCESS);
    assert_eq!(link.memory.volumes[0][0], 9);
}

#[test]
fn who_still_reads_without_end_holds_no_preemption_up() {
    let mut link = io_queue(HostConfig::default());
    link.hold_blocks = true;
    let read = |link: &mut Link| {
        let read = command(NvmOpcode::Read, 1, 0, 1);
        let read = link.host.submit(read, Transfer::Read(512));
        link.run();
        read
    };
    // Four are always under way, and each slot is used again and again.
    let mut reads: VecDeque<u16> = (0..4).map(|_| read(&mut link)).collect();
    link.connection.set_namespaces(snapshot(READER));
    link.connection.preempt(VolumeIndex(0));
    for ended in 0..40 {
        assert_eq!(link.connection.is_idle_on(VolumeIndex(0)), ended >= 4, "{ended}");
        link.complete(0);
        let oldest = reads.pop_front().unwrap();
        assert_eq!(link.finish(oldest).status, Status::SUCCESS);
        reads.push_back(read(&mut link));
        assert_eq!(link.memory.pending(), 4);
    }
    // The next preemption waits for those of its own time.
    link.connection.preempt(VolumeIndex(0));
    assert!(!link.connection.is_idle_on(VolumeIndex(0)));
}

#[test]
fn what_a_lost_connection_has_in_the_store_is_waited_for() {
    let mut link = io_queue(HostConfig::default());
    link.hold_blocks = true;
    let write = command(NvmOpcode::Write, 1, 0, 1);
    link.host.submit(write, Transfer::Write(vec![9; 512]));
    link.run();
    link.connection.close();
    link.connection.preempt(VolumeIndex(0));
    assert!(!link.connection.is_idle_on(VolumeIndex(0)));
    link.complete(0);
    assert!(link.connection.is_idle_on(VolumeIndex(0)));
}

#[test]
fn a_long_deallocation_stops_at_the_reservation() {
    let size = 80_usize << 20;
    let namespace = Namespace { capacity: size as u64, ..namespaces()[1] };
    let namespace = Namespace { volume: VolumeIndex(0), ..namespace };
    let mut memory = Memory::new(&[]);
    memory.volumes.push(vec![1; size]);
    let host = HostConfig::default();
    let mut link = Link::connected(host, Config::default(), memory, &[namespace], 1);
    let (command, _) = deallocate();
    let mut list = vec![0; 16];
    list[4..8].copy_from_slice(&(size as u32 / 4096).to_le_bytes());
    link.hold_blocks = true;
    let long = link.host.submit(command, Transfer::Write(list));
    link.run();
    link.connection.set_namespaces([Some(Namespace { access: READER, ..namespace })].into());
    link.connection.preempt(VolumeIndex(0));
    assert!(!link.connection.is_idle_on(VolumeIndex(0)));
    link.complete(0);
    assert!(link.connection.is_idle_on(VolumeIndex(0)));
    assert_is(link.finish(long).status, Status::RESERVATION_CONFLICT);
    assert_eq!(link.memory.volumes[0][size - 1], 1);
}
