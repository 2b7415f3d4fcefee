//! What the node keeps in the catalogue of its disks.

use super::Exports;
use iscsi_target::target::{Credentials, IscsiName, Secret};
use std::fmt;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest name of a volume in bytes.
pub(crate) const NAME_MAX: usize = 63;
/// Longest NVMe qualified name in bytes (NVMe Base 2.1, section 4.7).
pub(crate) const NQN_MAX: usize = 223;

/// Largest volume in bytes: 4 PiB.
pub(crate) const SIZE_MAX: u64 = 1 << 52;
/// Numbers of hosts are below this, so that there is always a next one.
const HOST_NUMBER_END: u64 = 1 << 63;

const VOLUME_KEY: &[u8] = b"volume/";
const HOST_KEY: &[u8] = b"host/";
const RESERVATIONS_KEY: &[u8] = b"reservations/";
const INITIATOR_KEY: &[u8] = b"initiator/";
const VERSION: u16 = 1;

/// A volume as it lies in the catalogue: 128 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VolumeLayout {
    version: U16,
    /// Bit 0: being deleted. Bit 1: hosts may not write. Bit 2: NVMe hosts do not see it. Bit 3:
    /// iSCSI initiators do not.
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
    /// Hosts may not write to it: one of them wanted that (feature 84h).
    pub(crate) is_protected: bool,
    /// Through which protocols hosts see it.
    pub(crate) exports: Exports,
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
            flags: self.flags().into(),
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

    fn flags(&self) -> u16 {
        let Exports { nvme, iscsi } = self.exports;
        let flags = [self.is_deleting, self.is_protected, !nvme, !iscsi];
        flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u16::from(flag))
    }

    fn decode(uuid: &[u8], value: &[u8]) -> Result<Self, BadRecord> {
        let layout =
            VolumeLayout::ref_from_bytes(value).map_err(|_| BadRecord("a strange length"))?;
        if layout.version.get() != VERSION {
            return Err(BadRecord("an unknown version"));
        }
        let name = layout.name.get(..layout.name_len.get() as usize);
        let name = name.and_then(|name| str::from_utf8(name).ok()).filter(|name| is_name(name));
        let name = name.ok_or(BadRecord("a bad name"))?;
        let block_size = layout.block_size.get();
        if !matches!(block_size, 512 | 4096) || !is_size(layout.size.get()) {
            return Err(BadRecord("a bad size"));
        }
        if layout.uuid != uuid || layout.uuid == [0; 16] {
            return Err(BadRecord("a bad UUID"));
        }
        Ok(Self {
            name: name.to_owned(),
            uuid: Uuid::from_bytes(layout.uuid),
            size: layout.size.get(),
            block_size,
            nsid: layout.nsid.get(),
            is_deleting: layout.flags.get() & 1 != 0,
            is_protected: layout.flags.get() & 2 != 0,
            exports: Exports {
                nvme: layout.flags.get() & 4 == 0,
                iscsi: layout.flags.get() & 8 == 0,
            },
        })
    }
}

/// Which part of a record of reservations that is too long for one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptPart {
    /// Of two sets of parts, 0 or 1.
    pub(crate) set: u8,
    /// Its place in the set.
    pub(crate) number: u8,
}

/// The key of a volume's reservations, or of a part of them.
pub(crate) fn reservation_keys(uuid: Uuid, part: Option<KeptPart>) -> Vec<u8> {
    let mut key = [RESERVATIONS_KEY, uuid.as_bytes()].concat();
    key.extend(part.into_iter().flat_map(|part| [part.set, part.number]));
    key
}

/// Whether a volume may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_path = matches!(name, "." | "..");
    !is_path && (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Whether a volume may have so many bytes.
pub(crate) fn is_size(size: u64) -> bool {
    size > 0 && size <= SIZE_MAX && size.is_multiple_of(4096)
}

/// One entry of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A volume.
    Volume(VolumeRecord),
    /// A host that may connect, by the number in its key.
    Host { number: u64, nqn: String },
    /// An initiator that may connect if it proves who it is.
    Initiator { number: u64, name: String, credentials: Credentials },
    /// The reservations of a volume, or a part of them.
    Reservations { uuid: Uuid, part: Option<KeptPart>, value: Vec<u8> },
}

impl Record {
    /// Reads an entry.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, BadRecord> {
        if let Some(uuid) = key.strip_prefix(VOLUME_KEY) {
            return VolumeRecord::decode(uuid, value).map(Self::Volume);
        }
        if let Some(key) = key.strip_prefix(RESERVATIONS_KEY) {
            let (uuid, part) = key.split_first_chunk().ok_or(BadRecord("an unknown key"))?;
            let part = match *part {
                [] => None,
                [set @ 0..=1, number] => Some(KeptPart { set, number }),
                _ => return Err(BadRecord("an unknown key")),
            };
            let (uuid, value) = (Uuid::from_bytes(*uuid), value.to_vec());
            return Ok(Self::Reservations { uuid, part, value });
        }
        if let Some(number) = key.strip_prefix(INITIATOR_KEY) {
            let number = number.try_into().map(u64::from_be_bytes);
            let number = number.ok().filter(|number| *number < HOST_NUMBER_END);
            let number = number.ok_or(BadRecord("an unknown key"))?;
            let (name, credentials) = decode_initiator(value).ok_or(BadRecord("bad secrets"))?;
            return Ok(Self::Initiator { number, name, credentials });
        }
        let number = key.strip_prefix(HOST_KEY).and_then(|number| number.try_into().ok());
        let number = number.map(u64::from_be_bytes).filter(|number| *number < HOST_NUMBER_END);
        let number = number.ok_or(BadRecord("an unknown key"))?;
        let nqn = str::from_utf8(value).ok().filter(|nqn| nqn.len() <= NQN_MAX);
        let nqn = nqn.ok_or(BadRecord("a bad host name"))?.to_owned();
        Ok(Self::Host { number, nqn })
    }

    /// The key of a host.
    pub(crate) fn host_key(number: u64) -> Vec<u8> {
        [HOST_KEY, &number.to_be_bytes()].concat()
    }

    /// The key of an initiator with credentials.
    pub(crate) fn initiator_key(number: u64) -> Vec<u8> {
        [INITIATOR_KEY, &number.to_be_bytes()].concat()
    }

    /// The value of an initiator: a version, and then its name, its user and secret, and the
    /// target's, each after its length; the last two may be empty.
    pub(crate) fn encode_initiator(name: &str, credentials: &Credentials) -> Vec<u8> {
        let of = |secret: &Option<Secret>| match secret {
            Some(secret) => (secret.user().as_bytes().to_vec(), secret.bytes().to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        let (user, secret) = of(&credentials.initiator);
        let (target_user, target_secret) = of(&credentials.target);
        let mut value = VERSION.to_le_bytes().to_vec();
        for part in [name.as_bytes(), &user, &secret, &target_user, &target_secret] {
            value.extend_from_slice(&(part.len() as u16).to_le_bytes());
            value.extend_from_slice(part);
        }
        value
    }
}

/// The inverse of [`Record::encode_initiator`].
fn decode_initiator(value: &[u8]) -> Option<(String, Credentials)> {
    let (version, mut rest) = value.split_first_chunk()?;
    if u16::from_le_bytes(*version) != VERSION {
        return None;
    }
    let mut part = || {
        let (len, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
        rest = after;
        Some(part)
    };
    let name = IscsiName::new(str::from_utf8(part()?).ok()?).ok()?;
    let mut secret = || {
        let (user, bytes) = (part()?, part()?);
        match (user, bytes) {
            ([], []) => Some(None),
            _ => Secret::new(str::from_utf8(user).ok()?, bytes).ok().map(Some),
        }
    };
    let credentials = Credentials { initiator: secret()?, target: secret()? };
    credentials.check().ok()?;
    rest.is_empty().then(|| (name.to_string(), credentials))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn volumes_survive_the_catalogue(
            name in "[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,62}",
            uuid in 1..u128::MAX,
            pages in 1..=SIZE_MAX / 4096,
            nsid in 1..1025_u32,
            is_deleting: bool,
            is_protected: bool,
            nvme: bool,
            iscsi: bool,
        ) {
            let uuid = Uuid::from_u128(uuid);
            let record = VolumeRecord {
                name,
                uuid,
                size: pages * 4096,
                block_size: 512,
                nsid,
                is_deleting,
                is_protected,
                exports: Exports { nvme, iscsi },
            };
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
    fn what_could_not_be_written_again_is_refused() {
        let good = VolumeRecord {
            name: "a".into(),
            uuid: Uuid::from_u128(1),
            size: 4096,
            block_size: 512,
            nsid: 1,
            is_deleting: false,
            is_protected: false,
            exports: Exports::default(),
        };
        let refused = |key: &[u8], value: &[u8]| Record::decode(key, value).is_err();
        assert!(!refused(&good.key(), &good.encode()));
        let nil = VolumeRecord { uuid: Uuid::nil(), ..good.clone() };
        assert!(refused(&nil.key(), &nil.encode()));
        assert!(refused(&nil.key(), &good.encode()), "a key that is another volume's");
        for size in [0, 512, SIZE_MAX + 4096] {
            let bad = VolumeRecord { size, ..good.clone() };
            assert!(refused(&bad.key(), &bad.encode()));
        }
        for name in ["", "a/b", "..", "."] {
            let bad = VolumeRecord { name: name.into(), ..good.clone() };
            assert!(refused(&bad.key(), &bad.encode()));
        }
        let mut long = good.encode();
        long[20] = 64;
        long[40..104].fill(b'a');
        assert!(refused(&good.key(), &long), "a name that does not fit with its zero");
        assert!(refused(&Record::host_key(u64::MAX), b"nqn.a"));
    }

    #[test]
    fn initiators_survive_the_catalogue() {
        let secret = |user: &str, bytes: &[u8]| Some(Secret::new(user, bytes).unwrap());
        let initiator = secret("host", b"a secret of twelve");
        for target in [None, secret("target", b"another secret")] {
            let name = "iqn.2026-01.test:host".to_owned();
            let credentials = Credentials { initiator: initiator.clone(), target };
            let value = Record::encode_initiator(&name, &credentials);
            let key = Record::initiator_key(7);
            let read = Record::decode(&key, &value);
            assert_eq!(read, Ok(Record::Initiator { number: 7, name, credentials }));
            for len in 0..value.len() {
                assert!(Record::decode(&key, &value[..len]).is_err());
            }
            assert!(Record::decode(&key, &[&value[..], b"x"].concat()).is_err());
        }
    }

    #[test]
    fn hosts_survive_the_catalogue() {
        let nqn = "nqn.2014-08.org.nvmexpress:uuid:1";
        let read = Record::decode(&Record::host_key(7), nqn.as_bytes());
        assert_eq!(read, Ok(Record::Host { number: 7, nqn: nqn.to_owned() }));
    }
}
