//! What comes from the controller, and whether it may.

use super::{Finished, Host, Terminated};
use storage_spec::crc32c;
use storage_spec::nvme::command::Completion;
use storage_spec::nvme::status::Status;
use storage_spec::nvme_tcp::{
    CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, Digests, IC_LEN, IcResp, PduFlags, PduType,
    R2t, SHORT_LEN, TermReq,
};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

impl Host {
    /// Takes bytes that the controller sent.
    ///
    /// # Panics
    /// If the controller breaks a rule.
    pub fn input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let mut input = core::mem::take(&mut self.input);
        let mut at = 0;
        while input.len() - at >= 8 {
            let common = CommonHeader::read_from_bytes(&input[at..at + 8]).expect("8 bytes");
            let len = common.pdu_len.get() as usize;
            assert!((8..=(2 << 20)).contains(&len), "host: PDU of {len} bytes");
            if input.len() - at < len {
                break;
            }
            self.take_pdu(&common, &input[at..at + len]);
            at += len;
        }
        input.drain(..at);
        self.input = input;
    }

    fn take_pdu(&mut self, common: &CommonHeader, pdu: &[u8]) {
        assert!(self.terminated.is_none(), "host: a PDU after a terminate request");
        let pdu_type = PduType(common.pdu_type);
        let Some(digests) = self.digests else {
            if pdu_type == PduType::C2hTermReq {
                return self.take_term_req(pdu);
            }
            assert_eq!(pdu_type, PduType::IcResp, "host: ICResp comes first");
            return self.take_ic_resp(pdu);
        };
        assert_eq!(usize::from(common.header_len), SHORT_LEN, "host: header length");
        if pdu_type == PduType::C2hTermReq {
            return self.take_term_req(pdu);
        }
        let flags = PduFlags::from(common.flags);
        assert_eq!(flags.header_digest(), digests.header(), "host: HDGSTF as negotiated");
        let mut data_offset = SHORT_LEN;
        if digests.header() {
            let digest = crc32c::checksum(&pdu[..SHORT_LEN]).to_le_bytes();
            data_offset += DIGEST_LEN;
            assert_eq!(&pdu[SHORT_LEN..data_offset], digest, "host: header digest");
        }
        let header = &pdu[..SHORT_LEN];
        match pdu_type {
            PduType::CapsuleResp => {
                assert_eq!(pdu.len(), data_offset, "host: length of a response");
                let response = CapsuleResp::read_from_bytes(header).expect("24 bytes");
                self.take_completion(&response.completion);
            }
            PduType::R2t => {
                assert_eq!(pdu.len(), data_offset, "host: length of an R2T");
                self.take_r2t(R2t::read_from_bytes(header).expect("24 bytes"));
            }
            PduType::C2hData => {
                let alignment = (usize::from(self.config.data_alignment) + 1) * 4;
                let data_offset = data_offset.next_multiple_of(alignment);
                assert_eq!(usize::from(common.data_offset), data_offset, "host: PDO");
                let header = DataHeader::read_from_bytes(header).expect("24 bytes");
                self.take_data(&header, flags, &pdu[data_offset..], digests);
            }
            other => panic!("host: a PDU of type {other:?}"),
        }
    }

    fn take_ic_resp(&mut self, pdu: &[u8]) {
        let response = IcResp::read_from_bytes(pdu).expect("host: 128 bytes of ICResp");
        assert_eq!(usize::from(response.common.header_len), IC_LEN);
        assert_eq!(response.format_version.get(), 0, "host: PFV");
        assert_eq!(response.controller_data_alignment, 0, "host: CPDA");
        let digests = Digests::from(response.digests);
        assert!(!digests.header() || self.config.header_digest, "host: digest not asked for");
        assert!(!digests.data() || self.config.data_digest, "host: digest not asked for");
        let max = response.h2c_data_max.get();
        assert!(max >= 4096 && max.is_multiple_of(4), "host: MAXH2CDATA");
        self.h2c_data_max = (max as usize).min(self.config.h2c_data_max);
        self.digests = Some(digests);
    }

    fn take_term_req(&mut self, pdu: &[u8]) {
        assert!((24..=152).contains(&pdu.len()), "host: length of a terminate request");
        let request = TermReq::read_from_bytes(&pdu[..SHORT_LEN]).expect("24 bytes");
        self.terminated = Some(Terminated {
            status: request.status.get(),
            information: request.information.get(),
            header: pdu[SHORT_LEN..].to_vec(),
        });
    }

    fn take_completion(&mut self, completion: &Completion) {
        let command_id = completion.command_id.get();
        let pending = self.pending.remove(&command_id);
        let pending = pending.unwrap_or_else(|| panic!("host: completes unknown {command_id}"));
        let status = completion.status();
        assert_eq!(completion.sq_id.get(), 0);
        let is_short = status.is_success() && !pending.has_all;
        assert!(!is_short, "host: a successful read that is short");
        if self.config.flow_control_disabled && self.is_io {
            // The response to Connect itself may still count.
            let sq_head = completion.sq_head.get();
            assert!(sq_head == u16::MAX || sq_head <= 1, "host: SQHD without flow control");
        } else {
            let sq_head = completion.sq_head.get();
            let is_in_queue = sq_head < self.config.entries || sq_head == u16::MAX;
            assert!(is_in_queue, "host: SQHD beyond the queue");
        }
        let (result, data) = (completion.result.get(), pending.incoming);
        let (is_logged, status) = (status.more(), status.with_more(false));
        self.finish(command_id, Finished { status, is_logged, result, data, by_flag: false });
    }

    fn take_r2t(&mut self, r2t: R2t) {
        let command_id = r2t.command_id.get();
        let pending = self.pending.get_mut(&command_id);
        let pending = pending.unwrap_or_else(|| panic!("host: R2T for unknown {command_id}"));
        let (offset, len) = (r2t.offset.get() as usize, r2t.len.get() as usize);
        assert!(len > 0, "host: R2T of no bytes");
        assert!(pending.room == 0, "host: a second R2T while one is served");
        assert!(offset >= pending.sent, "host: R2T for what was sent");
        assert!(offset + len <= pending.outgoing.len(), "host: R2T beyond the data");
        pending.room = len;
        if self.hold_r2ts {
            self.held.push(r2t);
        } else {
            self.answer(&r2t);
        }
    }

    pub(super) fn answer(&mut self, r2t: &R2t) {
        let Some(pending) = self.pending.get_mut(&r2t.command_id.get()) else { return };
        let (mut at, mut left) = (r2t.offset.get() as usize, r2t.len.get() as usize);
        pending.room = 0;
        pending.sent = at + left;
        let outgoing = pending.outgoing.clone();
        while left > 0 {
            let count = left.min(self.h2c_data_max);
            let mut header = DataHeader::new_zeroed();
            header.common.pdu_type = PduType::H2cData.0;
            header.command_id = r2t.command_id;
            header.transfer_tag = r2t.transfer_tag;
            header.data_offset = U32::new(at as u32);
            header.data_len = U32::new(count as u32);
            self.pdu(header.as_bytes(), &outgoing[at..at + count], count == left);
            at += count;
            left -= count;
        }
    }

    fn take_data(&mut self, header: &DataHeader, flags: PduFlags, rest: &[u8], digests: Digests) {
        let command_id = header.command_id.get();
        let pending = self.pending.get_mut(&command_id);
        let pending = pending.unwrap_or_else(|| panic!("host: data for unknown {command_id}"));
        let (offset, len) = (header.data_offset.get() as usize, header.data_len.get() as usize);
        assert!(len > 0, "host: a data PDU without data");
        assert!(!pending.has_all, "host: more data than asked for");
        assert_eq!(offset, pending.room, "host: data out of order");
        assert!(offset + len <= pending.incoming.len(), "host: more data than asked for");
        assert_eq!(flags.data_digest(), digests.data(), "host: DDGSTF as negotiated");
        let digest_len = if digests.data() { DIGEST_LEN } else { 0 };
        assert_eq!(rest.len(), len + digest_len, "host: length of a data PDU");
        let (data, digest) = rest.split_at(len);
        if digests.data() {
            assert_eq!(digest, crc32c::checksum(data).to_le_bytes(), "host: data digest");
        }
        pending.incoming[offset..offset + len].copy_from_slice(data);
        pending.room += len;
        pending.has_all = pending.room == pending.incoming.len();
        assert_eq!(flags.last(), pending.has_all, "host: LAST on the last PDU alone");
        if flags.success() {
            assert!(flags.last(), "host: SUCCESS without LAST");
            assert!(self.config.flow_control_disabled, "host: SUCCESS with flow control");
            let data = self.pending.remove(&command_id).expect("just seen").incoming;
            let status = Status::SUCCESS;
            let finished = Finished { status, is_logged: false, result: 0, data, by_flag: true };
            self.finish(command_id, finished);
        }
    }

    fn finish(&mut self, command_id: u16, finished: Finished) {
        let before = self.finished.insert(command_id, finished);
        assert!(before.is_none(), "host: {command_id} was completed and not looked at");
    }
}
