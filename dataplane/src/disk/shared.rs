//! One disk with several handles on one core: one to format it, another to mount it.

use super::{Completion, Disk, Info, Op, Tag};
use std::cell::RefCell;
use std::rc::Rc;

/// A handle; clones are handles to the same disk. Only one may have operations in flight.
pub struct Shared<D> {
    info: Info,
    disk: Rc<RefCell<D>>,
}

impl<D: Disk> Shared<D> {
    /// The first handle.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Self { info: disk.info().clone(), disk: Rc::new(RefCell::new(disk)) }
    }

    /// The disk itself, if this is the last handle.
    #[must_use]
    pub fn into_inner(self) -> Option<D> {
        Rc::into_inner(self.disk).map(RefCell::into_inner)
    }
}

impl<D> Clone for Shared<D> {
    fn clone(&self) -> Self {
        Self { info: self.info.clone(), disk: Rc::clone(&self.disk) }
    }
}

impl<D: Disk> Disk for Shared<D> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.borrow_mut().submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.disk.borrow_mut().poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.borrow().in_flight()
    }
}
