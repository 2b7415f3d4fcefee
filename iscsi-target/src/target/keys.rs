//! Operational parameters: what an initiator offers and what is agreed on (RFC 7143, section 13).

use crate::limits::{BURST_MAX, FIRST_BURST_MAX};
use crate::seam::{SessionKind, SessionParameters};
use crate::text;
use core::ops::RangeInclusive;

/// Lengths of data segments and bursts that can be.
const LENGTHS: RangeInclusive<u32> = 512..=(1 << 24) - 1;
/// Highest iSCSIProtocolLevel that is spoken: RFC 7144.
const PROTOCOL_LEVEL: u32 = 2;

/// What the target wants of every session.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Data beyond the command's own PDU are to be asked for, whatever the initiator offers.
    pub initial_r2t: bool,
    /// The command's own PDU may carry data.
    pub immediate_data: bool,
    /// Header digests are granted to who offers them.
    pub header_digest: bool,
    /// Data digests are granted to who offers them.
    pub data_digest: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { initial_r2t: false, immediate_data: true, header_digest: true, data_digest: true }
    }
}

/// What is to be said to one key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: it was a declaration.
    Nothing,
    /// This value.
    Value(String),
    /// The value cannot be, and the login goes on without.
    Reject,
    /// A declaration cannot be: the login fails.
    Fail,
    /// It is no operational parameter.
    Unknown,
}

/// Negotiates one key.
pub(super) fn negotiate(
    key: &str,
    value: &str,
    terms: Terms,
    session: &mut SessionParameters,
) -> Answer {
    match key {
        "HeaderDigest" => digest(value, terms.header_digest, &mut session.header_digest),
        "DataDigest" => digest(value, terms.data_digest, &mut session.data_digest),
        "MaxRecvDataSegmentLength" => match in_range(value, LENGTHS) {
            Some(length) => {
                session.send_max = length;
                Answer::Nothing
            }
            None => Answer::Fail,
        },
        "InitialR2T" => boolean(value, |theirs| {
            session.initial_r2t = theirs || terms.initial_r2t;
            session.initial_r2t
        }),
        "ImmediateData" => boolean(value, |theirs| {
            session.immediate_data = theirs && terms.immediate_data;
            session.immediate_data
        }),
        "MaxBurstLength" => number(value, LENGTHS, |theirs| {
            session.burst_max = theirs.min(BURST_MAX);
            session.burst_max
        }),
        "FirstBurstLength" => number(value, LENGTHS, |theirs| {
            session.first_burst = theirs.min(FIRST_BURST_MAX).min(session.burst_max);
            session.first_burst
        }),
        "MaxConnections" | "MaxOutstandingR2T" => number(value, 1..=65535, |_| 1),
        "DefaultTime2Wait" => number(value, 0..=3600, |theirs| theirs),
        "DefaultTime2Retain" => number(value, 0..=3600, |_| 0),
        "ErrorRecoveryLevel" => number(value, 0..=2, |_| 0),
        "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value, |_| true),
        "IFMarker" | "OFMarker" => boolean(value, |_| false),
        "IFMarkInt" | "OFMarkInt" => Answer::Value("Irrelevant".into()),
        "iSCSIProtocolLevel" => number(value, 0..=31, |theirs| {
            let level = theirs.min(PROTOCOL_LEVEL);
            session.protocol_level = level as u16;
            level
        }),
        // With one connection, responses are in order whatever is chosen.
        "TaskReporting" => choose(value, &["ResponseFence", "RFC3720"]),
        "InitiatorAlias" => Answer::Nothing,
        _ => Answer::Unknown,
    }
}

/// Pairs in the order in which they are negotiated: FirstBurstLength is answered when it is known
/// what MaxBurstLength is.
pub(super) fn in_order<'a>(
    pairs: &'a [(&'a str, &'a str)],
) -> impl Iterator<Item = &'a (&'a str, &'a str)> {
    let is_last = |pair: &&(&str, &str)| pair.0 == "FirstBurstLength";
    let first = pairs.iter().filter(move |pair| !is_last(pair));
    first.chain(pairs.iter().filter(is_last))
}

/// What the target declares by itself.
pub(super) fn declare(receive_max: u32, answer: &mut Vec<u8>) {
    text::push(answer, "MaxRecvDataSegmentLength", &receive_max.to_string());
}

/// What holds between parameters, once all are known.
pub(super) fn settle(session: &mut SessionParameters) {
    if session.kind == SessionKind::Discovery {
        session.immediate_data = false;
    }
}

fn digest(value: &str, is_granted: bool, agreed: &mut bool) -> Answer {
    let granted: &[&str] = if is_granted { &["CRC32C", "None"] } else { &["None"] };
    let answer = choose(value, granted);
    *agreed = answer == Answer::Value("CRC32C".into());
    answer
}

/// The first of a list that is among those known.
fn choose(value: &str, known: &[&str]) -> Answer {
    let chosen = value.split(',').find(|offered| known.contains(offered));
    chosen.map_or(Answer::Reject, |chosen| Answer::Value(chosen.to_owned()))
}

fn boolean(value: &str, agree: impl FnOnce(bool) -> bool) -> Answer {
    let theirs = match value {
        "Yes" => true,
        "No" => false,
        _ => return Answer::Reject,
    };
    Answer::Value(if agree(theirs) { "Yes" } else { "No" }.into())
}

fn number(value: &str, range: RangeInclusive<u32>, agree: impl FnOnce(u32) -> u32) -> Answer {
    match in_range(value, range) {
        Some(theirs) => Answer::Value(agree(theirs).to_string()),
        None => Answer::Reject,
    }
}

fn in_range(value: &str, range: RangeInclusive<u32>) -> Option<u32> {
    text::number(value).filter(|number| range.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(key: &str, value: &str) -> (Answer, SessionParameters) {
        let mut session = SessionParameters::default();
        let answer = negotiate(key, value, Terms::default(), &mut session);
        settle(&mut session);
        (answer, session)
    }

    fn says(key: &str, value: &str, expected: &str) {
        assert_eq!(agreed(key, value).0, Answer::Value(expected.into()), "{key}={value}");
    }

    #[test]
    fn each_key_by_its_rule() {
        says("HeaderDigest", "CRC32C,None", "CRC32C");
        says("HeaderDigest", "None,CRC32C", "None");
        says("DataDigest", "X-a.b,CRC32C", "CRC32C");
        assert_eq!(agreed("DataDigest", "X-a.b").0, Answer::Reject);
        says("InitialR2T", "No", "No");
        says("InitialR2T", "Yes", "Yes");
        assert!(!agreed("InitialR2T", "No").1.initial_r2t);
        assert!(SessionParameters::default().initial_r2t, "what nobody speaks of");
        says("ImmediateData", "Yes", "Yes");
        says("ImmediateData", "No", "No");
        assert_eq!(agreed("ImmediateData", "maybe").0, Answer::Reject);
        says("MaxBurstLength", "16776192", "1048576");
        says("MaxBurstLength", "512", "512");
        assert_eq!(agreed("MaxBurstLength", "511").0, Answer::Reject);
        says("FirstBurstLength", "0x10000", "65536");
        says("MaxConnections", "8", "1");
        says("MaxOutstandingR2T", "4", "1");
        says("DefaultTime2Wait", "2", "2");
        says("DefaultTime2Retain", "20", "0");
        says("ErrorRecoveryLevel", "2", "0");
        says("DataPDUInOrder", "No", "Yes");
        says("DataSequenceInOrder", "No", "Yes");
        says("IFMarker", "Yes", "No");
        says("OFMarkInt", "1~2", "Irrelevant");
        says("iSCSIProtocolLevel", "9", "2");
        says("TaskReporting", "FastAbort,ResponseFence", "ResponseFence");
        assert_eq!(agreed("X-com.example.key", "1").0, Answer::Unknown);
    }

    #[test]
    fn declarations_have_no_answer() {
        let (answer, session) = agreed("MaxRecvDataSegmentLength", "4096");
        assert_eq!((answer, session.send_max), (Answer::Nothing, 4096));
        assert_eq!(agreed("MaxRecvDataSegmentLength", "16777216").0, Answer::Fail);
        assert_eq!(agreed("MaxRecvDataSegmentLength", "100").0, Answer::Fail);
    }

    #[test]
    fn a_first_burst_is_told_to_be_no_longer_than_a_burst() {
        let mut session = SessionParameters::default();
        let pairs = [("FirstBurstLength", "65536"), ("X", "1"), ("MaxBurstLength", "4096")];
        let answers: Vec<_> = in_order(&pairs)
            .map(|(key, value)| negotiate(key, value, Terms::default(), &mut session))
            .collect();
        let value = |text: &str| Answer::Value(text.into());
        assert_eq!(answers, [Answer::Unknown, value("4096"), value("4096")]);
        assert_eq!((session.first_burst, session.burst_max), (4096, 4096));
    }

    #[test]
    fn digests_may_be_refused() {
        let terms = Terms { header_digest: false, ..Terms::default() };
        let mut session = SessionParameters::default();
        let answer = negotiate("HeaderDigest", "CRC32C", terms, &mut session);
        assert_eq!((answer, session.header_digest), (Answer::Reject, false));
        let answer = negotiate("HeaderDigest", "CRC32C,None", terms, &mut session);
        assert_eq!(answer, Answer::Value("None".into()));
    }
}
