//! What ends tasks before their time, and what waits for that.

use super::charges::copy;
use super::*;
use crate::io::Buffer;
use crate::testing::PlainBuf;
use core::ops::Range;

const TASK_ABORTED: u8 = 0x40;

/// Two sessions, of which the second is another host's.
fn two(fabric: &mut Fabric, config: InitiatorConfig) -> [LinkId; 2] {
    let one = fabric.log_in(InitiatorConfig::default());
    let name = "iqn.2026-01.test:other".into();
    [one, fabric.log_in(InitiatorConfig { name, ..config })]
}

/// Puts what the initiator has said so far into the stream, but for the last bytes.
fn send_but(fabric: &mut Fabric, id: LinkId, count: usize) -> Vec<u8> {
    let link = fabric.link(id);
    let mut bytes = link.initiator.take_output();
    let rest = bytes.split_off(bytes.len() - count);
    link.stream.append(&mut bytes);
    fabric.run();
    rest
}

/// Takes what has arrived for the buffer of a write that is being received.
fn take_landing(fabric: &mut Fabric, id: LinkId) -> (PlainBuf, Range<usize>) {
    fabric.link(id).connection.take_landing().expect("data are being received")
}

#[test]
fn a_reset_does_not_wait_for_data_of_a_dead_host() {
    let r#final = storage_spec::iscsi::ScsiCommandFlags::new().with_write(true).with_is_final(true);
    for has_digest in [false, true] {
        for landing in [false, true] {
            for asked in [false, true] {
                let mut fabric = fabric();
                let digests = (has_digest, has_digest);
                let [one, two] =
                    two(&mut fabric, InitiatorConfig { digests, ..Default::default() });
                let before = fabric.link(two).memory.volumes[0].clone();
                let initiator = &mut fabric.link(two).initiator;
                initiator.answers_r2t = false;
                let tag = match asked {
                    false => initiator.write(0, &write16(0, 1), &[9; 4096]),
                    true => {
                        let tag = initiator.command(0, &write16(0, 1), r#final, 4096, &[]);
                        fabric.run();
                        let r2t = fabric.link(two).initiator.r2ts.pop().expect("an R2T");
                        let transfer = r2t.transfer_tag.get();
                        fabric.link(two).initiator.data_out(tag, transfer, 0, 0, &[9; 4096], true);
                        tag
                    }
                };
                let rest = send_but(&mut fabric, two, 1000);
                let landing = landing.then(|| take_landing(&mut fabric, two));
                fabric.link(one).initiator.manage(TaskFunction::LogicalUnitReset.0, 0, 0);
                if let Some((mut buf, range)) = landing {
                    // Only the first: the other's bytes are with the socket.
                    for _ in 0..4 {
                        fabric.run_one(one);
                        fabric.listen_to(two);
                    }
                    assert_eq!(managed(&mut fabric, one), Some(TaskResponse::FunctionComplete));
                    let len = range.len().min(rest.len());
                    buf.bytes_mut()[range.start..range.start + len].copy_from_slice(&rest[..len]);
                    let link = fabric.link(two);
                    link.connection.landed(buf, range, len, &mut link.memory);
                    link.stream.extend_from_slice(&rest[len..]);
                } else {
                    fabric.run();
                    assert_eq!(managed(&mut fabric, one), Some(TaskResponse::FunctionComplete));
                    fabric.link(two).stream.extend_from_slice(&rest);
                }
                fabric.run();
                let ended = fabric.link(two).initiator.finished(tag).expect("it is told");
                assert_eq!(ended.status, TASK_ABORTED);
                assert_eq!(fabric.read(two, 0, &[0; 6], 0).sense, Some((6, 0x2903)));
                good(&fabric.read(two, 0, &read16(0, 1), 4096));
                assert!(fabric.link(two).memory.volumes[0] == before);
                let connection = &fabric.link(two).connection;
                assert_eq!((connection.held(), connection.awaits_data()), (0, false));
                assert_eq!(connection.counters().rejects, 0);
                assert_eq!(fabric.link(two).memory.live(), 0);
            }
        }
    }
}

#[test]
fn a_command_that_holds_the_stream_up_is_aborted_at_once() {
    let flags = storage_spec::iscsi::ScsiCommandFlags::new().with_write(true);
    for data in [&[][..], &[9; 4096]] {
        let mut fabric = fabric();
        let [one, two] = two(&mut fabric, InitiatorConfig::default());
        fabric.link(two).memory.buffers_max = 0;
        let initiator = &mut fabric.link(two).initiator;
        // Its data come with it, or unasked behind it.
        let tag = initiator.command(0, &write16(0, 2), flags, 8192, data);
        fabric.run();
        assert!(fabric.link(two).connection.blocked());
        fabric.link(one).initiator.manage(TaskFunction::LogicalUnitReset.0, 0, 0);
        fabric.run();
        assert_eq!(managed(&mut fabric, one), Some(TaskResponse::FunctionComplete));
        let ended = fabric.link(two).initiator.finished(tag).expect("it is told");
        assert_eq!(ended.status, TASK_ABORTED);
        let connection = &fabric.link(two).connection;
        assert!(!connection.blocked() && !connection.awaits_data());
        let at = data.len() as u32;
        let rest = vec![9; 8192 - data.len()];
        fabric.link(two).initiator.data_out(tag, TAG_NONE, 0, at, &rest, true);
        fabric.link(two).memory.buffers_max = usize::MAX;
        assert_eq!(fabric.read(two, 0, &[0; 6], 0).sense, Some((6, 0x2903)));
        good(&fabric.read(two, 0, &read16(0, 1), 4096));
        assert_ne!(fabric.link(two).memory.volumes[0][0], 9);
    }
}

/// PERSISTENT RESERVE OUT.
fn reserve_out(fabric: &mut Fabric, id: LinkId, action: u8, keys: (u64, u64)) -> u32 {
    let cdb = [0x5F, action, 5, 0, 0, 0, 0, 0, 24, 0];
    let list = [keys.0.to_be_bytes(), keys.1.to_be_bytes(), [0; 8]].concat();
    fabric.link(id).initiator.write(0, &cdb, &list)
}

/// Two hosts registered with unit 0, which the second holds for registrants.
fn registered(config: InitiatorConfig) -> (Fabric, [LinkId; 2]) {
    let mut fabric = fabric();
    let ids = two(&mut fabric, config);
    for (id, key) in ids.into_iter().zip([1, 2]) {
        let tag = reserve_out(&mut fabric, id, 0, (0, key));
        good(&fabric.finish(id, tag));
    }
    let tag = reserve_out(&mut fabric, ids[1], 1, (2, 0));
    good(&fabric.finish(ids[1], tag));
    (fabric, ids)
}

const PREEMPT_AND_ABORT: u8 = 5;

#[test]
fn preempt_and_abort_waits_for_what_is_in_flight() {
    let (mut fabric, [one, two]) = registered(InitiatorConfig::default());
    fabric.link(two).hold_blocks = true;
    let read = fabric.link(two).initiator.read(0, &read16(0, 1), 4096);
    let write = fabric.link(two).initiator.write(0, &write16(1, 1), &[9; 4096]);
    let other = fabric.link(two).initiator.read(1, &read16(0, 1), 512);
    fabric.run();
    // The preemptor's own go on.
    fabric.link(one).hold_blocks = true;
    let own = fabric.link(one).initiator.write(0, &write16(2, 1), &[7; 4096]);
    let preempt = reserve_out(&mut fabric, one, PREEMPT_AND_ABORT, (1, 2));
    for _ in 0..2 {
        fabric.run();
        assert_eq!(fabric.link(one).initiator.finished(preempt), None, "the store has a command");
        fabric.link(two).complete(0);
    }
    // What is left there is of another unit, and the preemptor's.
    fabric.run();
    good(&fabric.link(one).initiator.finished(preempt).expect("nothing is in flight"));
    assert_eq!((fabric.link(one).memory.pending(), fabric.link(two).memory.pending()), (1, 1));
    for tag in [read, write] {
        let ended = fabric.link(two).initiator.finished(tag).expect("it is told");
        assert_eq!((ended.status, ended.data.len()), (TASK_ABORTED, 0));
    }
    for (id, tag) in [(one, own), (two, other)] {
        fabric.link(id).hold_blocks = false;
        good(&fabric.finish(id, tag));
    }
    assert_eq!(fabric.read(two, 0, &[0; 6], 0).sense, Some((6, 0x2A05)));
    let refused = fabric.write(two, 0, &write16(0, 1), &[9; 4096]);
    assert_eq!(refused.status, 0x18, "RESERVATION CONFLICT");
}

#[test]
fn a_write_half_sent_is_preempted_at_once() {
    let (mut fabric, [one, two]) = registered(InitiatorConfig::default());
    let before = fabric.link(two).memory.volumes[0].clone();
    let tag = fabric.link(two).initiator.write(0, &write16(0, 1), &[9; 4096]);
    let rest = send_but(&mut fabric, two, 1000);
    let preempt = reserve_out(&mut fabric, one, PREEMPT_AND_ABORT, (1, 2));
    good(&fabric.finish(one, preempt));
    fabric.link(two).stream.extend_from_slice(&rest);
    assert_eq!(fabric.finish(two, tag).status, TASK_ABORTED);
    assert!(fabric.link(two).memory.volumes[0] == before);
}

#[test]
fn a_copy_that_writes_the_volume_through_another_unit_is_preempted() {
    for (of_unit, [source, destination]) in [(1, [1, 0]), (0, [1, 0]), (1, [0, 1])] {
        let (mut fabric, [one, two]) = registered(InitiatorConfig::default());
        fabric.link(two).hold_blocks = true;
        let (cdb, list) = copy(source, destination, 8);
        let tag = fabric.link(two).initiator.write(of_unit, &cdb, &list);
        fabric.run();
        // It has read, and writes.
        fabric.link(two).complete(0);
        fabric.run();
        let preempt = reserve_out(&mut fabric, one, PREEMPT_AND_ABORT, (1, 2));
        fabric.run();
        assert_eq!(fabric.link(one).initiator.finished(preempt), None, "it writes still");
        fabric.link(two).complete(0);
        good(&fabric.finish(one, preempt));
        assert_eq!(fabric.finish(two, tag).status, TASK_ABORTED);
        assert_eq!(fabric.link(two).memory.pending(), 0);
        // RECEIVE COPY STATUS: it has failed.
        let cdb = [0x84, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0];
        assert_eq!(fabric.read(two, 1, &cdb, 12).data[4], 2);
    }
}

#[test]
fn a_preempted_host_that_goes_is_waited_for_too() {
    let (mut fabric, [one, two]) = registered(InitiatorConfig::default());
    fabric.link(two).hold_blocks = true;
    fabric.link(two).initiator.write(0, &write16(1, 1), &[9; 4096]);
    fabric.run();
    let preempt = reserve_out(&mut fabric, one, PREEMPT_AND_ABORT, (1, 2));
    fabric.run();
    fabric.cut(two);
    fabric.run();
    assert_eq!(fabric.link(one).initiator.finished(preempt), None, "the store has its write");
    fabric.link(two).complete(0);
    good(&fabric.finish(one, preempt));
    assert!(!fabric.links.contains_key(&two));
}
