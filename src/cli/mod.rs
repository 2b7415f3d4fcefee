//! The command line.

mod remote;
mod secret;

use crate::config::ISCSI_PORT;
use crate::failure::{Exit, Failure};
use crate::output::{Format, note};
use crate::size::Size;
use crate::{demo, disk, serve, socket};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use uuid::Uuid;

const EXIT_CODES: &str = concat!(
    "Exit codes: 0 success; 1 failed; 2 wrong command line; 3 wrong configuration file; ",
    "4 no node answers; 5 a disk was left alone because it may hold data or is in use; ",
    "6 `disk check` found damage."
);

/// Basalt: a storage node that serves volumes over NVMe/TCP and iSCSI.
#[derive(Debug, Parser)]
#[command(name = "basalt", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Management socket of the node [default: $BASALT_SOCKET, else /run/basalt/basalt.sock for
    /// root, $XDG_RUNTIME_DIR/basalt.sock for others]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How to show results
    #[arg(long, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

impl Global {
    /// The socket that the user names, on the command line or in the environment.
    #[must_use]
    pub fn named_socket(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("BASALT_SOCKET").filter(|path| !path.is_empty());
        self.socket.clone().or_else(|| variable().map(PathBuf::from))
    }

    /// The socket to use.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.named_socket().unwrap_or_else(socket::default_path)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it: a node on a file, with one volume, that any host may connect to
    Demo(demo::Options),
    /// Run a node by a configuration file
    Serve(serve::Options),
    /// Format, list and check disks
    #[command(subcommand)]
    Disk(disk::Command),
    /// Make and change volumes of the running node
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Say which hosts may connect to the running node
    #[command(subcommand)]
    Host(HostCommand),
    /// Say where initiators of iSCSI log in
    #[command(subcommand)]
    Target(TargetCommand),
    /// Show what the running node does: rates and latencies of volumes and cores
    Stat(StatOptions),
    /// Show what happened on the running node
    Events(EventOptions),
    /// Show the hosts' connections to the running node
    Connections,
    /// Show who the running node is
    Node,
}

/// `basalt volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume; it takes space as it is written
    Create {
        /// Its name: a-z A-Z 0-9 _ - .
        name: String,
        /// Its size, for example 100GiB
        size: Size,
        /// Logical block size that hosts see
        #[arg(long, default_value_t = 4096, value_parser = block_size)]
        block_size: u32,
        /// Its identity [default: drawn at random]
        #[arg(long)]
        uuid: Option<Uuid>,
        /// Disk to place it on by path [default: the one with most free space]
        #[arg(long, value_name = "PATH")]
        disk: Option<String>,
    },
    /// List volumes
    List,
    /// Show one volume
    Show {
        /// Its name
        name: String,
    },
    /// Grow a volume; connected hosts see it at once
    Resize {
        /// Its name
        name: String,
        /// Its new size, or by how much to grow it with a + before
        #[arg(value_parser = resize)]
        size: Resize,
    },
    /// Give a volume another name
    Rename {
        /// Its name
        name: String,
        /// Its new name
        to: String,
    },
    /// Say through which protocols hosts see a volume; other hosts lose it
    #[command(group = clap::ArgGroup::new("through").required(true).multiple(true))]
    Export {
        /// Its name
        name: String,
        /// Show it to hosts that speak NVMe/TCP
        #[arg(long, group = "through")]
        nvme: bool,
        /// Show it to initiators that speak iSCSI
        #[arg(long, group = "through")]
        iscsi: bool,
        /// Hide it from all
        #[arg(long, group = "through", conflicts_with_all = ["nvme", "iscsi"])]
        none: bool,
    },
    /// Delete a volume and its data; connected hosts lose it
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// A new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// So large.
    To(u64),
    /// So much larger.
    By(u64),
}

/// `basalt host`.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Let a host connect
    #[command(visible_alias = "add")]
    Allow {
        /// Its NQN (/etc/nvme/hostnqn on Linux), or its iSCSI name
        /// (/etc/iscsi/initiatorname.iscsi), or '*' for every host
        nqn: String,
        /// What an iSCSI initiator must prove.
        #[command(flatten)]
        chap: secret::Options,
    },
    /// Let it connect no more, and disconnect it
    Deny {
        /// Its NQN or iSCSI name, or '*'
        nqn: String,
    },
    /// List the hosts that may connect
    List,
}

/// `basalt target`.
#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// Send initiators that log in from now on to another portal, and ask those to log out that
    /// are elsewhere; forgotten when the node stops. Without an option: show where they are sent
    Redirect {
        /// The portal, as initiators see it, of this node or another: an address, with a port
        /// unless that is 3260
        #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = portal)]
        iscsi: Option<SocketAddr>,
        /// Let initiators remember it
        #[arg(long, requires = "iscsi")]
        permanent: bool,
        /// Serve them wherever they come in
        #[arg(long, conflicts_with = "iscsi")]
        none: bool,
    },
}

/// `basalt stat`.
#[derive(Debug, Args)]
pub struct StatOptions {
    /// Seconds between two lines
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// Stop after so many
    #[arg(long)]
    pub count: Option<u64>,
}

/// `basalt events`.
#[derive(Debug, Args)]
pub struct EventOptions {
    /// Go on with new ones as they happen
    #[arg(long, short)]
    pub follow: bool,
    /// Only those after this sequence number
    #[arg(long, default_value_t = 0)]
    pub since: u64,
}

/// An address with or without a port.
pub type Listen = IpAddr;
/// An address with a port.
pub type Endpoint = SocketAddr;

/// Runs the command line of the process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing to do where the message cannot be written.
            let _ = error.print();
            let help = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
            let good = help.contains(&error.kind());
            return ExitCode::from(if good { 0 } else { Exit::Usage as u8 });
        }
    };
    let output = cli.global.output;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match output {
                Format::Table => note(&format!("basalt: {failure}")),
                Format::Json => note(&failure.to_json()),
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    match cli.command {
        Command::Demo(options) => demo::run(&options, &global),
        Command::Serve(options) => serve::run(&options, &global),
        Command::Disk(command) => disk::run(&command, &global),
        Command::Volume(command) => remote::volume(command, &global),
        Command::Host(command) => remote::host(command, &global),
        Command::Target(command) => remote::target(&command, &global),
        Command::Stat(options) => remote::stat(&options, &global),
        Command::Events(options) => remote::events(&options, &global),
        Command::Connections => remote::connections(&global),
        Command::Node => remote::node(&global),
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" | "4K" | "4KiB" => Ok(4096),
        _ => Err("a block size is 512 or 4096".to_owned()),
    }
}

/// An address of a portal; the port is iSCSI's if none is given.
fn portal(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, ISCSI_PORT));
    alone
        .or_else(|_| text.parse())
        .map_err(|_| "an address as 192.0.2.1:3260 or [2001:db8::1]:3260".to_owned())
}

fn resize(text: &str) -> Result<Resize, String> {
    let parse = |text: &str| text.parse::<Size>().map_err(|error| error.to_string());
    match text.strip_prefix('+') {
        Some(more) => Ok(Resize::By(parse(more)?.0)),
        None => Ok(Resize::To(parse(text)?.0)),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=3600.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds, 0.1 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:3260"),
            ("192.0.2.1:3261", "192.0.2.1:3261"),
            ("2001:db8::1", "[2001:db8::1]:3260"),
            ("[2001:db8::1]", "[2001:db8::1]:3260"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            assert_eq!(portal(text), Ok(address.parse().expect("an address")), "{text}");
        }
        assert!(portal("a.example:3260").is_err() && portal("192.0.2.1:99999").is_err());
        assert_eq!(resize("+1GiB"), Ok(Resize::By(1 << 30)));
        assert_eq!(resize("2GiB"), Ok(Resize::To(2 << 30)));
        assert!(resize("-1").is_err() && seconds("nan").is_err() && block_size("1024").is_err());
    }
}
