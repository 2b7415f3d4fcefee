//! What a reservation leaves to a host.

/// What a host may do with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Commands of [`CommandClass::Read`].
    pub read: bool,
    /// Commands of [`CommandClass::Write`].
    pub write: bool,
}

/// How reservations see a command.
///
/// NVMe (Base 2.1, section 8.1.25, and NVM Command Set 1.1, section 3.2): Read, Compare, Verify and
/// the sources of Copy read; Write, Write Zeroes, Write Uncorrectable, Dataset Management, Flush
/// and the destination of Copy write; reservation commands and admin commands that do not concern
/// a namespace's contents are always allowed here, and judged by [`Table::apply`].
///
/// SCSI (SPC-4, table of commands and persistent reservations; SBC-3, section 4.17): READ, VERIFY,
/// PRE-FETCH and GET LBA STATUS read; WRITE, WRITE AND VERIFY, WRITE SAME, UNMAP, COMPARE AND
/// WRITE, ORWRITE, SYNCHRONIZE CACHE, FORMAT UNIT, SANITIZE, MODE SENSE, MODE SELECT and SEND
/// DIAGNOSTIC write; INQUIRY, REPORT LUNS, REQUEST SENSE, TEST UNIT READY, READ CAPACITY, LOG
/// SENSE, REPORT TARGET PORT GROUPS, PERSISTENT RESERVE IN and OUT are always allowed.
///
/// [`Table::apply`]: crate::Table::apply
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandClass {
    /// No reservation concerns it.
    Always,
    /// Forbidden to those whom an exclusive access reservation keeps out.
    Read,
    /// Forbidden to those whom any reservation keeps out.
    Write,
}

impl Access {
    /// What a host may do with a volume that nobody has reserved.
    pub const ALL: Self = Self { read: true, write: true };
    /// What a host may do with a volume that is reserved for others alone.
    pub const NONE: Self = Self { read: false, write: false };

    /// Whether a command may be executed. If not, it ends with Reservation Conflict.
    #[must_use]
    pub fn allows(self, class: CommandClass) -> bool {
        match class {
            CommandClass::Always => true,
            CommandClass::Read => self.read,
            CommandClass::Write => self.write,
        }
    }
}
