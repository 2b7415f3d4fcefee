//! How many small requests a core's sockets answer with 4 KiB each over loopback, and what that
//! costs in system calls: `cargo run --release --example socket_rate [connections] [depth]`.
//!
//! One core serves, another asks. There is no protocol, so it is the ceiling of any. Both sleep
//! when they have nothing to do, so that the processor time for each request can be told on a
//! machine that is busy with other things too.

use dataplane::dma::{Arena, Buf, Pool, Slice};
use dataplane::net::{Event, Handoff, Net, Rx, SocketId, Tx, TxPart};
use dataplane::uring::{Ring, RingOptions, SocketOptions, Sockets};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const REQUEST: usize = 72;
const HEAD: usize = 24;
const DATA: usize = 4096;
const STAGING: usize = 256 << 10;
const SECONDS: u64 = 2;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let connections: usize = arguments.next().unwrap_or(4);
    let depth: usize = arguments.next().unwrap_or(32);
    let (served, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let arena = Arena::new(256 << 20, 2).expect("memory");
    let (tell, told) = std::sync::mpsc::channel();
    let server = std::thread::spawn({
        let (served, stop, pool) = (Arc::clone(&served), Arc::clone(&stop), arena.pool(0));
        move || serve(pool, &served, &stop, |address| tell.send(address).expect("main waits"))
    });
    let address = told.recv().expect("the server listens");
    let client = std::thread::spawn({
        let (stop, pool) = (Arc::clone(&stop), arena.pool(1));
        move || ask(pool, address, connections, depth, &stop)
    });
    std::thread::sleep(Duration::from_secs(1));
    let before = served.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(SECONDS));
    let rate = (served.load(Ordering::Relaxed) - before) / SECONDS;
    stop.store(true, Ordering::Relaxed);
    client.join().expect("the client ends");
    let (calls, nanos) = server.join().expect("the server ends");
    println!(
        "{connections} connections, depth {depth}: {rate} requests/s, \
         each {calls:.4} calls and {nanos:.0} ns of the server's core"
    );
}

/// What one connection still has to answer.
#[derive(Default)]
struct Peer {
    /// Bytes of a request that is not whole.
    partial: usize,
    owed: usize,
    spare: Option<Tx>,
}

fn pin(core: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(core);
    sched_setaffinity(None, &cpus).expect("a core of this machine");
}

fn staging(pool: &Pool) -> Rx {
    Rx { landing: None, staging: pool.alloc(STAGING).expect("buffers suffice") }
}

fn serve(
    pool: Pool,
    served: &AtomicU64,
    stop: &AtomicBool,
    tell: impl Fn(SocketAddr),
) -> (f64, f64) {
    pin(0);
    let ring = Ring::new(RingOptions::default()).expect("io_uring");
    let mut sockets = Sockets::new(&ring, SocketOptions::default());
    let address = sockets.listen((Ipv4Addr::LOCALHOST, 0).into()).expect("a port").1;
    tell(address);
    let data: Slice = pool.alloc(DATA).expect("buffers suffice").freeze();
    let mut peers: HashMap<SocketId, Peer> = HashMap::new();
    let mut events = Vec::with_capacity(256);
    while !stop.load(Ordering::Relaxed) {
        if ring.turn() == 0 {
            ring.announce_sleep();
            ring.wait(Some(Duration::from_millis(10)));
        }
        sockets.poll(&mut events);
        for event in events.drain(..) {
            let socket = match event {
                Event::Accepted { socket, .. } => {
                    let heads: Buf = pool.alloc(DATA).expect("buffers suffice");
                    let spare = Some(Tx { heads, parts: Vec::with_capacity(512) });
                    peers.insert(socket, Peer { spare, ..Peer::default() });
                    sockets.receive(socket, staging(&pool));
                    continue;
                }
                Event::Received { result: Ok(0) | Err(_), .. } => continue,
                Event::Received { socket, rx, result: Ok(len) } => {
                    let peer = peers.get_mut(&socket).expect("accepted");
                    let whole = peer.partial + len;
                    peer.owed += whole / REQUEST;
                    peer.partial = whole % REQUEST;
                    sockets.receive(socket, rx);
                    socket
                }
                Event::Sent { socket, mut tx, .. } => {
                    served.fetch_add(tx.parts.len() as u64 / 2, Ordering::Relaxed);
                    tx.parts.clear();
                    peers.get_mut(&socket).expect("accepted").spare = Some(tx);
                    socket
                }
            };
            let peer = peers.get_mut(&socket).expect("accepted");
            if peer.owed > 0
                && let Some(mut tx) = peer.spare.take()
            {
                for _ in 0..std::mem::take(&mut peer.owed).min(256) {
                    // Heads that are not adjacent to one another, as the real ones are not.
                    tx.parts.push(TxPart::Head(0..HEAD as u32));
                    tx.parts.push(TxPart::Data(data.clone()));
                }
                sockets.send(socket, tx);
            }
        }
    }
    println!("{:?}", ring.counters());
    println!("{:?}", sockets.counters());
    let requests = served.load(Ordering::Relaxed) as f64;
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = time.tv_sec as f64 * 1e9 + time.tv_nsec as f64;
    (ring.counters().enters as f64 / requests, nanos / requests)
}

fn ask(pool: Pool, address: SocketAddr, connections: usize, depth: usize, stop: &AtomicBool) {
    pin(1);
    let ring = Ring::new(RingOptions::default()).expect("io_uring");
    let mut sockets = Sockets::new(&ring, SocketOptions::default());
    let mut events = Vec::with_capacity(256);
    let mut due: HashMap<SocketId, (usize, usize)> = HashMap::new();
    let request = |count: usize| {
        let heads = pool.alloc(count * REQUEST).expect("buffers suffice");
        Tx { heads, parts: vec![TxPart::Head(0..(count * REQUEST) as u32)] }
    };
    for _ in 0..connections {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let socket = sockets.adopt(Handoff::Fd(stream.into()));
        due.insert(socket, (0, 0));
        sockets.send(socket, request(depth));
        sockets.receive(socket, staging(&pool));
    }
    while !stop.load(Ordering::Relaxed) {
        if ring.turn() == 0 {
            ring.announce_sleep();
            ring.wait(Some(Duration::from_millis(10)));
        }
        sockets.poll(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Received { socket, rx, result } => {
                    let (partial, wanted) = due.get_mut(&socket).expect("connected");
                    let got = *partial + result.expect("the server answers");
                    *wanted += got / (HEAD + DATA);
                    *partial = got % (HEAD + DATA);
                    sockets.receive(socket, rx);
                    // One send at a time: what comes meanwhile goes with the next answer.
                    if *wanted >= depth.div_ceil(4) {
                        sockets.send(socket, request(std::mem::take(wanted)));
                    }
                }
                Event::Sent { .. } => {}
                Event::Accepted { .. } => unreachable!("nobody connects to the client"),
            }
        }
    }
}
