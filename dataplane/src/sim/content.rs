//! What simulated hosts write: 512 bytes say which write they are of and where they belong, so that
//! a mixture of two contents, or the content of another place, is neither.

use super::Random;

/// Bytes that have one version.
pub(super) const SECTOR: usize = 512;

/// Which write a sector's bytes are of; 0 is zeroes.
pub(super) type Version = u64;

/// Where bytes were first written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The volume's number in the simulated world, which no other has.
    pub(super) volume: u32,
    /// Sector within the volume.
    pub(super) sector: u64,
}

impl Place {
    fn word(self) -> u64 {
        u64::from(self.volume) << 40 | self.sector
    }
}

/// Appends the bytes of a version that was written at `place`.
pub(super) fn append(bytes: &mut Vec<u8>, version: Version, place: Place) {
    if version == 0 {
        bytes.resize(bytes.len() + SECTOR, 0);
        return;
    }
    let mut random = Random::new(version ^ place.word().rotate_left(20));
    let words = (2..SECTOR / 8).map(|_| random.next_u64());
    bytes.extend([version, place.word()].into_iter().chain(words).flat_map(u64::to_le_bytes));
}

/// Which version these bytes are, and where it was first written; `None` for anything else.
pub(super) fn parse(bytes: &[u8]) -> Option<(Version, Option<Place>)> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (version, place) = (word(0), word(8));
    if version == 0 {
        return bytes.iter().all(|&byte| byte == 0).then_some((0, None));
    }
    let place = Place { volume: (place >> 40) as u32, sector: place & ((1 << 40) - 1) };
    let mut expected = Vec::with_capacity(SECTOR);
    append(&mut expected, version, place);
    (expected == bytes).then_some((version, Some(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_say_what_they_are() {
        let place = Place { volume: 3, sector: 99 };
        let mut bytes = Vec::new();
        append(&mut bytes, 7, place);
        append(&mut bytes, 0, place);
        assert_eq!(parse(&bytes[..SECTOR]), Some((7, Some(place))));
        assert_eq!(parse(&bytes[SECTOR..]), Some((0, None)));
        bytes[300] ^= 1;
        assert_eq!(parse(&bytes[..SECTOR]), None);
    }
}
