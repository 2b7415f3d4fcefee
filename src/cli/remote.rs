//! Commands that ask a running node.

use super::{EventOptions, Global, HostCommand, Resize, StatOptions, TargetCommand, VolumeCommand};
use crate::api::{Host, NewVolume, NodeInfo, VolumeChange, WAIT_MS_MAX};
use crate::client::{Client, encode};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Table, note, print, print_json, print_json_line};
use crate::size::Size;
use crate::stat::rates;
use dataplane::node::{
    ConnectionInfo, DiskInfo, Exports, HostInfo, NodeEvent, Redirect, Severity, Snapshot,
    VolumeInfo,
};
use hyper::Method;
use serde::Serialize;
use serde_json::Value;
use std::io::{BufRead, IsTerminal};
use std::time::Duration;

/// Moves the cursor home and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";
const NO_BODY: Option<&()> = None;

pub(super) fn volume(command: VolumeCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::new(&global.socket())?;
    match command {
        VolumeCommand::Create { name, size: Size(size), block_size, uuid, disk } => {
            let new = NewVolume { name, size, block_size, uuid, disk };
            let made: VolumeInfo = client.request(Method::POST, "/v1/volumes", Some(&new))?;
            show_volume(&made, global.output)
        }
        VolumeCommand::List => {
            list_volumes(&client.get::<Vec<_>>("/v1/volumes")?, global.output)?;
            tell_offline(&client.get::<Vec<DiskInfo>>("/v1/disks")?);
            Ok(())
        }
        VolumeCommand::Show { name } => show_volume(&client.get(&path(&name))?, global.output),
        VolumeCommand::Resize { name, size } => {
            let size = match size {
                Resize::To(size) => size,
                Resize::By(more) => client.get::<VolumeInfo>(&path(&name))?.size + more,
            };
            let change = VolumeChange { size: Some(size), ..VolumeChange::default() };
            let changed = client.request(Method::PATCH, &path(&name), Some(&change))?;
            show_volume(&changed, global.output)
        }
        VolumeCommand::Rename { name, to } => {
            let change = VolumeChange { name: Some(to), ..VolumeChange::default() };
            let changed = client.request(Method::PATCH, &path(&name), Some(&change))?;
            show_volume(&changed, global.output)
        }
        VolumeCommand::Export { name, nvme, iscsi, none: _ } => {
            let exports = Some(Exports { nvme, iscsi });
            let change = VolumeChange { exports, ..VolumeChange::default() };
            let changed = client.request(Method::PATCH, &path(&name), Some(&change))?;
            show_volume(&changed, global.output)
        }
        VolumeCommand::Delete { name, yes } => {
            if !yes {
                let volume: VolumeInfo = client.get(&path(&name))?;
                confirm(&format!("Delete volume {name} ({}) and its data?", Size(volume.size)))?;
            }
            let _: Value = client.request(Method::DELETE, &path(&name), NO_BODY)?;
            done(&format!("Volume {name} is deleted."), global.output)
        }
    }
}

pub(super) fn host(command: HostCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::new(&global.socket())?;
    match command {
        HostCommand::Allow { nqn, chap } => {
            let host = Host { nqn, chap: super::secret::read(&chap)? };
            let _: Value = client.request(Method::POST, "/v1/hosts", Some(&host))?;
            done(&format!("Host {} may connect.", host.nqn), global.output)
        }
        HostCommand::Deny { nqn } => {
            let path = format!("/v1/hosts?nqn={}", encode(&nqn));
            let _: Value = client.request(Method::DELETE, &path, NO_BODY)?;
            done(&format!("Host {nqn} may not connect any more."), global.output)
        }
        HostCommand::List => {
            let hosts: Vec<HostInfo> = client.get("/v1/hosts")?;
            if global.output == Format::Json {
                return print_json(&hosts);
            }
            if hosts.is_empty() {
                return print("No host may connect yet; `basalt host allow NQN` lets one.\n");
            }
            let mut table = Table::new(&["HOST", "CHAP"]);
            for host in hosts {
                table.row([host.nqn, if host.chap { "yes" } else { "no" }.to_owned()]);
            }
            print(&table.render())
        }
    }
}

pub(super) fn target(command: &TargetCommand, global: &Global) -> Result<(), Failure> {
    const PATH: &str = "/v1/iscsi/redirect";
    let client = Client::new(&global.socket())?;
    let TargetCommand::Redirect { iscsi, permanent, none } = *command;
    if let Some(to) = iscsi {
        let redirect = Redirect { to, permanent };
        let _: Value = client.request(Method::PUT, PATH, Some(&redirect))?;
        return done(&format!("Initiators that log in are sent to {to}."), global.output);
    }
    if none {
        let _: Value = client.request(Method::DELETE, PATH, NO_BODY)?;
        return done("Initiators that log in are served here.", global.output);
    }
    let redirect: Option<Redirect> = client.get(PATH)?;
    match (redirect, global.output) {
        (redirect, Format::Json) => print_json(&redirect),
        (None, _) => print("Initiators that log in are served here.\n"),
        (Some(Redirect { to, permanent }), _) => {
            let how = if permanent { ", for good" } else { "" };
            print(&format!("Initiators that log in are sent to {to}{how}.\n"))
        }
    }
}

pub(super) fn connections(global: &Global) -> Result<(), Failure> {
    let connections: Vec<ConnectionInfo> = Client::new(&global.socket())?.get("/v1/connections")?;
    if global.output == Format::Json {
        return print_json(&connections);
    }
    if connections.is_empty() {
        return print("No host is connected.\n");
    }
    let columns = [">ID", "PEER", "PROTOCOL", ">CONTROLLER", ">QUEUE", ">CORE", "HOST"];
    let mut table = Table::new(&columns);
    let optional = |value: Option<u16>| value.map_or("-".to_owned(), |value| value.to_string());
    for c in connections {
        table.row([
            c.id.to_string(),
            c.peer,
            c.protocol,
            optional(c.controller),
            optional(c.queue),
            c.core.to_string(),
            c.host,
        ]);
    }
    print(&table.render())
}

/// What `basalt node` prints.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    info: NodeInfo,
    disks: Vec<DiskInfo>,
}

pub(super) fn node(global: &Global) -> Result<(), Failure> {
    let client = Client::new(&global.socket())?;
    let described = Described { info: client.get("/v1/node")?, disks: client.get("/v1/disks")? };
    if global.output == Format::Json {
        return print_json(&described);
    }
    let Described { info, disks } = described;
    let list = |addresses: &[std::net::SocketAddr]| {
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    let mut table = Table::new(&["DISK", ">SIZE", ">FREE", ">SHARDS", "MODE", "STATE"]);
    for disk in &disks {
        table.row([
            disk.path.clone(),
            Size(disk.capacity).to_string(),
            Size(disk.free).to_string(),
            disk.shards.to_string(),
            disk.mode.clone().unwrap_or_else(|| "-".to_owned()),
            disk.state.clone(),
        ]);
    }
    print(&format!(
        "name      {}\nnqn       {}\niqn       {}\nversion   {}\naddresses {}\niscsi     {}\n\n{}",
        info.name,
        info.nqn,
        info.iqn,
        info.version,
        list(&info.addresses),
        list(&info.iscsi_addresses),
        table.render()
    ))?;
    tell_offline(&disks);
    Ok(())
}

/// Says on standard error which disks are not served, and why.
fn tell_offline(disks: &[DiskInfo]) {
    for disk in disks {
        if let Some(reason) = &disk.reason {
            let path = &disk.path;
            note(&format!("basalt: disk {path} is offline, its volumes with it: {reason}"));
        }
    }
}

pub(super) fn stat(options: &StatOptions, global: &Global) -> Result<(), Failure> {
    let client = Client::new(&global.socket())?;
    let mut before: Snapshot = client.get("/v1/counters")?;
    let mut shown = 0;
    let refresh = global.output == Format::Table && std::io::stdout().is_terminal();
    while options.count.is_none_or(|count| shown < count) {
        std::thread::sleep(Duration::from_secs_f64(options.interval));
        let after: Snapshot = client.get("/v1/counters")?;
        let rates = rates(&before, &after);
        match global.output {
            Format::Json => print_json_line(&rates)?,
            Format::Table if refresh => print(&format!("{CLEAR}{}", rates.render()))?,
            Format::Table => print(&format!("{}\n", rates.render()))?,
        }
        before = after;
        shown += 1;
    }
    Ok(())
}

pub(super) fn events(options: &EventOptions, global: &Global) -> Result<(), Failure> {
    let client = Client::new(&global.socket())?;
    let mut since = options.since;
    let mut wait = 0;
    loop {
        let path = format!("/v1/events?since={since}&wait_ms={wait}");
        let events: Vec<NodeEvent> = client.get(&path)?;
        for event in &events {
            match global.output {
                Format::Json => print_json_line(event)?,
                Format::Table => print(&line(event))?,
            }
        }
        // An answer holds a bounded number of events: ask until nothing is left.
        match events.last() {
            Some(last) => since = last.sequence,
            None if options.follow => {}
            None => return Ok(()),
        }
        if options.follow {
            wait = WAIT_MS_MAX;
        }
    }
}

fn line(event: &NodeEvent) -> String {
    let severity = match event.severity {
        Severity::Info => "info   ",
        Severity::Warning => "warning",
        Severity::Error => "ERROR  ",
    };
    let time = utc(event.unix_ms);
    format!("{time} {:>5} {severity} {:<20} {}\n", event.sequence, event.kind, event.text)
}

/// RFC 3339 in UTC, to the millisecond.
fn utc(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let leaps = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps.min(day_of_era)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year_of_era, month + 3),
        _ => (era * 400 + year_of_era + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

fn path(name: &str) -> String {
    format!("/v1/volumes/{}", encode(name))
}

fn done(text: &str, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => print(&format!("{text}\n")),
        Format::Json => print("{}\n"),
    }
}

/// Asks the person at the terminal; without one, refuses.
fn confirm(question: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let refuse = || Failure::new(Exit::Refused, "not confirmed").hint("give --yes to go ahead");
    if !stdin.is_terminal() {
        return Err(refuse());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(refuse()),
    }
}

fn show_volume(volume: &VolumeInfo, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return print_json(volume);
    }
    print(&format!(
        "name       {}\nsize       {} ({} bytes)\nused       {}\nblock size {}\nuuid       {}\n\
         namespace  {}\nsubsystem  {}\nunit       LUN {}\nseen over  {}\n\
         disk       {}\nwrites     {}\n",
        volume.name,
        Size(volume.size),
        volume.size,
        Size(volume.used),
        volume.block_size,
        volume.uuid,
        volume.nsid,
        volume.subsystem,
        volume.lun,
        volume.exports,
        volume.disk,
        if volume.write_protected { "forbidden by a host" } else { "allowed" }
    ))
}

fn list_volumes(volumes: &[VolumeInfo], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return print_json(volumes);
    }
    if volumes.is_empty() {
        return print("There is no volume; `basalt volume create NAME SIZE` makes one.\n");
    }
    let mut table = Table::new(&["NAME", ">SIZE", ">USED", ">BLOCK", ">NSID", "DISK", "UUID"]);
    for volume in volumes {
        table.row([
            volume.name.clone(),
            Size(volume.size).to_string(),
            Size(volume.used).to_string(),
            volume.block_size.to_string(),
            volume.nsid.to_string(),
            volume.disk.clone(),
            volume.uuid.to_string(),
        ]);
    }
    print(&table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(1_795_248_000_123), "2026-11-21T08:00:00.123Z");
        assert_eq!(utc(4_102_444_799_999), "2099-12-31T23:59:59.999Z");
    }
}
