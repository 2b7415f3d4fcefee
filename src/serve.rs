//! `basalt serve`: runs a node until it is told to stop.
//!
//! The main thread waits for signals, feeds the service manager's watchdog and logs the node's
//! events; the management API has a thread of its own; the plane has its cores.

use crate::api::{NodeInfo, Server};
use crate::cli::Global;
use crate::config::{self, Config};
use crate::failure::{Exit, Failure};
use crate::output::{Format, note, print_json_line};
use crate::plane::{self, Node};
use crate::socket::{Bound, default_path};
use crate::watchdog;
use clap::Args;
use dataplane::node::{NodeConfig, NodeEvent, Protocol, Severity, StartError};
use sd_notify::NotifyState;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Largest configuration file in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most cores that a node takes unasked.
const CORES_MAX: usize = 64;
/// How often events are logged.
const LOG_INTERVAL: Duration = Duration::from_millis(500);

/// `basalt serve`.
#[derive(Debug, Args)]
pub struct Options {
    /// The configuration file
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Spin always instead of sleeping when idle: lowest latency, a whole processor for each core
    #[arg(long)]
    pub poll: bool,
    /// Check the configuration file and stop
    #[arg(long)]
    pub check: bool,
}

/// Runs the command.
///
/// # Errors
/// As the file, the disks, the addresses and the operating system have it.
pub fn run(options: &Options, global: &Global) -> Result<(), Failure> {
    let mut config = read(&options.config)?;
    config.node.poll |= options.poll;
    if options.check {
        return crate::output::print("The configuration is good.\n");
    }
    let socket = global.named_socket().or(config.socket.take()).unwrap_or_else(default_path);
    let running = Running::start(config, &socket)?;
    running.announce(global.output)?;
    running.until_told(Hangup::Ignore)
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`Exit::Config`] with every problem and its line.
pub fn read(path: &Path) -> Result<Config, Failure> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
    if let Err(error) = file {
        let failure = Failure::io(format!("cannot read {shown}"), &error);
        let hint = "`basalt demo` writes a configuration that you can start from";
        return Err(Failure { exit: Exit::Config, ..failure }.hint(hint));
    }
    if text.len() as u64 > FILE_MAX {
        return Err(Failure::new(Exit::Config, format!("{shown} has more than {FILE_MAX} bytes")));
    }
    config::parse(&text, &shown.to_string()).map_err(|invalid| {
        let count = invalid.problems.len();
        let text = format!("the configuration is not good\n{invalid}");
        let what = if count == 1 { "this" } else { "these" };
        Failure::new(Exit::Config, text)
            .hint(format!("mend {what}; docs/operating/configuration.md describes every key"))
    })
}

/// What SIGHUP does, which a terminal sends when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Nothing: the configuration is read at start only.
    Ignore,
    /// As SIGTERM.
    Stop,
}

/// A node with its management.
pub struct Running {
    node: Arc<dyn Node>,
    info: NodeInfo,
    server: Server,
    socket: Bound,
}

/// What `serve --output json` prints when the node is ready.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    #[serde(flatten)]
    info: &'a NodeInfo,
    socket: &'a Path,
    metrics: Option<SocketAddr>,
}

impl Running {
    /// Takes the socket, starts the node, then its management.
    ///
    /// # Errors
    /// With what the user can do; nothing is left running.
    pub fn start(config: Config, socket: &Path) -> Result<Self, Failure> {
        Self::start_with(config, socket, plane::start)
    }

    fn start_with(
        config: Config,
        socket: &Path,
        start: impl FnOnce(&NodeConfig) -> Result<Arc<dyn Node>, StartError>,
    ) -> Result<Self, Failure> {
        let socket = Bound::new(socket)?;
        let mut node_config = config.node;
        node_config.cores = cores(&node_config.cores)?;
        let (name, nqn) = (node_config.name.clone(), node_config.nqn.clone());
        let iqn = node_config.iqn.clone();
        let node = start(&node_config).map_err(|error| not_started(&error))?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (addresses, iscsi_addresses) = addresses(&node_config, &node.local_addresses());
        let info = NodeInfo { name, nqn, iqn, version, addresses, iscsi_addresses };
        let listener = socket.listener().map_err(|e| Failure::io("the management socket", &e))?;
        let server = Server::start(Arc::clone(&node), info.clone(), listener, config.metrics);
        match server {
            Ok(server) => Ok(Self { node, info, server, socket }),
            Err(error) => {
                // The first failure is the one to tell.
                let _ = node.shutdown();
                let hint = "choose another address under [metrics], or stop what uses it";
                Err(Failure::new(Exit::Failed, error.to_string()).hint(hint))
            }
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &dyn Node {
        &*self.node
    }

    /// Who it is.
    #[must_use]
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// Its management socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// Says that it is ready: to the service manager, and on standard output.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn announce(&self, format: Format) -> Result<(), Failure> {
        // Without a service manager there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let metrics = self.server.metrics_address();
        if format == Format::Json {
            let socket = self.socket.path();
            return print_json_line(&Ready { info: &self.info, socket, metrics });
        }
        note(&format!("basalt: {} serves {}", self.info.name, self.info.nqn));
        for address in &self.info.addresses {
            note(&format!("basalt: listening on {address} (NVMe/TCP)"));
        }
        if !self.info.iscsi_addresses.is_empty() {
            note(&format!("basalt: {} serves {}", self.info.name, self.info.iqn));
        }
        for address in &self.info.iscsi_addresses {
            note(&format!("basalt: listening on {address} (iSCSI)"));
        }
        if let Some(address) = metrics {
            note(&format!("basalt: metrics at http://{address}/metrics"));
        }
        note(&format!("basalt: management at {}", self.socket.path().display()));
        Ok(())
    }

    /// Serves until SIGTERM or SIGINT, then shuts down: requests in flight end, a checkpoint is
    /// written. A second signal ends the process at once, which loses nothing acknowledged.
    ///
    /// # Errors
    /// If the node could not shut down well.
    pub fn until_told(self, hangup: Hangup) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::io("cannot wait for signals", &e))?;
        let ended = runtime.block_on(async {
            let mut signals = Signals::new().map_err(|e| Failure::io("cannot take signals", &e))?;
            let seen = self.attend(&mut signals, hangup).await;
            // As above.
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            let node = Arc::clone(&self.node);
            let mut stopping = tokio::task::spawn_blocking(move || node.shutdown());
            tokio::select! {
                ended = &mut stopping => {
                    self.log_events(seen);
                    Ok(ended)
                }
                () = signals.stop.next() => {
                    let text = "stopped at once by a second signal; the next start recovers";
                    Err(Failure::new(Exit::Failed, text))
                }
            }
        });
        runtime.shutdown_background();
        match ended? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let text = format!("the node did not shut down well: {error}");
                Err(Failure::new(Exit::Failed, text).hint("the next start recovers"))
            }
            Err(_) => Err(Failure::new(Exit::Failed, "the shutdown was lost")),
        }
    }

    /// Logs events and feeds the watchdog until a signal comes. Gives the last event logged.
    async fn attend(&self, signals: &mut Signals, hangup: Hangup) -> u64 {
        let period = sd_notify::watchdog_enabled().filter(|period| !period.is_zero());
        let node = Arc::clone(&self.node);
        let feeding = watchdog::feed(node, period.unwrap_or(Duration::MAX), || {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        });
        tokio::pin!(feeding);
        let mut log = tokio::time::interval(LOG_INTERVAL);
        let mut seen = 0;
        loop {
            tokio::select! {
                () = signals.stop.next() => return seen,
                _ = signals.hangup.recv() => match hangup {
                    Hangup::Stop => return seen,
                    Hangup::Ignore => note(
                        "basalt: SIGHUP ignored: the configuration is read at start only",
                    ),
                },
                _ = log.tick() => seen = self.log_events(seen),
                () = &mut feeding, if period.is_some() => return seen,
            }
        }
    }

    /// Logs events after `seen`; gives the last.
    fn log_events(&self, seen: u64) -> u64 {
        self.node.events_since(seen).iter().fold(seen, |_, event| {
            log_event(event);
            event.sequence
        })
    }
}

struct Signals {
    stop: Stops,
    hangup: Signal,
}

/// The signals that end the program.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { stop: Stops { terminate, interrupt }, hangup: signal(SignalKind::hangup())? })
    }
}

impl Stops {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// One line on standard error, with the priority that journald understands when it listens.
fn log_event(event: &NodeEvent) {
    let (level, word) = match event.severity {
        Severity::Info => ("<6>", "info"),
        Severity::Warning => ("<4>", "warning"),
        Severity::Error => ("<3>", "error"),
    };
    let level = if std::env::var_os("JOURNAL_STREAM").is_some() { level } else { "" };
    note(&format!("{level}basalt: {word}: {}: {}", event.kind, event.text));
}

/// The processors to run on: those asked for, or all that this process may use.
fn cores(asked: &[usize]) -> Result<Vec<usize>, Failure> {
    let allowed = rustix::thread::sched_getaffinity(None);
    let allowed = allowed.map_err(|e| Failure::io("cannot list the processors", &e.into()))?;
    let available = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let available: Vec<usize> = available.collect();
    if asked.is_empty() {
        return Ok(available.into_iter().take(CORES_MAX).collect());
    }
    match asked.iter().find(|core| !available.contains(core)) {
        None => Ok(asked.to_vec()),
        Some(core) => {
            let text = format!("processor {core} is not there, or not for this process");
            let hint = format!("`cores` may name {available:?}");
            Err(Failure::new(Exit::Config, text).hint(hint))
        }
    }
}

fn not_started(error: &StartError) -> Failure {
    let exit = match error {
        StartError::Config(_) => Exit::Config,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// Addresses for NVMe/TCP and for iSCSI, each in the order of their portals.
fn addresses(config: &NodeConfig, all: &[SocketAddr]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let of = |protocol: Protocol| {
        let portals = config.portals.iter().zip(all);
        portals.filter(|(portal, _)| portal.protocol == protocol).map(|(_, at)| *at).collect()
    };
    (of(Protocol::Nvme), of(Protocol::Iscsi))
}
