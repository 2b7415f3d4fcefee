//! The traffic of a guest, judged by Wireshark's dissector.

use anyhow::Result;

use crate::bed::Maker;
use crate::scenario::Outcome;

/// Captures a short life of a connection and has tshark look at every PDU.
pub(crate) fn check(maker: &mut Maker) -> Result<Outcome> {
    let _ = maker;
    Ok(Outcome::Skipped("not written yet".to_owned()))
}
