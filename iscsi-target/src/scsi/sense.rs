//! Sense data: what a command failed of (SPC-4 section 4.5).

use storage_spec::scsi::sense::{
    AdditionalSense, DescriptorSense, FieldPointer, FixedSense, InformationDescriptor,
    RESPONSE_DESCRIPTOR, RESPONSE_FIXED, SenseKey, SpecificDescriptor,
};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Most bytes of sense data.
pub const SENSE_MAX: usize = 28;

/// Sense data before they have a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// What kind of failure.
    pub key: SenseKey,
    /// Which.
    pub code: AdditionalSense,
    /// INFORMATION: an LBA, or an offset.
    pub information: Option<u64>,
    /// The wrong field, or progress.
    pub specific: Option<[u8; 3]>,
    /// Whether they are told in descriptor format (D_SENSE of the unit).
    pub descriptor: bool,
}

/// Sense data as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenseBytes {
    bytes: [u8; SENSE_MAX],
    len: usize,
}

impl core::ops::Deref for SenseBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Sense {
    /// Sense data without more.
    #[must_use]
    pub const fn new(key: SenseKey, code: AdditionalSense) -> Self {
        Self { key, code, information: None, specific: None, descriptor: false }
    }

    /// ILLEGAL REQUEST.
    #[must_use]
    pub const fn illegal(code: AdditionalSense) -> Self {
        Self::new(SenseKey::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB, at a byte.
    #[must_use]
    pub fn cdb_byte(byte: u16) -> Self {
        let pointer = FieldPointer::new().with_in_command(true).with_field(byte);
        Self::illegal(AdditionalSense::InvalidFieldInCdb).pointing(pointer)
    }

    /// INVALID FIELD IN CDB, at a bit of a byte: the highest of the field.
    #[must_use]
    pub fn cdb_bit(byte: u16, bit: u8) -> Self {
        let pointer = FieldPointer::new().with_in_command(true).with_field(byte);
        let pointer = pointer.with_bit_valid(true).with_bit(bit);
        Self::illegal(AdditionalSense::InvalidFieldInCdb).pointing(pointer)
    }

    /// INVALID FIELD IN PARAMETER LIST, at a byte.
    #[must_use]
    pub fn list_byte(byte: usize) -> Self {
        let field = u16::try_from(byte).unwrap_or(u16::MAX);
        let pointer = FieldPointer::new().with_field(field);
        Self::illegal(AdditionalSense::InvalidFieldInParameterList).pointing(pointer)
    }

    /// With INFORMATION.
    #[must_use]
    pub const fn with_information(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// With the progress of what makes the unit not ready, of 65536.
    #[must_use]
    pub const fn with_progress(self, progress: u16) -> Self {
        let [high, low] = progress.to_be_bytes();
        Self { specific: Some([0x80, high, low]), ..self }
    }

    /// In the format of a unit.
    #[must_use]
    pub const fn with_format(self, descriptor: bool) -> Self {
        Self { descriptor, ..self }
    }

    fn pointing(self, pointer: FieldPointer) -> Self {
        let [_, specific @ ..] = u32::from(pointer.with_valid(true)).to_be_bytes();
        Self { specific: Some(specific), ..self }
    }

    /// As it goes to the initiator.
    #[must_use]
    pub fn to_bytes(&self) -> SenseBytes {
        if self.descriptor { self.in_descriptors() } else { self.fixed() }
    }

    fn fixed(&self) -> SenseBytes {
        let mut data = FixedSense::new_zeroed();
        data.response = RESPONSE_FIXED;
        // What does not fit is not told.
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            data.response |= 0x80;
            data.information = U32::new(information);
        }
        data.key = self.key.0;
        data.additional_len = 10;
        data.code = U16::new(self.code.0);
        data.specific = self.specific.unwrap_or_default();
        let mut bytes = [0; SENSE_MAX];
        bytes[..size_of::<FixedSense>()].copy_from_slice(data.as_bytes());
        SenseBytes { bytes, len: size_of::<FixedSense>() }
    }

    fn in_descriptors(&self) -> SenseBytes {
        let mut head = DescriptorSense::new_zeroed();
        head.response = RESPONSE_DESCRIPTOR;
        head.key = self.key.0;
        head.code = U16::new(self.code.0);
        let mut bytes = [0; SENSE_MAX];
        let mut len = size_of::<DescriptorSense>();
        let mut append = |descriptor: &[u8]| {
            bytes[len..len + descriptor.len()].copy_from_slice(descriptor);
            len += descriptor.len();
        };
        if let Some(information) = self.information {
            let mut descriptor = InformationDescriptor::new_zeroed();
            descriptor.additional_len = 10;
            descriptor.valid = 0x80;
            descriptor.information = U64::new(information);
            append(descriptor.as_bytes());
        }
        if let Some(specific) = self.specific {
            let mut descriptor = SpecificDescriptor::new_zeroed();
            descriptor.kind = 2;
            descriptor.additional_len = 6;
            descriptor.specific = specific;
            append(descriptor.as_bytes());
        }
        head.additional_len = (len - size_of::<DescriptorSense>()) as u8;
        bytes[..size_of::<DescriptorSense>()].copy_from_slice(head.as_bytes());
        SenseBytes { bytes, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format() {
        let sense = Sense::cdb_bit(1, 7);
        let expected = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCF, 0, 1];
        assert_eq!(*sense.to_bytes(), expected);
        let sense = Sense::list_byte(0x1234);
        let expected = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0, 0, 0x80, 0x12, 0x34];
        assert_eq!(*sense.to_bytes(), expected);
        let miscompare = Sense::new(SenseKey::Miscompare, AdditionalSense::MiscompareDuringVerify);
        let expected = [0xF0, 0, 0xE, 0, 0, 1, 2, 10, 0, 0, 0, 0, 0x1D, 0, 0, 0, 0, 0];
        assert_eq!(*miscompare.with_information(0x102).to_bytes(), expected);
        assert_eq!(miscompare.with_information(1 << 32).to_bytes()[0], 0x70);
    }

    #[test]
    fn descriptor_format() {
        let media = Sense::new(SenseKey::MediumError, AdditionalSense::UnrecoveredReadError);
        let sense = media.with_information(0x1_0000_0001).with_format(true);
        let expected = [0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(*sense.to_bytes(), expected);
        let sense = Sense::cdb_byte(2).with_format(true);
        let expected = [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xC0, 0, 2, 0];
        assert_eq!(*sense.to_bytes(), expected);
        let both = Sense::cdb_byte(2).with_information(1).with_format(true);
        assert_eq!(both.to_bytes().len(), SENSE_MAX);
    }
}
