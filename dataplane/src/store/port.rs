//! A disk for the slow paths (format, recovery, check), which are written as plain `async`
//! functions and driven by polling: nothing here ever waits for a waker.

use crate::disk::{Completion, Disk, Error, Info, Op, WriteData};
use crate::dma::{Buf, Pool, Slice};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Most writes that a slow path has in flight.
const WRITES_MAX: usize = 32;

/// A disk and the pool that its buffers come from.
pub(super) struct Port<'p> {
    inner: RefCell<Inner>,
    info: Info,
    pool: &'p Pool,
}

struct Inner {
    disk: Box<dyn Disk>,
    done: Vec<Completion>,
    /// Ended and not yet fetched by whoever submitted them.
    ended: Vec<Completion>,
    next_tag: u64,
    /// Writes that nobody waits for, and the first error among them.
    background: usize,
    failed: Result<(), Error>,
}

/// Tag of writes that nobody waits for.
const BACKGROUND: u64 = 0;

impl<'p> Port<'p> {
    pub(super) fn new(disk: Box<dyn Disk>, pool: &'p Pool) -> Self {
        let info = disk.info().clone();
        let inner = Inner {
            done: Vec::with_capacity(64),
            ended: Vec::new(),
            next_tag: 1,
            background: 0,
            failed: Ok(()),
            disk,
        };
        Self { inner: RefCell::new(inner), info, pool }
    }

    /// The disk back; nothing is in flight.
    pub(super) fn into_disk(self) -> Box<dyn Disk> {
        self.inner.into_inner().disk
    }

    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    /// A buffer of `len` bytes; waits for memory.
    pub(super) async fn buffer(&self, len: usize) -> Buf {
        std::future::poll_fn(|_| self.pool.alloc(len).map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Reads `len` bytes, at most the device's largest transfer.
    pub(super) async fn read(&self, offset: u64, len: usize) -> Result<Buf, Error> {
        let buf = self.buffer(len).await;
        match self.run(Op::Read { offset, buf }).await {
            (Op::Read { buf, .. }, Ok(())) => Ok(buf),
            (_, Err(error)) => Err(error),
            (op, Ok(())) => unreachable!("a read came back as {op:?}"),
        }
    }

    /// Writes the bytes of one block; not durable until flushed.
    pub(super) async fn write_block(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut buf = self.buffer(bytes.len()).await;
        buf.copy_from_slice(bytes);
        let data = WriteData::One(buf.freeze());
        self.run(Op::Write { offset, data, fua: false }).await.1
    }

    /// Starts a write that [`Port::flush`] waits for and reports on.
    pub(super) async fn write_background(&self, offset: u64, data: Slice) -> Result<(), Error> {
        let limit = WRITES_MAX.min(self.info.queue_depth);
        self.until(|inner| inner.background < limit).await;
        let mut inner = self.inner.borrow_mut();
        inner.failed?;
        inner.background += 1;
        let op = Op::Write { offset, data: WriteData::One(data), fua: false };
        inner.disk.submit(BACKGROUND, op);
        Ok(())
    }

    /// Waits for every background write.
    pub(super) async fn drain(&self) -> Result<(), Error> {
        self.until(|inner| inner.background == 0).await;
        self.inner.borrow().failed
    }

    /// Makes everything written so far durable.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.drain().await?;
        if !self.info.volatile_cache {
            return Ok(());
        }
        self.run(Op::Flush).await.1
    }

    /// Waits until nothing is in flight, however it ends: the disk may then be dropped.
    pub(super) async fn quiesce(&self) {
        self.until(|inner| inner.disk.in_flight() == 0).await;
    }

    async fn run(&self, op: Op) -> (Op, Result<(), Error>) {
        let depth = self.info.queue_depth;
        self.until(|inner| inner.disk.in_flight() < depth).await;
        let tag = {
            let mut inner = self.inner.borrow_mut();
            let tag = inner.next_tag;
            inner.next_tag += 1;
            inner.disk.submit(tag, op);
            tag
        };
        std::future::poll_fn(|_| {
            let mut inner = self.inner.borrow_mut();
            inner.poll();
            match inner.ended.iter().position(|completion| completion.tag == tag) {
                Some(at) => {
                    let completion = inner.ended.swap_remove(at);
                    Poll::Ready((completion.op, completion.result))
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    async fn until(&self, ready: impl Fn(&Inner) -> bool) {
        std::future::poll_fn(|_| {
            let mut inner = self.inner.borrow_mut();
            inner.poll();
            if ready(&inner) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Inner {
    fn poll(&mut self) {
        self.disk.poll(&mut self.done);
        for completion in self.done.drain(..) {
            if completion.tag == BACKGROUND {
                self.background -= 1;
                if completion.result.is_err() && self.failed.is_ok() {
                    self.failed = completion.result;
                }
            } else {
                self.ended.push(completion);
            }
        }
    }
}

/// Polls a slow path once.
pub(super) fn poll_once<T>(path: Pin<&mut (dyn Future<Output = T> + '_)>) -> Option<T> {
    match path.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Drives a slow path to its end.
pub(super) fn block_on<T>(path: impl Future<Output = T>) -> T {
    let mut path = std::pin::pin!(path);
    loop {
        if let Some(value) = poll_once(path.as_mut()) {
            return value;
        }
        std::thread::yield_now();
    }
}
