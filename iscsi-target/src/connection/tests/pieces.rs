//! Transfers of more than a buffer, in pieces.

use super::*;
use storage_spec::iscsi::ScsiCommandFlags;

/// The smallest piece that there may be.
const PIECE: u32 = 16 << 10;
/// Blocks of 512 bytes of it.
const PIECE_BLOCKS: u32 = PIECE / 512;
/// Commands at once, each in a part of the unit of its own, whose borders lie within blocks of the
/// store.
const LANES: u64 = 4;
const LANE_BLOCKS: u64 = 509;

/// A target whose pieces are small.
fn small(piece_max: u32, initial_r2t: bool) -> Fabric {
    let mut fabric = Fabric::new(&[SIZE, SIZE], Terms { initial_r2t, ..Terms::default() });
    fabric.config.piece_max = piece_max;
    fabric
}

/// A session of it whose data all come when they are asked for.
fn asked_session(fabric: &mut Fabric) -> LinkId {
    let config = InitiatorConfig { immediate: false, first_burst: 8192, ..Default::default() };
    fabric.log_in(config)
}

/// A command to the second unit: what it does, where, and with which data.
#[derive(Debug, Clone, Copy)]
struct Move {
    kind: u8,
    lba: u64,
    blocks: u32,
    seed: u8,
}

/// One within a lane, or wherever it likes.
fn a_move(end: u64) -> impl Strategy<Value = Move> {
    (0..6_u8, 0..end, 1..400_u32, any::<u8>()).prop_map(move |(kind, lba, blocks, seed)| {
        let blocks = blocks.min((end - lba) as u32);
        Move { kind, lba, blocks, seed }
    })
}

/// Sends it: its tag, and what it is to read.
fn send(initiator: &mut crate::testing::Initiator, a: Move, model: &mut [u8]) -> (u32, Vec<u8>) {
    let Move { kind, lba, blocks, seed } = a;
    let span = lba as usize * 512..(lba as usize + blocks as usize) * 512;
    let there = model[span.clone()].to_vec();
    let bits = pattern(span.len(), seed);
    let (opcode, flags, data, after) = match kind {
        0 | 1 => {
            let tag = initiator.read(1, &read16(lba, blocks), span.len() as u32);
            return (tag, there);
        }
        2 => (0x8A, 0, bits.clone(), bits),
        3 => (0x8E, 0, bits.clone(), bits),
        4 => (0x8B, 0, bits.clone(), there.iter().zip(&bits).map(|(a, b)| a | b).collect()),
        _ => (0x8F, 2, there.clone(), there),
    };
    model[span].copy_from_slice(&after);
    let mut cdb = range(opcode, lba, blocks);
    cdb[1] = flags;
    (initiator.write(1, &cdb, &data), Vec::new())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever was agreed on and however bytes arrive, long commands do what short ones would.
    #[test]
    fn long_transfers_do_what_plain_bytes_would(
        digests: (bool, bool),
        immediate: bool,
        initial_r2t: bool,
        piece_blocks in 4..20_u32,
        receive in 0..4_usize,
        burst in 0..4_usize,
        moves in prop::collection::vec(a_move((SIZE / 512) as u64), 1..6),
        chunks in prop::collection::vec(1..9000_usize, 1..20),
    ) {
        let mut fabric = small(piece_blocks * 4096, initial_r2t);
        let burst_max = [1024, 8192, 70_000, 1 << 20][burst];
        let id = fabric.log_in(InitiatorConfig {
            digests,
            immediate,
            receive_max: [512, 4096, 12_000, 262_144][receive],
            first_burst: 8192.min(burst_max),
            burst_max,
            send_max: 4096,
            ..InitiatorConfig::default()
        });
        let mut model = fabric.link(id).memory.volumes[1].clone();
        let mut turn = 0;
        for a in moves {
            let (tag, data) = send(&mut fabric.link(id).initiator, a, &mut model);
            fabric.run_in_chunks(&mut |available| {
                turn += 1;
                chunks[turn % chunks.len()].min(available)
            });
            let finished = fabric.finish(id, tag);
            good(&finished);
            prop_assert!(finished.data == data);
            prop_assert!(fabric.link(id).memory.volumes[1] == model);
            let link = fabric.link(id);
            prop_assert_eq!((link.connection.held(), link.memory.live()), (0, 0));
        }
        let counters = *fabric.link(id).connection.counters();
        prop_assert_eq!((counters.rejects, counters.stray_data, counters.busy), (0, 0, 0));
        prop_assert_eq!(counters.data_digest_errors, 0);
    }

    /// Several at once, with few buffers and a store that answers in any order: all end well, and
    /// no more is held than may be.
    #[test]
    fn long_transfers_share_few_buffers(
        moves in prop::collection::vec((0..LANES, a_move(LANE_BLOCKS)), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
        // The data of each, and two buffers beside them for one.
        count in LANES as usize + 2..10,
        wire_room in prop_oneof![Just(1), Just(usize::MAX)],
    ) {
        let mut fabric = small(PIECE, true);
        // Of two pieces, and another that one command at a time may have in order to get on.
        let buffers_max = 2 * PIECE as usize;
        fabric.config.buffers_max = buffers_max;
        let id = asked_session(&mut fabric);
        fabric.link(id).memory.buffers_max = count;
        fabric.link(id).wire_room = wire_room;
        fabric.link(id).hold_blocks = true;
        let mut model = fabric.link(id).memory.volumes[1].clone();
        let mut lanes: [Option<(u32, Vec<u8>)>; LANES as usize] = Default::default();
        let (mut moves, mut turn) = (moves.into_iter().peekable(), 0);
        while moves.peek().is_some() || lanes.iter().any(Option::is_some) {
            while let Some((lane, a)) = moves.next_if(|(lane, _)| lanes[*lane as usize].is_none()) {
                let a = Move { lba: lane * LANE_BLOCKS + a.lba, ..a };
                lanes[lane as usize] = Some(send(&mut fabric.link(id).initiator, a, &mut model));
            }
            fabric.run();
            let link = fabric.link(id);
            let held = link.connection.held();
            prop_assert!(held <= buffers_max + 3 * PIECE as usize, "{}", held);
            prop_assert!(link.memory.live() <= count);
            let mut is_ended = false;
            for lane in &mut lanes {
                let tag = lane.as_ref().map(|(tag, _)| *tag);
                if let Some(finished) = tag.and_then(|tag| link.initiator.finished(tag)) {
                    good(&finished);
                    prop_assert!(finished.data == lane.take().expect("just seen").1);
                    is_ended = true;
                }
            }
            let pending = link.memory.pending();
            prop_assert!(is_ended || pending > 0, "nothing goes on");
            if pending > 0 {
                turn += 1;
                link.complete(order[turn % order.len()].index(pending));
            }
        }
        prop_assert!(fabric.link(id).memory.volumes[1] == model);
        let link = fabric.link(id);
        prop_assert_eq!((link.connection.held(), link.memory.live()), (0, 0));
    }

    /// A long command ends when it is aborted, wherever it is; so does one whose connection is
    /// lost. Of its data whole pieces are written, from the first on.
    #[test]
    fn long_transfers_end_anywhere(
        writes: bool,
        immediate: bool,
        steps in 0..40_usize,
        chunk in 500..9000_usize,
        end in 0..3_u8,
        few: bool,
    ) {
        let mut fabric = small(PIECE, true);
        let one = asked_session(&mut fabric);
        let two = fabric.log_in(InitiatorConfig {
            name: "iqn.2026-01.test:other".into(),
            immediate,
            first_burst: 8192,
            send_max: 4096,
            ..InitiatorConfig::default()
        });
        let before = fabric.link(two).memory.volumes[1].clone();
        let (lba, blocks) = (3, 5 * PIECE_BLOCKS - 3);
        let data = pattern(blocks as usize * 512, 0x77);
        let initiator = &mut fabric.link(two).initiator;
        let tag = match writes {
            true => initiator.write(1, &write16(lba, blocks), &data),
            false => initiator.read(1, &read16(lba, blocks), data.len() as u32),
        };
        fabric.link(two).hold_blocks = true;
        fabric.link(two).wire_room = if few { 1 } else { usize::MAX };
        for step in 0..steps {
            fabric.run_one_chunk(two, chunk);
            if fabric.link(two).memory.pending() > 0 && step % 3 == 0 {
                fabric.link(two).complete(0);
            }
        }
        match end {
            0 => {
                fabric.link(two).initiator.manage(TaskFunction::AbortTask.0, 1, tag);
            }
            1 => {
                fabric.link(one).initiator.manage(TaskFunction::LogicalUnitReset.0, 1, 0);
            }
            _ => fabric.cut(two),
        }
        fabric.run();
        let who = if end == 0 { two } else { one };
        if fabric.links.get(&two).is_some_and(|link| link.memory.pending() > 0) {
            prop_assert_eq!(managed(&mut fabric, who), None, "the store has a piece");
            fabric.link(two).complete(0);
            fabric.run();
        }
        if end == 2 {
            // That it gave every buffer back was looked at when it was forgotten.
            prop_assert!(!fabric.links.contains_key(&two));
            return Ok(());
        }
        let response = managed(&mut fabric, who).expect("everything has ended");
        let link = fabric.link(two);
        let is_told = link.initiator.finished(tag).is_some_and(|finished| finished.status == 0);
        let is_late = response == TaskResponse::TaskDoesNotExist && is_told;
        prop_assert!(response == TaskResponse::FunctionComplete || is_late, "{:?}", response);
        prop_assert_eq!((link.memory.pending(), link.memory.live()), (0, 0));
        prop_assert_eq!((link.connection.held(), link.connection.awaits_data()), (0, false));
        let volume = link.memory.volumes[1].clone();
        let written = if writes { &data[..] } else { &[] };
        prop_assert!(is_written_in_pieces(&volume, &before, lba as usize * 512, written));
        fabric.link(two).hold_blocks = false;
        serves_as_before(&mut fabric, two, lba, blocks);
    }
}

/// A session whose long command was ended moves others.
fn serves_as_before(fabric: &mut Fabric, id: LinkId, lba: u64, blocks: u32) {
    fabric.run();
    fabric.read(id, 1, &[0; 6], 0);
    let data = pattern(blocks as usize * 512, 0x33);
    good(&fabric.write(id, 1, &write16(lba, blocks), &data));
    let finished = fabric.read(id, 1, &read16(lba, blocks), data.len() as u32);
    good(&finished);
    assert!(finished.data == data);
}

/// Whether of `data` whole pieces were written from `start` on, the first on, and nothing else.
fn is_written_in_pieces(volume: &[u8], before: &[u8], start: usize, data: &[u8]) -> bool {
    let ends = (0..=5).map(|piece| if piece == 0 { start } else { piece * PIECE as usize });
    volume[..start] == before[..start]
        && ends
            .filter(|to| to - start <= data.len())
            .any(|to| volume[start..to] == data[..to - start] && volume[to..] == before[to..])
}

#[test]
fn residuals_of_long_transfers_are_exact() {
    let mut fabric = small(PIECE, true);
    let id = asked_session(&mut fabric);
    let there = fabric.link(id).memory.volumes[1].clone();
    let blocks = 3 * PIECE_BLOCKS;
    let (piece, len) = (PIECE as usize, 3 * PIECE as usize);
    let ends = [0, 1, 511, piece - 1, piece, piece + 1, 2 * piece, len - 1, len, len + 1, 2 * len];
    for expected in ends {
        let finished = fabric.read(id, 1, &read16(0, blocks), expected as u32);
        assert_eq!(finished.status, 0);
        assert_eq!(finished.residual, len as i64 - expected as i64, "{expected}");
        assert!(finished.data == there[..expected.min(len)]);
    }
    for offered in ends {
        let finished = fabric.write(id, 1, &write16(0, blocks), &vec![0xBB; offered]);
        assert_eq!(finished.status, 0);
        assert_eq!(finished.residual, len as i64 - offered as i64, "{offered}");
        // The blocks that come whole are written.
        let end = offered.min(len) / 512 * 512;
        let link = fabric.link(id);
        assert!(link.memory.volumes[1][..end].iter().all(|byte| *byte == 0xBB));
        assert!(link.memory.volumes[1][end..] == there[end..]);
        link.memory.volumes[1].copy_from_slice(&there);
        assert_eq!((link.connection.held(), link.memory.live()), (0, 0));
    }
}

#[test]
fn what_a_host_has_no_room_for_is_not_read() {
    let mut fabric = small(PIECE, true);
    let id = asked_session(&mut fabric);
    fabric.link(id).hold_blocks = true;
    let tag = fabric.link(id).initiator.read(1, &read16(0, 5 * PIECE_BLOCKS), PIECE + 1);
    for _ in 0..2 {
        fabric.run();
        assert_eq!(fabric.link(id).memory.pending(), 1);
        fabric.link(id).complete(0);
    }
    let finished = fabric.finish(id, tag);
    assert_eq!((finished.data.len(), finished.residual), (PIECE as usize + 1, 4 * 16_384 - 1));
}

#[test]
fn a_read_that_fails_in_the_middle_tells_how_much_came() {
    let mut fabric = small(PIECE, true);
    let id = asked_session(&mut fabric);
    fabric.link(id).hold_blocks = true;
    let tag = fabric.link(id).initiator.read(1, &read16(0, 3 * PIECE_BLOCKS), 3 * PIECE);
    fabric.run();
    fabric.link(id).complete(0);
    fabric.run();
    let offset = u64::from(PIECE) + 4096;
    fabric.link(id).memory.fail_next = Some(crate::io::BlockError::Media { offset });
    fabric.link(id).complete(0);
    let finished = fabric.finish(id, tag);
    assert_eq!((finished.status, finished.sense), (2, Some((3, 0x1100))));
    assert_eq!((finished.data.len(), finished.residual), (16_384, -2 * 16_384));
    assert_eq!((fabric.link(id).connection.held(), fabric.link(id).memory.live()), (0, 0));
}

#[test]
fn data_out_of_line_in_a_later_piece_end_their_command() {
    let mut fabric = small(PIECE, true);
    let id = asked_session(&mut fabric);
    fabric.link(id).initiator.answers_r2t = false;
    let flags = ScsiCommandFlags::new().with_write(true).with_is_final(true);
    let cdb = write16(0, 3 * PIECE_BLOCKS);
    let tag = fabric.link(id).initiator.command(1, &cdb, flags, 3 * PIECE, &[]);
    let data = pattern(PIECE as usize, 5);
    for (sn, offset, status) in [(0, 0, None), (0, 0, Some(2))] {
        fabric.run();
        let r2t = fabric.link(id).initiator.r2ts.pop().expect("an R2T for each piece");
        assert_eq!(r2t.desired_len.get(), PIECE);
        let transfer = r2t.transfer_tag.get();
        // The second brings the first once more.
        fabric.link(id).initiator.data_out(tag, transfer, sn, offset, &data, true);
        fabric.run();
        let finished = fabric.link(id).initiator.finished(tag);
        assert_eq!(finished.as_ref().map(|finished| finished.status), status);
        if let Some(finished) = finished {
            assert_eq!(finished.sense, Some((0xB, 0x0C0D)));
        }
    }
    let link = fabric.link(id);
    assert!(link.memory.volumes[1][..PIECE as usize] == data);
    assert_eq!((link.connection.held(), link.memory.live()), (0, 0));
}

/// With the buffers that there really are.
#[test]
fn the_longest_transfers_hold_one_buffer() {
    const LEN: usize = 16 << 20;
    let mut fabric = Fabric::new(&[LEN], Terms::default());
    fabric.config.buffers_max = 4 << 20;
    let id = fabric.log_in(InitiatorConfig { burst_max: 1 << 20, ..InitiatorConfig::default() });
    let data: Vec<u8> = (0..LEN).map(|at| (at / 4093) as u8).collect();
    let write = fabric.link(id).initiator.write(0, &write16(0, (LEN / 4096) as u32), &data);
    let (finished, most) = charges::most_held(&mut fabric, id, write);
    good(&finished);
    assert_eq!(most, 1 << 20);
    assert!(fabric.link(id).memory.volumes[0] == data);
    let read = fabric.link(id).initiator.read(0, &read16(0, (LEN / 4096) as u32), LEN as u32);
    let (finished, most) = charges::most_held(&mut fabric, id, read);
    good(&finished);
    assert_eq!(most, 1 << 20);
    assert!(finished.data == data);
}
