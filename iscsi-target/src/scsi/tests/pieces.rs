//! Transfers of more than a buffer, in pieces.

use super::*;
use crate::scsi::harness::Feed;
use target_io::testing::PlainBuf;
use target_io::{BlockError, Ticket};

const PIECE: u64 = 16 << 10;

fn cdb_16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn harness() -> Harness {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    harness.piece_max = PIECE as u32;
    harness
}

/// The task of a command that begins in the middle of a block and has three pieces, with the first.
fn three_pieces(harness: &mut Harness, opcode: u8, flags: u8) -> (Task<PlainBuf>, Feed) {
    let blocks = 3 * (PIECE as u32 / 512) - 9;
    let data = vec![0x11; blocks as usize * 512];
    let cdb = cdb_16(opcode, flags, 9, blocks);
    let len = if opcode == 0x88 { 0 } else { data.len() };
    let Admitted::Task(task, needs) = harness.admit(0, Lun(0), &cdb, len) else { panic!("a task") };
    let feed = Feed::new(needs, &data, harness.piece_max);
    (task, feed)
}

/// Runs a task, whose block request of this number fails; how it ends, and what it has read.
fn fail_at(
    harness: &mut Harness,
    (mut task, mut feed): (Task<PlainBuf>, Feed),
    number: usize,
    error: BlockError,
) -> (Ending<PlainBuf>, usize) {
    let first = feed.next(&mut harness.memory);
    let mut progress = task.start(Ticket(0), first, &mut harness.memory);
    let (mut requests, mut read) = (0, 0);
    loop {
        progress = match progress {
            Progress::Pending => {
                harness.memory.fail_next = (requests == number).then_some(error);
                requests += 1;
                let (_, result) = harness.memory.execute(0);
                task.complete(result, &mut harness.memory)
            }
            Progress::Part { data, .. } => {
                read += data.len();
                drop(data);
                task.resume(&mut harness.memory)
            }
            Progress::WantsData => {
                let next = feed.next(&mut harness.memory);
                task.start(Ticket(1), next, &mut harness.memory)
            }
            Progress::End(ending) => return (ending, read),
            Progress::Starved => panic!("there are buffers"),
        }
    }
}

#[test]
fn the_first_error_ends_a_command_and_is_told_with_its_place() {
    let lba = 77;
    let media = BlockError::Media { offset: lba * 512 };
    // READ, WRITE, WRITE AND VERIFY (whose writes and verifications take turns), VERIFY, ORWRITE.
    for (opcode, flags, number) in
        [(0x88, 0, 1), (0x8A, 0, 1), (0x8E, 0, 2), (0x8E, 0, 3), (0x8F, 2, 1), (0x8B, 0, 9)]
    {
        let mut harness = harness();
        let task = three_pieces(&mut harness, opcode, flags);
        if opcode == 0x8F {
            let range = 9 * 512..9 * 512 + 3 * PIECE as usize;
            harness.memory.volumes[0][range].fill(0x11);
        }
        let (ending, read) = fail_at(&mut harness, task, number, media);
        let information = ending.sense.expect("it failed").information;
        assert_eq!(information, Some(lba), "{opcode:X}");
        assert_eq!(sense(ending), (3, 0x11, 0));
        assert_eq!(read, if opcode == 0x88 { PIECE as usize - 512 } else { 0 });
        assert_eq!((harness.memory.live(), harness.memory.pending()), (0, 0));
    }
}

#[test]
fn what_is_written_before_an_error_stays() {
    let mut harness = harness();
    let before = harness.memory.volumes[0].clone();
    let task = three_pieces(&mut harness, 0x8A, 0);
    let (ending, _) = fail_at(&mut harness, task, 1, BlockError::Full);
    assert_eq!(sense(ending), (7, 0x27, 7));
    let (first, next) = (9 * 512, 4096 + PIECE as usize);
    let volume = &harness.memory.volumes[0];
    assert!(volume[first..next].iter().all(|&byte| byte == 0x11));
    assert!(volume[..first] == before[..first] && volume[next..] == before[next..]);
}

#[test]
fn a_difference_in_a_later_piece_is_told_by_its_place_in_all_data() {
    let mut harness = harness();
    let mut data = harness.memory.volumes[0][512..512 + 5 * PIECE as usize].to_vec();
    bytes_of(harness.request(&cdb_16(0x8F, 2, 1, data.len() as u32 / 512), &data));
    let at = 4 * PIECE as usize + 1234;
    data[at] ^= 1;
    let ending = harness.request(&cdb_16(0x8F, 2, 1, data.len() as u32 / 512), &data);
    assert_eq!(ending.sense.expect("they differ").information, Some(at as u64));
    assert_eq!(sense(ending), (0xE, 0x1D, 0));
}

#[test]
fn transfers_are_as_long_as_block_limits_say_and_no_longer() {
    let mut harness = Harness::new(&[(TRANSFER_BYTES_MAX as usize + 8192, 12)]);
    let limits = bytes_of(harness.request(&[0x12, 1, 0xB0, 0, 64, 0], &[]));
    let max = u32::from_be_bytes(limits[8..12].try_into().unwrap());
    assert_eq!(u64::from(max) << 12, TRANSFER_BYTES_MAX);
    let len = |blocks: u32| (blocks as usize) << 12;
    for (opcode, flags) in [(0x88, 0), (0x8A, 0), (0x8E, 0), (0x8F, 2), (0x8B, 0)] {
        for (blocks, is_taken) in [(max, true), (max + 1, false)] {
            let data = if opcode == 0x88 { 0 } else { len(blocks) };
            let cdb = cdb_16(opcode, flags, 1, blocks);
            match harness.admit(0, Lun(0), &cdb, data) {
                Admitted::Task(..) => assert!(is_taken),
                Admitted::End(ending) => {
                    assert_eq!((is_taken, sense(ending)), (false, INVALID_CDB));
                }
                Admitted::Control(..) => panic!("not for core 0"),
            }
        }
    }
    // As much as that really moves.
    let data: Vec<u8> = (0..len(max)).map(|at| (at / 3001) as u8).collect();
    bytes_of(harness.request(&cdb_16(0x8A, 0, 1, max), &data));
    assert!(harness.memory.volumes[0][4096..4096 + len(max)] == data);
    assert!(bytes_of(harness.request(&cdb_16(0x88, 0, 1, max), &[])) == data);
}
