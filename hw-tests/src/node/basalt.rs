//! Our node, on the host, on disks in files.

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use target_io::testing::free_port;

use super::{Ability, Node, Portal, Shape, management};
use crate::guest::{Guest, HOST, HOST_IPV6};
use crate::shell;

const NQN: &str = "nqn.2026-11.io.basalt:hw-tests";
const IQN: &str = "iqn.2026-11.io.basalt:hw-tests";
const DISK: &str = "8GiB";
const SMALL_DISK: &str = "160MiB";
/// Buffers of each core.
const BUFFERS_MIB: u64 = 128;
const METADATA_CACHE_MIB: u64 = 64;
/// A disk that something else writes to is slow: it says what it waits for.
const START_LIMIT: Duration = Duration::from_secs(90);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// What an initiator and the target prove to one another.
pub(crate) struct Chap {
    pub(crate) user: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) target_user: &'static str,
    pub(crate) target_secret: &'static str,
}

/// A `basalt serve` process with its files in one folder.
pub(crate) struct Basalt {
    binary: PathBuf,
    folder: PathBuf,
    shape: Shape,
    cores: u64,
    port: u16,
    discovery_port: u16,
    iscsi_port: u16,
    /// Of the portal on the loopback of IPv6, if there is one.
    port_ipv6: Option<u16>,
    /// Of further portals for iSCSI; the latter on the loopback of IPv6, if there is one.
    iscsi_second: u16,
    iscsi_ipv6: Option<u16>,
    process: Option<Child>,
}

impl Basalt {
    /// Most connections that the node takes: more than 128 controllers with a queue each.
    pub(crate) const CONNECTIONS_MAX: usize = 400;

    /// Prepares a node: its disks, its configuration, free ports.
    pub(crate) fn new(binary: &Path, folder: &Path, shape: Shape) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let [port, discovery_port, iscsi_port, iscsi_second] = [(); 4].map(|()| free_port());
        let processors = thread::available_parallelism()?.get() as u64;
        let is_wide = shape == Shape::Wide;
        let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        let node = Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            shape,
            cores: if is_wide { processors.min(2) } else { 1 },
            port,
            discovery_port,
            iscsi_port,
            port_ipv6: (has_ipv6 && is_wide).then(free_port),
            iscsi_second,
            iscsi_ipv6: has_ipv6.then(free_port),
            process: None,
        };
        fs::write(node.folder.join("node.toml"), node.configuration())?;
        node.format("disk.img", DISK)?;
        if is_wide {
            node.format("small.img", SMALL_DISK)?;
        }
        Ok(node)
    }

    /// Where a host on this machine connects.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The portal on IPv6, as the guest sees it.
    pub(crate) fn portal_ipv6(&self) -> Option<Portal> {
        self.port_ipv6.map(|port| Portal { address: HOST_IPV6.to_owned(), port })
    }

    /// Further portals for iSCSI, as the guest sees them: over IPv4, and IPv6 if there is any.
    pub(crate) fn more_iscsi(&self) -> (Portal, Option<Portal>) {
        let second = Portal { address: HOST.to_owned(), port: self.iscsi_second };
        let ipv6 = |port| Portal { address: HOST_IPV6.to_owned(), port };
        (second, self.iscsi_ipv6.map(ipv6))
    }

    /// Sends initiators that log in to a portal, or no more.
    pub(crate) fn redirect(&self, to: Option<&Portal>) -> Result<()> {
        let place = to.map(|Portal { address, port }| format!("{address}:{port}"));
        let options = place.as_deref().map_or(vec!["--none"], |place| vec!["--iscsi", place]);
        self.manage(&[&["target", "redirect"], &options[..]].concat()).map(drop)
    }

    /// Makes a volume on the small disk of [`Shape::Wide`] and returns its namespace id.
    pub(crate) fn create_small(&mut self, name: &str, bytes: u64) -> Result<u32> {
        let disk = self.folder.join("small.img");
        let disk = disk.to_str().context("the path is not UTF-8")?;
        self.manage(&["volume", "create", name, &bytes.to_string(), "--disk", disk])?;
        self.namespace(name)
    }

    /// All counters of the node, as its management API tells them.
    pub(crate) fn counters(&self) -> Result<Value> {
        management::request(&self.folder.join("node.sock"), "GET", "/v1/counters", None)
    }

    /// Sum of a counter over the cores.
    pub(crate) fn core_counter(&self, name: &str) -> Result<Vec<u64>> {
        let counters = self.counters()?;
        let cores = counters["cores"].as_array().context("no cores are counted")?;
        let values = cores.iter().map(|core| core[name].as_u64());
        values.collect::<Option<_>>().with_context(|| format!("no counter {name} in {counters}"))
    }

    /// Makes volumes of 4096-byte blocks faster than the command line does.
    pub(crate) fn create_many(&self, names: &[String], bytes: u64) -> Result<()> {
        let socket = self.folder.join("node.sock");
        for name in names {
            let body = json!({ "name": name, "size": bytes, "block_size": 4096 });
            management::request(&socket, "POST", "/v1/volumes", Some(&body))?;
        }
        Ok(())
    }

    /// Deletes volumes faster than the command line does.
    pub(crate) fn delete_many(&self, names: &[String]) -> Result<()> {
        let socket = self.folder.join("node.sock");
        for name in names {
            management::request(&socket, "DELETE", &format!("/v1/volumes/{name}"), None)?;
        }
        Ok(())
    }

    /// The namespace id of a volume.
    pub(crate) fn namespace(&self, name: &str) -> Result<u32> {
        let volume = self.manage(&["volume", "show", name])?;
        let nsid = find_number(&volume, "nsid").context("`volume show` names no nsid")?;
        Ok(u32::try_from(nsid)?)
    }

    /// Lets an initiator log in that proves who it is, and wants the same of the target.
    pub(crate) fn allow_chap(&self, initiator: &str, chap: &Chap) -> Result<()> {
        let file = |name: &str, secret: &str| -> Result<String> {
            let path = self.folder.join(name);
            let _ = fs::remove_file(&path);
            let mut file =
                fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(secret.as_bytes())?;
            Ok(path.to_str().context("the path is not UTF-8")?.to_owned())
        };
        let (secret, target) =
            (file("secret", chap.secret)?, file("target-secret", chap.target_secret)?);
        let mut arguments = vec!["host", "allow", initiator, "--chap", chap.user];
        arguments.extend(["--secret-file", &secret]);
        arguments.extend(["--target-user", chap.target_user, "--target-secret-file", &target]);
        self.manage(&arguments).map(drop)
    }

    /// Resident memory of the process in bytes.
    ///
    /// # Errors
    /// If the node does not run.
    pub(crate) fn resident(&self) -> Result<u64> {
        let process = self.process.as_ref().context("basalt was not started")?;
        let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.context("basalt has ended")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib << 10)
    }

    /// What its resident memory must stay under: 64 MiB beside what it was told to use.
    pub(crate) fn resident_max(&self) -> u64 {
        (self.cores * BUFFERS_MIB + METADATA_CACHE_MIB + 64) << 20
    }

    fn format(&self, name: &str, size: &str) -> Result<()> {
        let disk = self.folder.join(name);
        let disk = disk.to_str().context("the path is not UTF-8")?;
        self.offline(&["disk", "format", disk, "--size", size, "--allocate", "sparse"]).map(drop)
    }

    /// Makes the small disk larger, by so many MiB, while the node is down.
    pub(crate) fn grow_small(&self, mib: u64) -> Result<()> {
        let disk = self.folder.join("small.img");
        let size = format!("{}", fs::metadata(&disk)?.len() + (mib << 20));
        let disk = disk.to_str().context("the path is not UTF-8")?;
        let said =
            self.offline(&["disk", "grow", disk, "--size", &size, "--allocate", "sparse"])?;
        println!("{}", said.trim());
        Ok(())
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        let (port, discovery_port) = (self.port, self.discovery_port);
        let (iscsi_port, iscsi_second) = (self.iscsi_port, self.iscsi_second);
        let cores: Vec<u64> = (0..self.cores).collect();
        let mut text = format!(
            r#"
[node]
name = "hw-tests"
nqn = "{NQN}"
iqn = "{IQN}"
cores = {cores:?}
buffers = "{BUFFERS_MIB}MiB"
metadata_cache = "{METADATA_CACHE_MIB}MiB"
max_connections = {connections_max}

[[disk]]
path = "{folder}/disk.img"

[[portal]]
listen = "127.0.0.1:{port}"
advertise = "{HOST}:{port}"

[[portal]]
listen = "127.0.0.1:{discovery_port}"
advertise = "{HOST}:{discovery_port}"
discovery_only = true

[[portal]]
protocol = "iscsi"
listen = "127.0.0.1:{iscsi_port}"
advertise = "{HOST}:{iscsi_port}"

[[portal]]
protocol = "iscsi"
listen = "127.0.0.1:{iscsi_second}"
advertise = "{HOST}:{iscsi_second}"

[management]
socket = "{folder}/node.sock"
"#,
            connections_max = Self::CONNECTIONS_MAX,
        );
        if self.shape == Shape::Wide {
            text += &format!("\n[[disk]]\npath = \"{folder}/small.img\"\n");
        }
        for (protocol, port) in [("nvme", self.port_ipv6), ("iscsi", self.iscsi_ipv6)] {
            let Some(port) = port else { continue };
            let listen = format!("protocol = \"{protocol}\"\nlisten = \"[::1]:{port}\"");
            text += &format!("\n[[portal]]\n{listen}\nadvertise = \"[{HOST_IPV6}]:{port}\"\n");
        }
        text
    }

    /// A command that needs no running node.
    fn offline(&self, arguments: &[&str]) -> Result<String> {
        self.output(Command::new(&self.binary).args(arguments))
    }

    /// A management command to the running node.
    fn manage(&self, arguments: &[&str]) -> Result<Value> {
        let socket = self.folder.join("node.sock");
        let mut command = Command::new("timeout");
        command.arg(COMMAND_LIMIT.as_secs().to_string()).arg(&self.binary);
        command.args(["--output", "json", "--socket"]).arg(socket).args(arguments);
        let printed = self.output(&mut command)?;
        if printed.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&printed).with_context(|| format!("this is no JSON: {printed}"))
    }

    fn output(&self, command: &mut Command) -> Result<String> {
        let output = command.stdin(Stdio::null()).output().context("cannot run basalt")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?} failed ({}): {said}{printed}", output.status);
        }
        Ok(printed)
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Node for Basalt {
    fn name(&self) -> &'static str {
        "basalt"
    }

    fn start(&mut self, _guest: &Guest) -> Result<()> {
        let log = self.folder.join("node.log");
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "kill"])
            .arg(&self.binary)
            .args(["serve", "--config"])
            .arg(self.folder.join("node.toml"))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run basalt")?;
        let started = Instant::now();
        loop {
            let ended = process.try_wait()?;
            if ended.is_none() && self.manage(&["volume", "list"]).is_ok() {
                break;
            }
            if ended.is_some() || started.elapsed() > START_LIMIT {
                let _ = process.kill();
                self.process = Some(process);
                bail!("basalt did not start:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let first = self.process.is_none();
        self.process = Some(process);
        if first {
            self.allow("*", true)?;
        }
        Ok(())
    }

    fn kill(&mut self, _guest: &Guest) -> Result<()> {
        if let Some(ended) = self.process.as_mut().and_then(|p| p.try_wait().transpose()) {
            bail!("basalt had ended by itself ({:?}):\n{}", ended, self.log());
        }
        if let Some(process) = &mut self.process {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    fn nqn(&self) -> &str {
        NQN
    }

    fn portal(&self) -> Portal {
        Portal { address: HOST.to_owned(), port: self.port }
    }

    fn discovery(&self) -> Portal {
        Portal { address: HOST.to_owned(), port: self.discovery_port }
    }

    fn iscsi(&self) -> Option<(&str, Portal)> {
        Some((IQN, Portal { address: HOST.to_owned(), port: self.iscsi_port }))
    }

    fn offers(&self, _ability: Ability) -> bool {
        true
    }

    fn create_volume(&mut self, _guest: &Guest, name: &str, bytes: u64, block: u32) -> Result<u32> {
        let (bytes, block) = (bytes.to_string(), block.to_string());
        self.manage(&["volume", "create", name, &bytes, "--block-size", &block])?;
        self.namespace(name)
    }

    fn resize_volume(&mut self, _guest: &Guest, name: &str, bytes: u64) -> Result<()> {
        self.manage(&["volume", "resize", name, &bytes.to_string()]).map(drop)
    }

    fn delete_volume(&mut self, _guest: &Guest, name: &str) -> Result<()> {
        self.manage(&["volume", "delete", name, "--yes"]).map(drop)
    }

    fn allow(&mut self, host: &str, allowed: bool) -> Result<()> {
        self.manage(&["host", if allowed { "allow" } else { "deny" }, host]).map(drop)
    }

    fn basalt(&mut self) -> Result<&mut Basalt> {
        Ok(self)
    }

    fn log(&mut self) -> String {
        let text = fs::read_to_string(self.folder.join("node.log")).unwrap_or_default();
        let state = match self.process.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => format!("ended by itself ({status})"),
            Some(Ok(None)) => "runs".to_owned(),
            _ => "does not run".to_owned(),
        };
        format!("basalt {state}; its log ends:\n{}", shell::last_lines(&text, 30))
    }
}

impl Drop for Basalt {
    fn drop(&mut self) {
        self.stop();
        for disk in ["disk.img", "small.img"] {
            let _ = fs::remove_file(self.folder.join(disk));
        }
    }
}

/// A number by its name, wherever it lies in the document.
fn find_number(value: &Value, name: &str) -> Option<u64> {
    match value {
        Value::Object(fields) => {
            let here = fields.get(name).and_then(Value::as_u64);
            here.or_else(|| fields.values().find_map(|field| find_number(field, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| find_number(item, name)),
        _ => None,
    }
}
