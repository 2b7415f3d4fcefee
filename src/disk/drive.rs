//! The drives of this machine, whoever drives them: from sysfs, and from what they answer.

use super::medium::Bench;
use crate::failure::Failure;
use dataplane::disk::health::{Concern, Health};
use dataplane::disk::kernel::{self, DeviceEntry, list_devices};
use dataplane::disk::single::Examined;
use dataplane::node::{DiskInfo, DriveInfo};
use dataplane::pci::{ControllerKind, Machine, PciFunction};
use dataplane::vfio;
use serde::Serialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A drive, as `basalt disk list` and `identify` show it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Drive {
    /// Its path in `/dev`, where the kernel drives it.
    pub(super) path: Option<PathBuf>,
    /// Its controller's address.
    pub(super) pci: Option<String>,
    /// Which disk of a controller of our own it is, where that is known.
    #[serde(skip)]
    pub(super) unit: Option<String>,
    pub(super) size: u64,
    pub(super) model: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) firmware: Option<String>,
    pub(super) wwid: Option<String>,
    pub(super) rotational: bool,
    /// The controller's driver.
    pub(super) driver: Option<String>,
    pub(super) group: Option<u32>,
    pub(super) numa_node: Option<u32>,
    /// The hot-plug slot or bay.
    pub(super) slot: Option<String>,
    pub(super) used_by: Option<String>,
    pub(super) health: Option<Health>,
    pub(super) concerns: Vec<&'static str>,
}

/// All drives: whole block devices, and controllers that the kernel does not drive.
pub(super) fn all(machine: &Machine) -> std::io::Result<Vec<Drive>> {
    let mut drives: Vec<Drive> =
        list_devices()?.into_iter().map(|device| of_device(machine, device)).collect();
    for function in machine.controllers()? {
        let is_ours = function.driver.as_deref() == Some("vfio-pci");
        // A controller without disks is of interest only where no kernel driver shows them.
        if is_ours || function.driver.is_none() {
            drives.push(of_bare_controller(machine, &function));
        }
    }
    Ok(drives)
}

/// The drives of one controller; the controller itself where the kernel shows none.
pub(super) fn of_controller(machine: &Machine, function: &PciFunction) -> Vec<Drive> {
    let mut known = list_devices().unwrap_or_default();
    let below = machine.block_devices(function.address).into_iter();
    let below = below.filter_map(|device| {
        let at = known.iter().position(|entry| entry.path == device.path)?;
        Some(of_device(machine, known.swap_remove(at)))
    });
    let drives: Vec<Drive> = below.collect();
    if drives.is_empty() { vec![of_bare_controller(machine, function)] } else { drives }
}

/// A whole block device, by its path.
pub(super) fn of_block_device(machine: &Machine, path: &Path) -> Option<Drive> {
    let path = fs::canonicalize(path).ok()?;
    let known = list_devices().ok()?.into_iter().find(|device| device.path == path)?;
    Some(of_device(machine, known))
}

impl Drive {
    /// A partition or a file, of which nothing is known.
    pub(super) fn of_file(path: PathBuf, size: u64) -> Self {
        Self {
            path: Some(path),
            pci: None,
            unit: None,
            size,
            model: None,
            serial: None,
            firmware: None,
            wwid: None,
            rotational: false,
            driver: None,
            group: None,
            numa_node: None,
            slot: None,
            used_by: None,
            health: None,
            concerns: Vec::new(),
        }
    }

    /// As the configuration names it.
    pub(super) fn name(&self) -> String {
        match (&self.path, &self.pci, &self.unit) {
            (Some(path), ..) => path.display().to_string(),
            (None, Some(pci), None) => format!("pci:{pci}"),
            (None, Some(pci), Some(unit)) => format!("pci:{pci}/{unit}"),
            (None, None, _) => "-".to_owned(),
        }
    }

    /// Takes in what the running node knows of it, which drives it by itself.
    pub(super) fn told(&mut self, info: &DriveInfo) {
        self.size = info.size;
        self.model = Some(info.model.clone());
        self.serial = Some(info.serial.clone());
        self.firmware = Some(info.firmware.clone());
        self.concerns = concerns(info.health.as_ref());
        self.health = info.health;
    }

    /// In a word.
    pub(super) fn verdict(&self) -> &'static str {
        match &self.health {
            None => "unknown",
            Some(health) => {
                let concerns = health.concerns(&[]);
                match () {
                    () if concerns.iter().any(|concern| concern.is_grave()) => "failing",
                    () if !concerns.is_empty() => "warning",
                    () => "good",
                }
            }
        }
    }
}

fn of_device(machine: &Machine, device: DeviceEntry) -> Drive {
    let name = device.path.strip_prefix("/dev").unwrap_or(&device.path);
    let function = machine.controller_of(&name.to_string_lossy());
    let sysfs = machine.path("sys/block").join(name.to_string_lossy().replace('/', "!"));
    let below = sysfs.join("device");
    let firmware = attribute(&below, "firmware_rev").or_else(|| attribute(&below, "rev"));
    let health = kernel::health(&device.path);
    let slot = function.as_ref().and_then(|function| slot(machine, function));
    Drive {
        path: Some(device.path),
        pci: function.as_ref().map(|function| function.address.to_string()),
        unit: None,
        size: device.size,
        model: device.model,
        serial: device.serial,
        firmware,
        wwid: attribute(&sysfs, "wwid").or_else(|| attribute(&below, "wwid")),
        rotational: device.rotational,
        driver: function.as_ref().and_then(|function| function.driver.clone()),
        group: function.as_ref().and_then(|function| function.group),
        numa_node: function.as_ref().and_then(|function| function.numa_node),
        slot,
        used_by: device.used_by,
        concerns: concerns(health.as_ref()),
        health,
    }
}

/// A controller whose disks the kernel does not show.
fn of_bare_controller(machine: &Machine, function: &PciFunction) -> Drive {
    let kind = match function.kind() {
        ControllerKind::Nvme => "NVMe controller",
        ControllerKind::Ahci => "AHCI controller",
        ControllerKind::Other => "controller",
    };
    let (vendor, device) = function.ids;
    let taken = vfio::is_taken(machine, function.address);
    Drive {
        path: None,
        pci: Some(function.address.to_string()),
        unit: None,
        size: 0,
        model: Some(format!("{kind} {vendor:04x}:{device:04x}")),
        serial: None,
        firmware: None,
        wwid: None,
        rotational: false,
        driver: function.driver.clone(),
        group: function.group,
        numa_node: function.numa_node,
        slot: slot(machine, function),
        used_by: taken.then(|| "a node".to_owned()),
        health: None,
        concerns: Vec::new(),
    }
}

/// The disks of a controller that `vfio-pci` has and nobody drives: they are asked.
pub(super) fn of_idle_controller(
    machine: &Machine,
    function: &PciFunction,
    bench: &Bench,
) -> Result<Vec<Drive>, Failure> {
    let bare = of_bare_controller(machine, function);
    let drives = bench.examine(function.address)?.into_iter();
    let drive = |examined: Examined| {
        let mut drive = Drive { unit: Some(examined.unit.to_string()), ..bare.clone() };
        drive.told(&examined.info);
        drive.rotational = examined.is_rotational;
        drive
    };
    let drives: Vec<Drive> = drives.map(drive).collect();
    Ok(if drives.is_empty() { vec![bare] } else { drives })
}

/// The disks of a controller that the running node drives: `served` are all of the node's.
pub(super) fn of_served_controller(
    machine: &Machine,
    function: &PciFunction,
    served: &[DiskInfo],
) -> Vec<Drive> {
    let bare = of_bare_controller(machine, function);
    let prefix = format!("{}/", bare.name());
    let drive = |disk: &DiskInfo| {
        let unit = disk.path.strip_prefix(&prefix)?;
        let used_by = Some("the running node".to_owned());
        let mut drive = Drive { unit: Some(unit.to_owned()), used_by, ..bare.clone() };
        disk.drive.iter().for_each(|info| drive.told(info));
        Some(drive)
    };
    let drives: Vec<Drive> = served.iter().filter_map(drive).collect();
    if drives.is_empty() { vec![bare] } else { drives }
}

fn concerns(health: Option<&Health>) -> Vec<&'static str> {
    let concerns = health.map(|health| health.concerns(&[])).unwrap_or_default();
    concerns.into_iter().map(Concern::text).collect()
}

/// The hot-plug slot of a function: the one whose address is that of its bus and device.
fn slot(machine: &Machine, function: &PciFunction) -> Option<String> {
    let address = function.address.to_string();
    let wanted = address.rsplit_once('.')?.0;
    let slots = fs::read_dir(machine.path("sys/bus/pci/slots")).ok()?;
    let is_it = |path: &Path| attribute(path, "address").as_deref() == Some(wanted);
    let found = slots.filter_map(Result::ok).find(|entry| is_it(&entry.path()))?;
    Some(found.file_name().to_string_lossy().into_owned())
}

/// The file that lights the LED of a drive's slot.
pub(super) fn locate_led(machine: &Machine, drive: &Drive) -> Option<PathBuf> {
    let name = drive.path.as_ref().and_then(|path| path.file_name());
    let enclosure = name.and_then(|name| {
        let device = machine.path("sys/block").join(name).join("device");
        let entries = fs::read_dir(device).ok()?.filter_map(Result::ok);
        let is_enclosure = |entry: &fs::DirEntry| {
            entry.file_name().to_string_lossy().starts_with("enclosure_device")
        };
        let bay = entries.into_iter().find(is_enclosure)?;
        Some(bay.path().join("locate"))
    });
    let slot = drive.slot.as_ref();
    let attention = slot.map(|slot| machine.path("sys/bus/pci/slots").join(slot).join("attention"));
    enclosure.into_iter().chain(attention).find(|led| led.exists())
}

fn attribute(directory: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(directory.join(name)).ok()?.take(4096).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
