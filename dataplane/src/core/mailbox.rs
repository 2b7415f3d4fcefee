//! Mailboxes between cores: bounded, one for each pair of cores, without locks or allocation.
//!
//! A core that is awake finds its messages in its next turn; only a sleeping one costs its sender a
//! system call. With one mailbox for each pair, order is kept between two cores, and no core can
//! crowd out another.
//!
//! Before it sleeps, a core announces that ([`crate::uring::Ring::announce_sleep`]) and looks into
//! its inbox once more: a message is then either seen or followed by a signal.

use crate::uring::Waker;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// Largest capacity of one mailbox, in messages.
pub const CAPACITY_MAX: usize = 1 << 16;

/// The mailbox is full: here is the message back. The sender keeps it and tries again in its next
/// turn, by when the receiver has had time to take some.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// The sending end of a mailbox; held by one core.
#[derive(Debug)]
pub struct Sender<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Waker,
    is_unannounced: bool,
}

/// The receiving end of a mailbox; held by one core.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: Arc<ArrayQueue<T>>,
}

/// A mailbox for `capacity` messages to the core that `waker` wakes.
#[must_use]
pub fn mailbox<T: Send>(capacity: usize, waker: Waker) -> (Sender<T>, Receiver<T>) {
    assert!((1..=CAPACITY_MAX).contains(&capacity));
    let queue = Arc::new(ArrayQueue::new(capacity));
    let sender = Sender { queue: Arc::clone(&queue), waker, is_unannounced: false };
    (sender, Receiver { queue })
}

impl<T: Send> Sender<T> {
    /// Sends, and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// [`Full`] gives the message back.
    pub fn send(&mut self, message: T) -> Result<(), Full<T>> {
        self.queue(message)?;
        self.announce();
        Ok(())
    }

    /// Sends without waking: for several messages in a row, before one [`Sender::announce`].
    ///
    /// # Errors
    /// [`Full`] gives the message back.
    pub fn queue(&mut self, message: T) -> Result<(), Full<T>> {
        self.queue.push(message).map_err(Full)?;
        self.is_unannounced = true;
        Ok(())
    }

    /// Wakes the receiver if it sleeps and has something new.
    pub fn announce(&mut self) {
        if std::mem::take(&mut self.is_unannounced) {
            self.waker.wake();
        }
    }
}

impl<T: Send> Receiver<T> {
    /// The oldest message.
    #[must_use]
    pub fn receive(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Whether there is no message now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// One core's ends of the mailboxes to and from every core, itself included.
#[derive(Debug)]
pub struct Post<T> {
    senders: Vec<Sender<T>>,
    inbox: Vec<Receiver<T>>,
    /// Whose messages are taken first, so that all get their turn.
    first: usize,
}

/// Mailboxes of `capacity` messages between all pairs of the cores that `wakers` wake; the result
/// is in their order.
#[must_use]
pub fn mesh<T: Send>(capacity: usize, wakers: &[Waker]) -> Vec<Post<T>> {
    let empty = |_| Post { senders: Vec::new(), inbox: Vec::new(), first: 0 };
    let mut posts: Vec<Post<T>> = (0..wakers.len()).map(empty).collect();
    for from in 0..wakers.len() {
        for (to, waker) in wakers.iter().enumerate() {
            let (sender, receiver) = mailbox(capacity, waker.clone());
            posts[from].senders.push(sender);
            posts[to].inbox.push(receiver);
        }
    }
    posts
}

impl<T: Send> Post<T> {
    /// Number of cores.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.senders.len()
    }

    /// Queues a message to core `to`, which learns of it by the next [`Post::announce`].
    ///
    /// # Errors
    /// [`Full`] gives the message back.
    pub fn send(&mut self, to: usize, message: T) -> Result<(), Full<T>> {
        self.senders[to].queue(message)
    }

    /// Wakes every sleeping core to which something was sent since the last call. Once per turn.
    pub fn announce(&mut self) {
        self.senders.iter_mut().for_each(Sender::announce);
    }

    /// Gives up to `limit` messages, with the core that each is from, to `take`; returns how many.
    pub fn receive(&mut self, limit: usize, mut take: impl FnMut(usize, T)) -> usize {
        let cores = self.inbox.len();
        let mut taken = 0;
        for step in 0..cores {
            let from = (self.first + step) % cores;
            while let Some(message) = (taken < limit).then(|| self.inbox[from].receive()).flatten()
            {
                take(from, message);
                taken += 1;
            }
        }
        self.first = (self.first + 1) % cores.max(1);
        taken
    }

    /// Whether nothing waits to be received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.iter().all(Receiver::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::{Ring, RingOptions};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn order_is_kept_and_a_full_box_gives_back() {
        let (mut sender, receiver) = mailbox(2, Waker::unneeded());
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(sender.send(2), Ok(()));
        assert_eq!(sender.send(3), Err(Full(3)));
        assert_eq!(receiver.receive(), Some(1));
        assert_eq!(sender.send(3), Ok(()));
        assert_eq!([receiver.receive(), receiver.receive()], [Some(2), Some(3)]);
        assert!(receiver.is_empty());
    }

    #[test]
    fn a_mesh_reaches_everyone_and_is_fair() {
        let mut posts = mesh::<(usize, u32)>(4, &vec![Waker::unneeded(); 3]);
        for (from, post) in posts.iter_mut().enumerate() {
            for to in 0..3 {
                for number in 0..4 {
                    post.send(to, (from, number)).unwrap();
                }
                post.send(to, (from, 9)).unwrap_err();
            }
            post.announce();
        }
        for post in &mut posts {
            let mut seen = [0; 3];
            while !post.is_empty() {
                let before: u32 = seen.iter().sum();
                let taken = post.receive(4, |from, (said, number)| {
                    assert_eq!((from, seen[from]), (said, number), "in order from each");
                    seen[from] += 1;
                });
                assert_eq!(seen.iter().sum::<u32>() - before, taken as u32);
                assert!(taken <= 4);
            }
            assert_eq!(seen, [4; 3]);
        }
    }

    /// Both cores sleep whenever they find nothing: a lost wake-up would hang until the timeout,
    /// which the test forbids.
    #[test]
    fn no_wakeup_is_lost_between_sleeping_cores() {
        const ROUNDS: u32 = 20_000;
        let (give_waker, take_waker) = mpsc::channel();
        let (give_ends, take_ends) = mpsc::channel();
        let play = |mut sender: Sender<u32>, receiver: Receiver<u32>, ring: Ring, serves: bool| {
            let mut next = 0;
            if serves {
                sender.send(0).unwrap();
            }
            while next < ROUNDS {
                while let Some(number) = receiver.receive() {
                    assert_eq!(number, next);
                    next += 1;
                    let _ = sender.send(number + u32::from(serves));
                }
                ring.announce_sleep();
                if receiver.is_empty() && next < ROUNDS {
                    let before = ring.counters().wakes;
                    ring.wait(Some(Duration::from_secs(5)));
                    let was_woken = ring.counters().wakes > before || !receiver.is_empty();
                    assert!(was_woken, "slept through message {next}");
                } else {
                    ring.stay_awake();
                }
            }
        };
        let other = thread::spawn(move || {
            let ring = Ring::new(RingOptions::default()).unwrap();
            give_waker.send(ring.waker()).unwrap();
            let (sender, receiver) = take_ends.recv().unwrap();
            play(sender, receiver, ring, false);
        });
        let ring = Ring::new(RingOptions::default()).unwrap();
        let (to_other, from_us) = mailbox(4, take_waker.recv().unwrap());
        let (to_us, from_other) = mailbox(4, ring.waker());
        give_ends.send((to_us, from_us)).unwrap();
        play(to_other, from_other, ring, true);
        other.join().unwrap();
    }

    #[test]
    fn a_core_that_is_awake_costs_no_signal() {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let waker = ring.waker();
        let (mut sender, receiver) = mailbox(64, waker.clone());
        (0..64).for_each(|number| sender.send(number).unwrap());
        assert_eq!(waker.signals(), 0);
        ring.announce_sleep();
        while receiver.receive().is_some() {}
        (0..64).for_each(|number| sender.send(number).unwrap());
        assert_eq!(waker.signals(), 1, "one signal for all");
        ring.wait(None);
        assert_eq!(ring.counters().wakes, 1);
    }
}
