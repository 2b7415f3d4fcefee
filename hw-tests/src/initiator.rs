//! A strict host of our own over real sockets: for what a kernel host cannot be made to do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nvmeof_target::testing::{Finished, Host, HostConfig, Terminated, Transfer, command};
use storage_spec::fabrics::{CONTROLLER_ID_DYNAMIC, FabricsType};
use storage_spec::nvme::command::{AdminOpcode, Command, FABRICS_OPCODE, NvmOpcode};
use zerocopy::little_endian::U32;

/// How long the node may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

const PROPERTY_CC: u32 = 0x14;
const PROPERTY_CSTS: u32 = 0x1C;
/// CC with EN, IOSQES 6, IOCQES 4.
const CC_ENABLE: u32 = 0x0046_0001;

/// One queue: a socket and the host that speaks on it.
pub(crate) struct Queue {
    stream: TcpStream,
    host: Host,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a terminate request.
    Terminated(Terminated),
    /// Without one.
    Closed,
}

impl Queue {
    /// Opens a connection and waits for the ICResp.
    pub(crate) fn open(address: SocketAddr, config: HostConfig) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut queue = Self { stream, host: Host::new(config) };
        queue.send()?;
        while !queue.host.is_initialized() {
            queue.receive()?;
        }
        Ok(queue)
    }

    /// Connects a new controller; its id, or the status of the refusal.
    pub(crate) fn connect_admin(&mut self, subsystem: &str, host: &str) -> Result<Finished> {
        let command = self.host.connect(0, CONTROLLER_ID_DYNAMIC, subsystem, host);
        self.finish(command)
    }

    /// Opens, connects and enables a controller.
    pub(crate) fn controller(address: SocketAddr, subsystem: &str, host: &str) -> Result<Self> {
        let mut queue = Self::open(address, HostConfig::default())?;
        let connected = queue.connect_admin(subsystem, host)?;
        ensure!(connected.status.is_success(), "Connect: {:?}", connected.status);
        queue.enable()?;
        Ok(queue)
    }

    /// Opens and connects I/O queue 1 of the controller whose id Connect has told.
    pub(crate) fn io(
        address: SocketAddr,
        controller: u16,
        subsystem: &str,
        host: &str,
    ) -> Result<Self> {
        let mut queue = Self::open(address, HostConfig::default())?;
        let command = queue.host.connect(1, controller, subsystem, host);
        let connected = queue.finish(command)?;
        ensure!(connected.status.is_success(), "Connect of a queue: {:?}", connected.status);
        Ok(queue)
    }

    /// Enables the controller.
    pub(crate) fn enable(&mut self) -> Result<()> {
        let mut set = fabrics(FabricsType::PropertySet);
        set.dwords[1] = U32::new(PROPERTY_CC);
        set.dwords[2] = U32::new(CC_ENABLE);
        let done = self.run(set, Transfer::None)?;
        ensure!(done.status.is_success(), "Property Set: {:?}", done.status);
        let mut get = fabrics(FabricsType::PropertyGet);
        get.dwords[1] = U32::new(PROPERTY_CSTS);
        while self.run(get, Transfer::None)?.result & 1 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Runs one command to its end.
    pub(crate) fn run(&mut self, command: Command, transfer: Transfer) -> Result<Finished> {
        let command = self.host.submit(command, transfer);
        self.finish(command)
    }

    /// The host, to spoil what it sends next.
    pub(crate) fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// Sends bytes that are no PDU of the host's making, and waits for the node to end it.
    pub(crate) fn ruin(mut self, bytes: &[u8]) -> Result<End> {
        self.host.output_raw(bytes);
        self.send()?;
        loop {
            if let Some(request) = self.host.terminated() {
                return Ok(End::Terminated(request.clone()));
            }
            match self.receive() {
                Ok(()) => {}
                Err(error) if is_end(&error) => return Ok(End::Closed),
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills the socket with reads of the same command and never looks at an answer. The queue has
    /// to be kept for the node to have the trouble.
    pub(crate) fn glut(&mut self, command: Command, transfer: &Transfer) -> Result<()> {
        for _ in 0..HostConfig::default().entries - 1 {
            self.host.submit(command, transfer.clone());
        }
        self.send()
    }

    fn finish(&mut self, command: u16) -> Result<Finished> {
        self.send()?;
        loop {
            if let Some(finished) = self.host.finished(command) {
                return Ok(finished);
            }
            if let Some(request) = self.host.terminated() {
                bail!("the node terminates: {request:?}");
            }
            self.receive()?;
            self.send()?;
        }
    }

    fn send(&mut self) -> Result<()> {
        let bytes = self.host.take_output();
        self.stream.write_all(&bytes).context("the node does not take what is sent")
    }

    /// Takes what is there; the strict host panics if it breaks a rule, which fails the test.
    fn receive(&mut self) -> Result<()> {
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes).context("the node does not answer")?;
        if count == 0 {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        self.host.input(&bytes[..count]);
        Ok(())
    }
}

/// Whether the other end has closed or reset the connection.
pub(crate) fn is_end(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let ends = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
    ];
    kind.is_some_and(|kind| ends.contains(&kind))
}

/// Identify Controller.
pub(crate) fn identify() -> Command {
    let mut identify = command(NvmOpcode(AdminOpcode::Identify.0), 0, 0, 1);
    identify.dwords[0] = U32::new(1);
    identify.dwords[2] = U32::new(0);
    identify
}

fn fabrics(kind: FabricsType) -> Command {
    let mut fabrics = command(NvmOpcode(FABRICS_OPCODE), u32::from(kind.0), 0, 1);
    fabrics.dwords[2] = U32::new(0);
    fabrics
}
