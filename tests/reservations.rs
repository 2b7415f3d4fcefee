//! The built program: reservations of its hosts over `kill -9`.

use nvmeof_target::testing::{Host, HostConfig, Transfer, command};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
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

/// A demo node, which is killed when the test is done with it.
struct Node {
    child: Child,
    address: String,
    nqn: String,
}

impl Node {
    fn start(dir: &str) -> Self {
        let ports = [free_port(), free_port()];
        let arguments = ["demo", "--dir", dir, "--port", &ports[0], "--discovery-port", &ports[1]];
        let mut process = Process::new(PROGRAM);
        process.args(arguments).args(["--size", "256MiB", "--output", "json"]);
        process.args(["--socket", &format!("{dir}/s")]).stdout(Stdio::piped());
        let mut child = process.spawn().expect("the program runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line when it is ready");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("it is ready");
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        Self { child, address: text(&ready["addresses"][0]), nqn: text(&ready["nqn"]) }
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
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port().to_string()
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
