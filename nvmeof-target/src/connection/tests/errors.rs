//! What is kept of commands that failed.

use super::*;
use crate::io::BlockError;
use crate::seam::ERRORS_HELD_MAX;
use crate::testing::{Transfer, command};
use storage_spec::nvme::command::NvmOpcode;

#[test]
fn the_latest_are_kept_and_the_others_counted() {
    let mut link = io_queue(HostConfig::default());
    assert_eq!(link.connection.take_errors(), None);
    for lba in 0..ERRORS_HELD_MAX as u64 + 3 {
        let beyond = command(NvmOpcode::Read, 1, (1 << 40) + lba, 1);
        assert!(link.execute(beyond, Transfer::Read(512)).is_logged);
    }
    let errors = link.connection.take_errors().unwrap();
    assert_eq!((errors.errors.len(), errors.lost), (ERRORS_HELD_MAX, 3));
    assert_eq!(errors.errors[0].lba, (1 << 40) + 3);
    assert!(errors.errors.iter().all(|error| error.status == Status::LBA_OUT_OF_RANGE.dnr()));
    assert_eq!(link.connection.take_errors(), None);
}

#[test]
fn the_block_is_the_one_that_the_store_names() {
    let mut link = io_queue(HostConfig::default());
    link.memory.fail_next = Some(BlockError::Media { offset: 7 * 512 });
    let read = link.execute(command(NvmOpcode::Read, 1, 4, 8), Transfer::Read(4096));
    assert!(read.is_logged);
    let error = link.connection.take_errors().unwrap().errors[0];
    assert_eq!((error.lba, error.namespace_id), (7, 1));
}

#[test]
fn what_the_host_asked_for_is_no_error() {
    let mut link = io_queue(HostConfig::default());
    link.association.set_enabled(false);
    let read = link.execute(command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(512));
    assert_is(read.status, Status::ABORTED_SQ_DELETION);
    assert!(!read.is_logged);
    assert_eq!(link.connection.take_errors(), None);
}

#[test]
fn without_a_controller_there_is_no_log() {
    let mut link = Link::new(HostConfig::default(), Config::default(), memory(), &namespaces());
    link.run();
    let refused = link.execute(command(NvmOpcode::Flush, 1, 0, 1), Transfer::None);
    assert!(!refused.status.is_success() && !refused.is_logged);
    assert_eq!(link.connection.take_errors(), None);
}
