//! Names of initiator ports: TransportIDs (SPC-4 section 7.6.4).

use reservations::Registrant;

/// FORMAT CODE in bits 7:6 and PROTOCOL IDENTIFIER iSCSI: of a device, and of a port.
const ISCSI_DEVICE: u8 = 0x05;
const ISCSI_PORT: u8 = 0x45;
/// No specific protocol: a host that comes by NVMe.
const OTHER: u8 = 0x0F;
/// Least bytes after the header.
const ADDITIONAL_MIN: usize = 20;
const HEADER: usize = 4;

/// An iSCSI initiator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TransportId {
    /// Its name, in lower case as those of sessions are: names are compared without case.
    pub(super) name: String,
    /// Of one of its ports.
    pub(super) isid: Option<[u8; 6]>,
}

/// The bytes that stand for a registrant: a multiple of four.
pub(super) fn transport_id(who: &Registrant) -> Vec<u8> {
    match who {
        Registrant::Scsi(nexus) => {
            let isid: String = nexus.isid().iter().map(|byte| format!("{byte:02x}")).collect();
            let text = format!("{},i,0x{isid}", nexus.initiator());
            let len = (text.len() + 1).next_multiple_of(4).max(ADDITIONAL_MIN);
            let [high, low] = (len as u16).to_be_bytes();
            let mut id = vec![ISCSI_PORT, 0, high, low];
            id.extend_from_slice(text.as_bytes());
            id.resize(HEADER + len, 0);
            id
        }
        Registrant::Nvme { host_id } => {
            let mut id = vec![OTHER, 0, 0, 0];
            id.extend_from_slice(host_id);
            id.resize(HEADER + ADDITIONAL_MIN, 0);
            id
        }
    }
}

/// The TransportIDs that `bytes` are, one after the other; `None` if they are not that.
pub(super) fn parse_transport_ids(mut bytes: &[u8]) -> Option<Vec<TransportId>> {
    let mut ids = Vec::new();
    while !bytes.is_empty() {
        let &[kind, _, high, low] = bytes.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let text = bytes.get(HEADER..HEADER + len)?;
        bytes = &bytes[HEADER + len..];
        if len < ADDITIONAL_MIN || !len.is_multiple_of(4) {
            return None;
        }
        let end = text.iter().position(|&byte| byte == 0)?;
        let text = str::from_utf8(&text[..end]).ok()?;
        ids.push(match kind {
            ISCSI_DEVICE => TransportId { name: text.to_ascii_lowercase(), isid: None },
            ISCSI_PORT => {
                let (name, isid) = text.split_once(",i,0x")?;
                TransportId { name: name.to_ascii_lowercase(), isid: Some(parse_isid(isid)?) }
            }
            _ => return None,
        });
    }
    Some(ids)
}

/// Twelve hexadecimal digits.
fn parse_isid(text: &str) -> Option<[u8; 6]> {
    let is_plain = text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = is_plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()?;
    let [0, 0, isid @ ..] = value.to_be_bytes() else { return None };
    Some(isid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_there_and_back() {
        let nexus = reservations::Nexus::new("iqn.2026-01.x:a", [0x80, 1, 2, 3, 4, 5], 1);
        let who = Registrant::Scsi(nexus.expect("a short name"));
        let id = transport_id(&who);
        assert_eq!(id[..4], [0x45, 0, 0, 36]);
        assert_eq!(&id[4..36], b"iqn.2026-01.x:a,i,0x800102030405");
        assert_eq!(id[36..], [0; 4]);
        let ids = [id.clone(), id].concat();
        let expected =
            TransportId { name: "iqn.2026-01.x:a".into(), isid: Some([0x80, 1, 2, 3, 4, 5]) };
        assert_eq!(parse_transport_ids(&ids), Some(vec![expected.clone(), expected]));
        assert_eq!(transport_id(&Registrant::Nvme { host_id: [7; 16] }).len(), 24);
    }

    #[test]
    fn what_is_no_id() {
        let device = |text: &[u8]| {
            let mut id = vec![ISCSI_DEVICE, 0, 0, 24];
            id.extend_from_slice(text);
            id.resize(28, 0);
            id
        };
        let name = parse_transport_ids(&device(b"iqn.2026-01.x:a")).expect("a name");
        assert_eq!(name[0].isid, None);
        assert_eq!(parse_transport_ids(&device(b"iqn.2026-01.x:a")[..27]), None);
        assert_eq!(parse_transport_ids(&device(&[b'a'; 24])), None);
        let mut other = device(b"iqn");
        other[0] = 0x06;
        assert_eq!(parse_transport_ids(&other), None);
        other[0] = ISCSI_PORT;
        assert_eq!(parse_transport_ids(&other), None);
    }
}
