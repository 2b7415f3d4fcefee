//! Hostile bytes on the port while a host works.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nvmeof_target::testing::{Host, HostConfig, Transfer, command};
use rustix::net::{self, AddressFamily, SocketType};
use storage_spec::fabrics::{ConnectCommand, ConnectData, FabricsType};
use storage_spec::nvme::command::{Command, FABRICS_OPCODE, NvmOpcode, SGL_IN_CAPSULE};
use storage_spec::nvme::status::Status;
use storage_spec::nvme_tcp::{CapsuleCmd, DataHeader, FatalError, IcReq, PduType};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Outcome;
use crate::bed::Bed;
use crate::initiator::{self, End, Queue};
use crate::node::Basalt;

const MIB: u64 = 1 << 20;
const HOST: &str = "nqn.2026-11.io.example:hostile";
/// How long the host works, at least.
const LOAD_SECONDS: u32 = 35;
/// Connections that say nothing, or a part of something, at once.
const HALF_OPEN: usize = 300;
/// Of them from one address: fewer than the node takes there.
const STRANGERS: usize = 40;

/// Where to, and a seeded source of noise.
struct Attack {
    address: SocketAddr,
    subsystem: String,
    namespace: u32,
    state: u64,
}

/// Everything at once beside fio in the guest, which notices nothing; the node's memory is sampled
/// all the while.
pub(crate) fn beside_load(bed: &mut Bed) -> Result<Outcome> {
    let nsid = bed.volume("attacked", 64 * MIB, 4096)?;
    bed.run("connect --nr-io-queues=4 --data-digest")?;
    let mut load = bed.start(
        &format!(
            "fio --name=load --filename=$(device {nsid}) --size=16M --rw=randrw --bs=4k \
                 --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 \
                 --verify_backlog=64 --time_based --runtime={LOAD_SECONDS}"
        ),
        Duration::from_secs(240),
    )?;
    let subsystem = bed.node.nqn().to_owned();
    let node = bed.node.basalt()?;
    let state = 0x9E37_79B9_7F4A_7C15;
    let mut attack = Attack { address: node.address(), subsystem, namespace: nsid, state };
    let mut peak = 0;
    let mut watch = |node: &Basalt, after: &str| -> Result<()> {
        let resident = node.resident().with_context(|| format!("after {after}"))?;
        peak = peak.max(resident);
        let max = node.resident_max();
        ensure!(resident <= max, "{} MiB resident after {after}", resident / MIB);
        Ok(())
    };
    let mut rounds = 0;
    while load.is_running() {
        attack.broken_rules()?;
        watch(node, "broken rules")?;
        attack.noise()?;
        watch(node, "noise")?;
        attack.connect_garbage()?;
        watch(node, "garbage in Connect")?;
        attack.bad_digests()?;
        watch(node, "bad digests")?;
        if rounds == 0 {
            let mute = attack.mute()?;
            let crowd = attack.half_open()?;
            let watched = Instant::now();
            while watched.elapsed() < Duration::from_secs(5) {
                watch(node, "sockets that never read, and half-open ones")?;
                std::thread::sleep(Duration::from_millis(250));
            }
            attack.serves_others(crowd.len())?;
            drop((mute, crowd));
        }
        rounds += 1;
    }
    ensure!(rounds > 0, "the load ended before it began");
    println!("{rounds} rounds; at most {} MiB resident", peak / MIB);
    bed.guest.finish(load).context("the load beside the attack")?;
    let said =
        bed.run("disconnect; dmesg | grep -E 'nvme.*(timeout|reset|reconnect|error)' || true")?;
    ensure!(said.is_empty(), "the host noticed:\n{said}");
    Ok(Outcome::Passed)
}

impl Attack {
    /// Each broken rule is answered with the terminate request that the specification has for it.
    fn broken_rules(&mut self) -> Result<()> {
        type Spoil = fn(&mut IcReq);
        let first: [(&str, Spoil, FatalError); 4] = [
            ("format version", |r| r.format_version = 1.into(), FatalError::UnsupportedParameter),
            ("header length", |r| r.common.header_len = 24, FatalError::InvalidField),
            ("a huge length", |r| r.common.pdu_len = u32::MAX.into(), FatalError::InvalidField),
            ("unknown type", |r| r.common.pdu_type = 0x55, FatalError::InvalidField),
        ];
        for (what, spoil, expected) in first {
            let bytes = Host::new(HostConfig::default()).take_output();
            let mut request = IcReq::read_from_bytes(&bytes).expect("an ICReq as hosts send it");
            spoil(&mut request);
            let answer = self.exchange(request.as_bytes())?;
            let fatal = answer.get(8..10).map(|b| u16::from_le_bytes([b[0], b[1]]));
            ensure!(
                answer.first() == Some(&PduType::C2hTermReq.0) && fatal == Some(expected.0),
                "{what} in the ICReq was answered with {answer:02x?}"
            );
        }
        let mut again = Host::new(HostConfig::default());
        self.expect_end("a second ICReq", &again.take_output(), FatalError::Sequence)?;
        let huge = capsule(|c| c.common.pdu_len = u32::MAX.into());
        self.expect_end("a huge capsule", &huge, FatalError::InvalidField)?;
        let response = capsule(|c| c.common.pdu_type = PduType::CapsuleResp.0);
        self.expect_end("a response from a host", &response, FatalError::InvalidField)?;
        let mut data = DataHeader::new_zeroed();
        data.common.pdu_type = PduType::H2cData.0;
        data.common.header_len = 24;
        data.common.data_offset = 24;
        data.common.pdu_len = U32::new(24 + 4096);
        data.data_len = U32::new(4096);
        data.transfer_tag = U16::new(3);
        let unasked = [data.as_bytes(), &[7; 4096]].concat();
        self.expect_end("data that nobody asked for", &unasked, FatalError::InvalidField)
    }

    /// Random bytes, in all lengths; PDUs cut off anywhere; ends by FIN and by RST.
    fn noise(&mut self) -> Result<()> {
        for _ in 0..24 {
            let len = self.next() as usize % 20_000;
            let bytes = self.bytes(len);
            self.pour(&bytes)?;
            // What begins as a real connection and goes on as noise.
            let mut real = Host::new(HostConfig::default()).take_output();
            real.extend_from_slice(&capsule(|_| {}));
            real.extend_from_slice(&bytes);
            let cut = self.next() as usize % real.len();
            self.pour(&real[..cut])?;
        }
        Ok(())
    }

    /// Connects that no host sends. Each is refused or ends its connection.
    fn connect_garbage(&mut self) -> Result<()> {
        for round in 0..24 {
            let mut connect = ConnectCommand::read_from_bytes(&self.bytes(64)).expect("64 bytes");
            connect.opcode = FABRICS_OPCODE;
            connect.fabrics_type = FabricsType::Connect.0;
            let mut data = ConnectData::read_from_bytes(&self.bytes(1024)).expect("1024 bytes");
            if round % 3 > 0 {
                connect.record_format = 0.into();
                connect.sgl.identifier = SGL_IN_CAPSULE;
                connect.sgl.address = 0.into();
                connect.sgl.length = U32::new(1024);
            }
            if round % 3 > 1 {
                data.subsystem_nqn = [b'n'; 256];
            }
            let header = Command::read_from_bytes(connect.as_bytes()).expect("both are 64 bytes");
            let mut host = Host::new(HostConfig::default());
            let hello = host.take_output();
            host.capsule(&header, data.as_bytes());
            let bytes = [hello, host.take_output()].concat();
            let answer = self.exchange(&bytes)?;
            let ends_well = match answer.get(128) {
                None => true,
                Some(&kind) if kind == PduType::C2hTermReq.0 => true,
                // A response with a status that is none of success.
                Some(&kind) => {
                    kind == PduType::CapsuleResp.0 && answer.get(150..152) != Some(&[0, 0])
                }
            };
            ensure!(ends_well, "garbage was accepted: {:02x?}", &answer[128..]);
        }
        Ok(())
    }

    /// A bad header digest ends a connection, a bad data digest a command.
    fn bad_digests(&mut self) -> Result<()> {
        let config = HostConfig { header_digest: true, data_digest: true, ..HostConfig::default() };
        let mut queue = Queue::open(self.address, config)?;
        queue.host().spoil_next_data_digest = true;
        let refused = queue.connect_admin(&self.subsystem, HOST)?;
        ensure!(
            refused.status == Status::TRANSIENT_TRANSPORT_ERROR,
            "a bad data digest: {:?}",
            refused.status
        );
        let connected = queue.connect_admin(&self.subsystem, HOST)?;
        ensure!(connected.status.is_success(), "the same with a good one: {:?}", connected.status);
        let mut bytes = capsule(|c| {
            c.common.flags = 1;
            c.common.pdu_len = U32::new(76);
        });
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        match queue.ruin(&bytes)? {
            End::Terminated(request) if request.status == FatalError::HeaderDigest.0 => Ok(()),
            end => anyhow::bail!("a bad header digest: {end:?}"),
        }
    }

    /// Hosts that ask for much and take nothing of it, on admin and I/O queues.
    fn mute(&mut self) -> Result<Vec<Queue>> {
        let mut mute = Vec::new();
        for _ in 0..4 {
            let mut admin = Queue::open(self.address, HostConfig::default())?;
            let connected = admin.connect_admin(&self.subsystem, HOST)?;
            ensure!(connected.status.is_success(), "Connect: {:?}", connected.status);
            admin.enable()?;
            let id = connected.result as u16;
            let mut io = Queue::io(self.address, id, &self.subsystem, HOST)?;
            let blocks = 256;
            let read = command(NvmOpcode::Read, self.namespace, 0, blocks);
            io.glut(read, &Transfer::Read(blocks as usize * 4096))?;
            admin.glut(initiator::identify(), &Transfer::Read(4096))?;
            mute.push(io);
            mute.push(admin);
        }
        Ok(mute)
    }

    /// Connections that say nothing, a part of an ICReq, or a part of a capsule.
    fn half_open(&mut self) -> Result<Vec<TcpStream>> {
        let mut real = Host::new(HostConfig::default()).take_output();
        real.extend_from_slice(&capsule(|_| {}));
        let mut crowd = Vec::new();
        for number in 0..HALF_OPEN {
            let mut stream = self.connect_from(number)?;
            let cut = self.next() as usize % real.len();
            // The node may have had enough of us.
            let _ = stream.write_all(&real[..cut]);
            crowd.push(stream);
        }
        Ok(crowd)
    }

    /// A well-behaved host finds its place beside `crowd` others that are none; beyond the limit of
    /// connections there is no place, and the node lives.
    fn serves_others(&mut self, crowd: usize) -> Result<()> {
        let mut queue = Queue::controller(self.address, &self.subsystem, HOST)?;
        let mut more = Vec::new();
        for number in crowd..Basalt::CONNECTIONS_MAX {
            more.push(self.connect_from(number)?);
        }
        let beyond = self.exchange(&Host::new(HostConfig::default()).take_output());
        ensure!(!matches!(&beyond, Ok(answer) if !answer.is_empty()), "a place beyond the limit");
        drop(more);
        let identify = queue.run(initiator::identify(), Transfer::Read(4096))?;
        ensure!(identify.status.is_success(), "Identify: {:?}", identify.status);
        Ok(())
    }

    /// A connection from one of many addresses: of strangers at one the node takes few.
    fn connect_from(&self, number: usize) -> Result<TcpStream> {
        let host = 2 + (number / STRANGERS) as u8;
        let source = SocketAddr::from(([127, 0, 0, host], 0));
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        net::bind(&socket, &source)?;
        net::connect(&socket, &self.address)?;
        Ok(TcpStream::from(socket))
    }

    /// Sends bytes on an initialized connection, which the node has to terminate for that reason.
    fn expect_end(&mut self, what: &str, bytes: &[u8], expected: FatalError) -> Result<()> {
        let queue = Queue::open(self.address, HostConfig::default())?;
        match queue.ruin(bytes)? {
            End::Terminated(request) if request.status == expected.0 => Ok(()),
            end => anyhow::bail!("{what}: {end:?}"),
        }
    }

    /// Sends bytes and leaves without a look at the answer.
    fn pour(&mut self, bytes: &[u8]) -> Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        // The node may close before everything is sent.
        let _ = stream.write_all(bytes);
        if self.next().is_multiple_of(2) {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_millis(50)))?;
            let _ = stream.read(&mut [0; 4096]);
        }
        Ok(())
    }

    /// Sends bytes and what comes back until the node is silent or gone.
    fn exchange(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut some = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut some) {
            answer.extend_from_slice(&some[..count]);
        }
        Ok(answer)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// xorshift64*.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }
}

/// A command capsule without data, spoilt.
fn capsule(spoil: impl Fn(&mut CapsuleCmd)) -> Vec<u8> {
    let mut capsule = CapsuleCmd::new_zeroed();
    capsule.common.pdu_type = PduType::CapsuleCmd.0;
    capsule.common.header_len = 72;
    capsule.common.pdu_len = U32::new(72);
    spoil(&mut capsule);
    capsule.as_bytes().to_vec()
}
