//! What a connection counts.

/// Totals since the connection was made. Read at scrape, never on the I/O path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// SCSI commands accepted.
    pub commands: u64,
    /// Of these, those that the target was asked about.
    pub control: u64,
    /// Commands that ended with another status than GOOD.
    pub failed: u64,
    /// Commands aborted by task management.
    pub aborted: u64,
    /// Bytes of data sent to the initiator.
    pub bytes_read: u64,
    /// Bytes of data received from the initiator and kept.
    pub bytes_written: u64,
    /// R2Ts sent.
    pub r2ts: u64,
    /// Header digests that did not match: each ended its connection.
    pub header_digest_errors: u64,
    /// Data digests that did not match.
    pub data_digest_errors: u64,
    /// Data PDUs for whose digest bytes were read that a page's checksum covers already.
    pub digest_second_pass: u64,
    /// PDUs rejected.
    pub rejects: u64,
    /// Requests ignored because their number was out of the window.
    pub out_of_window: u64,
    /// Data-Outs that belonged to no task.
    pub stray_data: u64,
    /// Pings sent because nothing had come for long.
    pub pings: u64,
    /// Times that a command had to wait for a buffer.
    pub buffer_waits: u64,
    /// Commands ended with BUSY because no buffer was there for data that came unasked.
    pub busy: u64,
}
