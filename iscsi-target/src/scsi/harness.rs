//! A device, its volumes in memory, and commands run to their end: for tests and fuzzing.

use super::control::{Device, DeviceConfig, Effect, Nexus, Port, UnitConfig};
use super::{
    Admitted, Attentions, DataIn, Ending, Lun, Needs, Progress, Request, Status, Task, admit,
    piece_len,
};
use core::convert::Infallible;
use reservations::{Failure, Table};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage_spec::crc32c::{self, BLOCK};
use target_io::testing::{Memory, PlainBuf};
use target_io::{Buffer, ConnectionId, Surroundings, TRANSFER_MAX, Ticket, VolumeIndex};

/// What commands of core 0 are tagged with.
const TAG: u16 = 3;

/// A device with its nexuses, which are numbered from 0, and the volumes behind.
pub(super) struct Harness {
    pub(super) memory: Memory,
    pub(super) device: Device,
    /// Of each nexus.
    pub(super) attentions: Vec<Attentions>,
    /// Most bytes of a buffer of a command's data.
    pub(super) piece_max: u32,
    tables: BTreeMap<VolumeIndex, Table>,
}

/// A unit of this volume.
pub(super) fn unit_config(volume: u32, capacity: usize, block_shift: u8) -> UnitConfig {
    let mut uuid = [0xA0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    uuid[15] = volume as u8;
    UnitConfig {
        volume: VolumeIndex(volume),
        uuid,
        name: format!("v{volume}"),
        capacity: capacity as u64,
        block_shift,
        read_only: false,
    }
}

/// The connection of a nexus.
pub(super) fn connection(nexus: usize) -> ConnectionId {
    ConnectionId(nexus as u64 + 1)
}

impl Harness {
    /// Units with these capacities and shifts, by LUN, and two nexuses that have heard everything.
    pub(super) fn new(units: &[(usize, u8)]) -> Self {
        let mut device = Device::new(DeviceConfig {
            name: "iqn.2026-01.x:t".into(),
            product: "Volume".into(),
            revision: "1".into(),
            ports: vec![Port { tag: 1, relative: 1 }],
        });
        let sizes: Vec<_> = units.iter().map(|&(capacity, _)| capacity).collect();
        for (number, &(capacity, block_shift)) in units.iter().enumerate() {
            let config = unit_config(number as u32, capacity, block_shift);
            assert!(device.add(Lun(number as u16), config));
        }
        for number in 0..2 {
            device.attach(connection(number), nexus(number));
        }
        while device.take_effect().is_some() {}
        let attentions = vec![Attentions::default(), Attentions::default()];
        let (memory, tables) = (Memory::new(&sizes), BTreeMap::new());
        Self { memory, device, attentions, piece_max: TRANSFER_MAX as u32, tables }
    }

    /// Does what the device wants done, and returns how its command ended.
    pub(super) fn carry_effects(&mut self) -> Option<Ending<Infallible>> {
        let mut ended = None;
        while let Some(effect) = self.device.take_effect() {
            match effect {
                Effect::Attention(connection, lun, attention) => {
                    self.attentions[connection.0 as usize - 1].post(lun, attention);
                }
                // Snapshots are taken anew for every command.
                Effect::Units(_) => {}
                Effect::End(_, tag, ending) => {
                    assert_eq!(tag, TAG);
                    assert!(ended.replace(ending).is_none(), "a command ends once");
                }
                Effect::Reserve { volume, who, order, token } => {
                    let table = self.tables.entry(volume).or_default();
                    let result = table.apply(&who, &order);
                    if let Ok(outcome) = &result {
                        let table = Arc::new(table.clone());
                        self.device.set_reservations(volume, &table, &outcome.notices);
                    }
                    let result = result.map(|_| ()).map_err(Failure::Refused);
                    self.device.reservation_result(token, result);
                }
            }
        }
        ended
    }

    /// A command of the first nexus to LUN 0, with as many data as are given.
    #[cfg(test)]
    pub(super) fn request(&mut self, cdb: &[u8], data: &[u8]) -> Ending<PlainBuf> {
        self.run(0, Lun(0), cdb, data)
    }

    /// Runs a command to its end.
    pub(super) fn run(
        &mut self,
        nexus: usize,
        lun: Lun,
        cdb: &[u8],
        data: &[u8],
    ) -> Ending<PlainBuf> {
        let ending = match self.admit(nexus, lun, cdb, data.len()) {
            Admitted::End(ending) => ending,
            Admitted::Control(command, needs) => {
                let data = &data[..needs.data_out as usize];
                self.device.execute(connection(nexus), TAG, &command, data);
                let ending = self.carry_effects().expect("the order is carried out at once");
                assert!(ending.data.len() <= needs.data_in_max as usize);
                ending.widen()
            }
            Admitted::Task(task, needs) => self.run_task(task, needs, data),
        };
        assert_eq!(ending.sense.is_some(), ending.status == Status::CheckCondition);
        ending
    }

    fn run_task(
        &mut self,
        mut task: Task<PlainBuf>,
        needs: Needs,
        data: &[u8],
    ) -> Ending<PlainBuf> {
        const TICKET: Ticket = Ticket(7);
        let mut feed = Feed::new(needs, data, self.piece_max);
        let mut read = Vec::new();
        let first = feed.next(&mut self.memory);
        let mut progress = task.start(TICKET, first, &mut self.memory);
        loop {
            progress = match progress {
                Progress::End(ending) if read.is_empty() => return ending,
                Progress::End(mut ending) => {
                    if ending.status == Status::Good {
                        read.extend(ending.data.to_vec());
                        ending.data = DataIn::Bytes(read);
                    }
                    return ending;
                }
                Progress::Starved => panic!("there are buffers"),
                Progress::Part { data, left } => {
                    read.extend(data.to_vec());
                    assert_eq!(read.len() + left as usize, needs.data_in_max as usize);
                    drop(data);
                    assert_eq!(self.memory.live(), 0, "nothing is held between two pieces");
                    task.resume(&mut self.memory)
                }
                Progress::WantsData => {
                    assert_eq!(self.memory.live(), 0, "nothing is held between two pieces");
                    let next = feed.next(&mut self.memory);
                    assert!(next.is_some(), "no more is wanted than was said");
                    task.start(TICKET, next, &mut self.memory)
                }
                Progress::Pending => {
                    assert_eq!(self.memory.pending(), 1);
                    let (ticket, result) = self.memory.execute(0);
                    assert_eq!(ticket, TICKET);
                    task.complete(result, &mut self.memory)
                }
            };
        }
    }

    /// Judges a command.
    pub(super) fn admit(
        &mut self,
        nexus: usize,
        lun: Lun,
        cdb: &[u8],
        data_out: usize,
    ) -> Admitted<PlainBuf> {
        let mut full = [0; 16];
        full[..cdb.len()].copy_from_slice(cdb);
        let units = self.device.units(connection(nexus));
        let (data_out, piece_max) = (data_out as u32, self.piece_max);
        let request = Request { cdb: &full, lun: Some(lun), data_out, piece_max };
        admit(request, &units, &mut self.attentions[nexus])
    }
}

fn nexus(number: usize) -> Nexus {
    let initiator = format!("iqn.2026-01.x:i{number}");
    Nexus { initiator, isid: [0x80, 0, 0, 0, 0, number as u8], tag: 1 }
}

/// Puts the first piece of data-out where a task needs it, and fills the cells of whole pages.
pub(super) fn land(memory: &mut Memory, needs: Needs, data: &[u8]) -> PlainBuf {
    Feed::new(needs, data, TRANSFER_MAX as u32).next(memory).expect("there are data")
}

/// The data-out of a command, in pieces.
pub(super) struct Feed {
    head: u32,
    rest: VecDeque<u8>,
    piece_max: u32,
}

impl Feed {
    pub(super) fn new(needs: Needs, data: &[u8], piece_max: u32) -> Self {
        let rest = data[..needs.data_out as usize].to_vec().into();
        Self { head: needs.page_offset, rest, piece_max }
    }

    /// The next piece in its buffer.
    pub(super) fn next(&mut self, memory: &mut Memory) -> Option<PlainBuf> {
        let len = piece_len(self.head, self.rest.len() as u32, self.piece_max) as usize;
        let head = core::mem::take(&mut self.head) as usize;
        let data: Vec<u8> = self.rest.drain(..len).collect();
        if data.is_empty() {
            return None;
        }
        let span = (head + len).next_multiple_of(BLOCK);
        let mut buf = memory.alloc(span).expect("there are buffers");
        buf.bytes_mut()[head..head + len].copy_from_slice(&data);
        for page in 0..span / BLOCK {
            let crc = crc32c::checksum(&buf.bytes()[page * BLOCK..(page + 1) * BLOCK]);
            buf.crcs_mut()[page] = crc;
        }
        Some(buf)
    }
}

impl DataIn<PlainBuf> {
    pub(super) fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Buffer { buf, range } => buf.bytes()[range.clone()].to_vec(),
        }
    }
}

/// The data of a command that has succeeded.
#[cfg(test)]
pub(super) fn bytes_of(ending: Ending<PlainBuf>) -> Vec<u8> {
    assert_eq!((ending.status, ending.sense), (Status::Good, None));
    ending.data.to_vec()
}
