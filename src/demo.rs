//! `basalt demo`: a node to try, on one file in a directory that the next run finds again.
//!
//! The first run writes `node.toml` beside the file: what `basalt serve --config` takes.

use crate::api::NodeInfo;
use crate::cli::Global;
use crate::config::{self, Config, DISCOVERY_PORT, ISCSI_PORT, NVME_PORT, fresh_nqn};
use crate::disk;
use crate::failure::{Exit, Failure};
use crate::output::{Format, print};
use crate::plane::Node;
use crate::serve::{self, Hangup, Running};
use crate::size::Size;
use crate::socket::default_path;
use clap::Args;
use dataplane::node::{Answer, Command, CommandError, DiskSource, Protocol};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Name of the volume.
const VOLUME: &str = "demo";
/// Size of the volume where none is asked for.
const SIZE: u64 = 4 << 30;
/// Room on the disk beside the volume, for the journal and metadata.
const OVERHEAD: u64 = 512 << 20;

/// `basalt demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the data are kept; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "basalt-demo")]
    pub dir: PathBuf,
    /// Size of the volume, at the first run [default: 4GiB]
    #[arg(long)]
    pub size: Option<Size>,
    /// Address to listen on; hosts elsewhere need one that they can reach [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<IpAddr>,
    /// Port for NVMe/TCP [default: 4420]
    #[arg(long)]
    pub port: Option<u16>,
    /// Port for discovery [default: 8009]
    #[arg(long)]
    pub discovery_port: Option<u16>,
    /// Port for iSCSI [default: 3260]
    #[arg(long)]
    pub iscsi_port: Option<u16>,
    /// Spin always instead of sleeping when idle
    #[arg(long)]
    pub poll: bool,
}

/// Runs the command.
///
/// # Errors
/// With what the user can do.
pub fn run(options: &Options, global: &Global) -> Result<(), Failure> {
    let (config, is_new) = prepare(options)?;
    let socket = global.socket();
    let running = Running::start(config, &socket)?;
    let volume = furnish(running.node(), options.size.map_or(SIZE, |size| size.0))
        .map_err(|error| Failure::new(Exit::Failed, format!("the demo volume: {error}")))?;
    match global.output {
        Format::Json => running.announce(Format::Json)?,
        Format::Table => print(&welcome(&running, options, volume, is_new))?,
    }
    running.until_told(Hangup::Stop)?;
    match global.output {
        Format::Json => Ok(()),
        Format::Table => print("\nStopped. The data are kept.\n"),
    }
}

/// The configuration of the directory, made if it has none; and whether it was made.
fn prepare(options: &Options) -> Result<(Config, bool), Failure> {
    let dir =
        std::path::absolute(&options.dir).map_err(|e| Failure::io(options.dir.display(), &e))?;
    let (file, image) = (dir.join("node.toml"), dir.join("disk0.img"));
    let is_new = !file.exists();
    if is_new {
        make(&dir, &file, &image, options)?;
    } else if let Some(Size(size)) = options.size {
        let have = fs::metadata(&image).map_or(0, |m| m.len());
        if have != disk_size(size) {
            let text = format!("{} holds a demo of another size already", dir.display());
            let hint = "leave --size out to go on with it, or choose another --dir";
            return Err(Failure::new(Exit::Usage, text).hint(hint));
        }
    }
    let mut config = serve::read(&file)?;
    config.node.poll |= options.poll;
    for portal in &mut config.node.portals {
        let port = match (portal.protocol, portal.discovery_only) {
            (Protocol::Iscsi, _) => options.iscsi_port,
            (Protocol::Nvme, true) => options.discovery_port,
            (Protocol::Nvme, false) => options.port,
        };
        portal.listen.set_ip(options.listen.unwrap_or(portal.listen.ip()));
        portal.listen.set_port(port.unwrap_or(portal.listen.port()));
    }
    Ok((config, is_new))
}

fn disk_size(volume: u64) -> u64 {
    (volume + OVERHEAD).next_multiple_of(1 << 20)
}

fn make(dir: &Path, file: &Path, image: &Path, options: &Options) -> Result<(), Failure> {
    let Size(size) = options.size.unwrap_or(Size(SIZE));
    if !(1 << 20..=1 << 46).contains(&size) || !size.is_multiple_of(4096) {
        let text = "the demo volume has 1 MiB to 64 TiB, in whole blocks of 4096 bytes";
        return Err(Failure::new(Exit::Usage, text));
    }
    fs::create_dir_all(dir)
        .map_err(|e| Failure::io(format!("cannot make {}", dir.display()), &e))?;
    if image.exists() {
        // A former first run was interrupted before it wrote the configuration, its last step.
        let held = disk::is_unfinished(image)?;
        if !held {
            let text = format!("{} is there, without the configuration", image.display());
            let hint = format!("put {} back, or choose another --dir", file.display());
            return Err(Failure::new(Exit::Refused, text).hint(hint));
        }
        fs::remove_file(image).map_err(|e| Failure::io(image.display(), &e))?;
    }
    disk::make_file(image, disk_size(size))?;
    let text = configuration(image, options);
    config::parse(&text, "the demo's configuration")
        .map_err(|invalid| Failure::new(Exit::Usage, invalid.to_string()))?;
    let part = file.with_extension("toml.part");
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, file))
        .map_err(|e| Failure::io(format!("cannot write {}", file.display()), &e))
}

fn configuration(image: &Path, options: &Options) -> String {
    let ip = options.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let main = SocketAddr::new(ip, options.port.unwrap_or(NVME_PORT));
    let discovery = SocketAddr::new(ip, options.discovery_port.unwrap_or(DISCOVERY_PORT));
    let iscsi = SocketAddr::new(ip, options.iscsi_port.unwrap_or(ISCSI_PORT));
    let image = toml::Value::String(image.display().to_string());
    format!(
        "# Made by `basalt demo`; `basalt serve --config` takes it as well.\n\
         # docs/operating/configuration.md describes every key.\n\n\
         [node]\nname = \"demo\"\nnqn = \"{}\"\n\n\
         [[disk]]\npath = {image}\n\n\
         [[portal]]\nlisten = \"{main}\"\n\n\
         [[portal]]\nlisten = \"{discovery}\"\ndiscovery_only = true\n\n\
         [[portal]]\nprotocol = \"iscsi\"\nlisten = \"{iscsi}\"\n\n\
         # [metrics]\n# listen = \"127.0.0.1:9420\"\n",
        fresh_nqn()
    )
}

/// Lets every host in and makes the volume, unless a former run did. Gives the volume's size.
fn furnish(node: &dyn Node, size: u64) -> Result<u64, CommandError> {
    let every = "*".to_owned();
    match node.call(Command::AllowHost { nqn: every }) {
        Ok(_) | Err(CommandError::Exists(_)) => {}
        Err(error) => return Err(error),
    }
    if let Answer::Volumes(volumes) = node.call(Command::ListVolumes)?
        && let Some(volume) = volumes.first()
    {
        return Ok(volume.size);
    }
    node.call(Command::CreateVolume {
        name: VOLUME.to_owned(),
        size,
        block_size: 4096,
        uuid: Uuid::new_v4(),
        disk: None,
    })?;
    Ok(size)
}

fn welcome(running: &Running, options: &Options, volume: u64, is_new: bool) -> String {
    let info = running.info();
    let main = info.addresses.first().copied();
    let main = main.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), NVME_PORT));
    let discovery = info.addresses.get(1).copied().unwrap_or(main);
    let (nqn, dir) = (&info.nqn, options.dir.display());
    let (target, login) = over_iscsi(info);
    let state = if is_new { "new" } else { "from an earlier run" };
    let room = match room_below(&options.dir) {
        Some(room) if room < volume => format!(
            "\n  room        {} on its file system, less than the volume has: when that is used \
             up, new data are refused",
            Size(room)
        ),
        _ => String::new(),
    };
    let place = match main.ip() {
        ip if ip.is_loopback() => {
            "On this machine, as root (for hosts elsewhere: --listen with an address of this \
             machine):"
        }
        ip if ip.is_unspecified() => {
            "On a host, as root, with an address of this machine that it can reach:"
        }
        _ => "On a host, as root:",
    };
    let ip = main.ip();
    let program = std::env::args().next().unwrap_or_else(|| "basalt".to_owned());
    let socket = match running.socket() == default_path() {
        true => String::new(),
        false => format!(" --socket {}", running.socket().display()),
    };
    format!(
        "Basalt is running.\n\n  \
         data        {dir} ({state}; kept for the next run)\n  \
         volume      {VOLUME}, {}{room}\n  \
         subsystem   {nqn}\n  \
         NVMe/TCP    {main}\n  \
         discovery   {discovery}\n  \
         {target}hosts       any host that reaches these ports may connect\n\n\
         {place}\n\n  \
         modprobe nvme-tcp\n  \
         nvme discover -t tcp -a {ip} -s {}\n  \
         nvme connect -t tcp -a {ip} -s {} -n {nqn}\n  \
         nvme list\n  \
         nvme disconnect -n {nqn}\n\n\
         {login}In another terminal here:\n\n  \
         {program} volume list{socket}\n  \
         {program} stat{socket}\n\n\
         Ctrl-C stops.\n",
        Size(volume),
        discovery.port(),
        main.port(),
    )
}

/// Where initiators find the node, and what to type there; nothing if the configuration, which may
/// be of an earlier version, has no portal for them.
fn over_iscsi(info: &NodeInfo) -> (String, String) {
    let Some(portal) = info.iscsi_addresses.first() else { return Default::default() };
    let iqn = &info.iqn;
    let target = format!("iSCSI       {portal}\n  target      {iqn}\n  ");
    let login = format!(
        "Or over iSCSI:\n\n  \
         iscsiadm -m discovery -t sendtargets -p {portal}\n  \
         iscsiadm -m node -T {iqn} -p {portal} --login\n  \
         lsblk --scsi\n  \
         iscsiadm -m node -T {iqn} -p {portal} --logout\n\n"
    );
    (target, login)
}

/// Bytes free on the file system of a directory, for whoever runs this.
fn room_below(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// The file of a demo's disk, if the configuration has one.
#[must_use]
pub fn image(config: &Config) -> Option<&Path> {
    match &config.node.disks.first()?.source {
        DiskSource::Path(path) => Some(path),
        DiskSource::Ram { .. } | DiskSource::Device { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            dir: PathBuf::from("d"),
            size: None,
            listen: None,
            port: None,
            discovery_port: None,
            iscsi_port: None,
            poll: false,
        }
    }

    #[test]
    fn the_configuration_that_it_writes_is_good() {
        let text = configuration(Path::new("/a \"b\"/disk0.img"), &options());
        let config = config::parse(&text, "demo").expect("good");
        assert_eq!(image(&config), Some(Path::new("/a \"b\"/disk0.img")));
        assert_eq!(config.node.portals[0].listen, "127.0.0.1:4420".parse().expect("address"));
        assert!(config.node.portals[1].discovery_only);
        let v6 = Options { listen: Some("::1".parse().expect("address")), ..options() };
        let config = config::parse(&configuration(Path::new("/d"), &v6), "demo").expect("good");
        assert_eq!(config.node.portals[1].listen, "[::1]:8009".parse().expect("address"));
    }
}
