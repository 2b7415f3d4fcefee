//! What a drive says of itself.

use super::super::Info;
use super::options::{AhciOptions, TRANSFER_MAX, Trouble};
use storage_spec::ahci::{HostCapabilities, SLOTS_MAX};
use storage_spec::ata::{IdentifyDevice, word};

/// Most operations that a handle may have in flight: what the drive cannot take yet waits with us.
const HANDLE_DEPTH: usize = SLOTS_MAX;

/// A drive, as it identified itself (ACS-4, section 7.13.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveFacts {
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Capacity in logical blocks.
    pub blocks: u64,
    /// log2 of a logical block's bytes: 9 to 12.
    pub block_shift: u8,
    /// log2 of a physical block's bytes, which is larger with 512e drives.
    pub physical_shift: u8,
    /// Where in its physical block the first logical block lies, in logical blocks.
    pub alignment: u16,
    /// Queued commands that adapter and drive take, by the options; `None` without NCQ.
    pub queue: Option<u8>,
    /// It has forced writes.
    pub fua: bool,
    /// It has a volatile cache, and the cache is on.
    pub volatile_cache: bool,
    /// Most blocks of ranges in a TRIM; `None` without TRIM.
    pub trim_blocks: Option<u16>,
    /// Trimmed blocks read the same each time.
    pub trim_is_deterministic: bool,
    /// Trimmed blocks read as zeroes.
    pub trim_reads_zero: bool,
    /// It has SMART, and SMART is on.
    pub smart: bool,
    /// Its heads leave the medium when told to.
    pub unloads: bool,
    /// Turns in a minute, where it turns and says so.
    pub turns: Option<u16>,
    /// Whether it turns, as far as is known.
    pub is_rotational: bool,
}

impl DriveFacts {
    /// From IDENTIFY DEVICE data.
    ///
    /// # Errors
    /// [`Trouble::Identify`] for what cannot be, [`Trouble::Unsupported`] for what we do not drive.
    pub(super) fn new(
        identify: &IdentifyDevice,
        capabilities: HostCapabilities,
        options: &AhciOptions,
    ) -> Result<Self, Trouble> {
        check(identify)?;
        let block = block_bytes(identify);
        if !(512..=4096).contains(&block) || !block.is_power_of_two() {
            return Err(Trouble::Unsupported("blocks of other than 512 to 4096 bytes"));
        }
        let block_shift = block.ilog2() as u8;
        let blocks = identify.four_words(word::CAPACITY);
        if blocks == 0 || blocks > 1 << 48 {
            return Err(Trouble::Identify("its capacity"));
        }
        let sizes = identify.word(word::BLOCK_SIZE);
        let has_physical = identify.valid_bit(word::BLOCK_SIZE, 13);
        let shift = if has_physical { (sizes & 0xF) as u8 } else { 0 };
        let has_alignment = identify.word(word::ALIGNMENT) >> 14 == 0b01;
        let alignment = identify.word(word::ALIGNMENT) & 0x3FFF;
        let turns = identify.word(word::ROTATION);
        let has_trim = identify.bit(word::DATA_SET_MANAGEMENT, 0);
        let additional = |bit| has_trim && identify.bit(word::ADDITIONAL, bit);
        Ok(Self {
            model: text(identify, word::MODEL),
            serial: text(identify, word::SERIAL),
            firmware: text(identify, word::FIRMWARE),
            blocks,
            block_shift,
            physical_shift: block_shift + shift,
            alignment: if has_alignment { alignment } else { 0 },
            queue: queue(identify, capabilities, options),
            fua: identify.valid_bit(word::SUPPORTED_3, 6),
            volatile_cache: identify.bit(word::ENABLED_1, 5),
            trim_blocks: has_trim.then(|| identify.word(word::TRIM_BLOCKS_MAX).max(1)),
            trim_is_deterministic: additional(14),
            trim_reads_zero: additional(14) && additional(5),
            smart: identify.bit(word::SUPPORTED_1, 0) && identify.bit(word::ENABLED_1, 0),
            unloads: identify.valid_bit(word::SUPPORTED_3, 13),
            turns: (0x0401..=0xFFFE).contains(&turns).then_some(turns),
            is_rotational: turns != 1,
        })
    }

    /// Whether this is the drive that `other` was: only its settings may differ.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let identity = |facts: &Self| {
            let Self { model, serial, blocks, block_shift, .. } = facts;
            (model.clone(), serial.clone(), *blocks, *block_shift)
        };
        identity(self) == identity(other)
    }

    /// What a handle on the whole drive says.
    pub(super) fn info(&self, name: String, options: &AhciOptions) -> Info {
        Info {
            name,
            capacity: self.blocks << self.block_shift,
            block_size: 1 << self.block_shift,
            // ATA promises nothing.
            atomic_write: 0,
            volatile_cache: self.is_cached(options),
            fua: !self.is_cached(options) || self.forces(options),
            deallocate: self.trim_blocks.is_some(),
            rotational: self.is_rotational,
            queue_depth: HANDLE_DEPTH,
            transfer_max: TRANSFER_MAX,
        }
    }

    /// Whether writes have to be flushed.
    pub(super) fn is_cached(&self, options: &AhciOptions) -> bool {
        self.volatile_cache && !options.cache_is_safe
    }

    /// Whether writes can be forced by one command.
    pub(super) fn forces(&self, options: &AhciOptions) -> bool {
        self.fua && options.honours_fua
    }
}

fn check(identify: &IdentifyDevice) -> Result<(), Trouble> {
    let has_sum = identify.word(word::INTEGRITY) & 0xFF == 0xA5;
    if has_sum && identify.sum() != 0 {
        return Err(Trouble::Identify("its checksum"));
    }
    if identify.bit(word::GENERAL, 15) {
        return Err(Trouble::Unsupported("no ATA disk"));
    }
    if !identify.bit(word::CAPABILITIES, 9) || !identify.bit(word::CAPABILITIES, 8) {
        return Err(Trouble::Unsupported("no DMA"));
    }
    // The cache is flushed by the extended command alone.
    let has_48_bits =
        identify.valid_bit(word::SUPPORTED_2, 10) && identify.valid_bit(word::SUPPORTED_2, 13);
    if has_48_bits { Ok(()) } else { Err(Trouble::Unsupported("no 48-bit addresses")) }
}

fn block_bytes(identify: &IdentifyDevice) -> u32 {
    if !identify.valid_bit(word::BLOCK_SIZE, 12) {
        return 512;
    }
    let [low, high] = [0, 1].map(|half| u32::from(identify.word(word::BLOCK_WORDS + half)));
    (low | high << 16).saturating_mul(2)
}

fn queue(
    identify: &IdentifyDevice,
    capabilities: HostCapabilities,
    options: &AhciOptions,
) -> Option<u8> {
    let sata = identify.word(word::SATA_CAPABILITIES);
    // All zeroes or all ones: not reported.
    let has_queue =
        capabilities.queueing() && sata != 0xFFFF && sata & 1 == 0 && sata >> 8 & 1 == 1;
    let drive = (identify.word(word::QUEUE_DEPTH) & 0x1F) as u8 + 1;
    has_queue.then(|| drive.min(capabilities.slots_z() + 1).min(options.depth).max(1))
}

/// Characters lie two to a word, the first in the high half, padded with spaces.
fn text(identify: &IdentifyDevice, words: std::ops::Range<usize>) -> String {
    let bytes = identify.words[words].iter().flat_map(|word| word.get().to_be_bytes());
    let character = |byte: u8| match byte {
        0 => ' ',
        byte if byte.is_ascii_graphic() || byte == b' ' => char::from(byte),
        _ => '?',
    };
    let text: String = bytes.map(character).collect();
    text.trim().to_owned()
}
