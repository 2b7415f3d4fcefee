//! Journal records: their meaning and their bytes.

use super::VolumeId;
use super::catalogue;
use super::map::{Owner, VOLUME_CHUNKS_MAX};
use super::page::GENERATION_MAX;
use storage_spec::disk::{self, BlockRange, CHUNK_SLABS, MapRecord, RecordHead, SLAB_BLOCKS};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// Which way written data take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// In place, in parallel with the record: the blocks held nothing.
    Fresh,
    /// In the journal, later in place.
    Payload,
    /// In place after the record.
    Ordered,
}

/// Blocks of a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) slab: u32,
    pub(super) first: u16,
    pub(super) count: u16,
    pub(super) tag: u32,
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Record<'a> {
    Write { path: Path, range: Range, crcs: &'a [U32] },
    Map { owner: Owner, slab: u32, generation: u32 },
    Unmap { owner: Owner, slab: u32, generation: u32 },
    Trim(Range),
    Poison(Range),
    Put { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
}

/// Bytes of a write record of `count` blocks.
pub(super) fn write_len(count: u16) -> usize {
    size_of::<RecordHead>() + size_of::<BlockRange>() + 4 * usize::from(count)
}

/// Most bytes that a record has.
pub(super) const RECORD_MAX: usize = 2064;

/// Appends the record of a write whose checksums are in native form.
pub(super) fn encode_write(path: Path, range: Range, crcs: &[u32], into: &mut Vec<u8>) {
    assert_eq!(crcs.len(), usize::from(range.count));
    let path = match path {
        Path::Fresh => disk::PATH_FRESH,
        Path::Payload => disk::PATH_PAYLOAD,
        Path::Ordered => disk::PATH_ORDERED,
    };
    head(disk::RECORD_WRITE, path, write_len(range.count), into);
    into.extend_from_slice(block_range(range).as_bytes());
    for crc in crcs {
        into.extend_from_slice(&crc.to_le_bytes());
    }
}

impl Record<'_> {
    /// Bytes of the record.
    pub(super) fn len(&self) -> usize {
        size_of::<RecordHead>()
            + match self {
                Self::Write { crcs, .. } => size_of::<BlockRange>() + 4 * crcs.len(),
                Self::Map { .. } | Self::Unmap { .. } => size_of::<MapRecord>(),
                Self::Trim(_) | Self::Poison(_) => size_of::<BlockRange>(),
                Self::Put { key, value } => catalogue::entry_len(key, value),
                Self::Delete { key } => catalogue::entry_len(key, &[]),
            }
    }

    /// Appends the record's bytes. Writes have [`encode_write`].
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let len = self.len();
        match *self {
            Self::Write { .. } => unreachable!("encode_write does these"),
            Self::Map { owner, slab, generation } => {
                head(disk::RECORD_MAP, 0, len, into);
                into.extend_from_slice(map_record(owner, slab, generation).as_bytes());
            }
            Self::Unmap { owner, slab, generation } => {
                head(disk::RECORD_UNMAP, 0, len, into);
                into.extend_from_slice(map_record(owner, slab, generation).as_bytes());
            }
            Self::Trim(range) => {
                head(disk::RECORD_TRIM, 0, len, into);
                into.extend_from_slice(block_range(range).as_bytes());
            }
            Self::Poison(range) => {
                head(disk::RECORD_POISON, 0, len, into);
                into.extend_from_slice(block_range(range).as_bytes());
            }
            Self::Put { key, value } => {
                head(disk::RECORD_PUT, 0, len, into);
                catalogue::encode(key, value, into);
            }
            Self::Delete { key } => {
                head(disk::RECORD_DELETE, 0, len, into);
                catalogue::encode(key, &[], into);
            }
        }
    }
}

fn head(kind: u8, path: u8, len: usize, into: &mut Vec<u8>) {
    into.extend_from_slice(RecordHead { kind, path, len: (len as u16).into() }.as_bytes());
}

fn block_range(range: Range) -> BlockRange {
    BlockRange {
        slab: range.slab.into(),
        first: range.first.into(),
        count: range.count.into(),
        tag: range.tag.into(),
    }
}

fn map_record(owner: Owner, slab: u32, generation: u32) -> MapRecord {
    MapRecord {
        volume: owner.volume.0.into(),
        chunk: owner.chunk.into(),
        index: u32::from(owner.index).into(),
        slab: slab.into(),
        generation: generation.into(),
    }
}

/// The first record of `bytes`, and what follows; `None` where there is no valid one of a shard
/// with `slabs` slabs.
pub(super) fn decode(bytes: &[u8], slabs: u32) -> Option<(Record<'_>, &[u8])> {
    let (head, _) = RecordHead::ref_from_prefix(bytes).ok()?;
    let len = usize::from(head.len.get());
    let body = bytes.get(size_of::<RecordHead>()..len)?;
    let record = match head.kind {
        disk::RECORD_WRITE => {
            let (range, crcs) = decode_range(body, slabs)?;
            let crcs = <[U32]>::ref_from_bytes(crcs).ok()?;
            if crcs.len() != usize::from(range.count) {
                return None;
            }
            let path = match head.path {
                disk::PATH_FRESH => Path::Fresh,
                disk::PATH_PAYLOAD => Path::Payload,
                disk::PATH_ORDERED => Path::Ordered,
                _ => return None,
            };
            Record::Write { path, range, crcs }
        }
        disk::RECORD_MAP | disk::RECORD_UNMAP => {
            let (owner, slab, generation) = decode_map(body, slabs)?;
            if head.kind == disk::RECORD_MAP {
                Record::Map { owner, slab, generation }
            } else {
                Record::Unmap { owner, slab, generation }
            }
        }
        disk::RECORD_TRIM => Record::Trim(decode_range(body, slabs)?.0),
        disk::RECORD_POISON => Record::Poison(decode_range(body, slabs)?.0),
        disk::RECORD_PUT => {
            let (key, value, _) = catalogue::decode(body)?;
            Record::Put { key, value }
        }
        disk::RECORD_DELETE => Record::Delete { key: catalogue::decode(body)?.0 },
        _ => return None,
    };
    Some((record, &bytes[len..]))
}

fn decode_range(body: &[u8], slabs: u32) -> Option<(Range, &[u8])> {
    let (raw, rest) = BlockRange::ref_from_prefix(body).ok()?;
    let range = Range {
        slab: raw.slab.get(),
        first: raw.first.get(),
        count: raw.count.get(),
        tag: raw.tag.get(),
    };
    let end = usize::from(range.first) + usize::from(range.count);
    (range.slab < slabs && range.count > 0 && end <= SLAB_BLOCKS).then_some((range, rest))
}

fn decode_map(body: &[u8], slabs: u32) -> Option<(Owner, u32, u32)> {
    let (raw, _) = MapRecord::ref_from_prefix(body).ok()?;
    let owner = Owner {
        volume: VolumeId(raw.volume.get()),
        chunk: raw.chunk.get(),
        index: u8::try_from(raw.index.get()).ok()?,
    };
    let in_range = owner.chunk < VOLUME_CHUNKS_MAX
        && usize::from(owner.index) < CHUNK_SLABS
        && raw.slab.get() < slabs
        && raw.generation.get() <= GENERATION_MAX;
    in_range.then(|| (owner, raw.slab.get(), raw.generation.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_survive() {
        let owner = Owner { volume: VolumeId(1 << 40), chunk: 7, index: 127 };
        let range = Range { slab: 3, first: 510, count: 2, tag: 5 };
        let crcs = [U32::new(1), U32::new(2)];
        let records = [
            Record::Map { owner, slab: 3, generation: 8 },
            Record::Unmap { owner, slab: 3, generation: 8 },
            Record::Trim(range),
            Record::Poison(range),
            Record::Put { key: b"key", value: b"value" },
            Record::Delete { key: b"key" },
        ];
        let mut bytes = Vec::new();
        encode_write(Path::Ordered, range, &[1, 2], &mut bytes);
        for record in &records {
            record.encode(&mut bytes);
        }
        let (record, mut rest) = decode(&bytes, 4).unwrap();
        assert_eq!(record, Record::Write { path: Path::Ordered, range, crcs: &crcs });
        for expected in records {
            let (record, more) = decode(rest, 4).unwrap();
            assert_eq!(record, expected);
            rest = more;
        }
        assert!(rest.is_empty());
        assert_eq!(decode(&bytes, 3), None, "slab out of range");
        assert_eq!(write_len(SLAB_BLOCKS as u16), RECORD_MAX);
    }

    proptest! {
        #[test]
        fn hostile_records_do_no_harm(kind in 0u8..9, len: u16, bytes: Vec<u8>) {
            let mut record = vec![kind, 1, len as u8, (len >> 8) as u8];
            record.extend(bytes);
            let _ = decode(&record, 100);
        }
    }
}
