//! The operator: makes, deletes, resizes and renames volumes while hosts work.

use super::{HEALING_STEPS, Work, World};
use crate::node::{Answer, Call, Command, CommandError};
use crate::sim::Random;
use crate::sim::model::{BLOCK, Volume};
use crate::store::CHUNK;
use crossbeam_channel::{Receiver, unbounded};
use nvmeof_target::io::Now;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Most volumes at a time.
const VOLUMES_MAX: usize = 4;
/// The operator does something in one of so many steps.
const CHANGE_ODDS: u64 = 150;

/// How long after a start the node may say that a volume is busy.
const LOADING: Now = Now::from_millis(20);

type Answers = Receiver<Result<Answer, CommandError>>;

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    Create(u32),
    Delete(u32),
    Resize(u32, u64),
    Rename(u32, String),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// Of volumes that are there.
    pub(super) names: BTreeMap<u32, String>,
    next_serial: u32,
    pending: Option<(Order, Answers)>,
}

impl Operator {
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    pub(super) fn is_resizing(&self, serial: u32) -> bool {
        matches!(self.pending, Some((Order::Resize(other, _), _)) if other == serial)
    }

    pub(super) fn is_renaming(&self, serial: u32) -> bool {
        matches!(self.pending, Some((Order::Rename(other, _), _)) if other == serial)
    }

    /// The volume that is being made.
    pub(super) fn creating(&self) -> Option<u32> {
        match self.pending {
            Some((Order::Create(serial), _)) => Some(serial),
            _ => None,
        }
    }

    /// The node was restarted, and its disks hold these.
    pub(super) fn restart(&mut self, names: BTreeMap<u32, String>) {
        self.names = names;
        self.pending = None;
    }
}

/// The name of a volume that is there, or is being made.
pub(super) fn name_of(names: &BTreeMap<u32, String>, serial: u32) -> String {
    names.get(&serial).cloned().unwrap_or_else(|| format!("volume-{serial}"))
}

impl World<'_> {
    /// Makes a volume and waits for it.
    pub(super) fn create_first(&mut self) {
        let (serial, command) = self.draw_volume();
        self.command(command);
        self.operator.names.insert(serial, format!("volume-{serial}"));
    }

    /// Takes an answer, or begins something new.
    pub(super) fn operate(&mut self, may_begin: bool) {
        if let Some((order, answers)) = &self.operator.pending {
            if let Ok(answer) = answers.try_recv() {
                let order = order.clone();
                self.operator.pending = None;
                self.answered(&order, answer);
            }
        } else if may_begin && self.plan.changes && self.random.below(CHANGE_ODDS) == 0 {
            self.begin_change();
        }
    }

    /// Carries out a management command that must succeed.
    pub(super) fn command(&mut self, command: Command) -> Answer {
        let answers = self.send(command);
        for _ in 0..HEALING_STEPS {
            self.step(Work::None);
            if let Ok(answer) = answers.try_recv() {
                return answer.expect("a command that must succeed");
            }
        }
        panic!("a management command is not answered");
    }

    fn send(&mut self, command: Command) -> Answers {
        let (answer, answers) = unbounded();
        let node = self.node.as_ref().expect("running");
        node.calls.send(Call::Command(command, answer)).expect("control listens");
        answers
    }

    fn begin_change(&mut self) {
        let serials: Vec<u32> = self.operator.names.keys().copied().collect();
        let draw = self.random.below(10);
        if draw < 4 || serials.is_empty() {
            return self.begin_create();
        }
        let serial = serials[self.random.below(serials.len() as u64) as usize];
        let name = name_of(&self.operator.names, serial);
        let (order, command) = match draw {
            4..7 if serials.len() > 1 => {
                let now = self.now;
                self.volume(serial).deleting = Some(now);
                (Order::Delete(serial), Command::DeleteVolume { name })
            }
            7..9 => {
                let size = self.volume(serial).bytes + size_step(&mut self.random);
                (Order::Resize(serial, size), Command::ResizeVolume { name, size })
            }
            _ => {
                // New also where a crash hid the end of the last renaming.
                let to = format!("renamed-{serial}-{}-{}", self.starts, self.report.changes);
                (Order::Rename(serial, to.clone()), Command::RenameVolume { name, to })
            }
        };
        let answers = self.send(command);
        self.operator.pending = Some((order, answers));
    }

    /// A namespace id may be used again: no host may still take it for the volume of before.
    fn begin_create(&mut self) {
        let mut gone = self.model.volumes.values().filter(|volume| volume.deleting.is_some());
        let is_known = |volume: &Volume| {
            volume.limbo_until > self.now || self.hosts.iter().any(|host| host.knows(volume.serial))
        };
        if gone.any(is_known) || self.operator.names.len() >= VOLUMES_MAX {
            return;
        }
        let (serial, command) = self.draw_volume();
        let answers = self.send(command);
        self.operator.pending = Some((Order::Create(serial), answers));
    }

    fn draw_volume(&mut self) -> (u32, Command) {
        self.operator.next_serial += 1;
        let serial = self.operator.next_serial;
        let bytes = (4 << 20) + size_step(&mut self.random);
        let shift = if self.random.chance(50) { 9 } else { 12 };
        let disk = self.random.below(self.media.len() as u64) as usize;
        self.model.volumes.insert(serial, Volume::new(serial, disk, bytes, shift));
        let command = Command::CreateVolume {
            name: format!("volume-{serial}"),
            size: bytes,
            block_size: 1 << shift,
            uuid: Uuid::from_u64_pair(self.random.next_u64() | 1, u64::from(serial)),
            disk: Some(format!("disk-{disk}")),
        };
        (serial, command)
    }

    fn answered(&mut self, order: &Order, answer: Result<Answer, CommandError>) {
        self.report.changes += 1;
        let now = self.now;
        let (Order::Create(serial)
        | Order::Delete(serial)
        | Order::Resize(serial, _)
        | Order::Rename(serial, _)) = *order;
        let disk = self.volume(serial).disk;
        if let Err(error) = answer {
            if matches!(error, CommandError::Unavailable(_)) && now < self.booted_at + LOADING {
                // Volumes of before are still on their way to the cores: nothing was done.
                if let Order::Delete(_) = order {
                    self.volume(serial).deleting = None;
                }
                return;
            }
            let is_failing = self.model.failing.contains(&disk);
            assert!(is_failing, "{order:?} failed: {error}");
            // What it left behind is seen after the restart.
            if let Order::Create(_) = order {
                self.volume(serial).deleting = Some(now);
            }
            return;
        }
        match order {
            Order::Create(_) => {
                self.operator.names.insert(serial, format!("volume-{serial}"));
            }
            Order::Delete(_) => {
                self.operator.names.remove(&serial);
                self.volume(serial).deleted = Some(now);
                self.model.free_volume(serial);
            }
            Order::Resize(_, bytes) => self.volume(serial).resize(*bytes),
            Order::Rename(_, to) => {
                self.operator.names.insert(serial, to.clone());
            }
        }
    }

    fn volume(&mut self, serial: u32) -> &mut Volume {
        self.model.volumes.get_mut(&serial).expect("volumes stay")
    }
}

/// So much is added to a volume: a little, or chunks.
fn size_step(random: &mut Random) -> u64 {
    let chunks = [0, 0, 1, 2, 3][random.below(5) as usize];
    chunks * CHUNK + random.below(1000) * BLOCK
}
