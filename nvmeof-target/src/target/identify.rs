//! Identify (section 5.17).

use super::Target;
use super::admin::check_room;
use super::config::Nqn;
use super::controller::{Controller, ControllerKey, Kind};
use super::discovery::padded;
use super::errors::ERROR_ENTRIES;
use super::feature::{KEEP_ALIVE_GRANULARITY, offered_events};
use super::log::ANA_GROUP;
use super::property::VERSION;
use super::subsystem::{NamespaceEntry, Subsystem};
use crate::io::TRANSFER_MAX;
use crate::limits::{
    ABORTS_MAX, ASYNC_EVENTS_MAX, COPY_FORMATS, LONG_COMMAND_PAGES_SHIFT, NAMESPACES_MAX, PAGE_SIZE,
};
use crate::seam::{COPY_BLOCKS_MAX, COPY_RANGE_BLOCKS_MAX, COPY_RANGES_MAX};
use storage_spec::nvme::command::Command;
use storage_spec::nvme::identify::{
    AnaCapabilities, COMMAND_SET_NVM, CONTROLLER_DISCOVERY, CONTROLLER_IO, Cns,
    ControllerAttributes, DESCRIPTOR_CSI, DESCRIPTOR_EUI64, DESCRIPTOR_NGUID, DESCRIPTOR_UUID,
    DeallocateFeatures, DescriptorHeader, IDENTIFY_SIZE, IdentifyController, IdentifyDword10,
    IdentifyDword11, IdentifyNamespace, IndependentNamespace, LogAttributes, MultiPath, NSID_ALL,
    NamespaceFeatures, NvmCommands, NvmController, NvmNamespace, PrimaryController, SglSupport,
    VolatileCache,
};
use storage_spec::nvme::status::Status;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, IntoBytes};

/// Largest data transfer, log2 in pages (MDTS).
const TRANSFER_SHIFT: u8 = (TRANSFER_MAX / PAGE_SIZE).ilog2() as u8;
const _: () = assert!(PAGE_SIZE << TRANSFER_SHIFT == TRANSFER_MAX);

/// Longest time in ANA Change in seconds (ANATT); that state is never reported.
const ANA_TRANSITION_SECONDS: u8 = 10;

/// One firmware slot, which hosts cannot write (FRMW).
const FIRMWARE_UPDATES: u8 = 0b11;

/// Bytes of a name in the vendor specific part of Identify Namespace.
const NAME_MAX: usize = 64;

impl Target {
    pub(super) fn identify(
        &self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<Vec<u8>, Status> {
        check_room(command, IDENTIFY_SIZE)?;
        let controller = &self.controllers[&key];
        let cns = Cns(IdentifyDword10::from(command.dword(10)).cns());
        if controller.kind == Kind::Discovery {
            return match cns {
                Cns::Controller => Ok(self.identify_discovery(controller)),
                _ => Err(Status::INVALID_FIELD.dnr()),
            };
        }
        let subsystem = &self.subsystems[&controller.subsystem];
        let needs_nvm = matches!(
            cns,
            Cns::CommandSetNamespace
                | Cns::CommandSetController
                | Cns::CommandSetActiveNamespaces
                | Cns::CommandSetAllocatedNamespaces
        );
        let command_set = IdentifyDword11::from(command.dword(11)).command_set();
        if needs_nvm && command_set != COMMAND_SET_NVM {
            return Err(Status::INVALID_FIELD.dnr());
        }
        match cns {
            Cns::Controller => Ok(self.identify_controller(controller, subsystem)),
            Cns::CommandSetController => Ok(nvm_controller()),
            Cns::SubsystemControllers => Ok(self.controller_list(controller, command)),
            Cns::PrimaryController => Ok(primary_controller(controller)),
            Cns::CommandSets => command_sets(controller, command),
            Cns::NamespaceControllers => {
                active(subsystem, command)?;
                Ok(self.controller_list(controller, command))
            }
            _ => identify_namespaces(subsystem, cns, command),
        }
    }

    fn identify_controller(&self, controller: &Controller, subsystem: &Subsystem) -> Vec<u8> {
        let mut data = self.common(controller, &subsystem.config.nqn);
        data.serial = padded(&subsystem.config.serial);
        data.model = padded(&subsystem.config.model);
        data.multi_path =
            MultiPath::new().with_ports(true).with_controllers(true).with_ana(true).into();
        let attributes = ControllerAttributes::new().with_host_id_128(true);
        data.attributes = U32::new(attributes.with_traffic_keep_alive(true).into());
        data.controller_type = CONTROLLER_IO;
        data.firmware_updates = FIRMWARE_UPDATES;
        let logs = LogAttributes::new().with_command_effects(true).with_supported_pages(true);
        data.log_attributes = logs.with_extended(true).into();
        data.ana_transition_time = ANA_TRANSITION_SECONDS;
        data.ana_capabilities =
            AnaCapabilities::new().with_optimized(true).with_group_fixed(true).into();
        data.ana_group_max = U32::new(ANA_GROUP);
        data.ana_groups = U32::new(ANA_GROUP);
        data.submission_entry = 0x66;
        data.completion_entry = 0x44;
        data.namespaces = U32::new(NAMESPACES_MAX);
        data.namespaces_max = U32::new(NAMESPACES_MAX);
        let commands = NvmCommands::new()
            .with_compare(true)
            .with_write_uncorrectable(true)
            .with_dataset_management(true)
            .with_write_zeroes(true)
            .with_save_select(true)
            .with_reservations(true)
            .with_verify(true)
            .with_copy(true);
        data.nvm_commands = U16::new(commands.into());
        data.fused = U16::new(1);
        // What is acknowledged is durable; a Flush of all namespaces is obeyed all the same.
        data.volatile_cache = VolatileCache::new().with_flush_all(3).into();
        data.write_protection = 1;
        data.copy_formats = U16::new(COPY_FORMATS);
        data.command_capsule = U32::new((64 + self.config.in_capsule_max) / 16);
        data.response_capsule = U32::new(1);
        data.fabrics_commands = U16::new(1);
        data.as_bytes().to_vec()
    }

    fn identify_discovery(&self, controller: &Controller) -> Vec<u8> {
        let mut data = self.common(controller, &Nqn::discovery());
        data.serial = padded("");
        data.model = padded("Basalt discovery");
        data.controller_type = CONTROLLER_DISCOVERY;
        data.log_attributes = LogAttributes::new().with_extended(true).into();
        data.command_capsule = U32::new(4);
        data.response_capsule = U32::new(1);
        data.discovery_type = 1;
        data.as_bytes().to_vec()
    }

    /// What every controller says.
    fn common(&self, controller: &Controller, subsystem: &Nqn) -> IdentifyController {
        let mut data = IdentifyController::new_zeroed();
        data.firmware = padded(&self.config.firmware);
        data.transfer_max = TRANSFER_SHIFT;
        data.controller_id = U16::new(controller.id);
        data.version = U32::new(VERSION);
        data.async_events = U32::new(offered_events(controller.kind).into());
        data.abort_limit_z = (ABORTS_MAX - 1) as u8;
        data.async_event_limit_z = (ASYNC_EVENTS_MAX - 1) as u8;
        data.error_log_entries_z = ERROR_ENTRIES - 1;
        data.keep_alive_granularity = U16::new(KEEP_ALIVE_GRANULARITY);
        data.commands_max = U16::new(self.config.queue_entries_max);
        let sgl = SglSupport::new().with_supported(1).with_offset(true).with_transport(true);
        data.sgl = U32::new(sgl.into());
        data.subsystem_nqn = subsystem.to_field();
        data.sgl_descriptors_max = 1;
        data
    }

    /// Controllers of the subsystem from the id in dword 10 on.
    fn controller_list(&self, controller: &Controller, command: &Command) -> Vec<u8> {
        let first = IdentifyDword10::from(command.dword(10)).controller_id();
        let mut ids: Vec<_> = self
            .controllers
            .values()
            .filter(|other| other.subsystem == controller.subsystem && !other.is_closing())
            .map(|other| other.id)
            .filter(|&id| id >= first)
            .collect();
        ids.sort_unstable();
        ids.truncate(IDENTIFY_SIZE / 2 - 1);
        let mut data = vec![U16::ZERO; IDENTIFY_SIZE / 2];
        data[0] = U16::new(ids.len() as u16);
        for (entry, id) in data[1..].iter_mut().zip(ids) {
            *entry = U16::new(id);
        }
        data.as_bytes().to_vec()
    }
}

fn identify_namespaces(
    subsystem: &Subsystem,
    cns: Cns,
    command: &Command,
) -> Result<Vec<u8>, Status> {
    let id = command.namespace_id.get();
    match cns {
        Cns::Namespace | Cns::AllocatedNamespace => {
            Ok(if_active(subsystem, id, |entry| namespace(entry).as_bytes().to_vec())?)
        }
        Cns::IndependentNamespace => {
            Ok(if_active(subsystem, id, |entry| independent(entry).as_bytes().to_vec())?)
        }
        Cns::CommandSetNamespace => {
            let nvm = |_: &NamespaceEntry| NvmNamespace::new_zeroed().as_bytes().to_vec();
            Ok(if_active(subsystem, id, nvm)?)
        }
        Cns::NamespaceDescriptors => active(subsystem, command).map(descriptors),
        Cns::ActiveNamespaces
        | Cns::CommandSetActiveNamespaces
        | Cns::AllocatedNamespaces
        | Cns::CommandSetAllocatedNamespaces => namespace_list(subsystem, id),
        _ => Err(Status::INVALID_FIELD.dnr()),
    }
}

/// The namespace of the command, if it is there.
fn active<'a>(subsystem: &'a Subsystem, command: &Command) -> Result<&'a NamespaceEntry, Status> {
    let entry = subsystem.namespaces.get(&command.namespace_id.get());
    entry.ok_or(Status::INVALID_NAMESPACE.dnr())
}

/// The structure of a namespace: zeroes for an inactive one.
fn if_active(
    subsystem: &Subsystem,
    id: u32,
    render: impl FnOnce(&NamespaceEntry) -> Vec<u8>,
) -> Result<Vec<u8>, Status> {
    if id == 0 || id > NAMESPACES_MAX {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    Ok(subsystem.namespaces.get(&id).map_or_else(|| vec![0; IDENTIFY_SIZE], render))
}

/// RESCAP: all types, persistence, and Ignore Existing Key as of revision 1.3.
const RESERVATIONS: u8 = 0xFF;

fn namespace(entry: &NamespaceEntry) -> IdentifyNamespace {
    let config = &entry.config;
    let shift = config.block_shift;
    let blocks = U64::new(config.capacity >> shift);
    // Blocks of 4 KiB, 0-based: what the store writes as one, at its best, at the least.
    let grain_z = U16::new(((PAGE_SIZE >> shift) - 1) as u16);
    let mut data = IdentifyNamespace::new_zeroed();
    data.size = blocks;
    data.capacity = blocks;
    data.used = U64::new(entry.used.min(config.capacity) >> shift);
    let features = NamespaceFeatures::new().with_thin(true).with_atomic(true);
    data.features = features.with_ids_unique(true).with_performance(true).into();
    data.sharing = 1;
    data.reservations = RESERVATIONS;
    data.deallocate = DeallocateFeatures::new().with_reads(1).with_write_zeroes(true).into();
    data.atomic_write_z = grain_z;
    data.atomic_write_power_fail_z = grain_z;
    data.atomic_compare_write_z = grain_z;
    data.atomic_boundary_z = grain_z;
    data.atomic_boundary_power_fail_z = grain_z;
    data.capacity_bytes = U128::new(config.capacity.into());
    data.write_granularity_z = grain_z;
    data.write_alignment_z = grain_z;
    data.deallocate_granularity_z = grain_z;
    data.deallocate_alignment_z = grain_z;
    data.optimal_write_z = grain_z;
    data.copy_range_max = U16::new(COPY_RANGE_BLOCKS_MAX);
    data.copy_max = U32::new(COPY_BLOCKS_MAX);
    data.copy_ranges_z = (COPY_RANGES_MAX - 1) as u8;
    data.ana_group = U32::new(ANA_GROUP);
    data.attributes = config.read_only.into();
    data.nguid = config.uuid;
    data.eui64 = eui64(&config.uuid);
    data.lba_formats[0].block_shift = shift;
    let name = &config.name.as_bytes()[..config.name.floor_char_boundary(NAME_MAX)];
    data.vendor_specific[..name.len()].copy_from_slice(name);
    data
}

fn independent(entry: &NamespaceEntry) -> IndependentNamespace {
    let mut data = IndependentNamespace::new_zeroed();
    data.features = NamespaceFeatures::new().with_ids_unique(true).into();
    data.sharing = 1;
    data.reservations = RESERVATIONS;
    data.ana_group = U32::new(ANA_GROUP);
    data.attributes = entry.config.read_only.into();
    data.status = 1;
    data
}

fn descriptors(entry: &NamespaceEntry) -> Vec<u8> {
    let uuid = &entry.config.uuid;
    let mut data = Vec::with_capacity(IDENTIFY_SIZE);
    for (kind, value) in [
        (DESCRIPTOR_EUI64, &eui64(uuid)[..]),
        (DESCRIPTOR_NGUID, uuid),
        (DESCRIPTOR_UUID, uuid),
        (DESCRIPTOR_CSI, &[COMMAND_SET_NVM]),
    ] {
        let header = DescriptorHeader { kind, length: value.len() as u8, reserved: [0; 2] };
        data.extend_from_slice(header.as_bytes());
        data.extend_from_slice(value);
    }
    data.resize(IDENTIFY_SIZE, 0);
    data
}

/// Ids above `after`, rising.
fn namespace_list(subsystem: &Subsystem, after: u32) -> Result<Vec<u8>, Status> {
    if after >= NSID_ALL - 1 {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    let mut data = vec![U32::ZERO; IDENTIFY_SIZE / 4];
    for (entry, (&id, _)) in data.iter_mut().zip(subsystem.namespaces.range(after + 1..)) {
        *entry = U32::new(id);
    }
    Ok(data.as_bytes().to_vec())
}

fn nvm_controller() -> Vec<u8> {
    let mut data = NvmController::new_zeroed();
    data.verify_max = LONG_COMMAND_PAGES_SHIFT;
    data.write_zeroes_max = LONG_COMMAND_PAGES_SHIFT;
    data.write_uncorrectable_max = LONG_COMMAND_PAGES_SHIFT;
    data.as_bytes().to_vec()
}

fn primary_controller(controller: &Controller) -> Vec<u8> {
    let mut data = PrimaryController::new_zeroed();
    data.controller_id = U16::new(controller.id);
    data.port_id = U16::new(controller.context.port.0);
    data.as_bytes().to_vec()
}

/// The combinations of command sets that can be chosen: NVM alone.
fn command_sets(controller: &Controller, command: &Command) -> Result<Vec<u8>, Status> {
    let of = IdentifyDword10::from(command.dword(10)).controller_id();
    if of != controller.id && of != u16::MAX {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let mut data = vec![0; IDENTIFY_SIZE];
    data[0] = 1 << COMMAND_SET_NVM;
    Ok(data)
}

/// Made from the UUID by FNV-1a, marked as locally administered: we have no OUI.
fn eui64(uuid: &[u8; 16]) -> [u8; 8] {
    const OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let hash = uuid.iter().fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let mut bytes = hash.to_be_bytes();
    bytes[0] = bytes[0] & !1 | 2;
    bytes
}
