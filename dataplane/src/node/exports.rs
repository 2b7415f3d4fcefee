//! The target as a node's configuration describes it: one subsystem, one port per portal.

use super::{NodeConfig, StartError};
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
