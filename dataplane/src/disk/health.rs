//! How a drive says it fares: SMART of NVMe and of ATA, in the same terms.

use serde::{Deserialize, Serialize};
use storage_spec::nvme::log::{CriticalWarning, HealthLog};

/// What a drive says of itself. `None` where it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// It says that it is failing, or can no longer be relied upon.
    #[serde(rename = "failing")]
    pub is_failing: bool,
    /// It has lost the ability to write.
    #[serde(rename = "read_only")]
    pub is_read_only: bool,
    /// Degrees Celsius.
    pub temperature: Option<i16>,
    /// Too hot or too cold, by its own thresholds.
    #[serde(rename = "temperature_critical")]
    pub is_temperature_critical: bool,
    /// Percent of its life used; may exceed 100.
    pub used_percent: Option<u8>,
    /// Percent of its spare blocks that are left.
    pub spare_percent: Option<u8>,
    /// Below this many percent it counts the spares as used up.
    pub spare_threshold: Option<u8>,
    /// Times that it could not give back what was stored, or could not store it.
    pub media_errors: Option<u64>,
    /// Hours switched on.
    pub power_on_hours: Option<u64>,
    /// Times that the power went without notice.
    pub unsafe_shutdowns: Option<u64>,
}

/// Why a drive wants attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Concern {
    /// It says that it is failing.
    Failing,
    /// It does not write any more.
    ReadOnly,
    /// Few spare blocks are left.
    Spare,
    /// Its rated life is nearly over.
    Worn,
    /// It is too hot or too cold.
    Temperature,
    /// It has lost data before.
    MediaErrors,
}

impl Concern {
    /// All of them, gravest first.
    pub const ALL: [Self; 6] = [
        Self::Failing,
        Self::ReadOnly,
        Self::Spare,
        Self::Worn,
        Self::Temperature,
        Self::MediaErrors,
    ];

    /// What to tell people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Failing => "the drive says that it is failing: replace it",
            Self::ReadOnly => "the drive takes no more writes: replace it",
            Self::Spare => "spare blocks are nearly used up: replace it soon",
            Self::Worn => "the rated life is nearly over: plan its replacement",
            Self::Temperature => "its temperature is out of bounds: look at the cooling",
            Self::MediaErrors => "it has lost data on its medium",
        }
    }

    /// Whether the drive should be replaced for it.
    #[must_use]
    pub fn is_grave(self) -> bool {
        matches!(self, Self::Failing | Self::ReadOnly)
    }
}

/// Where concern begins, and, a little lower, ends: a value at the threshold makes one event.
const WORN_PERCENT: (u8, u8) = (90, 85);
const HOT_CELSIUS: (i16, i16) = (80, 75);

impl Health {
    /// Why the drive wants attention. `since`: the concerns so far, which end a little below where
    /// they begin.
    #[must_use]
    pub fn concerns(&self, since: &[Concern]) -> Vec<Concern> {
        let is_old = |concern| since.contains(&concern);
        let is = |concern| match concern {
            Concern::Failing => self.is_failing,
            Concern::ReadOnly => self.is_read_only,
            Concern::Spare => match (self.spare_percent, self.spare_threshold) {
                (Some(spare), Some(threshold)) => {
                    spare < threshold.saturating_add(if is_old(concern) { 5 } else { 0 })
                }
                _ => false,
            },
            Concern::Worn => {
                let threshold = if is_old(concern) { WORN_PERCENT.1 } else { WORN_PERCENT.0 };
                self.used_percent.is_some_and(|used| used >= threshold)
            }
            Concern::Temperature => {
                let threshold = if is_old(concern) { HOT_CELSIUS.1 } else { HOT_CELSIUS.0 };
                self.is_temperature_critical
                    || self.temperature.is_some_and(|celsius| celsius >= threshold)
            }
            Concern::MediaErrors => self.media_errors.is_some_and(|errors| errors > 0),
        };
        Concern::ALL.into_iter().filter(|concern| is(*concern)).collect()
    }

    /// From the log of an NVMe controller (NVM Express Base 2.1, 5.1.12.1.3).
    #[must_use]
    pub fn from_nvme(log: &HealthLog) -> Self {
        let warning = CriticalWarning::from(log.critical_warning);
        let clamp = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        let kelvin = i32::from(log.temperature.get());
        Self {
            is_failing: warning.degraded() || warning.backup(),
            is_read_only: warning.read_only(),
            temperature: (kelvin != 0).then(|| (kelvin - 273).clamp(-273, 1000) as i16),
            is_temperature_critical: warning.temperature(),
            used_percent: Some(log.used),
            spare_percent: Some(if warning.spare() { 0 } else { log.available_spare }),
            spare_threshold: Some(log.spare_threshold.max(u8::from(warning.spare()))),
            media_errors: Some(clamp(log.media_errors.get())),
            power_on_hours: Some(clamp(log.power_on_hours.get())),
            unsafe_shutdowns: Some(clamp(log.unsafe_shutdowns.get())),
        }
    }

    /// From the bytes of that log.
    #[must_use]
    pub fn from_nvme_bytes(bytes: &[u8; 512]) -> Self {
        Self::from_nvme(&zerocopy::transmute!(*bytes))
    }

    /// From the data of ATA's SMART READ DATA (512 bytes) and the outcome of SMART RETURN STATUS.
    /// Attributes are vendors' own; these numbers are the same with all that have them.
    #[must_use]
    pub fn from_ata(data: &[u8; 512], is_failing: bool) -> Self {
        let mut health = Self { is_failing, ..Self::default() };
        // Thirty attributes of twelve bytes: id, flags (2), value, worst, raw (6), reserved.
        for entry in data[2..362].chunks_exact(12) {
            let raw = u64::from_le_bytes([
                entry[5], entry[6], entry[7], entry[8], entry[9], entry[10], 0, 0,
            ]);
            match entry[0] {
                9 => health.power_on_hours = Some(raw & 0xffff_ffff),
                192 => health.unsafe_shutdowns = Some(raw),
                190 | 194 if health.temperature.is_none() => {
                    health.temperature = Some(i16::from(entry[5].cast_signed()));
                }
                198 | 187 => {
                    let so_far = health.media_errors.unwrap_or(0);
                    health.media_errors = Some(so_far.max(raw & 0xffff));
                }
                // Normalised values that count down from 100.
                177 | 202 | 231 | 233 if health.used_percent.is_none() && entry[3] <= 100 => {
                    health.used_percent = Some(100 - entry[3]);
                }
                _ => {}
            }
        }
        health
    }
}

/// How often an ATA drive has been switched on, by its SMART data; `None` where these are damaged
/// or do not tell.
pub(super) fn ata_power_cycles(data: &[u8; 512]) -> Option<u32> {
    const POWER_CYCLES: u8 = 12;
    let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let (entries, _) = data[2..362].as_chunks::<12>();
    let entry = entries.iter().find(|entry| entry[0] == POWER_CYCLES && sum == 0)?;
    Some(u32::from_le_bytes([entry[5], entry[6], entry[7], entry[8]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn nvme_smart_is_understood() {
        let mut log = HealthLog::new_zeroed();
        log.temperature = 313.into();
        log.available_spare = 100;
        log.spare_threshold = 10;
        log.used = 3;
        log.power_on_hours = 1234.into();
        let health = Health::from_nvme(&log);
        assert_eq!((health.temperature, health.used_percent), (Some(40), Some(3)));
        assert_eq!((health.power_on_hours, health.media_errors), (Some(1234), Some(0)));
        assert_eq!(health.concerns(&[]), []);
        log.critical_warning = 0b1_1111;
        log.used = 100;
        log.media_errors = 1.into();
        assert_eq!(Health::from_nvme(&log).concerns(&[]), Concern::ALL);
        log.media_errors = u128::MAX.into();
        assert_eq!(Health::from_nvme(&log).media_errors, Some(u64::MAX));
        assert_eq!(Health::from_nvme(&HealthLog::new_zeroed()).temperature, None);
    }

    #[test]
    fn a_concern_ends_below_where_it_begins() {
        let at = |used| Health { used_percent: Some(used), ..Health::default() };
        assert_eq!(at(89).concerns(&[]), []);
        assert_eq!(at(90).concerns(&[]), [Concern::Worn]);
        assert_eq!(at(86).concerns(&[Concern::Worn]), [Concern::Worn]);
        assert_eq!(at(84).concerns(&[Concern::Worn]), []);
        let hot = |temperature| Health { temperature: Some(temperature), ..Health::default() };
        assert_eq!(hot(77).concerns(&[]), []);
        assert_eq!(hot(77).concerns(&[Concern::Temperature]), [Concern::Temperature]);
    }

    #[test]
    fn ata_smart_is_understood() {
        let mut data = [0; 512];
        let attributes: [(u8, u8, u64); 5] = [
            (9, 99, 0xab_0000_1000),
            (194, 60, 0x1122_0000_0028),
            (198, 100, 2),
            (177, 93, 0),
            (0, 0, 0),
        ];
        for (at, (id, value, raw)) in attributes.into_iter().enumerate() {
            let entry = &mut data[2 + at * 12..][..12];
            entry[0] = id;
            entry[3] = value;
            entry[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
        let health = Health::from_ata(&data, false);
        assert_eq!(health.power_on_hours, Some(0x1000));
        assert_eq!(health.temperature, Some(40));
        assert_eq!(health.media_errors, Some(2));
        assert_eq!(health.used_percent, Some(7));
        assert_eq!(health.concerns(&[]), [Concern::MediaErrors]);
        assert!(Health::from_ata(&[0xff; 512], true).is_failing);
    }

    #[test]
    fn power_cycles_are_told_by_whole_smart_data_alone() {
        let mut data = [0; 512];
        assert_eq!(ata_power_cycles(&data), None);
        data[14..25].copy_from_slice(&[12, 0x32, 0, 100, 100, 0x34, 0x12, 0, 0, 0xff, 0xff]);
        assert_eq!(ata_power_cycles(&data), None, "its checksum");
        data[511] = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
        assert_eq!(ata_power_cycles(&data), Some(0x1234), "what else is in there is the vendor's");
    }
}
