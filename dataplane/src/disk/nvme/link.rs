//! What a controller and its I/O queues on other cores say to each other, by atomics alone.
//!
//! The controller sets a *phase*; each queue reads it once per poll and answers when it has taken
//! it over:
//!
//! ```text
//!            ┌────────── the controller is disabled, its queues are gone ─────────┐
//!  Running(g) ──▶ Stop(g) ──all answered──▶ (disable) ──▶ Clear(g) ──all answered──┤
//!      ▲                                                                           │
//!      └────────────── Running(g + 1) ◀── (enable, identify, create queues) ◀──────┘
//!  any ──▶ Failed | Removed, once the device can write memory no more
//! ```
//!
//! `Stop`: a queue touches neither registers nor rings from its answer on. `Clear`: it takes all
//! its commands back, to be started again, and empties its rings. So each request is in one place
//! at any time, and ends once.

use crate::uring::Waker;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Phase of the I/O queues. See the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The queues are not there: requests wait.
    Clear,
    /// The queues are there.
    Running,
    /// The queues are about to go.
    Stop,
    /// For good: the device failed, and no longer reaches memory.
    Failed,
    /// For good: the device is gone.
    Removed,
}

/// A phase with its generation, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PhaseWord(u64);

impl PhaseWord {
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn phase(self) -> Phase {
        match self.0 % 8 {
            0 => Phase::Clear,
            1 => Phase::Running,
            2 => Phase::Stop,
            3 => Phase::Failed,
            _ => Phase::Removed,
        }
    }

    /// The word after this one.
    fn next(self, phase: Phase) -> Self {
        let bits = match phase {
            Phase::Clear => 0,
            Phase::Running => 1,
            Phase::Stop => 2,
            Phase::Failed => 3,
            Phase::Removed => 4,
        };
        Self((self.0 / 8 + 1) * 8 + bits)
    }
}

/// What a queue wants of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plea {
    /// Abort a command that takes too long.
    Abort(u16),
    /// Reset the controller: commands do not end, or completions make no sense.
    Reset(Reason),
}

/// Why a queue wants the controller reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Timeout,
    UnknownCommand,
    WrongQueue,
    WrongHead,
}

const PLEA_ABORT: u32 = 1 << 24;
const PLEA_RESET: u32 = 2 << 24;
const REASONS: [Reason; 4] =
    [Reason::Timeout, Reason::UnknownCommand, Reason::WrongQueue, Reason::WrongHead];

/// The controller and all its queues.
pub(super) struct Link {
    phase: AtomicU64,
    /// Whether any queue has a plea.
    has_pleas: AtomicBool,
    seats: Box<[Seat]>,
    /// Of queues that were dropped while the device was there.
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    /// What the device writes until it is disabled: buffers in flight.
    buffers: Vec<Box<dyn Send>>,
    /// What it uses whenever it is enabled: the queues are created again and again.
    rings: Vec<Box<dyn Send>>,
}

/// One queue's place.
#[derive(Default)]
struct Seat {
    driver: AtomicU8,
    /// The last phase word that the queue took over.
    answered: AtomicU64,
    plea: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

/// On no core yet, or no more.
const ABSENT: u8 = 0;
const ATTACHED: u8 = 1;

impl Link {
    pub(super) fn new(queues: usize) -> Self {
        Self {
            phase: AtomicU64::new(PhaseWord::FIRST.0),
            has_pleas: AtomicBool::new(false),
            seats: (0..queues).map(|_| Seat::default()).collect(),
            left: Mutex::default(),
        }
    }

    /// The phase now: one load.
    #[inline]
    pub(super) fn word(&self) -> PhaseWord {
        PhaseWord(self.phase.load(Ordering::SeqCst))
    }
}

/// For the controller.
impl Link {
    pub(super) fn set_phase(&self, phase: Phase) {
        if phase == Phase::Running {
            // What queues asked for before the reset is done with; none of them is up now.
            self.has_pleas.store(false, Ordering::SeqCst);
            self.seats.iter().for_each(|seat| seat.plea.store(0, Ordering::SeqCst));
        }
        self.phase.store(self.word().next(phase).0, Ordering::SeqCst);
        for seat in &self.seats {
            if let Some(waker) = &*seat.waker.lock().expect("no holder panics") {
                waker.wake();
            }
        }
    }

    /// Whether every queue that a core drives has taken the phase over.
    pub(super) fn is_answered(&self) -> bool {
        let word = self.word().0;
        self.seats.iter().all(|seat| {
            seat.driver.load(Ordering::SeqCst) == ABSENT
                || seat.answered.load(Ordering::SeqCst) == word
        })
    }

    /// Frees the buffers of dropped queues: the device can write them no more.
    pub(super) fn free_left(&self) {
        self.left.lock().expect("no holder panics").buffers.clear();
    }

    /// A plea of any queue; `usize` is its place.
    pub(super) fn take_plea(&self) -> Option<(usize, Plea)> {
        if !self.has_pleas.load(Ordering::Relaxed) || !self.has_pleas.swap(false, Ordering::SeqCst)
        {
            return None;
        }
        let taken = self.seats.iter().enumerate().find_map(|(place, seat)| {
            let plea = seat.plea.swap(0, Ordering::SeqCst);
            (plea != 0).then_some((place, plea))
        });
        let (place, plea) = taken?;
        // There may be others.
        self.has_pleas.store(true, Ordering::SeqCst);
        let low = plea as u16;
        let plea = match plea & !0xFFFF {
            PLEA_ABORT => Plea::Abort(low),
            PLEA_RESET => Plea::Reset(REASONS[usize::from(low)]),
            other => unreachable!("no plea {other:#x}"),
        };
        Some((place, plea))
    }
}

/// For a queue, of which `place` is the number.
impl Link {
    /// The queue is on a core from now on. The phase that it then finds is its first.
    pub(super) fn attach(&self, place: usize, waker: Waker) {
        let seat = &self.seats[place];
        *seat.waker.lock().expect("no holder panics") = Some(waker);
        seat.driver.store(ATTACHED, Ordering::SeqCst);
    }

    /// The queue is on no core for now.
    pub(super) fn detach(&self, place: usize) {
        self.seats[place].driver.store(ABSENT, Ordering::SeqCst);
    }

    /// The queue is on no core any more, and leaves what the device uses.
    pub(super) fn leave(&self, place: usize, rings: Box<dyn Send>, buffers: Box<dyn Send>) {
        let is_over = matches!(self.word().phase(), Phase::Failed | Phase::Removed);
        if !is_over {
            let left = &mut *self.left.lock().expect("no holder panics");
            left.rings.push(rings);
            left.buffers.push(buffers);
        }
        self.detach(place);
    }

    pub(super) fn answer(&self, place: usize, word: PhaseWord) {
        self.seats[place].answered.store(word.0, Ordering::SeqCst);
    }

    /// Asks the controller for something; the latest counts.
    pub(super) fn plead(&self, place: usize, plea: Plea) {
        let word = match plea {
            Plea::Abort(command_id) => PLEA_ABORT | u32::from(command_id),
            Plea::Reset(reason) => {
                let number = REASONS.iter().position(|&other| other == reason);
                PLEA_RESET | number.expect("every reason is listed") as u32
            }
        };
        self.seats[place].plea.store(word, Ordering::SeqCst);
        self.has_pleas.store(true, Ordering::SeqCst);
    }
}
