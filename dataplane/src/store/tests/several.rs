//! Crashes of a disk in several shards, and volumes that lie on all of them, come and go.
//!
//! The shards are used as a node uses them: an entry in the catalogue of the first one says that a
//! volume is there, or that it is being deleted, which after a crash is gone on with.

use super::*;

const SHARDS: u16 = 3;
const CHUNKS: u32 = 5;
const SLABS: u32 = 2;
const BLOCKS: u32 = 10;
const VOLUMES_MAX: usize = 3;
/// Requests in flight.
const DEPTH: usize = 10;

/// What every eight bytes of a block hold; 0 for nothing, and this for an error.
const POISON: u64 = u64::MAX;

/// Chunk, slab in it, block in that.
type Place = (u32, u32, u32);

#[derive(Debug, Default, Clone)]
struct Expected {
    settled: u64,
    possible: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Creating,
    Live,
    /// Its entry is being changed.
    Marking,
    /// Its entry says so; shards that have not yet dropped it.
    Dropping(u16),
    /// Its entry is being deleted.
    Erasing,
}

#[derive(Debug)]
struct Volume {
    stage: Stage,
    blocks: BTreeMap<Place, Expected>,
}

#[derive(Debug)]
enum Action {
    Blocks(Vec<(Place, u64)>),
    Entry,
    Drop,
}

struct Run {
    bench: Bench,
    random: Random,
    shards: Vec<Shard>,
    volumes: BTreeMap<u64, Volume>,
    in_flight: BTreeMap<u64, (u64, Action)>,
    next: u64,
    /// How many deletions were gone on with after a crash.
    repeated: u32,
    poisons_seen: u32,
}

fn shard_of(chunk: u32) -> usize {
    (chunk % u32::from(SHARDS)) as usize
}

fn key(volume: u64) -> [u8; 8] {
    volume.to_le_bytes()
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mode = if random.chance(50) { Mode::Intent } else { Mode::Data };
        let config = SimDiskConfig {
            capacity: 66 << 20,
            volatile_cache: random.chance(80),
            fua: random.chance(50),
            atomic_write: if mode == Mode::Intent { 4096 } else { 512 },
            is_slow: true,
        };
        let mut options = format_options(mode, 64);
        options.shards = SHARDS;
        let mut bench = Bench::new(&config, &options, random.chance(20), seed);
        bench.options.payload_max = [0, 4096, 16384][random.below(3) as usize];
        bench.options.zero_on_free = random.chance(30);
        Self {
            bench,
            random,
            shards: Vec::new(),
            volumes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next: 1,
            repeated: 0,
            poisons_seen: 0,
        }
    }

    fn note(&mut self, volume: u64, action: Action) -> u64 {
        self.next += 1;
        self.in_flight.insert(self.next, (volume, action));
        self.next
    }

    fn step(&mut self) {
        if self.in_flight.len() < DEPTH && self.random.chance(60) {
            let ids: Vec<u64> = self.volumes.keys().copied().collect();
            if ids.len() < VOLUMES_MAX && self.random.chance(10) {
                self.create();
            } else if !ids.is_empty() {
                let id = ids[self.random.below(ids.len() as u64) as usize];
                if self.volumes[&id].stage == Stage::Live {
                    if self.random.chance(3) { self.delete(id) } else { self.submit(id) }
                }
            }
        }
        self.poll();
    }

    fn poll(&mut self) {
        self.bench.now += Duration::from_millis(10);
        let mut done = Vec::new();
        for shard in 0..self.shards.len() {
            if self.random.chance(80) {
                self.shards[shard].poll(self.bench.now, &mut done);
            }
        }
        for completion in done {
            self.complete(completion);
        }
    }

    fn create(&mut self) {
        self.next += 1;
        let id = self.next;
        self.volumes.insert(id, Volume { stage: Stage::Creating, blocks: BTreeMap::new() });
        let tag = self.note(id, Action::Entry);
        self.shards[0].catalogue_put(tag, &key(id), b"live");
    }

    /// The volume takes no requests while it is deleted.
    fn delete(&mut self, id: u64) {
        if self.in_flight.values().any(|(volume, _)| *volume == id) {
            return;
        }
        self.volumes.get_mut(&id).unwrap().stage = Stage::Marking;
        let tag = self.note(id, Action::Entry);
        self.shards[0].catalogue_put(tag, &key(id), b"deleting");
    }

    fn drop_everywhere(&mut self, id: u64) {
        self.volumes.get_mut(&id).unwrap().stage = Stage::Dropping(SHARDS);
        for shard in 0..self.shards.len() {
            let tag = self.note(id, Action::Drop);
            self.shards[shard].drop_volume(tag, VolumeId(id));
        }
    }

    fn submit(&mut self, id: u64) {
        let random = &mut self.random;
        let (chunk, slab) =
            (random.below(u64::from(CHUNKS)) as u32, random.below(u64::from(SLABS)) as u32);
        let first = random.below(u64::from(BLOCKS)) as u32;
        let count = 1 + random.below(u64::from(BLOCKS - first).min(6)) as u32;
        let places: Vec<Place> = (first..first + count).map(|b| (chunk, slab, b)).collect();
        let blocks = &mut self.volumes.get_mut(&id).unwrap().blocks;
        let is_busy =
            |place: &Place| blocks.get(place).is_some_and(|block| !block.possible.is_empty());
        // The order of writes is known only where one is in flight.
        if places.iter().any(is_busy) {
            return;
        }
        let at = extent(id, chunk, (slab << 21) + first * BLOCK as u32, count * BLOCK as u32);
        let kind = random.below(10);
        let values: Vec<u64> = match kind {
            0 => vec![0; places.len()],
            1 | 2 => vec![POISON; places.len()],
            _ => places.iter().map(|_| random.below(1 << 40) + 1).collect(),
        };
        let request = match kind {
            0 => Request::Zero { extent: at },
            1 | 2 => Request::Poison { extent: at },
            _ => {
                let mut buf = self.bench.pool.alloc(places.len() * BLOCK).unwrap();
                for (bytes, value) in buf.chunks_mut(BLOCK).zip(&values) {
                    bytes.copy_from_slice(&value.to_le_bytes().repeat(BLOCK / 8));
                }
                sum(&mut buf);
                Request::Write { extent: at, data: buf.freeze() }
            }
        };
        let effects: Vec<_> = places.into_iter().zip(values).collect();
        for &(place, value) in &effects {
            blocks.entry(place).or_default().possible.push(value);
        }
        let tag = self.note(id, Action::Blocks(effects));
        self.shards[shard_of(chunk)].submit(tag, request);
    }

    fn complete(&mut self, completion: Completion) {
        let (id, action) = self.in_flight.remove(&completion.tag).unwrap();
        let volume = self.volumes.get_mut(&id).unwrap();
        match (action, completion.result) {
            (Action::Blocks(effects), Ok(_)) => {
                for (place, value) in effects {
                    volume.blocks.insert(place, Expected { settled: value, possible: Vec::new() });
                }
            }
            // Old or new; the next look decides.
            (Action::Blocks(_), Err(Error::Full)) => {}
            (Action::Entry, Ok(_)) => match volume.stage {
                Stage::Creating => volume.stage = Stage::Live,
                Stage::Marking => self.drop_everywhere(id),
                Stage::Erasing => drop(self.volumes.remove(&id)),
                stage => panic!("{stage:?}"),
            },
            (Action::Drop, Ok(_)) => {
                let Stage::Dropping(left) = &mut volume.stage else { panic!("{volume:?}") };
                *left -= 1;
                if *left == 0 {
                    volume.stage = Stage::Erasing;
                    let tag = self.note(id, Action::Entry);
                    self.shards[0].catalogue_delete(tag, &key(id));
                }
            }
            (action, Err(error)) => panic!("{action:?}: {error}"),
        }
    }

    fn crash(&mut self) {
        self.shards.clear();
        self.in_flight.clear();
        let power = self.random.chance(70);
        for media in [Some(&self.bench.data), self.bench.journal.as_ref()].into_iter().flatten() {
            if power { media.power_cut() } else { media.kill() }
        }
    }

    fn mountings(&self) -> Vec<Mounting> {
        let bench = &self.bench;
        let mount = |shard| {
            let pool = bench.pool.clone();
            Shard::mount(bench.disk(), bench.journal(), shard, &bench.options, pool)
        };
        (0..SHARDS).map(mount).collect()
    }

    /// Mounts all shards side by side, with some of these mounts crashed half way.
    fn mount(&mut self) {
        for crashes_left in (0..=self.random.below(3)).rev() {
            let polls = if crashes_left > 0 { self.random.below(600) } else { u64::MAX };
            let mut mountings: Vec<Option<Mounting>> =
                self.mountings().into_iter().map(Some).collect();
            let mut shards: Vec<Option<Shard>> = mountings.iter().map(|_| None).collect();
            let mut polled = 0;
            while polled < polls && shards.iter().any(Option::is_none) {
                let at = self.random.below(u64::from(SHARDS)) as usize;
                polled += 1;
                if let Some(result) = mountings[at].as_mut().and_then(Mounting::poll) {
                    shards[at] = Some(result.expect("the mount"));
                    mountings[at] = None;
                }
            }
            if crashes_left == 0 {
                self.shards = shards.into_iter().flatten().collect();
                return;
            }
            drop((mountings, shards));
            self.crash();
        }
    }

    /// What the entries say counts: each volume is wholly there or wholly gone.
    fn settle(&mut self) {
        let ids: Vec<u64> = self.volumes.keys().copied().collect();
        let mut deleting = Vec::new();
        for id in ids {
            let entry = self.shards[0].catalogue_get(&key(id)).map(<[u8]>::to_vec);
            let volume = self.volumes.get_mut(&id).unwrap();
            match (volume.stage, entry.as_deref()) {
                (Stage::Creating | Stage::Live | Stage::Marking, Some(b"live")) => {
                    volume.stage = Stage::Live;
                    self.compare(id);
                }
                (Stage::Marking | Stage::Dropping(_) | Stage::Erasing, Some(b"deleting")) => {
                    deleting.push(id);
                }
                (Stage::Creating | Stage::Erasing, None) => {
                    for shard in &self.shards {
                        assert_eq!(shard.volume_usage(VolumeId(id)), 0);
                    }
                    self.volumes.remove(&id);
                }
                other => panic!("volume {id}: {other:?}"),
            }
        }
        for id in deleting {
            self.repeated += 1;
            self.drop_everywhere(id);
        }
    }

    /// Reads everything, also what was never written: another volume may have been there.
    fn compare(&mut self, id: u64) {
        let slabs = (0..CHUNKS).flat_map(|chunk| (0..SLABS).map(move |slab| (chunk, slab)));
        for (chunk, slab) in slabs {
            for block in 0..BLOCKS + 2 {
                let at = extent(id, chunk, (slab << 21) + block * BLOCK as u32, BLOCK as u32);
                let shard = &mut self.shards[shard_of(chunk)];
                let value = match self.bench.read(shard, at) {
                    Ok(bytes) => {
                        let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                        assert_eq!(bytes, value.to_le_bytes().repeat(BLOCK / 8), "a mixture");
                        value
                    }
                    Err(Error::Media { .. }) => {
                        self.poisons_seen += 1;
                        POISON
                    }
                    Err(error) => panic!("{error}"),
                };
                let blocks = &mut self.volumes.get_mut(&id).unwrap().blocks;
                let expected = blocks.entry((chunk, slab, block)).or_default();
                assert!(
                    value == expected.settled || expected.possible.contains(&value),
                    "volume {id} {chunk}/{slab}/{block}: {value}, not {expected:?}"
                );
                *expected = Expected { settled: value, possible: Vec::new() };
            }
        }
    }

    /// Everything is deleted: all space comes back, and nothing is wrong with the disk.
    fn end(mut self) -> (u32, u32) {
        while !self.volumes.is_empty() {
            let live = self.volumes.iter().filter(|(_, volume)| volume.stage == Stage::Live);
            let live: Vec<u64> = live.map(|(&id, _)| id).collect();
            live.into_iter().for_each(|id| self.delete(id));
            self.poll();
        }
        for mut shard in std::mem::take(&mut self.shards) {
            self.bench.wait_until_free(&mut shard);
            self.bench.stop(shard);
        }
        assert_eq!(self.bench.check().findings, []);
        (self.repeated, self.poisons_seen)
    }
}

#[test]
fn volumes_over_several_shards_are_wholly_there_or_wholly_gone() {
    let (mut repeated, mut poisons) = (0, 0);
    for seed in 0..30 {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..5 {
                if run.random.chance(20) {
                    run.bench.grow_somehow(&mut run.random, 40 << 20);
                }
                run.mount();
                run.settle();
                for _ in 0..run.random.below(700) {
                    run.step();
                }
                run.crash();
            }
            run.mount();
            run.settle();
            run.end()
        });
        let (more, seen) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        (repeated, poisons) = (repeated + more, poisons + seen);
    }
    assert!(repeated > 10 && poisons > 100, "{repeated} {poisons}");
}
