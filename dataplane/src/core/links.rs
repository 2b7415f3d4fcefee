//! One core's mailboxes, with room for what a full one does not take.

use super::Message;
use super::mailbox::{self, Full, Post};
use crate::uring::Waker;
use std::collections::VecDeque;

/// Messages that fit in one mailbox; more wait with the sender. What waits is bounded by the
/// requests in flight.
const MAILBOX_MAX: usize = 4096;
/// Messages that one core takes from one mailbox in one turn.
const BATCH_MAX: usize = 256;

/// One core's ends of all mailboxes.
pub(crate) struct Links {
    core: u16,
    post: Post<Message>,
    /// For each core, what found its mailbox full.
    waiting: Vec<VecDeque<Message>>,
    /// Messages that are taken at a time.
    batch: usize,
}

/// The links of as many cores as there are wakers.
pub(crate) fn mesh(wakers: &[Waker]) -> Vec<Links> {
    mesh_of(MAILBOX_MAX, wakers)
}

/// The same, with mailboxes for `capacity` messages.
pub(crate) fn mesh_of(capacity: usize, wakers: &[Waker]) -> Vec<Links> {
    let posts = mailbox::mesh(capacity, wakers).into_iter().enumerate();
    let links = |(core, post)| Links {
        core: core as u16,
        post,
        waiting: (0..wakers.len()).map(|_| VecDeque::new()).collect(),
        batch: BATCH_MAX,
    };
    posts.map(links).collect()
}

impl Links {
    /// This core's position.
    pub(crate) fn core(&self) -> u16 {
        self.core
    }

    /// Sends to another core; the receiver is woken by [`Links::flush`].
    pub(crate) fn send(&mut self, core: u16, message: Message) {
        assert_ne!(core, self.core, "no core writes to itself");
        let waiting = &mut self.waiting[usize::from(core)];
        if !waiting.is_empty() {
            waiting.push_back(message);
        } else if let Err(Full(message)) = self.post.send(usize::from(core), message) {
            waiting.push_back(message);
        }
    }

    /// Moves what waits for room, and wakes the cores that were written to. Once a turn.
    pub(crate) fn flush(&mut self) {
        for (core, waiting) in self.waiting.iter_mut().enumerate() {
            while let Some(message) = waiting.pop_front() {
                if let Err(Full(message)) = self.post.send(core, message) {
                    waiting.push_front(message);
                    break;
                }
            }
        }
        self.post.announce();
    }

    /// Takes a bounded batch of what other cores sent. Returns whether there was any.
    pub(crate) fn receive(&mut self, messages: &mut Vec<Message>) -> bool {
        self.post.receive(self.batch, |_, message| messages.push(message)) > 0
    }

    /// Takes at most so many messages at a time from now on.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn set_batch(&mut self, batch: usize) {
        self.batch = batch;
    }

    /// Whether all that was sent lies in the mailboxes of its receivers.
    pub(crate) fn is_delivered(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Whether this core may sleep: nothing has come and nothing waits to go.
    pub(crate) fn is_quiet(&self) -> bool {
        self.post.is_empty() && self.is_delivered()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_beyond_the_mailbox() {
        let mut links = mesh(&[Waker::unneeded(), Waker::unneeded()]);
        let total = 3 * MAILBOX_MAX as u64;
        for token in 0..total {
            links[0].send(1, Message::Aborted { token, aborted: true });
        }
        links[0].flush();
        assert!(!links[0].is_quiet());
        let (mut seen, mut messages) = (0, Vec::new());
        while seen < total {
            assert!(links[1].receive(&mut messages));
            for message in messages.drain(..) {
                let Message::Aborted { token, .. } = message else { panic!("not what was sent") };
                assert_eq!(token, seen);
                seen += 1;
            }
            links[0].flush();
        }
        assert!(links[0].is_quiet() && links[1].is_quiet());
    }

    /// Room in the mailbox is first for what waits for it.
    #[test]
    fn nothing_overtakes_what_waits_for_room() {
        let mut links = mesh_of(2, &[Waker::unneeded(), Waker::unneeded()]);
        links[1].set_batch(1);
        let (mut sent, mut seen, mut messages) = (0, 0, Vec::new());
        for round in 0..100 {
            for _ in 0..3 {
                links[0].send(1, Message::Aborted { token: sent, aborted: true });
                sent += 1;
            }
            if round % 3 == 0 {
                links[0].flush();
            }
            links[1].receive(&mut messages);
        }
        while seen < sent {
            for message in messages.drain(..) {
                let Message::Aborted { token, .. } = message else { panic!("not what was sent") };
                assert_eq!(token, seen);
                seen += 1;
            }
            links[0].flush();
            links[1].receive(&mut messages);
        }
    }
}
