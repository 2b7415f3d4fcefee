//! Commands to drives that the kernel drives, past its block layer: those that only report.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// `struct nvme_passthru_cmd` and `struct nvme_uring_cmd` (Linux:
/// include/uapi/linux/nvme_ioctl.h), of which the last has no result.
#[repr(C)]
#[derive(FromZeros, IntoBytes, Immutable)]
pub(super) struct NvmeCommand {
    pub(super) opcode: u8,
    pub(super) flags: u8,
    pub(super) reserved: u16,
    pub(super) nsid: u32,
    pub(super) cdw2: u32,
    pub(super) cdw3: u32,
    pub(super) metadata: u64,
    pub(super) address: u64,
    pub(super) metadata_len: u32,
    pub(super) data_len: u32,
    pub(super) cdw10: u32,
    pub(super) cdw11: u32,
    pub(super) cdw12: u32,
    pub(super) cdw13: u32,
    pub(super) cdw14: u32,
    pub(super) cdw15: u32,
    pub(super) timeout_ms: u32,
    pub(super) result: u32,
}
const _: () = assert!(size_of::<NvmeCommand>() == 72);

/// `NVME_IOCTL_ADMIN_CMD`: `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const NVME_ADMIN: u32 = 0xc048_4e41;
/// `NVME_IOCTL_ID`: `_IO('N', 0x40)`.
const NVME_ID: u32 = 0x4e40;
const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;

const TIMEOUT_MS: u32 = 5_000;

/// The health log of an NVMe controller, by its character device (`/dev/nvme0`) or a namespace.
///
/// # Errors
/// The kernel's; `Other` with the status where the controller refuses.
pub fn nvme_health(device: &File) -> io::Result<[u8; 512]> {
    let mut data = [0; 512];
    // Log 02h for the controller as a whole, 128 dwords less one.
    nvme_read(device, GET_LOG_PAGE, u32::MAX, 127 << 16 | 0x02, &mut data)?;
    Ok(data)
}

/// The number of an NVMe namespace, by its block device or its generic device.
///
/// # Errors
/// The kernel's.
pub fn nvme_namespace_id(device: &impl AsRawFd) -> io::Result<u32> {
    // SAFETY: the call takes no argument.
    let id = unsafe { libc::ioctl(device.as_raw_fd(), NVME_ID as _) };
    u32::try_from(id).ok().filter(|id| *id > 0).ok_or_else(io::Error::last_os_error)
}

/// Identify Namespace.
///
/// # Errors
/// As [`nvme_health`].
pub fn nvme_identify_namespace(device: &impl AsRawFd, nsid: u32) -> io::Result<[u8; 4096]> {
    let mut data = [0; 4096];
    nvme_read(device, IDENTIFY, nsid, 0, &mut data)?;
    Ok(data)
}

/// Identify Controller.
///
/// # Errors
/// As [`nvme_health`].
pub fn nvme_identify(device: &File) -> io::Result<[u8; 4096]> {
    let mut data = [0; 4096];
    nvme_read(device, IDENTIFY, 0, 1, &mut data)?;
    Ok(data)
}

fn nvme_read(
    device: &impl AsRawFd,
    opcode: u8,
    nsid: u32,
    cdw10: u32,
    data: &mut [u8],
) -> io::Result<()> {
    assert!(opcode == GET_LOG_PAGE || opcode == IDENTIFY, "commands that only report");
    let mut command = NvmeCommand {
        opcode,
        nsid,
        address: data.as_mut_ptr() as u64,
        data_len: data.len() as u32,
        cdw10,
        timeout_ms: TIMEOUT_MS,
        ..NvmeCommand::new_zeroed()
    };
    // SAFETY: the structure that this call takes; it names `data`, which outlives the call.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), NVME_ADMIN as _, (&raw mut command).cast::<libc::c_void>())
    };
    match result {
        0 => Ok(()),
        1.. => Err(io::Error::other(format!("the drive answers with status {result:#06x}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct sg_io_hdr` (Linux: include/scsi/sg.h).
#[repr(C)]
struct SgIo {
    interface_id: i32,
    direction: i32,
    cmd_len: u8,
    sense_len_max: u8,
    iovec_count: u16,
    data_len: u32,
    data: *mut u8,
    cmd: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_len: u8,
    host_status: u16,
    driver_status: u16,
    residual: i32,
    duration_ms: u32,
    info: u32,
}
const _: () = assert!(size_of::<SgIo>() == 88 && std::mem::offset_of!(SgIo, info) == 80);

const SG_IO: u32 = 0x2285;
const FROM_DEVICE: i32 = -3;
const NO_DATA: i32 = -1;

/// ATA PASS-THROUGH (16) (SAT-5, 12.2.2.3): SMART and IDENTIFY alone.
struct AtaCommand {
    command: u8,
    feature: u8,
}

/// IDENTIFY DEVICE of a SATA disk.
///
/// # Errors
/// The kernel's; a disk that is none of ATA answers with an error.
pub fn ata_identify(disk: &File) -> io::Result<[u8; 512]> {
    let mut data = [0; 512];
    ata(disk, &AtaCommand { command: 0xec, feature: 0 }, Some(&mut data))?;
    Ok(data)
}

/// SMART READ DATA of a SATA disk, and whether SMART RETURN STATUS tells of failure.
///
/// # Errors
/// As [`ata_identify`].
pub fn ata_health(disk: &File) -> io::Result<([u8; 512], bool)> {
    let mut data = [0; 512];
    ata(disk, &AtaCommand { command: 0xb0, feature: 0xd0 }, Some(&mut data))?;
    let registers = ata(disk, &AtaCommand { command: 0xb0, feature: 0xda }, None)?;
    // The signature of SMART is turned round where a threshold is exceeded.
    let is_failing = registers.is_some_and(|(mid, high)| (mid, high) == (0xf4, 0x2c));
    Ok((data, is_failing))
}

/// Returns LBA Mid and LBA High where the disk told its registers.
fn ata(
    disk: &File,
    command: &AtaCommand,
    data: Option<&mut [u8; 512]>,
) -> io::Result<Option<(u8, u8)>> {
    let has_data = data.is_some();
    let mut cdb = [0_u8; 16];
    cdb[0] = 0x85;
    // PIO data-in, or no data with the registers told afterwards.
    (cdb[1], cdb[2]) = if has_data { (4 << 1, 0x0e) } else { (3 << 1, 0x20) };
    cdb[4] = command.feature;
    cdb[6] = u8::from(has_data);
    (cdb[10], cdb[12]) = if command.command == 0xb0 { (0x4f, 0xc2) } else { (0, 0) };
    cdb[14] = command.command;
    let mut sense = [0_u8; 64];
    let mut header = SgIo {
        interface_id: i32::from(b'S'),
        direction: if has_data { FROM_DEVICE } else { NO_DATA },
        cmd_len: cdb.len() as u8,
        sense_len_max: sense.len() as u8,
        iovec_count: 0,
        data_len: if has_data { 512 } else { 0 },
        data: data.map_or(std::ptr::null_mut(), |data| data.as_mut_ptr()),
        cmd: cdb.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: TIMEOUT_MS,
        flags: 0,
        pack_id: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_len: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the structure that this call takes; what it names outlives the call.
    let result = unsafe {
        libc::ioctl(disk.as_raw_fd(), SG_IO as _, (&raw mut header).cast::<libc::c_void>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let registers = returned(&sense);
    let is_good = header.host_status == 0 && (header.status == 0 || registers.is_some());
    let has_failed = has_data && header.residual == 512;
    if !is_good || has_failed {
        let text = format!("the disk answers with status {:#04x}", header.status);
        return Err(io::Error::other(text));
    }
    Ok(registers)
}

/// LBA Mid and LBA High from an ATA Status Return descriptor (SAT-5, 12.2.2.7), if there is one.
fn returned(sense: &[u8; 64]) -> Option<(u8, u8)> {
    let is_descriptor = sense[0] & 0x7f == 0x72 && sense[8] == 0x09 && sense[9] == 12;
    is_descriptor.then(|| (sense[17], sense[19]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_drive() {
        let file = File::open("/dev/null").unwrap();
        assert!(nvme_health(&file).is_err() && nvme_identify(&file).is_err());
        assert!(nvme_namespace_id(&file).is_err() && nvme_identify_namespace(&file, 1).is_err());
        assert!(ata_health(&file).is_err() && ata_identify(&file).is_err());
    }

    #[test]
    fn registers_come_back_in_a_descriptor() {
        let mut sense = [0; 64];
        assert_eq!(returned(&sense), None);
        sense[..10].copy_from_slice(&[0x72, 1, 0, 0x1d, 0, 0, 0, 14, 9, 12]);
        (sense[17], sense[19]) = (0xf4, 0x2c);
        assert_eq!(returned(&sense), Some((0xf4, 0x2c)));
    }
}
