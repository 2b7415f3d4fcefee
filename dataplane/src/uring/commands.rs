//! Reads and writes of an NVMe namespace that reach the kernel's driver past its block layer, by
//! its generic device (`/dev/ng0n1`, Linux 6.1).
//!
//! A ring of their own: its entries are twice as large. Nothing is split, queued or tried again by
//! the kernel on this way, and nobody sleeps here: whoever has something in flight polls.
//!
//! It is never polled by the kernel (`IORING_SETUP_IOPOLL`), even where there are queues without
//! interrupts: of a process that was killed Linux 6.12 has kept such rings for more than a minute,
//! and with them the lock.
//!
//! The lock of a namespace is on its block device, of which commands know nothing. The ring keeps
//! that file too, as one that is registered: the kernel lets it go after the last command has
//! ended, also when the process is killed, so that no late write meets the next owner.

use super::passthrough::NvmeCommand;
use super::ring::{RingError, builder, check_entered, setup_error};
use crate::disk::{Op, Tag, WriteData};
use io_uring::cqueue::Entry32;
use io_uring::squeue::Entry128;
use io_uring::types::Fd;
use io_uring::{EnterFlags, IoUring, opcode};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use storage_spec::nvme::command::{IoDword12, NvmOpcode};
use zerocopy::{FromZeros, IntoBytes};

/// `NVME_URING_CMD_IO`: `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const NVME_COMMAND: u32 = 0xc048_4e80;

/// What commands name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandTarget {
    pub(crate) nsid: u32,
    /// log2 of a logical block's bytes.
    pub(crate) block_shift: u8,
    /// Most bytes of a command.
    pub(crate) transfer_max: usize,
    /// Whether a write may ask for Force Unit Access.
    pub(crate) fua: bool,
}

/// A command that has ended.
pub(crate) struct CommandDone {
    pub(crate) tag: Tag,
    pub(crate) op: Op,
    /// 0 if it succeeded; the device's status, or an error number, negative.
    pub(crate) result: i32,
}

/// A namespace with its commands in flight, on the thread that made it.
pub(crate) struct CommandQueue {
    io: IoUring<Entry128, Entry32>,
    device: Arc<OwnedFd>,
    target: CommandTarget,
    /// Where offset 0 of the operations lies, in bytes.
    base: u64,
    slots: Vec<Option<(Tag, Op)>>,
    free: Vec<u32>,
}

impl CommandQueue {
    /// `device`: the generic device. `lock`: the file whose lock is held as long as a command is in
    /// flight. `base`: where offset 0 of the operations lies, in bytes. At most `depth` operations
    /// may be in flight.
    ///
    /// # Errors
    /// The kernel has no such rings, or no room for one.
    pub(crate) fn new(
        (device, lock): (Arc<OwnedFd>, &OwnedFd),
        target: CommandTarget,
        base: u64,
        depth: usize,
    ) -> Result<Self, RingError> {
        let io = builder::<Entry128, Entry32>()
            .build(depth.next_power_of_two() as u32)
            .map_err(setup_error)?;
        io.submitter().register_files(&[lock.as_raw_fd()]).map_err(setup_error)?;
        let (slots, free) = ((0..depth).map(|_| None).collect(), (0..depth as u32).rev().collect());
        Ok(Self { io, device, target, base, slots, free })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether an operation can go this way: one buffer, and one command.
    pub(crate) fn takes(&self, op: &Op) -> bool {
        match op {
            Op::Read { buf, .. } => buf.len() <= self.target.transfer_max,
            Op::Write { data: WriteData::One(data), fua, .. } => {
                data.len() <= self.target.transfer_max && (!fua || self.target.fua)
            }
            _ => false,
        }
    }

    /// Queues an operation that [`CommandQueue::takes`] for the next turn.
    pub(crate) fn submit(&mut self, tag: Tag, mut op: Op) {
        assert!(self.takes(&op));
        let index = self.free.pop().expect("no more in flight than the queue is deep");
        let command = self.command(&mut op);
        self.slots[index as usize] = Some((tag, op));
        // What is left of an entry means nothing.
        let mut bytes = [0; 80];
        bytes[..size_of::<NvmeCommand>()].copy_from_slice(command.as_bytes());
        let fd = Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, NVME_COMMAND).cmd(bytes).build();
        let entry = entry.user_data(u64::from(index));
        // SAFETY: the slot keeps the buffer, and `self` the device, until the completion has been
        // fetched; see `Drop`.
        let pushed = unsafe { self.io.submission().push(&entry) };
        pushed.expect("the ring has an entry for each slot");
    }

    /// Hands commands to the kernel and takes what has ended: one system call, or none if there is
    /// neither.
    pub(crate) fn turn(&mut self) {
        let queue = self.io.submission();
        let (pending, has_work) = (queue.len() as u32, queue.taskrun() || queue.cq_overflow());
        drop(queue);
        if pending > 0 || has_work {
            self.enter(pending, 0);
        }
    }

    /// The next operation that has ended.
    pub(crate) fn next(&mut self) -> Option<CommandDone> {
        let entry = self.io.completion().next()?;
        let index = entry.user_data() as u32;
        let (tag, op) = self.slots[index as usize].take().expect("a completion has its operation");
        self.free.push(index);
        Some(CommandDone { tag, op, result: entry.result() })
    }

    fn command(&self, op: &mut Op) -> NvmeCommand {
        let (opcode, offset, address, len, fua) = match op {
            Op::Read { offset, buf } => {
                let address = buf.as_device_ptr().as_ptr() as u64;
                (NvmOpcode::Read, *offset, address, buf.len(), false)
            }
            Op::Write { offset, data: WriteData::One(data), fua } => {
                (NvmOpcode::Write, *offset, data.as_ptr() as u64, data.len(), *fua)
            }
            _ => unreachable!("only what it takes"),
        };
        let lba = (self.base + offset) >> self.target.block_shift;
        let blocks = len >> self.target.block_shift;
        let dword_12 =
            IoDword12::new().with_blocks_z((blocks - 1) as u16).with_force_unit_access(fua);
        NvmeCommand {
            opcode: opcode.0,
            nsid: self.target.nsid,
            address,
            data_len: len as u32,
            cdw10: lba as u32,
            cdw11: (lba >> 32) as u32,
            cdw12: dword_12.into(),
            ..NvmeCommand::new_zeroed()
        }
    }

    fn enter(&self, pending: u32, want: u32) {
        let (flags, no_mask) = (EnterFlags::GETEVENTS.bits(), None::<&libc::sigset_t>);
        // SAFETY: without arguments there is nothing to be invalid.
        let entered = unsafe { self.io.submitter().enter(pending, want, flags, no_mask) };
        let _ = check_entered(entered);
    }
}

impl Drop for CommandQueue {
    /// Waits until the kernel holds no buffer; the driver ends what the device does not.
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            let pending = self.io.submission().len() as u32;
            self.enter(pending, 1);
            while self.next().is_some() {}
        }
        // At once: the kernel takes its time to take a ring apart.
        let _ = self.io.submitter().unregister_files();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    use std::fs::File;

    /// Of a pipe, which takes no commands; `None` where the kernel has no such rings.
    fn queue(transfer_max: usize, fua: bool) -> Option<CommandQueue> {
        locked_queue(&OwnedFd::from(std::io::pipe().unwrap().0), transfer_max, fua)
    }

    fn locked_queue(lock: &OwnedFd, transfer_max: usize, fua: bool) -> Option<CommandQueue> {
        let device = Arc::new(OwnedFd::from(std::io::pipe().unwrap().0));
        let target = CommandTarget { nsid: 7, block_shift: 9, transfer_max, fua };
        CommandQueue::new((device, lock), target, 1 << 41, 4).ok()
    }

    #[test]
    fn commands_name_blocks_and_bytes() {
        let Some(queue) = queue(1 << 20, true) else { return };
        let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
        let mut read = Op::Read { offset: 512, buf: pool.alloc(8192).unwrap() };
        let command = queue.command(&mut read);
        let lba = u64::from(command.cdw11) << 32 | u64::from(command.cdw10);
        assert_eq!((command.opcode, command.nsid, lba), (2, 7, (1 << 32) + 1));
        assert_eq!((command.cdw12, command.data_len, command.metadata_len), (15, 8192, 0));
        let data = WriteData::One(pool.alloc(4096).unwrap().freeze().slice(1024, 512));
        let start = data.segments()[0].as_ptr() as u64;
        let mut write = Op::Write { offset: 0, data, fua: true };
        let command = queue.command(&mut write);
        assert_eq!((command.opcode, command.address, command.data_len), (1, start, 512));
        assert_eq!(command.cdw12, 1 << 30);
    }

    #[test]
    fn what_is_no_single_command_goes_another_way() {
        let Some(queue) = queue(8192, false) else { return };
        let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
        let read = |len| Op::Read { offset: 0, buf: pool.alloc(len).unwrap() };
        assert!(queue.takes(&read(8192)) && !queue.takes(&read(12288)));
        let data = pool.alloc(4096).unwrap().freeze();
        let one = |fua| Op::Write { offset: 0, data: WriteData::One(data.clone()), fua };
        assert!(queue.takes(&one(false)) && !queue.takes(&one(true)));
        let data = WriteData::Many(vec![data.clone(), data.clone()]);
        assert!(!queue.takes(&Op::Write { offset: 0, data, fua: false }));
        assert!(!queue.takes(&Op::Flush));
        assert!(!queue.takes(&Op::Deallocate { offset: 0, len: 4096 }));
    }

    #[test]
    fn what_is_no_generic_device_refuses() {
        let Some(mut queue) = queue(8192, false) else { return };
        let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
        queue.submit(3, Op::Read { offset: 0, buf: pool.alloc(4096).unwrap() });
        let done = loop {
            queue.turn();
            if let Some(done) = queue.next() {
                break done;
            }
        };
        assert_eq!((done.tag, queue.in_flight()), (3, 0));
        assert_eq!(done.result, -libc::EOPNOTSUPP);
        queue.submit(4, done.op);
        drop(queue);
        assert_eq!(pool.available(), pool.size());
    }

    #[test]
    fn a_lock_is_held_as_long_as_the_ring_is_there() {
        let name = format!("commands-lock-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let open = || OwnedFd::from(File::create(&path).unwrap());
        let lock = |file: &OwnedFd| flock(file, FlockOperation::NonBlockingLockExclusive);
        let (first, second) = (open(), open());
        lock(&first).unwrap();
        let queue = locked_queue(&first, 8192, false);
        drop(first);
        if let Some(queue) = queue {
            assert_eq!(lock(&second), Err(Errno::WOULDBLOCK), "the owner may have been killed");
            drop(queue);
        }
        while lock(&second).is_err() {
            std::thread::yield_now();
        }
        std::fs::remove_file(&path).unwrap();
    }
}
