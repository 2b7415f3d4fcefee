//! Unit attentions of one nexus: conditions that its next command to a logical unit is told of
//! instead of being executed (SAM-5 section 5.14).

use super::copies::CopyLog;
use super::{Lun, Sense};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage_spec::scsi::Opcode;
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};

/// A condition, in the order in which conditions are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attention {
    /// The target started.
    PowerOn,
    /// Power on, reset or a new nexus: whichever.
    PowerOnOrReset,
    /// A task management function reset the logical unit or the target.
    Reset,
    /// The nexus was lost: commands, and what they had set, are.
    NexusLoss,
    /// Another nexus changed mode parameters.
    ModeParametersChanged,
    /// The reservation of this nexus was preempted.
    ReservationsPreempted,
    /// The reservation was released under which this nexus was registered.
    ReservationsReleased,
    /// The registration of this nexus was removed.
    RegistrationsPreempted,
    /// A target port group has another state.
    AsymmetricAccessChanged,
    /// The capacity is another.
    CapacityChanged,
    /// INQUIRY would say something else.
    InquiryDataChanged,
    /// There are other logical units.
    ReportedLunsChanged,
    /// Space runs out.
    ThinProvisioningThreshold,
}

impl Attention {
    const ALL: [Self; 13] = [
        Self::PowerOn,
        Self::PowerOnOrReset,
        Self::Reset,
        Self::NexusLoss,
        Self::ModeParametersChanged,
        Self::ReservationsPreempted,
        Self::ReservationsReleased,
        Self::RegistrationsPreempted,
        Self::AsymmetricAccessChanged,
        Self::CapacityChanged,
        Self::InquiryDataChanged,
        Self::ReportedLunsChanged,
        Self::ThinProvisioningThreshold,
    ];

    /// As sense data.
    #[must_use]
    pub fn sense(self) -> Sense {
        let code = match self {
            Self::PowerOn => AdditionalSense::PowerOn,
            Self::PowerOnOrReset => AdditionalSense::PowerOnOrReset,
            Self::Reset => AdditionalSense::DeviceReset,
            Self::NexusLoss => AdditionalSense::NexusLoss,
            Self::ModeParametersChanged => AdditionalSense::ModeParametersChanged,
            Self::ReservationsPreempted => AdditionalSense::ReservationsPreempted,
            Self::ReservationsReleased => AdditionalSense::ReservationsReleased,
            Self::RegistrationsPreempted => AdditionalSense::RegistrationsPreempted,
            Self::AsymmetricAccessChanged => AdditionalSense::AsymmetricAccessChanged,
            Self::CapacityChanged => AdditionalSense::CapacityChanged,
            Self::InquiryDataChanged => AdditionalSense::InquiryDataChanged,
            Self::ReportedLunsChanged => AdditionalSense::ReportedLunsChanged,
            Self::ThinProvisioningThreshold => AdditionalSense::ThinProvisioningThreshold,
        };
        Sense::new(SenseKey::UnitAttention, code)
    }

    /// Whether what was to be told before is void.
    fn is_reset(self) -> bool {
        matches!(self, Self::PowerOn | Self::PowerOnOrReset | Self::Reset)
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// What is between one nexus and its units: the conditions that it has not been told of, a bit for
/// each and LUN, so they are bounded; and what came of its copies.
#[derive(Debug, Default)]
pub struct Attentions {
    pending: BTreeMap<Lun, u16>,
    pub(super) copies: Arc<CopyLog>,
}

impl Attentions {
    /// Establishes a condition. A reset makes what came before it void.
    pub fn post(&mut self, lun: Lun, attention: Attention) {
        let pending = self.pending.entry(lun).or_default();
        if attention.is_reset() {
            *pending = 0;
        }
        *pending |= attention.bit();
    }

    /// Forgets what concerns a unit that is gone.
    pub fn forget(&mut self, lun: Lun) {
        self.pending.remove(&lun);
    }

    /// What the next command would be told.
    #[must_use]
    pub fn first(&self, lun: Lun) -> Option<Attention> {
        let pending = self.pending.get(&lun)?;
        Attention::ALL.into_iter().find(|attention| pending & attention.bit() != 0)
    }

    /// The condition that a command is told of instead of being executed: it is cleared.
    pub(super) fn interrupt(&mut self, lun: Lun, opcode: Opcode) -> Option<Attention> {
        if self.pending.is_empty() {
            return None;
        }
        match opcode {
            Opcode::Inquiry | Opcode::RequestSense => None,
            Opcode::ReportLuns => {
                self.luns_reported();
                None
            }
            _ => self.take(lun),
        }
    }

    /// The first condition, which is cleared.
    pub(super) fn take(&mut self, lun: Lun) -> Option<Attention> {
        let attention = self.first(lun)?;
        let pending = self.pending.get_mut(&lun).expect("there is one");
        *pending &= !attention.bit();
        if *pending == 0 {
            self.pending.remove(&lun);
        }
        Some(attention)
    }

    /// The initiator learns of all units by REPORT LUNS.
    fn luns_reported(&mut self) {
        self.pending.retain(|_, pending| {
            *pending &= !Attention::ReportedLunsChanged.bit();
            *pending != 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LUN: Lun = Lun(3);

    #[test]
    fn all_are_in_order() {
        assert!(Attention::ALL.is_sorted());
        for (at, attention) in Attention::ALL.into_iter().enumerate() {
            assert_eq!(attention.bit(), 1 << at);
        }
    }

    #[test]
    fn told_once_by_priority_to_commands_that_may_hear() {
        let mut attentions = Attentions::default();
        attentions.post(LUN, Attention::CapacityChanged);
        attentions.post(LUN, Attention::ModeParametersChanged);
        attentions.post(LUN, Attention::CapacityChanged);
        assert_eq!(attentions.interrupt(Lun(2), Opcode::Read10), None);
        assert_eq!(attentions.interrupt(LUN, Opcode::Inquiry), None);
        assert_eq!(attentions.interrupt(LUN, Opcode::RequestSense), None);
        let told = attentions.interrupt(LUN, Opcode::Read10);
        assert_eq!(told, Some(Attention::ModeParametersChanged));
        assert_eq!(attentions.take(LUN), Some(Attention::CapacityChanged));
        assert_eq!(attentions.interrupt(LUN, Opcode::Read10), None);
        assert!(attentions.pending.is_empty());
    }

    #[test]
    fn reset_voids_what_was_before() {
        let mut attentions = Attentions::default();
        attentions.post(LUN, Attention::ModeParametersChanged);
        attentions.post(LUN, Attention::Reset);
        attentions.post(LUN, Attention::CapacityChanged);
        assert_eq!(attentions.take(LUN), Some(Attention::Reset));
        assert_eq!(attentions.take(LUN), Some(Attention::CapacityChanged));
        assert_eq!(attentions.take(LUN), None);
    }

    #[test]
    fn report_luns_tells_of_luns() {
        let mut attentions = Attentions::default();
        attentions.post(LUN, Attention::ReportedLunsChanged);
        attentions.post(Lun(0), Attention::ReportedLunsChanged);
        attentions.post(Lun(0), Attention::CapacityChanged);
        assert_eq!(attentions.interrupt(LUN, Opcode::ReportLuns), None);
        assert_eq!(attentions.first(LUN), None);
        assert_eq!(attentions.first(Lun(0)), Some(Attention::CapacityChanged));
    }
}
