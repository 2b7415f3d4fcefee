//! What the node keeps in the catalogue of its disks.

use std::fmt;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest name of a volume in bytes.
pub(crate) const NAME_MAX: usize = 63;
/// Longest NVMe qualified name in bytes (NVMe Base 2.1, section 4.7).
pub(crate) const NQN_MAX: usize = 223;

const VOLUME_KEY: &[u8] = b"volume/";
const HOST_KEY: &[u8] = b"host/";
const VERSION: u16 = 1;

/// A volume as it lies in the catalogue: 128 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VolumeLayout {
    version: U16,
    /// 1: being deleted.
    flags: U16,
    block_size: U32,
    size: U64,
    nsid: U32,
    name_len: U32,
    uuid: [u8; 16],
    /// Zero-padded.
    name: [u8; 64],
    reserved: [u8; 24],
}
const _: () = assert!(size_of::<VolumeLayout>() == 128);

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeRecord {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    pub(crate) nsid: u32,
    /// Deletion has begun: no host sees it, and its space is being freed.
    pub(crate) is_deleting: bool,
}

/// Why a catalogue entry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadRecord(&'static str);

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "catalogue entry with {}; written by a newer version of Basalt?", self.0)
    }
}

impl VolumeRecord {
    /// Its key.
    pub(crate) fn key(&self) -> Vec<u8> {
        [VOLUME_KEY, self.uuid.as_bytes()].concat()
    }

    /// The id by which stores know it.
    pub(crate) fn id(&self) -> crate::store::VolumeId {
        crate::store::VolumeId(self.uuid.as_u64_pair().1)
    }

    /// Its value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.name.len() <= NAME_MAX);
        let mut name = [0; 64];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let layout = VolumeLayout {
            version: VERSION.into(),
            flags: u16::from(self.is_deleting).into(),
            block_size: self.block_size.into(),
            size: self.size.into(),
            nsid: self.nsid.into(),
            name_len: (self.name.len() as u32).into(),
            uuid: *self.uuid.as_bytes(),
            name,
            reserved: [0; 24],
        };
        layout.as_bytes().to_vec()
    }

    fn decode(value: &[u8]) -> Result<Self, BadRecord> {
        let layout =
            VolumeLayout::ref_from_bytes(value).map_err(|_| BadRecord("a strange length"))?;
        if layout.version.get() != VERSION {
            return Err(BadRecord("an unknown version"));
        }
        let name = layout.name.get(..layout.name_len.get() as usize);
        let name =
            name.and_then(|name| str::from_utf8(name).ok()).ok_or(BadRecord("a bad name"))?;
        let block_size = layout.block_size.get();
        if !matches!(block_size, 512 | 4096) || !layout.size.get().is_multiple_of(4096) {
            return Err(BadRecord("a bad size"));
        }
        Ok(Self {
            name: name.to_owned(),
            uuid: Uuid::from_bytes(layout.uuid),
            size: layout.size.get(),
            block_size,
            nsid: layout.nsid.get(),
            is_deleting: layout.flags.get() & 1 != 0,
        })
    }
}

/// One entry of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A volume.
    Volume(VolumeRecord),
    /// A host that may connect, by the number in its key.
    Host { number: u64, nqn: String },
}

impl Record {
    /// Reads an entry.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, BadRecord> {
        if key.starts_with(VOLUME_KEY) {
            return VolumeRecord::decode(value).map(Self::Volume);
        }
        let number = key.strip_prefix(HOST_KEY).and_then(|number| number.try_into().ok());
        let number = u64::from_be_bytes(number.ok_or(BadRecord("an unknown key"))?);
        let nqn = str::from_utf8(value).ok().filter(|nqn| nqn.len() <= NQN_MAX);
        let nqn = nqn.ok_or(BadRecord("a bad host name"))?.to_owned();
        Ok(Self::Host { number, nqn })
    }

    /// The key of a host.
    pub(crate) fn host_key(number: u64) -> Vec<u8> {
        [HOST_KEY, &number.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn volumes_survive_the_catalogue(
            name in "[a-zA-Z0-9_-]{1,63}",
            uuid: u128,
            pages in 1..1_u64 << 40,
            nsid in 1..1025_u32,
            is_deleting: bool,
        ) {
            let uuid = Uuid::from_u128(uuid);
            let record =
                VolumeRecord { name, uuid, size: pages * 4096, block_size: 512, nsid, is_deleting };
            let read = Record::decode(&record.key(), &record.encode());
            prop_assert_eq!(read, Ok(Record::Volume(record)));
        }

        #[test]
        fn strange_entries_are_refused_not_believed(key: Vec<u8>, value: Vec<u8>) {
            let _ = Record::decode(&key, &value);
            prop_assert!(Record::decode(&[VOLUME_KEY, &key].concat(), &value).is_err());
        }
    }

    #[test]
    fn hosts_survive_the_catalogue() {
        let nqn = "nqn.2014-08.org.nvmexpress:uuid:1";
        let read = Record::decode(&Record::host_key(7), nqn.as_bytes());
        assert_eq!(read, Ok(Record::Host { number: 7, nqn: nqn.to_owned() }));
    }
}
