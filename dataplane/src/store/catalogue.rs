//! A small table of keys and values that the store keeps for its node, and does not understand.

use std::collections::BTreeMap;
use storage_spec::disk::EntryHead;
use zerocopy::{FromBytes, IntoBytes};

/// Most bytes in a key.
pub const KEY_MAX: usize = 64;
/// Most bytes in a value.
pub const VALUE_MAX: usize = 1024;

/// The table in memory.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: u64,
}

impl Catalogue {
    /// Bytes that the entries take on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.delete(key);
        self.bytes += entry_len(key, value) as u64;
        self.entries.insert(key.to_vec(), value.to_vec());
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        if let Some(value) = self.entries.remove(key) {
            self.bytes -= entry_len(key, &value) as u64;
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(Vec::as_slice)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// The first entry whose key is above `key`.
    pub(super) fn after(&self, key: &[u8]) -> Option<(&[u8], &[u8])> {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut above = self.entries.range::<[u8], _>((Excluded(key), Unbounded));
        above.next().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

/// Bytes of an entry on the disk.
pub(super) fn entry_len(key: &[u8], value: &[u8]) -> usize {
    (size_of::<EntryHead>() + key.len() + value.len()).next_multiple_of(4)
}

/// Appends an entry in the form that it has on the disk.
pub(super) fn encode(key: &[u8], value: &[u8], into: &mut Vec<u8>) {
    assert!((1..=KEY_MAX).contains(&key.len()) && value.len() <= VALUE_MAX);
    let end = into.len() + entry_len(key, value);
    let head =
        EntryHead { key_len: (key.len() as u16).into(), value_len: (value.len() as u16).into() };
    into.extend_from_slice(head.as_bytes());
    into.extend_from_slice(key);
    into.extend_from_slice(value);
    into.resize(end, 0);
}

/// Key, value, and what follows the entry.
pub(super) fn decode(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, body) = EntryHead::ref_from_prefix(bytes).ok()?;
    let (key_len, value_len) = (usize::from(head.key_len.get()), usize::from(head.value_len.get()));
    if !(1..=KEY_MAX).contains(&key_len) || value_len > VALUE_MAX {
        return None;
    }
    let key = body.get(..key_len)?;
    let value = body.get(key_len..key_len + value_len)?;
    Some((key, value, bytes.get(entry_len(key, value)..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_survive(key in prop::collection::vec(any::<u8>(), 1..=64),
                           value in prop::collection::vec(any::<u8>(), 0..=1024)) {
            let mut bytes = Vec::new();
            encode(&key, &value, &mut bytes);
            bytes.push(9);
            let (k, v, rest) = decode(&bytes).unwrap();
            prop_assert_eq!((k, v, rest), (&key[..], &value[..], &[9][..]));
        }

        #[test]
        fn hostile_entries_do_no_harm(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
