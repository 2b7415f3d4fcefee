//! A unit on its way to the cores.

use super::unit::Unit;
use super::{Hotplug, State};
use crate::core::{Arrival, Clock, Devices, ShardSeat};
use crate::disk::ahci::AhciSeat;
use crate::dma::Pool;
use crate::hardware::{Device, Registers};
use crate::node::admission::{Candidate, Verdict};
use crate::node::bus::{Bus, RegistersOf};
use crate::node::commands::Call;
use crate::node::controllers::{Dealt, Hardware};
use crate::node::disks::{Disks, Mounter, Source, TimedShard, begin_mount};
use crate::pci::PciAddress;
use crate::store::Mounting;
use crate::uring::Ring;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::rc::Rc;

/// What comes when the cores have mounted a unit.
pub(super) struct Arriving<R: Registers> {
    pub(super) answer: Receiver<Vec<Verdict>>,
    disks: Disks,
    dealt: Vec<Dealt<R>>,
    timed: Receiver<TimedShard>,
}

/// What one core gets.
struct Share<D: Device> {
    hardware: Hardware<D>,
    seats: Vec<(ShardSeat, Source)>,
    cache_bytes: usize,
    clock: Clock,
    timed: Sender<TimedShard>,
}

impl<D: Device> Arrival for Share<D> {
    fn begin(
        self: Box<Self>,
        devices: &mut Devices,
        ring: Option<&Ring>,
        pool: &Rc<Pool>,
    ) -> Vec<(ShardSeat, Mounting)> {
        let ring = ring.expect("cores with disks that come have rings");
        let queues = self.hardware.attach(devices, ring);
        let clock = self.clock;
        let mut around = Mounter { ring, pool, queues: &queues, devices, clock, timed: Vec::new() };
        let begun = self.seats.into_iter().map(|(seat, source)| {
            let mounting = begin_mount(&seat, &source, self.cache_bytes, &mut around);
            (seat, mounting)
        });
        let begun = begun.collect();
        // Whoever wants to know of them waits.
        around.timed.into_iter().for_each(|shard| _ = self.timed.send(shard));
        begun
    }
}

impl<B: Bus> Hotplug<B> {
    /// Opens what a unit has, and sends it to the cores; or why each disk cannot be used. `drive`:
    /// one that its adapter has found.
    pub(super) fn open(
        &self,
        unit: usize,
        drive: Option<(PciAddress, AhciSeat<RegistersOf<B>>)>,
    ) -> Result<Arriving<RegistersOf<B>>, Vec<(usize, String)>> {
        let cores = self.config.cores.len();
        let numbers = &self.units[unit].disks;
        let mut opener = self.opener();
        if let Some((address, seat)) = drive {
            opener = opener.with_drive(address, seat);
        }
        let mut disks = Disks::open_late(&self.config, numbers, &mut opener, &self.pool);
        // Those that had cores keep them; others fit in.
        let (old, new): (Vec<usize>, Vec<usize>) =
            numbers.iter().partition(|number| self.known[**number].is_some());
        for number in old.into_iter().chain(new) {
            let settled = disks.settle(number, self.known[number].as_ref(), cores);
            settled.unwrap_or_else(|reason| disks.fail(number, reason));
        }
        let reasons = |disks: &Disks| {
            let of_it = disks.offline().filter(|(number, ..)| numbers.contains(number));
            of_it.map(|(number, _, reason)| (number, reason.to_owned())).collect::<Vec<_>>()
        };
        if !numbers.iter().any(|number| disks.is_served(*number)) {
            return Err(reasons(&disks));
        }
        let dealt = opener.finish().deal(cores, |core, part| disks.uses(core, cores, part));
        let (hardware, dealt) = dealt
            .map_err(|reason| numbers.iter().map(|n| (*n, reason.clone())).collect::<Vec<_>>())?;
        let (timed, timed_end) = unbounded();
        let cache_bytes = self.cache_bytes(&disks);
        let arrivals = hardware.into_iter().enumerate().map(|(core, hardware)| {
            let seats = disks.seats(core, cores);
            let share =
                Share { hardware, seats, cache_bytes, clock: self.clock, timed: timed.clone() };
            Box::new(share) as Box<dyn Arrival>
        });
        let arrivals = arrivals.collect();
        let candidates = numbers.iter().filter(|number| disks.is_served(**number));
        let candidates = candidates.filter_map(|number| {
            let known = disks.known(*number, cores)?;
            let (uuid, mode, shards) = (known.uuid, known.mode, known.homes.len());
            Some(Candidate { disk: *number, uuid, mode, shards })
        });
        let (answer, answers) = crossbeam_channel::bounded(1);
        let disks_of = candidates.collect();
        let _ = self.calls.send(Call::Admit { arrivals, disks: disks_of, answer });
        self.waker.wake();
        disks.ways().for_each(|(path, way)| self.registry.set_way(path, way));
        // The handles that are here must not outlive those of the cores.
        disks.close();
        Ok(Arriving { answer: answers, disks, dealt, timed: timed_end })
    }

    /// The cores have mounted a unit, or some of it.
    pub(super) fn landed(&mut self, unit: usize, verdicts: &[Verdict]) {
        let State::Arriving(arriving) = std::mem::replace(&mut self.units[unit].state, State::Away)
        else {
            unreachable!("it was arriving just now");
        };
        let Arriving { mut disks, dealt, timed, .. } = *arriving;
        let cores = self.config.cores.len();
        let mut failed = Vec::new();
        for Verdict { disk, result } in verdicts {
            match result {
                Ok(()) => self.known[*disk] = disks.known(*disk, cores),
                Err(reason) => {
                    disks.fail(*disk, reason.clone());
                    failed.push((*disk, reason.clone()));
                }
            }
        }
        if failed.len() == verdicts.len() {
            return self.turn_away(unit, failed);
        }
        let timed: Vec<TimedShard> = timed.try_iter().collect();
        for watched in disks.watched(&timed) {
            let _ = self.watch.send(watched);
        }
        let device = self.units[unit].device;
        let dealt = dealt.iter().find(|dealt| Some(dealt.address) == device);
        if self.units[unit].drive.is_some() {
            return self.rejoin(unit, dealt);
        }
        self.units[unit].serve(&disks, dealt);
        if let Some(probe) = dealt.and_then(|dealt| dealt.probe.clone()) {
            let held = self.parts(unit);
            held.into_iter().for_each(|part| self.units[part].adopt(probe.clone()));
        }
        let absent = super::absent(&mut self.units[unit], &disks, &self.config);
        self.units.extend(absent);
        let unserved = |disk: usize| disks.offline().find(|(other, ..)| *other == disk);
        let wanted = self.units[unit].asked.as_ref().and_then(|order| unserved(order.disk));
        if let Some((.., reason)) = wanted {
            self.units[unit].refused(reason);
        }
        failed.retain(|(disk, _)| self.units[unit].disks.contains(disk));
        if !failed.is_empty() {
            // The others of the controller are served: it stays.
            let _ = super::retire(&self.calls, &self.waker, failed, None);
        }
    }

    /// A drive is served again, and a part of its adapter.
    fn rejoin(&mut self, unit: usize, dealt: Option<&Dealt<RegistersOf<B>>>) {
        let adapter = self.adapter_of(unit);
        let lost = dealt.and_then(|dealt| dealt.drives.first().cloned());
        assert!(lost.is_some(), "what is served has been given to a core");
        let drive = std::mem::replace(&mut self.units[unit], Unit::merged());
        self.units[adapter].regains(&drive, self.clock.now());
        self.units[adapter].merge(drive, lost);
    }

    /// Memory for the metadata of each shard: that of all is shared equally.
    fn cache_bytes(&self, disks: &Disks) -> usize {
        let known = self.known.iter().flatten().map(|known| known.homes.len()).sum::<usize>();
        self.config.metadata_cache / known.max(disks.shards()).max(1)
    }
}
