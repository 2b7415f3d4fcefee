//! Types of reservations, and their codes in both protocols.

/// Type of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only the holder writes; everybody reads.
    WriteExclusive,
    /// Only the holder writes and reads.
    ExclusiveAccess,
    /// Registrants write; everybody reads.
    WriteExclusiveRegistrantsOnly,
    /// Registrants write and read, nobody else.
    ExclusiveAccessRegistrantsOnly,
    /// As [`Kind::WriteExclusiveRegistrantsOnly`], and every registrant is a holder.
    WriteExclusiveAllRegistrants,
    /// As [`Kind::ExclusiveAccessRegistrantsOnly`], and every registrant is a holder.
    ExclusiveAccessAllRegistrants,
}

/// Each type with its code of NVMe (RTYPE) and of SCSI (TYPE).
const CODES: [(Kind, u8, u8); 6] = [
    (Kind::WriteExclusive, 1, 1),
    (Kind::ExclusiveAccess, 2, 3),
    (Kind::WriteExclusiveRegistrantsOnly, 3, 5),
    (Kind::ExclusiveAccessRegistrantsOnly, 4, 6),
    (Kind::WriteExclusiveAllRegistrants, 5, 7),
    (Kind::ExclusiveAccessAllRegistrants, 6, 8),
];

impl Kind {
    /// All types.
    pub const ALL: [Self; 6] =
        [CODES[0].0, CODES[1].0, CODES[2].0, CODES[3].0, CODES[4].0, CODES[5].0];

    /// The type with this NVMe code (NVMe Base 2.1, RTYPE); `None` for a reserved one.
    #[must_use]
    pub fn from_nvme(code: u8) -> Option<Self> {
        CODES.iter().find(|&&(_, nvme, _)| nvme == code).map(|&(kind, ..)| kind)
    }

    /// Its NVMe code.
    #[must_use]
    pub fn nvme(self) -> u8 {
        self.codes().0
    }

    /// The type with this SCSI code (SPC-4, section 6.15.3.4); `None` for a reserved or obsolete
    /// one.
    #[must_use]
    pub fn from_scsi(code: u8) -> Option<Self> {
        CODES.iter().find(|&&(.., scsi)| scsi == code).map(|&(kind, ..)| kind)
    }

    /// Its SCSI code.
    #[must_use]
    pub fn scsi(self) -> u8 {
        self.codes().1
    }

    /// Whether every registrant holds such a reservation.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Whether registrants may do what the holder may: registrants only, or all registrants.
    #[must_use]
    pub fn includes_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether those whom it keeps from writing may read.
    #[must_use]
    pub fn lets_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive
                | Self::WriteExclusiveRegistrantsOnly
                | Self::WriteExclusiveAllRegistrants
        )
    }

    fn codes(self) -> (u8, u8) {
        let codes = CODES.iter().find(|&&(kind, ..)| kind == self);
        codes.map(|&(_, nvme, scsi)| (nvme, scsi)).expect("every type has its codes")
    }
}
