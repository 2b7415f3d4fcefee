//! A node on emulated devices, which work by themselves, and loads on its volumes.

use super::*;
use crate::core::Clock;
use crate::disk::single::Unit;
use crate::dma::Arena;
use crate::hardware::Device;
use crate::node::bus::Bus;
use crate::node::controllers::Opener;
use crate::node::start::start_on;
use crate::pci::{ControllerKind, PciAddress};
use crate::store::{self, FormatOptions};
use nvmeof_target::testing::{Transfer, command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use storage_spec::nvme::command::NvmOpcode;
use storage_spec::nvme::status::Status;

/// Longest wait for what is to come, so that what does not fails the test.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks that a load uses.
const BLOCKS: u64 = 64;

/// The one controller that is plugged in, or was.
pub(in crate::node) trait Plugged: Clone + Send + 'static {
    /// As its driver sees it.
    type Device: Device;

    /// Where.
    const AT: &str;

    /// What it is.
    const KIND: ControllerKind;

    /// Whether it is there.
    fn is_there(&self) -> bool;

    /// Takes it over.
    fn take(&self, arena: &Arena) -> <Self as Plugged>::Device;

    /// Its disk of this number.
    fn unit(number: usize) -> Unit;

    /// Lets its time pass by a clock.
    fn follow(&self, _clock: Clock) {}

    /// Lets it work for a moment.
    fn work(&self, now: Duration);

    /// Panics if its driver did what no driver may do.
    fn check(&self);
}

impl<P: Plugged> Bus for P {
    type Device = <P as Plugged>::Device;

    fn kind(&self, _: PciAddress) -> Option<ControllerKind> {
        self.is_there().then_some(P::KIND)
    }

    fn look(&self, _: PciAddress) -> Result<(), String> {
        self.is_there().then_some(()).ok_or_else(|| "it is not plugged in".to_owned())
    }

    fn open(&self, address: PciAddress, arena: &Arena) -> Result<Self::Device, String> {
        self.look(address).map(|()| self.take(arena))
    }
}

/// A node on the disks of a controller, which works by itself.
pub(super) struct Rig<P: Plugged> {
    pub(super) device: P,
    disks: usize,
    /// There but for a moment.
    bench: Option<Bench>,
    is_over: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl<P: Plugged> Rig<P> {
    /// A node on the disks, newly formatted, with a volume `v<number>` on each.
    pub(super) fn new(device: P, disks: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let worker = std::thread::spawn({
            let (device, is_over, clock) = (device.clone(), is_over.clone(), Clock::start());
            move || {
                device.follow(clock);
                while !is_over.load(Ordering::Relaxed) {
                    device.work(clock.now());
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        let mut rig = Self { device, disks, bench: None, is_over, worker: Some(worker) };
        rig.format();
        rig.start();
        for disk in 0..disks {
            rig.bench().create(&format!("v{disk}"), 16 << 20, &name::<P>(disk));
        }
        rig
    }

    fn format(&self) {
        let arena = Arena::new(4 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let mut opener = Opener::new(self.device.clone(), &arena, Clock::start(), 1);
        for number in 0..self.disks {
            let (_, disk) = opener.open((at::<P>(), true), P::unit(number)).unwrap();
            let options = FormatOptions::new(uuid::Uuid::new_v4(), number as u64 + 1);
            store::format(disk, None, &options, &pool).unwrap();
        }
    }

    /// Starts the node.
    pub(super) fn start(&mut self) {
        let source =
            |number| DiskSource::Device { address: at::<P>(), unit: P::unit(number), fua: true };
        let config = Bench::config((0..self.disks).map(source));
        self.bench = Some(Bench::of(start_on(&config, self.device.clone(), |_| {})));
    }

    /// Ends the node.
    pub(super) fn stop(&mut self) {
        self.bench = None;
    }

    pub(super) fn bench(&self) -> &Bench {
        self.bench.as_ref().expect("it runs")
    }

    /// A load on the volume of a disk.
    pub(super) fn load(&self, disk: usize) -> Load {
        let nsid = match self.bench().node.call(Command::ShowVolume { name: format!("v{disk}") }) {
            Ok(Answer::Volume(volume)) => volume.nsid,
            other => panic!("no volume: {other:?}"),
        };
        Load::start(self.bench().host(), nsid)
    }

    /// How the node says that a disk stands, and why.
    pub(super) fn state(&self, disk: usize) -> (String, String) {
        let Ok(Answer::Disks(disks)) = self.bench().node.call(Command::ListDisks) else {
            panic!("no disks")
        };
        let disk = disks.into_iter().find(|known| known.path == name::<P>(disk)).unwrap();
        (disk.state, disk.reason.unwrap_or_default())
    }

    /// Waits until the disks stand so; those beyond do not matter.
    pub(super) fn until(&self, states: &[&str]) {
        let clock = Clock::start();
        loop {
            let now: Vec<_> = (0..states.len()).map(|disk| self.state(disk)).collect();
            if now.iter().map(|(state, _)| state.as_str()).eq(states.iter().copied()) {
                return;
            }
            assert!(clock.now() < PATIENCE, "{now:?} {:#?}", self.bench().node.events_since(0));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether all disks are served, and go on so: what was done to them a moment ago has been
    /// noticed.
    pub(super) fn is_steady(&self) -> bool {
        let clock = Clock::start();
        while (0..self.disks).all(|disk| self.state(disk).0 == "ok") {
            if clock.now() > Duration::from_secs(3) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Gives an order, which may fail, but not for want of an answer.
    pub(super) fn is_answered(&self, command: fn(String) -> Command, disk: usize) {
        let clock = Clock::start();
        let answer = self.order(command, disk);
        assert!(clock.now() < PATIENCE, "{answer:?}");
    }

    pub(super) fn order(
        &self,
        command: fn(String) -> Command,
        disk: usize,
    ) -> Result<Answer, CommandError> {
        self.bench().node.call(command(name::<P>(disk)))
    }
}

impl<P: Plugged> Drop for Rig<P> {
    fn drop(&mut self) {
        self.bench = None;
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.worker.take().expect("there until now").join();
        if !std::thread::panicking() {
            ended.unwrap();
            self.device.check();
        }
    }
}

fn at<P: Plugged>() -> PciAddress {
    P::AT.parse().unwrap()
}

/// A disk as the node calls it.
fn name<P: Plugged>(number: usize) -> String {
    let number = match P::unit(number) {
        Unit::Port(port) => port.into(),
        Unit::Namespace(id) => id,
    };
    format!("pci:{}/{number}", P::AT)
}

pub(super) fn online(disk: String) -> Command {
    Command::OnlineDisk { disk }
}

pub(super) fn offline(disk: String) -> Command {
    Command::OfflineDisk { disk }
}

/// A host that writes numbers and reads them back, and knows what each block may hold.
pub(super) struct Load {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    /// How many commands failed.
    host: JoinHandle<u64>,
}

impl Load {
    pub(super) fn start((mut admin, mut queue): (Queue, Queue), nsid: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        // Values that a block may hold, in order: the first is acknowledged, or was seen.
        let mut held: Vec<Vec<u64>> = (0..BLOCKS)
            .map(|block| vec![read(&mut queue, nsid, block).expect("it is served")])
            .collect();
        let host = std::thread::spawn({
            let (is_over, done) = (is_over.clone(), done.clone());
            move || {
                let (mut number, mut failed) = (held.iter().flatten().max().copied().unwrap(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    number += 1;
                    let block = number * 7 % BLOCKS;
                    let of_block = &mut held[block as usize];
                    of_block.push(number);
                    match write(&mut queue, nsid, block, number) {
                        Status::SUCCESS => *of_block = vec![number],
                        _ => failed += 1,
                    }
                    let block = number * 5 % BLOCKS;
                    match read(&mut queue, nsid, block) {
                        Ok(value) => {
                            // What is older has gone for good; what failed may still come.
                            let of_block = &mut held[block as usize];
                            let at = of_block.iter().position(|known| *known == value);
                            let at = at.unwrap_or_else(|| panic!("{block}: {of_block:?} {value}"));
                            of_block.drain(..at);
                        }
                        Err(_) => failed += 1,
                    }
                    if number % 64 == 0 {
                        admin.keep_alive();
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                // What is there in the end.
                for (block, of_block) in (0..).zip(&held) {
                    let value = read(&mut queue, nsid, block).expect("it is served");
                    assert!(of_block.contains(&value), "block {block}: {of_block:?} {value}");
                }
                failed
            }
        });
        Self { is_over, done, host }
    }

    /// Waits until so many more rounds are done.
    pub(super) fn go_on(&self, rounds: u64) {
        let (clock, start) = (Clock::start(), self.done.load(Ordering::Relaxed));
        while self.done.load(Ordering::Relaxed) < start + rounds {
            assert!(!self.host.is_finished(), "it found something");
            assert!(clock.now() < PATIENCE, "it stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it, once all that it wrote has been read; how many commands had failed.
    pub(super) fn finish(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.host.join().unwrap()
    }
}

fn write(queue: &mut Queue, nsid: u32, block: u64, value: u64) -> Status {
    queue.write(nsid, block, value.to_le_bytes().repeat(512))
}

fn read(queue: &mut Queue, nsid: u32, block: u64) -> Result<u64, Status> {
    let read = queue.execute(command(NvmOpcode::Read, nsid, block, 1), Transfer::Read(4096));
    if read.status != Status::SUCCESS {
        return Err(read.status);
    }
    let mut values =
        read.data.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let value = values.next().unwrap();
    assert!(values.all(|other| other == value), "a block of two writes");
    Ok(value)
}
