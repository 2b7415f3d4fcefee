//! The `basalt` program as a library, so that tests and the fuzzer reach its parts.
//!
//! - [`cli`]: the command line;
//! - [`config`]: the configuration file;
//! - [`serve`], [`demo`]: the commands that run a node; [`watchdog`]: for the service manager;
//! - [`disk`]: the commands that work on disks without a node;
//! - [`api`], [`client`]: management of a running node over its Unix socket;
//! - [`metrics`], [`stat`]: counters for Prometheus and for people.
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod disk;
pub mod failure;
pub mod metrics;
pub mod output;
pub mod plane;
pub mod serve;
pub mod size;
pub mod socket;
pub mod stat;
pub mod watchdog;
