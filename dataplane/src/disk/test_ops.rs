//! Operations that the tests of drivers submit.

use super::{Op, WriteData};
use crate::dma::{Arena, Pool};

/// Memory for the buffers of one core.
pub(super) fn arena() -> (Arena, Pool) {
    let arena = Arena::new(16 << 20, 1).unwrap();
    let pool = arena.pool(0);
    (arena, pool)
}

/// A write of one byte throughout.
pub(super) fn write_op(pool: &Pool, offset: u64, len: usize, byte: u8, fua: bool) -> Op {
    let mut buf = pool.alloc(len).unwrap();
    buf.fill(byte);
    Op::Write { offset, data: WriteData::One(buf.freeze()), fua }
}

/// A read into a buffer of other bytes.
pub(super) fn read_op(pool: &Pool, offset: u64, len: usize) -> Op {
    let mut buf = pool.alloc(len).unwrap();
    buf.fill(0xA5);
    Op::Read { offset, buf }
}

/// The byte of which a read's buffer is full.
pub(super) fn byte_of(op: &Op) -> u8 {
    let Op::Read { buf, .. } = op else { panic!("{op:?} was a read") };
    assert!(buf.iter().all(|byte| *byte == buf[0]), "one byte throughout");
    buf[0]
}
