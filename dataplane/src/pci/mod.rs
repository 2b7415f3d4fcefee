//! PCI functions as sysfs shows them, and who drives them.
//!
//! [`Machine`] reads and writes below one root, which tests replace; [`bind`] and [`unbind`] move a
//! storage controller between its kernel driver and `vfio-pci`, and refuse where a block device of
//! it is in use. Nothing here touches the device itself.

mod address;
mod bind;
mod blocks;
mod machine;
#[cfg(test)]
mod tests;

pub use address::{AddressError, PciAddress};
pub use bind::{BindError, Change, Neighbours, bind, unbind};
pub use blocks::{BlockDevice, Use};
pub use machine::{ControllerKind, Machine, PciFunction};
