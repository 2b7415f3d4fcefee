//! An NVMe/TCP initiator in memory that holds a controller to what Linux 6.12 enforces, and more.
//!
//! It panics when the controller breaks a rule: every test that uses it tests all of them.

mod input;

use std::collections::BTreeMap;
use storage_spec::crc32c;
use storage_spec::fabrics::{ConnectAttributes, ConnectCommand, ConnectData, FabricsType};
use storage_spec::nvme::command::{
    Command, CommandFlags, FABRICS_OPCODE, NvmOpcode, PSDT_SGL, SGL_IN_CAPSULE, SGL_TRANSPORT,
    SglDescriptor,
};
use storage_spec::nvme::status::Status;
use storage_spec::nvme_tcp::{
    CapsuleCmd, CommonHeader, DIGEST_LEN, Digests, IC_LEN, IcReq, PduFlags, PduType, R2t,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What a host asks for, and how it behaves.
#[derive(Debug, Clone, Copy)]
pub struct HostConfig {
    /// Asks for header digests.
    pub header_digest: bool,
    /// Asks for data digests.
    pub data_digest: bool,
    /// Host PDU Data Alignment, 0 to 31.
    pub data_alignment: u8,
    /// Data that it puts into capsules of I/O commands: what IOCCSZ allowed.
    pub in_capsule_max: usize,
    /// Entries of the submission queue.
    pub entries: u16,
    /// Asks for no SQ flow control.
    pub flow_control_disabled: bool,
    /// Most data that it puts into one H2CData PDU, if the controller allows.
    pub h2c_data_max: usize,
    /// Its Host Identifier.
    pub host_id: [u8; 16],
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            data_alignment: 0,
            in_capsule_max: 8192,
            entries: 128,
            flow_control_disabled: true,
            h2c_data_max: usize::MAX,
            host_id: [7; 16],
        }
    }
}

/// The data of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    None,
    /// To the controller, in the capsule if they fit.
    Write(Vec<u8>),
    /// To the controller, by R2T even if they fit into the capsule.
    WriteByR2t(Vec<u8>),
    /// From the controller, so many bytes.
    Read(usize),
}

/// A completed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its status, without More.
    pub status: Status,
    /// More: there is an entry in the error log.
    pub is_logged: bool,
    /// Dwords 0 and 1.
    pub result: u64,
    /// What it read; empty for other commands.
    pub data: Vec<u8>,
    /// Whether the SUCCESS flag told, not a response capsule.
    pub by_flag: bool,
}

/// A terminate request of the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminated {
    /// Fatal Error Status.
    pub status: u16,
    /// Fatal Error Information.
    pub information: u32,
    /// The offending header, as far as it was sent back.
    pub header: Vec<u8>,
}

#[derive(Debug)]
struct Pending {
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that are sent.
    sent: usize,
    room: usize,
    incoming: Vec<u8>,
    has_all: bool,
}

/// One queue of a host.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    digests: Option<Digests>,
    h2c_data_max: usize,
    is_io: bool,
    output: Vec<u8>,
    input: Vec<u8>,
    next_id: u16,
    pending: BTreeMap<u16, Pending>,
    finished: BTreeMap<u16, Finished>,
    terminated: Option<Terminated>,
    /// Spoils the digest of the next PDU with data.
    pub spoil_next_data_digest: bool,
    /// Holds back answers to R2Ts until [`Host::answer_r2ts`].
    pub hold_r2ts: bool,
    held: Vec<R2t>,
}

impl Host {
    /// A host that has sent its ICReq.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        let mut request = IcReq::new_zeroed();
        request.common.pdu_type = PduType::IcReq.0;
        request.common.header_len = IC_LEN as u8;
        request.common.pdu_len = U32::new(IC_LEN as u32);
        request.host_data_alignment = config.data_alignment;
        let digests =
            Digests::new().with_header(config.header_digest).with_data(config.data_digest);
        request.digests = u8::from(digests);
        Self {
            config,
            digests: None,
            h2c_data_max: 0,
            is_io: false,
            output: request.as_bytes().to_vec(),
            input: Vec::new(),
            next_id: 0,
            pending: BTreeMap::new(),
            finished: BTreeMap::new(),
            terminated: None,
            spoil_next_data_digest: false,
            hold_r2ts: false,
            held: Vec::new(),
        }
    }

    /// Whether the ICResp has come, and capsules may be sent.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.digests.is_some()
    }

    /// What the host sends, since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.output)
    }

    /// Bytes to send that are no PDU of this host's making.
    pub fn output_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Commands that are not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// The terminate request that came, if one did.
    #[must_use]
    pub fn terminated(&self) -> Option<&Terminated> {
        self.terminated.as_ref()
    }

    /// The outcome of a command, once it is completed; told once.
    pub fn finished(&mut self, command_id: u16) -> Option<Finished> {
        self.finished.remove(&command_id)
    }

    /// As [`Host::finished`], for any command.
    pub fn any_finished(&mut self) -> Option<(u16, Finished)> {
        self.finished.pop_first()
    }

    /// Sends Connect for a queue. `controller_id` is FFFFh on the admin queue.
    pub fn connect(
        &mut self,
        queue_id: u16,
        controller_id: u16,
        subsystem_nqn: &str,
        host_nqn: &str,
    ) -> u16 {
        let mut connect = ConnectCommand::new_zeroed();
        connect.opcode = FABRICS_OPCODE;
        connect.fabrics_type = FabricsType::Connect.0;
        connect.queue_id = U16::new(queue_id);
        connect.queue_size_z = U16::new(self.config.entries - 1);
        let attributes =
            ConnectAttributes::new().with_disable_flow_control(self.config.flow_control_disabled);
        connect.attributes = u8::from(attributes);
        connect.keep_alive_ms = U32::new(if queue_id == 0 { 15_000 } else { 0 });
        let mut data = ConnectData::new_zeroed();
        data.host_id = self.config.host_id;
        data.controller_id = U16::new(controller_id);
        data.subsystem_nqn[..subsystem_nqn.len()].copy_from_slice(subsystem_nqn.as_bytes());
        data.host_nqn[..host_nqn.len()].copy_from_slice(host_nqn.as_bytes());
        let command = Command::read_from_bytes(connect.as_bytes()).expect("both are 64 bytes");
        let command_id = self.submit(command, Transfer::Write(data.as_bytes().to_vec()));
        self.is_io = queue_id != 0;
        command_id
    }

    /// Sends a command, to which it gives an identifier, flags and a data pointer.
    pub fn submit(&mut self, mut command: Command, transfer: Transfer) -> u16 {
        let command_id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        command.command_id = U16::new(command_id);
        self.submit_as(command, transfer);
        command_id
    }

    /// As [`Host::submit`], with the identifier that the command has.
    pub fn submit_as(&mut self, mut command: Command, transfer: Transfer) {
        let flags = CommandFlags::from(command.flags).with_psdt(PSDT_SGL);
        command.flags = u8::from(flags);
        let is_control = !self.is_io || command.opcode == FABRICS_OPCODE;
        let capsule_max = if is_control { 8192 } else { self.config.in_capsule_max };
        let (identifier, len) = match &transfer {
            Transfer::None => (SGL_TRANSPORT, 0),
            Transfer::Write(data) if data.len() <= capsule_max && !data.is_empty() => {
                (SGL_IN_CAPSULE, data.len())
            }
            Transfer::Write(data) | Transfer::WriteByR2t(data) => (SGL_TRANSPORT, data.len()),
            Transfer::Read(len) => (SGL_TRANSPORT, *len),
        };
        let length = U32::new(len as u32);
        command.sgl = SglDescriptor { address: U64::ZERO, length, reserved: [0; 3], identifier };
        let (outgoing, room) = match transfer {
            Transfer::None => (Vec::new(), 0),
            Transfer::Write(data) | Transfer::WriteByR2t(data) => (data, 0),
            Transfer::Read(len) => (Vec::new(), len),
        };
        let in_capsule = if identifier == SGL_IN_CAPSULE { outgoing.clone() } else { Vec::new() };
        self.capsule(&command, &in_capsule);
        let sent = in_capsule.len();
        let incoming = vec![0; room];
        let pending = Pending { outgoing, sent, room: 0, incoming, has_all: room == 0 };
        self.pending.insert(command.command_id.get(), pending);
    }

    /// Sends a command capsule as it is, and expects nothing.
    pub fn capsule(&mut self, command: &Command, data: &[u8]) {
        let common = CommonHeader::new_zeroed();
        let mut header = CapsuleCmd { common, command: *command };
        header.common.pdu_type = PduType::CapsuleCmd.0;
        self.pdu(header.as_bytes(), data, false);
    }

    /// Sends a PDU: fills lengths, offset and digest flags of the common header.
    pub fn pdu(&mut self, header: &[u8], data: &[u8], last: bool) {
        let digests = self.digests.unwrap_or_default();
        let mut bytes = header.to_vec();
        let header_len = header.len() + if digests.header() { DIGEST_LEN } else { 0 };
        let has_data_digest = digests.data() && !data.is_empty();
        let digest_len = if has_data_digest { DIGEST_LEN } else { 0 };
        let flags = PduFlags::new()
            .with_header_digest(digests.header())
            .with_data_digest(has_data_digest)
            .with_last(last);
        let common = CommonHeader {
            pdu_type: header[0],
            flags: u8::from(flags),
            header_len: header.len() as u8,
            data_offset: if data.is_empty() { 0 } else { header_len as u8 },
            pdu_len: U32::new((header_len + data.len() + digest_len) as u32),
        };
        bytes[..8].copy_from_slice(common.as_bytes());
        if digests.header() {
            let digest = crc32c::checksum(&bytes);
            bytes.extend_from_slice(&digest.to_le_bytes());
        }
        bytes.extend_from_slice(data);
        if has_data_digest {
            let spoilt = u32::from(core::mem::take(&mut self.spoil_next_data_digest));
            bytes.extend_from_slice(&(crc32c::checksum(data) ^ spoilt).to_le_bytes());
        }
        self.output.extend_from_slice(&bytes);
    }

    /// Answers R2Ts that were held back.
    pub fn answer_r2ts(&mut self) {
        for r2t in core::mem::take(&mut self.held) {
            self.answer(&r2t);
        }
    }

    /// R2Ts that are held back: command identifier, tag, offset, length.
    #[must_use]
    pub fn held_r2ts(&self) -> Vec<(u16, u16, u32, u32)> {
        let fields = |r2t: &R2t| {
            (r2t.command_id.get(), r2t.transfer_tag.get(), r2t.offset.get(), r2t.len.get())
        };
        self.held.iter().map(fields).collect()
    }
}

/// A command of the NVM command set on `blocks` blocks; other dwords are zero.
#[must_use]
pub fn command(opcode: NvmOpcode, namespace_id: u32, lba: u64, blocks: u32) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode.0;
    command.namespace_id = U32::new(namespace_id);
    command.dwords[0] = U32::new(lba as u32);
    command.dwords[1] = U32::new((lba >> 32) as u32);
    command.dwords[2] = U32::new(blocks.wrapping_sub(1) & 0xFFFF);
    command
}
