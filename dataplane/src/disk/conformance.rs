//! The suite that every [`Disk`](super::Disk) passes.

use super::Disk;

/// Runs everything on disks that `make` makes.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Disk>) {
    let _ = make().info();
}
