//! The gates that every command passes, in their order (SAM-5 section 5.14, SPC-4 section 5.13):
//! logical unit, unit attention, reservation, readiness, and then its fields.

use super::plan::{Order, copy_in, copy_out, order};
use super::task::Job;
use super::{
    Access, Admitted, Attentions, ControlCommand, DataIn, Ending, Lun, Needs, PARAMETER_LIST_MAX,
    Protection, Readiness, Sense, Status, Task, Unit,
};
use storage_spec::scsi::Opcode;
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};
use target_io::Buffer;

/// A command as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its CDB, filled up with zeroes.
    pub cdb: &'a [u8; 16],
    /// The logical unit it names.
    pub lun: Option<Lun>,
    /// Bytes of data-out that the initiator offers.
    pub data_out: u32,
    /// Most bytes of a buffer of its data: whole blocks of the store, at most
    /// [`target_io::TRANSFER_MAX`]. What is longer moves in pieces.
    pub piece_max: u32,
}

/// What a command does, for reservations and write protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Allowed to everybody, whatever is reserved.
    Always,
    /// As [`Class::Always`], but not against a reservation by RESERVE.
    State,
    /// Learns of the medium.
    Reads,
    /// Changes what others share, but not the medium.
    Changes,
    /// Changes the medium.
    Writes,
}

/// Judges a command by what the core of its connection knows.
pub fn admit<B: Buffer>(
    request: Request<'_>,
    units: &[Option<Unit>],
    attentions: &mut Attentions,
) -> Admitted<B> {
    let opcode = Opcode(request.cdb[0]);
    let unit = request.lun.and_then(|lun| units.get(usize::from(lun.0)).copied().flatten());
    let Some(unit) = unit else {
        return without_unit(request, attentions);
    };
    let lun = request.lun.expect("a unit has a number");
    let fail =
        |sense: Sense| Admitted::End(Ending::check(sense.with_format(unit.descriptor_sense)));
    if let Some(attention) = attentions.interrupt(lun, opcode) {
        return fail(attention.sense());
    }
    if opcode == Opcode::RequestSense {
        return request_sense(request.cdb, lun, &unit, attentions);
    }
    let class = match class(request.cdb) {
        Ok(class) => class,
        Err(sense) => return fail(sense),
    };
    if let Some(at) = control_byte(opcode)
        && request.cdb[at] & NACA != 0
    {
        return fail(Sense::cdb_bit(at as u16, 2));
    }
    if !is_allowed(class, unit.access) {
        return Admitted::End(Ending::status(Status::ReservationConflict));
    }
    if let Err(sense) = check_ready(request.cdb, class, &unit) {
        return fail(sense);
    }
    let order = match opcode {
        Opcode::ThirdPartyCopyOut => copy_out(request.cdb, units, &attentions.copies),
        Opcode::ThirdPartyCopyIn => copy_in(request.cdb, &attentions.copies),
        _ => order(request.cdb, &unit),
    };
    match order {
        Err(sense) => fail(sense),
        Ok(order) => admit_order(request, &unit, order),
    }
}

/// NACA, in the CONTROL byte: no unit keeps an auto contingent allegiance.
const NACA: u8 = 0x04;

/// Where the CONTROL byte of a CDB is: in its last, as long as its group is (SAM-5 section 5.2).
fn control_byte(opcode: Opcode) -> Option<usize> {
    match opcode.0 >> 5 {
        0 => Some(5),
        1 | 2 => Some(9),
        4 => Some(15),
        5 => Some(11),
        _ => None,
    }
}

fn admit_order<B: Buffer>(request: Request<'_>, unit: &Unit, mut order: Order<B>) -> Admitted<B> {
    let fail =
        |sense: Sense| Admitted::End(Ending::check(sense.with_format(unit.descriptor_sense)));
    let (mut needs, is_exact) = match &order {
        Order::Task { needs, is_exact, .. } => (*needs, *is_exact),
        Order::Control(needs) => (*needs, false),
        Order::End(_) => (Needs::default(), false),
    };
    let offered = request.data_out;
    if is_exact && needs.data_out == 0 && offered > 0 && request.cdb[0] == Opcode::CompareAndWrite.0
    {
        // More blocks than the count of one byte can say, some initiators: the count is wrong.
        return fail(Sense::cdb_byte(13));
    }
    needs.named = needs.data_out;
    if let Order::Task { job: Job::Write(write), .. } = &mut order
        && offered < needs.data_out
    {
        // As with other transports, the blocks that come whole are written, and the transport says
        // that there should have been more (FCP-4 section 9.4.2).
        needs.data_out = offered >> unit.block_shift << unit.block_shift;
        write.shorten(needs.data_out);
    }
    if offered < needs.data_out || (is_exact && offered != needs.data_out) {
        return fail(Sense::illegal(AdditionalSense::InvalidFieldInInformationUnit));
    }
    match order {
        Order::End(ending) => Admitted::End(ending),
        Order::Task { mut job, .. } => {
            if let Some(pieces) = job.pieces_mut() {
                pieces.limit(request.piece_max);
            }
            Admitted::Task(Task::new(unit, job), needs)
        }
        Order::Control(_) => control(request, needs),
    }
}

fn control<B>(request: Request<'_>, needs: Needs) -> Admitted<B> {
    assert!(needs.data_out <= PARAMETER_LIST_MAX, "parameter lists are bounded");
    Admitted::Control(ControlCommand { cdb: *request.cdb, lun: request.lun }, needs)
}

/// Commands to a unit that is not there: only what tells so succeeds (SPC-4 section 6.6.1).
fn without_unit<B>(request: Request<'_>, attentions: &mut Attentions) -> Admitted<B> {
    let not_supported = Sense::illegal(AdditionalSense::LogicalUnitNotSupported);
    match Opcode(request.cdb[0]) {
        opcode @ (Opcode::Inquiry | Opcode::ReportLuns) => {
            if let Some(lun) = request.lun {
                attentions.interrupt(lun, opcode);
            }
            let needs = match super::control::needs(request.cdb) {
                Some(Ok(needs)) => needs,
                Some(Err(sense)) => return Admitted::End(Ending::check(sense)),
                None => Needs::default(),
            };
            control(request, needs)
        }
        Opcode::RequestSense => sense_data(request.cdb, not_supported),
        _ => Admitted::End(Ending::check(not_supported)),
    }
}

/// REQUEST SENSE (SPC-4 section 6.39).
fn request_sense<B>(
    cdb: &[u8; 16],
    lun: Lun,
    unit: &Unit,
    attentions: &mut Attentions,
) -> Admitted<B> {
    let sense = match (attentions.take(lun), unit.readiness) {
        (Some(attention), _) => attention.sense(),
        (None, Readiness::Ready) => Sense::new(SenseKey::NoSense, AdditionalSense::None),
        (None, readiness) => not_ready(readiness),
    };
    sense_data(cdb, sense)
}

fn sense_data<B>(cdb: &[u8; 16], sense: Sense) -> Admitted<B> {
    let descriptor = cdb[1] & 1 == 1;
    let mut bytes = sense.with_format(descriptor).to_bytes().to_vec();
    bytes.truncate(usize::from(cdb[4]));
    Admitted::End(Ending::good(DataIn::Bytes(bytes)))
}

/// Of every command that there is, by its CDB (SPC-4 table 66, SBC-3 table 10).
pub(super) fn class(cdb: &[u8; 16]) -> Result<Class, Sense> {
    Ok(match Opcode(cdb[0]) {
        Opcode::Inquiry
        | Opcode::ReportLuns
        | Opcode::RequestSense
        | Opcode::LogSense
        | Opcode::ReadCapacity10
        // Judged by what they ask for, with the reservations at hand.
        | Opcode::PersistentReserveOut
        | Opcode::Reserve6
        | Opcode::Reserve10
        | Opcode::Release6
        | Opcode::Release10 => Class::Always,
        Opcode::TestUnitReady | Opcode::PersistentReserveIn => Class::State,
        Opcode::ServiceActionIn16 if cdb[1] & 0x1F == storage_spec::scsi::READ_CAPACITY_16 => {
            Class::Always
        }
        Opcode::MaintenanceIn
            if cdb[1] & 0x1F == storage_spec::scsi::REPORT_TARGET_PORT_GROUPS =>
        {
            Class::State
        }
        Opcode::PreventAllow if cdb[4] & 0b11 == 0 => Class::Always,
        Opcode::StartStopUnit if cdb[4] & 1 == 1 && cdb[4] >> 4 == 0 => Class::Always,
        Opcode::PreventAllow
        | Opcode::StartStopUnit
        | Opcode::SynchronizeCache10
        | Opcode::SynchronizeCache16
        | Opcode::ModeSelect6
        | Opcode::ModeSelect10
        | Opcode::ThirdPartyCopyOut
        | Opcode::MaintenanceOut => Class::Changes,
        Opcode::Write6
        | Opcode::Write10
        | Opcode::Write12
        | Opcode::Write16
        | Opcode::WriteAndVerify10
        | Opcode::WriteAndVerify12
        | Opcode::WriteAndVerify16
        | Opcode::WriteSame10
        | Opcode::WriteSame16
        | Opcode::WriteAtomic16
        | Opcode::CompareAndWrite
        | Opcode::OrWrite16
        | Opcode::Unmap
        | Opcode::Sanitize => Class::Writes,
        Opcode::Read6
        | Opcode::Read10
        | Opcode::Read12
        | Opcode::Read16
        | Opcode::Verify10
        | Opcode::Verify12
        | Opcode::Verify16
        | Opcode::Prefetch10
        | Opcode::Prefetch16
        | Opcode::ReadDefectData10
        | Opcode::ReadDefectData12
        | Opcode::ServiceActionIn16
        | Opcode::MaintenanceIn
        | Opcode::ModeSense6
        | Opcode::ModeSense10
        | Opcode::ThirdPartyCopyIn => Class::Reads,
        _ => return Err(Sense::illegal(AdditionalSense::InvalidOpcode)),
    })
}

fn is_allowed(class: Class, access: Access) -> bool {
    match access {
        Access::All => true,
        Access::ReadOnly => !matches!(class, Class::Writes | Class::Changes),
        Access::None => matches!(class, Class::Always | Class::State),
        Access::Reserved => class == Class::Always,
    }
}

/// Whether the unit takes commands of this class now.
fn check_ready(cdb: &[u8; 16], class: Class, unit: &Unit) -> Result<(), Sense> {
    if class == Class::Writes {
        match unit.protection {
            Protection::None => {}
            Protection::Volume => {
                let code = AdditionalSense::WriteProtected;
                return Err(Sense::new(SenseKey::DataProtect, code));
            }
            Protection::Software => {
                let code = AdditionalSense::SoftwareWriteProtected;
                return Err(Sense::new(SenseKey::DataProtect, code));
            }
        }
    }
    match unit.readiness {
        Readiness::Ready => Ok(()),
        _ if is_informative(cdb) => Ok(()),
        readiness => Err(not_ready(readiness)),
    }
}

/// Commands that answer whatever the state of the medium.
fn is_informative(cdb: &[u8; 16]) -> bool {
    matches!(
        Opcode(cdb[0]),
        Opcode::Inquiry
            | Opcode::ReportLuns
            | Opcode::RequestSense
            | Opcode::LogSense
            | Opcode::MaintenanceIn
            | Opcode::MaintenanceOut
            | Opcode::PersistentReserveIn
            | Opcode::PersistentReserveOut
    )
}

fn not_ready(readiness: Readiness) -> Sense {
    let sense = |code| Sense::new(SenseKey::NotReady, code);
    match readiness {
        Readiness::Ready => Sense::new(SenseKey::NoSense, AdditionalSense::None),
        Readiness::Standby => sense(AdditionalSense::NotReadyTargetPortStandby),
        Readiness::Unavailable => sense(AdditionalSense::NotReadyTargetPortUnavailable),
        Readiness::Transitioning => sense(AdditionalSense::NotReadyAsymmetricTransition),
    }
}
