//! Get Log Page (section 5.16).

use super::Target;
use super::admin::{ADMIN_OPCODES, check_room};
use super::controller::{Controller, ControllerKey, Kind};
use super::discovery::padded;
use super::events::Notice;
use super::feature::{DISCOVERY_FEATURES, FEATURES, Features, is_namespace_specific};
use super::subsystem::Subsystem;
use crate::io::TRANSFER_MAX;
use storage_spec::nvme::command::{Command, NvmOpcode};
use storage_spec::nvme::feature::Feature;
use storage_spec::nvme::identify::{COMMAND_SET_NVM, COMMAND_SET_ZONED, NSID_ALL};
use storage_spec::nvme::log::{
    ANA_GROUPS_ONLY, ANA_OPTIMIZED, AnaGroup, AnaHeader, CommandEffects, CriticalWarning,
    EffectsLog, FeatureEffects, FirmwareLog, HealthLog, LogDword10, LogDword11, LogDword14,
    LogPage, SupportedLog,
};
use storage_spec::nvme::status::Status;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, IntoBytes};

/// The one ANA group, which is optimized: a node serves its own volumes.
pub(super) const ANA_GROUP: u32 = 1;

/// What the health log says; all counters since the node was made or started, as the caller has
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Less free space than the threshold.
    pub space_low: bool,
    /// Disks failed or found wrong data.
    pub degraded: bool,
    /// Nothing can be written.
    pub read_only: bool,
    /// Temperature in K; 0 if not known.
    pub temperature: u16,
    /// Free space in %.
    pub available_spare: u8,
    /// Free space in % below which `space_low` is set.
    pub spare_threshold: u8,
    /// Bytes read by hosts.
    pub bytes_read: u128,
    /// Bytes written by hosts.
    pub bytes_written: u128,
    /// Read commands.
    pub reads: u128,
    /// Write commands.
    pub writes: u128,
    /// Minutes in which commands were executed.
    pub busy_minutes: u128,
    /// Starts of the node.
    pub power_cycles: u128,
    /// Hours since start.
    pub power_on_hours: u128,
    /// Starts without a clean stop before.
    pub unsafe_shutdowns: u128,
    /// Blocks found wrong or unreadable.
    pub media_errors: u128,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            space_low: false,
            degraded: false,
            read_only: false,
            temperature: 0,
            available_spare: 100,
            spare_threshold: 10,
            bytes_read: 0,
            bytes_written: 0,
            reads: 0,
            writes: 0,
            busy_minutes: 0,
            power_cycles: 0,
            power_on_hours: 0,
            unsafe_shutdowns: 0,
            media_errors: 0,
        }
    }
}

/// A command for a log page, taken apart.
struct Request {
    page: LogPage,
    specific: u8,
    retain_event: bool,
    offset: u64,
    len: usize,
    namespace_id: u32,
    command_set: u8,
}

impl Target {
    pub(super) fn get_log_page(
        &mut self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<Vec<u8>, Status> {
        let controller = &self.controllers[&key];
        let page = LogPage(LogDword10::from(command.dword(10)).page());
        if !pages(controller.kind).contains(&page) {
            return Err(Status::INVALID_LOG_PAGE.dnr());
        }
        let request = Request::parse(command)?;
        check_room(command, request.len)?;
        let mut window = Window::new(request.offset, request.len);
        match request.page {
            LogPage::Discovery => self.discovery_log(controller, &mut window),
            LogPage::Ana => {
                let subsystem = &self.subsystems[&controller.subsystem];
                ana_log(subsystem, request.specific, &mut window);
            }
            _ => {
                window.put(&self.small_page(controller, &request)?);
                // Pages whose length changes are spared this: a host that reads one in parts while
                // it shrinks finds out by its generation, not by an error.
                if window.is_beyond_end() {
                    return Err(Status::INVALID_FIELD.dnr());
                }
            }
        }
        if !request.retain_event {
            let controller = self.controllers.get_mut(&key).expect("seen above");
            controller.events.acknowledge(request.page);
            if request.page == LogPage::ReservationNotification
                && controller.notifications.acknowledge()
            {
                controller.events.raise(Notice::Reservation);
                self.tell(key);
            }
        }
        Ok(window.finish())
    }

    /// A page of fixed size, whole.
    fn small_page(&self, controller: &Controller, request: &Request) -> Result<Vec<u8>, Status> {
        Ok(match request.page {
            LogPage::Supported => supported_pages(controller.kind),
            LogPage::Error => controller.errors.page(),
            // LPA bit 0 is clear: there is one for the whole controller.
            LogPage::Health if !matches!(request.namespace_id, 0 | NSID_ALL) => {
                return Err(Status::INVALID_FIELD.dnr());
            }
            LogPage::Health => self.health.render(controller).as_bytes().to_vec(),
            LogPage::Firmware => {
                let mut log = FirmwareLog::new_zeroed();
                log.active = 1;
                log.revisions[0] = padded(&self.config.firmware);
                log.as_bytes().to_vec()
            }
            LogPage::ChangedNamespaces => controller.events.changed_list(),
            LogPage::ReservationNotification => controller.notifications.page(),
            LogPage::Effects => command_effects(request.command_set),
            LogPage::FeatureEffects => feature_effects(controller.kind),
            LogPage::ManagementEffects => vec![0; 4096],
            _ => return Err(Status::INVALID_LOG_PAGE.dnr()),
        })
    }
}

impl Request {
    fn parse(command: &Command) -> Result<Self, Status> {
        let dword_10 = LogDword10::from(command.dword(10));
        let dword_11 = LogDword11::from(command.dword(11));
        let dword_14 = LogDword14::from(command.dword(14));
        let [low_0, low_1] = dword_10.dwords_low().to_le_bytes();
        let [high_0, high_1] = dword_11.dwords_high().to_le_bytes();
        let dwords_z = u32::from_le_bytes([low_0, low_1, high_0, high_1]);
        let len = (u64::from(dwords_z) + 1) * 4;
        let offset = command_offset(command);
        // nvme-cli asks for the effects of zoned commands wherever there may be command sets: that
        // there are none is an answer, an error would make it show nothing at all.
        let is_other_effects = LogPage(dword_10.page()) == LogPage::Effects
            && dword_14.command_set() == COMMAND_SET_ZONED;
        let acceptable = len <= TRANSFER_MAX as u64
            && offset.is_multiple_of(4)
            && !dword_14.offset_by_index()
            && dword_14.uuid_index() == 0
            && (dword_14.command_set() == COMMAND_SET_NVM || is_other_effects);
        if !acceptable {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok(Self {
            page: LogPage(dword_10.page()),
            specific: dword_10.specific(),
            retain_event: dword_10.retain_event(),
            offset,
            len: len as usize,
            namespace_id: command.namespace_id.get(),
            command_set: dword_14.command_set(),
        })
    }
}

/// The part of a log page that a host wants; the page is written through it from its beginning.
pub(super) struct Window {
    offset: u64,
    len: usize,
    /// Bytes of the page so far.
    position: u64,
    out: Vec<u8>,
}

impl Window {
    pub(super) fn new(offset: u64, len: usize) -> Self {
        Self { offset, len, position: 0, out: Vec::with_capacity(len) }
    }

    /// Whether any of the next `len` bytes are wanted.
    pub(super) fn reaches(&self, len: usize) -> bool {
        self.position + len as u64 > self.offset && self.out.len() < self.len
    }

    /// The next bytes of the page.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let skip = self.offset.saturating_sub(self.position).min(bytes.len() as u64);
        self.position += bytes.len() as u64;
        let wanted = &bytes[skip as usize..];
        let take = wanted.len().min(self.len - self.out.len());
        self.out.extend_from_slice(&wanted[..take]);
    }

    /// As [`Window::put`] of bytes that are not wanted.
    pub(super) fn skip(&mut self, len: usize) {
        debug_assert!(!self.reaches(len));
        self.position += len as u64;
    }

    /// Whether the window begins beyond the end of the page.
    fn is_beyond_end(&self) -> bool {
        self.offset > self.position
    }

    /// What the host gets: zeroes beyond the end of the page.
    fn finish(mut self) -> Vec<u8> {
        self.out.resize(self.len, 0);
        self.out
    }
}

fn pages(kind: Kind) -> &'static [LogPage] {
    match kind {
        Kind::Nvm => &[
            LogPage::Supported,
            LogPage::Error,
            LogPage::Health,
            LogPage::Firmware,
            LogPage::ChangedNamespaces,
            LogPage::Effects,
            LogPage::Ana,
            LogPage::FeatureEffects,
            LogPage::ManagementEffects,
            LogPage::ReservationNotification,
        ],
        Kind::Discovery => {
            &[LogPage::Supported, LogPage::Error, LogPage::FeatureEffects, LogPage::Discovery]
        }
    }
}

/// Dwords 12 and 13.
fn command_offset(command: &Command) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&command.dword(12).to_le_bytes());
    bytes[4..].copy_from_slice(&command.dword(13).to_le_bytes());
    u64::from_le_bytes(bytes)
}

fn supported_pages(kind: Kind) -> Vec<u8> {
    let mut log = [U32::ZERO; 256];
    for page in pages(kind) {
        log[usize::from(page.0)] = U32::new(SupportedLog::new().with_supported(true).into());
    }
    log.as_bytes().to_vec()
}

/// NVM commands that I/O queues serve, and whether they change blocks.
const NVM_COMMANDS: [(NvmOpcode, bool); 13] = [
    (NvmOpcode::Flush, false),
    (NvmOpcode::Write, true),
    (NvmOpcode::Read, false),
    (NvmOpcode::WriteUncorrectable, true),
    (NvmOpcode::Compare, false),
    (NvmOpcode::WriteZeroes, true),
    (NvmOpcode::DatasetManagement, true),
    (NvmOpcode::Verify, false),
    (NvmOpcode::Copy, true),
    (NvmOpcode::ReservationRegister, false),
    (NvmOpcode::ReservationReport, false),
    (NvmOpcode::ReservationAcquire, false),
    (NvmOpcode::ReservationRelease, false),
];

/// Effects of the admin commands, and of the I/O commands of one command set.
fn command_effects(command_set: u8) -> Vec<u8> {
    let mut log = EffectsLog::new_zeroed();
    let supported = CommandEffects::new().with_supported(true);
    for opcode in ADMIN_OPCODES {
        let effects = supported.with_scope_controller(true);
        log.admin[usize::from(opcode.0)] = U32::new(effects.into());
    }
    let commands = if command_set == COMMAND_SET_NVM { &NVM_COMMANDS[..] } else { &[] };
    for &(opcode, changes) in commands {
        let effects = supported.with_scope_namespace(true).with_changes_blocks(changes);
        log.io[usize::from(opcode.0)] = U32::new(effects.into());
    }
    log.as_bytes().to_vec()
}

fn feature_effects(kind: Kind) -> Vec<u8> {
    let mut log = [U32::ZERO; 256];
    let features: &[_] = match kind {
        Kind::Nvm => &FEATURES,
        Kind::Discovery => &DISCOVERY_FEATURES,
    };
    for &feature in features {
        let of_namespace = is_namespace_specific(feature);
        let effects = FeatureEffects::new()
            .with_supported(true)
            .with_changes_namespace(feature == Feature::WriteProtection)
            .with_scope_namespace(of_namespace)
            .with_scope_controller(!of_namespace);
        log[usize::from(feature.0)] = U32::new(effects.into());
    }
    log.as_bytes().to_vec()
}

fn ana_log(subsystem: &Subsystem, specific: u8, window: &mut Window) {
    let ids: Vec<_> = match specific & ANA_GROUPS_ONLY {
        0 => subsystem.namespaces.keys().map(|&id| U32::new(id)).collect(),
        _ => Vec::new(),
    };
    let changes = U64::new(subsystem.ana_changes);
    let header = AnaHeader { changes, groups: U16::new(1), reserved: [0; 6] };
    let group = AnaGroup {
        group: U32::new(ANA_GROUP),
        namespaces: U32::new(ids.len() as u32),
        changes,
        state: ANA_OPTIMIZED,
        reserved: [0; 15],
    };
    window.put(header.as_bytes());
    window.put(group.as_bytes());
    window.put(ids.as_bytes());
}

impl Health {
    /// Critical warnings, with a host's temperature thresholds.
    pub(super) fn warnings(&self, features: &Features) -> CriticalWarning {
        CriticalWarning::new()
            .with_spare(self.space_low)
            .with_temperature(self.temperature != 0 && features.is_beyond(self.temperature))
            .with_degraded(self.degraded)
            .with_read_only(self.read_only)
    }

    fn render(&self, controller: &Controller) -> HealthLog {
        let mut log = HealthLog::new_zeroed();
        log.critical_warning = self.warnings(&controller.features).into();
        log.temperature = U16::new(self.temperature);
        log.available_spare = self.available_spare;
        log.spare_threshold = self.spare_threshold;
        log.units_read = U128::new(self.bytes_read.div_ceil(HEALTH_UNIT));
        log.units_written = U128::new(self.bytes_written.div_ceil(HEALTH_UNIT));
        log.reads = U128::new(self.reads);
        log.writes = U128::new(self.writes);
        log.busy_minutes = U128::new(self.busy_minutes);
        log.power_cycles = U128::new(self.power_cycles);
        log.power_on_hours = U128::new(self.power_on_hours);
        log.unsafe_shutdowns = U128::new(self.unsafe_shutdowns);
        log.media_errors = U128::new(self.media_errors);
        log.error_entries = U128::new(controller.errors.count().into());
        log
    }
}

/// Bytes of a unit of data read or written: a thousand blocks of 512 bytes.
const HEALTH_UNIT: u128 = 512_000;
