//! PDUs: their order, headers, digests, data, and what answers those that are wrong.

use super::*;
use crate::testing::{Host, Transfer};
use core::time::Duration;
use storage_spec::nvme_tcp::{
    CapsuleCmd, CommonHeader, DataHeader, FatalError, IcReq, PduType, TermReq,
};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The terminate request that answers raw bytes on a link.
#[track_caller]
fn terminated(link: &mut Link, bytes: &[u8]) -> (FatalError, u32) {
    link.host.output_raw(bytes);
    link.run();
    let request = link.host.terminated().expect("the controller terminates").clone();
    assert!(bytes.starts_with(&request.header[..request.header.len().min(8)]));
    assert!(!link.connection.is_over(), "the host has time to close");
    link.connection.on_deadline(link.now + Duration::from_secs(29));
    assert!(!link.connection.is_over());
    link.connection.on_deadline(link.now + Duration::from_secs(30));
    assert!(link.connection.is_over());
    assert_eq!((link.connection.outstanding(), link.memory.live()), (0, 0));
    (FatalError(request.status), request.information)
}

fn ic_req() -> IcReq {
    let bytes = Host::new(HostConfig::default()).take_output();
    zerocopy::FromBytes::read_from_bytes(&bytes).unwrap()
}

#[test]
fn every_alignment_and_digest_is_honoured() {
    for data_alignment in 0..32 {
        for digests in 0..4 {
            let host = HostConfig {
                data_alignment,
                header_digest: digests & 1 != 0,
                data_digest: digests & 2 != 0,
                ..HostConfig::default()
            };
            let mut link = io_queue(host);
            let read = command(NvmOpcode::Read, 1, 1, 8);
            let finished = link.execute(read, Transfer::Read(4096));
            assert_eq!(finished.data, link.memory.volumes[0][512..4608]);
        }
    }
}

#[test]
fn digests_that_are_not_allowed_are_not_granted() {
    let config = Config { header_digest: false, data_digest: false, ..Config::default() };
    let mut link = Link::connected(digests(), config, memory(), &namespaces(), 1);
    let finished = link.execute(command(NvmOpcode::Read, 2, 0, 1), Transfer::Read(4096));
    assert_eq!(finished.status, Status::SUCCESS);
}

#[test]
fn a_bad_ic_req_is_named() {
    type Spoil = fn(&mut IcReq);
    let cases: [(Spoil, FatalError, u32); 5] = [
        (|pdu| pdu.format_version = U16::new(1), FatalError::UnsupportedParameter, 8),
        (|pdu| pdu.host_data_alignment = 32, FatalError::InvalidField, 10),
        (|pdu| pdu.common.header_len = 24, FatalError::InvalidField, 2),
        (|pdu| pdu.common.pdu_len = U32::new(129), FatalError::InvalidField, 4),
        (|pdu| pdu.common.pdu_type = 0x0A, FatalError::InvalidField, 0),
    ];
    for (spoil, status, information) in cases {
        let mut pdu = ic_req();
        spoil(&mut pdu);
        assert_eq!(terminated(&mut fresh(), pdu.as_bytes()), (status, information));
    }
}

#[test]
fn pdus_come_in_order() {
    let mut capsule = CapsuleCmd::new_zeroed();
    capsule.common.pdu_type = PduType::CapsuleCmd.0;
    capsule.common.header_len = 72;
    capsule.common.pdu_len = U32::new(72);
    assert_eq!(terminated(&mut fresh(), capsule.as_bytes()), (FatalError::Sequence, 0));
    let mut link = io_queue(HostConfig::default());
    assert_eq!(terminated(&mut link, ic_req().as_bytes()), (FatalError::Sequence, 0));
}

#[test]
fn a_bad_capsule_header_is_named() {
    type Spoil = fn(&mut CapsuleCmd);
    let cases: [(Spoil, FatalError, u32); 10] = [
        (|pdu| pdu.common.header_len = 71, FatalError::InvalidField, 2),
        (|pdu| pdu.common.pdu_len = U32::new(71), FatalError::InvalidField, 4),
        (|pdu| pdu.common.flags = 1, FatalError::InvalidField, 1),
        (|pdu| pdu.common.pdu_type = PduType::R2t.0, FatalError::InvalidField, 0),
        (|pdu| pdu.common.pdu_type = PduType::CapsuleResp.0, FatalError::InvalidField, 0),
        (|pdu| pdu.common.pdu_len = U32::new(73), FatalError::InvalidField, 3),
        (
            |pdu| {
                pdu.common.data_offset = 74;
                pdu.common.pdu_len = U32::new(80);
            },
            FatalError::InvalidField,
            3,
        ),
        (
            |pdu| {
                pdu.common.data_offset = 76;
                pdu.common.pdu_len = U32::new(76);
            },
            FatalError::InvalidField,
            4,
        ),
        (
            |pdu| {
                pdu.common.data_offset = 72;
                pdu.common.pdu_len = U32::new(72 + 8193);
            },
            FatalError::LimitExceeded,
            0,
        ),
        (
            |pdu| {
                pdu.common.data_offset = 72;
                pdu.common.flags = 2;
                pdu.common.pdu_len = U32::new(80);
            },
            FatalError::InvalidField,
            1,
        ),
    ];
    for (spoil, status, information) in cases {
        let mut pdu = CapsuleCmd::new_zeroed();
        pdu.common.pdu_type = PduType::CapsuleCmd.0;
        pdu.common.header_len = 72;
        pdu.common.pdu_len = U32::new(72);
        spoil(&mut pdu);
        let mut link = io_queue(HostConfig::default());
        assert_eq!(terminated(&mut link, pdu.as_bytes()), (status, information));
    }
}

#[test]
fn a_bad_header_digest_ends_the_connection() {
    let mut link = io_queue(digests());
    link.host.capsule(&command(NvmOpcode::Flush, 1, 0, 1), &[]);
    let mut bytes = link.host.take_output();
    bytes[73] ^= 0x10;
    let received = u32::from_le_bytes(bytes[72..76].try_into().unwrap());
    assert_eq!(terminated(&mut link, &bytes), (FatalError::HeaderDigest, received));
    assert_eq!(link.connection.counters().header_digest_errors, 1);
}

#[test]
fn a_bad_data_digest_fails_the_command_alone() {
    for transfer in [Transfer::Write(vec![1; 4096]), Transfer::WriteByR2t(vec![1; 4096])] {
        let mut link = io_queue(digests());
        let before = link.memory.volumes[1].clone();
        link.host.spoil_next_data_digest = true;
        let write = command(NvmOpcode::Write, 2, 0, 1);
        let finished = link.execute(write, transfer.clone());
        assert_eq!(finished.status, Status::TRANSIENT_TRANSPORT_ERROR);
        assert_eq!(link.memory.volumes[1], before);
        assert_eq!(link.execute(write, transfer).status, Status::SUCCESS);
        assert_eq!(link.connection.counters().data_digest_errors, 1);
    }
}

/// The data of the host that stand where those for it would are not sent back.
#[test]
fn a_bad_data_digest_fails_an_admin_command() {
    for transfer in [Transfer::Write(vec![1; 64]), Transfer::WriteByR2t(vec![1; 64])] {
        let mut link = admin_queue(digests());
        link.host.spoil_next_data_digest = true;
        let finished = link.execute(admin(AdminOpcode(0x81)), transfer);
        assert_eq!(finished.status, Status::TRANSIENT_TRANSPORT_ERROR);
        assert_eq!(link.connection.counters().events, 2);
    }
}

/// A link with a write whose R2T is held back; the H2CData header that would answer it.
fn with_r2t(config: Config) -> (Link, DataHeader) {
    let mut link = Link::connected(HostConfig::default(), config, memory(), &namespaces(), 1);
    link.host.hold_r2ts = true;
    link.host.submit(command(NvmOpcode::Write, 2, 0, 4), Transfer::Write(vec![1; 16384]));
    link.run();
    let (command_id, tag, offset, len) = link.host.held_r2ts()[0];
    assert_eq!((offset, len), (0, 16384));
    let mut header = DataHeader::new_zeroed();
    header.common = CommonHeader {
        pdu_type: PduType::H2cData.0,
        flags: 0,
        header_len: 24,
        data_offset: 24,
        pdu_len: U32::new(24 + 4096),
    };
    header.command_id = U16::new(command_id);
    header.transfer_tag = U16::new(tag);
    header.data_len = U32::new(4096);
    (link, header)
}

#[test]
fn bad_h2c_data_are_named() {
    type Spoil = fn(&mut DataHeader);
    let cases: [(Spoil, FatalError, u32); 11] = [
        (|pdu| pdu.transfer_tag = U16::new(99), FatalError::InvalidField, 10),
        (|pdu| pdu.transfer_tag = U16::new(u16::MAX), FatalError::InvalidField, 10),
        (|pdu| pdu.command_id = U16::new(pdu.command_id.get() + 1), FatalError::InvalidField, 8),
        (|pdu| pdu.data_offset = U32::new(4), FatalError::DataOutOfRange, 0),
        (|pdu| pdu.data_offset = U32::new(u32::MAX), FatalError::DataOutOfRange, 0),
        (|pdu| pdu.data_len = U32::new(0), FatalError::InvalidField, 16),
        (|pdu| pdu.data_len = U32::new(4092), FatalError::InvalidField, 4),
        (|pdu| pdu.data_len = U32::new(u32::MAX), FatalError::LimitExceeded, 0),
        (|pdu| pdu.data_len = U32::new(16388), FatalError::DataOutOfRange, 0),
        (|pdu| pdu.common.flags = 4, FatalError::InvalidField, 1),
        (|pdu| pdu.common.pdu_len = U32::new(24), FatalError::InvalidField, 4),
    ];
    for (index, (spoil, status, information)) in cases.into_iter().enumerate() {
        let (mut link, mut pdu) = with_r2t(Config::default());
        spoil(&mut pdu);
        assert_eq!(terminated(&mut link, pdu.as_bytes()), (status, information), "case {index}");
    }
    let (mut link, mut pdu) = with_r2t(Config { h2c_data_max: 4096, ..Config::default() });
    pdu.data_len = U32::new(8192);
    pdu.common.pdu_len = U32::new(24 + 8192);
    assert_eq!(terminated(&mut link, pdu.as_bytes()), (FatalError::LimitExceeded, 0));
}

#[test]
fn the_last_h2c_data_of_an_r2t_says_so() {
    let (mut link, mut pdu) = with_r2t(Config::default());
    pdu.data_len = U32::new(16384);
    pdu.common.pdu_len = U32::new(24 + 16384);
    assert_eq!(terminated(&mut link, pdu.as_bytes()), (FatalError::InvalidField, 1));
}

#[test]
fn data_come_once() {
    let (mut link, mut pdu) = with_r2t(Config::default());
    link.host.answer_r2ts();
    link.run();
    assert_eq!(link.host.outstanding(), 0);
    pdu.data_len = U32::new(4096);
    assert_eq!(terminated(&mut link, pdu.as_bytes()), (FatalError::InvalidField, 10));
}

#[test]
fn a_terminate_request_of_the_host_ends_the_connection() {
    let mut link = io_queue(HostConfig::default());
    link.hold_blocks = true;
    link.host.submit(command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(512));
    link.run();
    let mut request = TermReq::new_zeroed();
    request.common.pdu_type = PduType::H2cTermReq.0;
    request.common.header_len = 24;
    request.common.pdu_len = U32::new(32);
    link.host.output_raw(request.as_bytes());
    link.host.output_raw(&[1; 8]);
    link.run();
    assert!(link.connection.is_over() && link.connection.outstanding() == 1);
    link.complete(0);
    assert_eq!((link.connection.outstanding(), link.memory.live()), (0, 0));
    assert_eq!(link.connection.counters().term_requests_received, 1);
}

#[test]
fn deadlines_of_the_beginning() {
    let mut link = fresh();
    let deadline = link.connection.deadline().unwrap();
    link.connection.on_deadline(deadline - Duration::from_millis(1));
    assert!(!link.connection.is_over());
    link.connection.on_deadline(deadline);
    assert!(link.connection.is_over());

    let mut link = fresh();
    link.host = Host::new(HostConfig::default());
    link.run();
    let deadline = link.connection.deadline().unwrap();
    assert_eq!(deadline, link.now + Config::default().connect_timeout);
    link.connection.on_deadline(deadline);
    assert!(link.connection.is_over());
    assert_eq!(io_queue(HostConfig::default()).connection.deadline(), None);
}
