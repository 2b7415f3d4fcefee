//! What a connection counts.

use super::slots::Kind;

/// Totals since the connection was made. Read at scrape, never on the I/O path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads accepted.
    pub reads: u64,
    /// Writes accepted, fused ones included.
    pub writes: u64,
    /// Flushes accepted.
    pub flushes: u64,
    /// Compares accepted, fused ones included.
    pub compares: u64,
    /// Write Zeroes accepted.
    pub zeroes: u64,
    /// Dataset Managements accepted.
    pub datasets: u64,
    /// Copies accepted.
    pub copies: u64,
    /// Verifies and Write Uncorrectables accepted.
    pub others: u64,
    /// Fabrics and admin commands handed to the target.
    pub events: u64,
    /// Commands refused before they were executed.
    pub refused: u64,
    /// Commands that completed with an error, refused ones included.
    pub failed: u64,
    /// Commands aborted on request.
    pub aborted: u64,
    /// Bytes of volume data sent to the host.
    pub bytes_read: u64,
    /// Bytes of volume data received from the host.
    pub bytes_written: u64,
    /// R2Ts sent.
    pub r2ts: u64,
    /// Header digests that did not match.
    pub header_digest_errors: u64,
    /// Data digests that did not match.
    pub data_digest_errors: u64,
    /// Data PDUs for whose digest bytes were read that a page's checksum covers already.
    pub digest_second_pass: u64,
    /// Terminate requests sent: the host broke the protocol.
    pub term_requests_sent: u64,
    /// Terminate requests received: we broke it, by the host's account.
    pub term_requests_received: u64,
    /// Times that a command had to wait for a buffer.
    pub buffer_waits: u64,
}

impl Counters {
    pub(super) fn accepted(&mut self, kind: Kind) {
        *match kind {
            Kind::Refused => &mut self.refused,
            Kind::Event => &mut self.events,
            Kind::Flush => &mut self.flushes,
            Kind::Read => &mut self.reads,
            Kind::Write | Kind::FusedWrite => &mut self.writes,
            Kind::Compare | Kind::FusedCompare => &mut self.compares,
            Kind::Zero => &mut self.zeroes,
            Kind::Verify | Kind::Poison => &mut self.others,
            Kind::Dataset => &mut self.datasets,
            Kind::Copy => &mut self.copies,
        } += 1;
    }
}
