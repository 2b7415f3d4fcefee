//! The built program: reservations of its hosts over `kill -9`.

use iscsi_target::testing::{Initiator, InitiatorConfig};
use nvmeof_target::testing::{Host, HostConfig, Transfer, command};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;
use storage_spec::fabrics::{CONTROLLER_ID_DYNAMIC, FabricsType, PROPERTY_CC, PropertyCommand};
use storage_spec::nvme::command::{Command, FABRICS_OPCODE, NvmOpcode};
use storage_spec::nvme::status::Status;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const PROGRAM: &str = env!("CARGO_BIN_EXE_basalt");
/// Longest wait for anything, so that a stuck node fails the test.
const PATIENCE: Duration = Duration::from_secs(60);
/// CC with EN, IOSQES 6, IOCQES 4.
const CC_ENABLE: u64 = 0x0046_0001;
/// SCSI statuses (SAM-6, 5.3.1).
const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const RESERVATION_CONFLICT: u8 = 0x18;

/// A demo node, which is killed when the test is done with it.
struct Node {
    child: Child,
    address: String,
    nqn: String,
    iscsi_address: String,
    iqn: String,
}

impl Node {
    fn start(dir: &str) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let arguments = ["demo", "--dir", dir, "--port", &ports[0], "--discovery-port", &ports[1]];
        let mut process = Process::new(PROGRAM);
        process.args(arguments).args(["--size", "256MiB", "--output", "json"]);
        process.args(["--iscsi-port", &ports[2]]);
        process.args(["--socket", &format!("{dir}/s")]).stdout(Stdio::piped());
        let mut child = process.spawn().expect("the program runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line when it is ready");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("it is ready");
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        Self {
            child,
            address: text(&ready["addresses"][0]),
            nqn: text(&ready["nqn"]),
            iscsi_address: text(&ready["iscsi_addresses"][0]),
            iqn: text(&ready["iqn"]),
        }
    }

    fn host(&self, id: u8) -> (Queue, Queue) {
        let (mut admin, controller) = Queue::open(self, id, 0, CONTROLLER_ID_DYNAMIC);
        let mut enable = PropertyCommand::new_zeroed();
        enable.opcode = FABRICS_OPCODE;
        enable.fabrics_type = FabricsType::PropertySet.0;
        enable.offset = PROPERTY_CC.into();
        enable.value = CC_ENABLE.into();
        let enable = Command::read_from_bytes(enable.as_bytes()).expect("both are 64 bytes");
        assert_eq!(admin.execute(enable, Transfer::None), Status::SUCCESS);
        (admin, Queue::open(self, id, 1, controller).0)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> String {
    target_io::testing::free_port().to_string()
}

struct Queue {
    stream: TcpStream,
    host: Host,
}

impl Queue {
    fn open(node: &Node, id: u8, number: u16, controller: u16) -> (Self, u16) {
        for _ in 0..200 {
            let (queue, status, result) = Self::connect(node, id, number, controller);
            if status != Status::CONNECT_CONTROLLER_BUSY {
                assert_eq!(status, Status::SUCCESS);
                return (queue, result as u16);
            }
            // Hosts are put off until every volume is there.
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the node is busy for ever");
    }

    fn connect(node: &Node, id: u8, number: u16, controller: u16) -> (Self, Status, u64) {
        let stream = TcpStream::connect(&node.address).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let config = HostConfig { host_id: [id; 16], ..HostConfig::default() };
        let mut queue = Self { stream, host: Host::new(config) };
        queue.turn();
        while !queue.host.is_initialized() {
            queue.receive();
        }
        let nqn = format!("nqn.2026-11.io.example:{id}");
        let connect = queue.host.connect(number, controller, &node.nqn, &nqn);
        let (status, result) = queue.finish(connect);
        (queue, status, result)
    }

    fn turn(&mut self) {
        let output = self.host.take_output();
        self.stream.write_all(&output).expect("the node takes what its host sends");
    }

    fn receive(&mut self) {
        let mut bytes = vec![0; 1 << 16];
        let count = self.stream.read(&mut bytes).expect("the node answers");
        assert!(count > 0, "the node hung up");
        self.host.input(&bytes[..count]);
        self.turn();
    }

    fn finish(&mut self, command_id: u16) -> (Status, u64) {
        self.turn();
        loop {
            if let Some(finished) = self.host.finished(command_id) {
                return (finished.status, finished.result);
            }
            self.receive();
        }
    }

    fn execute(&mut self, command: Command, transfer: Transfer) -> Status {
        let command_id = self.host.submit(command, transfer);
        self.finish(command_id).0
    }

    fn order(&mut self, opcode: NvmOpcode, dword_10: u32, keys: [u64; 2]) -> Status {
        let mut command = command(opcode, 1, 0, 1);
        command.dwords = [dword_10, 0, 0, 0, 0, 0].map(Into::into);
        let data = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        self.execute(command, Transfer::Write(data))
    }

    fn read(&mut self) -> Status {
        self.execute(command(NvmOpcode::Read, 1, 0, 1), Transfer::Read(4096))
    }
}

/// A session of an iSCSI initiator.
struct Session {
    stream: TcpStream,
    initiator: Initiator,
}

impl Session {
    fn open(node: &Node) -> Self {
        let stream = TcpStream::connect(&node.iscsi_address).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut session = Self { stream, initiator: Initiator::new(InitiatorConfig::default()) };
        session.initiator.login(&node.iqn);
        session.turn();
        while !session.initiator.is_in {
            session.receive();
        }
        // What there is to be told of a new session.
        while session.finish_read(&[0; 6], 0) == CHECK_CONDITION {}
        session
    }

    fn turn(&mut self) {
        let output = self.initiator.take_output();
        self.stream.write_all(&output).expect("the node takes what its initiator sends");
    }

    fn receive(&mut self) {
        let mut bytes = vec![0; 1 << 16];
        let count = self.stream.read(&mut bytes).expect("the node answers");
        assert!(count > 0, "the node hung up");
        self.initiator.input(&bytes[..count]);
        self.turn();
    }

    fn finish(&mut self, tag: u32) -> u8 {
        self.turn();
        loop {
            if let Some(finished) = self.initiator.finished(tag) {
                return finished.status;
            }
            self.receive();
        }
    }

    fn finish_read(&mut self, cdb: &[u8], expected: u32) -> u8 {
        let tag = self.initiator.read(0, cdb, expected);
        self.finish(tag)
    }

    /// PERSISTENT RESERVE OUT.
    fn order(&mut self, action: u8, kind: u8, keys: [u64; 2]) -> u8 {
        let mut list = keys.map(u64::to_be_bytes).concat();
        list.resize(24, 0);
        let cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
        let tag = self.initiator.write(0, &cdb, &list);
        self.finish(tag)
    }

    /// READ (10) of the first block.
    fn read(&mut self) -> u8 {
        self.finish_read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 4096)
    }

    /// WRITE (10) of the first block.
    fn write(&mut self) -> u8 {
        let tag = self.initiator.write(0, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 4096]);
        self.finish(tag)
    }
}

/// Both hosts' statuses of a read.
fn reads(node: &Node) -> [Status; 2] {
    [1, 2].map(|id| {
        let (_admin, mut queue) = node.host(id);
        queue.read()
    })
}

#[test]
fn reservations_outlast_a_kill_if_they_are_to() {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let dir = root.join(format!("reservations-{}", std::process::id()));
    let dir = dir.display().to_string();
    let conflict = Status::RESERVATION_CONFLICT.dnr();
    let node = Node::start(&dir);
    {
        let (_admin, mut first) = node.host(1);
        let (_other_admin, mut second) = node.host(2);
        assert_eq!(first.order(NvmOpcode::ReservationRegister, 3 << 30, [0, 1]), Status::SUCCESS);
        assert_eq!(first.order(NvmOpcode::ReservationAcquire, 2 << 8, [1, 0]), Status::SUCCESS);
        assert_eq!([first.read(), second.read()], [Status::SUCCESS, conflict]);
    }
    // Dropped nodes are killed, each time right after the answer.
    drop(node);
    let node = Node::start(&dir);
    assert_eq!(reads(&node), [Status::SUCCESS, conflict]);
    {
        let (_admin, mut second) = node.host(2);
        assert_eq!(second.order(NvmOpcode::ReservationRegister, 0, [0, 2]), Status::SUCCESS);
        let preempted = second.order(NvmOpcode::ReservationAcquire, 2 | 2 << 8, [2, 1]);
        assert_eq!(preempted, Status::SUCCESS);
    }
    drop(node);
    let node = Node::start(&dir);
    assert_eq!(reads(&node), [conflict, Status::SUCCESS]);
    {
        let (_admin, mut second) = node.host(2);
        let forgets = second.order(NvmOpcode::ReservationRegister, 2 | 2 << 30, [2, 3]);
        assert_eq!(forgets, Status::SUCCESS);
        assert_eq!(reads(&node), [conflict, Status::SUCCESS]);
    }
    drop(node);
    let node = Node::start(&dir);
    assert_eq!(reads(&node), [Status::SUCCESS; 2]);
    drop(node);
    std::fs::remove_dir_all(&dir).expect("ours");
}

#[test]
fn what_one_protocol_reserves_the_other_respects() {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let dir = root.join(format!("reserved-by-both-{}", std::process::id()));
    let dir = dir.display().to_string();
    let conflict = Status::RESERVATION_CONFLICT.dnr();
    let node = Node::start(&dir);
    let (_admin, mut host) = node.host(1);
    let mut initiator = Session::open(&node);
    assert_eq!((initiator.read(), initiator.write(), host.read()), (GOOD, GOOD, Status::SUCCESS));
    // Exclusive access of the NVMe host.
    assert_eq!(host.order(NvmOpcode::ReservationRegister, 0, [0, 1]), Status::SUCCESS);
    assert_eq!(host.order(NvmOpcode::ReservationAcquire, 2 << 8, [1, 0]), Status::SUCCESS);
    assert_eq!((initiator.read(), host.read()), (RESERVATION_CONFLICT, Status::SUCCESS));
    // The initiator registers, and preempts and aborts: Write Exclusive.
    assert_eq!(initiator.order(0, 0, [0, 9]), GOOD);
    assert_eq!(initiator.read(), RESERVATION_CONFLICT);
    assert_eq!(initiator.order(5, 1, [9, 1]), GOOD);
    assert_eq!((initiator.write(), initiator.read(), host.read()), (GOOD, GOOD, Status::SUCCESS));
    let zeroes = command(NvmOpcode::WriteZeroes, 1, 0, 1);
    assert_eq!(host.execute(zeroes, Transfer::None), conflict);
    // And the host preempts and aborts in its turn.
    assert_eq!(host.order(NvmOpcode::ReservationRegister, 0, [0, 2]), Status::SUCCESS);
    assert_eq!(host.order(NvmOpcode::ReservationAcquire, 2 | 2 << 8, [2, 9]), Status::SUCCESS);
    // The initiator is told, once, and then refused.
    assert_eq!(initiator.read(), CHECK_CONDITION);
    assert_eq!(initiator.read(), RESERVATION_CONFLICT);
    assert_eq!(host.order(NvmOpcode::ReservationRelease, 2 << 8, [2, 0]), Status::SUCCESS);
    assert_eq!((initiator.read(), host.read()), (GOOD, Status::SUCCESS));
    // RESERVE (6) of the initiator shuts the host out; it ends with the session.
    assert_eq!(host.order(NvmOpcode::ReservationRegister, 1, [2, 0]), Status::SUCCESS);
    assert_eq!(initiator.finish_read(&[0x16, 0, 0, 0, 0, 0], 0), GOOD);
    assert_eq!(host.read(), conflict);
    drop(initiator);
    while host.read() == conflict {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(node);
    std::fs::remove_dir_all(&dir).expect("ours");
}
