//! CHAP (RFC 7143, section 12.1.3; RFC 1994): both sides prove that they know a secret.

use super::config::Secret;
use crate::text;
use md5::Md5;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Longest challenge or response in bytes.
const BINARY_MAX: usize = 1024;
/// Bytes in a challenge of ours.
const CHALLENGE_LEN: usize = 16;

/// A digest, by its number (RFC 7143, table 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    fn of(number: &str) -> Option<Self> {
        match number {
            "5" => Some(Self::Md5),
            "7" => Some(Self::Sha256),
            _ => None,
        }
    }

    fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha256 => "7",
        }
    }

    /// What answers a challenge.
    fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn digest<D: Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update([identifier])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec()
        }
        match self {
            Self::Md5 => digest::<Md5>(identifier, secret, challenge),
            Self::Sha256 => digest::<Sha256>(identifier, secret, challenge),
        }
    }
}

/// How far an exchange is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exchange {
    /// CHAP was chosen; algorithms are awaited.
    Chosen,
    /// A challenge is out.
    Challenged(Challenge),
    /// The initiator has proved who it is.
    Proved,
}

/// A challenge of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    algorithm: Algorithm,
    identifier: u8,
    bytes: [u8; CHALLENGE_LEN],
}

/// The initiator did not prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// What the initiator said about it in one request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said<'a> {
    pub(super) algorithms: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) response: Option<&'a str>,
    pub(super) identifier: Option<&'a str>,
    pub(super) challenge: Option<&'a str>,
}

impl Said<'_> {
    /// Whether anything was said.
    pub(super) fn is_any(&self) -> bool {
        self.algorithms.is_some() || self.name.is_some() || self.response.is_some()
    }
}

impl Exchange {
    /// Goes on with what the initiator said; what is to be said is appended. `ours` is what it must
    /// know, `theirs` what proves us to it, if it asks.
    pub(super) fn advance(
        &mut self,
        said: Said<'_>,
        ours: &Secret,
        theirs: Option<&Secret>,
        entropy: &mut dyn FnMut(&mut [u8]),
        answer: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        match self {
            Self::Chosen => {
                let algorithms = said.algorithms.ok_or(Refused)?;
                let chosen = algorithms.split(',').find_map(Algorithm::of).ok_or(Refused)?;
                let mut random = [0; CHALLENGE_LEN + 1];
                entropy(&mut random);
                let (bytes, identifier) = random.split_at(CHALLENGE_LEN);
                let bytes: [u8; CHALLENGE_LEN] = bytes.try_into().expect("split at its length");
                let identifier = identifier[0];
                text::push(answer, "CHAP_A", chosen.number());
                text::push(answer, "CHAP_I", &identifier.to_string());
                text::push(answer, "CHAP_C", &text::to_hexadecimal(&bytes));
                let algorithm = chosen;
                *self = Self::Challenged(Challenge { algorithm, identifier, bytes });
                Ok(())
            }
            Self::Challenged(challenge) => {
                let challenge = challenge.clone();
                challenge.check(said, ours)?;
                challenge.prove(said, ours, theirs, answer)?;
                *self = Self::Proved;
                Ok(())
            }
            Self::Proved => Err(Refused),
        }
    }
}

impl Challenge {
    /// Whether the response is that of somebody who knows the secret.
    fn check(&self, said: Said<'_>, ours: &Secret) -> Result<(), Refused> {
        let name = said.name.ok_or(Refused)?;
        let response = said.response.and_then(|value| text::binary(value, BINARY_MAX));
        let response = response.ok_or(Refused)?;
        let due = self.algorithm.response(self.identifier, ours.bytes(), &self.bytes);
        let is_name = name.as_bytes().ct_eq(ours.user().as_bytes());
        let is_response = response.ct_eq(&due);
        if bool::from(is_name & is_response) { Ok(()) } else { Err(Refused) }
    }

    /// Proves us to the initiator, if it asks for that.
    fn prove(
        &self,
        said: Said<'_>,
        ours: &Secret,
        theirs: Option<&Secret>,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let (identifier, challenge) = match (said.identifier, said.challenge) {
            (None, None) => return Ok(()),
            (Some(identifier), Some(challenge)) => (identifier, challenge),
            _ => return Err(Refused),
        };
        let identifier = text::number(identifier).and_then(|number| u8::try_from(number).ok());
        let identifier = identifier.ok_or(Refused)?;
        let challenge = text::binary(challenge, BINARY_MAX).ok_or(Refused)?;
        let theirs = theirs.ok_or(Refused)?;
        // Who sends our challenge back wants us to solve it for him; who may know both secrets as
        // one could use our answer as his.
        if challenge == self.bytes || theirs.bytes() == ours.bytes() {
            return Err(Refused);
        }
        let response = self.algorithm.response(identifier, theirs.bytes(), &challenge);
        text::push(answer, "CHAP_N", theirs.user());
        text::push(answer, "CHAP_R", &text::to_hexadecimal(&response));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
