//! What an ATA disk is told and tells: ATA/ATAPI Command Set 4 (ACS-4), and the frames of Serial
//! ATA 3 that carry it.

use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of IDENTIFY DEVICE data, of a page of a log, of SMART data, of a block of ranges.
pub const SECTOR: usize = 512;

/// Signature of a disk after a reset, in a port's signature register.
pub const SIGNATURE_DISK: u32 = 0x0000_0101;
/// Signature of a port multiplier.
pub const SIGNATURE_MULTIPLIER: u32 = 0x9669_0101;

/// Commands (section 7).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AtaCommand {
    /// DATA SET MANAGEMENT: blocks of [`Range`]s.
    DataSetManagement = 0x06,
    /// READ DMA EXT.
    ReadDmaExt = 0x25,
    /// READ LOG EXT: the log in bits 7:0 of the address, the page in 15:8.
    ReadLogExt = 0x2F,
    /// WRITE DMA EXT.
    WriteDmaExt = 0x35,
    /// WRITE DMA FUA EXT.
    WriteDmaFuaExt = 0x3D,
    /// READ FPDMA QUEUED.
    ReadFpdmaQueued = 0x60,
    /// WRITE FPDMA QUEUED.
    WriteFpdmaQueued = 0x61,
    /// SMART: the subcommand in the features field.
    Smart = 0xB0,
    /// STANDBY IMMEDIATE: what the drive has is made safe against a loss of power.
    StandbyImmediate = 0xE0,
    /// IDLE IMMEDIATE, with [`FEATURE_UNLOAD`].
    IdleImmediate = 0xE1,
    /// FLUSH CACHE EXT.
    FlushCacheExt = 0xEA,
    /// IDENTIFY DEVICE.
    IdentifyDevice = 0xEC,
}

/// Feature of DATA SET MANAGEMENT: TRIM.
pub const FEATURE_TRIM: u16 = 1;
/// Feature of IDLE IMMEDIATE: UNLOAD, the heads leave the medium, which goes on turning.
pub const FEATURE_UNLOAD: u16 = 0x44;
/// Address of IDLE IMMEDIATE with UNLOAD.
pub const UNLOAD_SIGNATURE: u64 = 0x55_4E4C;
/// Feature of SMART: READ DATA.
pub const SMART_READ_DATA: u16 = 0xD0;
/// Feature of SMART: RETURN STATUS.
pub const SMART_RETURN_STATUS: u16 = 0xDA;
/// Bits 23:8 of the address of every SMART command; RETURN STATUS leaves them so while all is well.
pub const SMART_SIGNATURE: u64 = 0xC2_4F00;
/// Bits 23:8 of the address after RETURN STATUS where a threshold is exceeded.
pub const SMART_EXCEEDED: u64 = 0x2C_F400;
/// The log of the error that ended queued commands: [`QueuedErrorLog`].
pub const LOG_QUEUED_ERROR: u64 = 0x10;

/// Most blocks of a command; 0 stands for it in the count.
pub const COUNT_MAX: u32 = 65_536;

/// Device field: addresses are of blocks.
pub const DEVICE_LBA: u8 = 0x40;
/// Device field of queued commands: force unit access.
pub const DEVICE_FUA: u8 = 0x80;

/// Register frame from host to device (Serial ATA, section 10.5.5).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct HostFrame {
    /// [`FRAME_HOST`].
    pub kind: u8,
    /// [`FRAME_COMMAND`].
    pub flags: u8,
    /// [`AtaCommand`].
    pub command: u8,
    /// Features, bits 7:0.
    pub features_low: u8,
    /// Address, bits 23:0.
    pub lba_low: [u8; 3],
    /// Device.
    pub device: u8,
    /// Address, bits 47:24.
    pub lba_high: [u8; 3],
    /// Features, bits 15:8.
    pub features_high: u8,
    /// Count.
    pub count: U16,
    /// Isochronous command completion.
    pub icc: u8,
    /// Control.
    pub control: u8,
    /// Auxiliary.
    pub auxiliary: U32,
}
const _: () = assert!(size_of::<HostFrame>() == 20);

impl HostFrame {
    /// A command.
    #[must_use]
    pub fn command(command: AtaCommand, features: u16, lba: u64, count: u16, device: u8) -> Self {
        let [a, b, c, d, e, f, _, _] = lba.to_le_bytes();
        let [features_low, features_high] = features.to_le_bytes();
        Self {
            kind: FRAME_HOST,
            flags: FRAME_COMMAND,
            command: command.0,
            features_low,
            lba_low: [a, b, c],
            device,
            lba_high: [d, e, f],
            features_high,
            count: U16::new(count),
            icc: 0,
            control: 0,
            auxiliary: U32::ZERO,
        }
    }

    /// Address.
    #[must_use]
    pub fn lba(&self) -> u64 {
        let ([a, b, c], [d, e, f]) = (self.lba_low, self.lba_high);
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Features.
    #[must_use]
    pub fn features(&self) -> u16 {
        u16::from_le_bytes([self.features_low, self.features_high])
    }
}

/// [`HostFrame::kind`].
pub const FRAME_HOST: u8 = 0x27;
/// [`HostFrame::flags`]: it carries a command.
pub const FRAME_COMMAND: u8 = 0x80;
/// [`DeviceFrame::kind`].
pub const FRAME_DEVICE: u8 = 0x34;
/// Kind of a PIO setup frame, whose first 16 bytes are as those of a [`DeviceFrame`].
pub const FRAME_PIO_SETUP: u8 = 0x5F;
/// [`BitsFrame::kind`].
pub const FRAME_BITS: u8 = 0xA1;

/// Register frame from device to host (Serial ATA, section 10.5.6).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct DeviceFrame {
    /// [`FRAME_DEVICE`].
    pub kind: u8,
    /// Bit 6: interrupt.
    pub flags: u8,
    /// [`AtaStatus`].
    pub status: u8,
    /// [`AtaError`].
    pub error: u8,
    /// Address, bits 23:0.
    pub lba_low: [u8; 3],
    /// Device.
    pub device: u8,
    /// Address, bits 47:24.
    pub lba_high: [u8; 3],
    /// Reserved.
    pub reserved_11: u8,
    /// Count.
    pub count: U16,
    /// Reserved.
    pub reserved_14: [u8; 6],
}
const _: () = assert!(size_of::<DeviceFrame>() == 20);

/// Set device bits frame (Serial ATA, section 10.5.7).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct BitsFrame {
    /// [`FRAME_BITS`].
    pub kind: u8,
    /// Bit 6: interrupt.
    pub flags: u8,
    /// [`AtaStatus`], without BSY and DRQ.
    pub status: u8,
    /// [`AtaError`].
    pub error: u8,
    /// Queued commands that have ended, a bit for each tag.
    pub ended: U32,
}
const _: () = assert!(size_of::<BitsFrame>() == 8);

/// Status.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct AtaStatus {
    /// ERR.
    pub error: bool,
    #[bits(2)]
    __: u8,
    /// DRQ: data are to be moved.
    pub data_request: bool,
    /// DSC; for us it says nothing.
    pub seek_complete: bool,
    /// DF: the device is faulty.
    pub fault: bool,
    /// DRDY.
    pub ready: bool,
    /// BSY.
    pub busy: bool,
}

/// Error.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct AtaError {
    #[bits(2)]
    __: u8,
    /// ABRT: aborted, or not supported.
    pub abort: bool,
    #[bits(1)]
    __: u8,
    /// IDNF: no such block.
    pub not_found: bool,
    #[bits(1)]
    __: u8,
    /// UNC: the block cannot be read.
    pub uncorrectable: bool,
    /// ICRC: data were damaged on the cable.
    pub interface_crc: bool,
}

/// Log 10h (section 9.14).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct QueuedErrorLog {
    /// [`QueuedErrorTag`].
    pub tag: u8,
    /// Reserved.
    pub reserved_1: u8,
    /// [`AtaStatus`].
    pub status: u8,
    /// [`AtaError`].
    pub error: u8,
    /// Address, bits 23:0.
    pub lba_low: [u8; 3],
    /// Device.
    pub device: u8,
    /// Address, bits 47:24.
    pub lba_high: [u8; 3],
    /// Reserved.
    pub reserved_11: u8,
    /// Count.
    pub count: U16,
    /// Sense key and code, reserved, vendor's own.
    pub rest: [[u8; 71]; 7],
    /// All bytes add up to 0 with it.
    pub checksum: u8,
}
const _: () = assert!(size_of::<QueuedErrorLog>() == SECTOR);

/// [`QueuedErrorLog::tag`].
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct QueuedErrorTag {
    /// Tag of the command that failed.
    #[bits(5)]
    pub tag: u8,
    #[bits(1)]
    __: u8,
    /// UNL: for an unload.
    pub unload: bool,
    /// NQ: the command that failed was not a queued one.
    pub not_queued: bool,
}

/// A range of blocks to trim: address in 47:0, count in 63:48; with a count of 0 it says nothing.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Range {
    /// First block.
    #[bits(48)]
    pub lba: u64,
    /// Blocks.
    pub count: u16,
}

/// Ranges in a block of them.
pub const RANGES_PER_BLOCK: usize = SECTOR / size_of::<u64>();

/// IDENTIFY DEVICE data (section 7.13.6), by its words.
#[repr(transparent)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct IdentifyDevice {
    /// All of them.
    pub words: [U16; 256],
}
const _: () = assert!(size_of::<IdentifyDevice>() == SECTOR);

/// Words of [`IdentifyDevice`].
pub mod word {
    use core::ops::Range;

    /// Bit 15: no ATA device.
    pub const GENERAL: usize = 0;
    /// Serial number, two characters to a word, the first in the high half.
    pub const SERIAL: Range<usize> = 10..20;
    /// Firmware revision, likewise.
    pub const FIRMWARE: Range<usize> = 23..27;
    /// Model, likewise.
    pub const MODEL: Range<usize> = 27..47;
    /// Bit 9: addresses of blocks; bit 8: DMA.
    pub const CAPABILITIES: usize = 49;
    /// Bit 14: trimmed blocks read the same each time; bit 5: they read as zeroes.
    pub const ADDITIONAL: usize = 69;
    /// Queue depth, 0-based, in 4:0.
    pub const QUEUE_DEPTH: usize = 75;
    /// Bit 8: native command queueing.
    pub const SATA_CAPABILITIES: usize = 76;
    /// Bit 5: volatile write cache; bit 0: SMART.
    pub const SUPPORTED_1: usize = 82;
    /// Bit 13: FLUSH CACHE EXT; bit 10: addresses of 48 bits. Valid if 15:14 are 01b.
    pub const SUPPORTED_2: usize = 83;
    /// Bit 6: WRITE DMA FUA EXT; bit 5: general purpose logs. Valid if 15:14 are 01b.
    pub const SUPPORTED_3: usize = 84;
    /// Bit 5: the cache is on; bit 0: SMART is on.
    pub const ENABLED_1: usize = 85;
    /// Capacity in blocks, four words.
    pub const CAPACITY: usize = 100;
    /// Most blocks of ranges in DATA SET MANAGEMENT.
    pub const TRIM_BLOCKS_MAX: usize = 105;
    /// If 15:14 are 01b: bit 13, several logical in a physical block, 2 to the power of 3:0; bit
    /// 12, logical blocks are longer than 512 bytes.
    pub const BLOCK_SIZE: usize = 106;
    /// Words of a logical block, two words.
    pub const BLOCK_WORDS: usize = 117;
    /// Bit 0: TRIM.
    pub const DATA_SET_MANAGEMENT: usize = 169;
    /// If 15:14 are 01b: the first logical block's place in its physical block, in 13:0.
    pub const ALIGNMENT: usize = 209;
    /// Turns in a minute; 1 for a medium that does not turn, 0 for unknown.
    pub const ROTATION: usize = 217;
    /// A5h in 7:0 and a sum over all bytes in 15:8, or neither.
    pub const INTEGRITY: usize = 255;
}

impl IdentifyDevice {
    /// A word.
    #[must_use]
    pub fn word(&self, at: usize) -> u16 {
        self.words[at].get()
    }

    /// Whether a bit is set, in a word that is always valid.
    #[must_use]
    pub fn bit(&self, at: usize, bit: u32) -> bool {
        self.word(at) >> bit & 1 == 1
    }

    /// Whether a bit is set, in a word that is valid if its bits 15:14 are 01b.
    #[must_use]
    pub fn valid_bit(&self, at: usize, bit: u32) -> bool {
        self.word(at) >> 14 == 0b01 && self.bit(at, bit)
    }

    /// The sum of all bytes, which is 0 where [`word::INTEGRITY`] is used.
    #[must_use]
    pub fn sum(&self) -> u8 {
        self.as_bytes().iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Four words as one number.
    #[must_use]
    pub fn four_words(&self, at: usize) -> u64 {
        let words: [U16; 4] = [0, 1, 2, 3].map(|index| self.words[at + index]);
        U64::from_bytes(zerocopy::transmute!(words)).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use zerocopy::FromZeros;

    #[test]
    fn fields_lie_where_the_standard_puts_them() {
        let frame = HostFrame::command(
            AtaCommand::ReadFpdmaQueued,
            0x0201,
            0x0605_0403_0201,
            31 << 3,
            DEVICE_LBA,
        );
        let expected = [0x27, 0x80, 0x60, 1, 1, 2, 3, 0x40, 4, 5, 6, 2, 0xF8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(frame.as_bytes(), expected);
        assert_eq!((frame.lba(), frame.features()), (0x0605_0403_0201, 0x0201));
        assert_eq!(offset_of!(QueuedErrorLog, count), 12);
        assert_eq!(offset_of!(QueuedErrorLog, checksum), 511);
        assert_eq!(u64::from(Range::new().with_lba(5).with_count(0xFFFF)), 0xFFFF_0000_0000_0005);
        assert_eq!(u8::from(AtaStatus::new().with_fault(true)), 0x20);
        assert_eq!(u8::from(AtaError::new().with_uncorrectable(true)), 0x40);
        assert_eq!(u8::from(AtaError::new().with_abort(true)), 0x04);
        assert_eq!(u8::from(QueuedErrorTag::new().with_not_queued(true)), 0x80);
    }

    #[test]
    fn words_of_identify_are_little_endian() {
        let mut identify = IdentifyDevice::new_zeroed();
        identify.words[word::CAPACITY] = 0x5678.into();
        identify.words[word::CAPACITY + 1] = 0x1234.into();
        assert_eq!(identify.four_words(word::CAPACITY), 0x1234_5678);
        identify.words[word::SUPPORTED_3] = 0x4040.into();
        assert!(identify.valid_bit(word::SUPPORTED_3, 6));
        identify.words[word::SUPPORTED_3] = 0xC040.into();
        assert!(!identify.valid_bit(word::SUPPORTED_3, 6));
        let sum = 0x78 + 0x56 + 0x34 + 0x12 + 0xC0 + 0x40;
        assert_eq!(u32::from(identify.sum()), sum % 256);
    }
}
