use super::*;
use crate::seam::TEXT_MAX;
use crate::testing::{Fabric, InitiatorConfig, LinkId, TARGET};
use crate::text;
use storage_spec::iscsi::{LoginResponse, Opcode, Stage, TAG_NONE};
use zerocopy::FromBytes;

const NAMES: [(&str, &str); 2] =
    [("InitiatorName", "iqn.2026-01.test:host"), ("TargetName", TARGET)];

fn fabric() -> Fabric {
    Fabric::new(&[1 << 20, 1 << 20], Terms::default())
}

/// The answer to the login request that was sent last: status and text.
fn answer(fabric: &mut Fabric, id: LinkId) -> (LoginStatus, Vec<(String, String)>, u8) {
    // A refusal ends the connection: its last words are taken before.
    let link = fabric.link(id);
    let pdu = link.initiator.take(Opcode::LoginResponse).expect("an answer");
    let header = LoginResponse::read_from_bytes(&pdu.header).unwrap();
    let pairs = text::parse(&pdu.data).unwrap();
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    (LoginStatus(header.status.get()), pairs.collect(), header.flags)
}

/// Logs in with these keys in one request of the operational stage.
fn log_in(fabric: &mut Fabric, keys: &[(&str, &str)]) -> LoginStatus {
    attempt(fabric, Stage::Operational, keys).0
}

/// One request that wants to be the last; the answer, and the connection if it lives.
fn attempt(fabric: &mut Fabric, stage: Stage, keys: &[(&str, &str)]) -> (LoginStatus, LinkId) {
    let id = fabric.open(InitiatorConfig::default());
    let initiator = &mut fabric.link(id).initiator;
    initiator.login_request(stage, Some(Stage::FullFeature), keys);
    (settle(fabric, id), id)
}

/// Runs until the login has been answered.
fn settle(fabric: &mut Fabric, id: LinkId) -> LoginStatus {
    // The link goes when the login is refused: what it was told is looked at on the way.
    let mut link = fabric.links.remove(&id).expect("open");
    let mut status = None;
    for _ in 0..8 {
        let bytes = link.initiator.take_output();
        link.connection.receive(fabric.now, &bytes, &mut link.memory);
        while let Some(event) = link.connection.take_event() {
            let local = IpAddr::from([192, 0, 2, 1]);
            fabric.target.event(fabric.now, id, ConnectionContext { portal: 0, local }, event);
        }
        while let Some(action) = fabric.target.take_action() {
            match action {
                Action::Order(to, order) if to == id => link.connection.order(fabric.now, order),
                Action::Close(other) if other != id => fabric.cut(other),
                _ => {}
            }
        }
        let mut wire = crate::testing::Wire::new(9);
        link.connection.transmit(&mut wire);
        link.initiator.input(&wire.bytes);
        if let Some(pdu) =
            link.initiator.received.iter().rfind(|p| p.opcode() == Opcode::LoginResponse)
        {
            let header = LoginResponse::read_from_bytes(&pdu.header).unwrap();
            status = Some(LoginStatus(header.status.get()));
        }
    }
    fabric.links.insert(id, link);
    status.expect("an answer")
}

#[test]
fn a_session_begins_with_what_was_agreed_on() {
    let mut fabric = fabric();
    let id = fabric.open(InitiatorConfig::default());
    fabric.link(id).initiator.login(TARGET);
    fabric.run();
    let (status, pairs, flags) = answer(&mut fabric, id);
    assert_eq!(status, LoginStatus::Success);
    assert_eq!(flags, 0x87);
    let value = |key: &str| {
        let found = pairs.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(value("TargetPortalGroupTag"), Some("1"));
    assert_eq!(value("MaxRecvDataSegmentLength"), Some("262144"));
    assert_eq!(value("InitialR2T"), Some("No"));
    assert_eq!(value("HeaderDigest"), Some("None"));
    assert_eq!(value("InitiatorName"), None);
    assert_eq!(fabric.target.sessions(), 1);
}

#[test]
fn who_may_not_come_is_told_why() {
    let mut fabric = fabric();
    let [initiator, target] = NAMES;
    let refused = [
        (vec![target], LoginStatus::MissingParameter),
        (vec![initiator], LoginStatus::MissingParameter),
        (vec![initiator, ("TargetName", "iqn.2026-01.test:other")], LoginStatus::NotFound),
        (vec![("InitiatorName", "host"), target], LoginStatus::InitiatorError),
        (
            vec![initiator, target, ("SessionType", "Abnormal")],
            LoginStatus::SessionTypeNotSupported,
        ),
        (vec![initiator, target, ("MaxRecvDataSegmentLength", "1")], LoginStatus::InitiatorError),
        (vec![initiator, target, ("SendTargets", "All")], LoginStatus::InitiatorError),
    ];
    for (keys, status) in refused {
        assert_eq!(log_in(&mut fabric, &keys), status, "{keys:?}");
    }
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::Success);
    fabric.target.set_allow_any(false);
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::AuthorizationFailure);
    let name = IscsiName::new(NAMES[0].1).unwrap();
    fabric.target.allow(name, Credentials::default()).unwrap();
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::Success);
}

#[test]
fn names_are_compared_without_case() {
    let mut fabric = fabric();
    let keys = [NAMES[0], ("TargetName", "IQN.2026-01.TEST:Target")];
    assert_eq!(log_in(&mut fabric, &keys), LoginStatus::Success);
}

#[test]
fn not_before_all_is_there_nor_when_it_ends() {
    let mut fabric = fabric();
    fabric.target.is_ready = false;
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::ServiceUnavailable);
    fabric.target.set_ready();
    fabric.target.drain();
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::ServiceUnavailable);
}

fn redirect(to: &str, is_permanent: bool) -> Option<Redirect> {
    Some(Redirect { to: to.parse().unwrap(), is_permanent })
}

#[test]
fn who_logs_in_is_sent_elsewhere_unless_he_is_there() {
    let mut fabric = fabric();
    fabric.target.add_portal(portal(0, "0.0.0.0:3260", None));
    fabric.target.add_portal(portal(1, "[::]:3260", None));
    fabric.target.redirect(redirect("[2001:db8::9]:3260", false));
    let (status, id) = attempt(&mut fabric, Stage::Operational, &NAMES);
    assert_eq!(status, LoginStatus::MovedTemporarily);
    let address = ("TargetAddress".to_owned(), "[2001:db8::9]:3260".to_owned());
    assert_eq!(answer(&mut fabric, id).1, [address], "no tag");
    fabric.target.redirect(redirect("192.0.2.1:3261", true));
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::MovedPermanently);
    let discovery = [NAMES[0], ("SessionType", "Discovery")];
    assert_eq!(log_in(&mut fabric, &discovery), LoginStatus::Success);
    // Another portal of the same target: who comes in there would be sent round for ever.
    fabric.target.redirect(redirect("192.0.2.1:3260", false));
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::Success);
    fabric.target.redirect(redirect("192.0.2.9:3260", false));
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::MovedTemporarily);
    fabric.target.redirect(None);
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::Success);
}

#[test]
fn nobody_is_told_where_to_go_who_may_not_come() {
    let mut fabric = protected();
    fabric.target.redirect(redirect("192.0.2.9:3260", false));
    assert_eq!(log_in(&mut fabric, &NAMES), LoginStatus::AuthenticationFailure);
}

#[test]
fn sessions_are_asked_to_log_out_where_logins_are_no_longer_served() {
    let mut fabric = fabric();
    fabric.target.add_portal(portal(0, "0.0.0.0:3260", None));
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.target.redirect(redirect("192.0.2.1:3260", false));
    fabric.run();
    assert!(fabric.link(id).initiator.take(Opcode::AsyncMessage).is_none(), "it is there");
    fabric.target.redirect(redirect("192.0.2.9:3260", false));
    fabric.run();
    let told = fabric.link(id).initiator.take(Opcode::AsyncMessage).expect("a message");
    assert_eq!((told.header[36], &told.header[42..44]), (1, &[0, 10][..]));
    assert_eq!(fabric.read(id, 0, &[0; 6], 0).status, 0, "it may go on");
}

fn protected() -> Fabric {
    let mut fabric = fabric();
    let credentials = Credentials {
        initiator: Some(Secret::new("host", b"a secret of twelve").unwrap()),
        target: None,
    };
    fabric.target.allow(IscsiName::new(NAMES[0].1).unwrap(), credentials).unwrap();
    fabric
}

#[test]
fn who_must_prove_who_he_is_cannot_go_round_it() {
    let mut fabric = protected();
    let failure = LoginStatus::AuthenticationFailure;
    assert_eq!(log_in(&mut fabric, &NAMES), failure, "straight to the operational stage");
    assert_eq!(attempt(&mut fabric, Stage::Security, &NAMES).0, failure, "without a word");
    let none = [NAMES[0], NAMES[1], ("AuthMethod", "None")];
    assert_eq!(attempt(&mut fabric, Stage::Security, &none).0, failure);
    let guess = [NAMES[0], NAMES[1], ("CHAP_N", "host"), ("CHAP_R", "0x00")];
    assert_eq!(attempt(&mut fabric, Stage::Security, &guess).0, failure, "no challenge");
    // Discovery as well.
    let discovery = [NAMES[0], ("SessionType", "Discovery")];
    assert_eq!(log_in(&mut fabric, &discovery), failure);
    assert_eq!(fabric.target.sessions(), 0);
    // A choice of method is answered, but the stage does not end.
    let offer = [NAMES[0], NAMES[1], ("AuthMethod", "CHAP,None")];
    let (status, id) = attempt(&mut fabric, Stage::Security, &offer);
    assert_eq!(status, LoginStatus::Success);
    let (_, pairs, flags) = answer(&mut fabric, id);
    assert!(pairs.contains(&("AuthMethod".into(), "CHAP".into())));
    assert_eq!(flags & 0x80, 0, "no transit");
    let initiator = &mut fabric.link(id).initiator;
    initiator.login_request(Stage::Security, Some(Stage::FullFeature), &[("CHAP_A", "5")]);
    assert_eq!(settle(&mut fabric, id), LoginStatus::Success);
    let (_, _, flags) = answer(&mut fabric, id);
    assert_eq!(flags & 0x80, 0, "no transit");
    let wrong = [("CHAP_N", "host"), ("CHAP_R", "0x00112233445566778899aabbccddeeff")];
    let initiator = &mut fabric.link(id).initiator;
    initiator.login_request(Stage::Security, Some(Stage::FullFeature), &wrong);
    assert_eq!(settle(&mut fabric, id), failure);
}

#[test]
fn text_in_many_pdus_is_one_request() {
    let mut fabric = fabric();
    let id = fabric.open(InitiatorConfig::default());
    let mut text = Vec::new();
    NAMES.iter().for_each(|(key, value)| text::push(&mut text, key, value));
    let flags = LoginFlags::new().with_current(1);
    for part in text.chunks(7) {
        fabric.link(id).initiator.login_pdu(flags.with_more(true), part);
        fabric.run();
        let (status, pairs, _) = answer(&mut fabric, id);
        assert_eq!((status, pairs.len()), (LoginStatus::Success, 0));
    }
    fabric.link(id).initiator.login_pdu(flags.with_transit(true).with_next(3), &[]);
    fabric.run();
    assert!(fabric.link(id).initiator.is_in);
    // More than there can be ends the login.
    let id = fabric.open(InitiatorConfig::default());
    for _ in 0..=TEXT_MAX / 8192 {
        fabric.link(id).initiator.login_pdu(flags.with_more(true), &[b'a'; 8192]);
    }
    assert_eq!(settle(&mut fabric, id), LoginStatus::InitiatorError);
}

#[test]
fn stages_go_forward_only() {
    let mut fabric = fabric();
    let (status, id) = {
        let id = fabric.open(InitiatorConfig::default());
        let initiator = &mut fabric.link(id).initiator;
        initiator.login_request(Stage::Security, Some(Stage::Operational), &NAMES);
        (settle(&mut fabric, id), id)
    };
    assert_eq!(status, LoginStatus::Success);
    let initiator = &mut fabric.link(id).initiator;
    initiator.received.clear();
    initiator.login_request(Stage::Security, Some(Stage::FullFeature), &[]);
    assert_eq!(settle(&mut fabric, id), LoginStatus::InvalidDuringLogin);
    for (stage, next) in [(1, 1), (1, 0), (0, 2), (2, 3), (3, 3)] {
        let id = fabric.open(InitiatorConfig::default());
        let mut text = Vec::new();
        NAMES.iter().for_each(|(key, value)| text::push(&mut text, key, value));
        let flags = LoginFlags::new().with_current(stage).with_next(next).with_transit(true);
        fabric.link(id).initiator.login_pdu(flags, &text);
        assert_ne!(settle(&mut fabric, id), LoginStatus::Success, "{stage} to {next}");
    }
}

#[test]
fn answers_that_do_not_fit_into_one_pdu_are_none() {
    let key = |at: usize| format!("X-{at:061}");
    let keys: Vec<String> = (0..62).map(key).collect();
    let pairs = keys.iter().map(|key| (key.as_str(), "1"));
    let mut fabric = fabric();
    let few: Vec<_> = NAMES.into_iter().chain(pairs.clone().take(50)).collect();
    assert_eq!(log_in(&mut fabric, &few), LoginStatus::Success);
    let many: Vec<_> = NAMES.into_iter().chain(pairs).collect();
    assert_eq!(log_in(&mut fabric, &many), LoginStatus::InitiatorError);
}

#[test]
fn units_may_change_while_a_host_is_slow() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.link(id).wire_room = 0;
    for size in 1..100 {
        fabric.target.resize_unit(0, size << 20).unwrap();
        fabric.run();
    }
    // Asked twice to log out, it is told once.
    fabric.target.drain();
    fabric.target.drain();
    fabric.run();
    fabric.link(id).wire_room = usize::MAX;
    fabric.run();
    let initiator = &mut fabric.link(id).initiator;
    let told = core::iter::from_fn(|| initiator.take(Opcode::AsyncMessage));
    let events: Vec<u8> = told.map(|pdu| pdu.header[36]).collect();
    assert_eq!(events, [0, 1]);
    for lun in 2..60 {
        fabric.target.add_unit(lun, crate::testing::unit(0, 1 << 20, 12)).unwrap();
    }
    fabric.run();
    assert_eq!(fabric.read(id, 0, &[0; 6], 0).sense, Some((6, 0x2A09)));
}

#[test]
fn the_same_key_twice_is_refused() {
    let mut fabric = fabric();
    let keys = [NAMES[0], NAMES[1], ("ImmediateData", "Yes"), ("ImmediateData", "No")];
    assert_eq!(log_in(&mut fabric, &keys), LoginStatus::InitiatorError);
}

/// Asks a discovery session for targets; the text of all answers.
fn send_targets(fabric: &mut Fabric, value: &str) -> Vec<(String, String)> {
    let (status, id) =
        attempt(fabric, Stage::Operational, &[NAMES[0], ("SessionType", "Discovery")]);
    assert_eq!(status, LoginStatus::Success);
    let mut request = Vec::new();
    text::push(&mut request, "SendTargets", value);
    let initiator = &mut fabric.link(id).initiator;
    initiator.received.clear();
    let tag = initiator.request(Opcode::TextRequest, 0x80, TAG_NONE, &request);
    let mut text = Vec::new();
    loop {
        fabric.run();
        let pdu = fabric.link(id).initiator.take(Opcode::TextResponse).expect("an answer");
        text.extend_from_slice(&pdu.data);
        let transfer = u32::from_be_bytes(pdu.header[20..24].try_into().unwrap());
        if pdu.header[1] & 0x80 != 0 {
            assert_eq!(transfer, TAG_NONE);
            break;
        }
        assert_eq!(pdu.header[1], 0x40, "it goes on");
        let initiator = &mut fabric.link(id).initiator;
        initiator.request_as(tag, Opcode::TextRequest, 0x80, transfer, &[]);
    }
    let pairs = text::parse(&text).unwrap();
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn portal(id: u16, listen: &str, advertised: Option<&str>) -> Portal {
    let advertised = advertised.map(|address| address.parse().unwrap());
    Portal { id, listen: listen.parse().unwrap(), advertised }
}

#[test]
fn one_portal_is_named_by_the_address_that_led_to_it() {
    let mut fabric = fabric();
    fabric.target.add_portal(portal(0, "0.0.0.0:3260", None));
    let expected = [
        ("TargetName".to_owned(), TARGET.to_owned()),
        ("TargetAddress".to_owned(), "192.0.2.1:3260,1".to_owned()),
    ];
    for value in ["All", TARGET] {
        assert_eq!(send_targets(&mut fabric, value), expected);
    }
    assert_eq!(send_targets(&mut fabric, "iqn.2026-01.test:other"), []);
}

#[test]
fn addresses_of_many_portals_are_told_in_parts() {
    let mut target = fabric().target;
    for id in 0..300 {
        let listen = format!("[2001:db8::{id:x}]:3260");
        target.add_portal(portal(id, &listen, None));
    }
    target.add_portal(portal(300, "127.0.0.1:3260", None));
    target.add_portal(portal(301, "10.0.0.1:3260", Some("198.51.100.1:13260")));
    let local = IpAddr::from([192, 0, 2, 1]);
    let context = ConnectionContext { portal: 7, local };
    target.sessions.insert(
        ConnectionId(9),
        Session {
            names: Names {
                initiator: IscsiName::new(NAMES[0].1).unwrap(),
                isid: [0; 6],
                kind: SessionKind::Discovery,
                credentials: Credentials::default(),
            },
            tsih: 1,
            context,
            waiting: None,
        },
    );
    let text = target.send_targets(ConnectionId(9), context, b"SendTargets=All\0").unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.split_terminator('\0').collect();
    assert_eq!(lines.len(), 1 + 300 + 1, "what only this machine reaches is not named");
    assert_eq!(lines[1], "TargetAddress=[2001:db8::7]:3260,1", "the one that it came to is first");
    assert_eq!(lines[301], "TargetAddress=198.51.100.1:13260,1");
    // Over the wire in parts: those are put together above.
    let mut fabric = fabric();
    for id in 0..100 {
        let listen = format!("[2001:db8:1111:2222:3333:4444:5555:{id:x}]:3260");
        fabric.target.add_portal(portal(id, &listen, None));
    }
    let id = attempt(&mut fabric, Stage::Operational, &[NAMES[0], ("SessionType", "Discovery")]).1;
    let initiator = &mut fabric.link(id).initiator;
    initiator.received.clear();
    let tag = initiator.request(Opcode::TextRequest, 0x80, TAG_NONE, b"SendTargets=All\0");
    let mut parts = 0;
    let mut whole = Vec::new();
    loop {
        fabric.run();
        let pdu = fabric.link(id).initiator.take(Opcode::TextResponse).expect("an answer");
        whole.extend_from_slice(&pdu.data);
        parts += 1;
        if pdu.header[1] & 0x80 != 0 {
            break;
        }
        let transfer = u32::from_be_bytes(pdu.header[20..24].try_into().unwrap());
        let initiator = &mut fabric.link(id).initiator;
        initiator.request_as(tag, Opcode::TextRequest, 0x80, transfer, &[]);
    }
    assert_eq!((parts, whole.len().div_ceil(4096)), (2, 2));
    assert_eq!(String::from_utf8(whole).unwrap().split_terminator('\0').count(), 101);
}

#[test]
fn a_new_session_of_a_port_waits_for_the_tasks_of_the_old() {
    let mut fabric = fabric();
    let old = fabric.log_in(InitiatorConfig::default());
    fabric.link(old).hold_blocks = true;
    // WRITE(10) of block 0.
    let cdb = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    fabric.link(old).initiator.write(0, &cdb, &[7; 4096]);
    fabric.run();
    assert_eq!(fabric.link(old).memory.pending(), 1);
    let new = fabric.open(InitiatorConfig::default());
    fabric.link(new).initiator.login(TARGET);
    fabric.run();
    assert!(!fabric.link(new).initiator.is_in, "the old write is still under way");
    fabric.link(old).complete(0);
    fabric.run();
    assert!(!fabric.links.contains_key(&old));
    assert!(fabric.link(new).initiator.is_in);
    assert_eq!(fabric.target.sessions(), 1);
}

#[test]
fn sessions_of_other_ports_live_side_by_side() {
    let mut fabric = fabric();
    let one = fabric.log_in(InitiatorConfig::default());
    let isid = [9; 6];
    let two = fabric.log_in(InitiatorConfig { isid, ..InitiatorConfig::default() });
    assert_eq!(fabric.read(one, 0, &[0; 6], 0).status, 0);
    assert_eq!(fabric.read(two, 0, &[0; 6], 0).status, 0);
    fabric.target.set_allow_any(false);
    fabric.run();
    assert!(fabric.links.is_empty(), "who may not be here any more is sent away");
}

#[test]
fn changes_are_told_to_everybody() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.target.resize_unit(0, 2 << 20).unwrap();
    fabric.run();
    let told = fabric.link(id).initiator.take(Opcode::AsyncMessage).expect("a message");
    assert_eq!(told.header[36], 0, "a SCSI event");
    assert_eq!((told.data[4] & 0xF, &told.data[14..16]), (6, &[0x2A, 0x09][..]));
    assert_eq!(fabric.read(id, 0, &[0; 6], 0).sense, Some((6, 0x2A09)));
    assert_eq!(fabric.read(id, 0, &[0; 6], 0).status, 0);
    fabric.target.add_unit(5, crate::testing::unit(5, 1 << 20, 12)).unwrap();
    fabric.run();
    assert_eq!(fabric.read(id, 0, &[0; 6], 0).sense, Some((6, 0x3F0E)));
    assert!(fabric.target.add_unit(5, crate::testing::unit(5, 1 << 20, 12)).is_err());
    fabric.target.remove_unit(5).unwrap();
    assert!(fabric.target.remove_unit(5).is_err());
}

#[test]
fn a_drain_asks_everybody_to_log_out() {
    let mut fabric = fabric();
    let id = fabric.log_in(InitiatorConfig::default());
    fabric.target.drain();
    fabric.run();
    let told = fabric.link(id).initiator.take(Opcode::AsyncMessage).expect("a message");
    assert_eq!((told.header[36], &told.header[42..44]), (1, &[0, 10][..]));
    fabric.link(id).initiator.request(Opcode::LogoutRequest, 0x80, 0, &[]);
    fabric.run();
    assert_eq!(fabric.target.sessions(), 0);
}
