//! Random requests, crashes at random points, recovery, also crashed: acknowledged blocks are
//! there, others old or new, never mixed, never foreign.

use super::*;

/// Blocks that the requests touch, in two volumes.
const VOLUMES: u64 = 2;
const SLABS: u32 = 5;
const HOT_BLOCKS: u32 = 24;
/// Requests in flight.
const DEPTH: usize = 6;

/// What a block may hold: `settled` if nothing is in flight, otherwise any of `possible` too.
#[derive(Debug, Clone, Default)]
struct Expected {
    settled: Value,
    possible: Vec<Value>,
}

/// What each 512 bytes of a block are filled with.
type Value = [u64; 8];

/// A block's place: volume, slab index, block.
type Place = (u64, u32, u32);

struct Run {
    bench: Bench,
    random: Random,
    blocks: BTreeMap<Place, Expected>,
    next_value: u64,
    /// Requests in flight: tag to what they will have written.
    in_flight: BTreeMap<u64, Vec<(Place, Value)>>,
    /// The catalogue's one entry, and what it may be.
    entry: (u64, Vec<u64>),
    next_tag: u64,
}

fn contents(value: Value) -> Vec<u8> {
    value.iter().flat_map(|sector| sector.to_le_bytes().repeat(64)).collect()
}

fn value_of(bytes: &[u8]) -> Value {
    std::array::from_fn(|at| u64::from_le_bytes(bytes[at * 512..][..8].try_into().unwrap()))
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mode = if random.chance(50) { Mode::Intent } else { Mode::Data };
        let config = SimDiskConfig {
            capacity: 20 << 20,
            volatile_cache: random.chance(80),
            fua: random.chance(50),
            atomic_write: if mode == Mode::Intent { 4096 } else { 512 },
            is_slow: true,
        };
        let apart = random.chance(20);
        let mut bench = Bench::new(&config, &format_options(mode, 64), apart, seed);
        bench.options.payload_max = [0, 4096, 16384][random.below(3) as usize];
        bench.options.discard = random.chance(50);
        bench.options.zero_on_free = random.chance(25);
        Self {
            bench,
            random,
            blocks: BTreeMap::new(),
            next_value: 1,
            in_flight: BTreeMap::new(),
            entry: (0, Vec::new()),
            next_tag: 1,
        }
    }

    fn place(&mut self) -> (u64, u32, u32, u32) {
        let volume = self.random.below(VOLUMES);
        let slab = self.random.below(u64::from(SLABS)) as u32;
        let first = self.random.below(u64::from(HOT_BLOCKS)) as u32;
        let count = 1 + self.random.below(u64::from((HOT_BLOCKS - first).min(10))) as u32;
        (volume, slab, first, count)
    }

    fn submit(&mut self, shard: &mut Shard) {
        let (volume, slab, first, count) = self.place();
        let at = extent(volume, 0, (slab << 21) + first * BLOCK as u32, count * BLOCK as u32);
        let tag = self.next_tag;
        self.next_tag += 1;
        let places: Vec<Place> = (first..first + count).map(|b| (volume, slab, b)).collect();
        let is_free = |run: &Self, places: &[Place]| {
            places.iter().all(|p| run.blocks.get(p).is_none_or(|b| b.possible.is_empty()))
        };
        // The oracle knows the order of writes only where one is in flight.
        if !is_free(self, &places) {
            return;
        }
        let mut effects = Vec::new();
        let request = match self.random.below(10) {
            0 => {
                effects.extend(places.iter().map(|&place| (place, [0; 8])));
                Request::Zero { extent: at }
            }
            1 if self.random.chance(30) => {
                let all: Vec<Place> = (0..512).map(|b| (volume, slab, b)).collect();
                if !is_free(self, &all) {
                    return;
                }
                let known = all.into_iter().filter(|&(_, _, b)| b < HOT_BLOCKS);
                effects.extend(known.map(|place| (place, [0; 8])));
                Request::Zero { extent: extent(volume, 0, slab << 21, 2 << 20) }
            }
            2 | 3 => {
                let Some((request, effect)) = self.partial(at, places[0]) else { return };
                effects.push((places[0], effect));
                request
            }
            _ => {
                let mut buf = self.bench.pool.alloc(count as usize * BLOCK).unwrap();
                for (&place, bytes) in places.iter().zip(buf.chunks_mut(BLOCK)) {
                    let value = [self.next_value; 8];
                    bytes.copy_from_slice(&contents(value));
                    effects.push((place, value));
                    self.next_value += 1;
                }
                sum(&mut buf);
                Request::Write { extent: at, data: buf.freeze() }
            }
        };
        for &(place, value) in &effects {
            self.blocks.entry(place).or_default().possible.push(value);
        }
        self.in_flight.insert(tag, effects);
        shard.submit(tag, request);
    }

    /// Part of the extent's first block: written, zeroed, or compared and written.
    fn partial(&mut self, at: Extent, place: Place) -> Option<(Request, Value)> {
        let old = self.blocks.get(&place).map_or([0; 8], |block| block.settled);
        let from = self.random.below(8) as usize;
        let to = from + 1 + self.random.below(8 - from as u64) as usize;
        let at =
            Extent { offset: at.offset + from as u32 * 512, len: (to - from) as u32 * 512, ..at };
        let is_zero = self.random.chance(25);
        let mut new = old;
        new[from..to].fill(if is_zero { 0 } else { self.next_value });
        self.next_value += 1;
        let full = |value| {
            let mut buf = self.bench.pool.alloc(BLOCK).unwrap();
            buf.copy_from_slice(&contents(value));
            sum(&mut buf);
            buf.freeze()
        };
        let request = match self.random.below(2) {
            _ if is_zero => Request::Zero { extent: at },
            0 => Request::Write { extent: at, data: full(new) },
            _ => Request::CompareAndWrite { extent: at, expected: full(old), data: full(new) },
        };
        Some((request, new))
    }

    fn put_entry(&mut self, shard: &mut Shard) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let value = tag.to_le_bytes();
        self.entry.1.push(tag);
        self.in_flight.insert(tag, Vec::new());
        shard.catalogue_put(tag, b"entry", &value);
    }

    fn compare_entry(&mut self, shard: &Shard) {
        let found = shard.catalogue_get(b"entry");
        let found = found.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()));
        let (settled, possible) = &mut self.entry;
        assert!(found == *settled || possible.contains(&found), "{found}, not {settled}");
        *settled = found;
        possible.clear();
    }

    fn complete(&mut self, completion: Completion) {
        let effects = self.in_flight.remove(&completion.tag).unwrap();
        if self.entry.1.contains(&completion.tag) {
            self.entry.0 = completion.tag;
            self.entry.1.retain(|&tag| tag > completion.tag);
        }
        for (place, value) in effects {
            let Some(block) = self.blocks.get_mut(&place) else { continue };
            match completion.result {
                Ok(_) => {
                    block.settled = value;
                    block.possible.clear();
                }
                // Old or new; the next look decides.
                Err(Error::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads every block and compares; what was open is settled by what is there.
    fn compare(&mut self, shard: &mut Shard) {
        let places: Vec<Place> = self.blocks.keys().copied().collect();
        for (volume, slab, block) in places {
            let at = extent(volume, 0, (slab << 21) + block * BLOCK as u32, BLOCK as u32);
            let bytes = match self.bench.read(shard, at) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let events: Vec<_> = std::iter::from_fn(|| shard.next_event()).collect();
                    panic!("block {volume}/{slab}/{block}: {error}, {events:?}")
                }
            };
            let expected = self.blocks.get_mut(&(volume, slab, block)).unwrap();
            let value = value_of(&bytes);
            assert_eq!(bytes, contents(value), "block {volume}/{slab}/{block} is a mixture");
            let is_possible = value == expected.settled || expected.possible.contains(&value);
            assert!(is_possible, "block {volume}/{slab}/{block} has {value:?}, not {expected:?}");
            expected.settled = value;
            expected.possible.clear();
        }
    }

    /// A crash: what was in flight may have had its effect or not.
    fn crash(&mut self) {
        let cut =
            |media: &SimMedia, power: bool| if power { media.power_cut() } else { media.kill() };
        let power = self.random.chance(70);
        cut(&self.bench.data, power);
        if let Some(journal) = &self.bench.journal {
            cut(journal, power);
        }
        self.in_flight.clear();
    }

    /// Mounts, with some mounts crashed half way.
    fn mount(&mut self) -> Shard {
        for _ in 0..self.random.below(3) {
            let mut mounting = self.bench.mounting();
            for _ in 0..self.random.below(400) {
                if let Some(result) = mounting.poll() {
                    drop(result.expect("the mount"));
                    break;
                }
            }
            drop(mounting);
            self.crash();
        }
        self.bench.mount().expect("the mount")
    }

    fn epoch(&mut self) {
        if self.random.chance(20) {
            self.bench.grow_somehow(&mut self.random, 16 << 20);
        }
        let mut shard = self.mount();
        self.compare(&mut shard);
        self.compare_entry(&shard);
        let polls = self.random.below(600);
        let mut done = Vec::new();
        for _ in 0..polls {
            if self.in_flight.len() < DEPTH && self.random.chance(60) {
                if self.random.chance(5) && self.entry.1.is_empty() {
                    self.put_entry(&mut shard);
                } else {
                    self.submit(&mut shard);
                }
            }
            self.bench.now += Duration::from_millis(10);
            shard.poll(self.bench.now, &mut done);
            for completion in done.drain(..) {
                self.complete(completion);
            }
        }
        if self.random.chance(10) {
            for _ in 0..100_000 {
                shard.poll(self.bench.now, &mut done);
                for completion in done.drain(..) {
                    self.complete(completion);
                }
                if shard.in_flight() == 0 {
                    break;
                }
            }
            assert_eq!(shard.in_flight(), 0, "requests hang");
            self.bench.stop(shard);
            let report = self.bench.check();
            assert_eq!(report.findings, [], "check after an orderly stop");
        } else {
            drop(shard);
            self.crash();
            if self.random.chance(20) {
                let report = self.bench.check();
                assert!(report.findings.iter().all(|f| !f.data_lost), "{:?}", report.findings);
            }
        }
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for _ in 0..4 {
        run.epoch();
    }
    let mut shard = run.mount();
    run.compare(&mut shard);
}

#[test]
fn nothing_acknowledged_is_lost_in_crashes() {
    let seeds = std::env::var("STORE_SEEDS").ok();
    let (first, count) = seeds
        .as_deref()
        .and_then(|seeds| seeds.split_once('+'))
        .map_or((0, 40), |(first, count)| (first.parse().unwrap(), count.parse().unwrap()));
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed}; again with STORE_SEEDS={seed}+1");
    }
}
