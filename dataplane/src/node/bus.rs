//! Where the controllers that a node drives itself are plugged in: the PCI bus of its machine, or
//! an emulated one in tests.

use crate::dma::Arena;
use crate::hardware::Device;
use crate::pci::{ControllerKind, Machine, PciAddress};
use crate::vfio::{Options, Vfio, VfioDevice};
use std::sync::Arc;

/// The registers of what is plugged into a bus.
pub(super) type RegistersOf<B> = <<B as Bus>::Device as Device>::Registers;

/// Gives out controllers. Clones are of the same bus.
pub(super) trait Bus: Clone + Send + 'static {
    /// What is plugged in there.
    type Device: Device;

    /// What kind of controller is plugged in; `None` where nothing is.
    fn kind(&self, address: PciAddress) -> Option<ControllerKind>;

    /// Whether a controller is there, and for us to take.
    ///
    /// # Errors
    /// What is missing, and what the operator can do about it.
    fn look(&self, address: PciAddress) -> Result<(), String>;

    /// Takes it over.
    ///
    /// # Errors
    /// Why that is not possible, and what the operator can do about it.
    fn open(&self, address: PciAddress, arena: &Arena) -> Result<Self::Device, String>;
}

/// The bus of this machine: what is bound to `vfio-pci`.
#[derive(Clone)]
pub(super) struct PciBus {
    machine: Arc<Machine>,
    vfio: Vfio,
}

impl PciBus {
    pub(super) fn new(no_iommu: bool) -> Self {
        let vfio = Vfio::new(Options { no_iommu, ..Options::default() });
        Self { machine: Arc::new(Machine::this()), vfio }
    }
}

impl Bus for PciBus {
    type Device = VfioDevice;

    fn kind(&self, address: PciAddress) -> Option<ControllerKind> {
        self.machine.function(address).map(|function| function.kind())
    }

    fn look(&self, address: PciAddress) -> Result<(), String> {
        let function = self.machine.function(address).ok_or("it is not plugged in")?;
        match function.driver.as_deref() {
            Some("vfio-pci") => Ok(()),
            _ => Err(format!("it is there, and not bound: run `basalt disk bind {address}`")),
        }
    }

    fn open(&self, address: PciAddress, arena: &Arena) -> Result<VfioDevice, String> {
        let opened = self.vfio.open(&self.machine, address, arena);
        opened.map_err(|error| error.to_string())
    }
}
