//! Numbers that have names.
#![expect(missing_docs, reason = "the names are those of the specification")]

use open_enum::open_enum;

/// Operation code: byte 0 of a CDB (SPC-4 annex E.3).
#[open_enum]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Opcode {
    TestUnitReady = 0x00,
    RequestSense = 0x03,
    FormatUnit = 0x04,
    Read6 = 0x08,
    Write6 = 0x0A,
    Inquiry = 0x12,
    ModeSelect6 = 0x15,
    Reserve6 = 0x16,
    Release6 = 0x17,
    ModeSense6 = 0x1A,
    StartStopUnit = 0x1B,
    PreventAllow = 0x1E,
    ReadCapacity10 = 0x25,
    Read10 = 0x28,
    Write10 = 0x2A,
    WriteAndVerify10 = 0x2E,
    Verify10 = 0x2F,
    Prefetch10 = 0x34,
    SynchronizeCache10 = 0x35,
    ReadDefectData10 = 0x37,
    WriteSame10 = 0x41,
    Unmap = 0x42,
    Sanitize = 0x48,
    LogSense = 0x4D,
    ModeSelect10 = 0x55,
    Reserve10 = 0x56,
    Release10 = 0x57,
    ModeSense10 = 0x5A,
    PersistentReserveIn = 0x5E,
    PersistentReserveOut = 0x5F,
    ThirdPartyCopyOut = 0x83,
    ThirdPartyCopyIn = 0x84,
    Read16 = 0x88,
    CompareAndWrite = 0x89,
    Write16 = 0x8A,
    OrWrite16 = 0x8B,
    WriteAndVerify16 = 0x8E,
    Verify16 = 0x8F,
    Prefetch16 = 0x90,
    SynchronizeCache16 = 0x91,
    WriteSame16 = 0x93,
    WriteAtomic16 = 0x9C,
    ServiceActionIn16 = 0x9E,
    ReportLuns = 0xA0,
    MaintenanceIn = 0xA3,
    MaintenanceOut = 0xA4,
    Read12 = 0xA8,
    Write12 = 0xAA,
    WriteAndVerify12 = 0xAE,
    Verify12 = 0xAF,
    ReadDefectData12 = 0xB7,
}

/// How a command ended (SAM-5 section 5.3.1).
#[open_enum]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    AcaActive = 0x30,
    TaskAborted = 0x40,
}

/// Sense key (SPC-4 section 4.5.6).
#[open_enum]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    NoSense = 0x0,
    RecoveredError = 0x1,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    BlankCheck = 0x8,
    CopyAborted = 0xA,
    AbortedCommand = 0xB,
    Miscompare = 0xE,
}

/// Additional sense code in the high byte, its qualifier in the low one (SPC-4 annex E.2).
#[open_enum]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum AdditionalSense {
    None = 0x0000,
    PeripheralDeviceWriteFault = 0x0300,
    NotReadyBecomingReady = 0x0401,
    NotReadyFormatInProgress = 0x0404,
    NotReadyTargetPortStandby = 0x040B,
    NotReadyTargetPortUnavailable = 0x040C,
    NotReadyAsymmetricTransition = 0x040A,
    NotReadySanitizeInProgress = 0x041B,
    CopyTargetUnreachable = 0x0804,
    ThirdPartyDeviceFailure = 0x0D01,
    CopyTargetDeviceNotReachable = 0x0D02,
    IncorrectCopyTargetDeviceType = 0x0D03,
    InvalidFieldInInformationUnit = 0x0E03,
    UnrecoveredReadError = 0x1100,
    ParameterListLengthError = 0x1A00,
    MiscompareDuringVerify = 0x1D00,
    InvalidOpcode = 0x2000,
    LbaOutOfRange = 0x2100,
    InvalidFieldInCdb = 0x2400,
    LogicalUnitNotSupported = 0x2500,
    InvalidFieldInParameterList = 0x2600,
    ParameterValueInvalid = 0x2602,
    InvalidReleaseOfPersistentReservation = 0x2604,
    TooManyTargetDescriptors = 0x2606,
    UnsupportedTargetDescriptorType = 0x2607,
    TooManySegmentDescriptors = 0x2608,
    UnsupportedSegmentDescriptorType = 0x2609,
    InlineDataLengthExceeded = 0x260B,
    WriteProtected = 0x2700,
    SoftwareWriteProtected = 0x2702,
    SpaceAllocationFailed = 0x2707,
    PowerOnOrReset = 0x2900,
    PowerOn = 0x2901,
    BusReset = 0x2902,
    DeviceReset = 0x2903,
    NexusLoss = 0x2907,
    ModeParametersChanged = 0x2A01,
    ReservationsPreempted = 0x2A03,
    ReservationsReleased = 0x2A04,
    RegistrationsPreempted = 0x2A05,
    AsymmetricAccessChanged = 0x2A06,
    CapacityChanged = 0x2A09,
    CommandsClearedByAnother = 0x2F00,
    SanitizeFailed = 0x3103,
    SavingParametersNotSupported = 0x3900,
    ThinProvisioningThreshold = 0x3807,
    InquiryDataChanged = 0x3F03,
    ReportedLunsChanged = 0x3F0E,
    InternalTargetFailure = 0x4400,
    ReservationInformationLost = 0x4401,
    DataPhaseError = 0x4B00,
    MediumRemovalPrevented = 0x5302,
    InsufficientRegistrationResources = 0x5504,
    SystemResourceFailure = 0x5501,
    SetTargetPortGroupsFailed = 0x670A,
}
