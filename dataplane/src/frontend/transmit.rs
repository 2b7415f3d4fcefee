//! Gathers a connection's output into one send.

use crate::dma::{Buf, PAGE, Pool};
use crate::net::{Tx, TxPart};
use nvmeof_target::io::{PDU_BYTES_COPIED_MAX, TxSink};
use std::ops::Range;

/// Bytes of headers in one send.
const HEADS_MAX: usize = 4 * PAGE;
/// Pieces in one send.
const PARTS_MAX: usize = 512;

/// A send under construction.
pub(super) struct Gather {
    tx: Tx,
    used: usize,
}

impl Gather {
    /// An empty send that reuses the parts of the last, which come back when there is no buffer
    /// now.
    pub(super) fn new(pool: &Pool, mut parts: Vec<TxPart>) -> Result<Self, Vec<TxPart>> {
        parts.clear();
        let Some(heads) = pool.alloc(HEADS_MAX) else { return Err(parts) };
        Ok(Self { tx: Tx { heads, parts }, used: 0 })
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
        self.tx.parts.push(TxPart::Data(buf.freeze().slice(range.start, range.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;

    #[test]
    fn adjacent_headers_are_one_part_and_data_keep_their_place() {
        let pool = Arena::new(1 << 21, 1).unwrap().pool(0);
        let mut gather = Gather::new(&pool, Vec::new()).ok().unwrap();
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
        let mut gather = Gather::new(&pool, Vec::new()).ok().unwrap();
        let held = pool.available();
        let mut given = 0;
        while gather.has_room() {
            gather.bytes(&[5; PDU_BYTES_COPIED_MAX]);
            given += 1;
        }
        assert!(given > 1);
        assert_eq!(pool.available(), held, "headers are in one buffer");
    }
}
