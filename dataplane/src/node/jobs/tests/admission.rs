//! Disks that leave and come back, as control sees it.

use super::*;
use crate::core::{Arrival, Devices, ShardSeat};
use crate::dma::Pool;
use crate::node::admission::{Candidate, Verdict};
use crate::pci::PciAddress;
use crate::store::Mounting;
use crate::uring::Ring;
use std::rc::Rc;

/// What these cores, which are none, get.
struct Nothing;

impl Arrival for Nothing {
    fn begin(
        self: Box<Self>,
        _: &mut Devices,
        _: Option<&Ring>,
        _: &Rc<Pool>,
    ) -> Vec<(ShardSeat, Mounting)> {
        unreachable!("no core takes it")
    }
}

impl Bench {
    pub(super) fn land(&mut self, token: u64) -> Message {
        let core = CORES - self.landing.len() as u16;
        Message::Landed { token, core, shards: self.landing.remove(0) }
    }

    fn retire(&mut self, disk: usize) {
        self.fail(disk);
        let (answer, answers) = unbounded();
        let disks = vec![(disk, "pulled".to_owned())];
        let device: PciAddress = "0000:01:00.0".parse().unwrap();
        self.control.start(Call::Retire { disks, part: Some(device.into()), answer });
        self.run();
        answers.try_recv().expect("it has left");
    }

    /// Disk 0 comes back with what its catalogue has, in the slots that it had.
    fn admit(&mut self, second: Result<(), String>) -> Vec<Verdict> {
        let landed = |shard, found| vec![Landed { disk: 0, shard, slot: 0, found }];
        let decode = |(key, value): (&Vec<u8>, &Vec<u8>)| Record::decode(key, value).unwrap();
        let records = self.catalogues[0].iter().map(decode).collect();
        self.landing = vec![landed(0, Ok(records)), landed(1, second.map(|()| Vec::new()))];
        let (answer, answers) = unbounded();
        let uuid = Uuid::from_u128(1);
        let disks = vec![Candidate { disk: 0, uuid, mode: "intent", shards: 2 }];
        let arrivals: Vec<Box<dyn Arrival>> = vec![Box::new(Nothing), Box::new(Nothing)];
        self.control.start(Call::Admit { arrivals, disks, answer });
        self.run();
        answers.try_recv().expect("verdicts")
    }

    fn record(&self, name: &str) -> (Vec<u8>, VolumeRecord) {
        let record = self.control.jobs.volumes[name].record.clone();
        (record.key(), record)
    }
}

#[test]
fn a_disk_that_returns_goes_on_with_what_has_not_changed() {
    let mut bench = Bench::new();
    for (name, uuid) in [("same", 1), ("grown", 2), ("gone", 3), ("other", 4)] {
        bench.call(create(name, uuid << 64 | uuid)).unwrap();
    }
    bench.call(create_on("elsewhere", 9, 1)).unwrap();
    let same = bench.control.jobs.volumes["same"].index;
    bench.retire(0);
    let Err(CommandError::Disk(text)) =
        bench.call(Command::ResizeVolume { name: "same".into(), size: 2 * SIZE })
    else {
        panic!("changed")
    };
    assert!(text.contains("pulled"), "{text}");
    assert!(bench.has_event("disk.offline", "pulled") && bench.seen("same"));

    // Another node has had it meanwhile.
    let (key, record) = bench.record("grown");
    let grown = VolumeRecord { size: 4 * SIZE, ..record };
    bench.catalogues[0].insert(key, grown.encode());
    let (key, _) = bench.record("gone");
    bench.catalogues[0].remove(&key);
    let (key, record) = bench.record("other");
    let other = VolumeRecord { name: "renamed".into(), is_protected: true, ..record.clone() };
    bench.catalogues[0].insert(key, other.encode());
    let new = VolumeRecord { name: "new".into(), uuid: Uuid::from_u128(77), ..record };
    bench.catalogues[0].insert(new.key(), new.encode());

    let verdicts = bench.admit(Ok(()));
    assert!(verdicts[0].result.is_ok());
    assert_eq!(bench.names(), ["elsewhere", "grown", "new", "renamed", "same"]);
    assert_eq!(bench.control.jobs.volumes["same"].index, same, "hosts go on with it");
    assert_eq!(bench.record("grown").1.size, 4 * SIZE);
    assert!(bench.record("renamed").1.is_protected);
    for name in ["elsewhere", "new", "renamed", "same"] {
        assert!(bench.seen(name), "{name}");
    }
    assert!(bench.has_event("disk.returned", "disk-0"));
    assert!(
        bench.has_event("volume.changed", "gone") && bench.has_event("volume.changed", "other")
    );
    bench.call(Command::ResizeVolume { name: "same".into(), size: 2 * SIZE }).unwrap();
}

#[test]
fn a_disk_with_a_shard_that_does_not_come_up_stays_away() {
    let mut bench = Bench::new();
    bench.call(create("v", 1)).unwrap();
    bench.retire(0);
    let verdicts = bench.admit(Err("its checkpoint is lost".into()));
    assert_eq!(verdicts[0].result, Err("its checkpoint is lost".to_owned()));
    assert!(!bench.has_event("disk.returned", "disk-0"));
    assert!(bench.call(Command::DeleteVolume { name: "v".into() }).is_err());
    assert!(bench.admit(Ok(()))[0].result.is_ok());
    bench.call(Command::DeleteVolume { name: "v".into() }).unwrap();
}

#[test]
fn who_was_denied_meanwhile_is_taken_off_the_list() {
    let mut bench = Bench::new();
    let [denied, kept] = ["nqn.2026-11.io.basalt:denied", "nqn.2026-11.io.basalt:kept"];
    for nqn in [denied, kept] {
        bench.call(Command::AllowHost { nqn: nqn.into() }).unwrap();
    }
    bench.retire(0);
    let _ = bench.call(Command::DenyHost { nqn: denied.into() });
    assert!(!bench.admits(denied));
    assert_eq!(bench.catalogues[0].len(), 2, "it could not take note");
    bench.admit(Ok(()));
    assert!(!bench.admits(denied) && bench.admits(kept));
    assert_eq!(bench.catalogues[0].len(), 1);
    // The list is kept by the other disk alone while this one is away.
    bench.retire(0);
    bench.fail(1);
    bench.control.disks[1].offline = Some("pulled, too".into());
    let alone = bench.call(Command::AllowHost { nqn: denied.into() });
    assert!(matches!(alone, Err(CommandError::Disk(_))), "{alone:?}");
}

#[test]
fn a_node_that_stops_takes_no_disk() {
    let mut bench = Bench::new();
    let (answer, _answers) = unbounded();
    bench.control.start(Call::Shutdown(answer));
    let (answer, answers) = unbounded();
    bench.control.start(Call::Admit { arrivals: Vec::new(), disks: Vec::new(), answer });
    assert!(answers.try_recv().is_err_and(|error| error.is_disconnected()));
}
