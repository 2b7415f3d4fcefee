//! Waiting for what connections have in flight on a volume, when their hosts are preempted.
//! Whichever protocol they speak, their cores abort what has not begun and say when the rest has
//! ended.

use super::control::{Control, Held};
use super::reservations::Asker;
use crate::core::Message;
use hashbrown::HashMap;
use nvmeof_target::io::VolumeIndex;
use nvmeof_target::seam::ConnectionId;

/// Drains under way.
#[derive(Default)]
pub(super) struct Drains {
    next_token: u64,
    running: HashMap<u64, Draining>,
}

struct Draining {
    /// Connections that have not answered.
    waiting: usize,
    /// Whose order is answered then.
    asker: Asker,
}

impl Control {
    /// Aborts what these connections have asked of a volume, and answers the order that wants it
    /// when nothing of it is in flight any more. Behind everything that the targets have ordered
    /// so far.
    pub(super) fn drain(
        &mut self,
        connections: Vec<ConnectionId>,
        volume: VolumeIndex,
        asker: Asker,
    ) {
        if connections.is_empty() {
            return self.answer_order(asker, Ok(()));
        }
        let token = self.drains.next_token;
        self.drains.next_token += 1;
        self.drains.running.insert(token, Draining { waiting: connections.len(), asker });
        let drains = connections.into_iter();
        self.held.extend(drains.map(|connection| Held::Drain { connection, volume, token }));
    }

    /// Sends the order to the connection's core; a connection that is gone has nothing in flight.
    pub(super) fn send_drain(&mut self, connection: ConnectionId, volume: VolumeIndex, token: u64) {
        match self.core_of(connection) {
            Some(core) => self.order(core, Message::Drain { connection, volume, token }),
            None => self.drained(token),
        }
    }

    /// A connection has nothing in flight any more.
    pub(crate) fn drained(&mut self, token: u64) {
        let draining = self.drains.running.get_mut(&token).expect("a connection answers once");
        draining.waiting -= 1;
        if draining.waiting == 0 {
            let draining = self.drains.running.remove(&token).expect("just seen");
            self.answer_order(draining.asker, Ok(()));
        }
    }
}
