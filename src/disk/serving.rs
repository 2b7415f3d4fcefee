//! `basalt disk online|offline`: disks of the running node.

use crate::api::DiskName;
use crate::cli::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Format, print};
use clap::Args;
use hyper::Method;
use serde_json::Value;

/// A disk of the running node.
#[derive(Debug, Args)]
pub struct Which {
    /// As `basalt node` shows it: its path in the configuration, or pci:ADDRESS/N
    pub disk: String,
}

pub(super) fn online(which: &Which, global: &Global) -> Result<(), Failure> {
    ask(which, "online", "is served", global)
}

pub(super) fn offline(which: &Which, global: &Global) -> Result<(), Failure> {
    ask(which, "offline", "is offline, its volumes with it", global)
}

fn ask(which: &Which, word: &str, outcome: &str, global: &Global) -> Result<(), Failure> {
    let client = Client::new(&global.socket())?;
    let name = DiskName { disk: which.disk.clone() };
    let _: Value = client.request(Method::POST, &format!("/v1/disks/{word}"), Some(&name))?;
    match global.output {
        Format::Table => print(&format!("Disk {} {outcome}.\n", name.disk)),
        Format::Json => print("{}\n"),
    }
}
