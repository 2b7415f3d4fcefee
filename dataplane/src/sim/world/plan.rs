//! What kind of world a seed makes.

use super::{CORES_MAX, NQN, address};
use crate::sim::draw::Habits;
use crate::sim::host::{HostSettings, SimHost};
use crate::sim::network::NetworkConfig;
use crate::sim::{Random, SimDiskConfig, SimMedia};
use nvmeof_target::testing::HostConfig;

/// What is wrong with this world's disks, beside crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ailment {
    None,
    /// Bits flip, reads fail, writes are lost or land elsewhere.
    Damage,
    /// A disk fails writes and flushes until the node is restarted.
    Failure,
    /// A disk does nothing for a while.
    Stall,
    /// Disks are small and fill up.
    Full,
}

/// One disk.
#[derive(Debug, Clone)]
pub(super) struct DiskPlan {
    pub(super) shards: u16,
    config: SimDiskConfig,
    laziness: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) network: NetworkConfig,
    pub(super) cores: usize,
    pub(super) disks: Vec<DiskPlan>,
    pub(super) hosts: u64,
    pub(super) ailment: Ailment,
    pub(super) may_crash: bool,
    /// The operator changes volumes.
    pub(super) changes: bool,
    pub(super) steps: u64,
    /// Cores take few messages at a time.
    pub(super) small_batches: bool,
    /// Cores stand still now and then.
    pub(super) pauses: bool,
    /// Messages that fit in a mailbox.
    pub(super) mailbox: usize,
    /// Bytes of each core's buffers that are not to be had.
    pub(super) hoard: usize,
    habits: Habits,
}

impl Plan {
    pub(super) fn draw(random: &mut Random) -> Self {
        let ailment = match random.below(100) {
            0..40 => Ailment::None,
            40..60 => Ailment::Damage,
            60..72 => Ailment::Failure,
            72..82 => Ailment::Stall,
            _ => Ailment::Full,
        };
        let disks = 1 + random.below(2);
        Self {
            network: NetworkConfig {
                delay_us: [0, 20, 500][random.below(3) as usize],
                piece_max: [7, 600, 100_000][random.below(3) as usize],
            },
            cores: 1 + random.below(CORES_MAX as u64) as usize,
            disks: (0..disks).map(|_| DiskPlan::draw(ailment, random)).collect(),
            hosts: 1 + random.below(3),
            ailment,
            may_crash: ailment != Ailment::Damage && random.chance(70),
            changes: random.chance(60),
            steps: 800 + random.below(1600),
            small_batches: random.chance(40),
            pauses: random.chance(50),
            mailbox: [1, 8, 4096][random.below(3) as usize],
            hoard: [0, 14 << 20][random.below(2) as usize],
            habits: Habits {
                copies: ailment != Ailment::Damage && random.chance(70),
                poisons: random.chance(50),
                reads: [20, 50, 80][random.below(3) as usize],
            },
        }
    }

    /// Whether a check of the disks may find something.
    pub(super) fn is_damaging(&self) -> bool {
        self.ailment == Ailment::Damage || self.habits.poisons
    }

    /// A host of this world.
    pub(super) fn host(&self, number: u64, random: &mut Random) -> SimHost {
        let config = HostConfig {
            header_digest: random.chance(50),
            data_digest: random.chance(50),
            entries: 4 + random.below(64) as u16,
            flow_control_disabled: random.chance(70),
            h2c_data_max: [4096, 100_000, usize::MAX][random.below(3) as usize],
            ..HostConfig::default()
        };
        let settings = HostSettings {
            number,
            address: address(),
            subsystem: NQN.into(),
            queues: 1 + random.below(4) as u16,
            depth: usize::from((config.entries - 1) / 2).min(1 + random.below(8) as usize),
            reads_early: random.chance(50),
            habits: self.habits,
            config,
        };
        SimHost::new(settings, random.next_u64())
    }
}

impl DiskPlan {
    fn draw(ailment: Ailment, random: &mut Random) -> Self {
        let shards = 1 + random.below(3) as u16;
        let slabs = if ailment == Ailment::Full { 4 + random.below(5) } else { 40 };
        // Journal, checkpoints and pages take two slabs' room.
        let capacity = (4 + u64::from(shards) * (slabs + 2) * 2) << 20;
        let config = SimDiskConfig {
            volatile_cache: random.chance(70),
            fua: random.chance(50),
            atomic_write: 4096,
            is_slow: random.chance(70),
            ..SimDiskConfig::new(capacity)
        };
        Self { shards, config, laziness: [20, 50, 90][random.below(3) as usize] }
    }

    pub(super) fn medium(&self, random: &mut Random) -> SimMedia {
        let medium = SimMedia::new(&self.config, random.next_u64());
        medium.set_laziness(self.laziness);
        medium
    }
}
