//! What drives that the kernel drives say of themselves.

use crate::disk::health::Health;
use crate::uring::passthrough;
use std::fs::{self, File};
use std::path::Path;

/// The health of a whole block device, by its path; `None` for anything else, where this process
/// may not ask, and where the drive does not say.
#[must_use]
pub fn health(path: &Path) -> Option<Health> {
    let path = fs::canonicalize(path).ok()?;
    let name = path.strip_prefix("/dev").ok()?.to_str()?.replace('/', "!");
    let place = fs::canonicalize(Path::new("/sys/block").join(&name)).ok()?;
    if name.starts_with("nvme") {
        let log = passthrough::nvme_health(&File::open(path).ok()?).ok()?;
        return Some(Health::from_nvme_bytes(&log));
    }
    // Only where the disk speaks ATA: others would take the command for another.
    let is_port =
        |name: &str| name.strip_prefix("ata").is_some_and(|number| number.parse::<u32>().is_ok());
    if !place.iter().any(|part| part.to_str().is_some_and(is_port)) {
        return None;
    }
    let (data, is_failing) = passthrough::ata_health(&File::open(path).ok()?).ok()?;
    Some(Health::from_ata(&data, is_failing))
}
