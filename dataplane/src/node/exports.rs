//! The targets as a node's configuration describes them: one subsystem and one iSCSI target,
//! reached through all portals of their protocol.

use super::{NodeConfig, Protocol, StartError};
use crate::frontend::ProtocolKind;
use crate::net::ListenerId;
use hashbrown::HashMap;
use iscsi_target::target as protocol;
use nvmeof_target::target::{
    AllowedHosts, Nqn, Port, PortId, SubsystemConfig, Target, TargetConfig,
};
use std::net::SocketAddr;

/// Controller ids of a node that stands alone.
const CONTROLLER_IDS: std::ops::RangeInclusive<u16> = 1..=0xFFEF;

/// A target that knows its subsystem and its ports, and no namespace yet. `addresses` are those
/// that the portals really listen on, in their order; `seed` differs from start to start.
pub(crate) fn target(
    config: &NodeConfig,
    addresses: &[SocketAddr],
    seed: u64,
) -> Result<(Target, Nqn), StartError> {
    let refuse = |what: &str, why: String| StartError::Config(format!("{what}: {why}"));
    let nqn = Nqn::new(&config.nqn).map_err(|error| refuse(&config.nqn, error.to_string()))?;
    let mut target = Target::new(TargetConfig { seed, ..TargetConfig::default() });
    let subsystem = SubsystemConfig {
        nqn: nqn.clone(),
        serial: config.name.clone(),
        model: "Basalt".into(),
        controller_ids: CONTROLLER_IDS,
        hosts: AllowedHosts::default(),
    };
    target.add_subsystem(subsystem).map_err(|error| refuse("`nqn`", error.to_string()))?;
    for (number, (portal, &listen)) in config.portals.iter().zip(addresses).enumerate() {
        if portal.protocol != Protocol::Nvme {
            continue;
        }
        let port = Port {
            id: PortId(number as u16),
            listen,
            advertised: portal.advertise,
            discovery_only: portal.discovery_only,
        };
        target.add_port(port).map_err(|error| refuse("[[portal]]", error.to_string()))?;
    }
    Ok((target, nqn))
}

/// Portals by their listeners, with what they speak; and the addresses of all.
pub(super) fn portals(
    config: &NodeConfig,
    listeners: Vec<(ListenerId, SocketAddr)>,
) -> (HashMap<ListenerId, (u16, ProtocolKind)>, Vec<SocketAddr>) {
    let portals = listeners.into_iter().zip(&config.portals).enumerate();
    portals
        .map(|(number, ((listener, address), portal))| {
            let kind = match portal.protocol {
                Protocol::Nvme => ProtocolKind::Nvme,
                Protocol::Iscsi => ProtocolKind::Iscsi,
            };
            ((listener, (number as u16, kind)), address)
        })
        .unzip()
}

/// Why a text is no iSCSI name, if so.
///
/// # Errors
/// A sentence.
pub fn check_iscsi_name(name: &str) -> Result<(), String> {
    protocol::IscsiName::new(name).map(|_| ()).map_err(|error| error.to_string())
}

/// An iSCSI target that knows its portals, and no unit yet; `addresses` as above.
pub(crate) fn iscsi(
    config: &NodeConfig,
    addresses: &[SocketAddr],
    entropy: protocol::Entropy,
) -> Result<protocol::Target, StartError> {
    let name = protocol::IscsiName::new(&config.iqn)
        .map_err(|error| StartError::Config(format!("`iqn`: {error}")))?;
    let config_of_target = protocol::TargetConfig {
        name,
        alias: config.name.clone(),
        terms: protocol::Terms::default(),
        receive_max: iscsi_target::limits::RECEIVE_MAX,
    };
    let mut target = protocol::Target::new(config_of_target, entropy);
    for (number, (portal, &listen)) in config.portals.iter().zip(addresses).enumerate() {
        if portal.protocol == Protocol::Iscsi {
            let (id, advertised) = (number as u16, portal.advertise);
            target.add_portal(protocol::Portal { id, listen, advertised });
        }
    }
    Ok(target)
}
