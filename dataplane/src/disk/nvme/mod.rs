//! NVMe SSDs over PCIe, driven from user space: polled, one queue pair for each core.
//!
//! NVMe 1.4 to 2.x, NVM command set. An [`NvmeController`] lives on one core, its home, and does
//! everything that is slow: bring-up, identification, events, logs, aborts, resets. It hands out
//! [`NvmeSeat`]s, I/O queue pairs, one for each core; on each of them any number of [`NvmeDisk`]s
//! implement [`super::Disk`].
//!
//! What goes wrong, and what follows:
//! - A command fails: it is repeated as its status allows (DNR, CRD), then its error is reported.
//! - A command does not end: it is aborted; if that does not end it either, the controller is
//!   reset.
//! - A completion makes no sense, or the controller reports a fatal state or has lost its own: it
//!   is reset. Everything in flight is tried again afterwards, at most a few times, and then fails:
//!   each request ends exactly once.
//! - It had a volatile cache and was without power: nothing is written to it any more.
//! - It is gone, or cannot be reset: everything fails.
//!
//! A controller that writes the wrong data, or to the wrong place, is the business of checksums and
//! of the IOMMU, not of the driver.
//!
//! What it does not do: zoned and key-value command sets, fused commands, streams, host memory
//! buffers, metadata between blocks (but for protection information that the controller makes),
//! protection information with other than 16-bit guards, power states, formatting, firmware.

mod admin;
mod controller;
mod disk;
mod link;
mod logs;
mod namespace;
#[cfg(any(test, feature = "bench"))]
mod null;
mod options;
mod pointers;
mod queue;
mod registers;
mod request;
mod ring;
mod slots;
mod steps;
#[cfg(test)]
mod tests;

pub use controller::{NvmeController, NvmeEvent};
pub use disk::{NvmeDisk, NvmeQueue, NvmeSeat};
pub use namespace::{Facts, Metadata, Namespace};
#[cfg(any(test, feature = "bench"))]
pub use null::{NullRegisters, null_disk};
pub use options::{NAMESPACES_MAX, NvmeOptions, QUEUE_ENTRIES_MAX, QUEUES_MAX, Trouble};
pub use queue::QueueCounters;
