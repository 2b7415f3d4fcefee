//! Login: who is who, and how to talk (RFC 7143, section 6.3).

use super::chap::{Exchange, Said};
use super::config::{Credentials, IscsiName};
use super::keys::{self, Answer, Terms};
use crate::seam::{SessionKind, SessionParameters};
use crate::text;
use storage_spec::iscsi::{LoginFlags, LoginRequest, LoginStatus, Stage, VERSION};

/// Longest answer to one login request in bytes: what one PDU may copy. Only who makes keys up is
/// answered at more length.
const ANSWER_MAX: usize = 4096;

/// What a login asks the target about.
pub(super) trait Judge {
    /// Whether this is the target's name, and whether there is another that has it.
    fn is_target(&self, name: &str) -> bool;
    /// What an initiator has to prove; `None` if it may not come.
    fn credentials(&self, initiator: &IscsiName) -> Option<Credentials>;
    /// Fills it with what nobody can foresee.
    fn entropy(&mut self, bytes: &mut [u8]);
    /// What is wanted of every session.
    fn terms(&self) -> Terms;
    /// Portal group that the initiator came to.
    fn portal_group(&self) -> u16;
    /// What the target calls itself, for people.
    fn alias(&self) -> &str;
    /// Most data that connections take in one PDU.
    fn receive_max(&self) -> u32;
}

/// One login that is under way.
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    stage: Option<Stage>,
    names: Option<Names>,
    chap: Option<Exchange>,
    /// The security stage has been gone through, or nothing had to be proved.
    is_trusted: bool,
    session: SessionParameters,
    has_declared: bool,
    /// Keys of this stage that have been said.
    said: Vec<String>,
}

/// Who wants what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) initiator: IscsiName,
    pub(super) isid: [u8; 6],
    pub(super) kind: SessionKind,
    pub(super) credentials: Credentials,
}

/// What one request led to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) flags: LoginFlags,
    pub(super) text: Vec<u8>,
    /// Everything is agreed on.
    pub(super) done: Option<(Names, SessionParameters)>,
}

impl Negotiation {
    /// Takes a request.
    pub(super) fn advance(
        &mut self,
        header: &LoginRequest,
        text: &[u8],
        judge: &mut dyn Judge,
    ) -> Result<Outcome, LoginStatus> {
        let flags = LoginFlags::from(header.flags);
        let stage = Stage(flags.current());
        if header.version_min > VERSION {
            return Err(LoginStatus::UnsupportedVersion);
        }
        let pairs = text::parse(text).map_err(|_| LoginStatus::InitiatorError)?;
        let mut answer = Vec::new();
        match self.stage {
            None => self.introduce(header, stage, &pairs, judge, &mut answer)?,
            Some(present) if present != stage => return Err(LoginStatus::InvalidDuringLogin),
            Some(_) => {}
        }
        let next = self.check_transit(flags)?;
        let may_leave = match stage {
            Stage::Security => self.secure(&pairs, next.is_some(), judge, &mut answer)?,
            _ => self.operate(&pairs, judge, &mut answer)?,
        };
        if answer.len() > ANSWER_MAX {
            return Err(LoginStatus::InitiatorError);
        }
        let mut flags = LoginFlags::new().with_current(stage.0);
        let mut done = None;
        if let Some(next) = next.filter(|_| may_leave) {
            flags = flags.with_transit(true).with_next(next.0);
            self.stage = Some(next);
            self.said.clear();
            if next == Stage::FullFeature {
                keys::settle(&mut self.session);
                let names = self.names.clone().expect("the first request said them");
                done = Some((names, self.session));
            }
        }
        Ok(Outcome { flags, text: answer, done })
    }

    /// The first request says who comes and what for.
    fn introduce(
        &mut self,
        header: &LoginRequest,
        stage: Stage,
        pairs: &[(&str, &str)],
        judge: &mut dyn Judge,
        answer: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        let value =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let initiator = value("InitiatorName").ok_or(LoginStatus::MissingParameter)?;
        let initiator = IscsiName::new(initiator).map_err(|_| LoginStatus::InitiatorError)?;
        let kind = match value("SessionType") {
            None | Some("Normal") => SessionKind::Normal,
            Some("Discovery") => SessionKind::Discovery,
            Some(_) => return Err(LoginStatus::SessionTypeNotSupported),
        };
        match (kind, value("TargetName")) {
            (SessionKind::Normal, None) => return Err(LoginStatus::MissingParameter),
            (SessionKind::Normal, Some(target)) if !judge.is_target(target) => {
                return Err(LoginStatus::NotFound);
            }
            _ => {}
        }
        let credentials = judge.credentials(&initiator).ok_or(LoginStatus::AuthorizationFailure)?;
        match stage {
            Stage::Security => {}
            // Who must prove something cannot skip doing so.
            Stage::Operational if credentials.initiator.is_none() => {}
            Stage::Operational => return Err(LoginStatus::AuthenticationFailure),
            _ => return Err(LoginStatus::InvalidDuringLogin),
        }
        self.is_trusted = credentials.initiator.is_none();
        self.session.kind = kind;
        self.stage = Some(stage);
        self.names = Some(Names { initiator, isid: header.isid, kind, credentials });
        if kind == SessionKind::Normal {
            text::push(answer, "TargetPortalGroupTag", &judge.portal_group().to_string());
            if !judge.alias().is_empty() {
                text::push(answer, "TargetAlias", judge.alias());
            }
        }
        Ok(())
    }

    /// Where the initiator wants to go.
    fn check_transit(&self, flags: LoginFlags) -> Result<Option<Stage>, LoginStatus> {
        if !flags.transit() {
            return Ok(None);
        }
        match (Stage(flags.current()), Stage(flags.next())) {
            (Stage::Security, next @ (Stage::Operational | Stage::FullFeature))
            | (Stage::Operational, next @ Stage::FullFeature) => Ok(Some(next)),
            _ => Err(LoginStatus::InitiatorError),
        }
    }

    /// The security stage; whether it may be left.
    fn secure(
        &mut self,
        pairs: &[(&str, &str)],
        wants_to_leave: bool,
        judge: &mut dyn Judge,
        answer: &mut Vec<u8>,
    ) -> Result<bool, LoginStatus> {
        let mut said = Said::default();
        for &(key, value) in keys::in_order(pairs) {
            self.note(key)?;
            let place = match key {
                "AuthMethod" => {
                    self.choose_method(value, answer)?;
                    continue;
                }
                "CHAP_A" => &mut said.algorithms,
                "CHAP_N" => &mut said.name,
                "CHAP_R" => &mut said.response,
                "CHAP_I" => &mut said.identifier,
                "CHAP_C" => &mut said.challenge,
                _ => {
                    self.general(key, value, judge, answer)?;
                    continue;
                }
            };
            *place = Some(value);
        }
        if said.is_any() {
            let names = self.names.as_ref().expect("the first request said them");
            let (Some(chap), Some(ours)) = (&mut self.chap, &names.credentials.initiator) else {
                return Err(LoginStatus::AuthenticationFailure);
            };
            let theirs = names.credentials.target.as_ref();
            let entropy = &mut |bytes: &mut [u8]| judge.entropy(bytes);
            chap.advance(said, ours, theirs, entropy, answer)
                .map_err(|_| LoginStatus::AuthenticationFailure)?;
            self.is_trusted |= *chap == Exchange::Proved;
        } else if wants_to_leave && !self.is_trusted && self.chap.is_none() {
            // It does not even offer to prove anything.
            return Err(LoginStatus::AuthenticationFailure);
        }
        Ok(self.is_trusted)
    }

    fn choose_method(&mut self, value: &str, answer: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let names = self.names.as_ref().expect("the first request said them");
        let wanted = if names.credentials.initiator.is_some() { "CHAP" } else { "None" };
        if !value.split(',').any(|offered| offered == wanted) {
            return Err(LoginStatus::AuthenticationFailure);
        }
        text::push(answer, "AuthMethod", wanted);
        if wanted == "CHAP" {
            self.chap = Some(Exchange::Chosen);
        }
        Ok(())
    }

    /// The operational stage; whether it may be left.
    fn operate(
        &mut self,
        pairs: &[(&str, &str)],
        judge: &mut dyn Judge,
        answer: &mut Vec<u8>,
    ) -> Result<bool, LoginStatus> {
        for &(key, value) in keys::in_order(pairs) {
            self.note(key)?;
            self.general(key, value, judge, answer)?;
        }
        if !core::mem::replace(&mut self.has_declared, true) {
            keys::declare(judge.receive_max(), answer);
        }
        Ok(true)
    }

    /// A key that has nothing to do with security.
    fn general(
        &mut self,
        key: &str,
        value: &str,
        judge: &mut dyn Judge,
        answer: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        match key {
            "InitiatorName" | "SessionType" | "TargetName" => return Ok(()),
            "SendTargets" | "TargetAddress" | "TargetAlias" | "TargetPortalGroupTag" => {
                return Err(LoginStatus::InitiatorError);
            }
            _ => {}
        }
        match keys::negotiate(key, value, judge.terms(), &mut self.session) {
            Answer::Nothing => {}
            Answer::Value(value) => text::push(answer, key, &value),
            Answer::Reject => text::push(answer, key, "Reject"),
            Answer::Fail => return Err(LoginStatus::InitiatorError),
            Answer::Unknown => text::push(answer, key, "NotUnderstood"),
        }
        Ok(())
    }

    /// No key is negotiated twice in a stage.
    fn note(&mut self, key: &str) -> Result<(), LoginStatus> {
        /// Most keys of one stage: there are not so many.
        const KEYS_MAX: usize = 128;
        if self.said.len() == KEYS_MAX || self.said.iter().any(|known| known == key) {
            return Err(LoginStatus::InitiatorError);
        }
        self.said.push(key.to_owned());
        Ok(())
    }
}
