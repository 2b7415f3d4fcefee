//! Connect and what comes before it.

use super::*;

#[test]
fn first_command_must_be_connect() {
    let mut bench = Bench::new();
    for sqe in [
        property_get(PROPERTY_CSTS, 0),
        command(AdminOpcode::Identify.0, 1, 0, [1, 0, 0, 0, 0, 0]),
        command(0x02, 1, 1, [0; 6]),
    ] {
        let reply = bench.send(1, sqe, Vec::new()).unwrap();
        assert_eq!(status(&reply), Status::COMMAND_SEQUENCE_ERROR.dnr());
    }
}

#[test]
fn nothing_is_refused_for_good_before_the_configuration_is_there() {
    let mut target = Target::new(TargetConfig::default());
    let context = ConnectionContext { port: PORT, local: "192.0.2.1".parse().unwrap() };
    let data = connect_data(0xFFFF, HOST, SUBSYSTEM);
    let event = Event { slot: Slot(0), sqe: connect(0, 31, 0), data };
    let reply = target.event(Duration::ZERO, ConnectionId(1), context, event).unwrap();
    assert_eq!(status(&reply), Status::CONNECT_CONTROLLER_BUSY);
    assert!(!status(&reply).do_not_retry());
}

#[test]
fn admin_connect_tells_the_role() {
    let mut bench = Bench::new();
    let reply = bench.connect(1, HOST, SUBSYSTEM);
    assert_eq!(status(&reply), Status::SUCCESS);
    let Some(Role::Admin(parameters)) = reply.role else { panic!("an admin queue") };
    assert_eq!(parameters.association.controller_id, reply.result as u16);
    assert_eq!((parameters.queue_id, parameters.entries), (0, 32));
    assert!(parameters.flow_control_disabled);
    let again = bench.connect(1, HOST, SUBSYSTEM);
    assert_eq!(status(&again), Status::COMMAND_SEQUENCE_ERROR.dnr());
}

#[test]
fn bad_connects_say_where() {
    let mut bench = Bench::new();
    let good = || connect_data(0xFFFF, HOST, SUBSYSTEM);
    let invalid = Status::CONNECT_INVALID_PARAMETERS;

    let mut sqe = connect(0, 31, 0);
    sqe[40] = 1;
    let format = Status::CONNECT_INCOMPATIBLE_FORMAT.dnr();
    let mut cases = vec![(sqe, good(), format, 0)];
    cases.push((connect(0, 0, 0), good(), invalid.dnr(), 44));
    cases.push((connect(0, 128, 0), good(), invalid.dnr(), 44));
    let short = good()[..1023].to_vec();
    cases.push((connect(0, 31, 0), short, Status::DATA_SGL_LENGTH_INVALID.dnr(), 0));
    // A host cannot choose its controller.
    let chosen = connect_data(5, HOST, SUBSYSTEM);
    cases.push((connect(0, 31, 0), chosen, invalid.dnr(), 1 << 16 | 16));
    // May be here later: no DNR.
    let elsewhere = connect_data(0xFFFF, HOST, "nqn.2026-11.example:other");
    cases.push((connect(0, 31, 0), elsewhere, invalid, 1 << 16 | 256));
    for (offset, parameter) in [(256, 256), (512, 512)] {
        let mut unterminated = good();
        unterminated[offset..offset + 256].fill(b'x');
        cases.push((connect(0, 31, 0), unterminated, invalid.dnr(), 1 << 16 | parameter));
        let mut not_utf8 = good();
        not_utf8[offset] = 0xFF;
        cases.push((connect(0, 31, 0), not_utf8, invalid.dnr(), 1 << 16 | parameter));
        let mut empty = good();
        empty[offset] = 0;
        cases.push((connect(0, 31, 0), empty, invalid.dnr(), 1 << 16 | parameter));
    }
    for (index, (sqe, data, want, result)) in cases.into_iter().enumerate() {
        let reply = bench.send(1, sqe, data).unwrap();
        assert_eq!((status(&reply), reply.result), (want, result), "case {index}");
        assert!(reply.role.is_none());
    }
    assert_eq!(bench.target.controller_count(), 0);
}

#[test]
fn io_connect_must_match_its_admin_queue() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    // Without DNR: its controller may have ended since, and the host is to start again.
    let invalid = Status::CONNECT_INVALID_PARAMETERS;
    let mut other_id = connect_data(id, HOST, SUBSYSTEM);
    other_id[0] = 8;
    for (data, result) in [
        (connect_data(id + 1, HOST, SUBSYSTEM), 1 << 16 | 16),
        (connect_data(id, OTHER_HOST, SUBSYSTEM), 1 << 16 | 512),
        (other_id, 1 << 16),
    ] {
        let reply = bench.send(2, connect(1, 127, 0), data).unwrap();
        assert_eq!((status(&reply), reply.result), (invalid, result));
    }
    let reply = bench.connect_io(2, id, 129);
    assert_eq!((status(&reply), reply.result), (invalid, 42));
    let namespaces = bench.io_queue(2, id, 1);
    assert_eq!(namespaces.len(), 3);
    assert!(namespaces[1].is_none());
    assert_eq!(namespaces[2].unwrap().volume, VolumeIndex(3));
}

#[test]
fn io_connect_waits_for_the_controller() {
    let mut bench = Bench::new();
    let id = bench.connect(1, HOST, SUBSYSTEM).result as u16;
    let reply = bench.connect_io(2, id, 1);
    assert_eq!(status(&reply), Status::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn queue_id_in_use_is_waited_for() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.io_queue(2, id, 1);
    let again = |bench: &mut Bench, connection| {
        bench.send(connection, connect(1, 127, 0), connect_data(id, HOST, SUBSYSTEM))
    };
    // The old one ends in time.
    assert_eq!(again(&mut bench, 3), None);
    assert!(bench.actions().is_empty());
    bench.target.closed(bench.now, ConnectionId(2));
    let Some(Action::Reply(ConnectionId(3), _, reply)) = bench.target.take_action() else {
        panic!("the Connect is answered");
    };
    assert_eq!(status(&reply), Status::SUCCESS);
    assert!(matches!(reply.role, Some(Role::Io(..))));
    assert_eq!(bench.target.queue(ConnectionId(3)).unwrap().queue_id, 1);
    // It does not: of two that wait one gives up, and one is lost.
    assert_eq!((again(&mut bench, 4), again(&mut bench, 5)), (None, None));
    bench.target.closed(bench.now, ConnectionId(5));
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.target.deadline(), Some(bench.now));
    bench.target.on_deadline(bench.now);
    assert_eq!(bench.actions(), ["reply 4 1/81h 0h"]);
    assert!(bench.target.deadline().is_some_and(|deadline| deadline > bench.now));
    bench.target.closed(bench.now, ConnectionId(3));
    assert!(bench.actions().is_empty());
}

#[test]
fn controllers_are_limited_and_their_ids_not_reused_quickly() {
    let mut bench = Bench::with(TargetConfig { controllers_max: 3, ..Default::default() });
    let ids: Vec<_> = (1..=3).map(|c| bench.admin_queue(c, HOST)).collect();
    assert_eq!(ids, [1, 2, 3]);
    let reply = bench.connect(4, HOST, SUBSYSTEM);
    assert_eq!(status(&reply), Status::CONNECT_CONTROLLER_BUSY);
    // Discovery has room of its own.
    bench.discovery_queue(5, HOST);
    bench.target.closed(bench.now, ConnectionId(1));
    assert_eq!(bench.admin_queue(6, HOST), 4);
}

#[test]
fn one_host_leaves_controllers_to_others() {
    let mut bench = Bench::with(TargetConfig { controllers_max: 40, ..Default::default() });
    for connection in 0..10 {
        bench.admin_queue(connection, HOST);
        bench.discovery_queue(100 + connection, HOST);
    }
    for subsystem in [SUBSYSTEM, Nqn::discovery().as_str()] {
        let reply = bench.connect(200, HOST, subsystem);
        assert_eq!(status(&reply), Status::CONNECT_CONTROLLER_BUSY);
    }
    bench.admin_queue(200, OTHER_HOST);
    bench.discovery_queue(201, OTHER_HOST);
    // Given back, it may be had again.
    bench.target.closed(bench.now, ConnectionId(0));
    bench.admin_queue(0, HOST);
}

#[test]
fn hosts_that_are_not_allowed_may_try_again() {
    let mut bench = Bench::new();
    bench.target.set_allow_any(&nqn(SUBSYSTEM), false).unwrap();
    bench.target.allow_host(&nqn(SUBSYSTEM), nqn(OTHER_HOST)).unwrap();
    let reply = bench.connect(1, HOST, SUBSYSTEM);
    assert_eq!(status(&reply), Status::CONNECT_INVALID_HOST);
    assert_eq!(reply.result, 1 << 16 | 512);
    bench.admin_queue(2, OTHER_HOST);
    bench.target.allow_host(&nqn(SUBSYSTEM), nqn(HOST)).unwrap();
    bench.admin_queue(1, HOST);
}

#[test]
fn denied_hosts_are_fenced_and_closed() {
    let mut bench = Bench::new();
    bench.target.allow_host(&nqn(SUBSYSTEM), nqn(HOST)).unwrap();
    bench.target.allow_host(&nqn(SUBSYSTEM), nqn(OTHER_HOST)).unwrap();
    bench.target.set_allow_any(&nqn(SUBSYSTEM), false).unwrap();
    let id = bench.admin_queue(1, HOST);
    bench.io_queue(2, id, 1);
    bench.admin_queue(3, OTHER_HOST);
    assert!(bench.actions().is_empty());
    bench.target.deny_host(&nqn(SUBSYSTEM), &nqn(HOST)).unwrap();
    assert_eq!(bench.actions(), ["close 1", "close 2"]);
    let unknown = bench.target.deny_host(&nqn(SUBSYSTEM), &nqn(HOST));
    assert_eq!(unknown, Err(ConfigError::NotFound("host on the list")));
}

#[test]
fn discovery_ports_serve_discovery_alone() {
    let mut bench = Bench::new();
    bench.port = DISCOVERY_PORT;
    let reply = bench.connect(1, HOST, SUBSYSTEM);
    assert_eq!(status(&reply), Status::CONNECT_INVALID_PARAMETERS);
    bench.discovery_queue(1, HOST);
}
