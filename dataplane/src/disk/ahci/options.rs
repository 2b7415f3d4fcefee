//! How to drive an adapter, and what can go wrong with it and its drives.

use std::time::Duration;

/// Largest transfer of one command in bytes: the descriptors of a slot suffice for it even where
/// each page of memory is elsewhere for the device.
pub const TRANSFER_MAX: usize = 1 << 20;

/// How to drive an adapter, and what the operator knows better than its drives.
#[derive(Debug, Clone, Copy)]
pub struct AhciOptions {
    /// Queued commands in flight on a drive, 1 to 32; fewer where the adapter or the drive has
    /// fewer.
    pub depth: u8,
    /// The link is reset if a command takes longer. Turning disks may try to read for long.
    pub timeout: Duration,
    /// Resets of a port in a row, each soon after the one before, until its drive is given up. The
    /// first two concern its link alone, the others the whole adapter.
    pub resets_max: u32,
    /// Whether forced writes do what they say: `false` has writes flushed instead.
    pub honours_fua: bool,
    /// Declares that the cache of the drives survives power cuts.
    pub cache_is_safe: bool,
    /// Has zeroes written by TRIM on drives that promise to read zeroes afterwards. The standard
    /// lets a drive ignore a TRIM; by default zeroes are written as zeroes.
    pub zeroes_by_trim: bool,
}

impl Default for AhciOptions {
    fn default() -> Self {
        Self {
            depth: 32,
            timeout: Duration::from_secs(30),
            resets_max: 4,
            honours_fua: true,
            cache_is_safe: false,
            zeroes_by_trim: false,
        }
    }
}

/// What is wrong with an adapter or a drive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It lacks what we cannot do without, or is what we do not drive.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// A reset of the adapter does not end.
    #[error("the adapter does not end its reset")]
    ResetStuck,
    /// The adapter has forgotten that it was set up.
    #[error("the adapter lost its state")]
    LostState,
    /// A port does not stop.
    #[error("the port does not stop")]
    PortStuck,
    /// A drive is busy without end.
    #[error("the drive does not become ready")]
    NotReady,
    /// A command did not end.
    #[error("a command did not end")]
    Timeout,
    /// An error of the link (IFS).
    #[error("the port stopped for an error of its link")]
    Interface,
    /// An error between adapter and memory (HBFS, HBDS).
    #[error("the port stopped for an error between adapter and memory")]
    Bus,
    /// A drive moved more data than it was asked to (OFS).
    #[error("the drive moved more data than it was asked to")]
    Overflow,
    /// It was without power, and nobody knows what its cache held.
    #[error("it lost its power, and with it what its cache held")]
    PowerLost,
    /// Commands ended that were not in flight, or had not been sent.
    #[error("the port tells of commands that are not in flight")]
    Nonsense,
    /// A drive does not identify itself, or says what cannot be.
    #[error("the drive does not identify itself: {0}")]
    Identify(&'static str),
    /// In its place is another drive.
    #[error("another drive is in its place")]
    Changed,
    /// Memory could not be had.
    #[error("{0}")]
    System(String),
    /// It has been reset too often.
    #[error("reset again and again; the last time: {0}")]
    Hopeless(Box<Trouble>),
    /// There is no drive on the port.
    #[error("no drive on the port")]
    Empty,
    /// It is gone.
    #[error("removed")]
    Removed,
}
