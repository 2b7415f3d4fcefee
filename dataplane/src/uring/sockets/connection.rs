//! One connected socket: what it receives into and sends from, where the kernel finds it.

use crate::net::{Rx, Tx, TxPart};
use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use std::os::fd::{AsRawFd, OwnedFd};

/// Most pieces that one system call takes (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

/// Pieces for which a connection has room from the start.
const PIECES_USUAL: usize = 64;

/// `IORING_RECVSEND_POLL_FIRST`: wait for data before the first try.
const POLL_FIRST: u16 = 1;

/// A place for one connection after another. Boxed, so that the kernel finds its headers in place.
pub(super) struct Slot {
    /// Distinguishes the connections that this place has had.
    pub(super) generation: u32,
    pub(super) connection: Option<Connection>,
    receive_header: libc::msghdr,
    receive_pieces: [libc::iovec; 2],
    send_header: libc::msghdr,
    send_pieces: Vec<libc::iovec>,
}

pub(super) struct Connection {
    pub(super) fd: OwnedFd,
    pub(super) rx: Option<Rx>,
    pub(super) tx: Option<Sending>,
    /// The last receive took all that had arrived.
    pub(super) drained: bool,
}

/// A send in progress.
pub(super) struct Sending {
    pub(super) tx: Tx,
    /// First part that has not gone whole, and how many of its bytes have.
    part: usize,
    skip: usize,
}

impl Slot {
    pub(super) fn new() -> Box<Self> {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Self {
            generation: 0,
            connection: None,
            receive_header: empty_header(),
            receive_pieces: [none; 2],
            send_header: empty_header(),
            send_pieces: Vec::with_capacity(PIECES_USUAL),
        })
    }

    /// Says where the buffers of [`Connection::rx`] are. Returns how many of the pieces count.
    fn prepare_receive(&mut self) -> usize {
        let connection = self.connection.as_mut().expect("a receive is on a connection");
        let rx = connection.rx.as_mut().expect("a receive has its buffers");
        let staging = libc::iovec {
            iov_base: rx.staging.as_device_ptr().as_ptr().cast(),
            iov_len: rx.staging.len(),
        };
        let Some((buf, range)) = rx.landing.as_mut().filter(|(_, range)| !range.is_empty()) else {
            self.receive_pieces[0] = staging;
            return 1;
        };
        assert!(range.end <= buf.len(), "the landing range is within its buffer");
        let landing = buf.as_device_ptr().as_ptr().wrapping_add(range.start);
        self.receive_pieces =
            [libc::iovec { iov_base: landing.cast(), iov_len: range.len() }, staging];
        self.receive_header.msg_iov = self.receive_pieces.as_mut_ptr();
        self.receive_header.msg_iovlen = 2;
        2
    }

    /// The operation that fills the buffers of [`Connection::rx`].
    pub(super) fn receive_entry(&mut self) -> Entry {
        let pieces = self.prepare_receive();
        let connection = self.connection.as_ref().expect("a receive is on a connection");
        let fd = Fd(connection.fd.as_raw_fd());
        let ioprio = if connection.drained { POLL_FIRST } else { 0 };
        if pieces == 1 {
            let libc::iovec { iov_base, iov_len } = self.receive_pieces[0];
            return opcode::Recv::new(fd, iov_base.cast(), iov_len as u32).ioprio(ioprio).build();
        }
        opcode::RecvMsg::new(fd, &raw mut self.receive_header).ioprio(ioprio).build()
    }

    /// Fills the buffers of [`Connection::rx`] with what has arrived; `None` if nothing has. The
    /// result is as that of the operation.
    pub(super) fn receive_now(&mut self) -> Option<i32> {
        let pieces = self.prepare_receive();
        let connection = self.connection.as_mut().expect("a receive is on a connection");
        let fd = connection.fd.as_raw_fd();
        let room: usize = self.receive_pieces[..pieces].iter().map(|piece| piece.iov_len).sum();
        let libc::iovec { iov_base, iov_len } = self.receive_pieces[0];
        // SAFETY: the buffers are the connection's receive's, which nobody else has meanwhile.
        let received = unsafe {
            if pieces == 1 {
                libc::recv(fd, iov_base, iov_len, libc::MSG_DONTWAIT)
            } else {
                libc::recvmsg(fd, &raw mut self.receive_header, libc::MSG_DONTWAIT)
            }
        };
        if received < 0 {
            let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return (error != libc::EAGAIN && error != libc::EINTR).then_some(-error);
        }
        connection.drained = (received as usize) < room;
        Some(received as i32)
    }

    /// The operation that sends what is left of [`Connection::tx`], or as much as one takes.
    pub(super) fn send_entry(&mut self) -> Entry {
        let connection = self.connection.as_ref().expect("a send is on a connection");
        let fd = Fd(connection.fd.as_raw_fd());
        let sending = connection.tx.as_ref().expect("a send has its data");
        sending.gather(&mut self.send_pieces);
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        if let [piece] = self.send_pieces[..] {
            let (start, len) = (piece.iov_base.cast_const().cast(), piece.iov_len as u32);
            return opcode::Send::new(fd, start, len).flags(flags as i32).build();
        }
        self.send_header.msg_iov = self.send_pieces.as_mut_ptr();
        self.send_header.msg_iovlen = self.send_pieces.len() as _;
        opcode::SendMsg::new(fd, &raw const self.send_header).flags(flags).build()
    }
}

impl Connection {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, rx: None, tx: None, drained: false }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.rx.is_none() && self.tx.is_none()
    }
}

impl Sending {
    pub(super) fn new(tx: Tx) -> Self {
        assert!(tx.parts.iter().any(|part| part_len(part) > 0), "a send has at least one byte");
        Self { tx, part: 0, skip: 0 }
    }

    /// Accounts for bytes that have gone; true when all have.
    pub(super) fn advance(&mut self, mut sent: usize) -> bool {
        while let Some(part) = self.tx.parts.get(self.part) {
            let left = part_len(part) - self.skip;
            if sent < left {
                self.skip += sent;
                return false;
            }
            sent -= left;
            self.skip = 0;
            self.part += 1;
        }
        assert_eq!(sent, 0, "no more goes than was given");
        true
    }

    /// Lists what has not gone, adjacent heads as one, as much as one system call takes.
    fn gather(&self, pieces: &mut Vec<libc::iovec>) {
        pieces.clear();
        let mut skip = self.skip;
        for part in &self.tx.parts[self.part..] {
            let bytes = match part {
                TxPart::Head(range) => &self.tx.heads[range.start as usize..range.end as usize],
                TxPart::Data(data) => &data[..],
            };
            let bytes = &bytes[std::mem::take(&mut skip)..];
            let start = bytes.as_ptr();
            let is_full = pieces.len() == PIECES_MAX;
            match pieces.last_mut() {
                _ if bytes.is_empty() => {}
                Some(last) if ends_at(last, start) => last.iov_len += bytes.len(),
                _ if is_full => return,
                _ => pieces
                    .push(libc::iovec { iov_base: start.cast_mut().cast(), iov_len: bytes.len() }),
            }
        }
    }
}

fn part_len(part: &TxPart) -> usize {
    match part {
        TxPart::Head(range) => range.len(),
        TxPart::Data(data) => data.len(),
    }
}

fn ends_at(piece: &libc::iovec, start: *const u8) -> bool {
    piece.iov_base.cast_const().cast::<u8>().wrapping_add(piece.iov_len) == start
}

fn empty_header() -> libc::msghdr {
    // SAFETY: a header of zeroes names nothing.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{Arena, Pool};
    use proptest::prelude::*;

    /// A send of these parts: heads where `true`, of these lengths.
    fn send_of(pool: &Pool, parts: &[(bool, usize)]) -> (Tx, Vec<u8>) {
        let mut heads = pool.alloc(64 << 10).unwrap();
        heads.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
        let mut data = pool.alloc(64 << 10).unwrap();
        data.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 241) as u8);
        let data = data.freeze();
        let (mut head_at, mut data_at, mut expected) = (0, 0, Vec::new());
        let mut list = Vec::new();
        for &(is_head, len) in parts {
            if is_head {
                expected.extend_from_slice(&heads[head_at..head_at + len]);
                list.push(TxPart::Head(head_at as u32..(head_at + len) as u32));
                head_at += len;
            } else {
                expected.extend_from_slice(&data[data_at..data_at + len]);
                list.push(TxPart::Data(data.slice(data_at, len)));
                data_at += len + 3;
            }
        }
        (Tx { heads, parts: list }, expected)
    }

    fn bytes_of(pieces: &[libc::iovec]) -> Vec<u8> {
        let slice = |piece: &libc::iovec| {
            // SAFETY: made by `gather` from a send that is still there.
            unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) }
        };
        pieces.iter().flat_map(slice).copied().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_the_kernel_takes_each_byte_goes_once(
            parts in prop::collection::vec((any::<bool>(), 0..40usize), 1..1300),
            takes in prop::collection::vec(1..3000usize, 1..50),
        ) {
            prop_assume!(parts.iter().any(|&(_, len)| len > 0));
            let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
            let (tx, expected) = send_of(&pool, &parts);
            let mut sending = Sending::new(tx);
            let (mut gone, mut pieces) = (Vec::new(), Vec::new());
            for take in takes.iter().cycle() {
                sending.gather(&mut pieces);
                prop_assert!(pieces.len() <= PIECES_MAX);
                let offered = bytes_of(&pieces);
                prop_assert!(!offered.is_empty());
                let take = *take.min(&offered.len());
                gone.extend_from_slice(&offered[..take]);
                if sending.advance(take) {
                    break;
                }
                prop_assert!(gone.len() < expected.len());
            }
            prop_assert!(gone == expected);
        }
    }

    #[test]
    fn adjacent_heads_are_one_piece() {
        let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
        let parts = [(true, 8), (true, 16), (false, 100), (true, 24), (true, 0), (true, 1)];
        let (tx, _) = send_of(&pool, &parts);
        let mut pieces = Vec::new();
        Sending::new(tx).gather(&mut pieces);
        let lens: Vec<usize> = pieces.iter().map(|piece| piece.iov_len).collect();
        assert_eq!(lens, [24, 100, 25]);
    }
}
