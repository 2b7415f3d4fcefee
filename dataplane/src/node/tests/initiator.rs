//! An iSCSI initiator over a socket.

use iscsi_target::testing::{Finished, Initiator, InitiatorConfig};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for anything, so that a stuck node fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// SCSI statuses (SAM-6, 5.3.1).
pub(super) const GOOD: u8 = 0;
pub(super) const CHECK_CONDITION: u8 = 2;
pub(super) const BUSY: u8 = 8;
pub(super) const RESERVATION_CONFLICT: u8 = 0x18;
pub(super) const TASK_ABORTED: u8 = 0x40;

/// A session.
pub(super) struct Session {
    pub(super) stream: TcpStream,
    pub(super) initiator: Initiator,
}

impl Session {
    /// Logs in as this port of the initiator, and takes what there is to be told of that.
    pub(super) fn open(address: SocketAddr, target: &str, port: u8) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let config = InitiatorConfig { isid: [port; 6], ..InitiatorConfig::default() };
        let mut session = Self { stream, initiator: Initiator::new(config) };
        session.initiator.login(target);
        session.send();
        while !session.initiator.is_in {
            assert!(session.receive(1 << 16) > 0, "the node hung up");
        }
        while session.ask(0, &[0; 6], 0).status == CHECK_CONDITION {}
        session
    }

    pub(super) fn send(&mut self) {
        let output = self.initiator.take_output();
        self.stream.write_all(&output).unwrap();
    }

    /// Takes at most so many bytes; how many came.
    pub(super) fn receive(&mut self, max: usize) -> usize {
        let mut bytes = vec![0; max];
        let count = self.stream.read(&mut bytes).unwrap();
        self.initiator.input(&bytes[..count]);
        self.send();
        count
    }

    /// Waits for the end of a command.
    pub(super) fn finish(&mut self, tag: u32) -> Finished {
        self.send();
        loop {
            if let Some(finished) = self.initiator.finished(tag) {
                return finished;
            }
            assert!(self.receive(1 << 18) > 0, "the node hung up");
        }
    }

    /// A command that reads, or moves nothing.
    pub(super) fn ask(&mut self, lun: u16, cdb: &[u8], expected: u32) -> Finished {
        let tag = self.initiator.read(lun, cdb, expected);
        self.finish(tag)
    }

    /// A command that brings data.
    pub(super) fn bring(&mut self, lun: u16, cdb: &[u8], data: &[u8]) -> Finished {
        let tag = self.initiator.write(lun, cdb, data);
        self.finish(tag)
    }

    /// READ (16).
    pub(super) fn read(&mut self, lun: u16, block: u64, blocks: u32) -> Finished {
        self.ask(lun, &cdb16(0x88, block, blocks), blocks * 4096)
    }

    /// WRITE (16).
    pub(super) fn write(&mut self, lun: u16, block: u64, data: &[u8]) -> Finished {
        self.bring(lun, &cdb16(0x8A, block, (data.len() / 4096) as u32), data)
    }

    /// PERSISTENT RESERVE OUT.
    pub(super) fn order(&mut self, lun: u16, action: u8, kind: u8, keys: [u64; 2]) -> u8 {
        let mut list = keys.map(u64::to_be_bytes).concat();
        list.resize(24, 0);
        self.bring(lun, &[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], &list).status
    }
}

/// A command with a 64-bit address and a 32-bit length.
pub(super) fn cdb16(opcode: u8, block: u64, blocks: u32) -> Vec<u8> {
    [&[opcode, 0][..], &block.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat()
}
