//! The discovery log page (section 5.16.1.23): what a host may connect to, and where.

use super::Target;
use super::config::{AllowedHosts, Nqn, Port};
use super::controller::Controller;
use super::log::Window;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use storage_spec::fabrics::{
    ADDRESS_IPV4, ADDRESS_IPV6, CONTROLLER_ID_DYNAMIC, DiscoveryEntry, DiscoveryHeader, EntryFlags,
    SUBSYSTEM_CURRENT_DISCOVERY, SUBSYSTEM_NVM, TRANSPORT_TCP, TransportRequirements,
};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Entries of the admin queue that a host may count on (ASQSZ).
const ADMIN_QUEUE_ENTRIES: u16 = 32;

/// Generation counters (GENCTR): rise whenever the log that a host sees has changed.
#[derive(Debug)]
pub(super) struct Generations {
    /// Changes that every host may see.
    all: u64,
    /// Changes that one host sees, on top.
    hosts: BTreeMap<Nqn, u64>,
}

impl Generations {
    /// Begins somewhere else at each start, so that a host does not take the log of a restarted
    /// node for the one that it has read.
    pub(super) fn new(seed: u64) -> Self {
        Self { all: seed & u64::from(u32::MAX), hosts: BTreeMap::new() }
    }

    pub(super) fn everything_changed(&mut self) {
        self.all += 1;
    }

    pub(super) fn visibility_changed(&mut self, before: &AllowedHosts, after: &AllowedHosts) {
        if before.any != after.any {
            self.everything_changed();
        } else if !after.any {
            for host in before.listed.symmetric_difference(&after.listed) {
                *self.hosts.entry(host.clone()).or_default() += 1;
            }
        }
    }

    fn of(&self, host: &Nqn) -> u64 {
        self.all + self.hosts.get(host).copied().unwrap_or_default()
    }
}

impl Target {
    /// The part of the log that lies in `window`, for the host of `controller`. Made anew at each
    /// read: a host that reads in parts compares the generation, as the specification tells it to.
    pub(super) fn discovery_log(&self, controller: &Controller, window: &mut Window) {
        let entries = || self.discovery_entries(controller);
        let mut header = DiscoveryHeader::new_zeroed();
        header.generation = U64::new(self.generations.of(&controller.host));
        header.records = U64::new(entries().count() as u64);
        window.put(header.as_bytes());
        for entry in entries() {
            if window.reaches(size_of::<DiscoveryEntry>()) {
                window.put(entry.render().as_bytes());
            } else {
                window.skip(size_of::<DiscoveryEntry>());
            }
        }
    }

    /// The discovery subsystem itself, by the way the host came; then all others by all ways that
    /// it can go, in the order of their names.
    fn discovery_entries<'a>(
        &'a self,
        controller: &'a Controller,
    ) -> impl Iterator<Item = Entry<'a>> {
        let context = controller.context;
        let asked = self.ports.get(&context.port);
        let entry_at = move |port: &'a Port, subsystem: Option<&'a Nqn>| {
            let address = port.address_for(context.local, asked?)?;
            Some(Entry { port, address, subsystem })
        };
        let current = asked.and_then(|port| entry_at(port, None));
        let visible = self
            .subsystems
            .values()
            .filter(|subsystem| subsystem.config.hosts.admits(&controller.host));
        let others = visible.flat_map(move |subsystem| {
            let ports = self.ports.values().filter(|port| !port.discovery_only);
            ports.filter_map(move |port| entry_at(port, Some(&subsystem.config.nqn)))
        });
        current.into_iter().chain(others)
    }
}

/// One entry; without a subsystem it is the discovery subsystem's own.
struct Entry<'a> {
    port: &'a Port,
    address: SocketAddr,
    subsystem: Option<&'a Nqn>,
}

impl Entry<'_> {
    fn render(&self) -> DiscoveryEntry {
        let mut entry = DiscoveryEntry::new_zeroed();
        entry.transport = TRANSPORT_TCP;
        entry.address_family = if self.address.is_ipv4() { ADDRESS_IPV4 } else { ADDRESS_IPV6 };
        // Hosts take this as leave to disable flow control, which spares them a response capsule
        // for each read.
        entry.requirements = TransportRequirements::new().with_flow_control_optional(true).into();
        entry.port_id = U16::new(self.port.id.0);
        entry.controller_id = U16::new(CONTROLLER_ID_DYNAMIC);
        entry.admin_queue_size = U16::new(ADMIN_QUEUE_ENTRIES);
        entry.service = padded(&self.address.port().to_string());
        entry.address = padded(&self.address.ip().to_string());
        match self.subsystem {
            Some(nqn) => {
                entry.subsystem_type = SUBSYSTEM_NVM;
                entry.subsystem_nqn = nqn.to_field();
            }
            None => {
                entry.subsystem_type = SUBSYSTEM_CURRENT_DISCOVERY;
                entry.subsystem_nqn = Nqn::discovery().to_field();
                let flags = EntryFlags::new().with_duplicate(true).with_persistent(true);
                entry.flags = U16::new(flags.into());
            }
        }
        entry
    }
}

/// Space padded ASCII.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let printable = text.bytes().map(|byte| match byte {
        b' '..=b'~' => byte,
        _ => b'?',
    });
    for (place, byte) in field.iter_mut().zip(printable) {
        *place = byte;
    }
    field
}
