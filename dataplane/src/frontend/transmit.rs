//! Gathers a connection's output into one send.

use crate::dma::{Buf, PAGE, Pool, Slice};
use crate::net::{Tx, TxPart};
use std::ops::Range;
use target_io::{BURST_PDU_BYTES_COPIED_MAX, BURST_PDUS_MAX, PDU_BYTES_COPIED_MAX, TxSink};

/// Bytes of headers in one send.
const HEADS_MAX: usize = 4 * PAGE;
/// Buffers for headers in reserve.
const RESERVE_MAX: usize = 8;
/// Pieces in one send.
const PARTS_MAX: usize = 512;

/// Buffers for headers that are kept for when the pool has none, so that answers go out and the
/// buffers of their commands come back.
#[derive(Default)]
pub(super) struct Reserve(Vec<Buf>);

impl Reserve {
    /// Takes buffers up to the full number, if there are any.
    pub(super) fn fill(&mut self, pool: &Pool) {
        while self.0.len() < RESERVE_MAX
            && let Some(heads) = pool.alloc(HEADS_MAX)
        {
            self.0.push(heads);
        }
    }

    /// Takes back the headers of a send.
    pub(super) fn give(&mut self, heads: Buf) {
        if self.0.len() < RESERVE_MAX {
            self.0.push(heads);
        }
    }
}

const _: () = assert!(BURST_PDUS_MAX * BURST_PDU_BYTES_COPIED_MAX <= HEADS_MAX);
const _: () = assert!(2 * BURST_PDUS_MAX < PARTS_MAX);

/// A send under construction.
pub(super) struct Gather {
    tx: Tx,
    used: usize,
    /// The buffer of which parts are sent.
    shared: Option<Slice>,
}

impl Gather {
    /// An empty send that reuses the parts of the last, which come back when there is no buffer
    /// now.
    pub(super) fn new(
        pool: &Pool,
        reserve: &mut Reserve,
        mut parts: Vec<TxPart>,
    ) -> Result<Self, Vec<TxPart>> {
        parts.clear();
        let Some(heads) = pool.alloc(HEADS_MAX).or_else(|| reserve.0.pop()) else {
            return Err(parts);
        };
        Ok(Self { tx: Tx { heads, parts }, used: 0, shared: None })
    }

    /// What was gathered.
    pub(super) fn finish(self) -> Gathered {
        if self.tx.parts.is_empty() {
            Gathered::Nothing(self.tx.parts)
        } else {
            Gathered::Send(self.tx)
        }
    }
}

/// The outcome of gathering.
pub(super) enum Gathered {
    /// Something to send.
    Send(Tx),
    /// Nothing to send; the parts for the next time.
    Nothing(Vec<TxPart>),
}

impl TxSink<Buf> for Gather {
    fn has_room(&self) -> bool {
        self.used + PDU_BYTES_COPIED_MAX <= HEADS_MAX && self.tx.parts.len() + 4 <= PARTS_MAX
    }

    fn has_room_for(&self, pdus: usize) -> bool {
        self.used + pdus * BURST_PDU_BYTES_COPIED_MAX <= HEADS_MAX
            && self.tx.parts.len() + 2 * pdus < PARTS_MAX
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        assert!(end <= HEADS_MAX, "a PDU is given only when there is room for it");
        self.tx.heads[self.used..end].copy_from_slice(bytes);
        match self.tx.parts.last_mut() {
            Some(TxPart::Head(range)) if range.end as usize == self.used => {
                range.end = end as u32;
            }
            _ => self.tx.parts.push(TxPart::Head(self.used as u32..end as u32)),
        }
        self.used = end;
    }

    fn data(&mut self, buf: Buf, range: Range<usize>) {
        self.tx.parts.push(TxPart::Data(buf.freeze().narrow(range.start, range.len())));
    }

    fn share(&mut self, buf: Buf) {
        self.shared = Some(buf.freeze());
    }

    fn part(&mut self, range: Range<usize>) {
        let shared = self.shared.as_ref().expect("a buffer is shared before its parts");
        self.tx.parts.push(TxPart::Data(shared.slice(range.start, range.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;

    #[test]
    fn adjacent_headers_are_one_part_and_data_keep_their_place() {
        let pool = Arena::new(1 << 21, 1).unwrap().pool(0);
        let mut gather = Gather::new(&pool, &mut Reserve::default(), Vec::new()).ok().unwrap();
        gather.bytes(b"one");
        gather.bytes(b"two");
        let mut buf = pool.alloc(PAGE).unwrap();
        buf.fill(9);
        gather.data(buf, 512..1024);
        gather.bytes(b"three");
        let Gathered::Send(tx) = gather.finish() else { panic!("there is something to send") };
        let sent: Vec<u8> = tx
            .parts
            .iter()
            .flat_map(|part| match part {
                TxPart::Head(range) => tx.heads[range.start as usize..range.end as usize].to_vec(),
                TxPart::Data(slice) => slice.to_vec(),
            })
            .collect();
        let expected = [b"onetwo".as_slice(), &[9; 512], b"three"].concat();
        assert_eq!(sent, expected);
        assert_eq!(tx.parts.len(), 3);
    }

    #[test]
    fn where_there_is_room_the_largest_pdu_fits() {
        let pool = Arena::new(1 << 21, 1).unwrap().pool(0);
        let mut gather = Gather::new(&pool, &mut Reserve::default(), Vec::new()).ok().unwrap();
        let held = pool.available();
        let mut given = 0;
        while gather.has_room() {
            gather.bytes(&[5; PDU_BYTES_COPIED_MAX]);
            given += 1;
        }
        assert!(given > 1);
        assert_eq!(pool.available(), held, "headers are in one buffer");
    }
    #[test]
    fn an_empty_pool_leaves_headers_in_reserve() {
        let pool = Arena::new(1 << 21, 1).unwrap().pool(0);
        let mut reserve = Reserve::default();
        reserve.fill(&pool);
        let rest: Vec<_> = std::iter::from_fn(|| pool.alloc(PAGE)).collect();
        let mut gathers: Vec<_> =
            std::iter::from_fn(|| Gather::new(&pool, &mut reserve, Vec::new()).ok()).collect();
        assert_eq!(gathers.len(), RESERVE_MAX);
        let mut last = gathers.pop().unwrap();
        last.bytes(b"x");
        let Gathered::Send(tx) = last.finish() else { panic!("there is something to send") };
        reserve.give(tx.heads);
        assert!(Gather::new(&pool, &mut reserve, Vec::new()).is_ok());
        drop(rest);
    }
}
