//! A table as it lies on a disk (`storage_spec::reservation`).

use crate::table::Held;
use crate::{Key, Kind, NAME_MAX, Nexus, REGISTRANTS_MAX, Registrant, Table};
use storage_spec::reservation::{
    HOLDER_NONE, PROTOCOL_ISCSI, PROTOCOL_NVME, RecordHead, RegistrantHead, VERSION,
};
use zerocopy::{FromBytes, IntoBytes};

/// Longest record of a table in bytes.
pub const RECORD_MAX: usize = size_of::<RecordHead>()
    + REGISTRANTS_MAX * (size_of::<RegistrantHead>() + NAME_MAX.next_multiple_of(4));

/// Why a record cannot be used: it is damaged, or a newer version has written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reservations with {0}")]
pub struct BadRecord(&'static str);

impl Table {
    /// The record that brings a persistent table back, at most [`RECORD_MAX`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let position = |holder: &Registrant| {
            let found = self.registered.iter().position(|(who, _)| who == holder);
            found.expect("a holder is registered") as u16
        };
        let holder = self.held.as_ref().and_then(|held| held.by.as_ref());
        let head = RecordHead {
            version: VERSION.into(),
            registrants: (self.registered.len() as u16).into(),
            generation: self.generation.into(),
            holder: holder.map_or(HOLDER_NONE, position).into(),
            kind: self.held.as_ref().map_or(0, |held| held.kind.nvme()),
            reserved: [0; 5],
        };
        let mut bytes = head.as_bytes().to_vec();
        for (who, key) in &self.registered {
            encode_registrant(who, *key, &mut bytes);
        }
        assert!(bytes.len() <= RECORD_MAX);
        bytes
    }

    /// The table whose record these bytes are; it persists.
    ///
    /// # Errors
    /// If they are no record that [`Table::encode`] could have made.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (head, mut rest) =
            RecordHead::ref_from_prefix(bytes).map_err(|_| BadRecord("a record cut short"))?;
        if head.version.get() != VERSION {
            return Err(BadRecord("an unknown version"));
        }
        let count = usize::from(head.registrants.get());
        if count > REGISTRANTS_MAX {
            return Err(BadRecord("too many registrants"));
        }
        let mut registered: Vec<(Registrant, Key)> = Vec::with_capacity(count);
        for _ in 0..count {
            let (who, key, behind) = decode_registrant(rest)?;
            if key == 0 || registered.iter().any(|(other, _)| *other == who) {
                return Err(BadRecord("a registrant that cannot be"));
            }
            registered.push((who, key));
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(BadRecord("more than their registrants"));
        }
        let held = decode_held(head, &registered)?;
        let generation = head.generation.get();
        Ok(Self { registered, held, generation, persists: true, ..Self::default() })
    }
}

fn encode_registrant(who: &Registrant, key: Key, bytes: &mut Vec<u8>) {
    let mut id = [0; 16];
    let (protocol, name, portal_group) = match who {
        Registrant::Nvme { host_id } => {
            id = *host_id;
            (PROTOCOL_NVME, "", 0)
        }
        Registrant::Scsi(nexus) => {
            id[..6].copy_from_slice(&nexus.isid());
            (PROTOCOL_ISCSI, nexus.initiator(), nexus.portal_group())
        }
    };
    let head = RegistrantHead {
        protocol,
        name_len: name.len() as u8,
        portal_group: portal_group.into(),
        reserved: [0; 4],
        key: key.into(),
        id,
    };
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn decode_registrant(bytes: &[u8]) -> Result<(Registrant, Key, &[u8]), BadRecord> {
    let cut = BadRecord("a registrant cut short");
    let (head, rest) = RegistrantHead::ref_from_prefix(bytes).map_err(|_| cut)?;
    let name_len = usize::from(head.name_len);
    let (name, rest) = rest.split_at_checked(name_len.next_multiple_of(4)).ok_or(cut)?;
    let name =
        str::from_utf8(&name[..name_len]).map_err(|_| BadRecord("a name that is no text"))?;
    let who = match head.protocol {
        PROTOCOL_NVME => Registrant::Nvme { host_id: head.id },
        PROTOCOL_ISCSI => {
            let mut isid = [0; 6];
            isid.copy_from_slice(&head.id[..6]);
            let nexus = Nexus::new(name, isid, head.portal_group.get());
            Registrant::Scsi(nexus.ok_or(BadRecord("a name of a strange length"))?)
        }
        _ => return Err(BadRecord("an unknown protocol")),
    };
    Ok((who, head.key.get(), rest))
}

fn decode_held(
    head: &RecordHead,
    registered: &[(Registrant, Key)],
) -> Result<Option<Held>, BadRecord> {
    if head.kind == 0 {
        return Ok(None);
    }
    let kind = Kind::from_nvme(head.kind).ok_or(BadRecord("an unknown type"))?;
    let no_holder = BadRecord("no holder");
    if kind.is_all_registrants() {
        return if registered.is_empty() {
            Err(no_holder)
        } else {
            Ok(Some(Held { kind, by: None }))
        };
    }
    let (holder, _) = registered.get(usize::from(head.holder.get())).ok_or(no_holder)?;
    Ok(Some(Held { kind, by: Some(holder.clone()) }))
}
