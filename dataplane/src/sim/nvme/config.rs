//! What kind of controller.

use std::time::Duration;
use storage_spec::fabrics::ReadyTimeouts;

/// A controller.
#[derive(Debug, Clone)]
pub struct NvmeConfig {
    /// Where it is plugged in.
    pub name: String,
    /// SN.
    pub serial: String,
    /// MN.
    pub model: String,
    /// VS.
    pub version: u32,
    /// I/O queues that it has.
    pub queues: u16,
    /// Entries of a queue at most.
    pub queue_entries: u16,
    /// Interrupt vectors that it has.
    pub vectors: usize,
    /// CAP.DSTRD.
    pub stride: u8,
    /// CRTO; none of the modes of readiness is offered where it is 0.
    pub ready_timeouts: ReadyTimeouts,
    /// Time that its media take to be ready.
    pub media_take: Duration,
    /// MDTS; 0 for no limit.
    pub transfer_shift: u8,
    /// Whether completed writes wait for a flush.
    pub volatile_cache: bool,
    /// Force Unit Access changes nothing.
    pub ignores_fua: bool,
    /// AWUPF, 0-based.
    pub atomic_z: u16,
    /// Whether it offers doorbells in memory.
    pub shadow_doorbells: bool,
    /// Whether it has scatter gather lists.
    pub sgl: bool,
    /// Whether Write Zeroes and Dataset Management are there.
    pub optional_commands: bool,
    /// Most blocks of a Write Zeroes are those of this many pages, as a power of two; 0: no limit.
    pub zeroes_shift: u8,
    /// CRDT1, in 100 ms.
    pub retry_delay: u16,
    /// Namespaces, in rising order of their ids.
    pub namespaces: Vec<EmulatedNamespace>,
    /// Whether commands take several steps and overtake each other.
    pub is_slow: bool,
}

impl Default for NvmeConfig {
    fn default() -> Self {
        Self {
            name: "0000:01:00.0".into(),
            serial: "EMULATED".into(),
            model: "Basalt emulated NVMe".into(),
            version: 0x0001_0400,
            queues: 8,
            queue_entries: 1024,
            vectors: 9,
            stride: 0,
            ready_timeouts: ReadyTimeouts::new(),
            media_take: Duration::ZERO,
            transfer_shift: 7,
            volatile_cache: true,
            ignores_fua: false,
            atomic_z: 0,
            shadow_doorbells: false,
            sgl: false,
            optional_commands: true,
            zeroes_shift: 0,
            retry_delay: 1,
            namespaces: vec![EmulatedNamespace::new(1, 4096)],
            is_slow: true,
        }
    }
}

/// A namespace of 16 MiB, unless said otherwise.
#[derive(Debug, Clone)]
pub struct EmulatedNamespace {
    /// NSID.
    pub id: u32,
    /// Blocks.
    pub blocks: u64,
    /// log2 of a block's bytes.
    pub block_shift: u8,
    /// Bytes of metadata of each block.
    pub metadata: u16,
    /// Type of protection information, 0 for none; it is in the last 8 bytes of the metadata.
    pub protection: u8,
    /// Metadata follow their block in the data.
    pub extended: bool,
}

impl EmulatedNamespace {
    /// Without metadata.
    #[must_use]
    pub fn new(id: u32, block: u32) -> Self {
        let block_shift = block.ilog2() as u8;
        let blocks = (16 << 20) >> block_shift;
        Self { id, blocks, block_shift, metadata: 0, protection: 0, extended: false }
    }

    /// With metadata.
    #[must_use]
    pub fn with_metadata(id: u32, block: u32, metadata: u16, protection: u8) -> Self {
        Self { metadata, protection, ..Self::new(id, block) }
    }
}
