//! The memory that a port shares with us: command list, received frames, command tables.

use super::options::TRANSFER_MAX;
use crate::dma::{ArenaMap, DeviceMemory, PAGE, Span};
use storage_spec::ahci::{
    CommandFlags, CommandHeader, DESCRIPTOR_MAX, Descriptor, RECEIVED_BYTES, RECEIVED_DEVICE_BITS,
    RECEIVED_REGISTER, SLOTS_MAX, TABLE_DESCRIPTORS,
};
use storage_spec::ata::{AtaStatus, DeviceFrame, FRAME_BITS, FRAME_DEVICE, HostFrame, SECTOR};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a command table.
const TABLE: usize = 2 * PAGE;
/// Descriptors of a command table.
const DESCRIPTORS_MAX: usize = (TABLE - TABLE_DESCRIPTORS) / size_of::<Descriptor>();
// Each of at most 64 segments may begin and end within a page.
const _: () = assert!(TRANSFER_MAX / PAGE + 2 * 64 <= DESCRIPTORS_MAX);

/// Zeroes that are written where zeroes are to be.
const ZEROES: usize = 16 * PAGE;

const RECEIVED: usize = SLOTS_MAX * size_of::<CommandHeader>();
const SCRATCH_AT: usize = PAGE;
const TABLES_AT: usize = 2 * PAGE;
const ZEROES_AT: usize = TABLES_AT + SLOTS_MAX * TABLE;

/// Bytes of what a command carries that is no buffer: ranges, logs.
pub(super) const SCRATCH: usize = PAGE;

/// The memory of one port, and where the port finds the buffers of the arena.
pub(super) struct PortMemory {
    memory: DeviceMemory,
    arena: ArenaMap,
}

/// What a command moves.
pub(super) enum Payload<'a> {
    /// Nothing.
    None,
    /// From the drive to a buffer.
    Read(Span),
    /// Segments to the drive, one after another.
    Write(&'a mut dyn Iterator<Item = Span>),
    /// So many zeroes to the drive.
    Zeroes(usize),
    /// From the drive to the first sector of the scratch page.
    ScratchIn,
    /// So many bytes of the scratch page to the drive.
    ScratchOut(usize),
}

impl PortMemory {
    /// Bytes that it takes.
    pub(super) const BYTES: usize = ZEROES_AT + ZEROES;

    /// `memory`: zeroed, [`PortMemory::BYTES`] long.
    pub(super) fn new(memory: DeviceMemory, arena: ArenaMap) -> Self {
        assert!(memory.len() >= Self::BYTES);
        Self { memory, arena }
    }

    /// Device addresses of the command list and of the received frames.
    pub(super) fn bases(&self) -> (u64, u64) {
        (self.memory.address(0), self.memory.address(RECEIVED))
    }

    /// Forgets what was received.
    pub(super) fn clear_received(&self) {
        (0..RECEIVED_BYTES / 8).for_each(|word| self.memory.store64(RECEIVED + word * 8, 0));
    }

    /// Whether a frame tells of an error, since they were cleared.
    #[inline]
    pub(super) fn tells_error(&self) -> bool {
        let tells = |at: usize, kind: u8| {
            let [found, _, status, _] = self.memory.load32(RECEIVED + at).to_le_bytes();
            let status = AtaStatus::from(status);
            found == kind && (status.error() || status.fault())
        };
        tells(RECEIVED_DEVICE_BITS, FRAME_BITS) || tells(RECEIVED_REGISTER, FRAME_DEVICE)
    }

    /// The commands that the last set device bits frame has ended; none the next time, if there is
    /// no other by then.
    #[inline]
    pub(super) fn take_ended(&self) -> u32 {
        let frame = self.memory.load64(RECEIVED + RECEIVED_DEVICE_BITS);
        if frame as u8 != FRAME_BITS {
            return 0;
        }
        // One that comes meanwhile is lost with it: its commands are vouched for by nobody then.
        self.memory.store32(RECEIVED + RECEIVED_DEVICE_BITS, 0);
        (frame >> 32) as u32
    }

    /// The last register frame.
    pub(super) fn register_frame(&self) -> DeviceFrame {
        let mut bytes = [0; 24];
        self.memory.copy_out(RECEIVED + RECEIVED_REGISTER, &mut bytes);
        let mut frame = DeviceFrame::new_zeroed();
        frame.as_mut_bytes().copy_from_slice(&bytes[..size_of::<DeviceFrame>()]);
        frame
    }

    /// The first sector of the scratch page.
    pub(super) fn scratch(&self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        self.memory.copy_out(SCRATCH_AT, &mut bytes);
        bytes
    }

    /// Clears the first sector of the scratch page.
    pub(super) fn clear_scratch(&self) {
        self.memory.copy_in(SCRATCH_AT, &[0; SECTOR]);
    }

    /// Sets a word of the scratch page.
    pub(super) fn set_scratch(&self, word: usize, value: u64) {
        self.memory.store64(SCRATCH_AT + word * 8, value);
    }

    /// Writes a slot's command.
    #[inline]
    pub(super) fn write_command(&self, slot: usize, frame: &HostFrame, payload: Payload) {
        let table = TABLES_AT + slot * TABLE;
        let mut bytes = [0; 24];
        bytes[..size_of::<HostFrame>()].copy_from_slice(frame.as_bytes());
        let words: [u64; 3] = zerocopy::transmute!(bytes);
        self.memory.write_words(table, &words);
        let mut list = List { memory: &self.memory, table, count: 0 };
        let is_write = match payload {
            Payload::None => false,
            Payload::Read(span) => {
                self.add_span(&mut list, &span);
                false
            }
            Payload::Write(spans) => {
                spans.for_each(|span| self.add_span(&mut list, &span));
                true
            }
            Payload::Zeroes(mut bytes) => {
                while bytes > 0 {
                    let len = bytes.min(ZEROES);
                    list.add(self.memory.address(ZEROES_AT), len);
                    bytes -= len;
                }
                true
            }
            Payload::ScratchIn => {
                list.add(self.memory.address(SCRATCH_AT), SECTOR);
                false
            }
            Payload::ScratchOut(len) => {
                list.add(self.memory.address(SCRATCH_AT), len);
                true
            }
        };
        let flags = CommandFlags::new()
            .with_fis_dwords((size_of::<HostFrame>() / 4) as u8)
            .with_write(is_write)
            .with_descriptors(list.count as u16);
        let header = CommandHeader {
            flags: U32::new(flags.into()),
            moved: U32::ZERO,
            table: U64::new(self.memory.address(table)),
            reserved: [0; 16],
        };
        let words: [u64; 4] = zerocopy::transmute!(header);
        self.memory.write_words(slot * size_of::<CommandHeader>(), &words);
    }

    #[inline]
    fn add_span(&self, list: &mut List, span: &Span) {
        let mut at = 0;
        while at < span.len() {
            let (address, len) = self.arena.piece(span, at);
            let len = len.min(DESCRIPTOR_MAX);
            list.add(address, len);
            at += len;
        }
    }
}

/// Descriptors of a command as they are added.
struct List<'a> {
    memory: &'a DeviceMemory,
    table: usize,
    count: usize,
}

impl List<'_> {
    #[inline]
    fn add(&mut self, address: u64, len: usize) {
        assert!(self.count < DESCRIPTORS_MAX, "no transfer is longer than the largest");
        assert!(address.is_multiple_of(2) && len.is_multiple_of(2) && len > 0);
        let descriptor = Descriptor {
            address: U64::new(address),
            reserved: U32::ZERO,
            bytes_z: U32::new((len - 1) as u32),
        };
        let words: [u64; 2] = zerocopy::transmute!(descriptor);
        let at = self.table + TABLE_DESCRIPTORS + self.count * size_of::<Descriptor>();
        self.memory.write_words(at, &words);
        self.count += 1;
    }
}
