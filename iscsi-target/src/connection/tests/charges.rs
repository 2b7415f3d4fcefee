//! Buffers are charged to tasks while they hold them, and no longer.

use super::*;

/// A session that may hold so many bytes of buffers, and units of 8 MiB.
fn bounded(buffers_max: usize) -> (Fabric, LinkId) {
    let mut fabric = Fabric::new(&[8 << 20, 8 << 20], Terms::default());
    fabric.config.buffers_max = buffers_max;
    let id = fabric.log_in(InitiatorConfig { first_burst: 262_144, ..InitiatorConfig::default() });
    (fabric, id)
}

#[test]
fn data_that_come_unasked_hold_no_more_than_a_session_may() {
    const MAX: usize = 2 << 20;
    for immediate in [false, true] {
        let (mut fabric, id) = bounded(MAX);
        let initiator = &mut fabric.link(id).initiator;
        (initiator.config.send_max, initiator.config.unasked) = (8192, true);
        initiator.config.immediate = immediate;
        fabric.link(id).memory.volumes[0].fill(0);
        fabric.link(id).hold_blocks = true;
        let tags: Vec<u32> = (0..12_u64)
            .map(|at| {
                let data = vec![at as u8 + 1; 262_144];
                fabric.link(id).initiator.write(0, &write16(at * 64, 64), &data)
            })
            .collect();
        fabric.run();
        assert!(fabric.link(id).connection.blocked(), "the seventh waits");
        fabric.now += Duration::from_secs(1);
        fabric.run();
        assert!(!fabric.link(id).connection.blocked(), "what could not be kept is thrown away");
        assert_eq!(fabric.link(id).connection.held(), 6 * 262_144);
        fabric.link(id).hold_blocks = false;
        for (at, &tag) in tags.iter().enumerate() {
            assert_eq!(fabric.finish(id, tag).status, if at < 6 { 0 } else { 8 }, "{at}");
            let there = fabric.link(id).memory.volumes[0][at * 262_144];
            assert_eq!(there == at as u8 + 1, at < 6, "{at}");
        }
        assert_eq!(fabric.link(id).connection.held(), 0);
        assert_eq!(fabric.link(id).memory.live(), 0);
    }
}

/// Runs a command to its end by single block requests; the most that it held between them.
pub(super) fn most_held(fabric: &mut Fabric, id: LinkId, tag: u32) -> (Finished, usize) {
    fabric.link(id).hold_blocks = true;
    fabric.run();
    let mut most = 0;
    while fabric.link(id).memory.pending() > 0 {
        most = most.max(fabric.link(id).connection.held());
        fabric.link(id).complete(0);
        fabric.run();
    }
    fabric.link(id).hold_blocks = false;
    let finished = fabric.finish(id, tag);
    assert_eq!(fabric.link(id).connection.held(), 0);
    (finished, most)
}

/// An EXTENDED COPY between the first two units, which are of blocks of 4096 and 512 bytes;
/// `blocks` are those of the source.
pub(super) fn copy(source: u8, destination: u8, blocks: u16) -> ([u8; 16], Vec<u8>) {
    let mut list = vec![9, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    for (name, block_len) in [(1, 4096_u16), (2, 512)] {
        list.extend_from_slice(&[0xE4, 0, 0, 0, 1, 3, 0, 16, 0x60 | name]);
        list.extend_from_slice(&[name; 15]);
        list.extend_from_slice(&[0; 6]);
        list.extend_from_slice(&block_len.to_be_bytes());
    }
    list.extend_from_slice(&[2, 0, 0, 24, 0, source, 0, destination, 0, 0]);
    list.extend_from_slice(&blocks.to_be_bytes());
    list.extend_from_slice(&[0; 16]);
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x83, list.len() as u8);
    (cdb, list)
}

#[test]
fn commands_of_many_pieces_are_charged_with_one() {
    const MAX: usize = 2 << 20;
    let (mut fabric, id) = bounded(MAX);
    let initiator = &mut fabric.link(id).initiator;
    let tag = initiator.write(0, &range(0x93, 0, 2048), &[0x5A; 4096]);
    let (finished, most) = most_held(&mut fabric, id, tag);
    good(&finished);
    assert!(most <= 2 * 262_144, "{most}");
    assert!(fabric.link(id).memory.volumes[0].iter().all(|byte| *byte == 0x5A));
    // VERIFY with BYTCHK 3.
    let mut cdb = range(0x8F, 0, 2048);
    cdb[1] = 6;
    let tag = fabric.link(id).initiator.write(0, &cdb, &[0x5A; 4096]);
    let (finished, most) = most_held(&mut fabric, id, tag);
    good(&finished);
    assert!(most <= 2 * 262_144, "{most}");
    let (cdb, list) = copy(0, 1, 2048);
    let tag = fabric.link(id).initiator.write(0, &cdb, &list);
    let (finished, most) = most_held(&mut fabric, id, tag);
    good(&finished);
    assert!(most <= 2 * 262_144, "{most}");
    assert!(fabric.link(id).memory.volumes[1].iter().all(|byte| *byte == 0x5A));
    let tag = fabric.link(id).initiator.write(0, &range(0x8B, 0, 256), &vec![0xA5; 1 << 20]);
    let (finished, most) = most_held(&mut fabric, id, tag);
    good(&finished);
    assert!(most <= MAX, "{most}");
    assert!(fabric.link(id).memory.volumes[0][..1 << 20].iter().all(|byte| *byte == 0xFF));
}

#[test]
fn who_starves_is_not_charged_with_what_it_gave_back() {
    let (mut fabric, id) = bounded(2 << 20);
    // Room for the data, and one of the two buffers that are needed besides.
    fabric.link(id).memory.buffers_max = 2;
    let there = fabric.link(id).memory.volumes[0][..4096].to_vec();
    let mut cdb = range(0x89, 0, 0);
    cdb[13] = 1;
    let data = [there, vec![9; 4096]].concat();
    let tag = fabric.link(id).initiator.write(0, &cdb, &data);
    for _ in 0..100 {
        fabric.run();
        assert!(fabric.link(id).connection.starved());
        assert_eq!(fabric.link(id).connection.held(), 8192);
    }
    fabric.link(id).memory.buffers_max = usize::MAX;
    good(&fabric.finish(id, tag));
    assert_eq!(fabric.link(id).connection.held(), 0);
}

#[test]
fn commands_whose_data_fill_all_buffers_get_on_one_by_one() {
    let (mut fabric, id) = bounded(2 << 20);
    let tags: Vec<u32> = (0..12_u64)
        .map(|at| {
            let cdb = range(0x8B, at * 64, 64);
            fabric.link(id).initiator.write(0, &cdb, &vec![0xFF; 262_144])
        })
        .collect();
    for tag in tags {
        good(&fabric.finish(id, tag));
    }
    assert!(fabric.link(id).connection.counters().buffer_waits > 0);
    assert_eq!(fabric.link(id).connection.held(), 0);
}

/// What waits for a buffer for its data may wait for those of a command that came to wait later.
#[test]
fn who_holds_data_goes_before_who_waits_for_a_buffer_for_them() {
    let (mut fabric, id) = bounded(2 << 20);
    let bits = vec![0xFF; 1 << 20];
    let initiator = &mut fabric.link(id).initiator;
    (initiator.config.immediate, initiator.answers_r2t) = (false, false);
    let or_write = initiator.write(0, &range(0x8B, 0, 256), &bits);
    fabric.run();
    // While its data are awaited, a read takes all that is left, and a write waits.
    fabric.link(id).hold_blocks = true;
    let read = fabric.link(id).initiator.read(0, &read16(256, 256), 1 << 20);
    let write = fabric.link(id).initiator.write(0, &write16(512, 256), &bits);
    fabric.run();
    assert!(fabric.link(id).connection.starved());
    let initiator = &mut fabric.link(id).initiator;
    let r2t = initiator.r2ts.pop().expect("an R2T");
    initiator.answers_r2t = true;
    initiator.data_out(or_write, r2t.transfer_tag.get(), 0, 0, &bits[..262_144], true);
    fabric.run();
    fabric.link(id).hold_blocks = false;
    for tag in [or_write, read, write] {
        good(&fabric.finish(id, tag));
    }
    assert_eq!(fabric.link(id).connection.held(), 0);
}

#[test]
fn pings_and_task_management_do_not_stand_behind_a_command_without_a_buffer() {
    let (mut fabric, id) = bounded(2 << 20);
    fabric.link(id).hold_blocks = true;
    let tags: Vec<u32> = (0..12_u64)
        .map(|at| fabric.link(id).initiator.write(0, &write16(at, 64), &vec![1; 262_144]))
        .collect();
    let ping = |fabric: &mut Fabric| {
        fabric.link(id).initiator.request(Opcode::NopOut, FINAL, TAG_NONE, &[]);
    };
    ping(&mut fabric);
    fabric.run();
    assert!(fabric.link(id).connection.blocked());
    fabric.now += Duration::from_millis(999);
    fabric.run();
    assert!(fabric.link(id).initiator.take(Opcode::NopIn).is_none());
    fabric.now += Duration::from_millis(1);
    fabric.run();
    // The first has waited; the others do not wait as well.
    assert!(fabric.link(id).initiator.take(Opcode::NopIn).is_some());
    let later = fabric.link(id).initiator.write(0, &write16(0, 64), &vec![1; 262_144]);
    fabric.link(id).initiator.manage(TaskFunction::AbortTask.0, 0, tags[0]);
    ping(&mut fabric);
    fabric.run();
    assert!(fabric.link(id).initiator.take(Opcode::NopIn).is_some());
    assert_eq!(fabric.finish(id, later).status, 8, "BUSY");
    fabric.link(id).hold_blocks = false;
    fabric.run();
    assert_eq!(managed(&mut fabric, id), Some(TaskResponse::FunctionComplete));
    for (at, &tag) in tags.iter().enumerate().skip(1) {
        let status = if at < 8 { 0 } else { 8 };
        assert_eq!(fabric.finish(id, tag).status, status, "{at}");
    }
    // There is room again: commands wait for it again.
    good(&fabric.write(id, 0, &write16(0, 64), &vec![1; 262_144]));
    assert_eq!(fabric.link(id).connection.counters().busy, 5);
}
