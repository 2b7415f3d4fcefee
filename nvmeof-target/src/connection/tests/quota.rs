//! What one connection may keep from others.

use super::*;
use crate::testing::{Transfer, command};
use core::time::Duration;
use storage_spec::nvme::command::{AdminOpcode, Command, NvmOpcode};
use zerocopy::FromZeros;

const QUOTA: usize = 64 << 10;
const COMMANDS: usize = 100;

fn bounded() -> Link {
    let config = Config { buffers_max: QUOTA, ..Config::default() };
    Link::connected(HostConfig::default(), config, memory(), &namespaces(), 1)
}

fn finish_all(link: &mut Link, ids: Vec<u16>) {
    for id in ids {
        assert_eq!(link.finish(id).status, Status::SUCCESS);
    }
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn reads_that_the_host_does_not_take_hold_so_much() {
    let mut link = bounded();
    link.wire_room = 0;
    let read = |lba| command(NvmOpcode::Read, 2, lba, 1);
    let ids: Vec<_> =
        (0..COMMANDS).map(|at| link.host.submit(read(at as u64), Transfer::Read(4096))).collect();
    link.run();
    assert_eq!(link.memory.live(), QUOTA / 4096);
    link.wire_room = usize::MAX;
    finish_all(&mut link, ids);
}

#[test]
fn what_was_given_to_be_sent_counts_until_it_is() {
    let mut link = bounded();
    let read = command(NvmOpcode::Read, 2, 0, 16);
    let first = link.host.submit(read, Transfer::Read(QUOTA));
    let second = link.host.submit(read, Transfer::Read(QUOTA));
    link.deliver(&mut |available| available);
    link.complete(0);
    let mut wire = crate::testing::Wire::new(1);
    link.connection.transmit(&mut wire);
    assert!(link.connection.starved());
    link.connection.resume(link.now, &mut link.memory);
    assert_eq!(link.memory.pending(), 0, "the second read waits for the first to be gone");
    link.host.input(&wire.bytes);
    link.connection.sent();
    finish_all(&mut link, vec![first, second]);
}

#[test]
fn writes_that_the_host_does_not_bring_leave_room_for_others() {
    let mut link = bounded();
    link.host.hold_r2ts = true;
    let write = |lba| command(NvmOpcode::Write, 2, lba, 1);
    let mut ids: Vec<_> = (0..COMMANDS)
        .map(|at| link.host.submit(write(at as u64), Transfer::WriteByR2t(bytes(4096, 3))))
        .collect();
    link.run();
    assert_eq!(link.memory.live(), QUOTA * 3 / 4 / 4096);
    // In the stream it stands before the data of those.
    ids.push(link.host.submit(write(200), Transfer::Write(bytes(4096, 5))));
    link.run();
    link.host.hold_r2ts = false;
    link.host.answer_r2ts();
    finish_all(&mut link, ids);
}

#[test]
fn data_that_do_not_come_end_the_connection() {
    let mut link = bounded();
    link.host.hold_r2ts = true;
    let write = command(NvmOpcode::Write, 2, 0, 2);
    link.host.submit(write, Transfer::WriteByR2t(bytes(8192, 3)));
    link.run();
    let start = link.now;
    link.connection.watch(start);
    link.connection.watch(start + Duration::from_secs(29));
    // Some of it comes.
    link.host.answer_r2ts();
    link.deliver(&mut |_| 1000);
    link.connection.watch(start + Duration::from_secs(31));
    link.connection.watch(start + Duration::from_secs(60));
    assert!(!link.connection.is_over() && link.connection.awaits_data());
    link.connection.watch(start + Duration::from_secs(61));
    assert!(link.connection.is_over());
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn data_that_trickle_end_the_connection() {
    let mut link = bounded();
    link.host.hold_r2ts = true;
    let write = command(NvmOpcode::Write, 2, 0, 2);
    let slow = link.host.submit(write, Transfer::WriteByR2t(bytes(8192, 3)));
    link.run();
    let start = link.now;
    link.host.answer_r2ts();
    link.host.hold_r2ts = false;
    for second in 0..120 {
        link.deliver(&mut |_| 25);
        link.connection.watch(start + Duration::from_secs(second));
        assert!(!link.connection.is_over());
    }
    // Whoever was done in time is not concerned, whatever came before in the same slot.
    link.finish(slow);
    assert_eq!(link.execute(write, Transfer::WriteByR2t(bytes(8192, 3))).status, Status::SUCCESS);
    link.host.hold_r2ts = true;
    link.host.submit(write, Transfer::WriteByR2t(bytes(8192, 3)));
    link.run();
    link.host.answer_r2ts();
    for second in 200..320 {
        link.deliver(&mut |_| 25);
        link.connection.watch(start + Duration::from_secs(second));
        assert!(!link.connection.is_over());
    }
    link.deliver(&mut |_| 25);
    link.connection.watch(start + Duration::from_secs(320));
    assert!(link.connection.is_over());
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn a_connection_that_awaits_no_data_may_be_silent() {
    let mut link = bounded();
    let write = command(NvmOpcode::Write, 2, 0, 2);
    for form in [Transfer::Write, Transfer::WriteByR2t] {
        assert_eq!(link.execute(write, form(bytes(8192, 3))).status, Status::SUCCESS);
        link.connection.watch(link.now);
        link.connection.watch(link.now + Duration::from_secs(3600));
        assert!(!link.connection.is_over());
    }
}

#[test]
fn replies_that_the_host_does_not_take_are_few() {
    let mut link = admin_queue(HostConfig::default());
    let before = link.connection.counters().events;
    link.wire_room = 0;
    let mut log = Command::new_zeroed();
    log.opcode = AdminOpcode::GetLogPage.0;
    let ids: Vec<_> = (0..30).map(|_| link.host.submit(log, Transfer::Read(1 << 20))).collect();
    link.run();
    assert_eq!(link.connection.counters().events - before, 2);
    link.wire_room = usize::MAX;
    finish_all(&mut link, ids);
}
