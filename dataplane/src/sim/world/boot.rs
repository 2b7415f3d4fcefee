//! Formatting, starting and killing the simulated node.

use super::operator::name_of;
use super::{CORES_MAX, NQN, POOL, SimNode, Work, World, address};
use crate::core::{Core, CoreParts, CoreStats, ShardSeat, mesh_of};
use crate::dma::{Buf, Pool};
use crate::frontend::{Frontend, ProtocolConfig, ProtocolKind};
use crate::net::Net;
use crate::node::{
    Command, Control, ControlParts, DiskConfig, DiskSource, DiskState, EventLog, NodeConfig,
    PortalConfig, Record, Registry, iscsi, target,
};
use crate::sim::model::Space;
use crate::sim::network::SimNet;
use crate::store::{self, FormatOptions, Mode, Mounting, OpenOptions, Shard};
use crate::uring::Waker;
use crate::volume::ShardAddress;
use crossbeam_channel::{Receiver, unbounded};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

/// Power cuts during one start.
const CUTS_MAX: u64 = 3;
/// Bytes of a buffer that is kept from the node.
const HOARDED: usize = 1 << 20;

/// A shard, mounted, and where it belongs.
struct Mounted {
    disk: usize,
    number: usize,
    core: usize,
    shard: Shard,
}

/// A core before it runs.
struct Seat {
    pool: Rc<Pool>,
    net: Box<SimNet>,
    shards: Vec<(ShardSeat, Shard)>,
}

/// Every shard mounted, the cores not yet running.
struct Started {
    seats: Vec<Seat>,
    /// The catalogues' records, and their disks.
    entries: Vec<(usize, Record)>,
    disks: Vec<DiskState>,
}

impl World<'_> {
    /// Formats the disks, starts the node, makes the first volumes.
    pub(super) fn prepare(&mut self) {
        let pool = Rc::new(self.arena.pool(0));
        for (medium, plan) in self.media.iter().zip(&self.plan.disks) {
            let disk = Uuid::from_u64_pair(self.random.next_u64(), self.random.next_u64());
            let options = FormatOptions {
                mode: Some(if self.random.chance(50) { Mode::Intent } else { Mode::Data }),
                shards: plan.shards,
                journal_bytes: 1 << 20,
                catalogue_bytes: 64 << 10,
                ..FormatOptions::new(disk, self.random.next_u64())
            };
            let formatted = store::format(Box::new(medium.open()), None, &options, &pool);
            formatted.expect("a good disk");
        }
        drop(pool);
        self.arena.recycle();
        self.boot(false);
        self.command(Command::AllowHost { nqn: "*".into() });
        for _ in 0..1 + self.random.below(2) {
            self.create_first();
        }
        // Hosts that are connected already learn of the volumes a little later.
        (0..100).for_each(|_| self.step(Work::None));
    }

    /// The process dies, or the power fails; then the node starts again.
    pub(super) fn crash(&mut self) {
        self.report.crashes += 1;
        self.model.remember("crash");
        let is_power = self.random.chance(60);
        self.kill_node(is_power);
        self.boot(true);
    }

    pub(super) fn kill_node(&mut self, is_power_cut: bool) {
        self.node = None;
        self.network.kill_node();
        for medium in &self.media {
            if is_power_cut { medium.power_cut() } else { medium.kill() }
        }
        self.arena.recycle();
    }

    /// Starts the node; with `may_fail` the power may fail again meanwhile.
    fn boot(&mut self, may_fail: bool) {
        self.starts += 1;
        self.booted_at = self.now;
        let mut cuts = if may_fail { self.random.below(CUTS_MAX) } else { 0 };
        let mounted = loop {
            if let Some(started) = self.mount(cuts > 0) {
                break started;
            }
            cuts -= 1;
            self.report.crashes += 1;
            self.model.remember("crash in recovery");
            self.media.iter().for_each(crate::sim::SimMedia::power_cut);
            self.arena.recycle();
        };
        self.take_stock(&mounted.entries);
        self.run_cores(mounted);
    }

    /// Mounts every shard; `None` if the power failed meanwhile.
    fn mount(&mut self, may_fail: bool) -> Option<Started> {
        let mut seats: Vec<Seat> = (0..self.plan.cores)
            .map(|core| Seat {
                pool: Rc::new(self.arena.pool(core)),
                net: Box::new(self.network.attach(core as u32)),
                shards: Vec::new(),
            })
            .collect();
        let mounted = self.mount_shards(&seats, may_fail)?;
        let mut entries = Vec::new();
        let mut addresses: Vec<Vec<ShardAddress>> = vec![Vec::new(); self.media.len()];
        self.model.spaces = vec![Vec::new(); self.media.len()];
        self.trouble.places = vec![Vec::new(); self.media.len()];
        for Mounted { disk, number, core, shard } in mounted {
            for (key, value) in shard.catalogue() {
                entries.push((disk, Record::decode(key, value).expect("our own records")));
            }
            self.model.spaces[disk].push(Space::of((shard.space().capacity >> 21) as usize));
            self.trouble.places[disk].push(shard.places());
            let local = seats[core].shards.len() as u16;
            addresses[disk].push(ShardAddress { core: core as u16, shard: local });
            let seat = ShardSeat { disk, path: format!("disk-{disk}"), shard: number };
            seats[core].shards.push((seat, shard));
        }
        let disks = addresses.into_iter().enumerate().map(|(disk, shards)| DiskState {
            path: format!("disk-{disk}"),
            uuid: Some(Uuid::from_u128(disk as u128 + 1)),
            mode: Some("intent"),
            shards: shards.into(),
            offline: None,
        });
        let disks = disks.collect();
        Some(Started { seats, entries, disks })
    }

    /// Polls all shards at random until they are there; `None` if the power failed before.
    fn mount_shards(&mut self, seats: &[Seat], may_fail: bool) -> Option<Vec<Mounted>> {
        let mut mountings: Vec<(usize, usize, usize, Mounting)> = Vec::new();
        for (disk, medium) in self.media.iter().enumerate() {
            for number in 0..usize::from(self.plan.disks[disk].shards) {
                let core = (disk + number) % self.plan.cores;
                let options = OpenOptions {
                    cache_bytes: [0, 64 << 10][self.random.below(2) as usize],
                    payload_max: [0, 8192, 65536][self.random.below(3) as usize],
                    discard: self.random.chance(70),
                    zero_on_free: self.random.chance(20),
                    ..OpenOptions::default()
                };
                let pool = seats[core].pool.clone();
                let disk_handle = Box::new(medium.open());
                let mounting = Shard::mount(disk_handle, None, number as u16, &options, pool);
                mountings.push((disk, number, core, mounting));
            }
        }
        let mut left = if may_fail { self.random.below(300) } else { u64::MAX };
        let mut mounted: Vec<Option<Mounted>> = mountings.iter().map(|_| None).collect();
        while mounted.iter().any(Option::is_none) {
            for (place, (disk, number, core, mounting)) in mounted.iter_mut().zip(&mut mountings) {
                if place.is_none()
                    && let Some(result) = mounting.poll()
                {
                    let shard = result.expect("a disk that lost nothing acknowledged mounts");
                    *place = Some(Mounted { disk: *disk, number: *number, core: *core, shard });
                }
            }
            left = left.checked_sub(1)?;
        }
        Some(mounted.into_iter().flatten().collect())
    }

    fn run_cores(&mut self, Started { seats, entries, disks }: Started) {
        let (calls, inbox) = unbounded();
        let (registry, events) = (Registry::default(), EventLog::new(|| 0));
        let wakers: Vec<Waker> = (0..self.plan.cores).map(|_| Waker::unneeded()).collect();
        let hoard = self.hoard(&seats);
        let mut cores = Vec::new();
        let mut disks = Some(disks);
        let mut entries = Some(entries);
        for (links, mut seat) in mesh_of(self.plan.mailbox, &wakers).into_iter().zip(seats) {
            let control = disks.take().map(|disks| {
                let shared = (registry.clone(), events.clone());
                let mut control = self.control(&mut seat.net, disks, inbox.clone(), shared);
                control.load(entries.take().expect("one control"));
                control
            });
            let mut core = Core::new(CoreParts {
                links,
                pool: seat.pool,
                net: seat.net,
                shards: seat.shards,
                registry: registry.clone(),
                log: events.clone(),
                frontend: Frontend::new(ProtocolConfig::default()),
                control,
                stats: Arc::new(CoreStats::default()),
            });
            core.publish(0);
            cores.push(core);
        }
        let paused = vec![self.now; cores.len()];
        self.node = Some(SimNode { cores, calls, paused, _hoard: hoard });
    }

    fn control(
        &self,
        net: &mut SimNet,
        disks: Vec<DiskState>,
        inbox: Receiver<crate::node::Call>,
        (registry, events): (Registry, EventLog),
    ) -> Control {
        let (listener, listen) = net.listen(address()).expect("a simulated address");
        let (target, subsystem) =
            target(&self.config(), &[listen], self.starts).expect("a good configuration");
        let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
        let iscsi = iscsi(&self.config(), &[listen], entropy).expect("a good name");
        Control::new(ControlParts {
            target,
            subsystem,
            iscsi,
            listeners: [(listener, (0, ProtocolKind::Nvme))].into_iter().collect(),
            disks,
            cores: self.plan.cores as u16,
            connections_max: 64,
            inbox,
            events,
            registry,
        })
    }

    /// Takes buffers from the node.
    fn hoard(&self, seats: &[Seat]) -> Vec<Buf> {
        let of = |seat: &Seat| -> Vec<Buf> {
            let count = self.plan.hoard / HOARDED;
            (0..count).map_while(|_| seat.pool.alloc(HOARDED)).collect()
        };
        seats.iter().take(CORES_MAX).flat_map(of).collect()
    }

    fn config(&self) -> NodeConfig {
        let portal = PortalConfig {
            protocol: Default::default(),
            listen: address(),
            advertise: None,
            discovery_only: false,
        };
        let ram = DiskSource::Ram { size: 0, shards: 1 };
        NodeConfig {
            name: "sim".into(),
            nqn: NQN.into(),
            iqn: "iqn.2026-11.io.basalt:test".into(),
            cores: (0..self.plan.cores).collect(),
            poll: true,
            no_iommu: false,
            buffers_per_core: POOL,
            metadata_cache: 1 << 20,
            disks: vec![DiskConfig {
                source: ram,
                journal: None,
                zero_on_free: false,
                passthrough: false,
            }],
            portals: vec![portal],
            max_connections: 64,
        }
    }

    /// What the catalogues hold must be what the operator was told; what he was not told is as they
    /// have it.
    fn take_stock(&mut self, entries: &[(usize, Record)]) {
        let now = self.now;
        let (mut names, mut found) = (BTreeMap::new(), BTreeSet::new());
        for (disk, record) in entries {
            let Record::Volume(record) = record else { continue };
            let serial = record.id().0 as u32;
            let volume = self.model.volumes.get_mut(&serial).expect("a volume that was made");
            assert_eq!(volume.disk, *disk, "volume {serial}");
            assert!(volume.deleted.is_none(), "volume {serial} is back");
            found.insert(serial);
            if record.is_deleting {
                assert!(volume.deleting.is_some(), "volume {serial} is being deleted");
                continue;
            }
            volume.deleting = None;
            let is_size = record.size == volume.bytes || self.operator.is_resizing(serial);
            assert!(is_size, "volume {serial} has {} bytes, not {}", record.size, volume.bytes);
            volume.resize(record.size);
            let is_name = name_of(&self.operator.names, serial) == record.name
                || self.operator.is_renaming(serial);
            assert!(is_name, "volume {serial} is called {}", record.name);
            names.insert(serial, record.name.clone());
        }
        let creating = self.operator.creating();
        let mut gone = Vec::new();
        for volume in self.model.volumes.values_mut().filter(|volume| volume.deleted.is_none()) {
            if !found.contains(&volume.serial) {
                let may_be_gone = volume.deleting.is_some() || creating == Some(volume.serial);
                assert!(may_be_gone, "volume {} is gone", volume.serial);
                volume.deleting = Some(volume.deleting.unwrap_or(now));
                volume.deleted = Some(now);
                gone.push(volume.serial);
            }
        }
        self.operator.restart(names);
        self.model.retouch();
        gone.into_iter().for_each(|serial| self.model.free_volume(serial));
    }
}
