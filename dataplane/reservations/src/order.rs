//! What may be asked of a table, and what comes of it.

use crate::{Key, Kind, Registrant};

/// What a registrant, or who wants to be one, asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Register a key, or replace one. NVMe Reservation Register with actions 0 and 2, SCSI
    /// REGISTER and REGISTER AND IGNORE EXISTING KEY with a key.
    Register {
        /// What must be registered now.
        current: Current,
        /// The new key, not 0.
        key: Key,
        /// Others that get the same key, or none does: the nexuses of SPEC_I_PT, and of ALL_TG_PT
        /// those of the same initiator port through the other target ports. Who is registered
        /// already is a conflict, except through the initiator port of the order itself.
        also: Vec<Registrant>,
        /// What becomes of persistence.
        persist: Persist,
    },
    /// End one's registration. NVMe Reservation Register with action 1, SCSI REGISTER and REGISTER
    /// AND IGNORE EXISTING KEY with key 0.
    Unregister {
        /// What must be registered now.
        current: Current,
        /// What becomes of persistence.
        persist: Persist,
    },
    /// Reserve. NVMe Reservation Acquire with action 0, SCSI RESERVE.
    Reserve {
        /// One's own key.
        key: Key,
        /// The type.
        kind: Kind,
    },
    /// Take registrations away from others, and the reservation if one of them holds it. NVMe
    /// Reservation Acquire with actions 1 and 2, SCSI PREEMPT and PREEMPT AND ABORT.
    Preempt {
        /// One's own key.
        key: Key,
        /// The key of those to preempt. 0: everyone else, of a reservation of all registrants.
        victim: Key,
        /// The type of the reservation that replaces the victim's.
        kind: Kind,
        /// Whether to abort the commands of those preempted, too.
        abort: bool,
    },
    /// End one's reservation. NVMe Reservation Release with action 0, SCSI RELEASE.
    Release {
        /// One's own key.
        key: Key,
        /// The type of the reservation.
        kind: Kind,
    },
    /// End the reservation and every registration. NVMe Reservation Release with action 1, SCSI
    /// CLEAR.
    Clear {
        /// One's own key.
        key: Key,
    },
    /// Hand the reservation over. SCSI REGISTER AND MOVE.
    Move {
        /// One's own key.
        key: Key,
        /// The key that the receiver is registered with, not 0.
        new_key: Key,
        /// Who holds it then.
        to: Registrant,
        /// Whether to end one's own registration (UNREG).
        unregister: bool,
        /// What becomes of persistence.
        persist: Persist,
    },
    /// Begin anew after the table was lost. SCSI REPLACE LOST RESERVATION.
    ReplaceLost {
        /// The key to register, not 0.
        key: Key,
        /// The type of the reservation.
        kind: Kind,
    },
    /// Set whether the table persists. NVMe Set Features, identifier 83h.
    SetPersist(bool),
    /// Reserve the whole unit until one's session ends. SCSI RESERVE(6) and (10).
    ReserveUnit,
    /// End that. SCSI RELEASE(6) and (10).
    ReleaseUnit,
}

/// What an order says of the registration that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// None: SCSI REGISTER with reservation key 0.
    None,
    /// None, or one with the very key that is now registered: NVMe action Register.
    NoneOrSame,
    /// One with this key.
    Is(Key),
    /// Whatever there is, or nothing: IEKEY, REGISTER AND IGNORE EXISTING KEY.
    Any,
}

/// What an order makes of persistence through power loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persist {
    /// As it is: NVMe CPTPL 0.
    #[default]
    Unchanged,
    /// Not kept: NVMe CPTPL 2, SCSI APTPL 0.
    Off,
    /// Kept: NVMe CPTPL 3, SCSI APTPL 1.
    On,
}

/// Why an order does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// NVMe Reservation Conflict (SCT 0, SC 83h), SCSI status RESERVATION CONFLICT.
    #[error("conflicts with registrations or with the reservation")]
    Conflict,
    /// A key is 0 that may not be. NVMe Invalid Field in Command, SCSI INVALID FIELD IN PARAMETER
    /// LIST.
    #[error("key 0 stands for none")]
    BadKey,
    /// The type is not that of the reservation. NVMe Invalid Field in Command, SCSI INVALID RELEASE
    /// OF PERSISTENT RESERVATION.
    #[error("the reservation has another type")]
    WrongKind,
    /// There is no reservation to move, or the receiver is the sender. SCSI INVALID FIELD IN
    /// PARAMETER LIST.
    #[error("there is nothing to move, or nowhere to move it")]
    BadMove,
    /// There are [`REGISTRANTS_MAX`](crate::REGISTRANTS_MAX). SCSI INSUFFICIENT REGISTRATION
    /// RESOURCES, NVMe Internal Error.
    #[error("there are as many registrants as can be")]
    Full,
    /// What persisted has been lost: nothing is allowed until [`Order::ReplaceLost`]. SCSI
    /// PERSISTENT RESERVATION INFORMATION LOST, NVMe Reservation Conflict.
    #[error("the reservations of this volume were lost")]
    Lost,
    /// Nothing was lost. SCSI INVALID FIELD IN CDB.
    #[error("nothing was lost")]
    NotLost,
}

/// Why an order that was given to a node did not come to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The table refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its record could not be kept: the table is as it was. NVMe Internal Error, SCSI HARDWARE
    /// ERROR.
    #[error("the disk did not keep the reservations")]
    NotKept,
    /// The volume is not there, or not any more.
    #[error("the volume is not there")]
    Gone,
    /// Too many orders wait for the table. SCSI BUSY.
    #[error("too many orders wait for this volume")]
    Busy,
}

/// What an order did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Registrants or the reservation are not what they were: hosts' [`Access`](crate::Access) may
    /// have changed.
    pub changed: bool,
    /// What to do with the durable record before the order is answered.
    pub keep: Keep,
    /// Whom to tell what, in no order; never who gave the order.
    pub notices: Vec<Notify>,
    /// Whose commands to abort; the order is answered when these have ended.
    pub aborts: Vec<Registrant>,
}

/// What becomes of the durable record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// It stays.
    #[default]
    Unchanged,
    /// [`Table::encode`](crate::Table::encode) replaces it.
    Write,
    /// It is deleted: the table does not persist.
    Delete,
}

/// A registrant to be told something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notify {
    /// Who is to be told.
    pub who: Registrant,
    /// What has happened.
    pub what: Notice,
}

/// What registrants are told. NVMe: an entry of log page 80h and an asynchronous event; SCSI: a
/// unit attention condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// Its registration was preempted (NVMe type 1, SCSI 2Ah/05h).
    RegistrationPreempted,
    /// A reservation that it had part in was released (NVMe type 2, SCSI 2Ah/04h).
    ReservationReleased,
    /// Reservation and registrations were cleared (NVMe type 3, SCSI 2Ah/03h).
    ReservationPreempted,
}
