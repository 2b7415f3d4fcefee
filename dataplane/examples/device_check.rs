//! Tries out a device that this process drives itself: `device_check WHAT ADDRESS...`.
//!
//! - `raw`: VFIO alone, on an NVMe controller: registers, memory, an interrupt, reset, and the same
//!   again after the device was given back.
//! - `conformance`: the suite of every driver, on each namespace or drive in turn, `ADDRESS/N...`,
//!   or on block devices, `/dev/...`; `passthrough` does so past the block layer.
//! - `rate DISK DEPTH SECONDS`: random reads of 4 KiB; prints how many in a second. A path is one
//!   that the kernel drives, by io_uring; this sleeps until something has ended.
//! - `fill DISK BYTES`: writes that much from the start; `trim DISK BYTES` deallocates it.
//! - `scan`: reads a namespace in 4 KiB and prints the offsets that cannot be read.
//! - `ledger DISK NOTES WRITERS BLOCKS WRITES`: writes rising numbers to blocks of a disk, and
//!   notes on another disk what has been acknowledged; `audit DISK BLOCKS` prints what is there.
//! - `hold`: opens the device and prints `held`; ends when the kernel wants it back.
//!
//! Run by the machine tests, in a guest whose IOMMU would tell of any access that is not right.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test program on real time")]

use dataplane::disk::kernel::{KernelDisk, KernelFile, KernelOptions, SelfDriven};
use dataplane::disk::single::{self, Unit};
use dataplane::disk::{Disk, Error, Op, WriteData, conformance};
use dataplane::dma::{Arena, Pool};
use dataplane::hardware::{Device, Interrupt, Presence, Registers, ResetError};
use dataplane::pci::{ControllerKind, Machine};
use dataplane::uring::{Ring, RingOptions};
use dataplane::vfio::{Options, Vfio, VfioDevice};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Registers of an NVMe controller (NVM Express Base 2.1, 3.1.4).
const VS: usize = 0x08;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const ADMIN_TAIL: usize = 0x1000;
const ADMIN_HEAD: usize = 0x1004;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, addresses @ ..] = arguments.as_slice() else { panic!("WHAT ADDRESS...") };
    let vfio = Vfio::new(Options { no_iommu: true, ..Options::default() });
    let arena = Arena::for_devices(8 << 20, 1).unwrap();
    println!("huge pages: {}", arena.is_on_huge_pages());
    let open = |address: &String| {
        let address = address.parse().unwrap_or_else(|error| panic!("{error}"));
        vfio.open(&Machine::this(), address, &arena).unwrap_or_else(|error| panic!("{error}"))
    };
    match what.as_str() {
        "raw" => {
            let mut devices: Vec<VfioDevice> = addresses.iter().map(open).collect();
            devices.iter_mut().for_each(raw);
            let window = devices[0].registers();
            drop(devices);
            assert_eq!(window.read32(VS), u32::MAX, "what was given back reads as ones");
            // The container has lost its last group: everything is mapped anew.
            let mut devices: Vec<VfioDevice> = addresses.iter().map(open).collect();
            devices.iter_mut().for_each(raw);
        }
        "conformance" => addresses.iter().for_each(|name| conform(name, false)),
        "passthrough" => addresses.iter().for_each(|name| conform(name, true)),
        "ledger" => ledger(addresses),
        "audit" => audit(&addresses[0], addresses[1].parse().unwrap()),
        "rate" => rate(&addresses[0], addresses[1].parse().unwrap(), addresses[2].parse().unwrap()),
        "fill" => fill(&addresses[0], addresses[1].parse().unwrap()),
        "trim" => trim(&addresses[0], addresses[1].parse().unwrap()),
        "scan" => scan(&addresses[0]),
        "hold" => hold(addresses.iter().map(open).collect()),
        other => panic!("{other} is none of raw, conformance, rate, fill, trim, scan, hold"),
    }
    println!("done");
}

/// Until the first of the devices is wanted back.
fn hold(devices: Vec<VfioDevice>) {
    println!("held");
    while devices.iter().all(|device| device.presence() == Presence::Present) {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("wanted: {:?}", devices[0].presence());
}

/// The namespace or the drive of `ADDRESS/N`.
fn disk(vfio: &Vfio, name: &str, arena: &Arena) -> Box<dyn Disk> {
    let (address, number) = name.split_once('/').unwrap();
    let (machine, address) = (Machine::this(), address.parse().unwrap());
    let unit = match machine.function(address).unwrap().kind() {
        ControllerKind::Ahci => Unit::Port(number.parse().unwrap()),
        _ => Unit::Namespace(number.parse().unwrap()),
    };
    let device = vfio.open(&machine, address, arena).unwrap();
    single::open(device, unit).unwrap_or_else(|error| panic!("{error}"))
}

fn direct(path: &str) -> File {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

fn ledger(arguments: &[String]) {
    let (disk, notes) = (&direct(&arguments[0]), &direct(&arguments[1]));
    let number = |at: usize| arguments[at].parse::<u64>().unwrap();
    let (writers, blocks, writes) = (number(2), number(3), number(4));
    let arena = Arena::new(2 << 20, writers as usize).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let mut buf = arena.pool(writer as usize).alloc(4096).unwrap();
            scope.spawn(move || {
                for write in 1..=writes {
                    let (words, _) = buf.as_chunks_mut::<8>();
                    words.iter_mut().for_each(|word| *word = write.to_le_bytes());
                    let block = writer * blocks + write % blocks;
                    disk.write_all_at(&buf, block * 4096).unwrap();
                    notes.write_all_at(&buf, writer * 4096).unwrap();
                }
            });
        }
    });
}

fn audit(disk: &str, blocks: u64) {
    let disk = direct(disk);
    let mut buf = Arena::new(2 << 20, 1).unwrap().pool(0).alloc(4096).unwrap();
    for block in 0..blocks {
        disk.read_exact_at(&mut buf, block * 4096).unwrap();
        let (words, _) = buf.as_chunks::<8>();
        let is_whole = words.iter().all(|word| *word == words[0]);
        let number = u64::from_le_bytes(words[0]);
        println!("block {}", if is_whole { number.to_string() } else { "torn".to_owned() });
    }
}

fn conform(name: &str, passthrough: bool) {
    if name.starts_with("/dev/") {
        let options = KernelOptions { passthrough, ..KernelOptions::default() };
        let file = KernelFile::open(Path::new(name), &options).unwrap_or_else(|e| panic!("{e}"));
        println!("access: {}, refused: {:?}", file.way().access(), file.way().refused());
        conformance::run(&mut || {
            Box::new(SelfDriven::new(&file, Ring::new(RingOptions::default()).unwrap()))
        });
        assert_eq!(file.way().left(), None);
        println!("conformance of {name}: passed");
        return;
    }
    let vfio = Vfio::new(Options::default());
    conformance::run_with_arena(&mut |arena| disk(&vfio, name, arena));
    println!("conformance of {name}: passed");
}

fn rate(name: &str, depth: usize, seconds: u64) {
    let arena = Arena::for_devices(8 << 20, 1).unwrap();
    let limit = Duration::from_secs(seconds);
    if name.starts_with('/') {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let opened = KernelDisk::open(&ring, Path::new(name), &KernelOptions::default());
        let wait = || {
            if ring.turn() == 0 {
                ring.wait(None);
            }
        };
        return read_randomly(&mut opened.unwrap(), &arena.pool(0), depth, limit, wait);
    }
    let mut disk = disk(&Vfio::new(Options::default()), name, &arena);
    read_randomly(&mut *disk, &arena.pool(0), depth, limit, || ());
}

/// `advance` is called before each poll.
fn read_randomly(
    disk: &mut dyn Disk,
    pool: &Pool,
    depth: usize,
    limit: Duration,
    mut advance: impl FnMut(),
) {
    const STEP: u64 = 4096;
    let blocks = disk.info().capacity / STEP;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buffers: Vec<_> = (0..depth).map(|_| pool.alloc(STEP as usize).unwrap()).collect();
    let (mut ended, mut done) = (0_u64, Vec::with_capacity(depth));
    let start = Instant::now();
    let mut is_over = false;
    while disk.in_flight() > 0 || !is_over {
        while !is_over && let Some(buf) = buffers.pop() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            disk.submit(0, Op::Read { offset: random % blocks * STEP, buf });
        }
        advance();
        disk.poll(&mut done);
        ended += done.len() as u64;
        for completion in done.drain(..) {
            completion.result.unwrap();
            let Op::Read { buf, .. } = completion.op else { unreachable!() };
            buffers.push(buf);
        }
        is_over = start.elapsed() >= limit;
    }
    println!("rate {:.0}", ended as f64 / start.elapsed().as_secs_f64());
}

fn fill(name: &str, bytes: u64) {
    let arena = Arena::for_devices(8 << 20, 1).unwrap();
    let pool = arena.pool(0);
    let mut disk = disk(&Vfio::new(Options::default()), name, &arena);
    let step = disk.info().transfer_max.min(1 << 20);
    for offset in (0..bytes).step_by(step) {
        let mut buf = pool.alloc(step).unwrap();
        buf.fill(0x5A);
        finish(&mut *disk, Op::Write { offset, data: WriteData::One(buf.freeze()), fua: false });
    }
    finish(&mut *disk, Op::Flush);
}

fn trim(name: &str, bytes: u64) {
    let arena = Arena::for_devices(8 << 20, 1).unwrap();
    let mut disk = disk(&Vfio::new(Options::default()), name, &arena);
    finish(&mut *disk, Op::Deallocate { offset: 0, len: bytes });
}

/// One operation alone, which succeeds.
fn finish(disk: &mut dyn Disk, op: Op) {
    disk.submit(0, op);
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        disk.poll(&mut done);
    }
    done[0].result.unwrap();
}

fn scan(name: &str) {
    const STEP: u64 = 4096;
    let arena = Arena::for_devices(8 << 20, 1).unwrap();
    let pool = arena.pool(0);
    let mut disk = disk(&Vfio::new(Options::default()), name, &arena);
    let end = disk.info().capacity.min(64 << 20);
    let depth = disk.info().queue_depth.min(64);
    let (mut next, mut done) = (0, Vec::with_capacity(depth));
    while next < end || disk.in_flight() > 0 {
        while next < end && disk.in_flight() < depth {
            disk.submit(next, Op::Read { offset: next, buf: pool.alloc(STEP as usize).unwrap() });
            next += STEP;
        }
        disk.poll(&mut done);
        for ended in done.drain(..) {
            match ended.result {
                Ok(()) => {}
                // Of QEMU's drives some only say that they have failed.
                Err(Error::Media | Error::Failed) => println!("bad {}", ended.tag),
                Err(error) => panic!("{error} at {}", ended.tag),
            }
        }
    }
}

fn raw(device: &mut VfioDevice) {
    let registers = device.registers();
    assert_eq!(device.presence(), Presence::Present);
    for round in 0..2 {
        let interrupts = if round == 0 { device.interrupts(1).unwrap() } else { Vec::new() };
        identify(device, &registers, interrupts.into_iter().next());
        device.begin_reset();
        let ended = loop {
            if let Some(ended) = device.poll_reset() {
                break ended;
            }
        };
        match ended {
            Ok(()) => assert_eq!(registers.read32(CC), 0, "reset"),
            Err(ResetError::Unsupported) => println!("no function-level reset"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Enables the controller and has it identify itself, by the interrupt if there is one.
fn identify(device: &VfioDevice, registers: &impl Registers, interrupt: Option<impl Interrupt>) {
    let memory = device.allocate(3 * 4096).unwrap();
    let wait = |what: &str, reached: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !reached() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        }
    };
    registers.write32(CC, 0);
    wait("idle", &|| registers.read32(CSTS) & 1 == 0);
    registers.write32(AQA, 15 << 16 | 15);
    registers.write64(ASQ, memory.address(0));
    registers.write64(ACQ, memory.address(4096));
    registers.write32(CC, 4 << 20 | 6 << 16 | 1);
    wait("ready", &|| registers.read32(CSTS) & 1 == 1);
    let mut command = [0_u64; 8];
    command[0] = 0x06 | 7 << 16;
    command[3] = memory.address(8192);
    command[5] = 1;
    memory.write_words(0, &command);
    let mut interrupt = interrupt;
    if let Some(interrupt) = &mut interrupt {
        interrupt.arm();
    }
    registers.write32(ADMIN_TAIL, 1);
    wait("completion", &|| memory.load32(4096 + 12) >> 16 & 1 == 1);
    assert_eq!(memory.load32(4096 + 12) >> 17, 0, "status");
    registers.write32(ADMIN_HEAD, 1);
    if let Some(interrupt) = &mut interrupt {
        let is_raised = is_raised(interrupt);
        interrupt.disarm();
        assert!(is_raised, "the interrupt came");
        println!("interrupt: yes");
    }
    let mut identity = [0; 72];
    memory.copy_out(8192, &mut identity);
    let text =
        |range: std::ops::Range<usize>| String::from_utf8_lossy(&identity[range]).into_owned();
    println!(
        "{} VS {:#x}: {} {}",
        device.name(),
        registers.read32(VS),
        text(24..64).trim(),
        text(4..24)
    );
    registers.write32(CC, 0);
    wait("idle", &|| registers.read32(CSTS) & 1 == 0);
}

fn is_raised(interrupt: &impl Interrupt) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
    let fd = interrupt.fd();
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&limit)).is_ok_and(|count| count == 1)
}
