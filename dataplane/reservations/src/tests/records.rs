//! Records: what is written comes back, and strange bytes do no harm.

use super::histories::history;
use super::{nvme, scsi};
use crate::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn persistent_tables_come_back(orders in history()) {
        let mut table = Table::new();
        for (who, order) in orders {
            let _ = table.apply(&who, &order);
        }
        if let Some(holder) = table.unit_holder().cloned() {
            let _ = table.apply(&holder, &Order::ReleaseUnit);
        }
        let _ = table.apply(&nvme(1), &Order::SetPersist(true));
        prop_assert_eq!(Table::decode(&table.encode()), Ok(table));
    }

    #[test]
    fn strange_bytes_do_no_harm(bytes: Vec<u8>) {
        if let Ok(table) = Table::decode(&bytes) {
            prop_assert_eq!(Table::decode(&table.encode()), Ok(table));
        }
    }

    #[test]
    fn damage_gives_an_error_or_a_table_that_works(
        orders in history(),
        at: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        let mut table = Table::new();
        for (who, order) in &orders {
            let _ = table.apply(who, order);
        }
        let mut bytes = table.encode();
        prop_assert!(Table::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(mut table) = Table::decode(&bytes) {
            for (who, order) in &orders {
                let _ = table.apply(who, order);
            }
        }
    }
}

#[test]
fn the_layout_is_what_it_was() {
    let mut table = Table::new();
    table.join(&nvme(0xAB), 0x0102).unwrap();
    table.join(&scsi(7, 0x0203), 0x0304).unwrap();
    table.take(&scsi(7, 0x0203), 0x0304, Kind::ExclusiveAccessRegistrantsOnly).unwrap();
    let bytes = table.encode();
    assert_eq!(bytes[..16], [1, 0, 2, 0, 2, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..32], [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[32..48], [0xAB; 16]);
    assert_eq!(bytes[48..64], [2, 28, 3, 2, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[64..80], [7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[80..], b"iqn.2024-01.org.example:host");
}
