//! What goes and comes together, and how it stands.
//!
//! A drive of an adapter that is lost while others of it are served becomes a unit of its own until
//! it is back, or until the adapter leaves.

use super::Wish;
use super::arrival::Arriving;
use crate::core::{DevicePart, Probe};
use crate::disk::ahci::{AhciSeat, Trouble};
use crate::disk::kernel::FileId;
use crate::hardware::Registers;
use crate::node::bus::Bus;
use crate::node::controllers::{Dealt, Lost};
use crate::node::disks::Disks;
use crate::node::{Answer, CommandError, DiskSource, NodeConfig};
use crate::pci::PciAddress;
use crossbeam_channel::{Receiver, Sender};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pauses between two attempts with a unit that is there and cannot be used: the first, and the
/// longest.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A drive that is served for so long after its return is sound.
const STEADY: Duration = Duration::from_secs(60);

/// Why what the operator holds is not served.
pub(super) const HELD: &str = "the operator has taken it offline";

/// A file or block device, a controller with its disks, or one drive of an adapter.
pub(super) struct Unit<R: Registers> {
    /// Numbers of its disks.
    pub(super) disks: Vec<usize>,
    pub(super) device: Option<PciAddress>,
    /// That it is one drive of the device, which others are served from.
    pub(super) drive: Option<Drive<R>>,
    pub(super) state: State<R>,
    /// Disks of a controller that the cores have had from the start and make nothing of, and why.
    pub(super) idle: Vec<(usize, String)>,
    /// What is served, while it is.
    holds: Holds<R>,
    /// How it looked at the last attempt.
    seen: Option<Sight>,
    next: Duration,
    pause: Duration,
    /// An order of the operator that has not been answered.
    pub(super) asked: Option<Order>,
    /// Of an adapter: drives that came back, by their ports, when, and how long to wait for each
    /// should it be lost again at once.
    returned: Vec<(u8, Duration, Duration)>,
}

/// An order for a disk.
pub(super) struct Order {
    pub(super) disk: usize,
    pub(super) wish: Wish,
    pub(super) answer: Sender<Result<Answer, CommandError>>,
}

/// A drive that others of its adapter are served without.
pub(super) struct Drive<R: Registers> {
    port: u8,
    /// What has its adapter look for it, while that is served.
    probe: Option<Probe<R>>,
    /// Its adapter is looking for it.
    is_asked_for: bool,
    /// It has been found, and is to be opened.
    seat: Option<AhciSeat<R>>,
}

/// How a unit stands.
pub(super) enum State<R: Registers> {
    Serving,
    /// Its disks leave the cores. Answered, or nobody is there any more, when nothing is left.
    Leaving(Receiver<()>),
    Away,
    /// As [`State::Away`], until the operator says otherwise.
    Held,
    Arriving(Box<Arriving<R>>),
    /// It is a part of another unit again.
    Merged,
}

impl<R: Registers> PartialEq for State<R> {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// By what the loss of a unit is noticed.
struct Holds<R: Registers> {
    controller: Option<Lost>,
    /// Of an adapter, by their ports.
    drives: Vec<(u8, Lost)>,
    probe: Option<Probe<R>>,
    files: Vec<FileId>,
}

/// What there is to be seen of a unit from outside; an error says what is missing.
pub(super) type Sight = Result<(), String>;

impl<R: Registers> Default for Holds<R> {
    fn default() -> Self {
        let (drives, files) = (Vec::new(), Vec::new());
        Self { controller: None, drives, probe: None, files }
    }
}

impl<R: Registers> Unit<R> {
    pub(super) fn new(disk: usize, device: Option<PciAddress>) -> Self {
        Self {
            disks: vec![disk],
            device,
            drive: None,
            state: State::Away,
            idle: Vec::new(),
            holds: Holds::default(),
            seen: None,
            next: Duration::ZERO,
            pause: PAUSE_MIN,
            asked: None,
            returned: Vec::new(),
        }
    }

    /// Makes a drive of this adapter, which is served or away, a unit of its own that is the same:
    /// disk and port.
    pub(super) fn split(&mut self, disk: usize, port: u8) -> Self {
        let state = if self.state == State::Serving { State::Serving } else { State::Away };
        let probe = self.holds.probe.clone();
        self.disks.retain(|other| *other != disk);
        self.holds.drives.retain(|(other, _)| *other != port);
        let asked = self.asked.take_if(|order| order.disk == disk);
        let drive = Some(Drive { port, probe, is_asked_for: false, seat: None });
        Self { drive, state, asked, ..Self::new(disk, self.device) }
    }

    /// What is left of a drive that is a part of its adapter again.
    pub(super) fn merged() -> Self {
        Self { disks: Vec::new(), state: State::Merged, ..Self::new(0, None) }
    }

    /// What of it the cores have.
    pub(super) fn on_cores(&self) -> Option<DevicePart> {
        let port = self.drive.as_ref().map(|drive| drive.port);
        self.device.map(|device| DevicePart { device, port })
    }

    /// Whether `other` is a drive of this adapter that is a unit of its own.
    pub(super) fn is_parent_of(&self, other: &Self) -> bool {
        self.drive.is_none() && other.drive.is_some() && self.device == other.device
    }

    /// Ports of drives that are lost, while the adapter is not.
    pub(super) fn lost_drives(&self) -> Vec<u8> {
        let lost = self.holds.drives.iter().filter(|(_, lost)| lost.load(Ordering::Relaxed));
        lost.map(|(port, _)| *port).collect()
    }

    /// What has the adapter look for drives.
    pub(super) fn probe(&self) -> Option<&Probe<R>> {
        self.holds.probe.as_ref()
    }

    /// Whether it is the drive on this port.
    pub(super) fn is_on(&self, port: u8) -> bool {
        self.drive.as_ref().is_some_and(|drive| drive.port == port)
    }

    /// Whether a core has had the drive on this port since the adapter was brought up.
    pub(super) fn has_dealt(&self, port: u8) -> bool {
        self.holds.drives.iter().any(|(other, _)| *other == port)
    }

    /// A drive of this adapter is lost: one that came back a moment ago is not looked for at once.
    pub(super) fn loses(&self, part: &mut Self, port: u8, now: Duration) {
        let returned = self.returned.iter().find(|(other, ..)| *other == port);
        if let Some((_, at, pause)) = returned
            && now.saturating_sub(*at) < STEADY
        {
            part.pause = *pause;
        }
    }

    /// A drive of this adapter came back.
    pub(super) fn regains(&mut self, part: &Self, now: Duration) {
        let port = part.drive.as_ref().expect("it is one").port;
        self.returned.retain(|(other, ..)| *other != port);
        self.returned.push((port, now, part.pause));
    }

    /// A drive that was a unit of its own is a part of this one again; with what tells of its loss,
    /// if it is served.
    pub(super) fn merge(&mut self, mut other: Self, lost: Option<(u8, Lost)>) {
        assert!(self.is_parent_of(&other), "a drive goes back to its adapter");
        self.disks.append(&mut other.disks);
        match lost {
            Some(lost) => {
                self.holds.drives.push(lost);
                other.answer(Wish::Online, Ok(Answer::Done));
            }
            None if self.asked.is_none() => self.asked = other.asked.take(),
            None => other.refused("its adapter has another order"),
        }
        assert!(other.asked.is_none_or(|order| order.wish == Wish::Online), "others are held");
    }

    /// It is a drive of an adapter that has been brought up anew.
    pub(super) fn adopt(&mut self, probe: Probe<R>) {
        let drive = self.drive.as_mut().expect("adapters have drives");
        (drive.probe, drive.is_asked_for, drive.seat) = (Some(probe), false, None);
    }

    /// Has its adapter look for the drive, if it is time to.
    pub(super) fn seek(&mut self, now: Duration) {
        let drive = self.drive.as_mut().expect("a drive is sought");
        let is_due = !drive.is_asked_for && now >= self.next;
        if let (true, Some(probe)) = (is_due, &drive.probe) {
            drive.is_asked_for = true;
            probe.ask(drive.port);
        }
    }

    /// Its adapter has looked for it. Should what is there be of no use, it is looked for less
    /// often.
    pub(super) fn is_sighted(&mut self, found: Result<AhciSeat<R>, Trouble>, now: Duration) {
        let drive = self.drive.as_mut().expect("a drive was sought");
        drive.is_asked_for = false;
        if self.state != State::Away {
            return;
        }
        self.pause = match &found {
            Err(Trouble::Empty) => PAUSE_MIN,
            Ok(_) | Err(_) => (self.pause * 2).min(PAUSE_MAX),
        };
        self.next = now + self.pause;
        match found {
            Ok(seat) => drive.seat = Some(seat),
            Err(trouble) => self.refused(&trouble.to_string()),
        }
    }

    /// The drive, if it has been found.
    pub(super) fn take_seat(&mut self) -> Option<AhciSeat<R>> {
        self.drive.as_mut()?.seat.take()
    }

    /// Whether it is not on its way, nor served.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state, State::Away | State::Held)
    }

    /// Some of its disks are served.
    pub(super) fn serve(&mut self, disks: &Disks, dealt: Option<&Dealt<R>>) {
        self.state = State::Serving;
        self.pause = PAUSE_MIN;
        self.seen = None;
        self.holds = Holds {
            controller: dealt.map(|dealt| dealt.lost.clone()),
            drives: dealt.map_or_else(Vec::new, |dealt| dealt.drives.clone()),
            probe: dealt.and_then(|dealt| dealt.probe.clone()),
            files: self.disks.iter().flat_map(|disk| disks.file_ids(*disk)).collect(),
        };
        // Who wants it offline waits for that; what is not served is a part of its own, or told.
        if self.asked.as_ref().is_some_and(|order| disks.is_served(order.disk)) {
            self.answer(Wish::Online, Ok(Answer::Done));
        }
    }

    /// Whether it is on its way somewhere.
    pub(super) fn is_moving(&self) -> bool {
        let is_asked_for = self.drive.as_ref().is_some_and(|drive| drive.is_asked_for);
        let is_sought = self.state == State::Away && is_asked_for;
        let is_between = matches!(self.state, State::Leaving(_) | State::Arriving(_));
        is_between || is_sought || self.asked.is_some()
    }

    pub(super) fn ask(&mut self, order: Order) {
        if self.state == State::Held && order.wish == Wish::Online {
            self.state = State::Away;
        }
        self.seen = None;
        if self.drive.is_some() {
            self.next = Duration::ZERO;
        }
        self.asked = Some(order);
    }

    /// Why what is served has to leave, if it has.
    pub(super) fn leaves(&self) -> Option<String> {
        let is_lost = |lost: &Lost| lost.load(Ordering::Relaxed);
        if self.holds.controller.as_ref().is_some_and(is_lost) {
            return Some("it was lost, and is served again when it is back".to_owned());
        }
        if !self.holds.files.iter().all(FileId::is_there) {
            return Some("its device is gone; it is served again when it is back".to_owned());
        }
        match self.asked.as_ref().map(|order| order.wish) {
            Some(Wish::Offline) => Some(HELD.to_owned()),
            Some(Wish::Online) => Some("it had failed, and is opened anew".to_owned()),
            None => None,
        }
    }

    /// Nothing of it is left on the cores.
    pub(super) fn left(&mut self, now: Duration) {
        self.holds = Holds::default();
        self.next = if self.asked.is_some() { now } else { now + self.pause };
        self.state = State::Away;
        self.is_held();
    }

    /// What there is of it.
    pub(super) fn sight(&self, bus: &impl Bus, config: &NodeConfig) -> Sight {
        let Some(address) = self.device else {
            let missing = |disk: &usize| match &config.disks[*disk].source {
                DiskSource::Path(path) => !path.exists(),
                _ => false,
            };
            let is_missing = self.disks.iter().any(missing);
            return if is_missing { Err("it is not there".to_owned()) } else { Ok(()) };
        };
        bus.look(address)
    }

    /// Whether to try now: it looks other than before, or some time has passed.
    pub(super) fn is_due(&mut self, sight: &Sight, now: Duration) -> bool {
        if self.is_held() {
            return false;
        }
        let is_new = self.seen.as_ref() != Some(sight);
        if !is_new && self.asked.is_none() && (sight.is_err() || now < self.next) {
            return false;
        }
        self.pause = if is_new { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        self.next = now + self.pause;
        self.seen = Some(sight.clone());
        true
    }

    /// It cannot be used for now.
    pub(super) fn refused(&mut self, reason: &str) {
        let error = CommandError::Disk(format!("it cannot be served: {reason}"));
        self.answer(Wish::Online, Err(error));
    }

    /// Whether it is left alone: from now on, if the operator wants that.
    pub(super) fn is_held(&mut self) -> bool {
        if matches!(self.asked, Some(Order { wish: Wish::Offline, .. })) {
            self.state = State::Held;
            // By the time that it is wanted again another may be there.
            if let Some(drive) = &mut self.drive {
                drive.seat = None;
            }
            self.answer(Wish::Offline, Ok(Answer::Done));
        }
        self.state == State::Held
    }

    /// Answers an order of this kind, if there is one.
    fn answer(&mut self, wish: Wish, outcome: Result<Answer, CommandError>) {
        if let Some(order) = self.asked.take_if(|order| order.wish == wish) {
            let _ = order.answer.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::Window;
    use crossbeam_channel::bounded;

    type Unit = super::Unit<Window>;

    const MINUTE: Duration = Duration::from_secs(60);

    fn order(wish: Wish, answer: Sender<Result<Answer, CommandError>>) -> Order {
        Order { disk: 0, wish, answer }
    }

    fn served(drives: usize) -> (Unit, Lost, Vec<Lost>) {
        let mut unit = Unit::new(0, Some("0000:01:00.0".parse().unwrap()));
        let controller = Lost::default();
        let drives: Vec<Lost> = (0..drives).map(|_| Lost::default()).collect();
        unit.state = State::Serving;
        let ports = (0..).zip(drives.iter().cloned()).collect();
        let lost = Some(controller.clone());
        unit.holds = Holds { controller: lost, drives: ports, ..Holds::default() };
        (unit, controller, drives)
    }

    #[test]
    fn a_unit_leaves_when_nothing_of_it_is_driven_any_more() {
        let (unit, controller, _) = served(0);
        assert_eq!(unit.leaves(), None);
        controller.store(true, Ordering::Relaxed);
        assert!(unit.leaves().is_some_and(|why| why.contains("lost")));
        let (unit, _, drives) = served(2);
        drives[0].store(true, Ordering::Relaxed);
        assert_eq!(unit.leaves(), None, "the adapter has another drive");
        assert_eq!(unit.lost_drives(), [0]);
        drives[1].store(true, Ordering::Relaxed);
        assert_eq!(unit.leaves(), None, "each is looked for alone");
        assert_eq!(unit.lost_drives(), [0, 1]);
    }

    #[test]
    fn what_is_missing_is_waited_for_and_what_is_there_is_tried_ever_less() {
        let mut unit = Unit::new(0, None);
        let missing: Sight = Err("it is not there".into());
        assert!(unit.is_due(&missing, Duration::ZERO), "to say so");
        assert!(!unit.is_due(&missing, MINUTE * 60), "once");
        let (mut now, mut tried) = (MINUTE * 60, Vec::new());
        let end = now + MINUTE * 10;
        while now < end {
            if unit.is_due(&Ok(()), now) {
                tried.push(now);
            }
            now += Duration::from_secs(1);
        }
        let pauses: Vec<Duration> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!((tried[0], pauses[0]), (MINUTE * 60, PAUSE_MIN), "at once");
        assert!(pauses.is_sorted() && pauses.iter().all(|pause| *pause <= MINUTE), "{pauses:?}");
        assert_eq!(*pauses.last().unwrap(), MINUTE);
        assert!(unit.is_due(&missing, now) && unit.is_due(&Ok(()), now), "it was put in again");
        assert!(!unit.is_due(&Ok(()), now + Duration::from_secs(1)));
        unit.ask(order(Wish::Online, bounded(1).0));
        assert!(unit.is_due(&Ok(()), now + Duration::from_secs(1)), "the operator wants it now");
    }

    #[test]
    fn orders_are_answered_when_they_have_been_carried_out() {
        let (mut unit, ..) = served(0);
        let (answer, answers) = bounded(1);
        unit.ask(order(Wish::Offline, answer));
        assert!(unit.leaves().is_some() && unit.is_moving());
        unit.state = State::Leaving(bounded(1).1);
        assert!(answers.is_empty());
        unit.left(Duration::ZERO);
        assert!(answers.try_recv().unwrap().is_ok());
        assert!(unit.state == State::Held && !unit.is_due(&Ok(()), MINUTE), "it is left alone");
        let (answer, answers) = bounded(1);
        unit.ask(order(Wish::Online, answer));
        assert!(unit.is_due(&Ok(()), MINUTE));
        unit.refused("it is another disk");
        let Err(CommandError::Disk(text)) = answers.try_recv().unwrap() else { panic!("served") };
        assert!(text.contains("another disk") && unit.state == State::Away, "{text}");
    }
}
