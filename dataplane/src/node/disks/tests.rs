use super::*;
use crate::disk::nvme::NvmeController;
use crate::disk::{Op, WriteData};
use crate::dma::Arena;
use crate::hardware::CoreTime;
use crate::node::PortalConfig;
use crate::node::bus::PciBus;
use crate::sim::nvme::{EmulatedDevice, EmulatedNamespace, EmulatedNvme, NvmeConfig};
use crate::uring::Waker;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

fn config(shards: &[u32]) -> NodeConfig {
    let source = |&shards: &u32| DiskSource::Ram { size: 64 << 20, shards };
    let disk = |shards| DiskConfig {
        source: source(shards),
        journal: None,
        zero_on_free: false,
        passthrough: false,
    };
    NodeConfig {
        name: "test".into(),
        nqn: "nqn.2026-11.io.basalt:test".into(),
        iqn: "iqn.2026-11.io.basalt:test".into(),
        cores: vec![0, 1],
        poll: false,
        no_iommu: false,
        buffers_per_core: 0,
        metadata_cache: 0,
        disks: shards.iter().map(disk).collect(),
        portals: Vec::<PortalConfig>::new(),
        max_connections: 8,
    }
}

/// Disks as they are with other media.
fn with_places(shards: &[u32], places: &[Place]) -> Disks {
    let mut disks = open(&config(&vec![1; shards.len()]));
    for ((disk, place), shards) in disks.0.iter_mut().zip(places).zip(shards) {
        let opened = disk.opened.as_mut().unwrap();
        (opened.media, opened.shards) = (Media::Device(place.clone()), *shards as usize);
    }
    disks
}

/// An emulated controller with two namespaces and so many queues, looked at by a node of four
/// cores.
fn emulated(
    queues: u16,
    arena: &Arena,
) -> (EmulatedNvme, Vec<Place>, NvmeController<EmulatedDevice>) {
    let namespaces = (1..=2).map(|id| EmulatedNamespace::new(id, 4096)).collect();
    let nvme = EmulatedNvme::new(NvmeConfig { queues, namespaces, ..NvmeConfig::default() }, 3);
    let clock = Cell::new(Duration::ZERO);
    let now = || {
        clock.set(clock.get() + Duration::from_millis(1));
        nvme.step(clock.get());
        clock.get()
    };
    let (places, controller) = Place::found(nvme.open(arena), (0, &[1, 2], 4), &now);
    (nvme.clone(), places, controller)
}

fn open(config: &NodeConfig) -> Disks {
    let arena = Arena::new(4 << 20, 1).unwrap();
    let pool = Rc::new(arena.pool(0));
    let mut opener = Opener::new(PciBus::new(false), &arena, Clock::start(), 2);
    Disks::open(config, &mut opener, &pool).ok().unwrap()
}

#[test]
fn shards_that_remain_close_up_as_their_cores_do() {
    let mut disks = open(&config(&[1, 3, 2]));
    disks.fail(1, "gone".into());
    let states = disks.states(2);
    assert!(states[1].shards.is_empty() && states[1].offline.is_some());
    let mut seen = 0;
    for core in 0..2 {
        let kept = disks.seats(core, 2).into_iter().filter(|(seat, _)| disks.is_served(seat.disk));
        for (position, (seat, _)) in kept.enumerate() {
            let address = ShardAddress { core: core as u16, shard: position as u16 };
            assert_eq!(states[seat.disk].shards[seat.shard], address);
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn shards_of_a_drive_with_one_queue_share_a_core() {
    let mut disks = open(&config(&[1, 3, 2]));
    for (disk, port) in [(1, 5), (2, 0)] {
        let opened = disks.0[disk].opened.as_mut().unwrap();
        opened.media = Media::Device(Place::on_port(7, port));
    }
    let cores: Vec<usize> = disks.placed(2).map(|(_, _, core)| core).collect();
    assert_eq!(cores, [0, 1, 1, 1, 0, 0]);
    assert!(disks.uses(1, 2, (7, Some(5))) && !disks.uses(0, 2, (7, Some(5))));
    assert!(disks.uses(0, 2, (7, Some(0))) && !disks.uses(1, 2, (7, Some(0))));
    assert!(!disks.uses(0, 2, (6, Some(0))));
    let states = disks.states(2);
    let places = |disk: usize| states[disk].shards.iter().map(|at| (at.core, at.shard));
    assert!(places(1).eq([(1, 0), (1, 1), (1, 2)]));
    assert!(places(2).eq([(0, 1), (0, 2)]));
}

#[test]
fn each_disk_is_zeroed_or_not() {
    let mut config = config(&[2, 1]);
    config.disks[1].zero_on_free = true;
    let disks = open(&config);
    let seats: Vec<_> = (0..2).flat_map(|core| disks.seats(core, 2)).collect();
    assert_eq!(seats.len(), 3);
    assert!(seats.iter().all(|(seat, source)| source.zero_on_free == (seat.disk == 1)));
}

#[test]
fn a_node_without_any_disk_is_told_of_each() {
    let mut disks = open(&config(&[1, 1]));
    disks.fail(0, "unplugged".into());
    assert!(disks.check_any_served().is_ok());
    disks.fail(1, "truncated".into());
    disks.fail(1, "another shard's reason".into());
    let error = disks.check_any_served().unwrap_err().to_string();
    assert!(error.contains("unplugged") && error.contains("truncated"), "{error}");
}

/// Places of shards as (disk, core).
fn homes(disks: &Disks, cores: usize) -> Vec<(usize, usize)> {
    disks.placed(cores).map(|(disk, _, core)| (disk, core)).collect()
}

#[test]
fn shards_are_on_cores_that_have_a_queue_of_their_controller() {
    let expected: [(u16, &[usize]); 4] = [(1, &[2]), (2, &[2, 3]), (3, &[2, 3, 0]), (9, &[])];
    for (queues, cores) in expected {
        let arena = Arena::new(4 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let (nvme, places, mut controller) = emulated(queues, &arena);
        assert_eq!(controller.seats(), usize::from(queues).min(4), "all are the cores'");
        // A disk in memory with 2 shards, then namespaces with 3 and 6, and another in memory.
        let kinds = [&places[0], &places[0], &places[1], &places[0]].map(Clone::clone);
        let mut disks = with_places(&[2, 3, 6, 1], &kinds);
        for number in [0, 3] {
            disks.0[number].opened.as_mut().unwrap().media = Media::Ram(Arc::default());
        }
        let all = homes(&disks, 4);
        let of = |disk: usize| all.iter().filter(move |at| at.0 == disk).map(|at| at.1);
        assert!(of(0).eq([0, 1]));
        if cores.is_empty() {
            assert!(of(1).chain(of(2)).eq([2, 3, 0, 1, 2, 3, 0, 1, 2]));
        } else {
            assert!(of(1).chain(of(2)).eq(cores.iter().copied().cycle().take(9)), "{queues}");
        }
        let used: BTreeSet<usize> = of(1).chain(of(2)).collect();
        assert!((0..4).all(|core| disks.uses(core, 4, (0, None)) == used.contains(&core)));
        // Each of these cores gets a queue, and works with both namespaces by it.
        let time = CoreTime::default();
        let mut now = Duration::from_secs(10);
        for &core in &used {
            let seat = controller.take_seat().expect("a queue for each core");
            let queue = seat.attach(Waker::unneeded(), time.clone());
            for place in &places {
                let mut disk = place.on(&queue);
                let mut data = pool.alloc(4096).unwrap();
                data.fill(core as u8 + 1);
                let data = WriteData::One(data.freeze());
                disk.submit(1, Op::Write { offset: core as u64 * 4096, data, fua: false });
                let mut done = Vec::with_capacity(1);
                for _ in 0..100_000 {
                    now += Duration::from_micros(100);
                    time.set(now);
                    nvme.step(now);
                    controller.poll(now);
                    disk.poll(&mut done);
                    if !done.is_empty() {
                        break;
                    }
                }
                assert_eq!(done[0].result, Ok(()));
            }
        }
        nvme.check();
    }
}

#[test]
fn a_disk_that_comes_late_shares_the_queues_of_its_controller() {
    let arena = Arena::new(4 << 20, 1).unwrap();
    let (_nvme, places, _controller) = emulated(2, &arena);
    let mut disks = with_places(&[3, 4], &places);
    let uuid = disks.0[0].opened.as_ref().unwrap().uuid;
    let known = Known { uuid, mode: "intent", homes: vec![3, 1, 3] };
    disks.settle(0, Some(&known), 4).unwrap();
    disks.settle(1, None, 4).unwrap();
    let all = homes(&disks, 4);
    assert_eq!(all, [(0, 3), (0, 1), (0, 3), (1, 3), (1, 1), (1, 3), (1, 1)]);
    // One that had a single shard leaves a queue for another core.
    let mut disks = with_places(&[1, 4], &places);
    let uuid = disks.0[0].opened.as_ref().unwrap().uuid;
    disks.settle(0, Some(&Known { uuid, mode: "intent", homes: vec![3] }), 4).unwrap();
    disks.settle(1, None, 4).unwrap();
    assert_eq!(homes(&disks, 4), [(0, 3), (1, 3), (1, 1), (1, 3), (1, 1)]);
    // With queues for all it is where it would be alone.
    let (_nvme, places, _controller) = emulated(4, &arena);
    let mut disks = with_places(&[1, 4], &places);
    disks.settle(1, None, 4).unwrap();
    assert_eq!(homes(&disks, 4)[1..], [(1, 1), (1, 2), (1, 3), (1, 0)]);
}
