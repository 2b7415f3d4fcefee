//! Bodies of the fuzz targets: arbitrary bytes in, a panic only when a promise is broken.

use crate::connection::{Config, Connection};
use crate::io::{BlockError, Now, VolumeIndex};
use crate::seam::{Access, ConnectionId, Namespace};
use crate::testing::{HostConfig, Link, Memory, PlainBuf, Transfer, Wire, command, script};
use std::sync::Arc;
use storage_spec::nvme::command::{Command, Direction, FUSE_FIRST, FUSE_SECOND, NvmOpcode};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

const SIZE: usize = 64 << 10;

fn namespaces() -> [Namespace; 2] {
    let namespace = |volume, block_shift| Namespace {
        volume: VolumeIndex(volume),
        capacity: SIZE as u64,
        block_shift,
        read_only: false,
        access: Access::ALL,
    };
    [namespace(0, 9), namespace(1, 12)]
}

/// A host's stream, sent to a new connection at once and byte by byte: the answers must be equal.
pub fn pdu_stream(bytes: &[u8]) {
    assert!(stream_in_pieces(bytes, usize::MAX) == stream_in_pieces(bytes, 1));
}

fn stream_in_pieces(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let now = Now::from_secs(1);
    let mut memory = Memory::new(&[SIZE, SIZE]);
    let mut connection = Connection::<PlainBuf>::new(ConnectionId(1), Config::default(), now);
    let association = Arc::new(crate::seam::Association::new(1, now));
    let namespaces = namespaces().into_iter().map(Some).collect();
    let mut wire = Wire::new(usize::MAX);
    // Events and completions are served where PDUs end, so that they do not depend on the pieces.
    for pdu in pdus(bytes) {
        for piece in pdu.chunks(piece) {
            let mut rest = piece;
            while !rest.is_empty() {
                let taken = connection.receive(now, rest, &mut memory);
                rest = &rest[taken..];
                if taken == 0 {
                    settle(&mut connection, &mut memory, &mut wire);
                    connection.resume(now, &mut memory);
                    assert!(!connection.blocked(), "with nothing in flight nothing is refused");
                }
            }
        }
        while let Some(event) = connection.take_event() {
            connection.reply(event.slot, script(&event, &association, &namespaces));
        }
        settle(&mut connection, &mut memory, &mut wire);
    }
    if connection.is_terminating() {
        // How much of the offending header is sent back depends on how much was there.
        let last = wire.bytes.len() - terminated_len(&wire.bytes);
        wire.bytes.truncate(last + 24);
        wire.bytes[last + 4..last + 8].fill(0);
    }
    connection.close();
    assert!(connection.is_over() && connection.outstanding() == 0 && memory.live() == 0);
    (wire.bytes, memory.volumes)
}

/// The stream cut where the lengths that it gives say that PDUs end.
fn pdus(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pdus = Vec::new();
    while !bytes.is_empty() {
        let len = match bytes.get(4..8) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => bytes.len(),
        };
        let (pdu, rest) = bytes.split_at(len.clamp(8.min(bytes.len()), bytes.len()));
        pdus.push(pdu);
        bytes = rest;
    }
    pdus
}

/// Length of the last PDU.
fn terminated_len(mut bytes: &[u8]) -> usize {
    loop {
        let len = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize;
        if len == bytes.len() {
            return len;
        }
        bytes = &bytes[len..];
    }
}

fn settle(connection: &mut Connection<PlainBuf>, memory: &mut Memory, wire: &mut Wire) {
    while memory.pending() > 0 {
        let (ticket, result) = memory.execute(0);
        connection.complete(ticket, result, memory);
    }
    connection.transmit(wire);
}

/// A schedule of commands, fragments, completions, aborts and faults on a connected I/O queue, with
/// a host that checks every answer, and in the end a cut.
pub fn connection(bytes: &[u8]) {
    let mut script = Script(bytes);
    let flags = script.byte();
    let host = HostConfig {
        header_digest: flags & 1 != 0,
        data_digest: flags & 2 != 0,
        flow_control_disabled: flags & 4 != 0,
        in_capsule_max: if flags & 8 != 0 { 8192 } else { 0 },
        data_alignment: flags >> 4,
        entries: 8,
        h2c_data_max: 1 << 20,
        ..HostConfig::default()
    };
    let memory = Memory::new(&[SIZE, SIZE]);
    let queue_id = u16::from(flags & 0x10 == 0);
    let mut link = Link::connected(host, Config::default(), memory, &namespaces(), queue_id);
    link.hold_blocks = true;
    let mut next = 100;
    while !script.0.is_empty() {
        act(&mut link, &mut script, &mut next);
        while link.host.any_finished().is_some() {}
        assert!(link.memory.live() <= 16, "one buffer per slot, and a range list");
    }
    link.connection.close();
    while link.memory.pending() > 0 {
        link.complete(0);
    }
    assert!(link.connection.outstanding() == 0 && link.memory.live() == 0);
}

fn act(link: &mut Link, script: &mut Script<'_>, next: &mut u16) {
    match script.byte() % 16 {
        0..=4 => {
            if link.host.outstanding() < 12 {
                submit(link, script);
            }
        }
        5 => {
            let count = 1 + usize::from(script.byte()) * usize::from(script.byte());
            link.deliver(&mut |_| count);
        }
        6 => {
            link.deliver(&mut |available| available);
        }
        7 if link.memory.pending() > 0 => {
            let index = usize::from(script.byte()) % link.memory.pending();
            link.complete(index);
        }
        8 => {
            link.wire_room = usize::from(script.byte() % 4);
            if link.connection.is_terminating() {
                link.wire_room = 0;
            }
            link.collect();
        }
        9 => link.host.hold_r2ts = script.byte() & 1 == 0,
        10 => link.host.answer_r2ts(),
        11 => {
            link.connection.abort(u16::from(script.byte()));
        }
        12 => link.memory.buffers_max = usize::from(script.byte() % 8),
        13 => link.association.set_enabled(script.byte() & 3 != 0),
        14 => match script.byte() % 4 {
            0 => link.host.spoil_next_data_digest = true,
            1 => link.memory.fail_next = Some(BlockError::Full),
            2 => link.memory.fail_next = Some(BlockError::Media { offset: 0 }),
            _ => link.memory.fail_next = Some(BlockError::VolumeGone),
        },
        _ => {
            // A command of any bits, by a name that no other has.
            let mut bytes = [0; 64];
            for (byte, value) in bytes.iter_mut().zip(script.take(64)) {
                *byte = *value;
            }
            let mut command = Command::read_from_bytes(&bytes).expect("both are 64 bytes");
            command.command_id = (*next).into();
            *next += 1;
            let transfer = transfer(&command, script);
            link.host.submit_as(command, transfer);
            link.serve_events();
        }
    }
    link.serve_events();
}

fn submit(link: &mut Link, script: &mut Script<'_>) {
    let opcodes = [
        NvmOpcode::Read,
        NvmOpcode::Write,
        NvmOpcode::Compare,
        NvmOpcode::WriteZeroes,
        NvmOpcode::DatasetManagement,
        NvmOpcode::Copy,
        NvmOpcode::Verify,
        NvmOpcode::WriteUncorrectable,
        NvmOpcode::Flush,
    ];
    let opcode = opcodes[usize::from(script.byte()) % opcodes.len()];
    let namespace_id = u32::from(script.byte() % 4);
    let lba = u64::from(script.byte());
    let blocks = 1 + u32::from(script.byte() % 20);
    let mut command = command(opcode, namespace_id, lba, blocks);
    let shift = if namespace_id == 2 { 12 } else { 9 };
    let transfer = match opcode {
        NvmOpcode::Read => Transfer::Read((blocks as usize) << shift),
        NvmOpcode::Write | NvmOpcode::Compare => {
            command.flags = match script.byte() % 4 {
                2 => FUSE_FIRST,
                3 => FUSE_SECOND,
                _ => 0,
            };
            let data = vec![script.byte(); (blocks as usize) << shift];
            if script.byte() & 1 == 0 { Transfer::Write(data) } else { Transfer::WriteByR2t(data) }
        }
        NvmOpcode::DatasetManagement | NvmOpcode::Copy => {
            command.dwords[0] = U32::new(u32::from(script.byte() % 4));
            command.dwords[1] = U32::new(u32::from(script.byte() & 4));
            command.dwords[2] = U32::new(u32::from(script.byte() % 4));
            let mut list = script.take(160).to_vec();
            list.resize(160, 0);
            Transfer::Write(list)
        }
        _ => Transfer::None,
    };
    link.host.submit(command, transfer);
}

/// Data in the direction that the command has: a host sends no other.
fn transfer(command: &Command, script: &mut Script<'_>) -> Transfer {
    let len = usize::from(script.byte()) * 64;
    match command.direction() {
        _ if len == 0 => Transfer::None,
        Direction::None | Direction::Both => Transfer::None,
        Direction::ControllerToHost => Transfer::Read(len),
        Direction::HostToController if script.byte() & 1 == 0 => {
            Transfer::Write(vec![script.byte(); len])
        }
        Direction::HostToController => Transfer::WriteByR2t(vec![script.byte(); len]),
    }
}

/// Bytes that are taken from the front; zeroes when they have run out.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn connection_bears_any_schedule(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            connection(&bytes);
        }

        /// A good stream with a few bytes changed.
        #[test]
        fn pdu_stream_bears_damage(
            digests: bool, changes: Vec<(prop::sample::Index, u8)>,
        ) {
            let mut bytes = good_stream(digests);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            pdu_stream(&bytes);
        }
    }

    /// What a host sends that does a little of everything; R2Ts are answered as if they came.
    fn good_stream(digests: bool) -> Vec<u8> {
        let host =
            HostConfig { header_digest: digests, data_digest: digests, ..HostConfig::default() };
        let memory = Memory::new(&[SIZE, SIZE]);
        let mut link = Link::new(host, Config::default(), memory, &namespaces());
        let mut stream = Vec::new();
        let mut step = |link: &mut Link| {
            loop {
                let output = link.host.take_output();
                if output.is_empty() {
                    return;
                }
                stream.extend_from_slice(&output);
                link.host.output_raw(&output);
                link.run_in_chunks(&mut |available| available.min(100));
            }
        };
        step(&mut link);
        link.host.connect(1, 1, "nqn.s", "nqn.h");
        step(&mut link);
        for (opcode, namespace, transfer) in [
            (NvmOpcode::Write, 1, Transfer::Write(vec![3; 1024])),
            (NvmOpcode::Read, 1, Transfer::Read(1024)),
            (NvmOpcode::Compare, 1, Transfer::Write(vec![3; 1024])),
            (NvmOpcode::Flush, 1, Transfer::None),
            (NvmOpcode::WriteZeroes, 1, Transfer::None),
        ] {
            link.host.submit(command(opcode, namespace, 4, 2), transfer);
            step(&mut link);
        }
        stream
    }

    #[test]
    fn a_good_stream_is_answered() {
        for digests in [false, true] {
            let stream = good_stream(digests);
            let (answers, _) = stream_in_pieces(&stream, usize::MAX);
            assert!(answers.len() > 128 + 1024, "{} bytes of answers", answers.len());
            pdu_stream(&stream);
        }
    }

    /// Writes the first inputs of the corpora, from which fuzzing goes on.
    #[test]
    #[ignore = "writes to the tree"]
    fn write_seeds() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for corpus in ["pdu_stream", "connection"] {
            std::fs::create_dir_all(folder.join(corpus)).unwrap();
        }
        for (name, digests) in [("plain", false), ("digests", true)] {
            std::fs::write(folder.join("pdu_stream").join(name), good_stream(digests)).unwrap();
        }
        for flags in [0_u8, 0x0C, 0x07, 0x0F, 0x1C] {
            let schedule: Vec<u8> = core::iter::once(flags)
                .chain((0..400_u32).map(|at| (at * at * 7 + at * 13 + u32::from(flags)) as u8))
                .collect();
            let name = format!("schedule-{flags:02x}");
            std::fs::write(folder.join("connection").join(name), schedule).unwrap();
        }
    }
}
