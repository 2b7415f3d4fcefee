//! Get Features and Set Features (sections 5.15, 5.27). No feature can be saved; write protection
//! is kept without.

use super::admin::check_room;
use super::controller::{Controller, ControllerKey, Kind};
use super::{Target, TargetConfig};
use crate::io::Now;
use crate::seam::{Reply, Slot};
use core::time::Duration;
use storage_spec::nvme::command::Command;
use storage_spec::nvme::feature::{
    ErrorRecovery, Feature, FeatureCapabilities, FeatureDword10, HOST_BEHAVIOR_SIZE,
    HOST_ID_EXTENDED, NumberOfQueues, SELECT_CAPABILITIES, SELECT_CURRENT, SELECT_DEFAULT,
    SELECT_SAVED, TemperatureThreshold, WRITE_PROTECTION_OFF,
};
use storage_spec::nvme::identify::{AsyncEvents, NSID_ALL};
use storage_spec::nvme::status::Status;

/// Granularity of the Keep Alive Timeout in 100 ms (KAS).
pub(super) const KEEP_ALIVE_GRANULARITY: u16 = 1;

/// Critical warnings that a host may ask to be told of.
const HEALTH_EVENTS: u8 = 0x1F;

/// Temperature threshold that is never crossed from below, in K.
const THRESHOLD_OVER_DEFAULT: u16 = 0xFFFF;

/// Features of a controller that hosts set. None but the Keep Alive Timeout changes what it does.
#[derive(Debug, Clone)]
pub(super) struct Features {
    keep_alive_ms: u32,
    io_queues: Option<u16>,
    arbitration: u32,
    error_recovery: u32,
    interrupt_coalescing: u32,
    write_atomicity: u32,
    threshold_over: u16,
    threshold_under: u16,
    host_behavior: [u8; 4],
}

impl Features {
    pub(super) fn new(keep_alive_ms: u32) -> Self {
        Self {
            keep_alive_ms: rounded_up(keep_alive_ms),
            io_queues: None,
            arbitration: 0,
            error_recovery: 0,
            interrupt_coalescing: 0,
            write_atomicity: 0,
            threshold_over: THRESHOLD_OVER_DEFAULT,
            threshold_under: 0,
            host_behavior: [0; 4],
        }
    }

    /// As after a controller reset.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.keep_alive_ms);
    }

    /// Zero for none.
    pub(super) fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms.into())
    }

    /// The largest queue id that the host may connect.
    pub(super) fn io_queues(&self, config: &TargetConfig) -> u16 {
        self.io_queues.unwrap_or(config.io_queues_max)
    }

    /// Whether a temperature in K is at or beyond a threshold.
    pub(super) fn is_beyond(&self, temperature: u16) -> bool {
        temperature >= self.threshold_over || temperature <= self.threshold_under
    }

    fn threshold(&mut self, which: TemperatureThreshold) -> Result<&mut u16, Status> {
        match which.kind() {
            0 => Ok(&mut self.threshold_over),
            1 => Ok(&mut self.threshold_under),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }
}

impl Target {
    pub(super) fn get_feature(
        &self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<Reply, Status> {
        let controller = &self.controllers[&key];
        let dword_10 = FeatureDword10::from(command.dword(10));
        let feature = Feature(dword_10.feature());
        check_supported(feature, controller.kind)?;
        let defaults = Features::new(0);
        match dword_10.select() {
            SELECT_CURRENT | SELECT_SAVED if feature == Feature::WriteProtection => {
                let state = self.protection(key, command)?;
                Ok(Reply::value(u32::from(state).into()))
            }
            SELECT_DEFAULT if feature == Feature::WriteProtection => {
                self.protection(key, command)?;
                Ok(Reply::value(WRITE_PROTECTION_OFF.into()))
            }
            SELECT_CURRENT | SELECT_SAVED if feature == Feature::ReservationPersistence => {
                self.reservation_persistence(key, command)
            }
            SELECT_CURRENT if feature == Feature::ReservationMask => {
                self.reservation_mask(key, command)
            }
            SELECT_DEFAULT | SELECT_SAVED
                if matches!(
                    feature,
                    Feature::ReservationMask | Feature::ReservationPersistence
                ) =>
            {
                Ok(Reply::value(0))
            }
            SELECT_CURRENT if feature == Feature::AsyncEventConfiguration => {
                Ok(Reply::value(u32::from(controller.events.wanted).into()))
            }
            SELECT_CURRENT => {
                self.feature_value(&controller.features, controller, feature, command)
            }
            SELECT_DEFAULT | SELECT_SAVED if feature == Feature::AsyncEventConfiguration => {
                Ok(Reply::value(0))
            }
            SELECT_DEFAULT | SELECT_SAVED => {
                self.feature_value(&defaults, controller, feature, command)
            }
            SELECT_CAPABILITIES => {
                let capabilities = FeatureCapabilities::new()
                    .with_namespace_specific(is_namespace_specific(feature))
                    .with_changeable(feature != Feature::HostIdentifier);
                Ok(Reply::value(u32::from(capabilities).into()))
            }
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    pub(super) fn set_feature(
        &mut self,
        now: Now,
        key: ControllerKey,
        slot: Slot,
        command: &Command,
        data: &[u8],
    ) -> Result<Option<Reply>, Status> {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let dword_10 = FeatureDword10::from(command.dword(10));
        let feature = Feature(dword_10.feature());
        check_supported(feature, controller.kind)?;
        if dword_10.save() {
            return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
        }
        let for_one_namespace = !matches!(command.namespace_id.get(), 0 | NSID_ALL);
        if for_one_namespace && !is_namespace_specific(feature) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
        }
        let value = command.dword(11);
        match feature {
            Feature::NumberOfQueues => {
                let limit = self.config.io_queues_max;
                return controller.grant_queues(NumberOfQueues::from(value), limit).map(Some);
            }
            Feature::WriteProtection => return self.set_protection(key, slot, command),
            Feature::ReservationMask => return self.set_reservation_mask(key, command).map(Some),
            Feature::ReservationPersistence => {
                return self.set_reservation_persistence(key, slot, command);
            }
            Feature::AsyncEventConfiguration => {
                controller.choose_events(AsyncEvents::from(value))?;
                self.warn(key);
            }
            Feature::KeepAliveTimer => {
                controller.features.keep_alive_ms = rounded_up(value);
                controller.association.touch(now);
                self.watch(key);
            }
            Feature::TemperatureThreshold => {
                controller.features.set(feature, value, data)?;
                self.warn(key);
            }
            _ => controller.features.set(feature, value, data)?,
        }
        Ok(Some(Reply::done()))
    }

    fn feature_value(
        &self,
        features: &Features,
        controller: &Controller,
        feature: Feature,
        command: &Command,
    ) -> Result<Reply, Status> {
        let dword_11 = command.dword(11);
        let value = match feature {
            Feature::Arbitration => features.arbitration,
            Feature::PowerManagement | Feature::CommandSetProfile => 0,
            Feature::TemperatureThreshold => {
                let threshold = TemperatureThreshold::from(dword_11);
                u32::from(*features.clone().threshold(threshold)?)
            }
            Feature::ErrorRecovery => features.error_recovery,
            Feature::NumberOfQueues => granted(features.io_queues(&self.config)).into(),
            Feature::InterruptCoalescing => features.interrupt_coalescing,
            // There are no interrupts; the vector that was asked for is told back.
            Feature::InterruptVector => dword_11 & 0xFFFF,
            Feature::WriteAtomicity => features.write_atomicity,
            Feature::KeepAliveTimer => features.keep_alive_ms,
            Feature::HostBehavior => {
                check_room(command, HOST_BEHAVIOR_SIZE)?;
                let mut data = vec![0; HOST_BEHAVIOR_SIZE];
                data[..4].copy_from_slice(&features.host_behavior);
                return Ok(Reply::data(data));
            }
            // Fabrics knows the wide form alone.
            Feature::HostIdentifier if dword_11 & HOST_ID_EXTENDED != 0 => {
                check_room(command, controller.host_id.len())?;
                return Ok(Reply::data(controller.host_id.to_vec()));
            }
            _ => return Err(Status::INVALID_FIELD.dnr()),
        };
        Ok(Reply::value(value.into()))
    }
}

impl Features {
    /// Features that are only kept.
    fn set(&mut self, feature: Feature, value: u32, data: &[u8]) -> Result<(), Status> {
        let invalid = Status::INVALID_FIELD.dnr();
        match feature {
            Feature::Arbitration => self.arbitration = value,
            // One power state, one combination of command sets.
            Feature::PowerManagement | Feature::CommandSetProfile if value != 0 => {
                return Err(invalid);
            }
            Feature::PowerManagement | Feature::CommandSetProfile => {}
            Feature::TemperatureThreshold => {
                let threshold = TemperatureThreshold::from(value);
                if !matches!(threshold.sensor(), 0 | 0xF) {
                    return Err(invalid);
                }
                *self.threshold(threshold)? = threshold.threshold();
            }
            // Deallocated blocks always read as zeroes.
            Feature::ErrorRecovery if ErrorRecovery::from(value).deallocated_error() => {
                return Err(invalid);
            }
            Feature::ErrorRecovery => self.error_recovery = value,
            Feature::InterruptCoalescing => self.interrupt_coalescing = value & 0xFFFF,
            Feature::InterruptVector => {}
            Feature::WriteAtomicity => self.write_atomicity = value & 1,
            Feature::HostBehavior => {
                let data = data.get(..HOST_BEHAVIOR_SIZE);
                let data = data.ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
                if data[0] > 1 {
                    return Err(invalid);
                }
                self.host_behavior.copy_from_slice(&data[..4]);
            }
            // Set by Connect.
            Feature::HostIdentifier => return Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            _ => return Err(invalid),
        }
        Ok(())
    }
}

impl Controller {
    fn grant_queues(&mut self, asked: NumberOfQueues, limit: u16) -> Result<Reply, Status> {
        if asked.submission_z() == u16::MAX || asked.completion_z() == u16::MAX {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if self.io_queues().next().is_some() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        // A submission queue and a completion queue are one connection.
        let count = asked.submission_z().min(asked.completion_z()) + 1;
        let count = count.min(limit);
        self.features.io_queues = Some(count);
        Ok(Reply::value(u32::from(granted(count)).into()))
    }

    fn choose_events(&mut self, wanted: AsyncEvents) -> Result<(), Status> {
        let possible = match self.kind {
            Kind::Nvm => offered_events(self.kind).with_health(HEALTH_EVENTS),
            Kind::Discovery => offered_events(self.kind),
        };
        if u32::from(wanted) & !u32::from(possible) != 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        self.events.wanted = wanted;
        Ok(())
    }
}

/// Events that a controller of this kind has to tell (OAES).
pub(super) fn offered_events(kind: Kind) -> AsyncEvents {
    match kind {
        Kind::Nvm => AsyncEvents::new().with_namespace_attribute(true).with_ana(true),
        Kind::Discovery => AsyncEvents::new().with_discovery(true),
    }
}

/// Features of a controller with namespaces. Not the volatile write cache: without one, the
/// specification has the feature refused.
pub(super) const FEATURES: [Feature; 16] = [
    Feature::Arbitration,
    Feature::PowerManagement,
    Feature::TemperatureThreshold,
    Feature::ErrorRecovery,
    Feature::NumberOfQueues,
    Feature::InterruptCoalescing,
    Feature::InterruptVector,
    Feature::WriteAtomicity,
    Feature::AsyncEventConfiguration,
    Feature::KeepAliveTimer,
    Feature::HostBehavior,
    Feature::CommandSetProfile,
    Feature::HostIdentifier,
    Feature::ReservationMask,
    Feature::ReservationPersistence,
    Feature::WriteProtection,
];

/// Features of a discovery controller.
pub(super) const DISCOVERY_FEATURES: [Feature; 2] =
    [Feature::AsyncEventConfiguration, Feature::KeepAliveTimer];

pub(super) fn is_namespace_specific(feature: Feature) -> bool {
    matches!(
        feature,
        Feature::ErrorRecovery
            | Feature::WriteProtection
            | Feature::ReservationMask
            | Feature::ReservationPersistence
    )
}

fn check_supported(feature: Feature, kind: Kind) -> Result<(), Status> {
    let features: &[Feature] = match kind {
        Kind::Nvm => &FEATURES,
        Kind::Discovery => &DISCOVERY_FEATURES,
    };
    if features.contains(&feature) { Ok(()) } else { Err(Status::INVALID_FIELD.dnr()) }
}

fn granted(count: u16) -> NumberOfQueues {
    NumberOfQueues::new().with_submission_z(count - 1).with_completion_z(count - 1)
}

fn rounded_up(keep_alive_ms: u32) -> u32 {
    let step = u32::from(KEEP_ALIVE_GRANULARITY) * 100;
    keep_alive_ms.div_ceil(step).saturating_mul(step)
}
