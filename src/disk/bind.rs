//! `basalt disk bind`, `unbind` and `identify`: controllers, by their PCI address.

use super::drive::{self, Drive};
use super::list::served;
use super::medium::{Bench, NO_IOMMU, Trust};
use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Format, print, print_json};
use crate::size::Size;
use clap::Args;
use dataplane::pci::{self, BindError, Change, Machine, PciAddress};
use dataplane::vfio;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `basalt disk bind`.
#[derive(Debug, Args)]
pub struct BindOptions {
    /// The controller, as 0000:01:00.0
    pub address: PciAddress,
    /// Take it even if a disk of it holds an LVM volume group, a RAID member or the like that is
    /// not in use now
    #[arg(long)]
    pub force: bool,
    /// What the operator accepts of a controller.
    #[command(flatten)]
    pub trust: Trust,
}

/// `basalt disk unbind`.
#[derive(Debug, Args)]
pub struct UnbindOptions {
    /// The controller, as 0000:01:00.0
    pub address: PciAddress,
}

/// `basalt disk identify`.
#[derive(Debug, Args)]
pub struct IdentifyOptions {
    /// A controller, as 0000:01:00.0, or a block device
    pub disk: String,
    /// Light the locate LED of its slot for so many seconds, where the enclosure has one
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub blink: Option<u64>,
    /// What the operator accepts of a controller.
    #[command(flatten)]
    pub trust: Trust,
}

#[derive(Debug, Serialize)]
struct Moved {
    address: String,
    changed: bool,
    driver: Option<String>,
}

/// Gives a controller to `vfio-pci`.
pub(super) fn bind(options: &BindOptions, output: Format) -> Result<(), Failure> {
    let (machine, address) = (Machine::this(), options.address);
    if !options.force {
        refuse_members(&machine, address)?;
    }
    let no_iommu = options.trust.no_iommu;
    let bound = match pci::bind(&machine, address, no_iommu) {
        Err(BindError::NoDriver) => {
            load_module();
            pci::bind(&machine, address, no_iommu)
        }
        other => other,
    };
    let change = bound.map_err(|error| failed(&error))?;
    show(&machine, address, &change, output)
}

/// Gives it back to its kernel driver.
pub(super) fn unbind(options: &UnbindOptions, output: Format) -> Result<(), Failure> {
    let (machine, address) = (Machine::this(), options.address);
    if vfio::is_taken(&machine, address) {
        let text = format!("{address}: a program drives it");
        let hint = "stop the node that has it, or take the disk out of its configuration";
        return Err(Failure::new(Exit::Refused, text).hint(hint));
    }
    let change = pci::unbind(&machine, address).map_err(|error| failed(&error))?;
    show(&machine, address, &change, output)
}

/// What is on a disk without being in use may still be part of something that is put together when
/// the system starts.
fn refuse_members(machine: &Machine, address: PciAddress) -> Result<(), Failure> {
    for device in machine.block_devices(address) {
        let path = &device.path;
        let content = super::content::of(path, None);
        if let Ok(super::content::Content::Foreign(what)) = content
            && super::content::is_member(what)
        {
            let text = format!("{address}: {} holds {what}", path.display());
            let hint = "if it is not needed, give --force; nothing is written to the disk by this";
            return Err(Failure::new(Exit::Refused, text).hint(hint));
        }
    }
    Ok(())
}

/// What cannot be loaded is told by the error that comes again.
fn load_module() {
    let mut modprobe = Command::new("modprobe");
    modprobe.arg("vfio-pci").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = modprobe.status();
}

fn failed(error: &BindError) -> Failure {
    let failure = |exit| Failure::new(exit, error.to_string());
    match error {
        BindError::InUse { .. } => {
            let hint = "unmount it, or take it out of its volume group or array, first";
            failure(Exit::Refused).hint(hint)
        }
        BindError::Group { .. } => {
            let hint = "move the disk to a slot of its own, or give the others to vfio-pci too";
            failure(Exit::Refused).hint(hint)
        }
        BindError::NoIommu(_) => failure(Exit::Refused).hint(NO_IOMMU),
        BindError::NotStorage { .. } => failure(Exit::Refused),
        _ => failure(Exit::Failed),
    }
}

fn show(
    machine: &Machine,
    address: PciAddress,
    change: &Change,
    output: Format,
) -> Result<(), Failure> {
    let (changed, driver) = match change {
        Change::Already { driver } => (false, driver.clone()),
        Change::Moved { to, .. } => (true, to.clone()),
    };
    if output == Format::Json {
        return print_json(&Moved { address: address.to_string(), changed, driver });
    }
    let now = if changed { "is now" } else { "was already" };
    let driver = match driver.as_deref() {
        Some("vfio-pci") if vfio::is_unchecked(machine, address) => format!(
            "given to vfio-pci, with no IOMMU before it; for the configuration: pci:{address}, and \
             no_iommu = true under [node]"
        ),
        Some("vfio-pci") => format!("given to vfio-pci; for the configuration: pci:{address}"),
        Some(driver) => format!("driven by {driver}"),
        None => "without a driver: none is loaded for it".to_owned(),
    };
    print(&format!("{address} {now} {driver}\n"))
}

/// Prints all that is known of a drive.
pub(super) fn identify(options: &IdentifyOptions, global: &Global) -> Result<(), Failure> {
    let machine = Machine::this();
    let name = options.disk.strip_prefix("pci:").unwrap_or(&options.disk);
    let (address, unit) = match name.split_once('/') {
        Some((address, unit)) if !address.is_empty() => (address, Some(unit)),
        _ => (name, None),
    };
    let drives: Vec<Drive> = match address.parse::<PciAddress>() {
        Ok(address) => of_controller(&machine, address, unit, options.trust, global)?,
        Err(_) => drive::of_block_device(&machine, &PathBuf::from(name)).into_iter().collect(),
    };
    if drives.is_empty() {
        let text = format!("{name}: neither a controller with disks nor a block device");
        let hint = "`basalt disk list` shows disks and their PCI addresses";
        return Err(Failure::new(Exit::Failed, text).hint(hint));
    }
    if global.output == Format::Json {
        print_json(&drives)?;
    } else {
        for drive in &drives {
            print(&describe(drive))?;
        }
    }
    match options.blink {
        Some(seconds) => blink(&machine, &drives[0], Duration::from_secs(seconds)),
        None => Ok(()),
    }
}

/// The drives of a controller; that of one number, if one is given.
fn of_controller(
    machine: &Machine,
    address: PciAddress,
    unit: Option<&str>,
    trust: Trust,
    global: &Global,
) -> Result<Vec<Drive>, Failure> {
    let function = machine.function(address).ok_or_else(|| failed(&BindError::Missing(address)))?;
    let mut drives = if function.driver.as_deref() != Some("vfio-pci") {
        drive::of_controller(machine, &function)
    } else if vfio::is_taken(machine, address) {
        drive::of_served_controller(machine, &function, &served(global))
    } else {
        drive::of_idle_controller(machine, &function, &Bench::trusting(trust)?)?
    };
    if unit.is_some() && drives.iter().any(|drive| drive.unit.is_some()) {
        drives.retain(|drive| drive.unit.as_deref() == unit);
    }
    Ok(drives)
}

fn describe(drive: &Drive) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name:<16} {value}\n"));
        }
    };
    line("path", drive.path.as_ref().map(|path| path.display().to_string()));
    line("pci", drive.pci.clone());
    line("disk", drive.unit.as_ref().map(|_| drive.name()));
    line("driver", drive.driver.clone());
    line("used by", drive.used_by.clone());
    line("model", drive.model.clone());
    line("serial", drive.serial.clone());
    line("firmware", drive.firmware.clone());
    line("wwid", drive.wwid.clone());
    line("size", (drive.size > 0).then(|| Size(drive.size).to_string()));
    line("iommu group", drive.group.map(|group| group.to_string()));
    line("numa node", drive.numa_node.map(|node| node.to_string()));
    line("slot", drive.slot.clone());
    line("health", Some(drive.verdict().to_owned()));
    if let Some(health) = &drive.health {
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        line("wear", health.used_percent.map(|used| format!("{used} %")));
        line("spare", health.spare_percent.map(|spare| format!("{spare} %")));
        line("temperature", health.temperature.map(|celsius| format!("{celsius} C")));
        line("media errors", number(health.media_errors));
        line("hours on", number(health.power_on_hours));
        line("unsafe ends", number(health.unsafe_shutdowns));
    }
    for concern in &drive.concerns {
        line("concern", Some((*concern).to_owned()));
    }
    text.push('\n');
    text
}

/// Lights the LED of the drive's slot: enclosures (SES) have `locate`, PCI hot-plug slots have
/// `attention`.
fn blink(machine: &Machine, drive: &Drive, time: Duration) -> Result<(), Failure> {
    let Some(led) = drive::locate_led(machine, drive) else {
        let text = "this slot has no LED that the system can light";
        let hint = "compare the serial number with the label of the drive";
        return Err(Failure::new(Exit::Failed, text).hint(hint));
    };
    let set = |value: &str| {
        fs::write(&led, value)
            .map_err(|e| Failure::io(format!("cannot light {}", led.display()), &e))
    };
    set("1")?;
    std::thread::sleep(time);
    set("0")
}
