//! The protocols that a connection may speak, behind one face for the pump.

use crate::dma::Buf;
use iscsi_target::connection as iscsi;
use iscsi_target::seam::{Order, SessionKind};
use nvmeof_target::connection as nvme;
use std::ops::Range;
use target_io::{BlockResult, ConnectionId, Now, Surroundings, Ticket, TxSink, VolumeIndex};

/// Which protocol a portal speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProtocolKind {
    /// NVMe over TCP.
    Nvme,
    /// iSCSI.
    Iscsi,
}

/// Limits of connections.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProtocolConfig {
    pub(crate) nvme: nvme::Config,
    pub(crate) iscsi: iscsi::Config,
}

/// One connection's protocol.
pub(super) enum Protocol {
    Nvme(nvme::Connection<Buf>),
    Iscsi(iscsi::Connection<Buf>),
}

/// What a connection has for its target.
pub(crate) enum Event {
    Nvme(nvmeof_target::seam::Event),
    Iscsi(iscsi_target::seam::Event),
}

/// How much a connection deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Anybody may be at the other end.
    Stranger,
    /// Serves no volumes.
    Admin,
    /// Serves volumes.
    Io,
}

/// Passes a call on, whichever protocol it is.
macro_rules! each {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self {
            Protocol::Nvme($inner) => $call,
            Protocol::Iscsi($inner) => $call,
        }
    };
}

impl Protocol {
    pub(super) fn new(
        kind: ProtocolKind,
        id: ConnectionId,
        config: &ProtocolConfig,
        buffers_max: usize,
        now: Now,
    ) -> Self {
        match kind {
            ProtocolKind::Nvme => {
                let config = nvme::Config { buffers_max, ..config.nvme };
                Self::Nvme(nvme::Connection::new(id, config, now))
            }
            ProtocolKind::Iscsi => {
                let config = iscsi::Config { buffers_max, ..config.iscsi };
                Self::Iscsi(iscsi::Connection::new(id, config, now))
            }
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Nvme(connection) => match connection.queue() {
                None => Standing::Stranger,
                Some(queue) if queue.queue_id == 0 => Standing::Admin,
                Some(_) => Standing::Io,
            },
            Self::Iscsi(connection) => match connection.session().map(|session| session.kind) {
                None => Standing::Stranger,
                Some(SessionKind::Discovery) => Standing::Admin,
                Some(SessionKind::Normal) => Standing::Io,
            },
        }
    }

    /// The NVMe queue that it must be.
    pub(super) fn nvme(&mut self) -> &mut nvme::Connection<Buf> {
        match self {
            Self::Nvme(connection) => connection,
            Self::Iscsi(_) => unreachable!("its target answers with orders"),
        }
    }

    pub(super) fn order(&mut self, now: Now, order: Order) {
        match self {
            Self::Nvme(_) => unreachable!("its target answers with replies"),
            Self::Iscsi(connection) => connection.order(now, order),
        }
    }

    pub(super) fn take_event(&mut self) -> Option<Event> {
        match self {
            Self::Nvme(connection) => connection.take_event().map(Event::Nvme),
            Self::Iscsi(connection) => connection.take_event().map(Event::Iscsi),
        }
    }

    pub(super) fn take_errors(&mut self) -> Option<nvmeof_target::seam::CommandErrors> {
        match self {
            Self::Nvme(connection) => connection.take_errors(),
            Self::Iscsi(_) => None,
        }
    }

    /// Whether the socket is to be closed once what is queued has been sent.
    pub(super) fn is_ending(&self) -> bool {
        match self {
            Self::Nvme(_) => false,
            Self::Iscsi(connection) => connection.is_ending(),
        }
    }

    /// Aborts what has been asked of a volume: the host was preempted.
    pub(super) fn preempt(&mut self, volume: VolumeIndex) {
        each!(self, connection => connection.preempt(volume));
    }

    /// Whether nothing is left that [`Protocol::preempt`] has to end.
    pub(super) fn is_idle_on(&self, volume: VolumeIndex) -> bool {
        each!(self, connection => connection.is_idle_on(volume))
    }

    pub(super) fn complete<S: Surroundings<Buf = Buf>>(
        &mut self,
        ticket: Ticket,
        result: BlockResult<Buf>,
        around: &mut S,
    ) {
        each!(self, connection => connection.complete(ticket, result, around));
    }

    pub(super) fn receive<S: Surroundings<Buf = Buf>>(
        &mut self,
        now: Now,
        bytes: &[u8],
        around: &mut S,
    ) -> usize {
        each!(self, connection => connection.receive(now, bytes, around))
    }

    pub(super) fn take_landing(&mut self) -> Option<(Buf, Range<usize>)> {
        each!(self, connection => connection.take_landing())
    }

    pub(super) fn landed<S: Surroundings<Buf = Buf>>(
        &mut self,
        buf: Buf,
        range: Range<usize>,
        count: usize,
        around: &mut S,
    ) {
        each!(self, connection => connection.landed(buf, range, count, around));
    }

    pub(super) fn resume<S: Surroundings<Buf = Buf>>(&mut self, now: Now, around: &mut S) {
        each!(self, connection => connection.resume(now, around));
    }

    pub(super) fn transmit<T: TxSink<Buf>>(&mut self, sink: &mut T) {
        each!(self, connection => connection.transmit(sink));
    }

    pub(super) fn wants_transmit(&self) -> bool {
        each!(self, connection => connection.wants_transmit())
    }

    pub(super) fn starved(&self) -> bool {
        each!(self, connection => connection.starved())
    }

    pub(super) fn is_over(&self) -> bool {
        each!(self, connection => connection.is_over())
    }

    pub(super) fn close(&mut self) {
        each!(self, connection => connection.close());
    }

    pub(super) fn outstanding(&self) -> usize {
        each!(self, connection => connection.outstanding())
    }

    pub(super) fn held(&self) -> usize {
        each!(self, connection => connection.held())
    }

    pub(super) fn sent(&mut self) {
        each!(self, connection => connection.sent());
    }

    pub(super) fn deadline(&self) -> Option<Now> {
        each!(self, connection => connection.deadline())
    }

    pub(super) fn on_deadline(&mut self, now: Now) {
        each!(self, connection => connection.on_deadline(now));
    }

    pub(super) fn awaits_data(&self) -> bool {
        each!(self, connection => connection.awaits_data())
    }

    pub(super) fn watch(&mut self, now: Now) {
        each!(self, connection => connection.watch(now));
    }

    /// Adds what it has counted.
    pub(super) fn count(&self, sum: &mut super::pump::FrontendCounters) {
        match self {
            Self::Nvme(connection) => {
                let counters = connection.counters();
                sum.commands += counters.reads
                    + counters.writes
                    + counters.flushes
                    + counters.compares
                    + counters.zeroes
                    + counters.datasets
                    + counters.copies
                    + counters.others;
                sum.digest_second_passes += counters.digest_second_pass;
                sum.digest_errors += counters.header_digest_errors + counters.data_digest_errors;
            }
            Self::Iscsi(connection) => {
                let counters = connection.counters();
                sum.commands += counters.commands - counters.control;
                sum.digest_second_passes += counters.digest_second_pass;
                sum.digest_errors += counters.header_digest_errors + counters.data_digest_errors;
            }
        }
    }
}
