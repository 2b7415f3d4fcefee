//! Hosts that take nothing, or little, of what they asked for, beside one that works.

use super::*;
use nvmeof_target::testing::{Transfer, command};
use storage_spec::nvme::command::NvmOpcode;
use storage_spec::nvme::status::Status;

/// The largest transfer, in blocks.
const BLOCKS: u32 = 256;
/// Reads that a host asks for at once: more than its share of the buffers.
const READS: u64 = 100;

fn pattern(at: u64) -> Vec<u8> {
    let mut data = vec![0; BLOCKS as usize * 4096];
    data.chunks_mut(8).zip(at << 32..).for_each(|(word, n)| word.copy_from_slice(&n.to_le_bytes()));
    data
}

fn ask(queue: &mut Queue, nsid: u32) -> Vec<u16> {
    let read = || command(NvmOpcode::Read, nsid, 0, BLOCKS);
    (0..READS).map(|_| queue.begin(read(), Transfer::Read(BLOCKS as usize * 4096))).collect()
}

/// Waits until the node holds no more buffers from one moment to a later one.
fn settled(bench: &Bench) -> u64 {
    let free = || bench.node.counters().cores.iter().map(|core| core.buffers_free).sum();
    let mut last: u64 = free();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = free();
        if now == last {
            return now;
        }
        last = now;
    }
}

#[test]
fn a_host_that_reads_nothing_holds_a_bounded_part_and_harms_nobody() {
    let bench = Bench::start(&[256 << 20]);
    let nsid = bench.create("v", 128 << 20, "ram");
    let (_admin, mut worker) = bench.host();
    assert_eq!(worker.write(nsid, 0, pattern(1)), Status::SUCCESS);
    let before = settled(&bench);
    // As many as there are eighths, so that together they could hold everything.
    let mut deaf: Vec<_> = (0..16).map(|_| bench.host()).collect();
    for (_, queue) in &mut deaf {
        ask(queue, nsid);
    }
    let held = settled(&bench);
    assert!(before > held, "nothing is held: {before} {held}");
    assert!(bench.node.counters().cores.iter().all(|core| core.buffers_free > 2 << 20));
    for round in 0..50 {
        deaf.iter_mut().for_each(|(admin, _)| admin.keep_alive());
        assert_eq!(worker.write(nsid, 512, pattern(round)), Status::SUCCESS);
        assert!(worker.read(nsid, 512, BLOCKS).data == pattern(round));
    }
    // They are there still, and get what they asked for as soon as they take it.
    let (_, queue) = &mut deaf[3];
    while queue.outstanding() > 0 {
        assert!(queue.receive(1 << 20) > 0, "the node hung up");
    }
    drop(deaf);
    let is_back = |_| settled(&bench) >= before - (1 << 20);
    assert!((0..20).any(is_back), "{before} were free, {} are", settled(&bench));
}

#[test]
fn a_host_that_reads_slowly_gets_everything_and_harms_nobody() {
    let bench = Bench::start(&[256 << 20]);
    let nsid = bench.create("v", 128 << 20, "ram");
    let (_admin, mut worker) = bench.host();
    assert_eq!(worker.write(nsid, 0, pattern(5)), Status::SUCCESS);
    let (_slow_admin, mut slow) = bench.host();
    let reads = ask(&mut slow, nsid);
    let slow = std::thread::spawn(move || {
        // Dribbles at first, so that every send goes in many pieces.
        for _ in 0..200 {
            assert!(slow.receive(1500) > 0, "the node hung up");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        reads.into_iter().for_each(|read| {
            let read = slow.finish(read);
            assert_eq!(read.status, Status::SUCCESS);
            assert!(read.data == pattern(5));
        });
    });
    for round in 0..50 {
        assert_eq!(worker.write(nsid, 512, pattern(round)), Status::SUCCESS);
        assert!(worker.read(nsid, 512, BLOCKS).data == pattern(round));
    }
    slow.join().unwrap();
}
