//! An NVMe/TCP host for measurements: one thread, polled sockets, commands kept at a depth.
//!
//! It connects as any host does (admin queue, enable, one I/O queue per connection, SQ flow control
//! off) and then only counts: what is read is received and thrown away, what is written is always
//! the same bytes. Digests are off.

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{RecvFlags, SendFlags};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use storage_spec::fabrics::{
    CONTROLLER_ID_DYNAMIC, ConnectAttributes, ConnectCommand, ConnectData, FabricsType,
};
use storage_spec::nvme::command::{
    Command, FABRICS_OPCODE, NvmOpcode, SGL_IN_CAPSULE, SGL_TRANSPORT, SglDescriptor,
};
use storage_spec::nvme_tcp::{
    CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, IC_LEN, IcReq, PduFlags, PduType, R2t,
    SHORT_LEN,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// PSDT: the command has an SGL, in bits 7:6 of its flags.
const FLAGS_SGL: u8 = 0x40;
/// CC with EN, IOSQES 6, IOCQES 4.
const CC_ENABLE: u64 = 0x0046_0001;
const PROPERTY_CC: u32 = 0x14;
const PROPERTY_CSTS: u32 = 0x1C;
/// Largest write that goes in its capsule.
const IN_CAPSULE_MAX: usize = 8192;
const RECEIVE_BUFFER: usize = 512 << 10;

/// Who we are and where we go.
#[derive(Clone)]
pub(crate) struct Destination {
    /// The portal.
    pub(crate) address: SocketAddr,
    /// The subsystem.
    pub(crate) subsystem: String,
    /// Our name.
    pub(crate) host: String,
}

/// A connection while queues are being made: blocking.
struct Setup {
    stream: TcpStream,
    destination: Destination,
}

impl Setup {
    fn open(destination: &Destination) -> Result<Self> {
        let stream = TcpStream::connect(destination.address)
            .with_context(|| format!("cannot reach {}", destination.address))?;
        stream.set_nodelay(true)?;
        let mut this = Self { stream, destination: destination.clone() };
        let mut request = IcReq::new_zeroed();
        request.common = common(PduType::IcReq.0, IC_LEN, 0, IC_LEN);
        this.stream.write_all(request.as_bytes())?;
        let mut response = [0; IC_LEN];
        this.stream.read_exact(&mut response)?;
        ensure!(response[0] == PduType::IcResp.0, "no ICResp but PDU type {}", response[0]);
        Ok(this)
    }

    /// Sends a Connect for `queue`; the controller's id.
    fn connect(&mut self, queue: u16, entries: u16, controller: u16) -> Result<u16> {
        let mut data = ConnectData::new_zeroed();
        data.host_id = [0xBA; 16];
        data.controller_id = controller.into();
        let (subsystem, host) = (&self.destination.subsystem, &self.destination.host);
        data.subsystem_nqn[..subsystem.len()].copy_from_slice(subsystem.as_bytes());
        data.host_nqn[..host.len()].copy_from_slice(host.as_bytes());
        let mut command = ConnectCommand::new_zeroed();
        command.opcode = FABRICS_OPCODE;
        command.flags = FLAGS_SGL;
        command.fabrics_type = FabricsType::Connect.0;
        command.sgl = sgl(1024, SGL_IN_CAPSULE);
        command.queue_id = queue.into();
        command.queue_size_z = (entries - 1).into();
        command.attributes = ConnectAttributes::new().with_disable_flow_control(true).into();
        let (status, result) = self.exchange(command.as_bytes(), data.as_bytes())?;
        ensure!(status == 0, "Connect to queue {queue} refused with status {status:#x}");
        Ok(result as u16)
    }

    fn set_property(&mut self, offset: u32, value: u64) -> Result<()> {
        let mut command = fabrics(FabricsType::PropertySet.0);
        command.dwords[1] = offset.into();
        command.dwords[2] = (value as u32).into();
        let (status, _) = self.exchange(command.as_bytes(), &[])?;
        ensure!(status == 0, "Property Set {offset:#x} refused with status {status:#x}");
        Ok(())
    }

    fn property(&mut self, offset: u32) -> Result<u64> {
        let mut command = fabrics(FabricsType::PropertyGet.0);
        command.dwords[1] = offset.into();
        let (status, value) = self.exchange(command.as_bytes(), &[])?;
        ensure!(status == 0, "Property Get {offset:#x} refused with status {status:#x}");
        Ok(value)
    }

    /// One command with in-capsule data; its status and result.
    fn exchange(&mut self, command: &[u8], data: &[u8]) -> Result<(u16, u64)> {
        let offset = if data.is_empty() { 0 } else { 72 };
        let header = common(PduType::CapsuleCmd.0, 72, offset, 72 + data.len());
        self.stream.write_all(&[header.as_bytes(), command, data].concat())?;
        let mut response = [0; SHORT_LEN];
        self.stream.read_exact(&mut response)?;
        let response = CapsuleResp::read_from_bytes(&response).expect("as long as a response");
        if response.common.pdu_type != PduType::CapsuleResp.0 {
            bail!("PDU of type {} where a response was due", response.common.pdu_type);
        }
        let completion = response.completion;
        Ok((completion.status_and_phase.get() >> 1, completion.result.get()))
    }
}

/// A controller with its admin queue; dropped last.
pub(crate) struct Controller {
    admin: Setup,
    id: u16,
}

impl Controller {
    /// Connects and enables a controller.
    pub(crate) fn connect(destination: &Destination) -> Result<Self> {
        let mut admin = Setup::open(destination)?;
        let id = admin.connect(0, 32, CONTROLLER_ID_DYNAMIC)?;
        admin.set_property(PROPERTY_CC, CC_ENABLE)?;
        while admin.property(PROPERTY_CSTS)? & 1 == 0 {
            std::thread::yield_now();
        }
        Ok(Self { admin, id })
    }

    /// Makes an I/O queue.
    pub(crate) fn queue(&self, queue: u16, entries: u16) -> Result<Queue> {
        let mut setup = Setup::open(&self.admin.destination)?;
        setup.connect(queue, entries, self.id)?;
        setup.stream.set_nonblocking(true)?;
        Ok(Queue::new(setup.stream))
    }
}

/// A command that has ended.
pub(crate) struct Done {
    /// Its identifier.
    pub(crate) command_id: u16,
    /// Its status; 0 is success.
    pub(crate) status: u16,
}

/// One I/O queue, polled.
pub(crate) struct Queue {
    stream: TcpStream,
    received: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of data still to be thrown away.
    skip: usize,
    /// The read that these data complete.
    completes: Option<u16>,
    to_send: Vec<u8>,
    sent: usize,
    payload: Vec<u8>,
    /// System calls made.
    pub(crate) calls: u64,
}

impl Queue {
    fn new(stream: TcpStream) -> Self {
        let payload = (0..1 << 20).map(|byte: u32| (byte.wrapping_mul(2_654_435_761) >> 24) as u8);
        Self {
            stream,
            received: vec![0; RECEIVE_BUFFER],
            start: 0,
            end: 0,
            skip: 0,
            completes: None,
            to_send: Vec::with_capacity(4 << 20),
            sent: 0,
            payload: payload.collect(),
            calls: 0,
        }
    }

    /// Queues a read of `blocks` logical blocks (`len` bytes).
    pub(crate) fn read(
        &mut self,
        command_id: u16,
        namespace: u32,
        lba: u64,
        blocks: u32,
        len: usize,
    ) {
        let mut command = io_command(NvmOpcode::Read.0, command_id, namespace, lba, blocks);
        command.sgl = sgl(len, SGL_TRANSPORT);
        let header = common(PduType::CapsuleCmd.0, 72, 0, 72);
        self.push(CapsuleCmd { common: header, command }.as_bytes());
    }

    /// Queues a write.
    pub(crate) fn write(
        &mut self,
        command_id: u16,
        namespace: u32,
        lba: u64,
        blocks: u32,
        len: usize,
    ) {
        let mut command = io_command(NvmOpcode::Write.0, command_id, namespace, lba, blocks);
        if len > IN_CAPSULE_MAX {
            command.sgl = sgl(len, SGL_TRANSPORT);
            let header = common(PduType::CapsuleCmd.0, 72, 0, 72);
            return self.push(CapsuleCmd { common: header, command }.as_bytes());
        }
        command.sgl = sgl(len, SGL_IN_CAPSULE);
        let header = common(PduType::CapsuleCmd.0, 72, 72, 72 + len);
        self.push(CapsuleCmd { common: header, command }.as_bytes());
        self.to_send.extend_from_slice(&self.payload[..len]);
    }

    /// Sends what is queued and takes what has come; calls `done` for each command that ended.
    pub(crate) fn poll(&mut self, mut done: impl FnMut(Done)) -> Result<()> {
        self.flush()?;
        self.calls += 1;
        let room = &mut self.received[self.end..];
        match rustix::net::recv(&self.stream, room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => bail!("the target closed the connection"),
            Ok((_, count)) => self.end += count,
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        while self.take_pdu(&mut done)? {}
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.received.len() - self.end < 4096 {
            self.received.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        Ok(())
    }

    /// Sends as much as the socket takes.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.sent == self.to_send.len() {
            return Ok(());
        }
        self.calls += 1;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&self.stream, &self.to_send[self.sent..], flags) {
            Ok(count) => self.sent += count,
            Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if self.sent == self.to_send.len() {
            self.to_send.clear();
            self.sent = 0;
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        self.to_send.extend_from_slice(bytes);
    }

    /// Takes one PDU or a part of its data; whether there may be more.
    fn take_pdu(&mut self, done: &mut impl FnMut(Done)) -> Result<bool> {
        let here = self.end - self.start;
        if self.skip > 0 {
            let count = here.min(self.skip);
            self.start += count;
            self.skip -= count;
            if self.skip > 0 {
                return Ok(false);
            }
            if let Some(command_id) = self.completes.take() {
                done(Done { command_id, status: 0 });
            }
            return Ok(self.start < self.end);
        }
        if here < SHORT_LEN {
            return Ok(false);
        }
        let header: [u8; SHORT_LEN] =
            self.received[self.start..self.start + SHORT_LEN].try_into().expect("as long");
        self.start += SHORT_LEN;
        match PduType(header[0]) {
            PduType::C2hData => {
                let data = DataHeader::read_from_bytes(&header).expect("as long");
                self.skip = data.data_len.get() as usize;
                let flags = PduFlags::from(data.common.flags);
                self.completes = flags.success().then_some(data.command_id.get());
            }
            PduType::CapsuleResp => {
                let response = CapsuleResp::read_from_bytes(&header).expect("as long");
                let completion = response.completion;
                let status = completion.status_and_phase.get() >> 1;
                done(Done { command_id: completion.command_id.get(), status });
            }
            PduType::R2t => self.answer(R2t::read_from_bytes(&header).expect("as long")),
            other => bail!("PDU of type {} from the target", other.0),
        }
        Ok(true)
    }

    /// Sends the data that an R2T asks for.
    fn answer(&mut self, request: R2t) {
        let len = request.len.get() as usize;
        let mut header = DataHeader::new_zeroed();
        header.common = common(PduType::H2cData.0, SHORT_LEN, SHORT_LEN, SHORT_LEN + len);
        header.common.flags = PduFlags::new().with_last(true).into();
        header.command_id = request.command_id;
        header.transfer_tag = request.transfer_tag;
        header.data_offset = request.offset;
        header.data_len = request.len;
        self.push(header.as_bytes());
        self.to_send.extend_from_slice(&self.payload[..len]);
    }
}

/// An ICReq, and a Connect for I/O queue 1 with its capsule: what a connection hears first.
pub(crate) fn set_up_capsules() -> (Vec<u8>, Vec<u8>) {
    let mut request = IcReq::new_zeroed();
    request.common = common(PduType::IcReq.0, IC_LEN, 0, IC_LEN);
    let mut command = ConnectCommand::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.flags = FLAGS_SGL;
    command.fabrics_type = FabricsType::Connect.0;
    command.sgl = sgl(1024, SGL_IN_CAPSULE);
    command.queue_id = 1.into();
    command.queue_size_z = 127.into();
    let data = ConnectData::new_zeroed();
    let header = common(PduType::CapsuleCmd.0, 72, 72, 72 + 1024);
    (request.as_bytes().to_vec(), [header.as_bytes(), command.as_bytes(), data.as_bytes()].concat())
}

/// A command of one 4 KiB block, with `data` bytes in its capsule.
pub(crate) fn io_capsule(opcode: u8, command_id: u16, lba: u64, data: usize) -> Vec<u8> {
    let mut command = io_command(opcode, command_id, 1, lba, 1);
    let (identifier, offset) = if data == 0 { (SGL_TRANSPORT, 0) } else { (SGL_IN_CAPSULE, 72) };
    command.sgl = sgl(4096, identifier);
    let header = common(PduType::CapsuleCmd.0, 72, offset, 72 + data);
    let payload = vec![0xA5; data];
    [CapsuleCmd { common: header, command }.as_bytes(), &payload].concat()
}

fn common(pdu_type: u8, header_len: usize, data_offset: usize, pdu_len: usize) -> CommonHeader {
    let mut header = CommonHeader::new_zeroed();
    header.pdu_type = pdu_type;
    header.header_len = header_len as u8;
    header.data_offset = data_offset as u8;
    header.pdu_len = (pdu_len as u32).into();
    header
}

fn sgl(len: usize, identifier: u8) -> SglDescriptor {
    let mut descriptor = SglDescriptor::new_zeroed();
    descriptor.length = (len as u32).into();
    descriptor.identifier = identifier;
    descriptor
}

/// A Fabrics command by its type, which is the fifth byte.
fn fabrics(fabrics_type: u8) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.flags = FLAGS_SGL;
    command.namespace_id = u32::from(fabrics_type).into();
    command
}

fn io_command(opcode: u8, command_id: u16, namespace: u32, lba: u64, blocks: u32) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode;
    command.flags = FLAGS_SGL;
    command.command_id = command_id.into();
    command.namespace_id = namespace.into();
    command.dwords[0] = (lba as u32).into();
    command.dwords[1] = ((lba >> 32) as u32).into();
    command.dwords[2] = (blocks - 1).into();
    command
}
