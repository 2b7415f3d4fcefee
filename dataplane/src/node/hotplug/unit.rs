//! What goes and comes together, and how it stands.

use super::Wish;
use super::arrival::Arriving;
use crate::disk::kernel::FileId;
use crate::node::controllers::{Dealt, Lost};
use crate::node::disks::Disks;
use crate::node::{Answer, CommandError, DiskSource, NodeConfig};
use crate::pci::{Machine, PciAddress};
use crossbeam_channel::{Receiver, Sender};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pauses between two attempts with a unit that is there and cannot be used: the first, and the
/// longest.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A file or block device, or a controller with its disks.
pub(super) struct Unit {
    /// Numbers of its disks.
    pub(super) disks: Vec<usize>,
    pub(super) device: Option<PciAddress>,
    pub(super) state: State,
    /// Disks of a controller that the cores have had from the start and make nothing of, and why.
    pub(super) idle: Vec<(usize, String)>,
    /// What is served, while it is.
    holds: Holds,
    /// How it looked at the last attempt.
    seen: Option<Sight>,
    next: Duration,
    pause: Duration,
    /// An order of the operator that has not been answered.
    pub(super) asked: Option<(Wish, Sender<Result<Answer, CommandError>>)>,
}

/// How a unit stands.
pub(super) enum State {
    Serving,
    /// Its disks leave the cores. Answered, or nobody is there any more, when nothing is left.
    Leaving(Receiver<()>),
    Away,
    /// As [`State::Away`], until the operator says otherwise.
    Held,
    Arriving(Box<Arriving>),
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// By what the loss of a unit is noticed.
#[derive(Default)]
struct Holds {
    controller: Option<Lost>,
    drives: Vec<Lost>,
    files: Vec<FileId>,
}

/// What there is to be seen of a unit from outside; an error says what is missing.
pub(super) type Sight = Result<(), String>;

impl Unit {
    pub(super) fn new(disk: usize, device: Option<PciAddress>) -> Self {
        Self {
            disks: vec![disk],
            device,
            state: State::Away,
            idle: Vec::new(),
            holds: Holds::default(),
            seen: None,
            next: Duration::ZERO,
            pause: PAUSE_MIN,
            asked: None,
        }
    }

    /// Some of its disks are served.
    pub(super) fn serve(&mut self, disks: &Disks, dealt: Option<&Dealt>) {
        self.state = State::Serving;
        self.pause = PAUSE_MIN;
        self.seen = None;
        self.holds = Holds {
            controller: dealt.map(|dealt| dealt.lost.clone()),
            drives: dealt.iter().flat_map(|dealt| &dealt.drives).map(|(_, l)| l.clone()).collect(),
            files: self.disks.iter().flat_map(|disk| disks.file_ids(*disk)).collect(),
        };
        // Who wants it offline waits for that.
        self.answer(Wish::Online, Ok(Answer::Done));
    }

    /// Whether it is on its way somewhere.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self.state, State::Leaving(_) | State::Arriving(_)) || self.asked.is_some()
    }

    pub(super) fn ask(&mut self, wish: Wish, answer: Sender<Result<Answer, CommandError>>) {
        if self.state == State::Held && wish == Wish::Online {
            self.state = State::Away;
        }
        self.seen = None;
        self.asked = Some((wish, answer));
    }

    /// Why what is served has to leave, if it has.
    pub(super) fn leaves(&self) -> Option<String> {
        let is_lost = |lost: &Lost| lost.load(Ordering::Relaxed);
        let all_drives = !self.holds.drives.is_empty() && self.holds.drives.iter().all(is_lost);
        if self.holds.controller.as_ref().is_some_and(is_lost) || all_drives {
            return Some("it was lost, and is served again when it is back".to_owned());
        }
        if !self.holds.files.iter().all(FileId::is_there) {
            return Some("its device is gone; it is served again when it is back".to_owned());
        }
        match &self.asked {
            Some((Wish::Offline, _)) => Some("the operator has taken it offline".to_owned()),
            Some((Wish::Online, _)) => Some("it had failed, and is opened anew".to_owned()),
            None => None,
        }
    }

    /// Nothing of it is left on the cores.
    pub(super) fn left(&mut self, now: Duration) {
        self.holds = Holds::default();
        self.next = now + self.pause;
        self.state = State::Away;
        self.hold();
    }

    /// What there is of it.
    pub(super) fn sight(&self, machine: &Machine, config: &NodeConfig) -> Sight {
        let Some(address) = self.device else {
            let missing = |disk: &usize| match &config.disks[*disk].source {
                DiskSource::Path(path) => !path.exists(),
                _ => false,
            };
            let is_missing = self.disks.iter().any(missing);
            return if is_missing { Err("it is not there".to_owned()) } else { Ok(()) };
        };
        let function = machine.function(address).ok_or("it is not plugged in")?;
        match function.driver.as_deref() {
            Some("vfio-pci") => Ok(()),
            _ => Err(format!("it is there, and not bound: run `basalt disk bind {address}`")),
        }
    }

    /// Whether to try now: it looks other than before, or some time has passed.
    pub(super) fn is_due(&mut self, sight: &Sight, now: Duration) -> bool {
        self.hold();
        if self.state == State::Held {
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

    /// Leaves it alone from now on, if the operator wants that.
    fn hold(&mut self) {
        if matches!(self.asked, Some((Wish::Offline, _))) {
            self.state = State::Held;
            self.answer(Wish::Offline, Ok(Answer::Done));
        }
    }

    /// Answers an order of this kind, if there is one.
    fn answer(&mut self, wish: Wish, outcome: Result<Answer, CommandError>) {
        if let Some((_, answer)) = self.asked.take_if(|(asked, _)| *asked == wish) {
            let _ = answer.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    const MINUTE: Duration = Duration::from_secs(60);

    fn served(drives: usize) -> (Unit, Lost, Vec<Lost>) {
        let mut unit = Unit::new(0, Some("0000:01:00.0".parse().unwrap()));
        let controller = Lost::default();
        let drives: Vec<Lost> = (0..drives).map(|_| Lost::default()).collect();
        unit.state = State::Serving;
        let (lost, files) = (Some(controller.clone()), Vec::new());
        unit.holds = Holds { controller: lost, drives: drives.clone(), files };
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
        drives[1].store(true, Ordering::Relaxed);
        assert!(unit.leaves().is_some());
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
        unit.ask(Wish::Online, bounded(1).0);
        assert!(unit.is_due(&Ok(()), now + Duration::from_secs(1)), "the operator wants it now");
    }

    #[test]
    fn orders_are_answered_when_they_have_been_carried_out() {
        let (mut unit, ..) = served(0);
        let (answer, answers) = bounded(1);
        unit.ask(Wish::Offline, answer);
        assert!(unit.leaves().is_some() && unit.is_moving());
        unit.state = State::Leaving(bounded(1).1);
        assert!(answers.is_empty());
        unit.left(Duration::ZERO);
        assert!(answers.try_recv().unwrap().is_ok());
        assert!(unit.state == State::Held && !unit.is_due(&Ok(()), MINUTE), "it is left alone");
        let (answer, answers) = bounded(1);
        unit.ask(Wish::Online, answer);
        assert!(unit.is_due(&Ok(()), MINUTE));
        unit.refused("it is another disk");
        let Err(CommandError::Disk(text)) = answers.try_recv().unwrap() else { panic!("served") };
        assert!(text.contains("another disk") && unit.state == State::Away, "{text}");
    }
}
