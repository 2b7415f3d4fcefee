//! Moves a controller between its kernel driver and `vfio-pci`, by `driver_override`.
//!
//! The override names the one driver that may take the function, so that neither a module loaded
//! later nor a rescan takes it back; it lasts until the machine restarts.

use super::machine::{ControllerKind, Machine, PciFunction};
use super::{PciAddress, Use};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The driver that gives a function to user space.
const VFIO_DRIVER: &str = "vfio-pci";

/// What [`bind`] or [`unbind`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it was so already.
    Already {
        /// Who drives it.
        driver: Option<String>,
    },
    /// The function changed hands.
    Moved {
        /// Who drove it.
        from: Option<String>,
        /// Who drives it now.
        to: Option<String>,
    },
}

/// Why a function stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is nothing at this address.
    #[error("{0}: no PCI function there; `basalt disk list` shows the controllers")]
    Missing(PciAddress),
    /// Not a controller that we drive.
    #[error("{address}: class {class:06x} is neither an NVMe nor an AHCI controller")]
    NotStorage {
        /// Where.
        address: PciAddress,
        /// Its class code.
        class: u32,
    },
    /// A block device of it is in use.
    #[error("{address}: {used}; a disk in use is left alone")]
    InUse {
        /// Where.
        address: PciAddress,
        /// How.
        used: Use,
    },
    /// Others of its IOMMU group have host drivers.
    #[error("{address}: shares IOMMU group {group} with {others}, which would have to go with it")]
    Group {
        /// Where.
        address: PciAddress,
        /// The group.
        group: u32,
        /// Who keeps it.
        others: Neighbours,
    },
    /// No IOMMU stands before it, and nobody has said that it may be driven all the same.
    #[error(
        "{0}: there is no IOMMU before it; enable VT-d or AMD-Vi in the firmware, and \
         intel_iommu=on on the kernel's command line"
    )]
    NoIommu(PciAddress),
    /// The operator allows a device without an IOMMU, the kernel does not.
    #[error(
        "{0}: there is no IOMMU before it, and the kernel does not allow devices without: echo 1 > \
         /sys/module/vfio/parameters/enable_unsafe_noiommu_mode (where there is no such file, the \
         kernel was built without CONFIG_VFIO_NOIOMMU)"
    )]
    NoIommuForbidden(PciAddress),
    /// The kernel has no `vfio-pci`.
    #[error("the vfio-pci driver is not loaded; run `modprobe vfio-pci`")]
    NoDriver,
    /// The kernel took the function away but the new driver did not take it.
    #[error("{address}: {driver} did not take it; `dmesg` may say why")]
    NotTaken {
        /// Where.
        address: PciAddress,
        /// Who should have.
        driver: &'static str,
    },
    /// Sysfs cannot be written.
    #[error("cannot write {}: {source}{}", path.display(), hint(source))]
    Write {
        /// The attribute.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The other functions of a group, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbours(pub Vec<PciFunction>);

impl fmt::Display for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, other) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let driver = other.driver.as_deref().unwrap_or("no driver");
            write!(f, "{comma}{} ({driver})", other.address)?;
        }
        Ok(())
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        io::ErrorKind::ReadOnlyFilesystem => "; sysfs is read-only here (a container?)",
        _ => "",
    }
}

/// Gives a controller to `vfio-pci`. Doing it again changes nothing. `no_iommu`: also one that no
/// IOMMU keeps in check, where the kernel allows it too.
///
/// # Errors
/// [`BindError`]; the function then has the driver that it had, unless the text says otherwise.
pub fn bind(machine: &Machine, address: PciAddress, no_iommu: bool) -> Result<Change, BindError> {
    let function = storage(machine, address)?;
    if function.driver.as_deref() == Some(VFIO_DRIVER) {
        set_override(machine, address, VFIO_DRIVER)?;
        return Ok(Change::Already { driver: function.driver });
    }
    if let Some(used) = machine.block_devices(address).into_iter().find_map(|device| device.used) {
        return Err(BindError::InUse { address, used });
    }
    let others = machine.group_obstacles(address);
    if let (Some(group), false) = (function.group, others.is_empty()) {
        return Err(BindError::Group { address, group, others: Neighbours(others) });
    }
    if function.group.is_none() && !no_iommu {
        return Err(BindError::NoIommu(address));
    }
    if !machine.path("sys/bus/pci/drivers").join(VFIO_DRIVER).exists() {
        return Err(BindError::NoDriver);
    }
    if function.group.is_none() && !machine.allows_no_iommu() {
        return Err(BindError::NoIommuForbidden(address));
    }
    let moved = hand_over(machine, &function, VFIO_DRIVER);
    if moved.is_err() {
        // Whatever went wrong, the kernel driver shall have it again.
        let _ = hand_over(machine, &function, "\n");
    }
    let to = moved?;
    if to.as_deref() != Some(VFIO_DRIVER) {
        hand_over(machine, &function, "\n")?;
        return Err(BindError::NotTaken { address, driver: VFIO_DRIVER });
    }
    Ok(Change::Moved { from: function.driver, to })
}

/// Gives a controller back to its kernel driver. Doing it again changes nothing.
///
/// The kernel takes it from whoever has it open; the caller has made sure that nobody does.
///
/// # Errors
/// [`BindError`].
pub fn unbind(machine: &Machine, address: PciAddress) -> Result<Change, BindError> {
    let function = storage(machine, address)?;
    let is_ours = function.driver.as_deref() == Some(VFIO_DRIVER);
    if !is_ours && function.driver.is_some() {
        if function.driver_override.as_deref() == Some(VFIO_DRIVER) {
            set_override(machine, address, "\n")?;
        }
        return Ok(Change::Already { driver: function.driver });
    }
    match hand_over(machine, &function, "\n")? {
        // No driver is loaded for it, which is no fault of the function's.
        to if to.as_deref() != Some(VFIO_DRIVER) => Ok(Change::Moved { from: function.driver, to }),
        _ => Err(BindError::NotTaken { address, driver: "its kernel driver" }),
    }
}

fn storage(machine: &Machine, address: PciAddress) -> Result<PciFunction, BindError> {
    let function = machine.function(address).ok_or(BindError::Missing(address))?;
    match function.kind() {
        ControllerKind::Other => Err(BindError::NotStorage { address, class: function.class }),
        ControllerKind::Nvme | ControllerKind::Ahci => Ok(function),
    }
}

/// Names the only driver that may take the function (a line feed: any), takes it from the present
/// one, and has the kernel look for a driver. Returns who has it then.
fn hand_over(
    machine: &Machine,
    function: &PciFunction,
    driver: &str,
) -> Result<Option<String>, BindError> {
    let address = function.address;
    set_override(machine, address, driver)?;
    let present = machine.function(address).and_then(|function| function.driver);
    if present.is_some() {
        write(machine, machine.pci_directory(address).join("driver/unbind"), address)?;
    }
    let probed = write(machine, machine.path("sys/bus/pci/drivers_probe"), address);
    match probed {
        // The driver refused it: who has it now tells more than the error does.
        Err(BindError::Write { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
        other => other?,
    }
    Ok(machine.function(address).and_then(|function| function.driver))
}

fn set_override(machine: &Machine, address: PciAddress, driver: &str) -> Result<(), BindError> {
    let path = machine.pci_directory(address).join("driver_override");
    machine.write(&path, driver).map_err(|source| BindError::Write { path, source })
}

fn write(machine: &Machine, path: PathBuf, address: PciAddress) -> Result<(), BindError> {
    let written = machine.write(&path, &address.to_string());
    written.map_err(|source| BindError::Write { path, source })
}
