//! One ring, its owners, and their completion queues.

use super::Waker;
use crate::dma::Arena;
use bitfield_struct::bitfield;
use io_uring::cqueue::EntryMarker as CompletionMarker;
use io_uring::squeue::{Entry, EntryMarker};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{Builder, EnterFlags, IoUring, opcode};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

/// Most sets of sockets and files that share one ring; the last id is the ring's own.
pub const OWNERS_MAX: usize = 255;
const OWNER_RING: u8 = 255;

/// Largest memory that the kernel registers as one buffer.
const REGISTERED_CHUNK: usize = 1 << 30;

/// Sizes of a ring. Neither limits what may be in flight: more waits in memory.
#[derive(Debug, Clone, Copy)]
pub struct RingOptions {
    /// Submissions that fit between two system calls.
    pub submissions: u32,
    /// Completions that fit before they are reaped.
    pub completions: u32,
    /// Whether the kernel polls the device for completions, at each turn with something in flight:
    /// for reads and writes of block devices alone, and never to be slept in.
    pub polled: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { submissions: 512, completions: 4096, polled: false }
    }
}

/// Why a ring could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel has no io_uring.
    #[error("this kernel has no io_uring (Linux 6.1 or newer, CONFIG_IO_URING=y, is needed)")]
    Missing,
    /// The kernel's io_uring lacks what we need.
    #[error("this kernel's io_uring is too old: Linux 6.1 or newer is needed")]
    TooOld,
    /// io_uring is switched off for us.
    #[error(
        "io_uring is forbidden here: set `sysctl kernel.io_uring_disabled=0`, or add this user's \
         group to `kernel.io_uring_group`, or allow io_uring in the container's seccomp profile"
    )]
    Forbidden,
    /// Locked memory is too little, or there is none left.
    #[error("no memory for io_uring: raise `ulimit -l` (LimitMEMLOCK=) or free memory")]
    NoMemory,
    /// Anything else.
    #[error("cannot set up io_uring: {0}")]
    Other(io::Error),
}

/// What a ring has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// System calls made to submit and to fetch completions.
    pub enters: u64,
    /// Of those, calls that were allowed to sleep.
    pub waits: u64,
    /// Operations submitted.
    pub submitted: u64,
    /// Completions received.
    pub completed: u64,
    /// Signals received from other threads.
    pub wakes: u64,
    /// Operations that found the submission queue full and waited in memory.
    pub deferred: u64,
}

/// The io_uring of one core. Clones are handles to the same ring, for its sockets and disks.
///
/// Must be made on the thread that uses it.
#[derive(Clone)]
pub struct Ring(Rc<RefCell<Inner>>);

struct Inner {
    io: IoUring,
    backlog: VecDeque<Entry>,
    owners: Vec<Option<Inbox>>,
    /// Completions that an owner has not fetched yet.
    undelivered: usize,
    polled: bool,
    /// Operations of owners that have not completed.
    in_flight: usize,
    waker: Waker,
    waker_armed: bool,
    registered: Option<(usize, usize)>,
    counters: RingCounters,
}

#[derive(Default)]
struct Inbox {
    completions: VecDeque<Completed>,
    in_flight: usize,
}

/// What comes back from the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completed {
    pub(super) index: u32,
    pub(super) generation: u32,
    /// As the system call's result: negative is an error number.
    pub(super) result: i32,
    pub(super) flags: u32,
}

#[bitfield(u64)]
struct UserData {
    #[bits(8)]
    owner: u8,
    #[bits(24)]
    index: u32,
    #[bits(32)]
    generation: u32,
}

impl Ring {
    /// Sets up the ring of the calling thread.
    ///
    /// # Errors
    /// [`RingError`] says what the operator can do.
    pub fn new(options: RingOptions) -> Result<Self, RingError> {
        let mut builder = builder();
        if options.polled {
            builder.setup_iopoll();
        }
        let io = builder
            .setup_clamp()
            .setup_cqsize(options.completions)
            .build(options.submissions)
            .map_err(setup_error)?;
        let params = io.params();
        if !params.is_feature_nodrop() || !params.is_feature_ext_arg() {
            return Err(RingError::TooOld);
        }
        Ok(Self(Rc::new(RefCell::new(Inner {
            backlog: VecDeque::with_capacity(options.completions as usize),
            io,
            owners: Vec::new(),
            undelivered: 0,
            polled: options.polled,
            in_flight: 0,
            waker: Waker::new().map_err(RingError::Other)?,
            waker_armed: false,
            registered: None,
            counters: RingCounters::default(),
        }))))
    }

    /// Submits what is queued and fetches what has completed. Makes at most a few system calls, and
    /// none when there is nothing to submit and the kernel has nothing for us.
    ///
    /// Returns the number of completions that wait for their owners.
    pub fn turn(&self) -> usize {
        self.0.borrow_mut().turn()
    }

    /// First step to sleep: from now on [`Waker::wake`] signals. The caller then looks for messages
    /// once more, and calls [`Ring::wait`], or [`Ring::stay_awake`] if it found any.
    pub fn announce_sleep(&self) {
        self.0.borrow().waker.announce_sleep();
    }

    /// Takes [`Ring::announce_sleep`] back.
    pub fn stay_awake(&self) {
        self.0.borrow().waker.announce_awake();
    }

    /// Submits what is queued and sleeps until something completes, a [`Waker`] wakes us, or the
    /// time is over (`None`: never). Returns at once if completions wait for their owners.
    pub fn wait(&self, timeout: Option<Duration>) -> usize {
        let mut ring = self.0.borrow_mut();
        ring.wait(timeout);
        ring.waker.announce_awake();
        ring.undelivered
    }

    /// What other threads wake this core with.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.0.borrow().waker.clone()
    }

    /// What the ring has done so far.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        self.0.borrow().counters
    }

    /// Pins the arena for this ring, so that the kernel need not look up pages for each operation
    /// on a file. Optional. Takes as much memory as the arena is large.
    ///
    /// # Errors
    /// The kernel's: usually `ENOMEM`, for a limit on locked memory. The ring works without.
    pub fn register_arena(&self, arena: &Arena) -> io::Result<()> {
        let (start, len) = arena.mapping();
        let start = start.as_ptr() as usize;
        let chunks: Vec<libc::iovec> = (0..len)
            .step_by(REGISTERED_CHUNK)
            .map(|offset| libc::iovec {
                iov_base: (start + offset) as *mut libc::c_void,
                iov_len: REGISTERED_CHUNK.min(len - offset),
            })
            .collect();
        let mut ring = self.0.borrow_mut();
        // SAFETY: the arena stays mapped as long as the process lives.
        unsafe { ring.io.submitter().register_buffers(&chunks) }?;
        ring.registered = Some((start, len));
        Ok(())
    }

    /// A new owner of operations.
    pub(super) fn join(&self) -> Owner {
        let owners = &mut self.0.borrow_mut().owners;
        let id = owners.iter().position(Option::is_none).unwrap_or(owners.len());
        assert!(id < OWNERS_MAX, "at most {OWNERS_MAX} users of a ring");
        if id == owners.len() {
            owners.push(None);
        }
        owners[id] = Some(Inbox::default());
        Owner { ring: self.clone(), id: id as u8 }
    }
}

/// One user of a ring: a set of sockets or a file.
pub(super) struct Owner {
    ring: Ring,
    id: u8,
}

impl Owner {
    /// Queues an operation; `index` (24 bits) and `generation` come back with its completion.
    ///
    /// # Safety
    /// Whatever memory and file descriptor `entry` names must stay valid until its last completion
    /// has been fetched, or [`Owner::drain`] has returned.
    pub(super) unsafe fn push(&self, index: u32, generation: u32, entry: Entry) {
        let user_data = UserData::new()
            .with_owner(self.id)
            .with_index(index)
            .with_generation(generation)
            .into_bits();
        let mut ring = self.ring.0.borrow_mut();
        ring.inbox(self.id).in_flight += 1;
        ring.in_flight += 1;
        ring.push(entry.user_data(user_data));
    }

    /// Queues a request to cancel an operation of this owner. It completes soon, by itself or with
    /// `ECANCELED`.
    pub(super) fn cancel(&self, index: u32, generation: u32) {
        let target = UserData::new()
            .with_owner(self.id)
            .with_index(index)
            .with_generation(generation)
            .into_bits();
        let own = UserData::new().with_owner(OWNER_RING).with_index(RingOp::Cancel as u32);
        let entry = opcode::AsyncCancel::new(target).build().user_data(own.into_bits());
        self.ring.0.borrow_mut().push(entry);
    }

    /// The next completion.
    pub(super) fn pop(&self) -> Option<Completed> {
        let mut ring = self.ring.0.borrow_mut();
        let completed = ring.inbox(self.id).completions.pop_front()?;
        ring.undelivered -= 1;
        Some(completed)
    }

    /// Which registered buffer holds this memory, if the arena is registered.
    pub(super) fn registered(&self, start: *const u8, len: usize) -> Option<u16> {
        let (arena, arena_len) = self.ring.0.borrow().registered?;
        let offset = (start as usize).checked_sub(arena)?;
        let chunk = offset / REGISTERED_CHUNK;
        let within = offset + len <= arena_len && (offset + len - 1) / REGISTERED_CHUNK == chunk;
        within.then_some(chunk as u16)
    }

    /// Waits until the kernel holds nothing of this owner; completions are thrown away.
    pub(super) fn drain(&self) {
        let mut ring = self.ring.0.borrow_mut();
        while ring.inbox(self.id).in_flight > 0 {
            ring.enter(1, None);
            ring.reap();
        }
        let thrown_away = std::mem::take(&mut ring.inbox(self.id).completions).len();
        ring.undelivered -= thrown_away;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut ring = self.ring.0.borrow_mut();
        let inbox = ring.owners[usize::from(self.id)].take().expect("each owner leaves once");
        assert_eq!(inbox.in_flight, 0, "an owner drains before it leaves");
        ring.undelivered -= inbox.completions.len();
    }
}

/// What the ring itself submits.
#[derive(Clone, Copy)]
enum RingOp {
    Wake,
    Cancel,
}

impl Inner {
    fn inbox(&mut self, owner: u8) -> &mut Inbox {
        self.owners[usize::from(owner)].as_mut().expect("an owner that has not left")
    }

    fn push(&mut self, entry: Entry) {
        // SAFETY: the owner vouches for what the entry names.
        let queued =
            self.backlog.is_empty() && unsafe { self.io.submission().push(&entry) }.is_ok();
        if !queued {
            self.counters.deferred += 1;
            self.backlog.push_back(entry);
        }
    }

    /// Moves what waits in memory to the submission queue, and returns how many wait there.
    fn fill(&mut self) -> usize {
        let mut queue = self.io.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the owner vouches for what the entry names.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
        queue.len()
    }

    fn turn(&mut self) -> usize {
        loop {
            let before = self.backlog.len();
            let pending = self.fill();
            let queue = self.io.submission();
            let kernel_has_work = queue.taskrun() || queue.cq_overflow();
            drop(queue);
            if pending > 0 || kernel_has_work || (self.polled && self.in_flight > 0) {
                self.enter(0, None);
            }
            self.reap();
            if self.backlog.is_empty() || self.backlog.len() == before {
                return self.undelivered;
            }
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        assert!(!self.polled, "nothing wakes whoever sleeps here");
        self.reap();
        if self.undelivered > 0 || !self.backlog.is_empty() {
            self.turn();
            return;
        }
        self.arm_waker();
        self.counters.waits += 1;
        self.enter(1, timeout);
        self.reap();
    }

    fn arm_waker(&mut self) {
        if self.waker_armed {
            return;
        }
        let Some(event) = self.waker.event() else { return };
        let own = UserData::new().with_owner(OWNER_RING).with_index(RingOp::Wake as u32);
        let entry = opcode::PollAdd::new(Fd(event.as_raw_fd()), libc::POLLIN as u32)
            .build()
            .user_data(own.into_bits());
        self.push(entry);
        self.fill();
        self.waker_armed = true;
    }

    /// One system call: submits all, runs what the kernel deferred, waits for `want` completions.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) {
        let pending = self.fill() as u32;
        self.counters.enters += 1;
        let flags = EnterFlags::GETEVENTS;
        let entered = match timeout {
            Some(time) => {
                let time = Timespec::from(time);
                let args = SubmitArgs::new().timespec(&time);
                let flags = flags | EnterFlags::EXT_ARG;
                // SAFETY: the arguments outlive the call, and are what the flag announces.
                let entered =
                    unsafe { self.io.submitter().enter(pending, want, flags.bits(), Some(&args)) };
                match entered {
                    Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(0),
                    entered => entered,
                }
            }
            None => {
                let no_mask = None::<&libc::sigset_t>;
                // SAFETY: without arguments there is nothing to be invalid.
                unsafe { self.io.submitter().enter(pending, want, flags.bits(), no_mask) }
            }
        };
        self.counters.submitted += check_entered(entered) as u64;
    }

    fn reap(&mut self) {
        for entry in self.io.completion() {
            let user_data = UserData::from_bits(entry.user_data());
            self.counters.completed += 1;
            if user_data.owner() == OWNER_RING {
                if user_data.index() == RingOp::Wake as u32 {
                    self.waker_armed = false;
                    self.counters.wakes += 1;
                    self.waker.clear();
                }
                continue;
            }
            let inbox = self.owners[usize::from(user_data.owner())].as_mut();
            let inbox = inbox.expect("an owner drains before it leaves");
            let has_ended = !io_uring::cqueue::more(entry.flags());
            inbox.in_flight -= usize::from(has_ended);
            self.in_flight -= usize::from(has_ended);
            inbox.completions.push_back(Completed {
                index: user_data.index(),
                generation: user_data.generation(),
                result: entry.result(),
                flags: entry.flags(),
            });
            self.undelivered += 1;
        }
    }
}

/// What all rings have in common: one thread submits and fetches, and only when it wants to.
pub(super) fn builder<S: EntryMarker, C: CompletionMarker>() -> Builder<S, C> {
    let mut builder = IoUring::<S, C>::builder();
    builder
        .dontfork()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_defer_taskrun()
        .setup_submit_all();
    builder
}

/// How many submissions the kernel took. It took none if it was interrupted, or wants to be asked
/// again when completions have been reaped.
pub(super) fn check_entered(entered: io::Result<usize>) -> usize {
    entered.unwrap_or_else(|error| {
        let number = error.raw_os_error();
        assert!(
            matches!(number, Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM)),
            "io_uring_enter refuses what we built: {error}"
        );
        0
    })
}

pub(super) fn setup_error(error: io::Error) -> RingError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing,
        Some(libc::EINVAL) => RingError::TooOld,
        Some(libc::EPERM | libc::EACCES) => RingError::Forbidden,
        Some(libc::ENOMEM) => RingError::NoMemory,
        _ => RingError::Other(error),
    }
}

#[cfg(test)]
mod tests;
