//! The configuration file of `basalt serve`: TOML, every key known, every value checked.
//!
//! [`parse`] never touches the machine: it takes any text and gives a [`Config`] or every problem
//! found, each with its line. `docs/operating/configuration.md` describes the keys.

mod document;
pub mod fuzz;
mod problem;

pub use problem::{Invalid, Problem};

use dataplane::disk::single::Unit;
use dataplane::node::{DiskConfig, DiskSource, NodeConfig, PortalConfig, Protocol};
use dataplane::pci::PciAddress;
use document::{Cores, Disk, Document, Node, Portal};
use problem::Problems;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use toml::Spanned;
use uuid::Uuid;

/// The port of NVMe over TCP.
pub const NVME_PORT: u16 = 4420;
/// The port of iSCSI.
pub const ISCSI_PORT: u16 = 3260;
/// The port of NVMe discovery.
pub const DISCOVERY_PORT: u16 = 8009;
/// Longest NQN in bytes (NVM Express Base 2.1, 4.7).
pub const NQN_MAX: usize = 223;
/// Longest name of a node or volume in bytes.
pub const NAME_MAX: usize = 63;
/// Greatest number of a processor.
pub const CORE_MAX: usize = 1023;
/// Least and greatest buffer memory of a core in bytes.
pub const BUFFERS: (u64, u64) = (16 << 20, 64 << 30);
/// Least and greatest metadata cache in bytes.
pub const METADATA_CACHE: (u64, u64) = (4 << 20, 1 << 40);
/// Least and greatest size of a disk in memory in bytes.
pub const RAM_DISK: (u64, u64) = (64 << 20, 1 << 42);
/// Most shards of a disk.
pub const SHARDS_MAX: u32 = 64;
/// Most connections.
pub const CONNECTIONS_MAX: usize = 65_535;
/// Most disks of a node.
pub const DISKS_MAX: usize = 256;
/// Most portals of a node.
pub const PORTALS_MAX: usize = 64;

/// What `basalt serve` runs by.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node itself. `cores` is empty where the file leaves the choice to the program.
    pub node: NodeConfig,
    /// The management socket; `None`: the default.
    pub socket: Option<PathBuf>,
    /// Where metrics are served over HTTP.
    pub metrics: Option<SocketAddr>,
}

/// Reads a configuration. `origin` names it in messages.
///
/// # Errors
/// Every problem found; the first alone where the text is no TOML.
pub fn parse(text: &str, origin: &str) -> Result<Config, Invalid> {
    let mut problems = Problems::new(text, origin);
    let document: Document = match toml::from_str(text) {
        Ok(document) => document,
        Err(error) => {
            problems.add_toml(&error);
            return Err(problems.into_invalid());
        }
    };
    let node = node(&document.node, &mut problems);
    let disks = disks(&document.disk, &mut problems);
    let portals = portals(&document.portal, &mut problems);
    let socket = document.management.socket.map(|path| absolute(&path, &mut problems));
    let metrics = document.metrics.listen.and_then(|text| metrics(&text, &portals, &mut problems));
    problems.check()?;
    Ok(Config { node: NodeConfig { disks, portals, ..node }, socket, metrics })
}

/// Why a name of a node or volume will not do, if so.
///
/// # Errors
/// A sentence.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match name {
        "" => Err("a name is not empty".to_owned()),
        _ if name.len() > NAME_MAX => Err(format!("a name has {NAME_MAX} characters at most")),
        _ if !name.chars().all(good) => {
            Err(format!("{name:?} has other characters than a-z A-Z 0-9 _ - ."))
        }
        "." | ".." => Err(format!("{name:?} is not a name")),
        _ => Ok(()),
    }
}

/// Why a text is no NQN of a subsystem or host, if so (NVM Express Base 2.1, 4.7).
///
/// # Errors
/// A sentence.
pub fn check_nqn(nqn: &str) -> Result<(), String> {
    if nqn.len() > NQN_MAX {
        return Err(format!("an NQN has {NQN_MAX} bytes at most, this one {}", nqn.len()));
    }
    if nqn == "nqn.2014-08.org.nvmexpress.discovery" {
        return Err("this is the NQN of discovery, which every node serves by itself".to_owned());
    }
    if nqn.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("an NQN has no spaces or control characters".to_owned());
    }
    if let Some(uuid) = nqn.strip_prefix("nqn.2014-08.org.nvmexpress:uuid:") {
        let parsed = Uuid::try_parse(uuid).is_ok() && uuid.len() == 36;
        return if parsed { Ok(()) } else { Err(format!("{uuid:?} is not a UUID")) };
    }
    let date = nqn.strip_prefix("nqn.").and_then(|rest| rest.get(..8));
    let is_date = date.is_some_and(|date| {
        date.bytes().enumerate().all(|(at, byte)| match at {
            4 => byte == b'-',
            7 => byte == b'.',
            _ => byte.is_ascii_digit(),
        })
    });
    if !is_date {
        return Err(format!("{nqn:?} does not begin as nqn.YYYY-MM.reverse.domain"));
    }
    Ok(())
}

/// An NQN that nobody else has.
#[must_use]
pub fn fresh_nqn() -> String {
    format!("nqn.2014-08.org.nvmexpress:uuid:{}", Uuid::new_v4())
}

/// The iSCSI name of a node that is given none: its NQN but for the first letter.
fn iqn_of(nqn: &str) -> String {
    let rest = nqn.strip_prefix("nqn.").unwrap_or_default();
    format!("iqn.{}", rest.to_ascii_lowercase())
}

/// Why a text is no iSCSI name of a target, if so (RFC 7143, section 4.2.7).
///
/// # Errors
/// A sentence.
pub fn check_iqn(iqn: &str) -> Result<(), String> {
    dataplane::node::check_iscsi_name(iqn)
}

fn node(node: &Spanned<Node>, problems: &mut Problems<'_>) -> NodeConfig {
    let at = node.span();
    let node = node.get_ref();
    let name = match &node.name {
        None => "basalt".to_owned(),
        Some(name) => {
            if let Err(why) = check_name(name.get_ref()) {
                problems.add(name.span(), why);
            }
            name.get_ref().clone()
        }
    };
    match &node.nqn {
        None => problems.add(
            at,
            format!("[node] has no `nqn`; a new one to copy here: nqn = \"{}\"", fresh_nqn()),
        ),
        Some(nqn) => {
            if let Err(why) = check_nqn(nqn.get_ref()) {
                problems.add(nqn.span(), why);
            }
        }
    }
    let nqn = node.nqn.as_ref().map(|nqn| nqn.get_ref().clone()).unwrap_or_default();
    let iqn = match &node.iqn {
        None => iqn_of(&nqn),
        Some(iqn) => {
            if let Err(why) = check_iqn(iqn.get_ref()) {
                problems.add(iqn.span(), why);
            }
            iqn.get_ref().clone()
        }
    };
    let max = node.max_connections.as_ref();
    if let Some(max) = max
        && !(1..=CONNECTIONS_MAX).contains(max.get_ref())
    {
        problems.add(max.span(), format!("max_connections is 1 to {CONNECTIONS_MAX}"));
    }
    NodeConfig {
        name,
        nqn,
        iqn,
        cores: cores(node.cores.as_ref(), problems),
        poll: node.poll,
        no_iommu: node.no_iommu,
        buffers_per_core: problems.size(node.buffers.as_ref(), "buffers", BUFFERS, 64 << 20),
        metadata_cache: problems.size(
            node.metadata_cache.as_ref(),
            "metadata_cache",
            METADATA_CACHE,
            64 << 20,
        ),
        max_connections: max.map_or(4096, |max| *max.get_ref()),
        disks: Vec::new(),
        portals: Vec::new(),
    }
}

fn cores(cores: Option<&Spanned<Cores>>, problems: &mut Problems<'_>) -> Vec<usize> {
    let Some(cores) = cores else {
        return Vec::new();
    };
    let list = &cores.get_ref().0;
    let mut seen = BTreeSet::new();
    if list.is_empty() {
        problems.add(cores.span(), "cores is empty; leave it out to use every processor".into());
    }
    for core in list {
        if *core > CORE_MAX {
            problems.add(cores.span(), format!("processors are numbered 0 to {CORE_MAX}"));
        } else if !seen.insert(*core) {
            problems.add(cores.span(), format!("processor {core} is listed twice"));
        }
    }
    list.clone()
}

fn disks(disks: &[Spanned<Disk>], problems: &mut Problems<'_>) -> Vec<DiskConfig> {
    let mut names = Names::default();
    if disks.is_empty() {
        let hint = "add one: [[disk]] with path = \"…\", formatted by `basalt disk format`";
        problems.add_whole(format!("there is no disk; {hint}"));
    }
    if let Some(beyond) = disks.get(DISKS_MAX) {
        problems.add(beyond.span(), format!("a node has {DISKS_MAX} disks at most"));
    }
    let take = disks.iter().take(DISKS_MAX);
    take.filter_map(|entry| disk(entry, &mut names, problems)).collect()
}

/// What disks there are already.
#[derive(Default)]
struct Names {
    paths: BTreeSet<PathBuf>,
    devices: BTreeSet<(PciAddress, Unit)>,
}

fn disk(
    entry: &Spanned<Disk>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Option<DiskConfig> {
    let disk = entry.get_ref();
    for path in disk.path.iter().chain(&disk.journal) {
        let whole = absolute(path, problems);
        if !names.paths.insert(whole) {
            problems.add(path.span(), format!("{:?} is used twice", path.get_ref()));
        }
    }
    if let (None, Some(namespace)) = (&disk.device, &disk.namespace) {
        problems.add(namespace.span(), "only a `device` has namespaces".to_owned());
    }
    if let (None, Some(port)) = (&disk.device, &disk.port) {
        problems.add(port.span(), "only a `device` has ports".to_owned());
    }
    if let (None, Some(fua)) = (&disk.device, &disk.fua) {
        problems.add(fua.span(), "`fua` is said of a `device` only".to_owned());
    }
    if let (None, Some(passthrough)) = (&disk.path, &disk.passthrough) {
        problems.add(passthrough.span(), "`passthrough` is said of a `path` only".to_owned());
    }
    let source = match (&disk.path, &disk.ram, &disk.device) {
        (Some(path), None, None) => {
            formatted_shards(disk, problems);
            DiskSource::Path(path.get_ref().clone())
        }
        (None, Some(ram), None) => {
            if let Some(journal) = &disk.journal {
                problems.add(journal.span(), "a disk in memory has no separate journal".to_owned());
            }
            let shards = disk.shards.as_ref().map_or(0, |shards| *shards.get_ref());
            if shards > SHARDS_MAX {
                problems.add(entry.span(), format!("a disk has {SHARDS_MAX} shards at most"));
            }
            DiskSource::Ram { size: problems.range(ram, "ram", RAM_DISK), shards }
        }
        (None, None, Some(name)) => device(disk, name, names, problems)?,
        (None, None, None) => {
            problems.add(entry.span(), "a disk needs `path`, `device` or `ram`".to_owned());
            return None;
        }
        _ => {
            let why = "a disk has one of `path`, `device` and `ram`, not several";
            problems.add(entry.span(), why.to_owned());
            return None;
        }
    };
    let journal = disk.journal.as_ref().map(|path| path.get_ref().clone());
    let passthrough = disk.passthrough.as_ref().is_some_and(|passthrough| *passthrough.get_ref());
    Some(DiskConfig { source, journal, zero_on_free: disk.zero_on_free, passthrough })
}

fn formatted_shards(disk: &Disk, problems: &mut Problems<'_>) {
    if let Some(shards) = &disk.shards {
        let why = "shards of a formatted disk are set by `basalt disk format --shards`";
        problems.add(shards.span(), why.to_owned());
    }
}

/// A disk of a controller that the node drives itself.
fn device(
    disk: &Disk,
    name: &Spanned<String>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Option<DiskSource> {
    formatted_shards(disk, problems);
    if let Some(journal) = &disk.journal {
        let why = "a disk that the node drives itself has its journal on it".to_owned();
        problems.add(journal.span(), why);
    }
    let unit = unit(disk, problems);
    let Some(address) = name.get_ref().strip_prefix("pci:").and_then(|text| text.parse().ok())
    else {
        let why = format!(
            "{:?} is no device; write it as \"pci:0000:01:00.0\" (`basalt disk list` shows them)",
            name.get_ref()
        );
        problems.add(name.span(), why);
        return None;
    };
    if !names.devices.insert((address, unit)) {
        let what = match unit {
            Unit::Namespace(_) => "namespace",
            Unit::Port(_) => "port",
        };
        problems.add(name.span(), format!("{what} {unit} of {address} is used twice"));
    }
    let fua = disk.fua.as_ref().is_none_or(|fua| *fua.get_ref());
    Some(DiskSource::Device { address, unit, fua })
}

/// Which disk of a controller: the first namespace if nothing is said.
fn unit(disk: &Disk, problems: &mut Problems<'_>) -> Unit {
    let Some(port) = &disk.port else {
        let id = disk.namespace.as_ref().map_or(1, |namespace| *namespace.get_ref());
        if let (0 | u32::MAX, Some(at)) = (id, &disk.namespace) {
            problems.add(at.span(), "namespaces are numbered from 1".to_owned());
        }
        return Unit::Namespace(id);
    };
    if disk.namespace.is_some() {
        let why = "an NVMe controller has namespaces, an AHCI adapter ports: say one of them";
        problems.add(port.span(), why.to_owned());
    }
    if *port.get_ref() >= 32 {
        problems.add(port.span(), "an AHCI adapter has ports 0 to 31".to_owned());
    }
    Unit::Port(*port.get_ref())
}

fn portals(portals: &[Spanned<Portal>], problems: &mut Problems<'_>) -> Vec<PortalConfig> {
    if portals.is_empty() {
        let any = |protocol, port, discovery_only| PortalConfig {
            protocol,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            advertise: None,
            discovery_only,
        };
        return vec![
            any(Protocol::Nvme, NVME_PORT, false),
            any(Protocol::Nvme, DISCOVERY_PORT, true),
            any(Protocol::Iscsi, ISCSI_PORT, false),
        ];
    }
    if let Some(beyond) = portals.get(PORTALS_MAX) {
        problems.add(beyond.span(), format!("a node has {PORTALS_MAX} portals at most"));
    }
    let mut done: Vec<PortalConfig> = Vec::new();
    for entry in portals.iter().take(PORTALS_MAX) {
        let Some(portal) = portal(entry.get_ref(), problems) else {
            continue;
        };
        if let Some(other) = done.iter().find(|other| overlap(other.listen, portal.listen)) {
            let span = entry.get_ref().listen.span();
            problems.add(span, format!("{} and {} overlap", portal.listen, other.listen));
        }
        done.push(portal);
    }
    if done.iter().all(|portal| portal.discovery_only) && done.len() == portals.len() {
        let span = portals[0].span();
        problems.add(span, "every portal is discovery_only: hosts could not connect".to_owned());
    }
    done
}

fn portal(portal: &Portal, problems: &mut Problems<'_>) -> Option<PortalConfig> {
    let (protocol, port) = match (portal.protocol, portal.discovery_only) {
        (document::Protocol::Iscsi, is_discovery) => {
            if is_discovery {
                let why = "every iSCSI portal answers discovery; none is for it alone".to_owned();
                problems.add(portal.listen.span(), why);
            }
            (Protocol::Iscsi, ISCSI_PORT)
        }
        (document::Protocol::Nvme, false) => (Protocol::Nvme, NVME_PORT),
        (document::Protocol::Nvme, true) => (Protocol::Nvme, DISCOVERY_PORT),
    };
    let listen = problems.address(&portal.listen, port);
    let advertise = match &portal.advertise {
        None => None,
        Some(text) => {
            let address = problems.address(text, listen?.port())?;
            if address.ip().is_unspecified() {
                let why = format!("hosts cannot connect to {address}; advertise a real address");
                problems.add(text.span(), why);
            }
            Some(address)
        }
    };
    let discovery_only = portal.discovery_only;
    Some(PortalConfig { protocol, listen: listen?, advertise, discovery_only })
}

/// Whether two listening sockets would be in each other's way.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (x, y) = (a.ip(), b.ip());
    let wild = x.is_unspecified() || y.is_unspecified();
    a.port() == b.port() && x.is_ipv4() == y.is_ipv4() && (x == y || wild)
}

fn metrics(
    text: &Spanned<String>,
    portals: &[PortalConfig],
    problems: &mut Problems<'_>,
) -> Option<SocketAddr> {
    if !text.get_ref().contains(':') || text.get_ref().parse::<IpAddr>().is_ok() {
        let why = "the metrics address needs a port, for example \"127.0.0.1:9420\"";
        problems.add(text.span(), why.to_owned());
        return None;
    }
    let address = problems.address(text, 0)?;
    if let Some(portal) = portals.iter().find(|portal| overlap(portal.listen, address)) {
        problems.add(text.span(), format!("{address} and the portal {} overlap", portal.listen));
    }
    Some(address)
}

fn absolute(path: &Spanned<PathBuf>, problems: &mut Problems<'_>) -> PathBuf {
    let inner = path.get_ref();
    if !inner.is_absolute() {
        let why = format!("{inner:?} is relative; write the whole path from /");
        problems.add(path.span(), why);
    }
    if inner.as_os_str().as_encoded_bytes().contains(&0) {
        problems.add(path.span(), "a path has no NUL".to_owned());
    }
    inner.clone()
}

#[cfg(test)]
mod tests;
