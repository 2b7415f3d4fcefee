//! The other side of shared memory, for emulated devices: what an IOMMU lets them reach.

use super::device::{ArenaMap, DeviceMemory, Unmap};
use super::{Arena, ArenaError, PAGE, Region};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where device memory is mapped from, and the arena: below 39 bits, and apart from each other.
const MEMORY_BASE: u64 = 0x1000_0000;
const ARENA_BASE: u64 = 0x20_0000_0000;

/// An emulated bus with an IOMMU. Clones are the same one.
#[derive(Clone, Default)]
pub struct EmulatedBus(Arc<Domain>);

#[derive(Default)]
struct Domain(Mutex<State>);

#[derive(Default)]
struct State {
    /// Device address to mapping.
    maps: BTreeMap<u64, Mapped>,
    next: u64,
    faults: Vec<Fault>,
}

#[derive(Clone, Copy)]
struct Mapped {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; who dereferences it holds the lock under which it is unmapped.
unsafe impl Send for Mapped {}

/// An access of a device to what it may not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub address: u64,
    /// How much.
    pub len: usize,
    /// Whether it wrote.
    pub is_write: bool,
}

impl Unmap for Domain {
    fn unmap(&self, address: u64, len: usize) {
        // Gone already if the device was.
        if let Some(mapped) = self.state().maps.remove(&address) {
            assert_eq!(mapped.len, len);
        }
    }
}

impl Domain {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl EmulatedBus {
    /// How many pieces of memory devices reach.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.0.state().maps.len()
    }

    /// Maps an arena in one piece.
    #[must_use]
    pub fn map_arena(&self, arena: &Arena) -> ArenaMap {
        let (start, len) = arena.mapping();
        self.0.state().maps.insert(ARENA_BASE, Mapped { start, len });
        ArenaMap::contiguous(arena, ARENA_BASE)
    }

    /// Maps an arena page by page, no two neighbours adjacent, as it is without an IOMMU.
    #[must_use]
    pub fn map_arena_by_page(&self, arena: &Arena) -> ArenaMap {
        let (start, len) = arena.mapping();
        let count = len / PAGE;
        let mut state = self.0.state();
        let pages: Arc<[u64]> = (0..count)
            .map(|page| ARENA_BASE + (count - 1 - page) as u64 * 2 * PAGE as u64)
            .collect();
        for (page, &address) in pages.iter().enumerate() {
            // SAFETY: within the arena's mapping.
            let start = unsafe { start.add(page * PAGE) };
            state.maps.insert(address, Mapped { start, len: PAGE });
        }
        ArenaMap::by_page(arena, pages)
    }

    /// Memory for the device.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn allocate(&self, len: usize) -> Result<DeviceMemory, ArenaError> {
        let region = Region::new(len)?;
        let (start, len) = region.mapping();
        let mut state = self.0.state();
        let address = MEMORY_BASE + state.next;
        // A page between two mappings belongs to none: who overruns one is seen.
        state.next += (len + PAGE) as u64;
        state.maps.insert(address, Mapped { start, len });
        drop(state);
        let space: Arc<dyn Unmap> = self.0.clone();
        Ok(DeviceMemory::new(region, address, space))
    }

    /// Takes every mapping away, as the end of a process does.
    pub fn unmap_all(&self) {
        self.0.state().maps.clear();
    }

    /// The device reads memory; an access beyond what is mapped is noted and reads nothing.
    ///
    /// # Errors
    /// The fault.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let state = &mut *self.0.state();
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.len() - at;
            let (start, len) = state.resolve(address + at as u64, rest, false)?;
            for (index, byte) in bytes[at..at + len].iter_mut().enumerate() {
                // SAFETY: mapped, and not unmapped while we hold the lock. What the host does at
                // the same time it does atomically, or not before it has been told.
                *byte = unsafe { AtomicU8::from_ptr(start.add(index).as_ptr()) }
                    .load(Ordering::Relaxed);
            }
            at += len;
        }
        Ok(())
    }

    /// The device writes memory.
    ///
    /// # Errors
    /// The fault.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let state = &mut *self.0.state();
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.len() - at;
            let (start, len) = state.resolve(address + at as u64, rest, true)?;
            for (index, &byte) in bytes[at..at + len].iter().enumerate() {
                // SAFETY: as in `read`.
                unsafe { AtomicU8::from_ptr(start.add(index).as_ptr()) }
                    .store(byte, Ordering::Relaxed);
            }
            at += len;
        }
        Ok(())
    }

    /// The device writes 8 aligned bytes at once, after everything that it wrote before.
    ///
    /// # Errors
    /// The fault.
    pub fn publish(&self, address: u64, value: u64) -> Result<(), Fault> {
        let state = &mut *self.0.state();
        let (start, len) = state.resolve(address, 8, true)?;
        assert!(len == 8 && address.is_multiple_of(8));
        // SAFETY: as in `read`, and aligned.
        let cell = unsafe { AtomicU64::from_ptr(start.cast().as_ptr()) };
        cell.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// Takes what devices reached for and might not.
    #[must_use]
    pub fn take_faults(&self) -> Vec<Fault> {
        std::mem::take(&mut self.0.state().faults)
    }
}

impl State {
    /// Where an address is, and how much of `len` is there in one piece.
    fn resolve(
        &mut self,
        address: u64,
        len: usize,
        is_write: bool,
    ) -> Result<(NonNull<u8>, usize), Fault> {
        if let Some((base, mapped)) = self.maps.range(..=address).next_back() {
            let offset = (address - base) as usize;
            if offset < mapped.len {
                // SAFETY: within the mapping.
                return Ok((unsafe { mapped.start.add(offset) }, len.min(mapped.len - offset)));
            }
        }
        let fault = Fault { address, len, is_write };
        self.faults.push(fault);
        Err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_reaches_what_is_mapped_and_nothing_else() {
        let bus = EmulatedBus::default();
        let memory = bus.allocate(PAGE).unwrap();
        let address = memory.address(0);
        bus.write(address + 8, &7_u64.to_le_bytes()).unwrap();
        assert_eq!(memory.load64(8), 7);
        memory.store32(16, 9);
        let mut bytes = [0; 4];
        bus.read(address + 16, &mut bytes).unwrap();
        assert_eq!(bytes, [9, 0, 0, 0]);
        assert!(bus.take_faults().is_empty());
        let beyond = address + PAGE as u64 - 4;
        assert!(bus.write(beyond, &[1; 8]).is_err());
        drop(memory);
        assert!(bus.read(address, &mut bytes).is_err());
        assert_eq!(bus.take_faults().len(), 2);
    }

    #[test]
    fn an_arena_is_mapped_whole_or_by_pages() {
        let arena = Arena::new(2 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let mut buf = pool.alloc(3 * PAGE).unwrap();
        buf.fill(3);
        for by_page in [false, true] {
            let bus = EmulatedBus::default();
            let map = if by_page { bus.map_arena_by_page(&arena) } else { bus.map_arena(&arena) };
            let span = buf.span();
            assert_eq!(map.piece(&span, PAGE).1, if by_page { PAGE } else { 2 * PAGE });
            let mut bytes = [0; 8];
            bus.read(map.address(&span, PAGE + 8), &mut bytes).unwrap();
            assert_eq!(bytes, [3; 8]);
        }
    }
}
