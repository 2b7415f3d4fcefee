//! Any CDBs with any parameter lists, from two nexuses to three units.

use super::harness::Harness;
use super::{Lun, PARAMETER_LIST_MAX};

/// Commands: nexus and LUN in one byte, the CDB, and the data with their length in two bytes. Each
/// ends, with sense data if it fails, and leaves no buffer behind.
pub fn scsi_commands(mut bytes: &[u8]) {
    const UNITS: [(usize, u8); 3] = [(1 << 20, 9), (1 << 20, 12), (300 << 10, 9)];
    let mut harness = Harness::new(&UNITS);
    // So that data of some commands come in pieces.
    harness.piece_max = PARAMETER_LIST_MAX;
    while let Some((head, rest)) = bytes.split_first_chunk::<19>() {
        let &[target, ref cdb @ .., high, low] = head;
        let len = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (data, rest) = rest.split_at(len);
        bytes = rest;
        let nexus = usize::from(target >> 7);
        let ending = harness.run(nexus, Lun((target & 0b11).into()), cdb, data);
        if let Some(sense) = ending.sense {
            assert!(matches!(sense.to_bytes()[0] & 0x7F, 0x70 | 0x72));
        }
        drop(ending);
        assert_eq!((harness.memory.live(), harness.memory.pending()), (0, 0));
    }
}

#[cfg(test)]
mod tests {
    use target_io::testing::replay;

    #[test]
    fn corpus_is_borne() {
        replay("scsi_commands", super::scsi_commands);
    }
}
