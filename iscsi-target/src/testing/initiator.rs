//! An initiator without sockets: requests in, bytes out; bytes in, outcomes out.

use std::collections::BTreeMap;
use storage_spec::crc32c;
use storage_spec::iscsi::{
    BHS_LEN, Bhs, DIGEST_LEN, DataIn, DataOut, FINAL, LoginFlags, LoginRequest, LoginResponse,
    Opcode, OpcodeByte, R2t, ResidualFlags, ScsiCommand, ScsiCommandFlags, ScsiResponse, Stage,
    TAG_NONE, TaskManagementRequest, U24,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How an initiator talks.
#[derive(Debug, Clone)]
pub struct InitiatorConfig {
    /// Its name.
    pub name: String,
    /// Its part of the session's identifier.
    pub isid: [u8; 6],
    /// Whether it offers digests of headers, and of data.
    pub digests: (bool, bool),
    /// Most data that it takes in one PDU.
    pub receive_max: u32,
    /// Most data that it puts in one PDU.
    pub send_max: u32,
    /// Most data that come unasked; 0: login does not speak of it.
    pub first_burst: u32,
    /// Most data of one sequence.
    pub burst_max: u32,
    /// Whether commands carry data.
    pub immediate: bool,
    /// Whether the rest of the first burst follows a command at once: to be agreed on.
    pub unasked: bool,
    /// iSCSIProtocolLevel that it speaks.
    pub protocol_level: u16,
    /// Whether responses must count their command's R2Ts and Data-Ins (ExpDataSN): not all targets
    /// do.
    pub counts: bool,
}

impl Default for InitiatorConfig {
    fn default() -> Self {
        Self {
            name: "iqn.2026-01.test:host".into(),
            isid: [0, 1, 2, 3, 4, 5],
            digests: (false, false),
            receive_max: 262_144,
            send_max: 262_144,
            first_burst: 65_536,
            burst_max: 262_144,
            immediate: true,
            unasked: false,
            protocol_level: 2,
            counts: true,
        }
    }
}

/// A PDU that was received.
#[derive(Debug, Clone)]
pub struct Pdu {
    /// Its header.
    pub header: [u8; BHS_LEN],
    /// Its data.
    pub data: Vec<u8>,
}

impl Pdu {
    /// Its header as one that all have.
    #[must_use]
    pub fn bhs(&self) -> Bhs {
        Bhs::read_from_bytes(&self.header).expect("the length is that of the header")
    }

    /// What it is.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
        self.bhs().opcode()
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// SCSI status.
    pub status: u8,
    /// Sense key and additional sense code, if there were sense data.
    pub sense: Option<(u8, u16)>,
    /// Response code of the sense data: their format.
    pub format: u8,
    /// Data from the target.
    pub data: Vec<u8>,
    /// Underflow is negative.
    pub residual: i64,
}

/// See the module.
#[derive(Debug)]
pub struct Initiator {
    /// How it talks.
    pub config: InitiatorConfig,
    /// Whether login has ended, and digests begun.
    pub is_in: bool,
    /// CmdSN of the next numbered request.
    pub command_sn: u32,
    /// Highest that it may use.
    pub command_sn_max: u32,
    /// StatSN of the next response.
    pub status_sn: u32,
    /// Whether R2Ts are answered by themselves.
    pub answers_r2t: bool,
    /// Every PDU that is not of a command's course.
    pub received: Vec<Pdu>,
    /// R2Ts that were left alone.
    pub r2ts: Vec<R2t>,
    next_tag: u32,
    output: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of `input` that have been taken.
    taken: usize,
    writes: BTreeMap<u32, Vec<u8>>,
    reads: BTreeMap<u32, Vec<u8>>,
    /// R2Ts and Data-Ins of each command that is under way.
    sent: BTreeMap<u32, u32>,
    finished: BTreeMap<u32, Finished>,
}

impl Initiator {
    /// One that has said nothing.
    #[must_use]
    pub fn new(config: InitiatorConfig) -> Self {
        Self {
            config,
            is_in: false,
            command_sn: 100,
            command_sn_max: 100,
            status_sn: 0,
            answers_r2t: true,
            received: Vec::new(),
            r2ts: Vec::new(),
            next_tag: 1,
            output: Vec::new(),
            input: Vec::new(),
            taken: 0,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            sent: BTreeMap::new(),
            finished: BTreeMap::new(),
        }
    }

    /// Bytes for the target.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.output)
    }

    /// How a command has ended, if it has.
    pub fn finished(&mut self, tag: u32) -> Option<Finished> {
        self.finished.remove(&tag)
    }

    /// The first PDU of a kind that has come, which is taken.
    pub fn take(&mut self, opcode: Opcode) -> Option<Pdu> {
        let at = self.received.iter().position(|pdu| pdu.opcode() == opcode)?;
        Some(self.received.remove(at))
    }

    /// A login request in the operational stage with every key, to be the last.
    pub fn login(&mut self, target: &str) {
        let digest = |is_on: bool| if is_on { "CRC32C,None" } else { "None" };
        let config = self.config.clone();
        let keys = [
            ("InitiatorName", config.name.clone()),
            ("TargetName", target.to_owned()),
            ("SessionType", "Normal".into()),
            ("HeaderDigest", digest(config.digests.0).into()),
            ("DataDigest", digest(config.digests.1).into()),
            ("InitialR2T", "No".into()),
            ("ImmediateData", if config.immediate { "Yes" } else { "No" }.into()),
            ("MaxRecvDataSegmentLength", config.receive_max.to_string()),
            ("MaxBurstLength", config.burst_max.to_string()),
            ("FirstBurstLength", config.first_burst.to_string()),
            ("iSCSIProtocolLevel", config.protocol_level.to_string()),
        ];
        let is_said = |key: &str| key != "FirstBurstLength" || config.first_burst > 0;
        let keys = keys.iter().map(|(key, value)| (*key, value.as_str()));
        let keys: Vec<_> = keys.filter(|(key, _)| is_said(key)).collect();
        self.login_request(Stage::Operational, Some(Stage::FullFeature), &keys);
    }

    /// A login request.
    pub fn login_request(&mut self, stage: Stage, next: Option<Stage>, keys: &[(&str, &str)]) {
        let mut text = Vec::new();
        keys.iter().for_each(|(key, value)| crate::text::push(&mut text, key, value));
        let flags = LoginFlags::new().with_current(stage.0).with_transit(next.is_some());
        self.login_pdu(flags.with_next(next.map_or(0, |next| next.0)), &text);
    }

    /// A login request with any flags and text.
    pub fn login_pdu(&mut self, flags: LoginFlags, text: &[u8]) {
        let mut pdu = LoginRequest::new_zeroed();
        pdu.opcode = OpcodeByte::new().with_opcode(3).with_immediate(true).into();
        pdu.flags = flags.into();
        pdu.data_len = U24::new(text.len() as u32);
        pdu.isid = self.config.isid;
        pdu.command_sn = self.command_sn.into();
        self.send(pdu.as_bytes(), text);
    }

    /// A command that reads at most `expected` bytes, or moves none: its tag.
    pub fn read(&mut self, lun: u16, cdb: &[u8], expected: u32) -> u32 {
        let flags = ScsiCommandFlags::new().with_is_final(true).with_read(expected > 0);
        self.command(lun, cdb, flags, expected, &[])
    }

    /// A command that brings data: its tag.
    pub fn write(&mut self, lun: u16, cdb: &[u8], data: &[u8]) -> u32 {
        let InitiatorConfig { immediate, unasked, first_burst, send_max, .. } = self.config;
        let first = data.len().min(first_burst as usize);
        let with = if immediate { first.min(send_max as usize) } else { 0 };
        let behind = if unasked { &data[with..first] } else { &[] };
        let flags = ScsiCommandFlags::new().with_is_final(behind.is_empty()).with_write(true);
        let tag = self.command(lun, cdb, flags, data.len() as u32, &data[..with]);
        self.writes.insert(tag, data.to_vec());
        let count = behind.len().div_ceil(send_max as usize);
        for (sn, part) in behind.chunks(send_max as usize).enumerate() {
            let offset = with as u32 + sn as u32 * send_max;
            self.data_out(tag, TAG_NONE, sn as u32, offset, part, sn + 1 == count);
        }
        tag
    }

    /// Any command: its tag.
    pub fn command(
        &mut self,
        lun: u16,
        cdb: &[u8],
        flags: ScsiCommandFlags,
        expected: u32,
        immediate: &[u8],
    ) -> u32 {
        let mut pdu = ScsiCommand::new_zeroed();
        pdu.opcode = Opcode::ScsiCommand.0;
        pdu.flags = flags.into();
        pdu.data_len = U24::new(immediate.len() as u32);
        pdu.lun = crate::scsi::Lun(lun).to_wire();
        let tag = self.tag();
        pdu.task_tag = tag.into();
        pdu.transfer_len = expected.into();
        pdu.command_sn = self.number().into();
        pdu.cdb[..cdb.len()].copy_from_slice(cdb);
        self.reads.insert(tag, Vec::new());
        self.send(pdu.as_bytes(), immediate);
        tag
    }

    /// A command with this tag is sent by other means.
    pub fn expect(&mut self, tag: u32) {
        self.reads.insert(tag, Vec::new());
    }

    /// Data for a command, as asked for by an R2T or not.
    pub fn data_out(
        &mut self,
        tag: u32,
        transfer: u32,
        sn: u32,
        offset: u32,
        data: &[u8],
        last: bool,
    ) {
        let mut pdu = DataOut::new_zeroed();
        pdu.opcode = Opcode::DataOut.0;
        pdu.flags = if last { FINAL } else { 0 };
        pdu.data_len = U24::new(data.len() as u32);
        pdu.task_tag = tag.into();
        pdu.transfer_tag = transfer.into();
        pdu.data_sn = sn.into();
        pdu.buffer_offset = offset.into();
        self.send(pdu.as_bytes(), data);
    }

    /// An immediate task management request: its tag.
    pub fn manage(&mut self, function: u8, lun: u16, referenced: u32) -> u32 {
        let mut pdu = TaskManagementRequest::new_zeroed();
        pdu.opcode = OpcodeByte::new().with_opcode(2).with_immediate(true).into();
        pdu.function = FINAL | function;
        pdu.lun = crate::scsi::Lun(lun).to_wire();
        pdu.referenced_tag = referenced.into();
        pdu.referenced_sn = self.command_sn.wrapping_add(1000).into();
        let tag = self.tag();
        pdu.task_tag = tag.into();
        pdu.command_sn = self.command_sn.into();
        self.send(pdu.as_bytes(), &[]);
        tag
    }

    /// Any request by its opcode, with the header's parts that all have: its tag.
    pub fn request(&mut self, opcode: Opcode, flags: u8, transfer: u32, data: &[u8]) -> u32 {
        let tag = self.tag();
        self.request_as(tag, opcode, flags, transfer, data);
        tag
    }

    /// The same with a tag.
    pub fn request_as(&mut self, tag: u32, opcode: Opcode, flags: u8, transfer: u32, data: &[u8]) {
        let mut pdu = storage_spec::iscsi::TextRequest::new_zeroed();
        pdu.opcode = opcode.0;
        pdu.flags = flags;
        pdu.data_len = U24::new(data.len() as u32);
        pdu.task_tag = tag.into();
        pdu.transfer_tag = transfer.into();
        pdu.command_sn = self.number().into();
        self.send(pdu.as_bytes(), data);
    }

    /// An immediate NOP-Out that answers a ping.
    pub fn pong(&mut self, transfer: u32) {
        let mut pdu = storage_spec::iscsi::NopOut::new_zeroed();
        pdu.opcode = OpcodeByte::new().with_opcode(0).with_immediate(true).into();
        pdu.flags = FINAL;
        pdu.task_tag = TAG_NONE.into();
        pdu.transfer_tag = transfer.into();
        pdu.command_sn = self.command_sn.into();
        self.send(pdu.as_bytes(), &[]);
    }

    /// Sends a PDU with its digests.
    pub fn send(&mut self, header: &[u8], data: &[u8]) {
        let (header_digest, data_digest) = self.digests();
        self.output.extend_from_slice(header);
        if header_digest {
            self.output.extend_from_slice(&crc32c::checksum(header).to_le_bytes());
        }
        if data.is_empty() {
            return;
        }
        let mut data = data.to_vec();
        data.resize(data.len().next_multiple_of(4), 0);
        self.output.extend_from_slice(&data);
        if data_digest {
            self.output.extend_from_slice(&crc32c::checksum(&data).to_le_bytes());
        }
    }

    /// Takes bytes of the target.
    ///
    /// # Panics
    /// If they are not as the standard wants them.
    pub fn input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(pdu) = self.split() {
            self.take_pdu(pdu);
        }
        self.forget_taken();
    }

    /// Takes bytes of the target of which only R2Ts are of interest.
    pub fn overhear(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(pdu) = self.split() {
            if pdu.opcode() == Opcode::R2t {
                self.r2ts.push(R2t::read_from_bytes(&pdu.header).expect("its length"));
            }
        }
        self.forget_taken();
    }

    /// Once for all the PDUs of an input: what is left moves to the front.
    fn forget_taken(&mut self) {
        self.input.drain(..self.taken);
        self.taken = 0;
    }

    fn digests(&self) -> (bool, bool) {
        if self.is_in { self.config.digests } else { (false, false) }
    }

    fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    fn number(&mut self) -> u32 {
        let sn = self.command_sn;
        self.command_sn = sn.wrapping_add(1);
        sn
    }

    fn split(&mut self) -> Option<Pdu> {
        let (header_digest, data_digest) = self.digests();
        let input = &self.input[self.taken..];
        let header: [u8; BHS_LEN] = input.get(..BHS_LEN)?.try_into().expect("so many");
        let len = Bhs::read_from_bytes(&header).expect("so many").data_len.get() as usize;
        let mut at = BHS_LEN;
        let check = |bytes: &[u8], at: usize| {
            let crc = input.get(at..at + DIGEST_LEN)?;
            assert_eq!(crc, crc32c::checksum(bytes).to_le_bytes(), "digest of {header:x?}");
            Some(())
        };
        if header_digest {
            check(&header, at)?;
            at += DIGEST_LEN;
        }
        let data = input.get(at..at + len.next_multiple_of(4))?;
        at += data.len();
        if data_digest && len > 0 {
            check(data, at)?;
            at += DIGEST_LEN;
        }
        self.taken += at;
        Some(Pdu { header, data: data[..len].to_vec() })
    }

    fn take_pdu(&mut self, pdu: Pdu) {
        let opcode = pdu.opcode();
        let has_status = match opcode {
            Opcode::DataIn => ResidualFlags::from(pdu.header[1]).status(),
            Opcode::R2t => false,
            Opcode::NopIn => pdu.bhs().task_tag.get() != TAG_NONE,
            _ => true,
        };
        let number =
            |at: usize| u32::from_be_bytes(pdu.header[at..at + 4].try_into().expect("four bytes"));
        if has_status {
            let first = self.status_sn == 0;
            assert!(first || number(24) == self.status_sn, "StatSN {} of {opcode:?}", number(24));
            self.status_sn = number(24).wrapping_add(1);
        }
        assert!(
            !storage_spec::iscsi::serial_lt(number(32), self.command_sn_max),
            "MaxCmdSN never falls"
        );
        self.command_sn_max = number(32);
        match opcode {
            Opcode::DataIn => self.take_data_in(&pdu),
            Opcode::R2t => self.take_r2t(&pdu),
            Opcode::ScsiResponse => self.take_response(&pdu),
            Opcode::LoginResponse => {
                let response = LoginResponse::read_from_bytes(&pdu.header).expect("its length");
                let flags = LoginFlags::from(response.flags);
                self.is_in = response.status.get() == 0
                    && flags.transit()
                    && Stage(flags.next()) == Stage::FullFeature;
                self.received.push(pdu);
            }
            _ => self.received.push(pdu),
        }
    }

    fn take_data_in(&mut self, pdu: &Pdu) {
        let header = DataIn::read_from_bytes(&pdu.header).expect("its length");
        let tag = header.task_tag.get();
        let data = self.reads.get_mut(&tag).expect("data of a command that is under way");
        assert_eq!(header.buffer_offset.get() as usize, data.len(), "in order");
        assert!(pdu.data.len() <= self.config.receive_max as usize, "no more than is taken");
        let sn = self.sent.entry(tag).or_default();
        assert_eq!(header.data_sn.get(), *sn, "DataSN counts a command's Data-Ins");
        *sn += 1;
        data.extend_from_slice(&pdu.data);
        let flags = ResidualFlags::from(header.flags);
        if flags.status() {
            assert!(flags.is_final(), "status comes with the last");
            let residual = residual(flags, header.residual.get());
            self.finish(tag, header.status, &[], residual);
        }
    }

    fn take_response(&mut self, pdu: &Pdu) {
        let header = ScsiResponse::read_from_bytes(&pdu.header).expect("its length");
        let flags = ResidualFlags::from(header.flags);
        let residual = residual(flags, header.residual.get());
        let sense = pdu.data.get(2..).unwrap_or_default();
        let tag = header.task_tag.get();
        let sent = self.sent.get(&tag).copied().unwrap_or_default();
        let counted = header.expected_data_sn.get();
        assert!(!self.config.counts || counted == sent, "{counted} R2Ts and Data-Ins, not {sent}");
        self.finish(tag, header.status, sense, residual);
    }

    fn finish(&mut self, tag: u32, status: u8, sense: &[u8], residual: i64) {
        let data = self.reads.remove(&tag).expect("a command ends once");
        self.writes.remove(&tag);
        self.sent.remove(&tag);
        let format = sense.first().map_or(0, |code| code & 0x7F);
        let sense = match *sense {
            [] => None,
            [_, _, key, ..] if format == 0x70 => {
                Some((key & 0xF, u16::from_be_bytes([sense[12], sense[13]])))
            }
            _ => Some((sense[1] & 0xF, u16::from_be_bytes([sense[2], sense[3]]))),
        };
        self.finished.insert(tag, Finished { status, sense, format, data, residual });
    }

    fn take_r2t(&mut self, pdu: &Pdu) {
        let r2t = R2t::read_from_bytes(&pdu.header).expect("its length");
        let sn = self.sent.entry(r2t.task_tag.get()).or_default();
        assert_eq!(r2t.r2t_sn.get(), *sn, "R2TSN counts a command's R2Ts");
        *sn += 1;
        if !self.answers_r2t {
            self.r2ts.push(r2t);
            return;
        }
        let tag = r2t.task_tag.get();
        let data = self.writes[&tag].clone();
        let (start, len) = (r2t.buffer_offset.get(), r2t.desired_len.get());
        let end = start + len;
        let (mut at, mut sn) = (start, 0);
        while at < end {
            let to = end.min(at + self.config.send_max);
            let part = data[at as usize..to as usize].to_vec();
            self.data_out(tag, r2t.transfer_tag.get(), sn, at, &part, to == end);
            (at, sn) = (to, sn + 1);
        }
    }
}

fn residual(flags: ResidualFlags, count: u32) -> i64 {
    match (flags.underflow(), flags.overflow()) {
        (true, false) => -i64::from(count),
        (false, true) => i64::from(count),
        (false, false) => {
            assert_eq!(count, 0, "a residual has a direction");
            0
        }
        (true, true) => panic!("a residual has one direction"),
    }
}
