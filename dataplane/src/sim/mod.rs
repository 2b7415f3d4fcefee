//! The emulator: devices whose every behaviour comes from a seed.

#[cfg(any(test, feature = "sim"))]
pub mod ahci;
#[cfg(any(test, feature = "sim"))]
mod block;
#[cfg(any(test, feature = "sim"))]
mod content;
mod disk;
#[cfg(any(test, feature = "sim"))]
mod draw;
#[cfg(any(test, feature = "sim"))]
mod encode;
#[cfg(any(test, feature = "sim"))]
mod host;
#[cfg(any(test, feature = "sim"))]
mod inventory;
#[cfg(any(test, feature = "sim"))]
mod model;
#[cfg(any(test, feature = "sim"))]
mod network;
#[cfg(any(test, feature = "sim"))]
pub mod nvme;
mod random;
#[cfg(any(test, feature = "sim"))]
mod register;
#[cfg(any(test, feature = "sim"))]
mod world;

pub use disk::{Faults, SimDisk, SimDiskConfig, SimMedia};
pub use random::Random;
#[cfg(any(test, feature = "sim"))]
pub use world::{Report, Stage};
