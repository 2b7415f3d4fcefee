//! Cases that the standards name, and histories against an oracle.

mod cases;
mod histories;
mod records;

use crate::{Current, Key, Kind, Nexus, Order, Outcome, Persist, Refusal, Registrant, Table};

pub(crate) fn nvme(number: u8) -> Registrant {
    Registrant::Nvme { host_id: [number; 16] }
}

pub(crate) fn scsi(number: u8, portal_group: u16) -> Registrant {
    let nexus = Nexus::new("iqn.2024-01.org.example:host", [number; 6], portal_group);
    Registrant::Scsi(nexus.expect("a short name"))
}

impl Table {
    fn join(&mut self, who: &Registrant, key: Key) -> Result<Outcome, Refusal> {
        self.apply(
            who,
            &Order::Register {
                current: Current::None,
                key,
                also: vec![],
                persist: Persist::Unchanged,
            },
        )
    }

    fn leave(&mut self, who: &Registrant, key: Key) -> Result<Outcome, Refusal> {
        let persist = Persist::Unchanged;
        self.apply(who, &Order::Unregister { current: Current::Is(key), persist })
    }

    fn take(&mut self, who: &Registrant, key: Key, kind: Kind) -> Result<Outcome, Refusal> {
        self.apply(who, &Order::Reserve { key, kind })
    }
}
