//! The process's address space for its devices.

use super::container::{Container, Group, group_path};
use super::device::VfioDevice;
use super::error::OpenError;
use super::iommufd::{self, Iommufd};
use super::physical;
use super::space::Space;
use crate::dma::{Arena, ArenaMap, DeviceMemory, PAGE, Region, Unmap};
use crate::pci::{Machine, PciAddress};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Alignment of what takes more than one page of this size: IOMMUs translate it at once.
const HUGE: u64 = 2 << 20;

/// Which of the kernel's APIs to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Api {
    /// iommufd where the kernel has it, else groups.
    #[default]
    Best,
    /// Groups and a container.
    Group,
}

/// What the operator has a say in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The kernel's API.
    pub api: Api,
    /// Whether devices without an IOMMU may be driven: they can then write anywhere in memory.
    pub no_iommu: bool,
}

/// The process's share in VFIO. Clones are the same.
#[derive(Clone)]
pub struct Vfio {
    options: Options,
    domain: Arc<Mutex<Option<Arc<Domain>>>>,
}

impl Vfio {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, domain: Arc::default() }
    }

    /// Opens a function that `vfio-pci` drives, and lets it reach `arena`, all of which stays in
    /// memory from then on.
    ///
    /// Waits a little for a former owner that has just been killed.
    ///
    /// # Errors
    /// [`OpenError`] says what the operator can do.
    pub fn open(
        &self,
        machine: &Machine,
        address: PciAddress,
        arena: &Arena,
    ) -> Result<VfioDevice, OpenError> {
        let function = machine.function(address).ok_or(OpenError::Missing(address))?;
        if function.driver.as_deref() != Some("vfio-pci") {
            return Err(OpenError::NotBound { address, driver: function.driver });
        }
        let place = Place::of(machine, address, function.group, self.options)?;
        let mut slot = lock(&self.domain);
        let domain = match slot.as_ref().filter(|domain| !domain.is_abandoned()) {
            Some(domain) => Arc::clone(domain),
            None => Arc::new(Domain::open(machine, address, &place)?),
        };
        *slot = Some(Arc::clone(&domain));
        let (fd, group) = patiently(|| domain.device(machine, address, &place))?;
        let map = domain.map_arena(address, arena)?;
        VfioDevice::new(&function, fd, group, domain, map)
    }
}

/// Whether a process, perhaps this one, has the function open.
#[must_use]
pub fn is_taken(machine: &Machine, address: PciAddress) -> bool {
    let group = machine.function(address).and_then(|function| function.group);
    let paths = group.map(|group| [false, true].map(|mode| group_path(machine, group, mode)));
    let mut paths = paths.into_iter().flatten().filter(|path| path.exists()).peekable();
    if paths.peek().is_none() {
        // A kernel without groups: only an attempt tells.
        let Some(path) = iommufd::device_path(machine, address) else { return false };
        let attempt = Iommufd::open(machine, address)
            .and_then(|iommufd| iommufd.device(machine, address, path));
        return matches!(attempt, Err(OpenError::Busy { .. }));
    }
    let is_busy = |path: PathBuf| {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
    };
    paths.any(is_busy)
}

/// Whether a function that `vfio-pci` has can reach all of memory: no IOMMU stands before it.
#[must_use]
pub fn is_unchecked(machine: &Machine, address: PciAddress) -> bool {
    let group = machine.function(address).and_then(|function| function.group);
    group.is_some_and(|group| group_path(machine, group, true).exists())
}

/// How a function is reached.
enum Place {
    Device(PathBuf),
    Group(u32),
    Physical(u32),
}

impl Place {
    fn of(
        machine: &Machine,
        address: PciAddress,
        group: Option<u32>,
        options: Options,
    ) -> Result<Self, OpenError> {
        let device = iommufd::device_path(machine, address);
        let has_group = |mode| group.is_some_and(|group| group_path(machine, group, mode).exists());
        match (group, device) {
            (Some(_), Some(path)) if options.api == Api::Best => Ok(Self::Device(path)),
            (Some(group), _) if has_group(false) => Ok(Self::Group(group)),
            (Some(group), _) if has_group(true) => {
                if !options.no_iommu {
                    return Err(OpenError::NoIommu(address));
                }
                Ok(Self::Physical(group))
            }
            (Some(group), _) => Err(OpenError::NoVfio(group_path(machine, group, false))),
            (None, _) if options.no_iommu => Err(OpenError::NoIommuForbidden(address)),
            (None, _) => Err(OpenError::NoIommu(address)),
        }
    }
}

/// One address space, with what is mapped in it.
pub(super) struct Domain(Mutex<State>);

struct State {
    backend: Backend,
    /// Known once the first device is in.
    space: Option<Space>,
    arena: Option<(usize, ArenaMap)>,
    /// Without an IOMMU: the rest of a huge page, and its physical address.
    spare: Option<(Region, u64)>,
}

enum Backend {
    Container(Container),
    Iommufd(Iommufd),
    Physical(Container),
}

impl Domain {
    fn open(machine: &Machine, address: PciAddress, place: &Place) -> Result<Self, OpenError> {
        let backend = match place {
            Place::Device(_) => Backend::Iommufd(Iommufd::open(machine, address)?),
            Place::Group(_) => Backend::Container(Container::open(machine, address, false)?),
            Place::Physical(_) => Backend::Physical(Container::open(machine, address, true)?),
        };
        Ok(Self(Mutex::new(State { backend, space: None, arena: None, spare: None })))
    }

    fn is_abandoned(&self) -> bool {
        match &lock(&self.0).backend {
            Backend::Container(container) | Backend::Physical(container) => {
                container.is_abandoned()
            }
            Backend::Iommufd(_) => false,
        }
    }

    fn device(
        &self,
        machine: &Machine,
        address: PciAddress,
        place: &Place,
    ) -> Result<(OwnedFd, Option<Arc<Group>>), OpenError> {
        let state = &mut *lock(&self.0);
        let opened = match (&mut state.backend, place) {
            (Backend::Iommufd(iommufd), Place::Device(path)) => {
                (iommufd.device(machine, address, path.clone())?, None)
            }
            (Backend::Container(container), Place::Group(group))
            | (Backend::Physical(container), Place::Physical(group)) => {
                let (fd, group) = container.device(machine, address, *group)?;
                (fd, Some(group))
            }
            _ => {
                let source = io::Error::other("other devices of this node have another kind");
                return Err(OpenError::System { address, what: "its IOMMU", source });
            }
        };
        if state.space.is_none() {
            let ranges = match &state.backend {
                Backend::Container(container) => container.ranges(),
                Backend::Iommufd(iommufd) => iommufd.ranges(),
                Backend::Physical(_) => Ok(Vec::new()),
            };
            let what = "cannot ask which addresses it translates";
            let system = |source| OpenError::System { address, what, source };
            state.space = Some(Space::new(ranges.map_err(system)?));
        }
        Ok(opened)
    }

    /// Where the devices find the arena.
    fn map_arena(&self, address: PciAddress, arena: &Arena) -> Result<ArenaMap, OpenError> {
        let (start, len) = arena.mapping();
        let start = start.as_ptr() as usize;
        let state = &mut *lock(&self.0);
        if let Some((_, map)) = state.arena.as_ref().filter(|(mapped, _)| *mapped == start) {
            return Ok(map.clone());
        }
        let map =
            if matches!(state.backend, Backend::Physical(_)) {
                if !arena.is_on_huge_pages() {
                    return Err(OpenError::NoHugePages(address));
                }
                arena.touch();
                let what = "cannot find the physical addresses of the buffers";
                let pages = physical::addresses(start, len)
                    .map_err(|source| OpenError::System { address, what, source })?;
                ArenaMap::by_page(arena, pages.into())
            } else {
                // SAFETY: the arena lives as long as the process, and only its owners' buffers are
                // named to devices.
                let base = unsafe { state.map(start, len) };
                let base = base.map_err(|error| OpenError::from_map(address, len, error))?;
                ArenaMap::contiguous(arena, base)
            };
        state.arena = Some((start, map.clone()));
        Ok(map)
    }

    /// Memory that the devices reach, contiguous for them.
    pub(super) fn allocate(self: &Arc<Self>, len: usize) -> io::Result<DeviceMemory> {
        let len = len.next_multiple_of(PAGE);
        let no_memory = |error: crate::dma::ArenaError| io::Error::other(error.to_string());
        let state = &mut *lock(&self.0);
        let space = Arc::clone(self) as Arc<dyn Unmap>;
        if matches!(state.backend, Backend::Physical(_)) {
            let (region, address) = state.take_physical(len)?;
            return Ok(DeviceMemory::new(region, address, space));
        }
        let mut region = Region::new(len).map_err(no_memory)?;
        // Present before it is pinned, all of it.
        region.bytes_mut().fill(0);
        let (start, len) = region.mapping();
        // SAFETY: `DeviceMemory` unmaps the region before it frees it, and never lends it.
        let address = unsafe { state.map(start.as_ptr() as usize, len) }?;
        Ok(DeviceMemory::new(region, address, space))
    }
}

impl Unmap for Domain {
    fn unmap(&self, address: u64, len: usize) {
        let state = &mut *lock(&self.0);
        let unmapped = match &state.backend {
            Backend::Container(container) => container.unmap(address, len),
            Backend::Iommufd(iommufd) => iommufd.unmap(address, len),
            Backend::Physical(_) => return,
        };
        // What cannot be unmapped was unmapped with the last group of the container; if not, the
        // kernel keeps the pages, and we must not use the addresses again.
        if let (Ok(()), Some(space)) = (unmapped, &mut state.space) {
            space.give(address, len as u64);
        }
    }
}

impl State {
    /// # Safety
    /// As [`Container::map`].
    unsafe fn map(&mut self, start: usize, len: usize) -> io::Result<u64> {
        let space = self.space.as_mut().expect("a device is in before anything is mapped");
        let align = if len as u64 >= HUGE { HUGE } else { PAGE as u64 };
        let no_room = || io::Error::from_raw_os_error(libc::ENOSPC);
        let address = space.take(len as u64, align).ok_or_else(no_room)?;
        // SAFETY: the caller's promise.
        let mapped = unsafe {
            match &self.backend {
                Backend::Container(container) => container.map(start, len, address),
                Backend::Iommufd(iommufd) => iommufd.map(start, len, address),
                Backend::Physical(_) => unreachable!("physical addresses are not mapped"),
            }
        };
        if mapped.is_err() {
            space.give(address, len as u64);
        }
        mapped.map(|()| address)
    }

    fn take_physical(&mut self, len: usize) -> io::Result<(Region, u64)> {
        if len > HUGE as usize {
            return Err(io::Error::other("more than a huge page is never contiguous"));
        }
        let (region, address) = match self.spare.take().filter(|(spare, _)| spare.len() >= len) {
            Some(spare) => spare,
            None => {
                let mut region = Region::on_huge_pages(HUGE as usize)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                region.bytes_mut().fill(0);
                let (start, len) = region.mapping();
                let pages = physical::addresses(start.as_ptr() as usize, len)?;
                (region, pages[0])
            }
        };
        let mut taken = region;
        if taken.len() > len {
            self.spare = Some((taken.split_off(len), address + len as u64));
        }
        Ok((taken, address))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics with a half-made change in hand.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries for two seconds while a killed predecessor may still have the device.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    const RETRIES: u32 = 20;
    for _ in 0..RETRIES {
        match attempt() {
            Err(OpenError::Busy { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            ended => return ended,
        }
    }
    attempt()
}
