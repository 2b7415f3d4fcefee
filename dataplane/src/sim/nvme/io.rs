//! Commands of the NVM command set.

use super::media::{Media, guard};
use super::model::Model;
use storage_spec::nvme::command::{
    Command, DSM_RANGES_MAX, DsmDword10, DsmDword11, DsmRange, IoDword12, NvmOpcode,
    ProtectionField, ProtectionInformation,
};
use storage_spec::nvme::identify::NSID_ALL;
use storage_spec::nvme::status::Status;
use zerocopy::{FromBytes, IntoBytes, big_endian};

/// What deallocated blocks read as: not zeroes, so that nobody takes it for granted.
const DEALLOCATED: u8 = 0xDE;

impl Model {
    pub(super) fn execute_io(&mut self, command: &Command) -> Status {
        self.execute_checked(command).err().unwrap_or(Status::SUCCESS)
    }

    fn execute_checked(&mut self, command: &Command) -> Result<(), Status> {
        let id = command.namespace_id.get();
        let opcode = NvmOpcode(command.opcode);
        if opcode == NvmOpcode::Flush && id == NSID_ALL {
            self.namespaces.iter_mut().for_each(Media::flush);
            return Ok(());
        }
        if self.namespace(id).is_none() {
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        match opcode {
            NvmOpcode::Flush => {
                self.media(id).flush();
                Ok(())
            }
            NvmOpcode::Read => self.read_blocks(command),
            NvmOpcode::Write => self.write_blocks(command),
            NvmOpcode::Compare if self.config.optional_commands => self.compare_blocks(command),
            NvmOpcode::WriteZeroes if self.config.optional_commands => self.write_zeroes(command),
            NvmOpcode::DatasetManagement if self.config.optional_commands => {
                self.deallocate(command)
            }
            _ => Err(Status::INVALID_OPCODE.dnr()),
        }
    }

    fn media(&mut self, id: u32) -> &mut Media {
        self.namespace(id).expect("checked before")
    }

    fn read_blocks(&mut self, command: &Command) -> Result<(), Status> {
        let (lba, count) = self.range(command, true)?;
        let protection = self.protection(command)?;
        let media = self.media(command.namespace_id.get());
        let (size, meta) = (media.block_size(), usize::from(media.config.metadata));
        let mut data = Vec::with_capacity(count as usize * size);
        let mut metadata = Vec::new();
        for lba in lba..lba + count {
            if media.is_unreadable(lba) {
                return Err(Status::UNRECOVERED_READ_ERROR.dnr());
            }
            match media.stored(lba) {
                None => {
                    data.resize(data.len() + size, 0);
                    metadata.resize(metadata.len() + meta, 0);
                }
                Some(stored) => {
                    if protection.check_guard() {
                        check(stored, size, lba, protection)?;
                    }
                    data.extend_from_slice(&stored[..size]);
                    metadata.extend_from_slice(&stored[size..]);
                }
            }
        }
        let is_carried = meta > 0 && !(protection.action() && meta == 8);
        self.give_data(command, &data)?;
        if is_carried {
            let bus = self.bus.clone().ok_or(Status::DATA_TRANSFER_ERROR)?;
            let written = bus.write(command.metadata.get(), &metadata);
            written.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        }
        Ok(())
    }

    fn write_blocks(&mut self, command: &Command) -> Result<(), Status> {
        let (lba, count) = self.range(command, true)?;
        let protection = self.protection(command)?;
        let media = self.media(command.namespace_id.get());
        let (size, meta) = (media.block_size(), usize::from(media.config.metadata));
        let data = self.take_data(command, count as usize * size)?;
        let mut metadata = vec![0; count as usize * meta];
        if meta > 0 && !(protection.action() && meta == 8) {
            let bus = self.bus.clone().ok_or(Status::DATA_TRANSFER_ERROR)?;
            let read = bus.read(command.metadata.get(), &mut metadata);
            read.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        }
        let blocks = (0..count as usize).map(|index| {
            let data = &data[index * size..][..size];
            let metadata = &metadata[index * meta..][..meta];
            let mut block = [data, metadata].concat();
            if protection.action() {
                protect(&mut block, lba + index as u64);
            }
            block.into_boxed_slice()
        });
        let blocks = blocks.collect();
        let is_forced =
            IoDword12::from(command.dword(12)).force_unit_access() && !self.config.ignores_fua;
        self.media(command.namespace_id.get()).write(lba, blocks, is_forced);
        Ok(())
    }

    fn compare_blocks(&mut self, command: &Command) -> Result<(), Status> {
        let (lba, count) = self.range(command, true)?;
        self.protection(command)?;
        let size = self.media(command.namespace_id.get()).block_size();
        let data = self.take_data(command, count as usize * size)?;
        let media = self.media(command.namespace_id.get());
        let is_same = (lba..).zip(data.chunks(size)).all(|(lba, data)| *media.block(lba) == *data);
        if is_same { Ok(()) } else { Err(Status::COMPARE_FAILURE.dnr()) }
    }

    fn write_zeroes(&mut self, command: &Command) -> Result<(), Status> {
        let (lba, count) = self.range(command, false)?;
        let protection = self.protection(command)?;
        let most = self.config.zeroes_shift;
        let media = self.media(command.namespace_id.get());
        let (size, meta) = (media.block_size(), usize::from(media.config.metadata));
        if most > 0 && count as usize * size > 4096 << most {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let blocks = (lba..lba + count).map(|lba| {
            let mut block = vec![0; size + meta];
            if protection.action() {
                protect(&mut block, lba);
            }
            block.into_boxed_slice()
        });
        let blocks = blocks.collect();
        media.write(lba, blocks, false);
        Ok(())
    }

    fn deallocate(&mut self, command: &Command) -> Result<(), Status> {
        let ranges = usize::from(DsmDword10::from(command.dword(10)).ranges_z()) + 1;
        assert!(ranges <= DSM_RANGES_MAX);
        let data = self.take_data(command, ranges * size_of::<DsmRange>())?;
        if !DsmDword11::from(command.dword(11)).deallocate() {
            return Ok(());
        }
        let ranges = <[DsmRange]>::ref_from_bytes(&data).expect("whole ranges");
        for range in ranges {
            let (lba, count) = (range.lba.get(), u64::from(range.blocks.get()));
            let media = self.media(command.namespace_id.get());
            if lba.checked_add(count).is_none_or(|end| end > media.config.blocks) {
                return Err(Status::LBA_OUT_OF_RANGE.dnr());
            }
            let (size, meta) = (media.block_size(), usize::from(media.config.metadata));
            // Protection information of all ones: not checked.
            let block = [vec![DEALLOCATED; size], vec![0xFF; meta]].concat();
            let written = (lba..lba + count).filter(|&lba| media.stored(lba).is_some());
            for lba in written.collect::<Vec<_>>() {
                media.write(lba, vec![block.clone().into_boxed_slice()], false);
            }
        }
        Ok(())
    }

    fn range(&mut self, command: &Command, has_data: bool) -> Result<(u64, u64), Status> {
        let transfer_shift = self.config.transfer_shift;
        let media = self.media(command.namespace_id.get());
        let dword_12 = IoDword12::from(command.dword(12));
        let (lba, count) = (command.lba(), u64::from(dword_12.blocks_z()) + 1);
        if lba.checked_add(count).is_none_or(|end| end > media.config.blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        let bytes = count << media.config.block_shift;
        if has_data && transfer_shift > 0 && bytes > 4096 << transfer_shift {
            self.violation(format!("{bytes} bytes in one transfer"));
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok((lba, count))
    }

    /// What is to be done about protection information, which is none or ours alone to make.
    fn protection(&mut self, command: &Command) -> Result<ProtectionField, Status> {
        let kind = self.media(command.namespace_id.get()).config.protection;
        let field = ProtectionField::from(IoDword12::from(command.dword(12)).protection());
        let is_fit = if kind == 0 {
            u8::from(field) == 0 && command.dword(14) == 0
        } else {
            field.action() && (!field.check_reference() || command.dword(14) == command.dword(10))
        };
        if !is_fit {
            self.violation(format!("protection information of {command:?}"));
            return Err(Status::INVALID_PROTECTION_INFORMATION.dnr());
        }
        Ok(field)
    }
}

fn protect(block: &mut [u8], lba: u64) {
    let (covered, last) = block.split_at_mut(block.len() - 8);
    let information = ProtectionInformation {
        guard: big_endian::U16::new(guard(covered)),
        application: big_endian::U16::ZERO,
        reference: big_endian::U32::new(lba as u32),
    };
    last.copy_from_slice(information.as_bytes());
}

fn check(stored: &[u8], size: usize, lba: u64, field: ProtectionField) -> Result<(), Status> {
    assert!(stored.len() >= size + 8);
    let (covered, last) = stored.split_at(stored.len() - 8);
    let information = ProtectionInformation::read_from_bytes(last).expect("its size");
    if information.application.get() == 0xFFFF {
        return Ok(());
    }
    if information.guard.get() != guard(covered) {
        return Err(Status::GUARD_CHECK_ERROR.dnr());
    }
    if field.check_reference() && information.reference.get() != lba as u32 {
        return Err(Status::REFERENCE_TAG_CHECK_ERROR.dnr());
    }
    Ok(())
}
