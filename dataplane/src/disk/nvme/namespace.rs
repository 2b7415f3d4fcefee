//! What a namespace is, from the data structures by which the controller describes it.

use super::super::Info;
use super::options::Trouble;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage_spec::nvme::identify::{
    ExtendedFormat, FormattedSize, IdentifyController, IdentifyNamespace, NamespaceFeatures,
    NvmCommands, NvmController, NvmNamespace, ProtectionSettings, VolatileCache,
};

/// Smallest and largest block that we work with.
const BLOCK_SHIFTS: std::ops::RangeInclusive<u8> = 9..=12;
/// Most blocks of a command.
const BLOCKS_MAX: u64 = 1 << 16;
/// Most metadata that a command carries, in bytes.
pub(super) const METADATA_MAX: usize = 16 << 10;
/// Largest transfer: the entries of one list, and a little less for what begins within a page.
pub(super) const TRANSFER_MAX: usize = 1 << 20;

/// A namespace. Clones are the same one: queues on several cores share what is known of it.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    facts: Facts,
    /// A write failed, or what the cache held may be lost: nothing is written any more.
    has_failed: AtomicBool,
    /// Removed, or no longer what `facts` say.
    is_gone: AtomicBool,
}

/// What does not change while a namespace is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// NSID.
    pub id: u32,
    /// Blocks.
    pub blocks: u64,
    /// log2 of a block's bytes.
    pub block_shift: u8,
    /// What lies beside each block.
    pub metadata: Metadata,
    /// NGUID, zeroes if there is none.
    pub nguid: [u8; 16],
    /// EUI-64, zeroes if there is none.
    pub eui64: [u8; 8],
    /// Bytes that a power cut leaves wholly old or wholly new.
    pub atomic_write: u32,
    /// Whether the controller has a volatile cache that is on.
    pub volatile_cache: bool,
    /// Largest transfer in bytes.
    pub transfer_max: usize,
    /// Most blocks of one Write Zeroes, if there is such a command.
    pub zeroes_max: Option<u64>,
    /// Most blocks of one Dataset Management, if there is such a command.
    pub deallocate_max: Option<u64>,
    /// Whether there is Compare.
    pub compare: bool,
}

/// Metadata of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Bytes for each block that a command carries in a buffer of their own.
    pub carried: u16,
    /// Type of protection information, 1 to 3, which the controller makes and checks.
    pub protection: u8,
}

impl Facts {
    /// Whether what was found later is still this namespace, maybe larger.
    pub(super) fn is_still(&self, later: &Self) -> bool {
        let same =
            |facts: &Self| (facts.id, facts.block_shift, facts.metadata, facts.nguid, facts.eui64);
        same(self) == same(later) && later.blocks >= self.blocks
    }
}

impl Namespace {
    pub(super) fn new(facts: Facts) -> Self {
        let (has_failed, is_gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner { facts, has_failed, is_gone }))
    }

    /// What it is.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// Whether a write failed: only reads are tried from then on.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.has_failed.load(Ordering::SeqCst)
    }

    /// Whether it was removed or became another one.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.is_gone.load(Ordering::Relaxed)
    }

    pub(super) fn set_failed(&self) {
        self.0.has_failed.store(true, Ordering::SeqCst);
    }

    pub(super) fn set_gone(&self) {
        self.0.is_gone.store(true, Ordering::Relaxed);
    }

    pub(super) fn info(&self, name: String, queue_depth: usize, honours_fua: bool) -> Info {
        let facts = self.facts();
        Info {
            name,
            capacity: facts.blocks << facts.block_shift,
            block_size: 1 << facts.block_shift,
            atomic_write: facts.atomic_write,
            volatile_cache: facts.volatile_cache,
            fua: honours_fua,
            deallocate: facts.deallocate_max.is_some(),
            rotational: false,
            queue_depth,
            transfer_max: facts.transfer_max,
        }
    }
}

/// What all namespaces of a controller have in common.
#[derive(Debug, Clone)]
pub(super) struct ControllerFacts {
    pub(super) commands: NvmCommands,
    pub(super) atomic_power_fail_z: u16,
    pub(super) transfer_max: usize,
    pub(super) volatile_cache: bool,
    /// WZSL, DMRSL and DMSL, 0 where there is no limit.
    pub(super) zeroes_pages_shift: u8,
    pub(super) dataset_range_max: u32,
    pub(super) dataset_max: u64,
}

impl ControllerFacts {
    pub(super) fn new(identity: &IdentifyController) -> Self {
        let transfer_max = match identity.transfer_max {
            shift @ 1..20 => (4096_usize << shift).min(TRANSFER_MAX),
            _ => TRANSFER_MAX,
        };
        Self {
            commands: NvmCommands::from(identity.nvm_commands.get()),
            atomic_power_fail_z: identity.atomic_write_power_fail_z.get(),
            transfer_max,
            volatile_cache: VolatileCache::from(identity.volatile_cache).present(),
            zeroes_pages_shift: 0,
            dataset_range_max: 0,
            dataset_max: 0,
        }
    }

    pub(super) fn set_limits(&mut self, limits: &NvmController) {
        self.zeroes_pages_shift = limits.write_zeroes_max;
        self.dataset_range_max = limits.dataset_range_max.get();
        self.dataset_max = limits.dataset_max.get();
    }

    /// The facts of a namespace, or why it is of no use to us. `extended`: CNS 05h, where the
    /// controller has it.
    pub(super) fn namespace(
        &self,
        id: u32,
        identity: &IdentifyNamespace,
        extended: Option<&NvmNamespace>,
    ) -> Result<Facts, Trouble> {
        let format = FormattedSize::from(identity.format);
        let index = usize::from(format.index_low()) | usize::from(format.index_high()) << 4;
        let lba_format = identity.lba_formats[index];
        let block_shift = lba_format.block_shift;
        if !BLOCK_SHIFTS.contains(&block_shift) {
            return Err(Trouble::Unsupported("blocks that are not of 512 to 4096 bytes"));
        }
        let blocks = identity.size.get();
        if blocks == 0 || blocks > u64::MAX >> block_shift {
            return Err(Trouble::Unsupported("a namespace of that size"));
        }
        let guard = extended.map_or(0, |extended| {
            ExtendedFormat::from(extended.extended_formats[index].get()).guard()
        });
        let metadata = metadata(identity, format, lba_format.metadata.get(), guard)?;
        let block = 1_usize << block_shift;
        let carried = usize::from(metadata.carried).max(1);
        let transfer_max = self.transfer_max.min(METADATA_MAX / carried * block) / 4096 * 4096;
        if transfer_max == 0 {
            return Err(Trouble::Unsupported("that much metadata for a block"));
        }
        Ok(Facts {
            id,
            blocks,
            block_shift,
            metadata,
            nguid: identity.nguid,
            eui64: identity.eui64,
            atomic_write: self.atomic_write(identity, block_shift),
            volatile_cache: self.volatile_cache,
            transfer_max,
            zeroes_max: self.commands.write_zeroes().then(|| self.zeroes_max(block_shift)),
            deallocate_max: self.commands.dataset_management().then(|| self.deallocate_max()),
            // Compare takes metadata in too, if commands carry any.
            compare: self.commands.compare() && metadata.carried == 0,
        })
    }

    /// AWUPF, or NAWUPF where the namespace has its own; a boundary within which alone it holds
    /// makes it smaller. A power of two, so that what is aligned to it crosses no boundary.
    fn atomic_write(&self, identity: &IdentifyNamespace, block_shift: u8) -> u32 {
        let has_own = NamespaceFeatures::from(identity.features).atomic();
        let own = identity.atomic_write_power_fail_z.get();
        let blocks_z = if has_own && own > 0 { own } else { self.atomic_power_fail_z };
        let mut blocks = 1_u32 << (u32::from(blocks_z) + 1).ilog2();
        let boundary = identity.atomic_boundary_power_fail_z.get();
        if has_own && boundary > 0 {
            let aligned = |value: u32| 1_u32 << value.trailing_zeros().min(16);
            blocks = blocks.min(aligned(u32::from(boundary) + 1));
            match identity.atomic_boundary_offset.get() {
                0 => {}
                offset => blocks = blocks.min(aligned(u32::from(offset))),
            }
        }
        blocks << block_shift
    }

    fn zeroes_max(&self, block_shift: u8) -> u64 {
        match self.zeroes_pages_shift {
            shift @ 1..20 => ((4096_u64 << shift) >> block_shift).min(BLOCKS_MAX),
            _ => BLOCKS_MAX,
        }
    }

    fn deallocate_max(&self) -> u64 {
        let limits = [u64::from(self.dataset_range_max), self.dataset_max, u64::from(u32::MAX)];
        limits.into_iter().filter(|&limit| limit > 0).min().expect("one is not zero")
    }
}

/// What of a format's metadata commands carry. Where they are protection information alone, the
/// controller makes and checks them, and commands carry nothing.
fn metadata(
    identity: &IdentifyNamespace,
    format: FormattedSize,
    size: u16,
    guard: u8,
) -> Result<Metadata, Trouble> {
    let protection = ProtectionSettings::from(identity.protection).kind();
    if size == 0 {
        return Ok(Metadata::default());
    }
    if protection > 0 && (guard != 0 || size < 8 || protection > 3) {
        return Err(Trouble::Unsupported("protection information with such a guard"));
    }
    if protection > 0 && size == 8 {
        return Ok(Metadata { carried: 0, protection });
    }
    if format.extended() {
        return Err(Trouble::Unsupported("metadata between blocks; format with a separate buffer"));
    }
    Ok(Metadata { carried: size, protection })
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_spec::nvme::identify::{LbaFormat, VolatileCache};
    use zerocopy::FromZeros;
    use zerocopy::little_endian::U16;

    fn controller(atomic_z: u16, transfer_shift: u8) -> ControllerFacts {
        let mut identity = IdentifyController::new_zeroed();
        identity.atomic_write_power_fail_z.set(atomic_z);
        identity.transfer_max = transfer_shift;
        identity.volatile_cache = VolatileCache::new().with_present(true).into();
        ControllerFacts::new(&identity)
    }

    fn identity(block_shift: u8, metadata: u16) -> IdentifyNamespace {
        let mut identity = IdentifyNamespace::new_zeroed();
        identity.size.set(1000);
        identity.lba_formats[0] =
            LbaFormat { metadata: U16::new(metadata), block_shift, performance: 0 };
        identity
    }

    #[test]
    fn atomic_writes_are_what_power_cuts_leave_whole() {
        let of = |awupf, nawupf: Option<u16>, boundary_z: u16, offset: u16| {
            let mut identity = identity(9, 0);
            if let Some(own) = nawupf {
                identity.features = NamespaceFeatures::new().with_atomic(true).into();
                identity.atomic_write_power_fail_z.set(own);
                identity.atomic_boundary_power_fail_z.set(boundary_z);
                identity.atomic_boundary_offset.set(offset);
            }
            controller(awupf, 0).namespace(1, &identity, None).unwrap().atomic_write / 512
        };
        assert_eq!(of(0, None, 0, 0), 1, "a block is always written as one");
        assert_eq!(of(7, None, 0, 0), 8);
        assert_eq!(of(10, None, 0, 0), 8);
        assert_eq!(of(0xFFFF, None, 0, 0), 0x1_0000);
        assert_eq!(of(7, Some(15), 0, 0), 16, "the namespace's own");
        assert_eq!(of(7, Some(0), 0, 0), 8, "it has none of its own");
        assert_eq!(of(7, Some(15), 3, 0), 4, "boundaries every 4 blocks");
        assert_eq!(of(7, Some(15), 15, 4), 4, "the first of them after 4 blocks");
        assert_eq!(of(7, Some(15), 23, 0), 8, "boundaries every 24 blocks");
    }

    #[test]
    fn transfers_are_as_large_as_everything_allows() {
        let of = |shift, block_shift, metadata| {
            let identity = identity(block_shift, metadata);
            controller(0, shift).namespace(1, &identity, None).map(|facts| facts.transfer_max)
        };
        assert_eq!(of(0, 12, 0), Ok(TRANSFER_MAX));
        assert_eq!(of(1, 12, 0), Ok(8192));
        assert_eq!(of(63, 12, 0), Ok(TRANSFER_MAX));
        assert_eq!(of(0, 9, 64), Ok(128 << 10), "256 blocks with 64 bytes each");
        assert_eq!(of(0, 9, 128 * 64).map_err(|_| ()), Err(()), "not even a page");
    }

    #[test]
    fn formats_that_we_cannot_use_are_refused() {
        let refuses = |identity: &IdentifyNamespace, extended: Option<&NvmNamespace>| {
            controller(0, 0).namespace(1, identity, extended).is_err()
        };
        assert!(refuses(&identity(8, 0), None) && refuses(&identity(13, 0), None));
        assert!(refuses(&identity(63, 0), None) && refuses(&identity(255, 0), None));
        let mut empty = identity(12, 0);
        empty.size.set(0);
        assert!(refuses(&empty, None));
        let mut huge = identity(12, 0);
        huge.size.set(u64::MAX);
        assert!(refuses(&huge, None));
        let mut between = identity(12, 8);
        between.format = FormattedSize::new().with_extended(true).into();
        assert!(refuses(&between, None));
        between.protection = 1;
        assert!(!refuses(&between, None), "the controller strips it");
        let mut wide = NvmNamespace::new_zeroed();
        wide.extended_formats[0].set(ExtendedFormat::new().with_guard(2).into());
        assert!(refuses(&between, Some(&wide)));
        between.protection = 7;
        assert!(refuses(&between, None));
    }
}
