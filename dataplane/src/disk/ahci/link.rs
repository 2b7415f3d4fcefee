//! What an adapter and its ports on other cores say to each other, by atomics alone.
//!
//! Ports are independent of each other but for the reset of the adapter, which is agreed upon:
//!
//! ```text
//!  Running(g) ──▶ Stop(g) ──all answered──▶ (reset) ──▶ Running(g + 1)
//!  any ──▶ Failed | Removed, once the device can write memory no more
//! ```
//!
//! A port touches no register from its answer to `Stop` on. At the next `Running` it takes all its
//! commands back and starts anew.

use crate::uring::Waker;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Phase of the ports. See the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The adapter is about to be reset, or has not been reset yet.
    Stop,
    /// The ports may work.
    Running,
    /// For good: the adapter failed, and no longer reaches memory.
    Failed,
    /// For good: the adapter is gone.
    Removed,
}

/// A phase with its generation, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PhaseWord(u64);

impl PhaseWord {
    /// The adapter has not been reset yet.
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn phase(self) -> Phase {
        match self.0 % 4 {
            0 => Phase::Stop,
            1 => Phase::Running,
            2 => Phase::Failed,
            _ => Phase::Removed,
        }
    }

    fn next(self, phase: Phase) -> Self {
        Self((self.0 / 4 + 1) * 4 + phase as u64)
    }
}

/// What a port wants of its adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plea {
    /// A reset: nothing else helps.
    Reset,
    /// A look whether it is still there.
    Gone,
}

/// The adapter and all its ports.
pub(super) struct Link {
    phase: AtomicU64,
    has_pleas: AtomicBool,
    has_left: AtomicBool,
    seats: Box<[Seat]>,
    left: Mutex<Vec<Left>>,
}

/// What a port that was dropped has left, for the device may still use it.
pub(super) struct Left {
    pub(super) place: usize,
    /// Kept for its drop.
    _content: Box<dyn Send>,
}

/// One port's place.
#[derive(Default)]
struct Seat {
    /// Whether there is a port, somewhere.
    is_there: AtomicBool,
    is_attached: AtomicBool,
    answered: AtomicU64,
    /// 0, or one of the pleas.
    plea: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const PLEA_RESET: u8 = 1;
const PLEA_GONE: u8 = 2;

impl Link {
    pub(super) fn new(places: usize) -> Self {
        Self {
            phase: AtomicU64::new(PhaseWord::FIRST.0),
            has_pleas: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            seats: (0..places).map(|_| Seat::default()).collect(),
            left: Mutex::default(),
        }
    }

    /// The phase now: one load.
    #[inline]
    pub(super) fn word(&self) -> PhaseWord {
        PhaseWord(self.phase.load(Ordering::SeqCst))
    }
}

/// For the adapter.
impl Link {
    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(self.word().next(phase).0, Ordering::SeqCst);
        for seat in &self.seats {
            if let Some(waker) = &*seat.waker.lock().expect("no holder panics") {
                waker.wake();
            }
        }
    }

    /// Whether every port that a core drives has taken the phase over.
    pub(super) fn is_answered(&self) -> bool {
        let word = self.word().0;
        self.seats.iter().all(|seat| {
            !seat.is_attached.load(Ordering::SeqCst) || seat.answered.load(Ordering::SeqCst) == word
        })
    }

    /// Whether no core drives a port, and none has left anything.
    pub(super) fn is_deserted(&self) -> bool {
        // In this order: who leaves is attached until what it leaves is there.
        !self.seats.iter().any(|seat| seat.is_attached.load(Ordering::SeqCst))
            && !self.has_left.load(Ordering::SeqCst)
    }

    /// The gravest plea of any port.
    pub(super) fn take_plea(&self) -> Option<Plea> {
        if !self.has_pleas.load(Ordering::Relaxed) || !self.has_pleas.swap(false, Ordering::SeqCst)
        {
            return None;
        }
        let pleas = self.seats.iter().map(|seat| seat.plea.swap(0, Ordering::SeqCst));
        match pleas.max() {
            Some(PLEA_GONE) => Some(Plea::Gone),
            Some(PLEA_RESET) => Some(Plea::Reset),
            _ => None,
        }
    }

    /// Goes through what dropped ports have left, and frees what is not to be kept.
    pub(super) fn sweep_left(&self, keep: impl FnMut(&mut Left) -> bool) {
        if !self.has_left.load(Ordering::Relaxed) {
            return;
        }
        let mut left = self.left.lock().expect("no holder panics");
        left.retain_mut(keep);
        self.has_left.store(!left.is_empty(), Ordering::Relaxed);
    }

    /// A port is to be made for this place: there is none, nor anything that one has left.
    pub(super) fn occupy(&self, place: usize) -> bool {
        let left = self.left.lock().expect("no holder panics");
        let has_left = left.iter().any(|left| left.place == place);
        !has_left && !self.seats[place].is_there.swap(true, Ordering::SeqCst)
    }
}

/// For a port, of which `place` is the number.
impl Link {
    /// The port is on a core from now on.
    pub(super) fn attach(&self, place: usize, waker: Waker) {
        let seat = &self.seats[place];
        *seat.waker.lock().expect("no holder panics") = Some(waker);
        seat.is_attached.store(true, Ordering::SeqCst);
    }

    /// The port is on no core for now.
    pub(super) fn detach(&self, place: usize) {
        self.seats[place].is_attached.store(false, Ordering::SeqCst);
    }

    /// The port is no more, and leaves what the device may use; nothing if that is over.
    pub(super) fn leave(&self, place: usize, content: Option<Box<dyn Send>>) {
        if let Some(content) = content
            && !matches!(self.word().phase(), Phase::Failed | Phase::Removed)
        {
            self.left.lock().expect("no holder panics").push(Left { place, _content: content });
            self.has_left.store(true, Ordering::Relaxed);
        }
        self.detach(place);
        self.seats[place].is_there.store(false, Ordering::SeqCst);
    }

    pub(super) fn answer(&self, place: usize, word: PhaseWord) {
        self.seats[place].answered.store(word.0, Ordering::SeqCst);
    }

    /// Asks the adapter for something.
    pub(super) fn plead(&self, place: usize, plea: Plea) {
        let number = match plea {
            Plea::Reset => PLEA_RESET,
            Plea::Gone => PLEA_GONE,
        };
        self.seats[place].plea.store(number, Ordering::SeqCst);
        self.has_pleas.store(true, Ordering::SeqCst);
    }
}
