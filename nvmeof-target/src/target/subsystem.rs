//! A subsystem: its namespaces, and the ids of its controllers.

use super::config::{ConfigError, NamespaceConfig, NamespaceId, SubsystemConfig};
use crate::io::VolumeIndex;
use crate::limits::NAMESPACES_MAX;
use crate::seam::{Access, Namespace, Namespaces};
use reservations::{Registrant, Table};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage_spec::fabrics::CONTROLLER_ID_MAX;

/// A subsystem with namespaces.
#[derive(Debug)]
pub(super) struct Subsystem {
    pub(super) config: SubsystemConfig,
    pub(super) namespaces: BTreeMap<u32, NamespaceEntry>,
    /// What I/O queues address while nothing is reserved, kept in step with `namespaces`.
    shared: Namespaces,
    /// Whether some namespace is reserved, so that hosts have different access.
    is_reserved: bool,
    /// Counts changes of the ANA log.
    pub(super) ana_changes: u64,
    pub(super) ids: ControllerIds,
}

/// A namespace as it is now.
#[derive(Debug)]
pub(super) struct NamespaceEntry {
    pub(super) config: NamespaceConfig,
    /// Bytes allocated.
    pub(super) used: u64,
    /// The reservation table as it is.
    pub(super) reservations: Arc<Table>,
}

impl Subsystem {
    pub(super) fn new(config: SubsystemConfig, seed: u64) -> Result<Self, ConfigError> {
        let (first, last) = (*config.controller_ids.start(), *config.controller_ids.end());
        if first == 0 || last > CONTROLLER_ID_MAX || first > last {
            return Err(ConfigError::BadValue("controller ids are from 1 to 65519"));
        }
        let ids = ControllerIds::new(first, last, seed);
        let (namespaces, shared) = (BTreeMap::new(), Namespaces::from([]));
        Ok(Self { config, namespaces, shared, is_reserved: false, ana_changes: 0, ids })
    }

    pub(super) fn add(&mut self, config: NamespaceConfig) -> Result<(), ConfigError> {
        check(&config)?;
        if self.namespaces.contains_key(&config.id.0) {
            return Err(ConfigError::Exists("the namespace"));
        }
        let same_identity = |entry: &NamespaceEntry| entry.config.uuid == config.uuid;
        if self.namespaces.values().any(same_identity) {
            return Err(ConfigError::Exists("a namespace with this UUID"));
        }
        let id = config.id.0;
        let entry = NamespaceEntry { config, used: 0, reservations: Arc::default() };
        self.namespaces.insert(id, entry);
        self.ana_changes += 1;
        self.rebuild();
        Ok(())
    }

    pub(super) fn remove(&mut self, id: NamespaceId) -> Result<(), ConfigError> {
        self.namespaces.remove(&id.0).ok_or(ConfigError::NotFound("namespace"))?;
        self.ana_changes += 1;
        self.rebuild();
        Ok(())
    }

    /// Replaces attributes of a namespace that hosts see.
    pub(super) fn change(
        &mut self,
        id: NamespaceId,
        change: impl FnOnce(&mut NamespaceConfig),
    ) -> Result<(), ConfigError> {
        let entry = self.namespaces.get_mut(&id.0).ok_or(ConfigError::NotFound("namespace"))?;
        let mut config = entry.config.clone();
        change(&mut config);
        check(&config)?;
        entry.config = config;
        self.rebuild();
        Ok(())
    }

    pub(super) fn free_namespace_id(&self) -> Option<NamespaceId> {
        (1..=NAMESPACES_MAX).find(|id| !self.namespaces.contains_key(id)).map(NamespaceId)
    }

    /// Takes over the table of a volume: the namespace that the volume is here, and its table
    /// before.
    pub(super) fn set_reservations(
        &mut self,
        volume: VolumeIndex,
        table: &Arc<Table>,
    ) -> Option<(u32, Arc<Table>)> {
        let mut namespaces = self.namespaces.iter_mut();
        let (&id, entry) = namespaces.find(|(_, entry)| entry.config.volume == volume)?;
        let before = core::mem::replace(&mut entry.reservations, table.clone());
        self.rebuild();
        Some((id, before))
    }

    /// What the I/O queues of this host address.
    pub(super) fn snapshot(&self, host: &Registrant) -> Namespaces {
        match self.is_reserved {
            true => self.snapshot_for(|entry| entry.reservations.access(host)),
            false => self.shared.clone(),
        }
    }

    fn rebuild(&mut self) {
        let mut tables = self.namespaces.values().map(|entry| &entry.reservations);
        self.is_reserved = tables.any(|table| table.access_of_strangers() != Access::ALL);
        self.shared = self.snapshot_for(|_| Access::ALL);
    }

    fn snapshot_for(&self, access: impl Fn(&NamespaceEntry) -> Access) -> Namespaces {
        let last = self.namespaces.last_key_value().map_or(0, |(&id, _)| id);
        let namespace = |id| {
            self.namespaces.get(&id).map(|entry| Namespace {
                volume: entry.config.volume,
                capacity: entry.config.capacity,
                block_shift: entry.config.block_shift,
                read_only: entry.config.read_only,
                access: access(entry),
            })
        };
        (1..=last).map(namespace).collect()
    }
}

/// Controller ids, dealt in a circle so that one comes back as late as can be.
#[derive(Debug)]
pub(super) struct ControllerIds {
    first: u16,
    last: u16,
    next: u16,
}

impl ControllerIds {
    pub(super) fn new(first: u16, last: u16, seed: u64) -> Self {
        let count = u64::from(last - first) + 1;
        Self { first, last, next: first + (seed % count) as u16 }
    }

    /// The next id for which `taken` is false.
    pub(super) fn take(&mut self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in self.first..=self.last {
            let id = self.next;
            self.next = if id == self.last { self.first } else { id + 1 };
            if !taken(id) {
                return Some(id);
            }
        }
        None
    }
}

fn check(config: &NamespaceConfig) -> Result<(), ConfigError> {
    if config.id.0 == 0 || config.id.0 > NAMESPACES_MAX {
        return Err(ConfigError::BadValue("namespace ids are from 1 to 1024"));
    }
    if config.block_shift != 9 && config.block_shift != 12 {
        return Err(ConfigError::BadValue("logical blocks have 512 or 4096 bytes"));
    }
    if config.capacity == 0 || !config.capacity.is_multiple_of(4096) {
        return Err(ConfigError::BadValue("the size is a positive multiple of 4096"));
    }
    // ESXi shows no namespace whose NGUID is zero.
    if config.uuid == [0; 16] {
        return Err(ConfigError::BadValue("the UUID is not all zeroes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round_before_one_comes_back() {
        let mut ids = ControllerIds::new(5, 8, 2);
        let dealt: Vec<_> = (0..5).map(|_| ids.take(|_| false).unwrap()).collect();
        assert_eq!(dealt, [7, 8, 5, 6, 7]);
        assert_eq!(ids.take(|id| id != 6), Some(6));
        assert_eq!(ids.take(|_| true), None);
        assert!(ControllerIds::new(1, CONTROLLER_ID_MAX, u64::MAX).take(|_| false).is_some());
    }
}
