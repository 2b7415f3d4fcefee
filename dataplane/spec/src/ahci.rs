//! Serial ATA AHCI 1.3.1: the registers of a host bus adapter, and what it shares memory for.

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Host capabilities, [`HostCapabilities`] (section 3.1.1).
pub const REGISTER_CAP: usize = 0x00;
/// Global host control, [`GlobalControl`] (section 3.1.2).
pub const REGISTER_GHC: usize = 0x04;
/// Interrupt status: a bit for each port (section 3.1.3).
pub const REGISTER_IS: usize = 0x08;
/// Ports implemented: a bit for each (section 3.1.4).
pub const REGISTER_PI: usize = 0x0C;
/// Version: major in 31:16, minor in 15:0 (section 3.1.5).
pub const REGISTER_VS: usize = 0x10;
/// Host capabilities extended, [`HostCapabilities2`] (section 3.1.10).
pub const REGISTER_CAP2: usize = 0x24;
/// BIOS/OS handoff, [`Handoff`] (section 3.1.11).
pub const REGISTER_BOHC: usize = 0x28;

/// Most ports of an adapter.
pub const PORTS_MAX: usize = 32;
/// Most command slots of a port.
pub const SLOTS_MAX: usize = 32;

/// Where the registers of a port begin (section 3.3).
#[must_use]
pub const fn port_registers(port: u8) -> usize {
    0x100 + port as usize * 0x80
}

/// Command list base, 8 bytes, 1 KiB aligned.
pub const PORT_CLB: usize = 0x00;
/// Received FIS base, 8 bytes, 256 bytes aligned.
pub const PORT_FB: usize = 0x08;
/// Interrupt status, [`PortInterrupts`]; written ones are cleared.
pub const PORT_IS: usize = 0x10;
/// Interrupt enable.
pub const PORT_IE: usize = 0x14;
/// Command and status, [`PortCommand`].
pub const PORT_CMD: usize = 0x18;
/// Task file: status in 7:0, error in 15:8.
pub const PORT_TFD: usize = 0x20;
/// Signature of the device.
pub const PORT_SIG: usize = 0x24;
/// SATA status, [`LinkStatus`].
pub const PORT_SSTS: usize = 0x28;
/// SATA control, [`LinkControl`].
pub const PORT_SCTL: usize = 0x2C;
/// SATA error, [`LinkErrors`]; written ones are cleared.
pub const PORT_SERR: usize = 0x30;
/// SATA active: queued commands in flight, a bit for each tag.
pub const PORT_SACT: usize = 0x34;
/// Commands issued, a bit for each slot.
pub const PORT_CI: usize = 0x38;

/// CAP.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HostCapabilities {
    /// NP: number of ports, 0-based.
    #[bits(5)]
    pub ports_z: u8,
    /// SXS: external ports.
    pub external: bool,
    /// EMS: enclosure management.
    pub enclosure: bool,
    /// CCCS: command completion coalescing.
    pub coalescing: bool,
    /// NCS: command slots of a port, 0-based.
    #[bits(5)]
    pub slots_z: u8,
    /// PSC: partial state.
    pub partial: bool,
    /// SSC: slumber state.
    pub slumber: bool,
    /// PMD: multiple DRQ blocks by PIO.
    pub pio_multiple: bool,
    /// FBSS: FIS-based switching.
    pub fis_switching: bool,
    /// SPM: port multipliers.
    pub multipliers: bool,
    /// SAM: AHCI only, no legacy interface.
    pub ahci_only: bool,
    #[bits(1)]
    __: u8,
    /// ISS: fastest link.
    #[bits(4)]
    pub speed: u8,
    /// SCLO: command list override.
    pub list_override: bool,
    /// SAL: activity LED.
    pub led: bool,
    /// SALP: aggressive link power management.
    pub link_power: bool,
    /// SSS: staggered spin-up: a device spins up when it is told to.
    pub staggered_spin_up: bool,
    /// SMPS: mechanical presence switch.
    pub presence_switch: bool,
    /// SSNTF: SNotification register.
    pub notification: bool,
    /// SNCQ: native command queueing.
    pub queueing: bool,
    /// S64A: addresses of 64 bits.
    pub address_64: bool,
}

/// GHC.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GlobalControl {
    /// HR: resets the adapter; cleared when done.
    pub reset: bool,
    /// IE: interrupts.
    pub interrupts: bool,
    /// MRSM: all vectors share one message.
    pub single_message: bool,
    #[bits(28)]
    __: u32,
    /// AE: software speaks AHCI.
    pub enable: bool,
}

/// CAP2.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HostCapabilities2 {
    /// BOH: there is a handoff register.
    pub handoff: bool,
    /// NVMP: NVMHCI.
    pub nvmhci: bool,
    /// APST: partial to slumber by itself.
    pub partial_to_slumber: bool,
    /// SDS: device sleep.
    pub device_sleep: bool,
    /// SADM: aggressive device sleep.
    pub aggressive_sleep: bool,
    /// DESO: device sleep from slumber only.
    pub sleep_from_slumber: bool,
    #[bits(26)]
    __: u32,
}

/// BOHC.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Handoff {
    /// BOS: the firmware owns the adapter.
    pub firmware_owned: bool,
    /// OOS: the system asks for it.
    pub system_owned: bool,
    /// SOOE: a management interrupt on ownership change.
    pub interrupt: bool,
    /// OOC: ownership has changed.
    pub changed: bool,
    /// BB: the firmware is busy handing over.
    pub busy: bool,
    #[bits(27)]
    __: u32,
}

/// PxIS and PxIE.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PortInterrupts {
    /// DHRS: a register FIS.
    pub register_fis: bool,
    /// PSS: a PIO setup FIS.
    pub pio_setup: bool,
    /// DSS: a DMA setup FIS.
    pub dma_setup: bool,
    /// SDBS: a set device bits FIS.
    pub device_bits: bool,
    /// UFS: an unknown FIS.
    pub unknown_fis: bool,
    /// DPS: a descriptor asked for it.
    pub descriptor: bool,
    /// PCS: PxSERR.DIAG.X is set.
    pub connect_change: bool,
    /// DMPS: the presence switch changed.
    pub presence_change: bool,
    #[bits(14)]
    __: u16,
    /// PRCS: PxSERR.DIAG.N is set.
    pub phy_change: bool,
    /// IPMS: a port multiplier that is not expected.
    pub multiplier: bool,
    /// OFS: more bytes than the command had room for.
    pub overflow: bool,
    #[bits(1)]
    __: u8,
    /// INFS: an interface error that was recovered.
    pub interface_minor: bool,
    /// IFS: an interface error that stopped the port.
    pub interface: bool,
    /// HBDS: data could not be moved to or from memory.
    pub bus_data: bool,
    /// HBFS: the bus failed.
    pub bus_fatal: bool,
    /// TFES: the device reports an error.
    pub task_file: bool,
    /// CPDS: cold presence changed.
    pub cold_presence: bool,
}

/// PxCMD.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PortCommand {
    /// ST: process the command list.
    pub start: bool,
    /// SUD: spin up.
    pub spin_up: bool,
    /// POD: power on.
    pub power_on: bool,
    /// CLO: clear BSY and DRQ.
    pub list_override: bool,
    /// FRE: receive FISes into memory.
    pub receive: bool,
    #[bits(3)]
    __: u8,
    /// CCS: current slot.
    #[bits(5)]
    pub current_slot: u8,
    /// MPSS: the presence switch is open.
    pub presence_open: bool,
    /// FR: FISes are being received.
    pub is_receiving: bool,
    /// CR: the command list is being processed.
    pub is_running: bool,
    /// CPS: cold presence.
    pub cold_present: bool,
    /// PMA: a port multiplier is attached.
    pub multiplier: bool,
    /// HPCP: hot plug capable.
    pub hot_plug: bool,
    /// MPSP: there is a presence switch.
    pub presence_switch: bool,
    /// CPD: cold presence detection.
    pub cold_detection: bool,
    /// ESP: external.
    pub external: bool,
    /// FBSCP: FIS-based switching.
    pub fis_switching: bool,
    /// APSTE: partial to slumber by itself.
    pub partial_to_slumber: bool,
    /// ATAPI: LED for a packet device.
    pub packet: bool,
    /// DLAE: drive the LED.
    pub led: bool,
    /// ALPE: aggressive link power management.
    pub link_power: bool,
    /// ASP: slumber rather than partial.
    pub slumber: bool,
    /// ICC: state of the link to enter, one of the `LINK_` constants.
    #[bits(4)]
    pub link_state: u8,
}

/// [`PortCommand::link_state`] and [`LinkStatus::power`]: active.
pub const LINK_ACTIVE: u8 = 1;

/// PxSSTS.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LinkStatus {
    /// DET: one of the `DETECTED_` constants.
    #[bits(4)]
    pub detection: u8,
    /// SPD: generation of the link.
    #[bits(4)]
    pub speed: u8,
    /// IPM: power state of the link.
    #[bits(4)]
    pub power: u8,
    #[bits(20)]
    __: u32,
}

/// [`LinkStatus::detection`]: no device.
pub const DETECTED_NOTHING: u8 = 0;
/// [`LinkStatus::detection`]: a device, and no communication with it.
pub const DETECTED_SILENT: u8 = 1;
/// [`LinkStatus::detection`]: a device, and communication with it.
pub const DETECTED_LINK: u8 = 3;

/// PxSCTL.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LinkControl {
    /// DET: 1 resets the link for as long as it is set, 0 lets it be, 4 turns it off.
    #[bits(4)]
    pub detection: u8,
    /// SPD: fastest generation allowed, 0 for any.
    #[bits(4)]
    pub speed: u8,
    /// IPM: power states that are not allowed: 1 partial, 2 slumber, 4 device sleep.
    #[bits(4)]
    pub no_power_states: u8,
    #[bits(20)]
    __: u32,
}

/// [`LinkControl::detection`]: COMRESET.
pub const DETECTION_RESET: u8 = 1;

/// PxSERR.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LinkErrors {
    /// ERR.I: data integrity, recovered.
    pub data_recovered: bool,
    /// ERR.M: communication, recovered.
    pub link_recovered: bool,
    #[bits(6)]
    __: u8,
    /// ERR.T: transient data integrity error.
    pub data: bool,
    /// ERR.C: persistent communication error.
    pub communication: bool,
    /// ERR.P: protocol error.
    pub protocol: bool,
    /// ERR.E: internal error.
    pub internal: bool,
    #[bits(4)]
    __: u8,
    /// DIAG.N: the link came or went.
    pub phy_change: bool,
    /// DIAG.I: internal error of the phy.
    pub phy_internal: bool,
    /// DIAG.W: comm wake.
    pub wake: bool,
    /// DIAG.B: 10b to 8b decoding.
    pub decode: bool,
    /// DIAG.D: disparity.
    pub disparity: bool,
    /// DIAG.C: CRC.
    pub crc: bool,
    /// DIAG.H: handshake.
    pub handshake: bool,
    /// DIAG.S: link sequence.
    pub sequence: bool,
    /// DIAG.T: transport state transition.
    pub transport: bool,
    /// DIAG.F: unknown FIS.
    pub unknown_fis: bool,
    /// DIAG.X: a device has announced itself (COMINIT).
    pub exchanged: bool,
    #[bits(5)]
    __: u8,
}

/// A slot of the command list (section 4.2.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct CommandHeader {
    /// [`CommandFlags`].
    pub flags: U32,
    /// PRDBC: bytes that were moved.
    pub moved: U32,
    /// CTBA: where the command table is, 128 bytes aligned.
    pub table: U64,
    /// Reserved.
    pub reserved: [u8; 16],
}
const _: () = assert!(size_of::<CommandHeader>() == 32);

/// Dword 0 of a [`CommandHeader`].
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CommandFlags {
    /// CFL: dwords of the command FIS.
    #[bits(5)]
    pub fis_dwords: u8,
    /// A: a packet command.
    pub packet: bool,
    /// W: data go to the device.
    pub write: bool,
    /// P: data may be fetched ahead.
    pub prefetchable: bool,
    /// R: a reset.
    pub reset: bool,
    /// B: built-in self test.
    pub self_test: bool,
    /// C: clear BSY when the FIS is received.
    pub clear_busy: bool,
    #[bits(1)]
    __: u8,
    /// PMP: port of the multiplier.
    #[bits(4)]
    pub multiplier_port: u8,
    /// PRDTL: descriptors.
    pub descriptors: u16,
}

/// Where the descriptors begin in a command table (section 4.2.3).
pub const TABLE_DESCRIPTORS: usize = 0x80;

/// A descriptor of memory (section 4.2.3.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Descriptor {
    /// DBA: even.
    pub address: U64,
    /// Reserved.
    pub reserved: U32,
    /// DBC in 21:0, 0-based, an even number of bytes; 31: interrupt.
    pub bytes_z: U32,
}
const _: () = assert!(size_of::<Descriptor>() == 16);

/// Most bytes of a [`Descriptor`].
pub const DESCRIPTOR_MAX: usize = 4 << 20;

/// Bytes of received FISes (section 4.2.1).
pub const RECEIVED_BYTES: usize = 256;
/// Where the last PIO setup FIS is among the received.
pub const RECEIVED_PIO_SETUP: usize = 0x20;
/// Where the last register FIS is.
pub const RECEIVED_REGISTER: usize = 0x40;
/// Where the last set device bits FIS is.
pub const RECEIVED_DEVICE_BITS: usize = 0x58;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_lie_where_the_specification_puts_them() {
        // As ICH9's are read from an emulated machine: 6 ports, 32 slots, NCQ, 64-bit.
        let cap = HostCapabilities::from(0xC014_1F05);
        assert_eq!((cap.ports_z(), cap.slots_z(), cap.speed()), (5, 31, 1));
        assert!(cap.queueing() && cap.address_64() && cap.ahci_only() && !cap.list_override());
        assert_eq!(u32::from(GlobalControl::new().with_enable(true)), 1 << 31);
        let command = PortCommand::new().with_link_state(LINK_ACTIVE).with_is_running(true);
        assert_eq!(u32::from(command), 0x1000_8000);
        assert_eq!(u32::from(PortCommand::new().with_hot_plug(true)), 1 << 18);
        assert_eq!(u32::from(PortInterrupts::new().with_task_file(true)), 1 << 30);
        assert_eq!(u32::from(PortInterrupts::new().with_phy_change(true)), 1 << 22);
        assert_eq!(u32::from(PortInterrupts::new().with_interface(true)), 1 << 27);
        assert_eq!(u32::from(LinkErrors::new().with_exchanged(true)), 1 << 26);
        assert_eq!(u32::from(LinkErrors::new().with_phy_change(true)), 1 << 16);
        assert_eq!(u32::from(LinkErrors::new().with_internal(true)), 1 << 11);
        assert_eq!(u32::from(CommandFlags::new().with_descriptors(1)), 1 << 16);
        assert_eq!(u32::from(CommandFlags::new().with_clear_busy(true)), 1 << 10);
        assert_eq!(u32::from(Handoff::new().with_busy(true)), 1 << 4);
        assert_eq!(port_registers(1), 0x180);
    }
}
