//! Asymmetric access: REPORT and SET TARGET PORT GROUPS (SPC-4 sections 6.37 and 6.45). All ports
//! are one group, so that every path answers the same.

use super::vital::PORT_GROUP_ID;
use super::{Device, allocation_32, cut};
use crate::scsi::{Attention, Readiness, Sense};
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};
use target_io::ConnectionId;

/// State of the target port group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessState {
    /// Active, and the best.
    #[default]
    Optimized = 0,
    /// Active.
    NonOptimized = 1,
    /// Answers commands that do not concern the medium.
    Standby = 2,
    /// Answers few.
    Unavailable = 3,
    /// On its way to another state.
    Transitioning = 0xF,
}

impl AccessState {
    /// What units are in it.
    pub(super) fn readiness(self) -> Readiness {
        match self {
            Self::Optimized | Self::NonOptimized => Readiness::Ready,
            Self::Standby => Readiness::Standby,
            Self::Unavailable => Readiness::Unavailable,
            Self::Transitioning => Readiness::Transitioning,
        }
    }
}

/// T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP.
const STATES_SUPPORTED: u8 = 0x8F;
/// Why the state is what it is.
const BY_NOTHING: u8 = 0;
const BY_COMMAND: u8 = 1;
const BY_DEVICE: u8 = 2;
/// IMPLICIT TRANSITION TIME of the extended header, in seconds.
const TRANSITION_SECONDS: u8 = 10;

/// The group as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortGroup {
    pub(super) state: AccessState,
    changed_by: u8,
}

impl PortGroup {
    pub(super) const fn new() -> Self {
        Self { state: AccessState::Optimized, changed_by: BY_NOTHING }
    }
}

impl Device {
    /// Gives the target port group another state, which every nexus is told of.
    pub fn set_access_state(&mut self, state: AccessState) {
        self.change_state(state, BY_DEVICE, None);
    }

    fn change_state(&mut self, state: AccessState, by: u8, except: Option<ConnectionId>) {
        if self.group.state == state {
            return;
        }
        self.group = PortGroup { state, changed_by: by };
        let luns: Vec<_> = self.units.keys().copied().collect();
        self.changed(&luns, except, Attention::AsymmetricAccessChanged);
    }

    pub(super) fn report_groups(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        let mut data = match cdb[1] >> 5 {
            0 => vec![0; 4],
            1 => vec![0, 0, 0, 0, 0x10, TRANSITION_SECONDS, 0, 0],
            _ => return Err(Sense::cdb_bit(1, 7)),
        };
        let [high, low] = PORT_GROUP_ID.to_be_bytes();
        let ports = &self.config.ports;
        let PortGroup { state, changed_by } = self.group;
        let head = [state as u8, STATES_SUPPORTED, high, low, 0, changed_by, 0, ports.len() as u8];
        data.extend_from_slice(&head);
        for port in ports {
            let [high, low] = port.relative.to_be_bytes();
            data.extend_from_slice(&[0, 0, high, low]);
        }
        let len = (data.len() - 4) as u32;
        data[..4].copy_from_slice(&len.to_be_bytes());
        Ok(cut(data, allocation_32(cdb, 6)))
    }

    /// SET TARGET PORT GROUPS: hosts choose among the active states while the device is in one.
    /// What makes units inaccessible is for the device alone to say: the group is every host's.
    pub(super) fn set_groups(
        &mut self,
        connection: ConnectionId,
        list: &[u8],
    ) -> Result<Vec<u8>, Sense> {
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let descriptors = list.get(4..).unwrap_or_default();
        if descriptors.is_empty() || !descriptors.len().is_multiple_of(4) {
            return Err(Sense::illegal(AdditionalSense::ParameterListLengthError));
        }
        let mut state = self.group.state;
        for (index, descriptor) in descriptors.chunks_exact(4).enumerate() {
            let at = 4 + 4 * index;
            state = match descriptor[0] & 0x0F {
                0 => AccessState::Optimized,
                1 => AccessState::NonOptimized,
                2 => AccessState::Standby,
                3 => AccessState::Unavailable,
                _ => return Err(Sense::list_byte(at)),
            };
            if u16::from_be_bytes([descriptor[2], descriptor[3]]) != PORT_GROUP_ID {
                return Err(Sense::list_byte(at + 2));
            }
        }
        let is_active = |state: AccessState| state.readiness() == Readiness::Ready;
        if self.group.state == AccessState::Transitioning {
            let code = AdditionalSense::NotReadyAsymmetricTransition;
            return Err(Sense::new(SenseKey::NotReady, code));
        }
        if state != self.group.state && !(is_active(state) && is_active(self.group.state)) {
            let code = AdditionalSense::SetTargetPortGroupsFailed;
            return Err(Sense::new(SenseKey::HardwareError, code));
        }
        self.change_state(state, BY_COMMAND, Some(connection));
        Ok(Vec::new())
    }
}
