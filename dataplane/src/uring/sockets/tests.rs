use super::*;
use crate::dma::{Arena, Buf, Pool, Slice};
use crate::net::TxPart;
use crate::uring::{Ring, RingOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

const PAGE: usize = crate::dma::PAGE;

/// A ring, its sockets, and a pool, as a core has them.
struct Core {
    ring: Ring,
    sockets: Sockets,
    pool: Pool,
    events: Vec<Event>,
}

impl Core {
    fn new() -> Self {
        Self::with_connections(64)
    }

    fn with_connections(connections_max: usize) -> Self {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let sockets = Sockets::new(&ring, SocketOptions { connections_max });
        let pool = Arena::new(64 << 20, 1).unwrap().pool(0);
        Self { ring, sockets, pool, events: Vec::with_capacity(16) }
    }

    fn listen(&mut self) -> (ListenerId, SocketAddr) {
        self.sockets.listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
    }

    /// The next event; fails the test if none comes in five seconds.
    fn event(&mut self) -> Event {
        self.try_event(Duration::from_secs(5)).expect("an event comes")
    }

    fn try_event(&mut self, patience: Duration) -> Option<Event> {
        let mut waits = 0;
        while self.events.is_empty() {
            if waits > 20 {
                return None;
            }
            waits += 1;
            self.sockets.rest();
            self.ring.announce_sleep();
            self.ring.wait(Some(patience / 20));
            self.sockets.poll(&mut self.events);
        }
        Some(self.events.remove(0))
    }

    /// Receives a byte that is there, so that the next receive waits for more.
    fn receive_one(&mut self, socket: SocketId, host: &mut TcpStream) {
        host.write_all(b"x").unwrap();
        let rx = self.rx(None, PAGE);
        self.sockets.receive(socket, rx);
        assert_eq!(self.received().1.unwrap(), 1);
    }

    /// Spins as a core does, without sleep, until something has happened or for so many turns.
    fn spin(&mut self, turns: u32) -> Option<Event> {
        for _ in 0..turns {
            self.sockets.poll(&mut self.events);
            if !self.events.is_empty() {
                return Some(self.events.remove(0));
            }
            self.ring.turn();
        }
        None
    }

    fn accept(&mut self) -> SocketId {
        match self.event() {
            Event::Accepted { socket, .. } => socket,
            other => panic!("{other:?} instead of a connection"),
        }
    }

    fn connect(&mut self) -> (SocketId, TcpStream) {
        let (_, address) = self.listen();
        let host = TcpStream::connect(address).unwrap();
        (self.accept(), host)
    }

    fn rx(&self, landing: Option<(usize, Range<usize>)>, staging: usize) -> Rx {
        let landing = landing.map(|(len, range)| (self.pool.alloc(len).unwrap(), range));
        Rx { landing, staging: self.pool.alloc(staging).unwrap() }
    }

    fn received(&mut self) -> (Rx, io::Result<usize>) {
        match self.event() {
            Event::Received { rx, result, .. } => (rx, result),
            other => panic!("{other:?} instead of a receive"),
        }
    }

    fn sent(&mut self) -> (Tx, io::Result<()>) {
        match self.event() {
            Event::Sent { tx, result, .. } => (tx, result),
            other => panic!("{other:?} instead of a send"),
        }
    }

    fn data(&self, len: usize, seed: u8) -> Slice {
        let mut buf = self.pool.alloc(len).unwrap();
        buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(at, seed));
        buf.freeze()
    }
}

fn pattern(at: usize, seed: u8) -> u8 {
    (at as u8).wrapping_mul(31) ^ ((at >> 8) as u8) ^ seed
}

fn bytes_of(tx: &Tx) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in &tx.parts {
        match part {
            TxPart::Head(range) => {
                bytes.extend_from_slice(&tx.heads[range.start as usize..range.end as usize]);
            }
            TxPart::Data(data) => bytes.extend_from_slice(data),
        }
    }
    bytes
}

fn text(pool: &Pool, text: &[u8]) -> Tx {
    let mut heads: Buf = pool.alloc(text.len()).unwrap();
    heads.copy_from_slice(text);
    Tx { heads, parts: vec![TxPart::Head(0..text.len() as u32)] }
}

#[test]
fn echoes() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let rx = core.rx(None, PAGE);
    core.sockets.receive(socket, rx);
    host.write_all(b"hello").unwrap();
    let (rx, result) = core.received();
    assert_eq!(result.unwrap(), 5);
    assert_eq!(&rx.staging[..5], b"hello");
    let tx = text(&core.pool, b"world");
    core.sockets.send(socket, tx);
    core.sent().1.unwrap();
    let mut answer = [0; 5];
    host.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"world");
    core.sockets.close(socket);
    assert_eq!(host.read(&mut answer).unwrap(), 0);
}

#[test]
fn received_bytes_land_first_then_stage() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let sent: Vec<u8> = (0..6000).map(|at| pattern(at, 3)).collect();
    host.write_all(&sent).unwrap();
    thread::sleep(Duration::from_millis(20));
    let rx = core.rx(Some((2 * PAGE, 100..5000)), PAGE);
    core.sockets.receive(socket, rx);
    let (rx, result) = core.received();
    assert_eq!(result.unwrap(), 6000);
    assert_eq!(rx.landing.unwrap().0[100..5000], sent[..4900]);
    assert_eq!(rx.staging[..1100], sent[4900..]);
}

#[test]
fn large_gathers_arrive_whole_through_a_slow_reader() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    // More pieces than one system call takes, no two adjacent; 6 MiB, more than socket buffers.
    let mut heads = core.pool.alloc(2 << 20).unwrap();
    heads.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(at, 9));
    let data = core.data(1 << 20, 77);
    let mut parts = Vec::new();
    for index in 0..1500u32 {
        parts.push(TxPart::Head(index * 1000..index * 1000 + 24));
        parts.push(TxPart::Head(index * 1000 + 24..index * 1000 + 28));
        let (offset, len) = (index as usize * 600, 4096 - index as usize % 7);
        parts.push(TxPart::Data(data.slice(offset, len)));
        parts.push(TxPart::Head(0..0));
    }
    let tx = Tx { heads, parts };
    let expected = bytes_of(&tx);
    let len = expected.len();
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        let mut chunk = vec![0; 50_000];
        while got.len() < len {
            if got.len() < 1_000_000 {
                thread::sleep(Duration::from_millis(2));
            }
            let n = host.read(&mut chunk).unwrap();
            assert!(n > 0);
            got.extend_from_slice(&chunk[..n]);
        }
        got
    });
    core.sockets.send(socket, tx);
    core.sent().1.unwrap();
    assert!(reader.join().unwrap() == expected, "what arrived is what was sent");
    assert_eq!(core.sockets.counters().sent_bytes, len as u64);
}

#[test]
fn what_a_peer_takes_is_seen_while_a_send_goes_on() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let (data, heads) = (core.data(2 << 20, 5), core.pool.alloc(PAGE).unwrap());
    let parts: Vec<_> = (0..10).map(|_| TxPart::Data(data.slice(0, 2 << 20))).collect();
    core.sockets.send(socket, Tx { heads, parts });
    // More than the buffers of both ends: it stands still before it has gone.
    let mut stood = 0;
    loop {
        assert!(core.try_event(Duration::from_millis(100)).is_none(), "the send is not over");
        let taken = core.sockets.taken(socket);
        if taken > 0 && taken == stood {
            break;
        }
        stood = taken;
    }
    let mut chunk = vec![0; 1 << 20];
    let mut read = 0;
    while core.sockets.taken(socket) == stood {
        read += host.read(&mut chunk).unwrap();
        assert!(read < 20 << 20, "it does not move though the peer reads");
    }
    let reader = thread::spawn(move || {
        while read < 20 << 20 {
            read += host.read(&mut chunk).unwrap();
        }
        host
    });
    core.sent().1.unwrap();
    drop(reader.join().unwrap());
}

#[test]
fn fragmented_input_arrives_in_order() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let sent: Vec<u8> = (0..20_000).map(|at| pattern(at, 5)).collect();
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        host.set_nodelay(true).unwrap();
        for piece in copy.chunks(777) {
            host.write_all(piece).unwrap();
            thread::yield_now();
        }
        host
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let rx = core.rx(Some((PAGE, 0..100)), 200);
        core.sockets.receive(socket, rx);
        let (rx, result) = core.received();
        let n = result.unwrap();
        assert!(n > 0);
        got.extend_from_slice(&rx.landing.unwrap().0[..n.min(100)]);
        got.extend_from_slice(&rx.staging[..n.saturating_sub(100)]);
    }
    assert_eq!(got, sent);
    drop(writer.join().unwrap());
}

#[test]
fn half_close_is_a_receive_of_nothing_and_sending_goes_on() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    host.write_all(b"last").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    let rx = core.rx(None, PAGE);
    core.sockets.receive(socket, rx);
    assert_eq!(core.received().1.unwrap(), 4);
    let rx = core.rx(None, PAGE);
    core.sockets.receive(socket, rx);
    assert_eq!(core.received().1.unwrap(), 0);
    let tx = text(&core.pool, b"reply");
    core.sockets.send(socket, tx);
    core.sent().1.unwrap();
    core.sockets.close(socket);
    let mut reply = Vec::new();
    host.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"reply");
}

#[test]
fn reset_fails_receive_and_send() {
    let mut core = Core::new();
    let (socket, host) = core.connect();
    let rx = core.rx(None, PAGE);
    core.sockets.receive(socket, rx);
    core.ring.turn();
    rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
    drop(host);
    let error = core.received().1.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let tx = text(&core.pool, b"too late");
    core.sockets.send(socket, tx);
    assert_eq!(core.sent().1.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    core.sockets.close(socket);
}

#[test]
fn shutdown_ends_what_is_outstanding() {
    let mut core = Core::new();
    let (socket, _host) = core.connect();
    let rx = core.rx(None, PAGE);
    core.sockets.receive(socket, rx);
    // A send that cannot end: nobody reads.
    let data = core.data(2 << 20, 1);
    let parts = (0..20).map(|_| TxPart::Data(data.clone())).collect();
    let tx = Tx { heads: core.pool.alloc(1).unwrap(), parts };
    core.sockets.send(socket, tx);
    assert!(core.try_event(Duration::from_millis(50)).is_none());
    core.sockets.shutdown(socket);
    let mut ended = [core.event(), core.event()].map(|event| match event {
        Event::Received { result, .. } => ("receive", result.is_ok_and(|n| n > 0)),
        Event::Sent { result, .. } => ("send", result.is_ok()),
        Event::Accepted { .. } => panic!("nobody connected"),
    });
    ended.sort_unstable();
    assert_eq!(ended, [("receive", false), ("send", false)]);
    core.sockets.close(socket);
}

#[test]
fn many_connections_each_keep_their_own() {
    const HOSTS: usize = 300;
    let mut core = Core::with_connections(HOSTS);
    let (_, address) = core.listen();
    let hosts = thread::spawn(move || {
        let mut hosts: Vec<_> = (0..HOSTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for (index, host) in hosts.iter_mut().enumerate() {
            host.write_all(&(index as u32).to_le_bytes()).unwrap();
        }
        for (index, host) in hosts.iter_mut().enumerate() {
            let mut answer = [0; 4];
            host.read_exact(&mut answer).unwrap();
            assert_eq!(u32::from_le_bytes(answer), index as u32 + 1);
        }
    });
    let mut closed = 0;
    while closed < HOSTS {
        match core.event() {
            Event::Accepted { socket, .. } => {
                let rx = core.rx(None, PAGE);
                core.sockets.receive(socket, rx);
            }
            Event::Received { socket, rx, result } => {
                assert_eq!(result.unwrap(), 4);
                let number = u32::from_le_bytes(rx.staging[..4].try_into().unwrap()) + 1;
                let tx = text(&core.pool, &number.to_le_bytes());
                core.sockets.send(socket, tx);
            }
            Event::Sent { socket, result, .. } => {
                result.unwrap();
                core.sockets.close(socket);
                closed += 1;
            }
        }
    }
    hosts.join().unwrap();
    assert_eq!(core.sockets.connections(), 0);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let mut core = Core::with_connections(1);
    let (_, address) = core.listen();
    let _first = TcpStream::connect(address).unwrap();
    let socket = core.accept();
    let mut second = TcpStream::connect(address).unwrap();
    assert!(core.try_event(Duration::from_millis(100)).is_none());
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    assert_eq!(core.sockets.counters().refused, 1);
    core.sockets.close(socket);
    let _third = TcpStream::connect(address).unwrap();
    core.accept();
}

#[test]
fn unlisten_refuses_connections_and_frees_the_port() {
    let mut core = Core::new();
    let (listener, address) = core.listen();
    core.ring.turn();
    core.sockets.unlisten(listener);
    assert!(TcpStream::connect(address).is_err());
    assert!(core.try_event(Duration::from_millis(20)).is_none());
    let (again, bound) = core.sockets.listen(address).unwrap();
    assert_eq!((again, bound), (listener, address));
    let _host = TcpStream::connect(address).unwrap();
    core.accept();
}

#[test]
fn an_address_in_use_is_an_error() {
    let mut core = Core::new();
    let (_, address) = core.listen();
    let error = core.sockets.listen(address).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn addresses_are_reported_on_both_families() {
    let mut core = Core::new();
    for ip in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let Ok((_, address)) = core.sockets.listen((ip, 0).into()) else {
            assert!(ip.is_ipv6(), "IPv4 is everywhere");
            eprintln!("skipped: no IPv6 here");
            continue;
        };
        let host = TcpStream::connect(address).unwrap();
        match core.event() {
            Event::Accepted { peer, local, .. } => {
                assert_eq!((peer, local), (host.local_addr().unwrap(), address));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_socket_moves_to_another_core() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let handoff = core.sockets.release(socket);
    assert_eq!(core.sockets.connections(), 0);
    let other = thread::spawn(move || {
        let mut core = Core::new();
        let socket = core.sockets.adopt(handoff);
        let rx = core.rx(None, PAGE);
        core.sockets.receive(socket, rx);
        assert_eq!(core.received().1.unwrap(), 5);
        core.sockets.close(socket);
    });
    host.write_all(b"moved").unwrap();
    other.join().unwrap();
}

#[test]
fn dropping_sockets_takes_back_what_is_outstanding() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let rx = core.rx(Some((PAGE, 0..PAGE)), PAGE);
    core.sockets.receive(socket, rx);
    core.ring.turn();
    let Core { sockets, pool, ring, .. } = core;
    drop(sockets);
    assert_eq!(pool.available(), 64 << 20);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    assert_eq!(ring.turn(), 0);
}

#[test]
fn batches_cost_few_system_calls() {
    const HOSTS: usize = 32;
    let mut core = Core::new();
    let (_, address) = core.listen();
    let mut hosts: Vec<_> = (0..HOSTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let sockets: Vec<_> = (0..HOSTS).map(|_| core.accept()).collect();
    let before = core.ring.counters().enters;
    for &socket in &sockets {
        let tx = text(&core.pool, b"x");
        core.sockets.send(socket, tx);
    }
    let sent = (0..HOSTS).filter(|_| core.sent().1.is_ok()).count();
    assert_eq!(sent, HOSTS);
    assert!(core.ring.counters().enters - before <= 2, "one call submits all of them");
    hosts.iter_mut().for_each(|host| host.read_exact(&mut [0]).unwrap());
}

#[test]
fn a_spinning_core_receives_without_its_ring() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    core.receive_one(socket, &mut host);
    let (submitted, asked) = (core.ring.counters().submitted, core.sockets.calls());
    let rx = core.rx(Some((2 * PAGE, 100..PAGE)), PAGE);
    core.sockets.receive(socket, rx);
    assert!(core.spin(3).is_none());
    host.write_all(&[7; PAGE]).unwrap();
    let Some(Event::Received { rx, result, .. }) = core.spin(u32::MAX) else { panic!("nothing") };
    assert_eq!(result.unwrap(), PAGE);
    assert_eq!(rx.landing.unwrap().0[100..PAGE], [7; PAGE - 100], "first where it belongs");
    assert_eq!(rx.staging[..100], [7; 100], "the rest beside it");
    assert_eq!(core.ring.counters().submitted, submitted);
    assert!(core.sockets.calls() >= asked + 4, "each call is counted");
}

#[test]
fn asking_in_vain_ends_in_the_ring() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    core.receive_one(socket, &mut host);
    let rx = core.rx(None, PAGE);
    core.sockets.receive(socket, rx);
    assert!(core.spin(EAGER_TRIES + 10).is_none());
    assert_eq!(core.sockets.calls(), u64::from(EAGER_TRIES));
    host.write_all(b"y").unwrap();
    assert_eq!(core.received().1.unwrap(), 1);
}

#[test]
fn sockets_that_are_asked_end_as_others_do() {
    let mut core = Core::new();
    let (socket, mut host) = core.connect();
    let (gone, other) = core.connect();
    core.receive_one(socket, &mut host);
    core.receive_one(gone, &mut { other.try_clone().unwrap() });
    for socket in [socket, gone] {
        let rx = core.rx(None, PAGE);
        core.sockets.receive(socket, rx);
    }
    assert!(core.spin(2).is_none());
    drop(other);
    core.sockets.shutdown(socket);
    for _ in 0..2 {
        let Some(Event::Received { result, .. }) = core.spin(100_000) else { panic!("nothing") };
        assert_eq!(result.unwrap(), 0);
    }
    core.sockets.close(socket);
    core.sockets.close(gone);
    assert_eq!(core.sockets.connections(), 0);
}

#[test]
fn many_sockets_are_with_the_kernel_but_a_few() {
    const HOSTS: usize = 3 * EAGER_MAX;
    let mut core = Core::new();
    let (_, address) = core.listen();
    let mut hosts: Vec<_> = (0..HOSTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let sockets: Vec<_> = (0..HOSTS).map(|_| core.accept()).collect();
    for (&socket, host) in sockets.iter().zip(&mut hosts) {
        // Accepted in any order: each is told the same.
        host.write_all(b"x").unwrap();
        let rx = core.rx(None, PAGE);
        core.sockets.receive(socket, rx);
    }
    (0..HOSTS).for_each(|_| assert_eq!(core.received().1.unwrap(), 1));
    for &socket in &sockets {
        let rx = core.rx(None, PAGE);
        core.sockets.receive(socket, rx);
    }
    let before = core.sockets.calls();
    assert!(core.spin(1).is_none());
    assert_eq!(core.sockets.calls() - before, EAGER_MAX as u64);
    hosts.iter_mut().for_each(|host| host.write_all(b"y").unwrap());
    (0..HOSTS).for_each(|_| assert_eq!(core.received().1.unwrap(), 1));
}

/// Runs in a process of its own, for the limit is the process's.
#[test]
fn accepting_resumes_when_file_descriptors_are_there_again() {
    const CHILD: &str = "BASALT_TEST_FD_LIMIT";
    if std::env::var_os(CHILD).is_none() {
        let name = thread::current().name().unwrap().to_owned();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&name, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    use rustix::net::{AddressFamily, SocketType, connect, socket};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut core = Core::new();
    let (_, address) = core.listen();
    let waiting = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    // Counts from the submission of the accept, which is still to come.
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..usual }).unwrap();
    connect(&waiting, &address).unwrap();
    assert!(core.try_event(Duration::from_millis(300)).is_none());
    assert!((2..10).contains(&core.sockets.counters().accept_pauses), "it pauses, not spins");
    setrlimit(Resource::Nofile, usual).unwrap();
    core.accept();
}
