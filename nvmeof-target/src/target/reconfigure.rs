//! Changes of the configuration while hosts are connected.
//!
//! Each is refused whole or done whole. The actions that follow from it (new snapshots, events,
//! connections to close) are to be taken afterwards.

use super::config::{
    ConfigError, HOSTS_MAX, NamespaceConfig, NamespaceId, Nqn, PORTS_MAX, Port, PortId,
    SUBSYSTEMS_MAX, SubsystemConfig,
};
use super::controller::{Controller, ControllerKey, Kind};
use super::events::Notice;
use super::subsystem::Subsystem;
use super::{AllowedHosts, Target};
use crate::seam::Action;

impl Target {
    /// Adds a subsystem without namespaces.
    ///
    /// # Errors
    /// When the name is taken or the discovery subsystem's, the ids are out of range, or there are
    /// too many.
    pub fn add_subsystem(&mut self, config: SubsystemConfig) -> Result<(), ConfigError> {
        if config.nqn == Nqn::discovery() || self.subsystems.contains_key(&config.nqn) {
            return Err(ConfigError::Exists("the subsystem"));
        }
        if self.subsystems.len() == SUBSYSTEMS_MAX {
            return Err(ConfigError::TooMany("subsystems"));
        }
        let (nqn, hosts) = (config.nqn.clone(), config.hosts.clone());
        self.subsystems.insert(nqn, Subsystem::new(config, self.config.seed)?);
        self.visibility_changed(&AllowedHosts::default(), &hosts);
        Ok(())
    }

    /// Removes a subsystem, its namespaces, and its controllers.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_subsystem(&mut self, nqn: &Nqn) -> Result<(), ConfigError> {
        let gone = self.subsystems.remove(nqn).ok_or(ConfigError::NotFound("subsystem"))?;
        self.close_controllers(|controller| controller.subsystem == *nqn);
        self.visibility_changed(&gone.config.hosts, &AllowedHosts::default());
        Ok(())
    }

    /// The lowest namespace id that is not in use.
    #[must_use]
    pub fn free_namespace_id(&self, nqn: &Nqn) -> Option<NamespaceId> {
        self.subsystems.get(nqn)?.free_namespace_id()
    }

    /// Adds a namespace and tells connected hosts.
    ///
    /// # Errors
    /// When the subsystem is not there, the id or UUID is in use, or a value is not possible.
    pub fn add_namespace(&mut self, nqn: &Nqn, config: NamespaceConfig) -> Result<(), ConfigError> {
        let id = config.id;
        self.subsystem_mut(nqn)?.add(config)?;
        self.namespace_changed(nqn, id);
        Ok(())
    }

    /// Removes a namespace and tells connected hosts. Requests to its volume may still come until
    /// the queues have taken their new snapshots.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_namespace(&mut self, nqn: &Nqn, id: NamespaceId) -> Result<(), ConfigError> {
        self.subsystem_mut(nqn)?.remove(id)?;
        self.namespace_changed(nqn, id);
        Ok(())
    }

    /// Gives a namespace a new capacity in bytes and tells connected hosts. To be called after a
    /// volume has grown, and before it shrinks.
    ///
    /// # Errors
    /// When it is not there, or the capacity is not a positive multiple of 4096.
    pub fn resize_namespace(
        &mut self,
        nqn: &Nqn,
        id: NamespaceId,
        capacity: u64,
    ) -> Result<(), ConfigError> {
        self.subsystem_mut(nqn)?.change(id, |config| config.capacity = capacity)?;
        self.namespace_changed(nqn, id);
        Ok(())
    }

    /// Gives a namespace a new name and tells connected hosts.
    ///
    /// # Errors
    /// When it is not there.
    pub fn rename_namespace(
        &mut self,
        nqn: &Nqn,
        id: NamespaceId,
        name: &str,
    ) -> Result<(), ConfigError> {
        self.subsystem_mut(nqn)?.change(id, |config| config.name = name.into())?;
        self.namespace_changed(nqn, id);
        Ok(())
    }

    /// Forbids or allows writes to a namespace and tells connected hosts.
    ///
    /// # Errors
    /// When it is not there.
    pub fn set_read_only(
        &mut self,
        nqn: &Nqn,
        id: NamespaceId,
        read_only: bool,
    ) -> Result<(), ConfigError> {
        self.subsystem_mut(nqn)?.change(id, |config| config.read_only = read_only)?;
        self.namespace_changed(nqn, id);
        Ok(())
    }

    /// Notes how many bytes of a namespace are allocated (NUSE); hosts are not told.
    ///
    /// # Errors
    /// When it is not there.
    pub fn set_used(&mut self, nqn: &Nqn, id: NamespaceId, used: u64) -> Result<(), ConfigError> {
        let entry = self.subsystem_mut(nqn)?.namespaces.get_mut(&id.0);
        entry.ok_or(ConfigError::NotFound("namespace"))?.used = used;
        Ok(())
    }

    /// Admits a host to a subsystem.
    ///
    /// # Errors
    /// When the subsystem is not there, or its list is full.
    pub fn allow_host(&mut self, nqn: &Nqn, host: Nqn) -> Result<(), ConfigError> {
        let hosts = self.hosts(nqn)?;
        if hosts.listed.len() >= HOSTS_MAX && !hosts.listed.contains(&host) {
            return Err(ConfigError::TooMany("hosts"));
        }
        self.change_hosts(nqn, |hosts| {
            hosts.listed.insert(host);
        })
    }

    /// Takes a host off the list and, unless every host is allowed, disconnects it.
    ///
    /// # Errors
    /// When the subsystem is not there, or the host is not on its list.
    pub fn deny_host(&mut self, nqn: &Nqn, host: &Nqn) -> Result<(), ConfigError> {
        if !self.hosts(nqn)?.listed.contains(host) {
            return Err(ConfigError::NotFound("host on the list"));
        }
        self.change_hosts(nqn, |hosts| {
            hosts.listed.remove(host);
        })
    }

    /// Admits every host, or only those listed; in that case others are disconnected.
    ///
    /// # Errors
    /// When the subsystem is not there.
    pub fn set_allow_any(&mut self, nqn: &Nqn, any: bool) -> Result<(), ConfigError> {
        self.change_hosts(nqn, |hosts| hosts.any = any)
    }

    /// Hosts that a subsystem admits.
    ///
    /// # Errors
    /// When the subsystem is not there.
    pub fn hosts(&self, nqn: &Nqn) -> Result<&AllowedHosts, ConfigError> {
        let subsystem = self.subsystems.get(nqn).ok_or(ConfigError::NotFound("subsystem"))?;
        Ok(&subsystem.config.hosts)
    }

    /// Adds a port: discovery names it from now on.
    ///
    /// # Errors
    /// When its number is taken, or there are too many.
    pub fn add_port(&mut self, port: Port) -> Result<(), ConfigError> {
        if self.ports.contains_key(&port.id) {
            return Err(ConfigError::Exists("the port"));
        }
        if self.ports.len() == PORTS_MAX {
            return Err(ConfigError::TooMany("ports"));
        }
        self.ports.insert(port.id, port);
        self.ports_changed();
        Ok(())
    }

    /// Removes a port; its connections stay.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_port(&mut self, id: PortId) -> Result<(), ConfigError> {
        self.ports.remove(&id).ok_or(ConfigError::NotFound("port"))?;
        self.ports_changed();
        Ok(())
    }

    fn subsystem_mut(&mut self, nqn: &Nqn) -> Result<&mut Subsystem, ConfigError> {
        self.subsystems.get_mut(nqn).ok_or(ConfigError::NotFound("subsystem"))
    }

    /// Hands out the new snapshot, then tells the hosts.
    fn namespace_changed(&mut self, nqn: &Nqn, id: NamespaceId) {
        let keys = self.keys(|controller| controller.subsystem == *nqn);
        for &key in &keys {
            self.push_namespaces(key);
        }
        for key in keys {
            let controller = self.controllers.get_mut(&key).expect("just listed");
            controller.events.namespace_changed(id.0);
            self.tell(key);
        }
    }

    /// Gives the I/O queues of a controller what they now address.
    pub(super) fn push_namespaces(&mut self, key: ControllerKey) {
        let controller = &self.controllers[&key];
        if controller.io_queues().next().is_none() {
            return;
        }
        let snapshot = self.subsystems[&controller.subsystem].snapshot(&controller.registrant());
        for connection in controller.io_queues() {
            self.actions.push_back(Action::SetNamespaces(connection, snapshot.clone()));
        }
    }

    fn change_hosts(
        &mut self,
        nqn: &Nqn,
        change: impl FnOnce(&mut AllowedHosts),
    ) -> Result<(), ConfigError> {
        let hosts = &mut self.subsystem_mut(nqn)?.config.hosts;
        let before = hosts.clone();
        change(hosts);
        let after = hosts.clone();
        self.close_controllers(|controller| {
            controller.subsystem == *nqn && !after.admits(&controller.host)
        });
        self.visibility_changed(&before, &after);
        Ok(())
    }

    /// A subsystem is seen by other hosts than before.
    fn visibility_changed(&mut self, before: &AllowedHosts, after: &AllowedHosts) {
        self.generations.visibility_changed(before, after);
        self.discovery_changed(|host| before.admits(host) != after.admits(host));
    }

    fn ports_changed(&mut self) {
        self.generations.everything_changed();
        self.discovery_changed(|_| true);
    }

    fn discovery_changed(&mut self, sees: impl Fn(&Nqn) -> bool) {
        let is_concerned =
            |controller: &Controller| controller.kind == Kind::Discovery && sees(&controller.host);
        for key in self.keys(is_concerned) {
            let controller = self.controllers.get_mut(&key).expect("just listed");
            controller.events.raise(Notice::Discovery);
            self.tell(key);
        }
    }

    fn close_controllers(&mut self, is_concerned: impl Fn(&Controller) -> bool) {
        for key in self.keys(is_concerned) {
            self.close_controller(key);
        }
    }

    pub(super) fn keys(&self, is_concerned: impl Fn(&Controller) -> bool) -> Vec<ControllerKey> {
        let concerned = self
            .controllers
            .iter()
            .filter(|(_, controller)| !controller.is_closing() && is_concerned(controller));
        concerned.map(|(&key, _)| key).collect()
    }
}
