//! A host's queues on blocking sockets.

use nvmeof_target::testing::{Finished, Host, HostConfig, Transfer, command};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use storage_spec::fabrics::{CONTROLLER_ID_DYNAMIC, FabricsType, PROPERTY_CC, PropertyCommand};
use storage_spec::nvme::command::{AdminOpcode, Command, FABRICS_OPCODE, NvmOpcode};
use storage_spec::nvme::status::Status;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// CC with EN, IOSQES 6, IOCQES 4.
const CC_ENABLE: u64 = 0x0046_0001;
/// Longest wait for a byte, so that a stuck node fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// One queue with its socket.
pub(super) struct Queue {
    pub(super) stream: TcpStream,
    host: Host,
}

/// A controller, enabled, and its first I/O queue.
pub(super) fn connect(address: SocketAddr, subsystem: &str, host_id: [u8; 16]) -> (Queue, Queue) {
    let open = |number, controller| Queue::open((address, subsystem), host_id, number, controller);
    let (mut admin, controller) = open(0, CONTROLLER_ID_DYNAMIC);
    let mut enable = PropertyCommand::new_zeroed();
    enable.opcode = FABRICS_OPCODE;
    enable.fabrics_type = FabricsType::PropertySet.0;
    enable.offset = PROPERTY_CC.into();
    enable.value = CC_ENABLE.into();
    let enable = Command::read_from_bytes(enable.as_bytes()).unwrap();
    assert_eq!(admin.execute(enable, Transfer::None).status, Status::SUCCESS);
    let (io, _) = open(1, controller);
    (admin, io)
}

impl Queue {
    fn open(
        (address, subsystem): (SocketAddr, &str),
        host_id: [u8; 16],
        number: u16,
        controller: u16,
    ) -> (Self, u16) {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut queue =
            Self { stream, host: Host::new(HostConfig { host_id, ..HostConfig::default() }) };
        queue.send();
        while !queue.host.is_initialized() {
            queue.receive(1 << 20);
        }
        let connect =
            queue.host.connect(number, controller, subsystem, "nqn.2026-11.io.example:host");
        queue.send();
        let answer = queue.finish(connect);
        assert_eq!(answer.status, Status::SUCCESS);
        (queue, answer.result as u16)
    }

    /// Says on an admin queue that the host lives.
    pub(super) fn keep_alive(&mut self) {
        let mut command = Command::new_zeroed();
        command.opcode = AdminOpcode::KeepAlive.0;
        assert_eq!(self.execute(command, Transfer::None).status, Status::SUCCESS);
    }

    /// Sends a command and waits for its end.
    pub(super) fn execute(&mut self, command: Command, transfer: Transfer) -> Finished {
        let command_id = self.begin(command, transfer);
        self.finish(command_id)
    }

    /// Sends a command.
    pub(super) fn begin(&mut self, command: Command, transfer: Transfer) -> u16 {
        let command_id = self.host.submit(command, transfer);
        self.send();
        command_id
    }

    /// Waits for the end of a command.
    pub(super) fn finish(&mut self, command_id: u16) -> Finished {
        loop {
            if let Some(finished) = self.host.finished(command_id) {
                return finished;
            }
            assert!(self.receive(1 << 20) > 0, "the node hung up");
        }
    }

    /// Takes up to `most` bytes that the node sent, and answers them; 0: it hung up.
    pub(super) fn receive(&mut self, most: usize) -> usize {
        let mut bytes = vec![0; most];
        let count = self.stream.read(&mut bytes).unwrap_or(0);
        self.host.input(&bytes[..count]);
        self.send();
        count
    }

    /// Commands that have not ended.
    pub(super) fn outstanding(&self) -> usize {
        self.host.outstanding()
    }

    pub(super) fn write(&mut self, nsid: u32, block: u64, data: Vec<u8>) -> Status {
        let blocks = (data.len() / 4096) as u32;
        let write = command(NvmOpcode::Write, nsid, block, blocks);
        self.execute(write, Transfer::Write(data)).status
    }

    pub(super) fn read(&mut self, nsid: u32, block: u64, blocks: u32) -> Finished {
        let read = command(NvmOpcode::Read, nsid, block, blocks);
        self.execute(read, Transfer::Read(blocks as usize * 4096))
    }

    fn send(&mut self) {
        let output = self.host.take_output();
        self.stream.write_all(&output).expect("the node takes what its host sends");
    }
}
