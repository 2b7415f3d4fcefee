//! Random commands over random fragments, completed in random order, against an array of bytes.

use super::*;
use crate::seam::Access;
use crate::testing::{Finished, Transfer, command};
use proptest::prelude::*;
use std::collections::BTreeMap;
use storage_spec::nvme::command::{FUSE_FIRST, FUSE_SECOND, NvmOpcode};
use zerocopy::little_endian::U32;

/// A command in flight has a region of its own, so that what it must find is known.
const REGION: usize = 48 << 10;
const REGIONS: usize = 16;

#[derive(Debug, Clone)]
enum Expect {
    Data(Vec<u8>),
    Written(usize, Vec<u8>),
    Compared(bool),
    Pair { equal: bool, first: bool, at: usize, data: Vec<u8> },
    Zeroed(usize, usize),
}

/// A host that does as the dice say, and what it knows of the volumes.
struct Player {
    link: Link,
    dice: u64,
    oracle: [Vec<u8>; 2],
    /// Which regions of each namespace are in use.
    busy: [[bool; REGIONS]; 2],
    flight: BTreeMap<u16, (usize, usize, Expect)>,
}

impl Player {
    fn new(seed: u64) -> Self {
        let mut dice = seed | 1;
        let mut bit = || {
            dice = step(dice);
            dice & 1 == 1
        };
        let host = HostConfig {
            header_digest: bit(),
            data_digest: bit(),
            flow_control_disabled: bit(),
            data_alignment: if bit() { (seed >> 8) as u8 % 32 } else { 0 },
            in_capsule_max: if bit() { 8192 } else { 0 },
            entries: 12,
            h2c_data_max: if bit() { 4096 + (seed >> 16) as usize % 9000 / 4 * 4 } else { 1 << 20 },
            host_id: [7; 16],
        };
        let size = REGION * REGIONS;
        let mut namespaces = namespaces();
        namespaces.truncate(2);
        namespaces.iter_mut().for_each(|namespace| namespace.capacity = size as u64);
        let memory = Memory::new(&[size, size]);
        let oracle = [memory.volumes[0].clone(), memory.volumes[1].clone()];
        let buffers_max = if bit() { 256 << 10 } else { usize::MAX };
        let config = Config { buffers_max, ..Config::default() };
        let mut link = Link::connected(host, config, memory, &namespaces, 1);
        link.hold_blocks = true;
        Self { link, dice, oracle, busy: [[false; REGIONS]; 2], flight: BTreeMap::new() }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice = step(self.dice);
        (self.dice >> 20) as usize % sides
    }

    fn turn(&mut self) {
        match self.roll(8) {
            0 | 1 => self.submit(),
            2 if self.link.memory.pending() > 0 => {
                let index = self.roll(self.link.memory.pending());
                self.link.complete(index);
            }
            3 => {
                self.link.wire_room = self.roll(4);
                self.link.collect();
            }
            4 => self.link.host.answer_r2ts(),
            5 => {
                self.link.host.hold_r2ts = self.roll(2) == 0;
                self.link.memory.buffers_max = [1, 3, 1000][self.roll(3)];
            }
            _ => {
                let most = [1, 30, 200, 5000, 100_000][self.roll(5)];
                let count = 1 + self.roll(most);
                self.link.deliver(&mut |_| count);
            }
        }
        self.check();
    }

    fn submit(&mut self) {
        if self.flight.len() >= 9 {
            return;
        }
        let namespace = self.roll(2);
        let region = self.roll(REGIONS);
        if self.busy[namespace][region] {
            return;
        }
        let shift = [9, 12][namespace];
        let blocks = REGION >> shift;
        let count = if self.roll(2) == 0 { 1 } else { 1 + self.roll(blocks) };
        let first = self.roll(blocks - count + 1);
        let (at, len) = (region * REGION + (first << shift), count << shift);
        let (id, lba, count) = (namespace as u32 + 1, (at >> shift) as u64, count as u32);
        let seed = self.roll(256) as u8;
        let form = if self.roll(2) == 0 { Transfer::Write } else { Transfer::WriteByR2t };
        let current = self.oracle[namespace][at..at + len].to_vec();
        let (command_id, expect) = match self.roll(8) {
            0 | 1 => {
                let read = command(NvmOpcode::Read, id, lba, count);
                (self.link.host.submit(read, Transfer::Read(len)), Expect::Data(current))
            }
            2 | 3 => {
                let data = bytes(len, seed);
                let write = command(NvmOpcode::Write, id, lba, count);
                (self.link.host.submit(write, form(data.clone())), Expect::Written(at, data))
            }
            4 => {
                let mut data = current;
                let equal = seed & 1 == 0;
                if !equal {
                    data[len / 2] ^= 0x40;
                }
                let compare = command(NvmOpcode::Compare, id, lba, count);
                (self.link.host.submit(compare, form(data)), Expect::Compared(equal))
            }
            5 => {
                let zero = command(NvmOpcode::WriteZeroes, id, lba, count);
                (self.link.host.submit(zero, Transfer::None), Expect::Zeroed(at, len))
            }
            6 => {
                let mut dataset = command(NvmOpcode::DatasetManagement, id, 0, 1);
                dataset.dwords[1] = U32::new(4);
                let mut list = vec![0; 16];
                list[4..8].copy_from_slice(&count.to_le_bytes());
                list[8..].copy_from_slice(&lba.to_le_bytes());
                (self.link.host.submit(dataset, form(list)), Expect::Zeroed(at, len))
            }
            _ => {
                self.submit_pair(namespace, region, seed, form);
                return;
            }
        };
        self.busy[namespace][region] = true;
        self.flight.insert(command_id, (namespace, region, expect));
    }

    fn submit_pair(
        &mut self,
        namespace: usize,
        region: usize,
        seed: u8,
        form: fn(Vec<u8>) -> Transfer,
    ) {
        let at = region * REGION;
        let shift = [9, 12][namespace];
        let (id, lba) = (namespace as u32 + 1, (at >> shift) as u64);
        let len = 1 << shift;
        let mut old = self.oracle[namespace][at..at + len].to_vec();
        let equal = seed & 1 == 0;
        if !equal {
            old[len - 1] ^= 1;
        }
        let data = bytes(len, seed);
        for (first, opcode, data_sent) in
            [(true, NvmOpcode::Compare, old), (false, NvmOpcode::Write, data.clone())]
        {
            let mut command = command(opcode, id, lba, 1);
            command.flags = if first { FUSE_FIRST } else { FUSE_SECOND };
            let command_id = self.link.host.submit(command, form(data_sent));
            let expect = Expect::Pair { equal, first, at, data: data.clone() };
            self.flight.insert(command_id, (namespace, region, expect));
        }
        self.busy[namespace][region] = true;
    }

    fn check(&mut self) {
        while let Some((command_id, finished)) = self.link.host.any_finished() {
            let (namespace, region, expect) = self.flight.remove(&command_id).unwrap();
            self.settle(namespace, expect, &finished);
            let is_busy =
                self.flight.values().any(|flight| (flight.0, flight.1) == (namespace, region));
            self.busy[namespace][region] = is_busy;
        }
    }

    fn settle(&mut self, namespace: usize, expect: Expect, finished: &Finished) {
        let oracle = &mut self.oracle[namespace];
        let expected = match expect {
            Expect::Data(data) => {
                assert!(finished.data == data, "a read finds what was written");
                Status::SUCCESS
            }
            Expect::Written(at, data) => {
                oracle[at..at + data.len()].copy_from_slice(&data);
                Status::SUCCESS
            }
            Expect::Zeroed(at, len) => {
                oracle[at..at + len].fill(0);
                Status::SUCCESS
            }
            Expect::Compared(true) => Status::SUCCESS,
            Expect::Compared(false) => Status::COMPARE_FAILURE.dnr(),
            Expect::Pair { equal: true, at, data, .. } => {
                oracle[at..at + data.len()].copy_from_slice(&data);
                Status::SUCCESS
            }
            Expect::Pair { first: true, .. } => Status::COMPARE_FAILURE.dnr(),
            Expect::Pair { .. } => Status::ABORTED_FAILED_FUSED,
        };
        assert_eq!(finished.status, expected);
    }

    /// Lets everything end.
    fn heal(&mut self) {
        self.link.hold_blocks = false;
        self.link.host.hold_r2ts = false;
        self.link.memory.buffers_max = 1000;
        self.link.wire_room = usize::MAX;
        self.link.host.answer_r2ts();
        self.link.run();
        self.check();
        assert!(self.flight.is_empty(), "every command ends: {:?}", self.flight);
        assert_eq!((self.link.connection.outstanding(), self.link.memory.live()), (0, 0));
        assert!(self.link.memory.volumes[..] == self.oracle[..]);
    }

    /// Loses the connection; what the store has been given still ends.
    fn cut(&mut self) {
        self.link.connection.close();
        while self.link.memory.pending() > 0 {
            let index = self.roll(self.link.memory.pending());
            self.link.complete(index);
        }
        assert_eq!((self.link.connection.outstanding(), self.link.memory.live()), (0, 0));
        assert!(self.link.connection.is_over() && !self.link.connection.wants_transmit());
    }
}

fn step(dice: u64) -> u64 {
    let mut dice = dice;
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^ dice << 17
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_schedule_agrees_with_the_oracle(seed: u64, turns in 50..600_usize) {
        let mut player = Player::new(seed);
        for _ in 0..turns {
            player.turn();
        }
        player.heal();
    }

    #[test]
    fn a_cut_at_any_moment_leaves_nothing(seed: u64, turns in 0..300_usize) {
        let mut player = Player::new(seed);
        for _ in 0..turns {
            player.turn();
        }
        player.cut();
    }
}

/// The same, at each byte of one stream of commands of every kind.
#[test]
fn a_cut_at_any_byte_leaves_nothing() {
    let size = 1 << 16;
    let namespaces = [Namespace {
        volume: VolumeIndex(0),
        capacity: size,
        block_shift: 9,
        read_only: false,
        access: Access::ALL,
    }];
    for cut in 0.. {
        let memory = Memory::new(&[size as usize]);
        let mut link = Link::new(digests(), Config::default(), memory, &namespaces);
        let mut left = cut;
        let mut deliver = |link: &mut Link, hold: bool| {
            link.hold_blocks = hold;
            loop {
                link.serve_events();
                link.collect();
                if left == 0 || !link.deliver(&mut |_| 1) {
                    return;
                }
                left -= 1;
            }
        };
        deliver(&mut link, false);
        link.host.connect(1, 1, "nqn.s", "nqn.h");
        deliver(&mut link, false);
        link.host.submit(command(NvmOpcode::Read, 1, 0, 2), Transfer::Read(1024));
        link.host.submit(command(NvmOpcode::Write, 1, 0, 2), Transfer::Write(vec![1; 1024]));
        link.host.submit(command(NvmOpcode::Write, 1, 0, 2), Transfer::WriteByR2t(vec![1; 1024]));
        link.host.submit(command(NvmOpcode::Write, 2, 0, 1), Transfer::Write(vec![1; 512]));
        deliver(&mut link, true);
        let is_whole = left > 0;
        link.connection.close();
        while link.memory.pending() > 0 {
            link.complete(0);
        }
        assert_eq!((link.connection.outstanding(), link.memory.live()), (0, 0), "cut at {cut}");
        if is_whole {
            assert!(cut > 4000, "the stream was {cut} bytes");
            break;
        }
    }
}
