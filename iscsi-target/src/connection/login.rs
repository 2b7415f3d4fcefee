//! Login as the connection sees it: requests collected, replies sent, the session begun.

use super::receive::{Section, Violation};
use super::slots::Slots;
use super::transmit::Item;
use super::{Connection, IMMEDIATE_MAX, Phase, WINDOW};
use crate::io::{Buffer, Now};
use crate::seam::{Event, LoginReply, SessionKind, TEXT_MAX};
use storage_spec::iscsi::{
    LoginFlags, LoginRequest, LoginStatus, Opcode, OpcodeByte, U24, VERSION,
};
use zerocopy::FromBytes;

/// Most PDUs of one login: who sends more is not getting on.
const REQUESTS_MAX: u32 = 64;

/// How far a login is.
#[derive(Debug, Default)]
pub(super) struct Login {
    /// The request at hand, and its text so far.
    header: Option<LoginRequest>,
    text: Vec<u8>,
    /// Whether the target has it.
    is_asked: bool,
    requests: u32,
}

/// A login response to be sent.
#[derive(Debug)]
pub(super) struct LoginAnswer {
    pub(super) request: LoginRequest,
    pub(super) flags: LoginFlags,
    pub(super) status: LoginStatus,
    pub(super) tsih: u16,
    pub(super) text: Vec<u8>,
}

impl<B: Buffer> Connection<B> {
    /// Takes the header of a login request.
    pub(super) fn on_login(&mut self, header: &[u8], section: Section) -> Result<(), Violation> {
        let request =
            LoginRequest::read_from_bytes(header).expect("the length is that of the structure");
        let Phase::Login(login) = &mut self.phase else { return Err(Violation::Fatal) };
        let opcode = OpcodeByte::from(request.opcode);
        if Opcode(opcode.opcode()) != Opcode::LoginRequest || section.ahs > 0 {
            return Err(Violation::Fatal);
        }
        login.requests += 1;
        if login.is_asked || login.requests > REQUESTS_MAX {
            return Err(Violation::Fatal);
        }
        if login.header.is_none() {
            // The first says where numbers begin.
            self.expected_command_sn = request.command_sn.get();
            self.command_sn_max = self.expected_command_sn;
            self.status_sn = request.expected_status_sn.get();
            self.connection_id = request.connection_id.get();
        } else if let Some(first) = &login.header
            && (first.task_tag, first.isid) != (request.task_tag, request.isid)
        {
            return Err(Violation::Login(LoginStatus::InvalidDuringLogin));
        }
        login.header = Some(request);
        if login.text.len() + section.len as usize > TEXT_MAX {
            return Err(Violation::Login(LoginStatus::InitiatorError));
        }
        self.expect_text(section);
        Ok(())
    }

    /// Text of a login request.
    pub(super) fn login_text(&mut self, bytes: &[u8]) {
        let Phase::Login(login) = &mut self.phase else { return };
        login.text.extend_from_slice(bytes);
    }

    /// A login PDU is through.
    pub(super) fn login_complete(&mut self) {
        let Phase::Login(login) = &mut self.phase else { return };
        let header = login.header.expect("its header came first");
        let flags = LoginFlags::from(header.flags);
        if flags.more() {
            if flags.transit() {
                self.refuse_login(LoginStatus::InitiatorError);
                return;
            }
            let flags = LoginFlags::new().with_current(flags.current());
            self.answer_login(flags, LoginStatus::Success, 0, Vec::new());
            return;
        }
        login.is_asked = true;
        let text = core::mem::take(&mut login.text);
        self.events.push_back(Event::Login { header, text });
    }

    /// The first request was none to log in, or it went wrong in a way that the target need not
    /// judge.
    pub(super) fn refuse_login(&mut self, status: LoginStatus) {
        self.answer_login(LoginFlags::new(), status, 0, Vec::new());
        self.end_softly();
    }

    pub(super) fn login_replied(&mut self, now: Now, reply: LoginReply) {
        let Phase::Login(login) = &mut self.phase else { return };
        assert!(core::mem::take(&mut login.is_asked), "a login request is answered once");
        let LoginReply { status, flags, tsih, text, session } = reply;
        if status != LoginStatus::Success {
            self.answer_login(LoginFlags::new(), status, tsih, text);
            self.end_softly();
            return;
        }
        if let Some((session, units)) = session {
            if session.kind == SessionKind::Normal {
                self.slots = Slots::new(WINDOW, IMMEDIATE_MAX);
            }
            self.session = session;
            self.units = units;
            self.is_established = true;
        }
        self.answer_login(flags, status, tsih, text);
        if self.is_established {
            self.phase = Phase::Full;
            self.expect_life(now);
        }
    }

    fn answer_login(&mut self, flags: LoginFlags, status: LoginStatus, tsih: u16, text: Vec<u8>) {
        let Phase::Login(login) = &self.phase else { return };
        let request = login.header.unwrap_or_else(zerocopy::FromZeros::new_zeroed);
        self.send(Item::Login(Box::new(LoginAnswer { request, flags, status, tsih, text })));
    }
}

impl LoginAnswer {
    /// The header of the answer but for its numbers.
    pub(super) fn header(&self) -> storage_spec::iscsi::LoginResponse {
        use zerocopy::FromZeros;
        let mut pdu = storage_spec::iscsi::LoginResponse::new_zeroed();
        pdu.opcode = Opcode::LoginResponse.0;
        pdu.flags = self.flags.into();
        pdu.version_max = VERSION;
        pdu.version_active = VERSION;
        pdu.data_len = U24::new(self.text.len() as u32);
        pdu.isid = self.request.isid;
        pdu.tsih = if self.tsih == 0 { self.request.tsih } else { self.tsih.into() };
        pdu.task_tag = self.request.task_tag;
        pdu.status = self.status.0.into();
        pdu
    }
}
