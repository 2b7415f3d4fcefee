//! What kind of adapter, and which drives.

use storage_spec::ata::SIGNATURE_DISK;

/// An adapter.
#[derive(Debug, Clone)]
pub struct AhciConfig {
    /// Where it is plugged in.
    pub name: String,
    /// Command slots of a port.
    pub slots: u8,
    /// CAP.SNCQ.
    pub queueing: bool,
    /// CAP.S64A.
    pub address_64: bool,
    /// CAP.SSS: drives spin up when they are told to.
    pub staggered: bool,
    /// The firmware owns it at first, and hands over when asked, unless it is dead.
    pub firmware: Option<bool>,
    /// Its ports, and the drives on them.
    pub drives: Vec<(u8, Option<EmulatedDrive>)>,
    /// Whether commands take several steps and overtake each other.
    pub is_slow: bool,
}

impl Default for AhciConfig {
    fn default() -> Self {
        Self {
            name: "0000:00:1f.2".into(),
            slots: 32,
            queueing: true,
            address_64: true,
            staggered: false,
            firmware: None,
            drives: vec![(0, Some(EmulatedDrive::new(512))), (1, None)],
            is_slow: true,
        }
    }
}

/// A drive of 16 MiB, unless said otherwise.
#[derive(Debug, Clone)]
pub struct EmulatedDrive {
    /// What it announces itself as.
    pub signature: u32,
    /// Serial number.
    pub serial: String,
    /// Blocks.
    pub blocks: u64,
    /// log2 of a logical block's bytes.
    pub block_shift: u8,
    /// log2 of a physical block's.
    pub physical_shift: u8,
    /// Queue depth; `None` without NCQ.
    pub queue: Option<u8>,
    /// WRITE DMA FUA EXT, and with it the bit in queued writes.
    pub fua: bool,
    /// Whether completed writes wait for a flush.
    pub volatile_cache: bool,
    /// Most blocks of ranges in a TRIM.
    pub trim: Option<u16>,
    /// Whether trimmed blocks read as zeroes.
    pub trim_zeroes: bool,
    /// Whether it has log 10h.
    pub has_log: bool,
    /// SMART.
    pub smart: bool,
    /// IDLE IMMEDIATE with UNLOAD.
    pub unloads: bool,
    /// Whether SMART tells how often it was switched on.
    pub counts_power_ons: bool,
    /// Word 217.
    pub rotation: u16,
}

impl EmulatedDrive {
    /// A disk with logical and physical blocks of `block` bytes.
    #[must_use]
    pub fn new(block: u32) -> Self {
        let block_shift = block.ilog2() as u8;
        Self {
            signature: SIGNATURE_DISK,
            serial: "EMULATED-1".into(),
            blocks: (16 << 20) >> block_shift,
            block_shift,
            physical_shift: block_shift,
            queue: Some(32),
            fua: true,
            volatile_cache: true,
            trim: Some(8),
            trim_zeroes: true,
            has_log: true,
            smart: true,
            unloads: true,
            counts_power_ons: true,
            rotation: 1,
        }
    }

    /// A disk with logical blocks of 512 and physical ones of 4096 bytes.
    #[must_use]
    pub fn emulating_512() -> Self {
        Self { physical_shift: 12, ..Self::new(512) }
    }
}
