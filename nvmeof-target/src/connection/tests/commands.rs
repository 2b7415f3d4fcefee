//! What becomes of commands whatever they are: slots, identifiers, data pointers, replies.

use super::*;
use crate::seam::Reply;
use crate::testing::{Host, Transfer};
use core::time::Duration;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32};

#[test]
fn only_connect_before_connect() {
    let mut link = fresh();
    link.host = Host::new(HostConfig::default());
    link.run();
    let early = link.execute(admin(AdminOpcode::Identify), Transfer::Read(4096));
    assert_eq!(early.status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    link.hold_events = true;
    let connect = link.host.connect(0, 0xFFFF, "nqn.s", "nqn.h");
    link.run();
    let again = link.host.connect(0, 0xFFFF, "nqn.s", "nqn.h");
    assert_eq!(link.finish(again).status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    let event = link.events.pop().unwrap();
    assert_eq!(event.data.len(), 1024);
    // A Connect that failed may be followed by another.
    let status = u16::from(Status::CONNECT_CONTROLLER_BUSY);
    let refusal = Reply { status, result: 0, data: vec![], role: None };
    link.connection.reply(event.slot, refusal);
    assert_eq!(link.finish(connect).status, Status::CONNECT_CONTROLLER_BUSY);
    link.hold_events = false;
    let connect = link.host.connect(0, 0xFFFF, "nqn.s", "nqn.h");
    assert_eq!(link.finish(connect).status, Status::SUCCESS);
    let connect = link.host.connect(0, 0xFFFF, "nqn.s", "nqn.h");
    assert_eq!(link.finish(connect).status, Status::COMMAND_SEQUENCE_ERROR.dnr());
}

/// As one that the target has refused.
#[test]
fn a_connect_that_fails_before_the_target_sees_it_may_be_followed_by_another() {
    let mut link = Link::new(digests(), Config::default(), memory(), &namespaces());
    link.run();
    link.host.spoil_next_data_digest = true;
    let connect = link.host.connect(0, 0xFFFF, "nqn.s", "nqn.h");
    assert_eq!(link.finish(connect).status, Status::TRANSIENT_TRANSPORT_ERROR);
    let mut too_much = Command::new_zeroed();
    too_much.opcode = storage_spec::nvme::command::FABRICS_OPCODE;
    too_much.namespace_id = U32::new(1);
    let refused = link.execute(too_much, Transfer::Write(vec![1; 8196]));
    assert_eq!(refused.status, Status::DATA_SGL_LENGTH_INVALID.dnr());
    let connect = link.host.connect(0, 0xFFFF, "nqn.s", "nqn.h");
    assert_eq!(link.finish(connect).status, Status::SUCCESS);
}

#[test]
fn admin_commands_go_to_the_target() {
    for host in [HostConfig::default(), digests()] {
        let mut link = admin_queue(host);
        for len in [4, 4096, 5000, 65_536] {
            let finished = link.execute(admin(AdminOpcode::Identify), Transfer::Read(len));
            assert_eq!(finished.status, Status::SUCCESS);
            assert!(finished.data.iter().enumerate().all(|(at, &byte)| byte == at as u8));
        }
        for len in [4, 4096, 8192] {
            let data = bytes(len, 5);
            let crc = u64::from(storage_spec::crc32c::checksum(&data));
            let set = admin(AdminOpcode(0x81));
            for form in [Transfer::Write, Transfer::WriteByR2t] {
                let finished = link.execute(set, form(data.clone()));
                assert_eq!((finished.status, finished.result), (Status::SUCCESS, crc));
            }
        }
        let too_much = Transfer::Write(vec![0; 8193]);
        let finished = link.execute(admin(AdminOpcode(0x81)), too_much);
        assert_eq!(finished.status, Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
}

#[test]
fn a_reply_is_cut_or_filled_to_what_the_host_has_room_for() {
    let mut link = admin_queue(HostConfig::default());
    link.hold_events = true;
    for (data, expected) in [
        (vec![7; 600], vec![7; 512]),
        (vec![7; 2], {
            let mut filled = vec![0; 512];
            filled[..2].fill(7);
            filled
        }),
    ] {
        let command_id = link.host.submit(admin(AdminOpcode::GetLogPage), Transfer::Read(512));
        link.run();
        let event = link.events.pop().unwrap();
        link.connection.reply(event.slot, Reply { status: 0, result: 0, data, role: None });
        assert_eq!(link.finish(command_id).data, expected);
    }
}

#[test]
fn a_result_needs_a_response() {
    let mut link = admin_queue(HostConfig::default());
    link.hold_events = true;
    for (result, by_flag) in [(0, true), (5, false)] {
        let command_id = link.host.submit(admin(AdminOpcode::GetFeatures), Transfer::Read(8));
        link.run();
        let slot = link.events.pop().unwrap().slot;
        let reply = Reply { status: 0, result, data: vec![1; 8], role: None };
        link.connection.reply(slot, reply);
        let finished = link.finish(command_id);
        assert_eq!((finished.result, finished.by_flag), (result, by_flag));
    }
}

#[test]
fn data_in_the_capsule_of_a_command_that_takes_none() {
    for (opcode, identifier) in [(NvmOpcode::Flush, 0x5A), (NvmOpcode::Write, 0x5A)] {
        let mut link = io_queue(digests());
        let flush = link.host.submit(command(NvmOpcode::Flush, 1, 0, 1), Transfer::None);
        link.host.take_output();
        let mut command = command(opcode, 1, 0, 1);
        command.command_id = U16::new(flush);
        command.flags = 0x40;
        command.sgl.identifier = identifier;
        command.sgl.length = U32::new(512);
        link.host.capsule(&command, &[1; 512]);
        assert_eq!(link.finish(flush).status, Status::INVALID_FIELD.dnr());
    }
}

#[test]
fn a_command_identifier_in_use_is_refused() {
    let mut link = io_queue(HostConfig::default());
    link.hold_blocks = true;
    let read = link.host.submit(command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(512));
    link.run();
    let mut again = command(NvmOpcode::Flush, 1, 0, 1);
    again.command_id = U16::new(read);
    again.flags = 0x40;
    link.host.capsule(&again, &[]);
    // The host knows one command by that name, so that it takes the refusal for that one's end.
    assert_eq!(link.finish(read).status, Status::COMMAND_ID_CONFLICT.dnr());
    link.connection.close();
    link.complete(0);
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn in_capsule_data_may_be_off() {
    let config = Config { in_capsule_max: 0, ..Config::default() };
    let host = HostConfig { in_capsule_max: 0, ..HostConfig::default() };
    let mut link = Link::connected(host, config, memory(), &namespaces(), 1);
    let write = command(NvmOpcode::Write, 1, 0, 1);
    assert_eq!(link.execute(write, Transfer::Write(vec![5; 512])).status, Status::SUCCESS);
    assert_eq!(link.connection.counters().r2ts, 1);
}

#[test]
fn h2c_data_arrive_in_pieces() {
    for host in [HostConfig::default(), digests()] {
        for h2c_data_max in [4, 1000, 4096, 65_536] {
            let mut link = io_queue(HostConfig { h2c_data_max, ..host });
            let data = bytes(20_480, 3);
            let write = command(NvmOpcode::Write, 1, 3, 40);
            let finished = link.execute(write, Transfer::Write(data.clone()));
            assert_eq!(finished.status, Status::SUCCESS);
            assert_eq!(link.memory.volumes[0][3 << 9..43 << 9], data);
            // The write begins within a page, so that its PDUs cut whole ones.
            let passes = link.connection.counters().digest_second_pass;
            assert_eq!(passes > 0, host.data_digest && h2c_data_max < 65_536);
        }
    }
}

#[test]
fn sq_head_counts_the_entries() {
    let host = HostConfig { flow_control_disabled: false, entries: 4, ..HostConfig::default() };
    let mut link = io_queue(host);
    let mut heads = vec![];
    for _ in 0..5 {
        link.execute(command(NvmOpcode::Flush, 1, 0, 1), Transfer::None);
        heads.push(link.connection.sq_head);
    }
    assert_eq!(heads, [2, 3, 0, 1, 2]);
}

#[test]
fn commands_before_connect_count_as_well() {
    let host = HostConfig { flow_control_disabled: false, entries: 3, ..HostConfig::default() };
    let mut link = Link::new(host, Config::default(), memory(), &namespaces());
    link.run();
    for _ in 0..2 {
        link.execute(admin(AdminOpcode::KeepAlive), Transfer::None);
    }
    let connect = link.host.connect(0, 1, "nqn.s", "nqn.h");
    assert_eq!(link.finish(connect).status, Status::SUCCESS);
    assert_eq!(link.connection.sq_head, 0);
}

/// Sends the capsule that the host would, changed; the status that comes back.
fn changed(change: fn(&mut Command), in_capsule: bool) -> Status {
    let mut link = io_queue(HostConfig::default());
    let write = command(NvmOpcode::Write, 1, 0, 1);
    let data = vec![1; 512];
    let form = if in_capsule { Transfer::Write } else { Transfer::WriteByR2t };
    let command_id = link.host.submit(write, form(data.clone()));
    link.host.take_output();
    let mut command = write;
    command.command_id = U16::new(command_id);
    command.flags = 0x40;
    command.sgl.length = U32::new(512);
    command.sgl.identifier = if in_capsule { 0x01 } else { 0x5A };
    change(&mut command);
    link.host.capsule(&command, if in_capsule { &data } else { &[] });
    link.finish(command_id).status
}

#[test]
fn the_data_pointer_is_checked() {
    type Change = fn(&mut Command);
    let cases: [(Change, bool, Status); 8] = [
        (|_| {}, true, Status::SUCCESS),
        (|_| {}, false, Status::SUCCESS),
        (|command| command.sgl.address = 4.into(), true, Status::SGL_OFFSET_INVALID.dnr()),
        (|command| command.flags = 0, true, Status::INVALID_FIELD.dnr()),
        (|command| command.flags = 0, false, Status::INVALID_FIELD.dnr()),
        (|command| command.sgl.identifier = 0x00, true, Status::SGL_TYPE_INVALID.dnr()),
        (
            |command| command.sgl.length = U32::new(1024),
            false,
            Status::DATA_SGL_LENGTH_INVALID.dnr(),
        ),
        (|command| command.sgl.length = U32::new(508), true, Status::DATA_SGL_LENGTH_INVALID.dnr()),
    ];
    for (index, (change, in_capsule, expected)) in cases.into_iter().enumerate() {
        assert_eq!(changed(change, in_capsule), expected, "case {index}");
    }
}

#[test]
fn commands_beyond_the_slots_wait_in_the_stream() {
    let mut link = io_queue(HostConfig { entries: 4, ..HostConfig::default() });
    link.hold_blocks = true;
    let reads: Vec<u16> = (0..7)
        .map(|_| link.host.submit(command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(512)))
        .collect();
    link.run();
    assert!(link.connection.blocked());
    assert_eq!(link.memory.pending(), 4);
    link.hold_blocks = false;
    for read in reads {
        assert_eq!(link.finish(read).status, Status::SUCCESS);
    }
}

#[test]
fn commands_wait_for_buffers() {
    let mut link = io_queue(HostConfig::default());
    link.hold_blocks = true;
    link.memory.buffers_max = 1;
    let read = command(NvmOpcode::Read, 1, 0, 1);
    let write = command(NvmOpcode::Write, 1, 8, 1);
    let first = link.host.submit(read, Transfer::Read(512));
    let second = link.host.submit(read, Transfer::Read(512));
    let third = link.host.submit(write, Transfer::WriteByR2t(vec![1; 512]));
    let fourth = link.host.submit(write, Transfer::Write(vec![2; 512]));
    link.run();
    assert!(link.connection.blocked() && link.connection.starved());
    // Both that wait in a slot and the one that waits in the stream can be aborted.
    assert!(link.connection.abort(third) && link.connection.abort(fourth));
    assert!(!link.connection.abort(fourth) && !link.connection.abort(first));
    link.hold_blocks = false;
    assert_eq!(link.finish(first).status, Status::SUCCESS);
    assert_eq!(link.finish(second).status, Status::SUCCESS);
    assert_eq!(link.finish(third).status, Status::ABORT_REQUESTED);
    assert_eq!(link.finish(fourth).status, Status::ABORT_REQUESTED);
    assert_eq!(link.connection.counters().aborted, 2);
    let flush = link.execute(command(NvmOpcode::Flush, 1, 0, 1), Transfer::None);
    assert_eq!(flush.status, Status::SUCCESS, "the next in the stream is not aborted");
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn abort_tells_the_truth() {
    let mut link = io_queue(HostConfig::default());
    link.hold_blocks = true;
    link.host.hold_r2ts = true;
    let before = link.memory.volumes[0].clone();
    let write = command(NvmOpcode::Write, 1, 8, 1);
    let awaits_data = link.host.submit(write, Transfer::WriteByR2t(vec![1; 512]));
    let executes = link.host.submit(write, Transfer::Write(vec![2; 512]));
    link.run();
    link.wire_room = 0;
    let r2t_not_sent = link.host.submit(write, Transfer::WriteByR2t(vec![3; 512]));
    link.run();
    assert!(link.connection.abort(awaits_data));
    assert!(link.connection.abort(r2t_not_sent));
    assert!(!link.connection.abort(executes));
    assert!(!link.connection.abort(9999));
    link.wire_room = 1;
    link.run();
    assert_eq!(link.finish(r2t_not_sent).status, Status::ABORT_REQUESTED);
    assert!(link.host.finished(awaits_data).is_none(), "its data are still due");
    link.host.answer_r2ts();
    assert_eq!(link.finish(awaits_data).status, Status::ABORT_REQUESTED);
    assert_eq!(link.memory.volumes[0], before);
    link.hold_blocks = false;
    assert_eq!(link.finish(executes).status, Status::SUCCESS);
}

#[test]
fn traffic_is_told_to_the_association() {
    let mut link = io_queue(HostConfig::default());
    link.now += Duration::from_secs(5);
    link.execute(command(NvmOpcode::Flush, 1, 0, 1), Transfer::None);
    assert_eq!(link.association.last_traffic(), link.now);
}

#[test]
fn a_reply_after_the_end_is_ignored() {
    let mut link = admin_queue(HostConfig::default());
    link.hold_events = true;
    link.host.submit(admin(AdminOpcode::AsyncEventRequest), Transfer::None);
    link.run();
    link.connection.close();
    let slot = link.events.pop().unwrap().slot;
    link.connection.reply(slot, Reply { status: 0, result: 0, data: vec![], role: None });
    assert!(link.connection.is_over() && !link.connection.wants_transmit());
}
