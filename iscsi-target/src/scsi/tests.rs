//! Commands from CDB to ending.

use super::control::{Device, DeviceConfig, Effect, Nexus, Port, UnitConfig};
use super::*;
use core::convert::Infallible;
use reservations::{Failure, Table};
use target_io::testing::{Memory, PlainBuf};
use target_io::{Buffer, ConnectionId, Surroundings, Ticket};

pub(super) const CONNECTION: ConnectionId = ConnectionId(1);
pub(super) const TAG: u16 = 3;
pub(super) const UUID: [u8; 16] = [0xA1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// A device with one unit, one nexus, and the volumes behind.
pub(super) struct Bench {
    pub(super) memory: Memory,
    pub(super) device: Device,
    pub(super) attentions: Attentions,
    pub(super) table: Table,
}

pub(super) fn unit_config(capacity: usize, block_shift: u8) -> UnitConfig {
    UnitConfig {
        volume: VolumeIndex(0),
        uuid: UUID,
        name: "v".into(),
        capacity: capacity as u64,
        block_shift,
        read_only: false,
    }
}

impl Bench {
    pub(super) fn new(capacity: usize, block_shift: u8) -> Self {
        let mut device = Device::new(DeviceConfig {
            name: "iqn.2026-01.x:t".into(),
            product: "Volume".into(),
            revision: "1".into(),
            ports: vec![Port { tag: 1, relative: 1 }],
        });
        assert!(device.add(Lun(0), unit_config(capacity, block_shift)));
        let nexus = Nexus { initiator: "iqn.2026-01.x:i".into(), isid: [1; 6], tag: 1 };
        device.attach(CONNECTION, nexus);
        while device.take_effect().is_some() {}
        let memory = Memory::new(&[capacity]);
        Self { memory, device, attentions: Attentions::default(), table: Table::new() }
    }

    /// Does what the device wants done, and returns how its command ended.
    pub(super) fn carry_effects(&mut self) -> Option<Ending<Infallible>> {
        let mut ended = None;
        while let Some(effect) = self.device.take_effect() {
            match effect {
                Effect::Attention(CONNECTION, lun, attention) => {
                    self.attentions.post(lun, attention);
                }
                Effect::Attention(..) | Effect::Units(_) => {}
                Effect::End(_, TAG, ending) => ended = Some(ending),
                Effect::End(..) => panic!("another tag"),
                Effect::Reserve { volume, who, order, token } => {
                    let result = self.table.apply(&who, &order);
                    if let Ok(outcome) = &result {
                        let table = Arc::new(self.table.clone());
                        self.device.set_reservations(volume, &table, &outcome.notices);
                    }
                    let result = result.map(|_| ()).map_err(Failure::Refused);
                    self.device.reservation_result(token, result);
                }
            }
        }
        ended
    }

    pub(super) fn request(&mut self, cdb: &[u8], data: &[u8]) -> Ending<PlainBuf> {
        self.request_to(Lun(0), cdb, data)
    }

    /// Runs a command to its end, with as many data as are given.
    pub(super) fn request_to(&mut self, lun: Lun, cdb: &[u8], data: &[u8]) -> Ending<PlainBuf> {
        let mut full = [0; 16];
        full[..cdb.len()].copy_from_slice(cdb);
        let units = self.device.units(CONNECTION);
        let request = Request { cdb: &full, lun: Some(lun), data_out: data.len() as u32 };
        match admit(request, &units, &mut self.attentions) {
            Admitted::End(ending) => ending,
            Admitted::Control(command, needs) => {
                let data = &data[..needs.data_out as usize];
                self.device.execute(CONNECTION, TAG, &command, data);
                self.carry_effects().expect("commands end").widen()
            }
            Admitted::Task(mut task, needs) => {
                let data = (needs.data_out > 0).then(|| land(&mut self.memory, needs, data));
                let mut progress = task.start(Ticket(7), data, &mut self.memory);
                loop {
                    match progress {
                        Progress::End(ending) => return ending,
                        Progress::Starved => panic!("there are buffers"),
                        Progress::Pending => {
                            assert_eq!(self.memory.pending(), 1);
                            let (ticket, result) = self.memory.execute(0);
                            assert_eq!(ticket, Ticket(7));
                            progress = task.complete(result, &mut self.memory);
                        }
                    }
                }
            }
        }
    }
}

/// Puts data-out where a task needs them, and fills the cells of whole pages.
pub(super) fn land(memory: &mut Memory, needs: Needs, data: &[u8]) -> PlainBuf {
    let data = &data[..needs.data_out as usize];
    let head = needs.page_offset as usize;
    let span = (head + data.len()).next_multiple_of(4096);
    let mut buf = memory.alloc(span).expect("there are buffers");
    buf.bytes_mut()[head..head + data.len()].copy_from_slice(data);
    for page in 0..span / 4096 {
        let crc = storage_spec::crc32c::checksum(&buf.bytes()[page * 4096..(page + 1) * 4096]);
        buf.crcs_mut()[page] = crc;
    }
    buf
}

pub(super) fn bytes_of(ending: Ending<PlainBuf>) -> Vec<u8> {
    assert_eq!((ending.status, ending.sense), (Status::Good, None));
    match ending.data {
        DataIn::None => Vec::new(),
        DataIn::Bytes(bytes) => bytes,
        DataIn::Buffer { buf, range } => buf.bytes()[range].to_vec(),
    }
}

#[test]
fn luns_on_the_wire() {
    for (lun, wire) in [(0, [0, 0]), (7, [0, 7]), (255, [0, 255]), (256, [0x41, 0])] {
        let [high, low] = wire;
        let wire = [high, low, 0, 0, 0, 0, 0, 0];
        assert_eq!(Lun(lun).to_wire(), wire);
        assert_eq!(Lun::from_wire(wire), Some(Lun(lun)));
    }
    assert_eq!(Lun::from_wire([0x40, 7, 0, 0, 0, 0, 0, 0]), Some(Lun(7)));
    assert_eq!(Lun::from_wire([1, 7, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(Lun::from_wire([0, 7, 0, 1, 0, 0, 0, 0]), None);
    assert_eq!(Lun::from_wire([0xC1, 1, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn reads_and_writes_of_every_length() {
    let mut bench = Bench::new(1 << 20, 9);
    let data: Vec<u8> = (0..1024).map(|at| at as u8).collect();
    let writes: [&[u8]; 4] = [
        &[0x0A, 0, 0, 9, 2, 0],
        &[0x2A, 0, 0, 0, 0, 9, 0, 0, 2, 0],
        &[0xAA, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        &[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
    ];
    for write in writes {
        bench.memory.volumes[0].fill(0xEE);
        assert!(bytes_of(bench.request(write, &data)).is_empty());
        let mut read = write.to_vec();
        read[0] -= 2;
        assert_eq!(bytes_of(bench.request(&read, &[])), data);
        assert!(bench.memory.volumes[0][..9 * 512].iter().all(|&byte| byte == 0xEE));
        assert_eq!(bench.memory.volumes[0][11 * 512], 0xEE);
    }
}

#[test]
fn capacity_and_luns() {
    let mut bench = Bench::new(1 << 20, 9);
    let capacity = bytes_of(bench.request(&[0x25], &[]));
    assert_eq!(capacity, [0, 0, 7, 0xFF, 0, 0, 2, 0]);
    let cdb = [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    let capacity = bytes_of(bench.request(&cdb, &[]));
    assert_eq!(capacity[..16], [0, 0, 0, 0, 0, 0, 7, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0]);
    let cdb = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(
        bytes_of(bench.request(&cdb, &[])),
        [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    bench.device.remove(Lun(0));
    assert_eq!(bytes_of(bench.request(&cdb, &[])), [0; 8]);
    let standard = bytes_of(bench.request(&[0x12, 0, 0, 0, 96, 0], &[]));
    assert_eq!(standard[0], 0x3F);
    let standard = bytes_of(bench.request_to(Lun(1), &[0x12, 0, 0, 0, 96, 0], &[]));
    assert_eq!((standard[0], standard.len()), (0x7F, 96));
    let sense = bench.request(&[0], &[]).sense.expect("there is no unit");
    assert_eq!(sense.to_bytes()[12], 0x25);
}
