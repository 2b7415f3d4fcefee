//! `basalt disk list`.

use super::content::{self, Content};
use super::drive::{self, Drive};
use super::medium::{self, Bench};
use super::{count_growths, count_shards, mode_name};
use crate::cli::Global;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Table, print, print_json};
use crate::size::Size;
use dataplane::node::DiskInfo;
use dataplane::pci::Machine;
use dataplane::store::Probe;
use serde::Serialize;
use std::path::{Path, PathBuf};
use uuid::Uuid;

#[derive(Debug, Serialize)]
struct Listed {
    /// A path, or `pci:ADDRESS` of a controller that the kernel does not drive.
    name: String,
    #[serde(flatten)]
    drive: Drive,
    /// `good`, `warning`, `failing` or `unknown`.
    verdict: &'static str,
    /// What is on it, for people; `None` where it could not be looked at.
    content: Option<String>,
    /// Identity, of a Basalt disk.
    uuid: Option<Uuid>,
    /// How the running node reaches it: `basalt`, `kernel`, `kernel polled` or `kernel
    /// passthrough`; `None`: not its disk, or not served.
    access: Option<String>,
    /// Cores of the running node that have shards of it.
    cores: Vec<u16>,
    /// What the running node says of it: `ok`, `failed` or `offline`; `None`: not its disk.
    node_state: Option<String>,
}

pub(super) fn list(paths: &[PathBuf], global: &Global) -> Result<(), Failure> {
    let machine = Machine::this();
    let mut drives = if paths.is_empty() {
        drive::all(&machine).map_err(|e| Failure::io("cannot list the machine's disks", &e))?
    } else {
        paths.iter().map(|path| named(&machine, path)).collect::<Result<_, _>>()?
    };
    let bench = Bench::new()?;
    let served = served(global);
    if paths.is_empty() {
        add_unlisted(&mut drives, &served);
    }
    let drives = drives.into_iter().flat_map(|drive| parted(drive, &served));
    let listed: Vec<Listed> = drives.map(|drive| look(&bench, &served, drive)).collect();
    if global.output == Format::Json {
        return print_json(&listed);
    }
    print(&table(listed).render())
}

fn table(listed: Vec<Listed>) -> Table {
    let mut table = Table::new(&[
        "PATH", "PCI", ">SIZE", "KIND", "HEALTH", ">WEAR", ">TEMP", "DRIVER", "CORES", "CONTENT",
        "USED BY", "MODEL", "SERIAL", "FIRMWARE",
    ]);
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for disk in listed {
        let health = disk.drive.health.unwrap_or_default();
        let cores: Vec<String> = disk.cores.iter().map(u16::to_string).collect();
        table.row([
            disk.name,
            shown(disk.drive.pci),
            if disk.drive.size > 0 { Size(disk.drive.size).to_string() } else { "-".to_owned() },
            (if disk.drive.rotational { "hdd" } else { "ssd" }).to_owned(),
            disk.verdict.to_owned(),
            shown(health.used_percent.map(|used| format!("{used}%"))),
            shown(health.temperature.map(|celsius| format!("{celsius}C"))),
            shown(disk.access.or(disk.drive.driver)),
            if cores.is_empty() { "-".to_owned() } else { cores.join(",") },
            shown(disk.content),
            shown(disk.drive.used_by),
            shown(disk.drive.model),
            shown(disk.drive.serial),
            shown(disk.drive.firmware),
        ]);
    }
    table
}

/// A disk that was asked for: a whole block device, a controller, a partition or a file.
fn named(machine: &Machine, path: &Path) -> Result<Drive, Failure> {
    if let Some(drive) = drive::of_block_device(machine, path) {
        return Ok(drive);
    }
    let text = path.to_string_lossy();
    let address = text.strip_prefix("pci:").unwrap_or(&text);
    let address = address.split('/').next().and_then(|address| address.parse().ok());
    if let Some(function) = address.and_then(|address| machine.function(address)) {
        return Ok(drive::of_controller(machine, &function).swap_remove(0));
    }
    let metadata = std::fs::metadata(path).map_err(|e| Failure::io(path.display(), &e))?;
    Ok(Drive::of_file(path.to_owned(), metadata.len()))
}

/// The disks of the running node; none if there is no node, which is no error here.
pub(super) fn served(global: &Global) -> Vec<DiskInfo> {
    let client = Client::new(&global.socket()).ok();
    client.and_then(|client| client.get("/v1/disks").ok()).unwrap_or_default()
}

/// Adds disks of the running node that are no drive of this machine: files, and what is missing.
fn add_unlisted(drives: &mut Vec<Drive>, served: &[DiskInfo]) {
    for disk in served {
        let path = Path::new(&disk.path);
        let is_listed = drives.iter().any(|drive| is_same(disk, &drive.name()));
        if path.is_absolute() && !is_listed {
            let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            drives.push(Drive::of_file(path.to_owned(), size));
        }
    }
}

/// A controller that the node drives, as the disks of it that the node has.
fn parted(drive: Drive, served: &[DiskInfo]) -> Vec<Drive> {
    let prefix = format!("{}/", drive.name());
    let units = served.iter().filter_map(|disk| disk.path.strip_prefix(&prefix));
    let of_unit = |unit: &str| Drive { unit: Some(unit.to_owned()), ..drive.clone() };
    let parts: Vec<Drive> =
        if drive.path.is_none() { units.map(of_unit).collect() } else { Vec::new() };
    if parts.is_empty() { vec![drive] } else { parts }
}

/// Whether a disk of the node is the drive of this name.
fn is_same(disk: &DiskInfo, name: &str) -> bool {
    let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    disk.path == name || real(&disk.path) == real(name)
}

/// What a disk of the node is, or why it is not served.
fn described(disk: &DiskInfo) -> String {
    match (&disk.uuid, &disk.mode, &disk.reason) {
        (_, _, Some(reason)) => format!("offline: {reason}"),
        (Some(uuid), Some(mode), None) => {
            format!("basalt {uuid} ({mode}, {}), {}", count_shards(disk.shards), disk.state)
        }
        _ => disk.state.clone(),
    }
}

/// A disk of ours that no node serves.
fn basalt(probe: &Probe) -> String {
    let kind = if probe.is_journal { "journal" } else { mode_name(probe.mode) };
    let mut text = format!("basalt {} ({kind}, {}", probe.disk, count_shards(probe.shards.into()));
    if probe.extensions > 0 {
        text = format!("{text}, {}", count_growths(probe.extensions));
    }
    text.push(')');
    if probe.growable_bytes > 0 {
        let more = Size(probe.growable_bytes);
        text = format!("{text}; `basalt disk grow` would add {more}");
    }
    text
}

fn look(bench: &Bench, served: &[DiskInfo], drive: Drive) -> Listed {
    let name = drive.name();
    let of_node = served.iter().find(|disk| is_same(disk, &name));
    let mut listed = Listed {
        verdict: "unknown",
        access: of_node.and_then(|disk| disk.access.clone()),
        cores: of_node.map(|disk| disk.cores.clone()).unwrap_or_default(),
        uuid: of_node.and_then(|disk| disk.uuid),
        node_state: of_node.map(|disk| disk.state.clone()),
        content: None,
        name,
        drive,
    };
    of_node.and_then(|disk| disk.drive.as_ref()).iter().for_each(|info| listed.drive.told(info));
    listed.verdict = listed.drive.verdict();
    if let Some(disk) = of_node {
        listed.drive.used_by = Some("the running node".to_owned());
        listed.content = Some(described(disk));
        return listed;
    }
    let Some(path) = listed.drive.path.clone() else { return listed };
    if listed.drive.used_by.is_some() {
        return listed;
    }
    let found = match medium::open(&path) {
        Ok(file) => content::of(&path, Some((bench, &file))),
        Err(failure) if failure.exit == Exit::Refused => {
            listed.drive.used_by = Some("another program".to_owned());
            return listed;
        }
        Err(failure) => Err(failure),
    };
    listed.content = Some(match found {
        Ok(Content::Empty) => "empty".to_owned(),
        Ok(Content::Foreign(what)) => what.to_owned(),
        Ok(Content::Damaged(why)) => format!("basalt, damaged: {why}"),
        Ok(Content::Basalt(probe)) => {
            listed.uuid = Some(probe.disk);
            basalt(&probe)
        }
        Err(failure) => failure.text,
    });
    listed
}
