//! One PCI function, open.

use super::container::Group;
use super::domain::Domain;
use super::error::OpenError;
use super::interrupt::{self, VfioInterrupt};
use super::ioctl;
use super::registers::Window;
use super::watch::Watch;
use crate::dma::{ArenaMap, DeviceMemory};
use crate::hardware::{Device, DeviceError, Presence, ResetError};
use crate::pci::{ControllerKind, PciAddress, PciFunction};
use rustix::io::{pread, pwrite};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use vfio_bindings::bindings::vfio;

/// A function of PCI that this process has for itself.
///
/// Reset by the kernel when it is opened and when it is closed, where it can be; may write memory
/// from the opening to the drop.
pub struct VfioDevice {
    // Stopped before the rest goes.
    watch: Watch,
    reset: Option<JoinHandle<io::Result<()>>>,
    window: Window,
    arena: ArenaMap,
    domain: Arc<Domain>,
    opened: Arc<Opened>,
    name: String,
}

/// What keeps a function open.
pub(super) struct Opened {
    // In this order: a group is closed after its devices.
    fd: OwnedFd,
    _group: Option<Arc<Group>>,
    address: PciAddress,
    /// Where the configuration space lies in the device file.
    config: u64,
    can_reset: bool,
}

impl VfioDevice {
    pub(super) fn new(
        function: &PciFunction,
        fd: OwnedFd,
        group: Option<Arc<Group>>,
        domain: Arc<Domain>,
        arena: ArenaMap,
    ) -> Result<Self, OpenError> {
        let address = function.address;
        let opened = Arc::new(Opened::new(address, fd, group)?);
        let bar = match function.kind() {
            ControllerKind::Ahci => vfio::VFIO_PCI_BAR5_REGION_INDEX,
            ControllerKind::Nvme | ControllerKind::Other => vfio::VFIO_PCI_BAR0_REGION_INDEX,
        };
        let window = Window::map(&opened, bar)?;
        let system = |what| move |source| OpenError::System { address, what, source };
        let watch = Watch::start(&opened).map_err(system("cannot watch the device"))?;
        opened.set_bus_master(true).map_err(system("cannot let the device write"))?;
        let name = address.to_string();
        Ok(Self { watch, reset: None, window, arena, domain, opened, name })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.opened.address
    }
}

impl Device for VfioDevice {
    type Registers = Window;
    type Interrupt = VfioInterrupt;

    fn name(&self) -> &str {
        &self.name
    }

    fn registers(&self) -> Window {
        self.window.clone()
    }

    fn allocate(&self, len: usize) -> Result<DeviceMemory, DeviceError> {
        let allocated = self.domain.allocate(len);
        allocated.map_err(|source| DeviceError::Memory { bytes: len, source })
    }

    fn arena(&self) -> &ArenaMap {
        &self.arena
    }

    fn interrupts(&mut self, count: usize) -> Result<Vec<VfioInterrupt>, DeviceError> {
        let made = interrupt::vectors(&self.opened, count);
        made.map_err(|source| DeviceError::Interrupt { count, source })
    }

    /// The kernel waits for the device, 100 ms and more, and saves and restores its configuration:
    /// on a thread of its own.
    fn begin_reset(&mut self) {
        assert!(self.reset.is_none(), "one reset at a time");
        let opened = Arc::clone(&self.opened);
        let thread = std::thread::Builder::new().name("vfio-reset".into());
        let started = thread.spawn(move || opened.reset());
        // Without a thread it is done at once: late is better than never.
        self.reset = Some(started.unwrap_or_else(|error| {
            let failed = self.opened.reset().map_err(|_| error);
            std::thread::spawn(move || failed)
        }));
    }

    fn poll_reset(&mut self) -> Option<Result<(), ResetError>> {
        let reset = self.reset.take_if(|thread| thread.is_finished())?;
        let ended = reset.join().expect("the resetting thread does not panic");
        Some(match ended.and_then(|()| self.opened.set_bus_master(true)) {
            Ok(()) => Ok(()),
            Err(_) if !self.opened.can_reset => Err(ResetError::Unsupported),
            Err(_) if self.opened.vendor() == u16::MAX => Err(ResetError::Gone),
            Err(error) => Err(ResetError::Failed(error)),
        })
    }

    fn presence(&self) -> Presence {
        self.watch.presence()
    }
}

impl Drop for VfioDevice {
    fn drop(&mut self) {
        if let Some(reset) = self.reset.take() {
            // Its outcome interests nobody any more.
            let _ = reset.join();
        }
        // It writes no memory from here on; one that is gone does not anyway.
        let _ = self.opened.set_bus_master(false);
        let detached = self.window.detach();
        assert!(detached.is_ok(), "no memory to stand for the registers: {detached:?}");
    }
}

impl Opened {
    fn new(address: PciAddress, fd: OwnedFd, group: Option<Arc<Group>>) -> Result<Self, OpenError> {
        let what = "cannot examine the device";
        let system = |source| OpenError::System { address, what, source };
        let argsz = size_of::<vfio::vfio_device_info>() as u32;
        let mut info = vfio::vfio_device_info { argsz, ..Default::default() };
        ioctl::ask(&fd, &mut info).map_err(system)?;
        let can_reset = info.flags & vfio::VFIO_DEVICE_FLAGS_RESET != 0;
        let mut opened = Self { fd, _group: group, address, config: 0, can_reset };
        opened.config = opened.region(vfio::VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
        Ok(opened)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn address(&self) -> PciAddress {
        self.address
    }

    /// What the kernel says of a region: a BAR or the configuration space.
    pub(super) fn region(&self, index: u32) -> Result<vfio::vfio_region_info, OpenError> {
        let argsz = size_of::<vfio::vfio_region_info>() as u32;
        let mut info =
            vfio::vfio_region_info { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
        let what = "cannot examine the device's regions";
        let address = self.address;
        ioctl::ask(&self.fd, &mut info).map_err(|source| OpenError::System {
            address,
            what,
            source,
        })?;
        Ok(info)
    }

    /// How many interrupts of a kind the device has.
    pub(super) fn vectors(&self, index: u32) -> io::Result<u32> {
        let argsz = size_of::<vfio::vfio_irq_info>() as u32;
        let mut info = vfio::vfio_irq_info { argsz, index, ..Default::default() };
        ioctl::ask(&self.fd, &mut info)?;
        let usable = info.flags & vfio::VFIO_IRQ_INFO_EVENTFD != 0;
        Ok(if usable { info.count } else { 0 })
    }

    /// The vendor id: all ones where there is no device any more.
    pub(super) fn vendor(&self) -> u16 {
        self.config16(CONFIG_VENDOR).unwrap_or(u16::MAX)
    }

    fn reset(&self) -> io::Result<()> {
        if !self.can_reset {
            return Err(io::ErrorKind::Unsupported.into());
        }
        ioctl::reset(&self.fd)
    }

    fn set_bus_master(&self, on: bool) -> io::Result<()> {
        let command = Command::from_bits(self.config16(CONFIG_COMMAND)?);
        let command = command.with_memory(true).with_bus_master(on).with_no_intx(true);
        let at = self.config + CONFIG_COMMAND;
        match pwrite(&self.fd, &command.into_bits().to_le_bytes(), at)? {
            2 => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn config16(&self, offset: u64) -> io::Result<u16> {
        let mut bytes = [0; 2];
        match pread(&self.fd, &mut bytes, self.config + offset)? {
            2 => Ok(u16::from_le_bytes(bytes)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

const CONFIG_VENDOR: u64 = 0;
const CONFIG_COMMAND: u64 = 4;

/// The command register (PCI Local Bus 3.0, 6.2.2).
#[bitfield_struct::bitfield(u16)]
struct Command {
    io: bool,
    memory: bool,
    bus_master: bool,
    #[bits(7)]
    _other: u8,
    no_intx: bool,
    #[bits(5)]
    _reserved: u8,
}
