//! Commands: how they are fetched, what they do, how they end.

use super::AhciFault;
use super::model::World;
use super::port::{InFlight, Port, is_queued};
use storage_spec::ahci::{
    CommandFlags, CommandHeader, DESCRIPTOR_MAX, Descriptor, PortInterrupts, RECEIVED_DEVICE_BITS,
    RECEIVED_PIO_SETUP, RECEIVED_REGISTER, TABLE_DESCRIPTORS,
};
use storage_spec::ata::{
    AtaCommand, BitsFrame, DEVICE_FUA, DeviceFrame, FEATURE_TRIM, FEATURE_UNLOAD, FRAME_BITS,
    FRAME_COMMAND, FRAME_DEVICE, FRAME_HOST, FRAME_PIO_SETUP, HostFrame, LOG_QUEUED_ERROR, Range,
    SECTOR, SMART_EXCEEDED, SMART_READ_DATA, SMART_RETURN_STATUS, SMART_SIGNATURE,
    UNLOAD_SIGNATURE,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const STATUS_GOOD: u8 = 0x50;
const STATUS_ERROR: u8 = 0x41;
const STATUS_FAULT: u8 = 0x61;
const ABORT: u8 = 0x04;
const NOT_FOUND: u8 = 0x10;
const UNCORRECTABLE: u8 = 0x40;

/// Status and error register of a command that failed.
pub(super) type Failure = (u8, u8);

/// How a command tells its end, if it is not a queued one.
pub(super) enum Ending {
    /// By a register frame.
    Register,
    /// By a register frame with this address.
    Address(u64),
    /// By the data alone.
    Pio,
}

impl Port {
    pub(super) fn fetch(&mut self, world: &mut World) {
        let waiting = self.issued & !self.unsent;
        for slot in (0..32_u8).filter(|slot| waiting >> slot & 1 == 1) {
            let is_here = self.flight.iter().any(|in_flight| in_flight.slot == slot);
            if is_here || !world.is_due(70) {
                continue;
            }
            let Some(in_flight) = self.read_command(world, slot) else {
                return self.halt(PortInterrupts::new().with_bus_data(true));
            };
            self.watch_command(world, &in_flight);
            if in_flight.is_queued() {
                self.issued &= !(1 << slot);
                self.task_file = (STATUS_GOOD, 0);
                self.register_frame(world, STATUS_GOOD, 0, 0);
            }
            self.flight.push(in_flight);
        }
    }

    fn read_command(&self, world: &mut World, slot: u8) -> Option<InFlight> {
        let bus = world.bus.clone()?;
        let mut header = CommandHeader::new_zeroed();
        bus.read(self.list + u64::from(slot) * 32, header.as_mut_bytes()).ok()?;
        let flags = CommandFlags::from(header.flags.get());
        let table = header.table.get();
        if flags.fis_dwords() != 5 || !table.is_multiple_of(128) || header.moved.get() != 0 {
            self.violation(world, "a command header");
        }
        let mut frame = HostFrame::command(AtaCommand::IdentifyDevice, 0, 0, 0, 0);
        bus.read(table, frame.as_mut_bytes()).ok()?;
        if frame.kind != FRAME_HOST || frame.flags != FRAME_COMMAND {
            self.violation(world, "a command frame");
        }
        let mut pieces = Vec::new();
        for index in 0..u64::from(flags.descriptors()) {
            let mut descriptor = Descriptor::new_zeroed();
            let at = table + TABLE_DESCRIPTORS as u64 + index * 16;
            bus.read(at, descriptor.as_mut_bytes()).ok()?;
            let (address, bytes_z) = (descriptor.address.get(), descriptor.bytes_z.get() as usize);
            if address % 2 != 0 || bytes_z % 2 != 1 || bytes_z >= DESCRIPTOR_MAX {
                self.violation(world, "a descriptor");
            }
            if !world.config.address_64 && (address + bytes_z as u64) >> 32 != 0 {
                self.violation(world, "a descriptor of more than 32 bits");
            }
            pieces.push((address, bytes_z + 1));
        }
        let is_write = flags.write();
        Some(InFlight { slot, frame, is_write, pieces, is_lost: false })
    }

    /// What no driver may send.
    fn watch_command(&self, world: &mut World, new: &InFlight) {
        let is_marked = self.active >> new.slot & 1 == 1;
        if is_marked != new.is_queued() {
            self.violation(world, "PxSACT does not go with the command");
        }
        let others = self.flight.len();
        let is_mixed = self.flight.iter().any(|other| other.is_queued() != new.is_queued());
        if is_mixed || (!new.is_queued() && others > 0) {
            self.violation(world, "a queued command beside another");
        }
        let depth = self.drive.as_ref().and_then(|drive| drive.config.queue).unwrap_or(0);
        if new.is_queued() {
            if others >= usize::from(depth) || !world.config.queueing {
                self.violation(world, "more queued commands than the queue is deep");
            }
            if new.frame.count.get() >> 3 != u16::from(new.slot) {
                self.violation(world, "a tag is not that of its slot");
            }
        }
        if self.has_outstanding {
            self.violation(world, "the drive had commands from before, and was not reset");
        }
    }

    pub(super) fn complete(&mut self, world: &mut World) {
        let mut at = 0;
        while at < self.flight.len() && !self.is_halted && !self.is_stuck {
            if self.flight[at].is_lost || !world.is_due(35) {
                at += 1;
                continue;
            }
            let World { faults, random, .. } = world;
            let command = AtaCommand(self.flight[at].frame.command);
            let is_ours = match command {
                AtaCommand::IdentifyDevice | AtaCommand::ReadLogExt => true,
                AtaCommand::Smart => self.flight[at].frame.features() == SMART_READ_DATA,
                _ => false,
            };
            let injected = if is_ours { None } else { self.injected.pop_front() };
            let fault = injected.or_else(|| faults.draw(random));
            let in_flight = self.flight.remove(at);
            match fault {
                Some(fault) => self.go_wrong(world, in_flight, fault),
                None => self.finish(world, in_flight),
            }
        }
    }

    fn finish(&mut self, world: &mut World, in_flight: InFlight) {
        world.commands.push(in_flight.frame.command);
        match self.execute(world, &in_flight) {
            Err(failure) => self.fail(world, in_flight, failure, false),
            Ok(_) if in_flight.is_queued() => {
                let ended = 1 << in_flight.slot;
                self.bits_frame(world, STATUS_GOOD, 0, ended);
                self.active &= !ended;
                self.happened.set_device_bits(true);
            }
            Ok(ending) => {
                self.task_file = (STATUS_GOOD, 0);
                match ending {
                    Ending::Register => self.register_frame(world, STATUS_GOOD, 0, 0),
                    Ending::Address(lba) => self.register_frame(world, STATUS_GOOD, 0, lba),
                    Ending::Pio => self.pio_frame(world),
                }
                self.issued &= !(1 << in_flight.slot);
                self.happened.set_register_fis(true);
            }
        }
    }

    /// The drive reports an error; queued commands beside the failed one are dropped.
    fn fail(&mut self, world: &mut World, failed: InFlight, failure: Failure, lies: bool) {
        let (status, error) = failure;
        self.task_file = failure;
        if failed.is_queued() {
            let mut log = [0; SECTOR];
            let is_here = |tag: &u8| self.flight.iter().any(|other| other.slot == *tag);
            let free = (0..32).find(|tag| !is_here(tag) && *tag != failed.slot);
            log[0] = if lies { free.unwrap_or(0x80) } else { failed.slot };
            (log[2], log[3]) = (status, error);
            log[511] = log.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
            if lies && world.random.chance(50) {
                log[511] ^= 1;
            }
            for other in std::mem::take(&mut self.flight) {
                if other.is_write && world.random.chance(50) {
                    // Whether it succeeds is told to nobody.
                    let _ = self.execute(world, &other);
                }
            }
            self.error_log = Some(Box::new(log));
            self.bits_frame(world, status, error, 0);
        } else {
            self.register_frame(world, status, error, 0);
        }
        self.halt(PortInterrupts::new().with_task_file(true));
    }

    fn go_wrong(&mut self, world: &mut World, mut in_flight: InFlight, fault: AhciFault) {
        let none = PortInterrupts::new();
        match fault {
            AhciFault::Error(bits) => {
                return self.fail(world, in_flight, (STATUS_ERROR, bits), false);
            }
            AhciFault::LyingLog => {
                return self.fail(world, in_flight, (STATUS_ERROR, ABORT), true);
            }
            AhciFault::Unsent if in_flight.is_queued() => {
                let slot = 1 << in_flight.slot;
                self.active &= !slot;
                self.issued |= slot;
                self.unsent |= slot;
            }
            AhciFault::Lost | AhciFault::Unsent => {}
            AhciFault::Stuck => {
                self.is_stuck = true;
                self.task_file = (0x80, 0);
            }
            AhciFault::StuckRunning => self.runs_forever = true,
            AhciFault::WrongActive => {
                let free = !(self.active | self.issued);
                self.phantoms = free & free.wrapping_neg();
            }
            AhciFault::Interface => self.halt(none.with_interface(true)),
            AhciFault::BusFatal => self.halt(none.with_bus_fatal(true)),
            AhciFault::BusData => self.halt(none.with_bus_data(true)),
            AhciFault::Overflow => self.halt(none.with_overflow(true)),
            AhciFault::LostState => {
                self.command.set_start(false);
                self.has_forgotten = true;
                self.flight.push(in_flight);
                return self.abandon(world, true);
            }
        }
        in_flight.is_lost = true;
        self.flight.push(in_flight);
    }

    /// Does what a command says.
    pub(super) fn execute(
        &mut self,
        world: &mut World,
        in_flight: &InFlight,
    ) -> Result<Ending, Failure> {
        let command = AtaCommand(in_flight.frame.command);
        if self.error_log.is_some() && command != AtaCommand::ReadLogExt {
            return Err((STATUS_ERROR, ABORT));
        }
        let frame = in_flight.frame;
        let drive = self.drive.as_ref().expect("its link is up");
        let is_refused = (is_queued(frame.command) && drive.config.queue.is_none())
            || (command == AtaCommand::WriteDmaFuaExt && !drive.config.fua)
            || (command == AtaCommand::Smart && !drive.config.smart)
            || (command == AtaCommand::DataSetManagement && drive.config.trim.is_none());
        if is_refused {
            return Err((STATUS_ERROR, ABORT));
        }
        match command {
            AtaCommand::ReadFpdmaQueued | AtaCommand::ReadDmaExt => self.run_read(world, in_flight),
            AtaCommand::WriteFpdmaQueued | AtaCommand::WriteDmaExt | AtaCommand::WriteDmaFuaExt => {
                self.run_write(world, in_flight)
            }
            AtaCommand::FlushCacheExt => {
                self.drive.as_mut().expect("just seen").flush();
                Ok(Ending::Register)
            }
            AtaCommand::DataSetManagement => self.run_trim(world, in_flight),
            AtaCommand::StandbyImmediate => {
                self.drive.as_mut().expect("just seen").flush();
                Ok(Ending::Register)
            }
            AtaCommand::IdleImmediate => {
                let is_unload = frame.features() == FEATURE_UNLOAD;
                if !is_unload || frame.lba() != UNLOAD_SIGNATURE || !drive.config.unloads {
                    self.violation(world, "an idle command that is no unload");
                }
                Ok(Ending::Register)
            }
            AtaCommand::IdentifyDevice => {
                let identify = drive.identify();
                self.give(world, in_flight, identify.as_bytes()).map(|()| Ending::Pio)
            }
            AtaCommand::ReadLogExt => {
                let has_log = drive.config.has_log && frame.lba() == LOG_QUEUED_ERROR;
                // One that has no log waits on, for a reset of its link.
                match self.error_log.take_if(|_| has_log) {
                    Some(log) => self.give(world, in_flight, &log[..]).map(|()| Ending::Pio),
                    None => Err((STATUS_ERROR, ABORT)),
                }
            }
            AtaCommand::Smart if frame.lba() == SMART_SIGNATURE => match frame.features() {
                SMART_READ_DATA => {
                    let data = drive.smart_data();
                    self.give(world, in_flight, &data).map(|()| Ending::Pio)
                }
                SMART_RETURN_STATUS => {
                    let lba = if drive.is_failing { SMART_EXCEEDED } else { SMART_SIGNATURE };
                    Ok(Ending::Address(lba))
                }
                _ => Err((STATUS_ERROR, ABORT)),
            },
            _ => {
                self.violation(world, "an unknown command");
                Err((STATUS_ERROR, ABORT))
            }
        }
    }

    /// First block and number of blocks of a transfer.
    fn range(&self, in_flight: &InFlight) -> Result<(u64, u64), Failure> {
        let frame = &in_flight.frame;
        let count = if in_flight.is_queued() { frame.features() } else { frame.count.get() };
        let count = if count == 0 { 65_536 } else { u64::from(count) };
        let drive = self.drive.as_ref().expect("its link is up");
        let is_there = frame.lba() + count <= drive.config.blocks;
        if is_there { Ok((frame.lba(), count)) } else { Err((STATUS_ERROR, NOT_FOUND)) }
    }

    fn run_read(&mut self, world: &mut World, in_flight: &InFlight) -> Result<Ending, Failure> {
        let (lba, count) = self.range(in_flight)?;
        let drive = self.drive.as_ref().expect("its link is up");
        if drive.first_unreadable(lba, count).is_some() {
            return Err((STATUS_ERROR, UNCORRECTABLE));
        }
        let data: Vec<u8> = (lba..lba + count).flat_map(|lba| drive.block(lba)).collect();
        self.give(world, in_flight, &data)?;
        Ok(Ending::Register)
    }

    fn run_write(&mut self, world: &mut World, in_flight: &InFlight) -> Result<Ending, Failure> {
        let (lba, count) = self.range(in_flight)?;
        let drive = self.drive.as_ref().expect("its link is up");
        if drive.first_unwritable(lba, count).is_some() {
            return Err((STATUS_FAULT, ABORT));
        }
        let len = count as usize * drive.block_size();
        let data = self.take(world, in_flight, len)?;
        let frame = &in_flight.frame;
        let is_forced = frame.command == AtaCommand::WriteDmaFuaExt.0
            || (in_flight.is_queued() && frame.device & DEVICE_FUA != 0);
        let drive = self.drive.as_mut().expect("just seen");
        drive.write(lba, &data, is_forced && drive.config.fua);
        Ok(Ending::Register)
    }

    fn run_trim(&mut self, world: &mut World, in_flight: &InFlight) -> Result<Ending, Failure> {
        let frame = in_flight.frame;
        let blocks = frame.count.get();
        let most = self.drive.as_ref().and_then(|drive| drive.config.trim).unwrap_or(0);
        if frame.features() != FEATURE_TRIM || blocks == 0 || blocks > most {
            self.violation(world, "a trim");
            return Err((STATUS_ERROR, ABORT));
        }
        let data = self.take(world, in_flight, usize::from(blocks) * SECTOR)?;
        let ranges = <[[u8; 8]]>::ref_from_bytes(&data).expect("whole ranges");
        for range in ranges.iter().map(|bytes| Range::from(u64::from_le_bytes(*bytes))) {
            let drive = self.drive.as_mut().expect("its link is up");
            let count = u64::from(range.count());
            if range.lba() + count > drive.config.blocks {
                return Err((STATUS_ERROR, NOT_FOUND));
            }
            drive.trim(range.lba(), count, &mut world.random);
        }
        Ok(Ending::Register)
    }

    /// Data from the drive. A fault of the bus is noted there.
    fn give(&self, world: &mut World, in_flight: &InFlight, data: &[u8]) -> Result<(), Failure> {
        self.watch_length(world, in_flight, data.len(), false);
        let Some(bus) = &world.bus else { return Err((STATUS_ERROR, ABORT)) };
        let mut rest = data;
        for (address, len) in &in_flight.pieces {
            let (head, tail) = rest.split_at((*len).min(rest.len()));
            bus.write(*address, head).map_err(|_| (STATUS_ERROR, ABORT))?;
            rest = tail;
        }
        Ok(())
    }

    /// Data to the drive.
    fn take(
        &self,
        world: &mut World,
        in_flight: &InFlight,
        len: usize,
    ) -> Result<Vec<u8>, Failure> {
        self.watch_length(world, in_flight, len, true);
        let Some(bus) = &world.bus else { return Err((STATUS_ERROR, ABORT)) };
        let mut data = vec![0; len];
        let mut rest = &mut data[..];
        for (address, len) in &in_flight.pieces {
            let (head, tail) = rest.split_at_mut((*len).min(rest.len()));
            bus.read(*address, head).map_err(|_| (STATUS_ERROR, ABORT))?;
            rest = tail;
        }
        Ok(data)
    }

    fn watch_length(&self, world: &mut World, in_flight: &InFlight, len: usize, is_write: bool) {
        let total: usize = in_flight.pieces.iter().map(|(_, len)| len).sum();
        if total != len || in_flight.is_write != is_write {
            self.violation(world, "the descriptors are not what the command moves");
        }
    }

    fn post(&self, world: &World, at: usize, frame: &[u8]) {
        if let (Some(bus), true) = (&world.bus, self.command.receive()) {
            // A fault is noted by the bus.
            let _ = bus.write(self.received + at as u64, frame);
        }
    }

    fn register_frame(&self, world: &World, status: u8, error: u8, lba: u64) {
        let mut frame = DeviceFrame::new_zeroed();
        (frame.kind, frame.status, frame.error) = (FRAME_DEVICE, status, error);
        let [a, b, c, d, e, f, _, _] = lba.to_le_bytes();
        (frame.lba_low, frame.lba_high) = ([a, b, c], [d, e, f]);
        self.post(world, RECEIVED_REGISTER, frame.as_bytes());
    }

    fn pio_frame(&self, world: &World) {
        self.post(world, RECEIVED_PIO_SETUP, &[FRAME_PIO_SETUP, 0x60, 0x58, 0]);
    }

    fn bits_frame(&self, world: &World, status: u8, error: u8, ended: u32) {
        let frame = BitsFrame { kind: FRAME_BITS, flags: 0, status, error, ended: ended.into() };
        self.post(world, RECEIVED_DEVICE_BITS, frame.as_bytes());
    }
}
