//! Sessions against a store whose requests end when the test says.

mod aborts;
mod charges;
mod pieces;
mod restarts;
mod turns;

use super::*;
use crate::target::Terms;
use crate::testing::{Fabric, Finished, InitiatorConfig, LinkId, TARGET};
use proptest::prelude::*;
use storage_spec::iscsi::{FINAL, Opcode, R2t, TAG_NONE, TaskFunction, TaskResponse};
use zerocopy::{FromBytes, IntoBytes};

const SIZE: usize = 1 << 20;

fn fabric() -> Fabric {
    Fabric::new(&[SIZE, SIZE], Terms::default())
}

/// READ(16) or WRITE(16) of a range of blocks.
fn range(opcode: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn read16(lba: u64, blocks: u32) -> [u8; 16] {
    range(0x88, lba, blocks)
}

fn write16(lba: u64, blocks: u32) -> [u8; 16] {
    range(0x8A, lba, blocks)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 13 + at * 3) as u8 ^ seed).collect()
}

fn good(finished: &Finished) {
    assert_eq!((finished.status, finished.residual), (0, 0), "{finished:?}");
}

/// The response to a task management request.
fn managed(fabric: &mut Fabric, id: LinkId) -> Option<TaskResponse> {
    let pdu = fabric.link(id).initiator.take(Opcode::TaskManagementResponse)?;
    Some(TaskResponse(pdu.header[2]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever was agreed on and however bytes arrive, what is written is what is read.
    #[test]
    fn data_survive_every_way_of_moving_them(
        digests: (bool, bool),
        immediate: bool,
        initial_r2t: bool,
        receive in 0..5_usize,
        first in 0..3_usize,
        burst in 0..4_usize,
        moves in prop::collection::vec((any::<bool>(), 0..2000_u64, 1..300_u32, any::<u8>()), 1..6),
        chunks in prop::collection::vec(1..9000_usize, 1..20),
    ) {
        let terms = Terms { initial_r2t, ..Terms::default() };
        let mut fabric = Fabric::new(&[SIZE, SIZE], terms);
        let burst_max = [1024, 8192, 70_000, 1 << 20][burst];
        let id = fabric.log_in(InitiatorConfig {
            digests,
            immediate,
            receive_max: [512, 4096, 8192, 12_000, 262_144][receive],
            first_burst: [512, 4096, 65_536][first].min(burst_max),
            burst_max,
            send_max: 4096,
            unasked: !initial_r2t,
            ..InitiatorConfig::default()
        });
        let mut expected = fabric.link(id).memory.volumes[1].clone();
        let mut turn = 0;
        for (writes, lba, blocks, seed) in moves {
            let blocks = blocks.min((SIZE / 512) as u32 - lba as u32);
            let span = lba as usize * 512..(lba as usize + blocks as usize) * 512;
            let tag = if writes {
                let data = pattern(span.len(), seed);
                expected[span.clone()].copy_from_slice(&data);
                fabric.link(id).initiator.write(1, &write16(lba, blocks), &data)
            } else {
                fabric.link(id).initiator.read(1, &read16(lba, blocks), span.len() as u32)
            };
            fabric.run_in_chunks(&mut |available| {
                turn += 1;
                chunks[turn % chunks.len()].min(available)
            });
            let finished = fabric.finish(id, tag);
            good(&finished);
            if !writes {
                prop_assert!(finished.data == expected[span]);
            }
        }
        prop_assert!(fabric.link(id).memory.volumes[1] == expected);
        let counters = *fabric.link(id).connection.counters();
        prop_assert_eq!((counters.rejects, counters.stray_data, counters.busy), (0, 0, 0));
        prop_assert_eq!(counters.data_digest_errors, 0);
    }

    /// A connection may be lost at any byte; nothing is left behind.
    #[test]
    fn a_connection_is_lost_at_any_byte(cut in 0..12_000_usize, hold: bool) {
        let mut fabric = fabric();
        let id = fabric.open(InitiatorConfig { send_max: 1024, ..InitiatorConfig::default() });
        fabric.link(id).initiator.login(TARGET);
        let (mut left, mut sent) = (cut, 0);
        for step in 0..6_u64 {
            fabric.link(id).hold_blocks = hold;
            let mut budget = left;
            fabric.run_in_chunks(&mut |available| {
                let count = available.min(97).min(budget.max(1));
                budget = budget.saturating_sub(count);
                sent += count;
                count
            });
            left = budget;
            if left == 0 || !fabric.links.contains_key(&id) {
                break;
            }
            if fabric.link(id).initiator.is_in {
                let initiator = &mut fabric.link(id).initiator;
                initiator.write(0, &write16(step, 1), &[1; 4096]);
                initiator.read(0, &read16(0, 4), 16_384);
                initiator.manage(TaskFunction::AbortTaskSet.0, 0, 0);
            }
        }
        if fabric.links.contains_key(&id) {
            fabric.cut(id);
            while let Some(link) = fabric.links.get_mut(&id) {
                prop_assert!(link.memory.pending() > 0, "only the store keeps it");
                link.complete(0);
                fabric.run();
            }
        }
        prop_assert_eq!(fabric.target.sessions(), 0);
    }

    #[test]
    fn any_bytes_end_in_an_answer_or_an_end(bytes: Vec<u8>, logged_in: bool) {
        let mut fabric = fabric();
        let id = match logged_in {
            true => fabric.log_in(InitiatorConfig::default()),
            false => fabric.open(InitiatorConfig::default()),
        };
        fabric.link(id).stream = bytes;
        fabric.run();
    }
}

#[test]
fn a_header_may_end_anywhere() {
    for cut in 1..56 {
        let mut fabric = fabric();
        let config = InitiatorConfig { digests: (true, true), ..InitiatorConfig::default() };
        let id = fabric.log_in(config);
        let tag = fabric.link(id).initiator.write(0, &write16(0, 1), &[7; 4096]);
        let mut is_first = true;
        fabric.run_in_chunks(&mut |available| {
            if core::mem::take(&mut is_first) { cut } else { available }
        });
        good(&fabric.finish(id, tag));
    }
}

#[test]
fn aligned_data_need_no_second_pass_for_their_digests() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig {
        digests: (true, true),
        receive_max: 65_536,
        burst_max: 1 << 20,
        ..InitiatorConfig::default()
    });
    let data = pattern(SIZE, 3);
    good(&fabric.write(id, 0, &write16(0, 256), &data));
    assert!(fabric.read(id, 0, &read16(0, 256), SIZE as u32).data == data);
    // Reads that begin within a page are cut where pages end.
    let counters = *fabric.link(id).connection.counters();
    assert_eq!((counters.digest_second_pass, counters.bytes_written), (0, SIZE as u64));
    let finished = fabric.read(id, 1, &read16(3, 400), 400 * 512);
    assert!(finished.data == fabric.link(id).memory.volumes[1][3 * 512..403 * 512]);
    // Of the first page and the last only a part is sent.
    assert_eq!(fabric.link(id).connection.counters().digest_second_pass, 2);
}

#[test]
fn residuals_are_exact() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    let residual = |fabric: &mut Fabric, blocks, expected| {
        let finished = fabric.read(id, 0, &read16(0, blocks), expected);
        (finished.data.len(), finished.residual)
    };
    assert_eq!(residual(&mut fabric, 1, 4096), (4096, 0));
    assert_eq!(residual(&mut fabric, 1, 10_000), (4096, 4096 - 10_000));
    assert_eq!(residual(&mut fabric, 2, 4096), (4096, 4096));
    assert_eq!(residual(&mut fabric, 1, 200), (200, 3896));
    let inquiry = fabric.read(id, 0, &[0x12, 0, 0, 0, 36, 0], 255);
    assert_eq!((inquiry.data.len(), inquiry.residual), (36, 36 - 255));
    // Writes: the blocks that come whole are written.
    let before = fabric.link(id).memory.volumes[0].clone();
    let write = |fabric: &mut Fabric, blocks, len| {
        let finished = fabric.write(id, 0, &write16(0, blocks), &vec![0xBB; len]);
        assert_eq!(finished.status, 0, "{finished:?}");
        finished.residual
    };
    assert_eq!(write(&mut fabric, 1, 0), 4096);
    assert_eq!(write(&mut fabric, 1, 200), 3896);
    assert!(fabric.link(id).memory.volumes[0] == before);
    assert_eq!(write(&mut fabric, 2, 4096), 4096);
    assert_eq!(write(&mut fabric, 1, 10_000), 4096 - 10_000);
    let volume = &fabric.link(id).memory.volumes[0];
    assert!(volume[..4096].iter().all(|byte| *byte == 0xBB) && volume[4096..] == before[4096..]);
    // Failed: nothing was moved.
    let finished = fabric.read(id, 0, &read16(1 << 40, 1), 4096);
    assert_eq!((finished.status, finished.residual), (2, -4096));
}

/// A session that is left alone with one write of two blocks whose R2T has come.
fn asked() -> (Fabric, LinkId, u32, R2t) {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig { immediate: false, ..InitiatorConfig::default() });
    fabric.link(id).initiator.answers_r2t = false;
    let tag = fabric.link(id).initiator.write(0, &write16(0, 2), &[5; 8192]);
    fabric.run();
    let r2t = fabric.link(id).initiator.r2ts.pop().expect("an R2T");
    assert_eq!((r2t.buffer_offset.get(), r2t.desired_len.get()), (0, 8192));
    (fabric, id, tag, r2t)
}

#[test]
fn data_that_were_asked_for_are_taken() {
    let (mut fabric, id, tag, r2t) = asked();
    let transfer = r2t.transfer_tag.get();
    let initiator = &mut fabric.link(id).initiator;
    initiator.data_out(tag, transfer, 0, 0, &[5; 4096], false);
    initiator.data_out(tag, transfer, 1, 4096, &[6; 4096], true);
    good(&fabric.finish(id, tag));
    assert_eq!(fabric.link(id).memory.volumes[0][4095..4097], [5, 6]);
}

#[test]
fn data_out_of_line_fail_their_command_alone() {
    type Parts = Vec<(u32, u32, usize, bool)>;
    let wrong: [Parts; 6] = [
        vec![(1, 0, 8192, true)],
        vec![(27, 0, 8192, true)],
        vec![(0, 4096, 4096, true)],
        vec![(0, 0, 4096, true)],
        vec![(0, 0, 12_288, true)],
        vec![(0, 0, 4096, false), (0, 4096, 4096, true)],
    ];
    for parts in wrong {
        let (mut fabric, id, tag, r2t) = asked();
        let before = fabric.link(id).memory.volumes[0].clone();
        for &(sn, offset, len, last) in &parts {
            let transfer = r2t.transfer_tag.get();
            let data = vec![9; len];
            fabric.link(id).initiator.data_out(tag, transfer, sn, offset, &data, last);
        }
        let finished = fabric.finish(id, tag);
        assert_eq!((finished.status, finished.sense), (2, Some((0xB, 0x0C0D))), "{parts:?}");
        assert!(fabric.link(id).memory.volumes[0] == before);
        good(&fabric.read(id, 0, &read16(0, 1), 4096));
        assert_eq!(fabric.link(id).connection.held(), 0);
    }
}

#[test]
fn data_for_nothing_are_thrown_away() {
    let (mut fabric, id, tag, r2t) = asked();
    let transfer = r2t.transfer_tag.get();
    let initiator = &mut fabric.link(id).initiator;
    initiator.data_out(tag, transfer + 1, 0, 0, &[9; 8192], true);
    initiator.data_out(tag + 7, transfer, 0, 0, &[9; 8192], true);
    initiator.data_out(tag, TAG_NONE, 0, 0, &[9; 8192], true);
    initiator.data_out(tag, transfer, 0, 0, &[5; 8192], true);
    good(&fabric.finish(id, tag));
    fabric.link(id).initiator.data_out(tag, transfer, 0, 0, &[9; 8192], true);
    good(&fabric.read(id, 0, &read16(0, 1), 4096));
    assert_eq!(fabric.link(id).connection.counters().stray_data, 4);
    assert_eq!(fabric.link(id).memory.volumes[0][..8192], [5; 8192]);
}

#[test]
fn a_wrong_digest_of_data_fails_their_command() {
    let mut fabric = fabric();
    let config = InitiatorConfig { digests: (true, true), ..InitiatorConfig::default() };
    let id = fabric.log_in(config);
    let before = fabric.link(id).memory.volumes[0].clone();
    let initiator = &mut fabric.link(id).initiator;
    let tag = initiator.write(0, &write16(0, 1), &[9; 4096]);
    let mut stream = initiator.take_output();
    stream[48 + 4 + 100] ^= 1;
    fabric.link(id).stream = stream;
    let finished = fabric.finish(id, tag);
    assert_eq!((finished.status, finished.sense), (2, Some((0xB, 0x4705))));
    let reject = fabric.link(id).initiator.take(Opcode::Reject).expect("it is told");
    assert_eq!((reject.header[2], reject.data.len()), (2, 48));
    assert!(fabric.link(id).memory.volumes[0] == before);
    // A header's ends the connection.
    let initiator = &mut fabric.link(id).initiator;
    initiator.read(0, &[0; 6], 0);
    let mut stream = initiator.take_output();
    stream[40] ^= 1;
    fabric.link(id).stream = stream;
    fabric.run();
    assert!(!fabric.links.contains_key(&id));
}

#[test]
fn numbers_out_of_the_window_are_ignored() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    let initiator = &mut fabric.link(id).initiator;
    let due = initiator.command_sn;
    assert_eq!(initiator.command_sn_max, due + u32::from(WINDOW) - 1);
    for wrong in [due - 1, due.wrapping_add(u32::from(WINDOW)), due.wrapping_sub(1 << 20)] {
        initiator.command_sn = wrong;
        initiator.write(0, &write16(0, 1), &[9; 4096]);
    }
    initiator.command_sn = due;
    good(&fabric.read(id, 0, &[0; 6], 0));
    assert_eq!(fabric.link(id).connection.counters().out_of_window, 3);
    assert_ne!(fabric.link(id).memory.volumes[0][0], 9);
    // A number that is left out can never come: the session ends.
    fabric.link(id).initiator.command_sn += 1;
    fabric.link(id).initiator.read(0, &[0; 6], 0);
    fabric.run();
    assert!(!fabric.links.contains_key(&id));
}

#[test]
fn the_window_is_as_wide_as_there_are_slots() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.link(id).hold_blocks = true;
    let tags: Vec<u32> =
        (0..WINDOW).map(|_| fabric.link(id).initiator.read(0, &read16(0, 1), 4096)).collect();
    fabric.run();
    assert_eq!(fabric.link(id).memory.pending(), usize::from(WINDOW));
    fabric.link(id).initiator.read(0, &read16(0, 1), 4096);
    fabric.run();
    assert_eq!(fabric.link(id).connection.counters().out_of_window, 1);
    fabric.link(id).hold_blocks = false;
    fabric.run();
    for tag in tags {
        good(&fabric.finish(id, tag));
    }
    let initiator = &fabric.link(id).initiator;
    // The last Data-In counts its own slot, whose response it is, as taken still.
    assert!(initiator.command_sn_max + 3 >= initiator.command_sn + u32::from(WINDOW));
}

#[test]
fn pings_are_answered_with_their_data() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    for len in [0, 1, 3, 4096] {
        let data = pattern(len, 1);
        fabric.link(id).initiator.request(Opcode::NopOut, FINAL, TAG_NONE, &data);
        fabric.run();
        let pong = fabric.link(id).initiator.take(Opcode::NopIn).expect("an answer");
        assert_eq!(pong.data, data);
    }
}

#[test]
fn who_is_silent_is_pinged_and_then_given_up() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    let due = fabric.link(id).connection.deadline().expect("a look");
    fabric.now = due;
    fabric.link(id).connection.on_deadline(due);
    // Something had come since the deadline was set.
    let due = fabric.link(id).connection.deadline().expect("another");
    fabric.now = due;
    fabric.link(id).connection.on_deadline(due);
    fabric.run();
    let ping = fabric.link(id).initiator.take(Opcode::NopIn).expect("a ping");
    let transfer = u32::from_be_bytes(ping.header[20..24].try_into().unwrap());
    assert_eq!(ping.bhs().task_tag.get(), TAG_NONE);
    assert_ne!(transfer, TAG_NONE);
    fabric.link(id).initiator.pong(transfer);
    fabric.run();
    // What came was its answer; then nothing, and nothing again.
    for _ in 0..3 {
        let due = fabric.link(id).connection.deadline().expect("another");
        fabric.now = due;
        fabric.link(id).connection.on_deadline(due);
        fabric.run();
    }
    assert!(!fabric.links.contains_key(&id), "the second ping was not answered");
    assert_eq!(fabric.target.sessions(), 0);
}

#[test]
fn a_login_does_not_take_for_ever() {
    let mut fabric = fabric();
    let id = fabric.open(InitiatorConfig::default());
    let due = fabric.link(id).connection.deadline().expect("a limit");
    fabric.link(id).connection.on_deadline(due - Duration::from_millis(1));
    assert!(!fabric.link(id).connection.is_over());
    fabric.link(id).connection.on_deadline(due);
    assert!(fabric.link(id).connection.is_over());
}

#[test]
fn an_abort_is_answered_when_its_task_has_ended() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.link(id).hold_blocks = true;
    let tag = fabric.link(id).initiator.write(0, &write16(0, 1), &[9; 4096]);
    let other = fabric.link(id).initiator.read(0, &read16(0, 1), 4096);
    fabric.run();
    fabric.link(id).initiator.manage(TaskFunction::AbortTask.0, 0, tag);
    fabric.run();
    assert_eq!(managed(&mut fabric, id), None, "the store has it");
    fabric.link(id).complete(0);
    fabric.run();
    assert_eq!(managed(&mut fabric, id), Some(TaskResponse::FunctionComplete));
    assert_eq!(fabric.link(id).initiator.finished(tag), None);
    fabric.link(id).hold_blocks = false;
    good(&fabric.finish(id, other));
    fabric.link(id).initiator.manage(TaskFunction::AbortTask.0, 0, tag);
    fabric.run();
    assert_eq!(managed(&mut fabric, id), Some(TaskResponse::TaskDoesNotExist));
}

#[test]
fn tasks_that_wait_for_data_are_aborted_at_once() {
    let (mut fabric, id, tag, r2t) = asked();
    fabric.link(id).initiator.manage(TaskFunction::AbortTaskSet.0, 0, 0);
    fabric.run();
    assert_eq!(managed(&mut fabric, id), Some(TaskResponse::FunctionComplete));
    assert_eq!(fabric.link(id).memory.live(), 0);
    assert!(!fabric.link(id).connection.awaits_data());
    let transfer = r2t.transfer_tag.get();
    fabric.link(id).initiator.data_out(tag, transfer, 0, 0, &[9; 8192], true);
    good(&fabric.read(id, 0, &read16(0, 1), 4096));
    assert_ne!(fabric.link(id).memory.volumes[0][0], 9);
}

#[test]
fn a_reset_of_a_unit_ends_the_tasks_of_all_sessions() {
    let mut fabric = fabric();
    let one = fabric.log_in(InitiatorConfig::default());
    let isid = [9; 6];
    let two = fabric.log_in(InitiatorConfig { isid, ..InitiatorConfig::default() });
    fabric.link(two).hold_blocks = true;
    let tag = fabric.link(two).initiator.write(0, &write16(0, 1), &[9; 4096]);
    let other = fabric.link(two).initiator.write(1, &write16(0, 8), &[9; 4096]);
    fabric.run();
    fabric.link(one).initiator.manage(TaskFunction::LogicalUnitReset.0, 0, 0);
    fabric.run();
    assert_eq!(managed(&mut fabric, one), None, "a write of the other is under way");
    fabric.link(two).complete(0);
    fabric.run();
    assert_eq!(managed(&mut fabric, one), Some(TaskResponse::FunctionComplete));
    let ended = fabric.link(two).initiator.finished(tag).expect("it is told");
    assert_eq!(ended.status, 0x40, "TASK ABORTED");
    fabric.link(two).hold_blocks = false;
    good(&fabric.finish(two, other));
    for id in [one, two] {
        assert_eq!(fabric.read(id, 0, &[0; 6], 0).sense, Some((6, 0x2903)));
        good(&fabric.read(id, 1, &[0; 6], 0));
    }
}

#[test]
fn every_task_management_function_has_its_answer() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    let expected = [
        (TaskFunction::AbortTaskSet, 7, TaskResponse::LunDoesNotExist),
        (TaskFunction::ClearAca, 0, TaskResponse::NotSupported),
        (TaskFunction::ClearTaskSet, 0, TaskResponse::FunctionComplete),
        (TaskFunction::LogicalUnitReset, 7, TaskResponse::LunDoesNotExist),
        (TaskFunction::TargetWarmReset, 0, TaskResponse::FunctionComplete),
        (TaskFunction::TaskReassign, 0, TaskResponse::ReassignNotSupported),
        (TaskFunction::QueryTask, 0, TaskResponse::FunctionComplete),
        (TaskFunction::QueryTaskSet, 0, TaskResponse::FunctionComplete),
        (TaskFunction::QueryAsynchronousEvent, 0, TaskResponse::FunctionSucceeded),
        (TaskFunction::ItNexusReset, 0, TaskResponse::FunctionComplete),
        (TaskFunction(99), 0, TaskResponse::NotSupported),
    ];
    for (function, lun, response) in expected {
        fabric.link(id).initiator.manage(function.0, lun, 0);
        fabric.run();
        assert_eq!(managed(&mut fabric, id), Some(response), "{function:?}");
    }
    fabric.link(id).initiator.manage(TaskFunction::TargetColdReset.0, 0, 0);
    fabric.run();
    assert!(!fabric.links.contains_key(&id), "sessions end");
}

#[test]
fn a_logout_waits_for_tasks_and_ends_the_session() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.link(id).hold_blocks = true;
    fabric.link(id).initiator.write(0, &write16(0, 1), &[9; 4096]);
    fabric.run();
    fabric.link(id).initiator.request(Opcode::LogoutRequest, FINAL, 0, &[]);
    fabric.run();
    assert!(fabric.link(id).initiator.take(Opcode::LogoutResponse).is_none());
    fabric.link(id).complete(0);
    fabric.run();
    assert!(!fabric.links.contains_key(&id));
    // A connection that is not there, and one that is to be recovered.
    let id = fabric.log_in(InitiatorConfig::default());
    for (reason, transfer, response) in [(1, 7 << 16, 1), (2, 0, 2)] {
        let flags = FINAL | reason;
        fabric.link(id).initiator.request(Opcode::LogoutRequest, flags, transfer, &[]);
        fabric.run();
        let answer = fabric.link(id).initiator.take(Opcode::LogoutResponse).expect("an answer");
        assert_eq!(answer.header[2], response);
    }
}

#[test]
fn what_is_not_understood_is_rejected() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    let reason = |fabric: &mut Fabric| {
        fabric.run();
        fabric.link(id).initiator.take(Opcode::Reject).map(|pdu| pdu.header[2])
    };
    let initiator = &mut fabric.link(id).initiator;
    initiator.request_as(1, Opcode::Snack, FINAL, 0, &[]);
    initiator.command_sn -= 1;
    assert_eq!(reason(&mut fabric), Some(3));
    let initiator = &mut fabric.link(id).initiator;
    initiator.request_as(1, Opcode(0x1C), FINAL, 0, &[]);
    initiator.command_sn -= 1;
    assert_eq!(reason(&mut fabric), Some(5));
    // A tag that is in use.
    fabric.link(id).hold_blocks = true;
    let tag = fabric.link(id).initiator.read(0, &read16(0, 1), 4096);
    fabric.run();
    fabric.link(id).initiator.request_as(tag, Opcode::NopOut, FINAL, TAG_NONE, &[]);
    assert_eq!(reason(&mut fabric), Some(7));
    fabric.link(id).hold_blocks = false;
    good(&fabric.finish(id, tag));
    // More unasked data than was agreed on: their command ends, and the next is served.
    let mut pdu = storage_spec::iscsi::ScsiCommand::read_from_bytes(&[0; 48]).unwrap();
    pdu.opcode = 1;
    pdu.flags = 0xA0;
    pdu.task_tag = 77.into();
    pdu.transfer_len = 4096.into();
    pdu.data_len = storage_spec::iscsi::U24::new(8192);
    pdu.command_sn = fabric.link(id).initiator.command_sn.into();
    fabric.link(id).initiator.command_sn += 1;
    fabric.link(id).initiator.expect(77);
    fabric.link(id).initiator.send(pdu.as_bytes(), &[0; 8192]);
    assert_eq!(fabric.finish(id, 77).sense, Some((0xB, 0x0C0C)));
    good(&fabric.read(id, 0, &read16(0, 1), 4096));
}

#[test]
fn an_empty_pool_makes_commands_wait_not_fail() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig { immediate: false, ..InitiatorConfig::default() });
    fabric.link(id).memory.buffers_max = 1;
    let tags: Vec<u32> = (0..8_u64)
        .map(|at| match at % 2 {
            0 => fabric.link(id).initiator.write(0, &write16(at, 1), &[at as u8; 4096]),
            _ => fabric.link(id).initiator.read(0, &read16(at, 1), 4096),
        })
        .collect();
    for tag in tags {
        good(&fabric.finish(id, tag));
    }
    assert!(fabric.link(id).connection.counters().buffer_waits > 0);
    assert_eq!(fabric.link(id).memory.live(), 0);
}

#[test]
fn unasked_data_without_a_buffer_end_in_busy_not_in_a_knot() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig { immediate: false, ..InitiatorConfig::default() });
    fabric.link(id).memory.buffers_max = 1;
    // Three commands whose data follow, unasked, behind all of them.
    let flags = storage_spec::iscsi::ScsiCommandFlags::new().with_write(true);
    let tags: Vec<u32> = (0..3_u64)
        .map(|at| {
            let cdb = write16(at, 1);
            fabric.link(id).initiator.command(0, &cdb, flags, 4096, &[])
        })
        .collect();
    for &tag in &tags {
        fabric.link(id).initiator.data_out(tag, TAG_NONE, 0, 0, &[3; 4096], true);
    }
    fabric.run();
    let ends: Vec<u8> = tags.iter().map(|tag| fabric.finish(id, *tag).status).collect();
    assert_eq!(ends, [0, 8, 8]);
    assert_eq!(fabric.link(id).connection.counters().busy, 2);
}

#[test]
fn who_owes_data_for_too_long_is_given_up() {
    let (mut fabric, id, ..) = asked();
    assert!(fabric.link(id).connection.awaits_data());
    let start = fabric.now;
    for seconds in 0..30 {
        fabric.link(id).connection.watch(start + Duration::from_secs(seconds));
        assert!(!fabric.link(id).connection.is_over());
    }
    fabric.link(id).connection.watch(start + Duration::from_secs(31));
    assert!(fabric.link(id).connection.is_over());
}

#[test]
fn a_sink_with_little_room_gets_everything_in_the_end() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig { receive_max: 8192, ..InitiatorConfig::default() });
    fabric.link(id).wire_room = 1;
    let finished = fabric.read(id, 0, &read16(0, 200), 200 * 4096);
    assert!(finished.data == fabric.link(id).memory.volumes[0][..200 * 4096]);
    good(&fabric.read(id, 0, &[0x12, 0, 0, 0, 36, 0], 36));
}

#[test]
fn bursts_a_little_short_of_pages_are_sent_in_as_many_pdus_as_there_is_room_for() {
    for (receive_max, burst_max) in [(8192, 16_380), (12_284, 16_380), (8192, 12_288), (8192, 8192)]
    {
        let mut fabric = fabric();
        let config = InitiatorConfig { receive_max, burst_max, ..InitiatorConfig::default() };
        let id = fabric.log_in(config);
        let finished = fabric.read(id, 0, &read16(0, 256), SIZE as u32);
        assert!(finished.data == fabric.link(id).memory.volumes[0]);
        let finished = fabric.read(id, 1, &read16(1, 2047), SIZE as u32 - 512);
        assert!(finished.data == fabric.link(id).memory.volumes[1][512..]);
    }
}

#[test]
fn data_that_should_not_come_unasked_end_their_command() {
    type Flags = storage_spec::iscsi::ScsiCommandFlags;
    let write = Flags::new().with_write(true);
    let last = write.with_is_final(true);
    // Whether data may come with commands, and behind them; flags, data with it, data behind.
    let wrong: [(bool, bool, Flags, usize, usize); 5] = [
        (true, true, last, 8192, 0),
        (false, true, last, 512, 0),
        (true, false, write, 512, 512),
        (true, true, Flags::new().with_read(true).with_is_final(true), 512, 0),
        (true, true, Flags::new().with_read(true), 0, 512),
    ];
    for (immediate, unasked, flags, with, behind) in wrong {
        let terms = Terms { initial_r2t: !unasked, ..Terms::default() };
        let mut fabric = Fabric::new(&[SIZE, SIZE], terms);
        let config = InitiatorConfig { first_burst: 4096, immediate, ..InitiatorConfig::default() };
        let id = fabric.log_in(config);
        let before = fabric.link(id).memory.volumes[0].clone();
        let initiator = &mut fabric.link(id).initiator;
        let opcode = if flags.write() { 0x8A } else { 0x88 };
        let tag = initiator.command(0, &range(opcode, 0, 2), flags, 8192, &vec![9; with]);
        if behind > 0 {
            initiator.data_out(tag, TAG_NONE, 0, with as u32, &vec![9; behind], true);
        }
        let finished = fabric.finish(id, tag);
        assert_eq!((finished.status, finished.sense), (2, Some((0xB, 0x0C0C))));
        assert_eq!(finished.residual, -8192);
        assert!(fabric.link(id).memory.volumes[0] == before);
        good(&fabric.read(id, 0, &read16(0, 1), 4096));
    }
}

#[test]
fn a_first_burst_may_be_longer_than_a_burst_that_came_after_it() {
    let mut fabric = fabric();
    let config = InitiatorConfig { burst_max: 4096, ..InitiatorConfig::default() };
    let id = fabric.open(InitiatorConfig { first_burst: 0, ..config });
    // It does not speak of FirstBurstLength, which is 65536 then.
    fabric.link(id).initiator.login(TARGET);
    fabric.run();
    fabric.link(id).initiator.config.first_burst = 65_536;
    while fabric.read(id, 0, &[0; 6], 0).status != 0 {}
    good(&fabric.write(id, 0, &write16(0, 8), &pattern(32_768, 1)));
    assert_eq!(fabric.link(id).connection.counters().rejects, 0);
}

#[test]
fn what_no_command_here_does_is_refused_in_the_units_format() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    // MODE SELECT: D_SENSE.
    let list = [0, 0, 0, 0, 0xA, 10, 6, 0x10, 0, 0x40, 0, 0, 0xFF, 0xFF, 0, 0];
    good(&fabric.write(id, 0, &[0x15, 0x10, 0, 0, 16, 0], &list));
    let bidirectional = [0, 5, 2, 0, 0, 0, 16, 0];
    let extended = [0, 5, 1, 0, 1, 2, 3, 4];
    let strange = [0, 1, 9, 0];
    let both = [&bidirectional[..], &extended].concat();
    let cases: [(&[u8], u8, u16); 6] = [
        (&[], 0x84, 0x0E03),
        (&[], 0xE0, 0x0E03),
        (&bidirectional, 0xC0, 0x0E03),
        (&strange, 0xC0, 0x0E03),
        (&extended, 0xC0, 0x2000),
        (&both, 0xC0, 0x2000),
    ];
    for (at, (ahs, flags, code)) in cases.into_iter().enumerate() {
        let mut pdu = storage_spec::iscsi::ScsiCommand::read_from_bytes(&[0; 48]).unwrap();
        let tag = 200 + at as u32;
        (pdu.opcode, pdu.flags) = (1, flags);
        pdu.ahs_words = (ahs.len() / 4) as u8;
        pdu.task_tag = tag.into();
        pdu.transfer_len = 4096.into();
        pdu.cdb = read16(0, 1);
        let initiator = &mut fabric.link(id).initiator;
        pdu.command_sn = initiator.command_sn.into();
        initiator.command_sn += 1;
        initiator.expect(tag);
        initiator.send(&[pdu.as_bytes(), ahs].concat(), &[]);
        let finished = fabric.finish(id, tag);
        assert_eq!(finished.sense, Some((5, code)), "{ahs:?} {flags:x}");
        assert_eq!(finished.format, 0x72);
    }
    // NACA, in CDBs of every length.
    let mut cdbs = [vec![0; 6], vec![0x25; 10], read16(0, 1).to_vec(), vec![0xA0; 12]];
    for cdb in &mut cdbs {
        cdb[1..].fill(0);
        *cdb.last_mut().unwrap() = 4;
        assert_eq!(fabric.read(id, 0, cdb, 0).sense, Some((5, 0x2400)));
    }
    // Data out of line.
    fabric.link(id).initiator.answers_r2t = false;
    let flags = storage_spec::iscsi::ScsiCommandFlags::new().with_write(true).with_is_final(true);
    let tag = fabric.link(id).initiator.command(0, &write16(0, 2), flags, 8192, &[]);
    fabric.run();
    let transfer = fabric.link(id).initiator.r2ts.pop().expect("an R2T").transfer_tag.get();
    fabric.link(id).initiator.data_out(tag, transfer, 9, 0, &[9; 8192], true);
    let finished = fabric.finish(id, tag);
    assert_eq!((finished.sense, finished.format), (Some((0xB, 0x0C0D)), 0x72));
}

#[test]
fn functions_of_a_level_that_was_not_agreed_on_are_not_there() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig { protocol_level: 1, ..InitiatorConfig::default() });
    for function in 9..=12 {
        fabric.link(id).initiator.manage(function, 0, 0);
        fabric.run();
        assert_eq!(managed(&mut fabric, id), Some(TaskResponse::NotSupported));
    }
    good(&fabric.read(id, 0, &[0; 6], 0));
}

#[test]
fn who_was_told_of_each_command_is_not_told_that_they_were_cleared() {
    let mut fabric = fabric();
    let one = fabric.log_in(InitiatorConfig::default());
    let two = fabric.log_in(InitiatorConfig { isid: [9; 6], ..InitiatorConfig::default() });
    fabric.link(two).initiator.answers_r2t = false;
    let data = [9; 4096];
    fabric.link(two).initiator.config.immediate = false;
    let tag = fabric.link(two).initiator.write(0, &write16(0, 1), &data);
    fabric.run();
    fabric.link(one).initiator.manage(TaskFunction::ClearTaskSet.0, 0, 0);
    fabric.run();
    assert_eq!(managed(&mut fabric, one), Some(TaskResponse::FunctionComplete));
    assert_eq!(fabric.finish(two, tag).status, 0x40, "TASK ABORTED");
    good(&fabric.read(two, 0, &[0; 6], 0));
}
