//! The shards of a core, each in a slot whose number stays while disks go and come back.
//!
//! ```text
//!            retire                  is idle
//!  serving ─────────▶ leaving ─────────────────▶ empty
//!     ▲                                            │ begin
//!     └─────── ready ◀─────────────── mounting ◀───┘
//!       serve          recovered
//! ```
//!
//! Only a shard that serves is asked anything; what comes for other slots fails at once, so that
//! routes and requests need not know of disks that are gone.

use super::ShardSeat;
use crate::node::{Record, records};
use crate::store::{Completion, Error, Event, Mounting, Shard};
use crate::volume::Piece;
use nvmeof_target::io::Now;

/// All slots of one core.
pub(crate) struct Slots {
    seats: Vec<ShardSeat>,
    serving: Vec<Option<Shard>>,
    /// Shards on their way out or in, by slot.
    moving: Vec<(u16, Moving)>,
    /// Ends of requests for slots that do not serve.
    refused: Vec<Completion>,
    /// The core settles: what still comes up leaves again.
    is_ending: bool,
}

enum Moving {
    /// What is in flight ends.
    Leaving(Box<Shard>),
    Mounting(Mounting),
    /// Recovered; control has not said yet that it serves. Or why it does not.
    Landed(Result<Box<Shard>, String>),
}

/// A shard that has come up, or has not: which, in which slot, and its catalogue.
pub(crate) struct Landed {
    pub(crate) disk: usize,
    pub(crate) shard: usize,
    pub(crate) slot: u16,
    pub(crate) found: Result<Vec<Record>, String>,
}

impl Slots {
    pub(crate) fn new(shards: Vec<(ShardSeat, Shard)>) -> Self {
        let (seats, serving) = shards.into_iter().map(|(seat, shard)| (seat, Some(shard))).unzip();
        Self { seats, serving, moving: Vec::new(), refused: Vec::new(), is_ending: false }
    }

    /// Slots that there are.
    pub(crate) fn len(&self) -> usize {
        self.serving.len()
    }

    /// The shard in a slot, if it serves.
    pub(crate) fn get(&mut self, slot: u16) -> Option<&mut Shard> {
        self.serving[usize::from(slot)].as_mut()
    }

    /// Gives a piece to its shard.
    pub(crate) fn submit(&mut self, slot: u16, piece: Piece) {
        match &mut self.serving[usize::from(slot)] {
            Some(shard) => shard.submit(piece.tag, piece.request),
            None => self.refused.push(Completion { tag: piece.tag, result: Err(Error::Failed) }),
        }
    }

    /// Takes the end of a piece that was refused.
    pub(crate) fn take_refused(&mut self) -> Option<Completion> {
        self.refused.pop()
    }

    /// Requests that shards are working on.
    pub(crate) fn in_flight(&self) -> usize {
        let leaving = self.moving.iter().map(|(_, moving)| match moving {
            Moving::Leaving(shard) => shard.in_flight() + 1,
            Moving::Mounting(_) => 1,
            Moving::Landed(_) => 0,
        });
        let serving = self.serving.iter().flatten().map(Shard::in_flight);
        serving.chain(leaving).sum::<usize>() + self.refused.len()
    }

    /// Whether something is under way that only the next poll of a shard can notice.
    pub(crate) fn must_poll(&self) -> bool {
        let of = |(_, moving): &(u16, Moving)| match moving {
            Moving::Leaving(shard) => shard.must_poll(),
            Moving::Mounting(_) => true,
            Moving::Landed(_) => false,
        };
        self.serving.iter().flatten().any(Shard::must_poll) || self.moving.iter().any(of)
    }

    /// Shards that serve, with their seats.
    pub(crate) fn serving(&mut self) -> impl Iterator<Item = (&ShardSeat, &mut Shard)> {
        let both = self.seats.iter().zip(&mut self.serving);
        both.filter_map(|(seat, shard)| Some((seat, shard.as_mut()?)))
    }

    /// Has the shards of these disks leave: they take no more requests.
    pub(crate) fn retire(&mut self, disks: &[usize]) {
        for (slot, seat) in self.seats.iter().enumerate() {
            if !disks.contains(&seat.disk) {
                continue;
            }
            if let Some(mut shard) = self.serving[slot].take() {
                shard.shutdown();
                self.moving.push((slot as u16, Moving::Leaving(Box::new(shard))));
            }
        }
        for (slot, moving) in &mut self.moving {
            if disks.contains(&self.seats[usize::from(*slot)].disk) {
                let is_mounting = matches!(moving, Moving::Mounting(_));
                assert!(!is_mounting, "a disk that comes has come before it leaves");
                moving.leave();
            }
        }
        self.moving.retain(|(_, moving)| !moving.is_nothing());
    }

    /// Whether nothing of these disks is left here.
    pub(crate) fn has_none_of(&self, disks: &[usize]) -> bool {
        !self.moving.iter().any(|(slot, _)| disks.contains(&self.seats[usize::from(*slot)].disk))
    }

    /// Takes shards that are being mounted: into the slots that they once had, or new ones.
    pub(crate) fn begin(&mut self, mountings: Vec<(ShardSeat, Mounting)>) {
        for (seat, mounting) in mountings {
            let is_it = |of: &ShardSeat| of.disk == seat.disk && of.shard == seat.shard;
            let slot = self.seats.iter().position(is_it).unwrap_or_else(|| {
                self.seats.push(seat);
                self.serving.push(None);
                self.serving.len() - 1
            });
            let is_empty = self.serving[slot].is_none()
                && !self.moving.iter().any(|(of, _)| usize::from(*of) == slot);
            assert!(is_empty, "a disk comes when its former self has left");
            self.moving.push((slot as u16, Moving::Mounting(mounting)));
        }
    }

    /// Whether none is being mounted.
    pub(crate) fn has_landed(&self) -> bool {
        !self.moving.iter().any(|(_, moving)| matches!(moving, Moving::Mounting(_)))
    }

    /// What has come up, and what has not.
    pub(crate) fn landed(&mut self) -> Vec<Landed> {
        let mut landed = Vec::new();
        for (slot, moving) in &self.moving {
            let Moving::Landed(result) = moving else { continue };
            let seat = &self.seats[usize::from(*slot)];
            let found = result.as_ref().map_err(String::clone).and_then(|shard| records(shard));
            landed.push(Landed { disk: seat.disk, shard: seat.shard, slot: *slot, found });
        }
        self.moving.retain(|(_, moving)| !moving.is_nothing());
        landed
    }

    /// Has the shards of a disk serve that have come up.
    pub(crate) fn serve(&mut self, disk: usize) {
        let (seats, serving) = (&self.seats, &mut self.serving);
        for (slot, moving) in std::mem::take(&mut self.moving) {
            match moving {
                Moving::Landed(Ok(shard)) if seats[usize::from(slot)].disk == disk => {
                    serving[usize::from(slot)] = Some(*shard);
                }
                moving => self.moving.push((slot, moving)),
            }
        }
    }

    /// Advances what is on its way. `note` hears of the events of shards that leave.
    pub(crate) fn advance(
        &mut self,
        now: Now,
        done: &mut Vec<Completion>,
        note: &mut dyn FnMut(&ShardSeat, Event),
    ) -> bool {
        let mut worked = false;
        let (seats, is_ending) = (&self.seats, self.is_ending);
        self.moving.retain_mut(|(slot, moving)| match moving {
            Moving::Leaving(shard) => {
                shard.poll(now, done);
                worked |= shard.has_step();
                while let Some(event) = shard.next_event() {
                    note(&seats[usize::from(*slot)], event);
                }
                !shard.is_shut_down()
            }
            Moving::Mounting(mounting) => {
                let Some(mounted) = mounting.poll() else { return true };
                worked = true;
                let landed = mounted.map(Box::new).map_err(|error| error.to_string());
                *moving = Moving::Landed(landed);
                if is_ending {
                    moving.leave();
                }
                !(is_ending && moving.is_nothing())
            }
            Moving::Landed(_) => true,
        });
        worked
    }

    /// Whether anything is on its way out or in.
    pub(crate) fn is_moving(&self) -> bool {
        !self.moving.is_empty()
    }

    /// No more requests come: every shard ends.
    pub(crate) fn shut_down(&mut self) {
        self.is_ending = true;
        self.serving.iter_mut().flatten().for_each(Shard::shutdown);
        self.moving.iter_mut().for_each(|(_, moving)| moving.leave());
        self.moving.retain(|(_, moving)| !moving.is_nothing());
    }

    /// Whether that is done.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.moving.is_empty() && self.serving.iter().flatten().all(Shard::is_shut_down)
    }

    /// Whether a shard that serves has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.serving.iter().flatten().any(Shard::is_failed)
    }
}

impl Moving {
    fn leave(&mut self) {
        if let Self::Landed(landed) = self
            && let Ok(mut shard) = std::mem::replace(landed, Err(String::new()))
        {
            shard.shutdown();
            *self = Self::Leaving(shard);
        }
    }

    /// Whether it is a shard that has not come up.
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Landed(Err(_)))
    }
}
