//! Turns the room that the disks have into events: one when it becomes scarce, one when it ends,
//! one when there is room again. Disks that hover at a limit make no more of them.

use super::Severity;
use nvmeof_target::io::Now;

/// Room in per mille below which a disk is nearly full, and from which on it no longer is.
const NEARLY_FULL: u16 = 100;
const ROOMY: u16 = 150;
/// Room from which on a full disk no longer is.
const NOT_FULL: u16 = 20;
/// How long no write must have been refused, where a disk with room refused some: the file system
/// behind it was full, and nothing else says that it no longer is.
const QUIET: Now = Now::from_secs(30);

/// A disk at one moment.
pub(crate) struct Room {
    pub(crate) path: String,
    /// `None` while it is not served.
    pub(crate) left: Option<RoomLeft>,
}

/// The room on a disk.
pub(crate) struct RoomLeft {
    /// Of the shard that has least: volumes lie on all of them.
    pub(crate) permille: u16,
    /// Writes that were refused for want of room, since the node started.
    pub(crate) refused: u64,
}

/// What has been told of each disk.
#[derive(Default)]
pub(crate) struct SpaceWatch(Vec<Seen>);

#[derive(Clone, Copy, Default)]
struct Seen {
    level: Level,
    refused: u64,
    /// When it last refused a write although it had room.
    refused_at: Option<Now>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Roomy,
    NearlyFull,
    Full,
}

impl SpaceWatch {
    /// Looks at the disks, always in the same order, about once a second. Returns those whose room
    /// has become scarcer than was told, by their place in that order.
    pub(crate) fn see(
        &mut self,
        now: Now,
        rooms: &[Room],
        note: &mut dyn FnMut(Severity, &str, String),
    ) -> Vec<usize> {
        self.0.resize(self.0.len().max(rooms.len()), Seen::default());
        let mut scarce = Vec::new();
        for (number, (seen, room)) in self.0.iter_mut().zip(rooms).enumerate() {
            let Some(left) = &room.left else { continue };
            let before = seen.level;
            seen.look(now, &room.path, left, note);
            if seen.level > before {
                scarce.push(number);
            }
        }
        scarce
    }
}

impl Seen {
    fn look(
        &mut self,
        now: Now,
        path: &str,
        left: &RoomLeft,
        note: &mut dyn FnMut(Severity, &str, String),
    ) {
        if left.refused > self.refused && left.permille > 0 {
            self.refused_at = Some(now);
        }
        self.refused = left.refused;
        let is_behind = self.refused_at.is_some_and(|at| now < at + QUIET);
        if !is_behind {
            self.refused_at = None;
        }
        let free = format!("{}.{} %", left.permille / 10, left.permille % 10);
        let is_full = left.permille == 0 || is_behind;
        match self.level {
            Level::Full if !is_full && left.permille >= NOT_FULL => {
                self.level = if left.permille < ROOMY { Level::NearlyFull } else { Level::Roomy };
                let text = format!("disk {path} has room again: {free} is free");
                note(Severity::Info, "disk.room", text);
            }
            Level::Full => {}
            _ if is_full => {
                self.level = Level::Full;
                let what = if left.permille == 0 {
                    "discard data, delete a volume, or enlarge it (`basalt disk grow`)"
                } else {
                    "there is no room behind it, for example on the file system that its file is on"
                };
                let text = format!(
                    "disk {path} is full: writes to new places fail with Capacity Exceeded, all \
                     else goes on; {what}"
                );
                note(Severity::Error, "disk.full", text);
            }
            Level::Roomy if left.permille < NEARLY_FULL => {
                self.level = Level::NearlyFull;
                note(Severity::Warning, "disk.nearly-full", format!("disk {path}: {free} is free"));
            }
            Level::NearlyFull if left.permille >= ROOMY => {
                self.level = Level::Roomy;
                note(Severity::Info, "disk.room", format!("disk {path}: {free} is free again"));
            }
            Level::Roomy | Level::NearlyFull => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of one disk with this room, refusals and time.
    fn told(watch: &mut SpaceWatch, seconds: u64, permille: u16, refused: u64) -> Vec<String> {
        let mut events = Vec::new();
        let room = Room { path: "d".into(), left: Some(RoomLeft { permille, refused }) };
        let rooms = [Room { path: "gone".into(), left: None }, room];
        let scarce = watch.see(Now::from_secs(seconds), &rooms, &mut |_, kind, text| {
            assert!(text.starts_with("disk d"), "{text}");
            events.push(kind.to_owned());
        });
        let is_scarcer = events.iter().any(|kind| kind != "disk.room");
        assert_eq!(scarce, if is_scarcer { vec![1] } else { vec![] });
        events
    }

    #[test]
    fn each_turn_is_told_once() {
        let mut watch = SpaceWatch::default();
        let mut now = 0;
        let mut at = |permille| {
            now += 1;
            told(&mut watch, now, permille, 0)
        };
        assert!(at(1000).is_empty() && at(100).is_empty());
        assert_eq!(at(99), ["disk.nearly-full"]);
        assert!(at(101).is_empty() && at(98).is_empty() && at(149).is_empty(), "it hovers");
        assert_eq!(at(150), ["disk.room"]);
        assert_eq!(at(0), ["disk.full"], "at once");
        assert!(at(1).is_empty() && at(0).is_empty() && at(19).is_empty(), "a slab or two");
        assert_eq!(at(20), ["disk.room"]);
        assert!(at(99).is_empty(), "that is known");
        assert_eq!(at(0), ["disk.full"]);
        assert_eq!(at(500), ["disk.room"]);
        assert_eq!(at(50), ["disk.nearly-full"]);
    }

    #[test]
    fn no_room_behind_a_disk_is_seen_by_what_it_refuses() {
        let mut watch = SpaceWatch::default();
        assert!(told(&mut watch, 1, 700, 0).is_empty());
        assert_eq!(told(&mut watch, 2, 700, 3), ["disk.full"]);
        assert!(told(&mut watch, 20, 700, 4).is_empty() && told(&mut watch, 49, 700, 4).is_empty());
        assert_eq!(told(&mut watch, 50, 700, 4), ["disk.room"]);
        assert!(told(&mut watch, 51, 700, 4).is_empty());
        // Refusals of a disk without room do not outlast it.
        assert_eq!(told(&mut watch, 60, 0, 9), ["disk.full"]);
        assert_eq!(told(&mut watch, 61, 700, 9), ["disk.room"]);
    }
}
