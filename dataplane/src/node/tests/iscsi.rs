//! Initiators that do what no good one does, and what they are told, over real sockets.

use super::initiator::{
    BUSY, CHECK_CONDITION, GOOD, RESERVATION_CONFLICT, Session, TASK_ABORTED, cdb16,
};
use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Blocks of the reads that nobody takes.
const BLOCKS: u32 = 256;
/// Reads that an initiator asks for at once: more than its share of the buffers.
const READS: usize = 100;
/// Writes that the victim of a fence has under way.
const WRITES: u64 = 64;

impl Bench {
    fn session(&self, port: u8) -> Session {
        Session::open(self.node.local_addresses()[1], IQN, port)
    }

    /// The free buffers of each core.
    fn free(&self) -> Vec<u64> {
        self.node.counters().cores.iter().map(|core| core.buffers_free).collect()
    }
}

/// Some blocks that say where they are.
fn pattern(seed: u8) -> Vec<u8> {
    (0..BLOCKS as usize * 4096).map(|at| (at >> 12) as u8 ^ seed).collect()
}

#[test]
fn an_initiator_that_reads_nothing_holds_a_bounded_part_and_harms_nobody() {
    let bench = Bench::start(&[256 << 20]);
    let lun = bench.create("v", 128 << 20, "ram") as u16 - 1;
    let mut worker = bench.session(0);
    assert_eq!(worker.write(lun, 0, &pattern(1)).status, GOOD);
    let before: u64 = bench.free().iter().sum();
    let mut deaf: Vec<_> = (1..=16).map(|port| bench.session(port)).collect();
    for session in &mut deaf {
        for _ in 0..READS {
            session.initiator.read(lun, &cdb16(0x88, 0, BLOCKS), BLOCKS * 4096);
        }
        session.send();
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(bench.free().iter().sum::<u64>() < before, "something is held");
    for round in 0..30 {
        assert!(bench.free().iter().all(|&free| free > 2 << 20), "{:?}", bench.free());
        assert_eq!(worker.write(lun, 512, &pattern(round)).status, GOOD);
        assert!(worker.read(lun, 512, BLOCKS).data == pattern(round));
    }
    // One that begins to take gets all.
    let late = deaf[3].initiator.read(lun, &cdb16(0x88, 0, 1), 4096);
    assert_eq!(deaf[3].finish(late).data, pattern(1)[..4096]);
    drop(deaf);
    let is_back = |_| {
        std::thread::sleep(Duration::from_millis(200));
        bench.free().iter().sum::<u64>() >= before - (1 << 20)
    };
    assert!((0..50).any(is_back), "{before} were free, {:?} are", bench.free());
}

#[test]
fn half_a_login_and_noise_by_the_thousand_harm_nobody() {
    let bench = Bench::start(&[64 << 20]);
    let lun = bench.create("v", 32 << 20, "ram") as u16 - 1;
    let mut worker = bench.session(0);
    assert_eq!(worker.write(lun, 0, &pattern(1)[..4096]).status, GOOD);
    let before: u64 = bench.free().iter().sum();
    // A login request whose text never comes, and bytes without meaning.
    let mut half = [0_u8; 60];
    half[..8].copy_from_slice(&[0x43, 0x87, 0, 0, 0, 0, 0x02, 0x00]);
    let mut noise = 0x9E37_79B9_u32;
    let mut open = Vec::new();
    for round in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(bench.node.local_addresses()[1]) else { continue };
        if round % 2 == 0 {
            let _ = stream.write_all(&half);
        } else {
            let bytes: Vec<u8> = (0..300)
                .map(|_| {
                    noise = noise.wrapping_mul(0x0019_660D).wrapping_add(0x3C6E_F35F);
                    (noise >> 24) as u8
                })
                .collect();
            let _ = stream.write_all(&bytes);
        }
        open.push(stream);
        if round % 50 == 0 {
            assert_eq!(worker.read(lun, 0, 1).data, pattern(1)[..4096]);
            let free: u64 = bench.free().iter().sum();
            assert!(free + (4 << 20) > before, "{before} were free, {free} are");
        }
    }
    // Most were turned away at once: strangers have a share of the connections alone.
    let mut ended = 0;
    for stream in &mut open {
        stream.set_nonblocking(true).unwrap();
        let is_open = match stream.read(&mut [0; 512]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        };
        ended += usize::from(!is_open);
    }
    assert!(ended > 900, "{ended}");
    drop(open);
    std::thread::sleep(Duration::from_millis(300));
    let mut next = bench.session(1);
    assert_eq!(next.read(lun, 0, 1).data, pattern(1)[..4096]);
}

#[test]
fn nothing_of_a_preempted_initiator_lands_after_the_answer() {
    let bench = Bench::start(&[256 << 20]);
    let lun = bench.create("v", 64 << 20, "ram") as u16 - 1;
    let mut sessions = [bench.session(1), bench.session(2)];
    for (session, key) in sessions.iter_mut().zip([1, 2]) {
        assert_eq!(session.order(lun, 0, 0, [0, key]), GOOD);
    }
    // Exclusive access.
    assert_eq!(sessions[0].order(lun, 1, 3, [1, 0]), GOOD);
    for round in 0..20_u64 {
        let [one, two] = &mut sessions;
        let (holder, other) = if round % 2 == 0 { (one, two) } else { (two, one) };
        let (key, others) = (1 + round % 2, 2 - round % 2);
        let blocks = if round % 4 < 2 { 1 } else { 32 };
        let data = vec![key as u8; blocks * 4096];
        let write = |at: u64| cdb16(0x8A, at * blocks as u64, blocks as u32);
        let tags: Vec<u32> =
            (0..WRITES).map(|at| holder.initiator.write(lun, &write(at), &data)).collect();
        holder.send();
        // PREEMPT AND ABORT, in the midst of that.
        assert_eq!(other.order(lun, 5, 3, [others, key]), GOOD);
        let area = (WRITES as usize * blocks) as u32;
        for part in 0..area.div_ceil(BLOCKS) {
            let blocks = BLOCKS.min(area - part * BLOCKS);
            let own = vec![others as u8; blocks as usize * 4096];
            assert_eq!(other.write(lun, u64::from(part * BLOCKS), &own).status, GOOD);
        }
        for tag in tags {
            let status = holder.finish(tag).status;
            let expected = [GOOD, CHECK_CONDITION, BUSY, RESERVATION_CONFLICT, TASK_ABORTED];
            assert!(expected.contains(&status), "{status:#x}");
        }
        for part in 0..area.div_ceil(BLOCKS) {
            let blocks = BLOCKS.min(area - part * BLOCKS);
            let read = other.read(lun, u64::from(part * BLOCKS), blocks);
            assert!(read.data.iter().all(|&byte| byte == others as u8), "round {round}");
        }
        // Who was preempted is told so, is refused, and registers again.
        while holder.ask(lun, &[0; 6], 0).status == CHECK_CONDITION {}
        assert_eq!(holder.read(lun, 0, 1).status, RESERVATION_CONFLICT);
        assert_eq!(holder.order(lun, 0, 0, [0, key]), GOOD);
    }
}

#[test]
fn initiators_are_told_when_room_runs_out() {
    let bench = Bench::start(&[64 << 20]);
    let lun = bench.create("v", 1 << 30, "ram") as u16 - 1;
    let mut session = bench.session(0);
    let mut senses = Vec::new();
    for slab in 0.. {
        let end = session.write(lun, slab * 512, &pattern(0)[..4096]);
        senses.extend(end.sense);
        if end.sense == Some((7, 0x2707)) {
            break;
        }
    }
    // The threshold is looked at about once a second.
    for _ in 0..50 {
        senses.extend(session.ask(lun, &[0; 6], 0).sense);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(senses.contains(&(6, 0x3807)), "{senses:x?}");
    // Log page 0Ch: what is available, and what is used, in thresholds.
    let page = session.ask(lun, &[0x4D, 0, 0x4C, 0, 0, 0, 0, 0, 64, 0], 64).data;
    let number = |at: usize| u32::from_be_bytes(page[at..at + 4].try_into().unwrap());
    assert_eq!(page[..8], [0x0C, 0, 0, 24, 0, 1, 3, 8]);
    assert!(number(8) < number(20), "{page:x?}");
}
