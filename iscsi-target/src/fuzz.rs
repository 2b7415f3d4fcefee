//! Bodies of the fuzz tests, shared by `fuzz/` and by the ordinary tests, which replay the corpora.

use crate::scsi::{LUNS_MAX, PARAMETER_LIST_MAX};
use crate::target::{Credentials, IscsiName, Secret, Terms};
use crate::testing::{Fabric, InitiatorConfig, LinkId};
use crate::text;
use storage_spec::iscsi::{LoginFlags, ScsiCommandFlags, TAG_NONE};

const SIZE: usize = 64 << 10;

/// Text of a login or text request: what can be read is written the same.
pub fn iscsi_text(bytes: &[u8]) {
    let Ok(pairs) = text::parse(bytes) else { return };
    let mut written = Vec::new();
    for &(key, value) in &pairs {
        text::push(&mut written, key, value);
        let _ = text::number(value);
        if let Some(bytes) = text::binary(value, 64) {
            assert_eq!(text::binary(&text::to_hexadecimal(&bytes), 64), Some(bytes));
        }
    }
    assert_eq!(text::parse(&written), Ok(pairs));
}

/// A login: each record of the input is one PDU, of flags, a length, and text. Who must prove who
/// he is does not get in without.
pub fn iscsi_login(bytes: &[u8]) {
    let mut fabric = fabric();
    let initiator = Secret::new("host", b"nobody can guess this").expect("long enough");
    let credentials = Credentials { initiator: Some(initiator), target: None };
    let name = InitiatorConfig::default().name;
    fabric.target.allow(IscsiName::new(&name).expect("a name"), credentials).expect("room");
    fabric.target.set_allow_any(false);
    let id = fabric.open(InitiatorConfig::default());
    let mut rest = bytes;
    while let [flags, len, after @ ..] = rest {
        let (text, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        let Some(link) = fabric.links.get_mut(&id) else { return };
        link.initiator.login_pdu(LoginFlags::from(*flags), text);
        fabric.run();
    }
    assert_eq!(fabric.target.sessions(), 0);
}

/// A session's stream. The first byte says which digests there are.
pub fn iscsi_stream(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let digests = (first & 1 != 0, first & 2 != 0);
    let (mut fabric, id) = session(InitiatorConfig { digests, ..InitiatorConfig::default() });
    fabric.link(id).stream = bytes.to_vec();
    let piece = usize::from(first >> 2) + 1;
    fabric.run_in_chunks(&mut |available| available.min(piece));
    end(fabric, id);
}

/// Writes of one piece or two, whose data come as the input says: whatever comes, each byte that
/// is written was sent, and every command ends once.
pub fn iscsi_data_out(bytes: &[u8]) {
    let config = InitiatorConfig { immediate: false, ..InitiatorConfig::default() };
    let (mut fabric, id) = session(config);
    for volume in &mut fabric.link(id).memory.volumes {
        volume.fill(0);
    }
    fabric.link(id).initiator.answers_r2t = false;
    fabric.link(id).hold_blocks = true;
    let mut tags = vec![TAG_NONE];
    let mut rest = bytes;
    while let [what, a, b, c, after @ ..] = rest {
        rest = after;
        let Some(link) = fabric.links.get_mut(&id) else { return };
        let tag = tags[usize::from(*a) % tags.len()];
        match what % 8 {
            0 => {
                let blocks = u32::from(*b % 64);
                let mut cdb = [0; 16];
                cdb[0] = 0x8A;
                cdb[9] = *c % 16;
                cdb[13] = blocks as u8;
                let flags = ScsiCommandFlags::new().with_write(true);
                let flags = flags.with_is_final(*c & 0x40 == 0);
                let expected = blocks * 512 + u32::from(*a % 3) * 512;
                tags.push(link.initiator.command(1, &cdb, flags, expected, &[]));
            }
            1 if link.memory.pending() > 0 => {
                let index = usize::from(*a) % link.memory.pending();
                link.complete(index);
            }
            2 => {
                link.initiator.manage(*b % 8, u16::from(*c % 3) % LUNS_MAX, tag);
            }
            _ => {
                let r2t = link.initiator.r2ts.iter().rev().find(|r2t| r2t.task_tag.get() == tag);
                let known = r2t.map_or(TAG_NONE, |r2t| r2t.transfer_tag.get());
                let transfer = if what & 0x80 == 0 { known } else { u32::from(*a) };
                let sn = u32::from(*b & 3);
                let offset = u32::from(*b >> 2) * 512;
                let data = vec![1; usize::from(*c & 0x1F) * 512];
                link.initiator.data_out(tag, transfer, sn, offset, &data, *c & 0x80 != 0);
            }
        }
        fabric.run();
    }
    let Some(link) = fabric.links.get(&id) else { return };
    let volume = &link.memory.volumes[1];
    assert!(volume.iter().all(|byte| *byte <= 1));
    end(fabric, id);
}

fn fabric() -> Fabric {
    Fabric::new(&[SIZE, SIZE], Terms::default())
}

/// A session in which little is moved in pieces already.
fn session(config: InitiatorConfig) -> (Fabric, LinkId) {
    let mut fabric = fabric();
    fabric.config.piece_max = PARAMETER_LIST_MAX;
    let id = fabric.log_in(InitiatorConfig { first_burst: 8192, ..config });
    // The stream is not what an initiator would send: what is answered is not looked at.
    fabric.link(id).is_deaf = true;
    (fabric, id)
}

/// The connection breaks off: everything comes back.
fn end(mut fabric: Fabric, id: LinkId) {
    if !fabric.links.contains_key(&id) {
        return;
    }
    fabric.cut(id);
    while let Some(link) = fabric.links.get_mut(&id) {
        assert!(link.memory.pending() > 0, "only the store keeps it");
        link.complete(0);
        fabric.run();
    }
    assert_eq!(fabric.target.sessions(), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::replay;

    #[test]
    fn corpora_are_borne() {
        replay("iscsi_data_out", iscsi_data_out);
        replay("iscsi_login", iscsi_login);
        replay("iscsi_stream", iscsi_stream);
        replay("iscsi_text", iscsi_text);
    }
}
