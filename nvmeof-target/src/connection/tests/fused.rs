use super::*;
use crate::io::BlockError;
use crate::testing::{Transfer, command};
use storage_spec::nvme::command::{Command, FUSE_FIRST, FUSE_SECOND, NvmOpcode};

fn compare(lba: u64, blocks: u32) -> Command {
    let mut command = command(NvmOpcode::Compare, 1, lba, blocks);
    command.flags = FUSE_FIRST;
    command
}

fn write(lba: u64, blocks: u32) -> Command {
    let mut command = command(NvmOpcode::Write, 1, lba, blocks);
    command.flags = FUSE_SECOND;
    command
}

fn current(link: &Link, lba: usize, blocks: usize) -> Vec<u8> {
    link.memory.volumes[0][lba << 9..(lba + blocks) << 9].to_vec()
}

/// Sends the pair; its statuses.
fn pair(link: &mut Link, first: (Command, Transfer), second: (Command, Transfer)) -> [Status; 2] {
    let first = link.host.submit(first.0, first.1);
    let second = link.host.submit(second.0, second.1);
    [link.finish(first).status, link.finish(second).status]
}

#[test]
fn writes_if_equal() {
    type Form = fn(Vec<u8>) -> Transfer;
    let forms: [(Form, Form); 3] = [
        (Transfer::Write, Transfer::Write),
        (Transfer::WriteByR2t, Transfer::Write),
        (Transfer::Write, Transfer::WriteByR2t),
    ];
    for (first, second) in forms {
        let mut link = io_queue(digests());
        let old = current(&link, 9, 2);
        let new = bytes(1024, 77);
        let statuses = pair(
            &mut link,
            (compare(9, 2), first(old.clone())),
            (write(9, 2), second(new.clone())),
        );
        assert_eq!(statuses, [Status::SUCCESS; 2]);
        assert_eq!(current(&link, 9, 2), new);
        let statuses =
            pair(&mut link, (compare(9, 2), first(old)), (write(9, 2), second(vec![0; 1024])));
        assert_is(statuses[0], Status::COMPARE_FAILURE);
        assert_eq!(statuses[1], Status::ABORTED_FAILED_FUSED);
        assert_eq!(current(&link, 9, 2), new);
        assert_eq!(link.memory.live(), 0);
    }
}

#[test]
fn the_second_comes_right_after_the_first() {
    let mut link = io_queue(HostConfig::default());
    let old = current(&link, 0, 1);
    let first = link.host.submit(compare(0, 1), Transfer::Write(old.clone()));
    let between = link.host.submit(command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(512));
    let second = link.host.submit(write(0, 1), Transfer::Write(vec![9; 512]));
    assert_eq!(link.finish(first).status, Status::ABORTED_MISSING_FUSED);
    assert_eq!(link.finish(between).status, Status::SUCCESS);
    assert_eq!(link.finish(second).status, Status::ABORTED_MISSING_FUSED);
    assert_eq!(current(&link, 0, 1), old);
}

#[test]
fn a_first_waits_for_its_second() {
    let mut link = io_queue(HostConfig::default());
    let old = current(&link, 0, 1);
    let first = link.host.submit(compare(0, 1), Transfer::Write(old));
    link.run();
    assert!(link.host.finished(first).is_none());
    let second = link.host.submit(write(0, 1), Transfer::Write(vec![9; 512]));
    assert_eq!(link.finish(second).status, Status::SUCCESS);
    assert_eq!(link.finish(first).status, Status::SUCCESS);
}

#[test]
fn a_pair_that_does_not_fit_fails_as_one() {
    let mut link = io_queue(HostConfig::default());
    let data = |blocks: usize| Transfer::Write(vec![0; blocks << 9]);
    // Another range.
    let statuses = pair(&mut link, (compare(0, 1), data(1)), (write(1, 1), data(1)));
    assert_eq!(statuses, [Status::INVALID_FIELD.dnr(); 2]);
    // Not a compare first.
    let mut not_compare = write(0, 1);
    not_compare.flags = FUSE_FIRST;
    let statuses = pair(&mut link, (not_compare, data(1)), (write(0, 1), data(1)));
    assert_eq!(statuses, [Status::INVALID_FIELD.dnr(), Status::ABORTED_FAILED_FUSED]);
    // Not a write second.
    let mut not_write = compare(0, 1);
    not_write.flags = FUSE_SECOND;
    let statuses = pair(&mut link, (compare(0, 1), data(1)), (not_write, data(1)));
    assert_eq!(statuses, [Status::INVALID_FIELD.dnr(); 2]);
    // A first that is refused.
    let end = (SIZE >> 9) as u64;
    let statuses = pair(&mut link, (compare(end, 1), data(1)), (write(end, 1), data(1)));
    assert_eq!(statuses, [Status::LBA_OUT_OF_RANGE.dnr(), Status::ABORTED_FAILED_FUSED]);
    // A second that is refused.
    let statuses = pair(&mut link, (compare(0, 1), data(1)), (write(end, 1), data(1)));
    assert_eq!(statuses, [Status::ABORTED_FAILED_FUSED, Status::LBA_OUT_OF_RANGE.dnr()]);
    // More than one page, and across the border of two.
    for (lba, blocks) in [(0, 9), (5, 8)] {
        let statuses = pair(
            &mut link,
            (compare(lba, blocks), data(blocks as usize)),
            (write(lba, blocks), data(blocks as usize)),
        );
        let expected = [Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr(), Status::ABORTED_FAILED_FUSED];
        assert_eq!(statuses, expected);
    }
    assert_eq!(link.memory.live(), 0);
}

#[test]
fn damaged_data_of_one_fail_both() {
    for by_r2t in [false, true] {
        for spoil_first in [true, false] {
            let mut link = io_queue(digests());
            let old = current(&link, 0, 1);
            let form = if by_r2t { Transfer::WriteByR2t } else { Transfer::Write };
            link.host.hold_r2ts = true;
            link.host.spoil_next_data_digest = spoil_first && !by_r2t;
            let first = link.host.submit(compare(0, 1), form(old.clone()));
            link.host.spoil_next_data_digest |= !spoil_first && !by_r2t;
            let second = link.host.submit(write(0, 1), form(vec![9; 512]));
            link.run();
            link.host.spoil_next_data_digest |= by_r2t;
            link.host.answer_r2ts();
            let statuses = [link.finish(first).status, link.finish(second).status];
            let mut expected = [Status::TRANSIENT_TRANSPORT_ERROR, Status::ABORTED_FAILED_FUSED];
            if !spoil_first && !by_r2t {
                expected.reverse();
            }
            assert_eq!(statuses, expected);
            assert_eq!(current(&link, 0, 1), old);
        }
    }
}

#[test]
fn a_pair_that_the_store_fails() {
    let mut link = io_queue(HostConfig::default());
    for (error, expected) in [
        (BlockError::Full, [Status::ABORTED_FAILED_FUSED, Status::CAPACITY_EXCEEDED.dnr()]),
        (
            BlockError::Media { offset: 0 },
            [Status::UNRECOVERED_READ_ERROR, Status::ABORTED_FAILED_FUSED],
        ),
    ] {
        link.memory.fail_next = Some(error);
        let data = || Transfer::Write(vec![0; 512]);
        let statuses = pair(&mut link, (compare(0, 1), data()), (write(0, 1), data()));
        assert_eq!(statuses, expected);
    }
}

#[test]
fn an_aborted_first_takes_its_second_along() {
    let mut link = io_queue(HostConfig::default());
    let old = current(&link, 0, 1);
    let first = link.host.submit(compare(0, 1), Transfer::Write(old.clone()));
    link.run();
    assert!(link.connection.abort(first));
    assert_eq!(link.finish(first).status, Status::ABORT_REQUESTED);
    let second = link.host.submit(write(0, 1), Transfer::Write(vec![9; 512]));
    assert_eq!(link.finish(second).status, Status::ABORTED_FAILED_FUSED);
    assert_eq!(current(&link, 0, 1), old);
}
