//! Interrupts: none while a core polls, one to end its sleep.

use super::{Rig, TICK, arena, read_op};
use crate::core::Devices;
use crate::disk::Disk;
use crate::disk::nvme::{NvmeOptions, NvmeQueue};
use crate::pci::PciAddress;
use crate::sim::nvme::{EmulatedNvme, EmulatedRegisters, NvmeConfig};
use crate::uring::{Ring, RingOptions};
use std::time::Duration;

/// A queue on a core with a ring.
fn core(rig: &mut Rig, ring: &Ring) -> (Devices, NvmeQueue<EmulatedRegisters>) {
    rig.until("it runs", |rig| rig.controller.is_running());
    let at: PciAddress = "0000:01:00.0".parse().unwrap();
    let mut devices = Devices::default();
    let mut seat = rig.controller.take_seat().unwrap();
    let interrupt = seat.take_interrupt();
    let queue = seat.attach(ring.waker(), rig.time.clone());
    match interrupt {
        Some(interrupt) => {
            devices.add_interrupting(at, Box::new(queue.clone()), Box::new(interrupt), ring);
        }
        None => devices.add_queue(at, Box::new(queue.clone())),
    }
    rig.queues.push(queue.clone());
    (devices, queue)
}

#[test]
fn a_sleeping_core_is_woken_and_a_polling_one_is_left_alone() {
    let (arena, pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 1);
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    let ring = Ring::new(RingOptions::default()).unwrap();
    let (mut devices, queue) = core(&mut rig, &ring);
    let mut disk = rig.disk(0, 0);
    for block in 0..50 {
        rig.write(&mut disk, &pool, block * 4096, 1).unwrap();
        assert!(!devices.must_poll());
    }
    assert!(devices.arm(), "with nothing in flight a core sleeps");
    devices.disarm();
    let mut done = Vec::with_capacity(1);
    for round in 1..=3 {
        disk.submit(round, read_op(&pool, 0, 4096));
        assert!(devices.is_busy());
        assert!(!devices.arm(), "the controller has not been told yet");
        devices.disarm();
        disk.poll(&mut done);
        assert_eq!(nvme.interrupts(), round - 1, "one for each sleep, none while polling");
        assert!(devices.arm());
        let worker = std::thread::spawn({
            let (nvme, now) = (nvme.clone(), rig.time.now());
            move || (1..200).for_each(|tick| nvme.step(now + tick * TICK))
        });
        let woken = ring.wait(Some(Duration::from_secs(60)));
        worker.join().unwrap();
        assert_eq!((woken, nvme.interrupts()), (1, round), "the interrupt ended the sleep");
        devices.disarm();
        rig.pass(200 * TICK);
        devices.poll(rig.time.now(), &mut |_, _, _| {});
        assert_eq!(ring.turn(), 0, "and leaves nothing behind");
        assert!(queue.has_work());
        disk.poll(&mut done);
        assert_eq!(done.drain(..).next().unwrap().result, Ok(()));
    }
    nvme.check();
}

#[test]
fn what_ends_before_the_interrupt_is_armed_keeps_the_core_awake() {
    let (arena, pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 2);
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    let ring = Ring::new(RingOptions::default()).unwrap();
    let (mut devices, queue) = core(&mut rig, &ring);
    let mut disk = rig.disk(0, 0);
    let mut done = Vec::with_capacity(1);
    disk.submit(1, read_op(&pool, 0, 4096));
    disk.poll(&mut done);
    rig.until("it has ended", |_| queue.has_work());
    assert!(!devices.arm());
    assert_eq!(nvme.interrupts(), 0);
    devices.disarm();
    disk.poll(&mut done);
    assert_eq!(done[0].result, Ok(()));
}

#[test]
fn without_vectors_the_core_polls() {
    let (arena, pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig { vectors: 0, ..NvmeConfig::default() }, 3);
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    let ring = Ring::new(RingOptions::default()).unwrap();
    let (devices, _queue) = core(&mut rig, &ring);
    let mut disk = rig.disk(0, 0);
    assert!(!devices.must_poll());
    disk.submit(1, read_op(&pool, 0, 4096));
    assert!(devices.must_poll());
    let mut done = Vec::with_capacity(1);
    rig.until("it ends", |_| {
        disk.poll(&mut done);
        !done.is_empty()
    });
    assert!(!devices.must_poll());
}
