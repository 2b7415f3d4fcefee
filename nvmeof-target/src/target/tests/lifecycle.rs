//! Reset, shutdown, loss, keep alive, abort, and changes of namespaces.

use super::*;
use storage_spec::fabrics::{PROPERTY_CAP, PROPERTY_CRTO, PROPERTY_NSSR, PROPERTY_VS};

const EVERYTHING: u32 = 1 << 8 | 1 << 11;

#[test]
fn properties() {
    let mut bench = Bench::new();
    bench.connect(1, HOST, SUBSYSTEM);
    let cap = bench.send(1, property_get(PROPERTY_CAP, 1), Vec::new()).unwrap().result;
    assert_eq!(cap & 0xFFFF, 127, "MQES");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 37 & 0xFF, 0b100_0001, "CSS");
    assert_eq!(cap >> 48 & 0xFF, 0, "MPSMIN, MPSMAX: 4 KiB");
    let crto = bench.send(1, property_get(PROPERTY_CRTO, 0), Vec::new()).unwrap().result;
    assert!(crto & 0xFFFF >= cap >> 24 & 0xFF, "CRWMT not below TO");
    let vs = bench.send(1, property_get(PROPERTY_VS, 0), Vec::new()).unwrap().result;
    assert_eq!(vs, 0x0002_0000);
    for sqe in [
        property_get(PROPERTY_CAP, 0),
        property_get(PROPERTY_VS, 1),
        property_get(0x24, 0),
        property_set(PROPERTY_CC, 1, 0),
        property_set(PROPERTY_CSTS, 0, 0),
        property_set(PROPERTY_NSSR, 0, 0x4E56_4D65),
    ] {
        let reply = bench.send(1, sqe, Vec::new()).unwrap();
        assert_eq!(status(&reply), Status::INVALID_FIELD.dnr());
    }
}

#[test]
fn admin_commands_wait_for_enable() {
    let mut bench = Bench::new();
    bench.connect(1, HOST, SUBSYSTEM);
    let reply = bench.admin(1, AdminOpcode::Identify, [1, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::COMMAND_SEQUENCE_ERROR.dnr());
    let reply = bench.admin(1, AdminOpcode::KeepAlive, [0; 6]);
    assert_eq!(status(&reply), Status::SUCCESS);
}

#[test]
fn impossible_configurations_are_fatal_until_cleared() {
    let mut bench = Bench::new();
    bench.connect(1, HOST, SUBSYSTEM);
    for bad in [0x0046_00E1, 0x0046_0861, 0x0046_0011, 0x0047_0061, 0x0056_0061, 0x0000_0061] {
        bench.set_cc(1, bad);
        assert_eq!(bench.csts(1), 2, "CC {bad:x}h");
        bench.set_cc(1, CC_DISABLE);
        assert_eq!(bench.csts(1), 0);
    }
    bench.set_cc(1, CC_ENABLE);
    assert_eq!(bench.csts(1), 1);
}

#[test]
fn reset_closes_io_queues_and_ends_when_they_are_drained() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.listen(1, EVERYTHING);
    bench.io_queue(2, id, 1);
    bench.io_queue(3, id, 2);
    bench.set_cc(1, CC_DISABLE);
    let dropped = "reply 1 0/08h 0h";
    assert_eq!(bench.actions(), ["close 2", "close 3", dropped, dropped, dropped, dropped]);
    assert_eq!(bench.csts(1), 1, "not drained yet");
    bench.target.closed(bench.now, ConnectionId(3));
    assert_eq!(bench.csts(1), 1);
    bench.target.closed(bench.now, ConnectionId(2));
    assert_eq!(bench.csts(1), 0);
    bench.set_cc(1, CC_ENABLE);
    assert_eq!(bench.csts(1), 1);
    bench.io_queue(4, id, 1);
    assert!(bench.actions().is_empty());
}

#[test]
fn enabling_too_early_waits_for_the_old_queues() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    let association = match bench.connect_io(2, id, 1).role {
        Some(Role::Io(parameters, _)) => parameters.association,
        _ => panic!("an I/O queue"),
    };
    bench.set_cc(1, CC_DISABLE);
    bench.set_cc(1, CC_ENABLE);
    assert!(!association.is_enabled(), "the old queue may not execute what it still has");
    let reply = bench.connect_io(3, id, 2);
    assert_eq!(status(&reply), Status::COMMAND_SEQUENCE_ERROR);
    bench.target.closed(bench.now, ConnectionId(2));
    assert!(association.is_enabled());
    assert_eq!(bench.csts(1), 1);
}

#[test]
fn shutdown_is_complete_when_queues_are_drained() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.io_queue(2, id, 1);
    bench.set_cc(1, CC_SHUTDOWN);
    assert_eq!(bench.actions(), ["close 2"]);
    assert_eq!(bench.csts(1) >> 2 & 3, 1);
    bench.target.closed(bench.now, ConnectionId(2));
    assert_eq!(bench.csts(1) >> 2 & 3, 2);
    let reply = bench.admin(1, AdminOpcode::Identify, [1, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::COMMAND_SEQUENCE_ERROR.dnr());
    bench.set_cc(1, CC_DISABLE);
    assert_eq!(bench.csts(1), 0);
    bench.set_cc(1, CC_ENABLE);
    assert_eq!(bench.csts(1), 1);
}

#[test]
fn losing_the_admin_queue_ends_the_controller() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.listen(1, EVERYTHING);
    bench.io_queue(2, id, 1);
    bench.target.closed(bench.now, ConnectionId(1));
    assert_eq!(bench.actions(), ["close 2"], "requests for events are not answered");
    assert_eq!(bench.target.controller_count(), 1, "until drained");
    let reply = bench.connect_io(3, id, 2);
    assert_eq!(status(&reply), Status::CONNECT_INVALID_PARAMETERS);
    bench.target.closed(bench.now, ConnectionId(2));
    assert_eq!(bench.target.controller_count(), 0);
    assert!(bench.target.queue(ConnectionId(2)).is_none());
}

#[test]
fn disconnect_closes_one_io_queue() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.io_queue(2, id, 1);
    let disconnect = command(FABRICS_OPCODE, 1, FabricsType::Disconnect.0.into(), [0; 6]);
    let reply = bench.send(1, disconnect, Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::INVALID_QUEUE_TYPE.dnr());
    let mut other_format = disconnect;
    other_format[40] = 1;
    let reply = bench.send(2, other_format, Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::CONNECT_INCOMPATIBLE_FORMAT.dnr());
    assert!(bench.actions().is_empty());
    let reply = bench.send(2, disconnect, Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::SUCCESS);
    assert_eq!(bench.actions(), ["close 2"]);
}

#[test]
fn silent_hosts_are_fenced_then_closed() {
    let mut bench = Bench::new();
    let reply = bench.connect(1, HOST, SUBSYSTEM);
    let Some(Role::Admin(parameters)) = reply.role else { panic!("an admin queue") };
    bench.set_cc(1, CC_ENABLE);
    bench.io_queue(2, reply.result as u16, 1);
    let deadline = bench.target.deadline().unwrap();
    assert_eq!(deadline, bench.now + Duration::from_secs(5));

    // Traffic on an I/O queue alone keeps it alive.
    let traffic = bench.now + Duration::from_secs(4);
    parameters.association.touch(traffic);
    bench.target.on_deadline(deadline);
    assert!(bench.actions().is_empty());
    let deadline = bench.target.deadline().unwrap();
    assert_eq!(deadline, traffic + Duration::from_secs(5));

    // Found silent once: perhaps only because this core has not looked.
    bench.target.on_deadline(deadline);
    assert!(parameters.association.is_enabled());
    let deadline = bench.target.deadline().unwrap();
    bench.target.on_deadline(deadline);
    assert!(!parameters.association.is_enabled());
    assert_eq!(bench.actions(), ["close 1", "close 2"]);
    assert_eq!(bench.target.deadline(), None);
}

#[test]
fn a_late_look_at_the_clock_does_not_end_a_host_that_is_heard_next() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    bench.now += Duration::from_secs(60);
    bench.target.on_deadline(bench.now);
    bench.admin(1, AdminOpcode::KeepAlive, [0; 6]);
    bench.now += Duration::from_secs(2);
    bench.target.on_deadline(bench.now);
    assert!(bench.actions().is_empty());
}

#[test]
fn discovery_without_timeout_ends_after_two_minutes() {
    let mut bench = Bench::new();
    let data = connect_data(0xFFFF, HOST, Nqn::discovery().as_str());
    bench.send(1, connect(0, 31, 0), data).unwrap();
    assert_eq!(bench.target.deadline(), Some(bench.now + Duration::from_secs(120)));
    let data = connect_data(0xFFFF, HOST, SUBSYSTEM);
    let mut other = Bench::new();
    other.send(1, connect(0, 31, 0), data).unwrap();
    assert_eq!(other.target.deadline(), None);
}

#[test]
fn namespace_changes_reach_queues_before_the_host() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.listen(1, EVERYTHING);
    bench.io_queue(2, id, 1);
    let subsystem = nqn(SUBSYSTEM);
    bench.target.resize_namespace(&subsystem, NamespaceId(3), 2 << 30).unwrap();
    let event = "reply 1 0/00h 40002h";
    assert_eq!(bench.actions(), ["namespaces 2 [1024, 0, 2048]", event]);
    assert_eq!(u64_at(&bench.identify(1, 0, 3), 0), (2 << 30) >> 12);

    // Masked until the list has been read.
    bench.target.add_namespace(&subsystem, namespace(2, 12)).unwrap();
    bench.target.remove_namespace(&subsystem, NamespaceId(1)).unwrap();
    assert_eq!(
        bench.actions(),
        ["namespaces 2 [1024, 1024, 2048]", "namespaces 2 [0, 1024, 2048]"]
    );
    let list = bench.log(1, 4, 0, 4096, true).data;
    assert_eq!([0, 4, 8, 12].map(|at| u32_at(&list, at)), [1, 2, 3, 0]);
    assert_eq!(bench.log(1, 4, 0, 4096, false).data, list, "retained once");
    assert_eq!(bench.log(1, 4, 0, 4096, false).data, [0; 4096]);
    bench.target.rename_namespace(&subsystem, NamespaceId(2), "new").unwrap();
    assert_eq!(bench.actions(), ["namespaces 2 [0, 1024, 2048]", event]);
}

#[test]
fn events_wait_for_a_request() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    bench.admin(1, AdminOpcode::SetFeatures, [0x0B, EVERYTHING, 0, 0, 0, 0]);
    bench.target.remove_namespace(&nqn(SUBSYSTEM), NamespaceId(1)).unwrap();
    assert!(bench.actions().is_empty());
    let sqe = command(AdminOpcode::AsyncEventRequest.0, 9, 0, [0; 6]);
    assert_eq!(bench.send(1, sqe, Vec::new()), None);
    assert_eq!(bench.actions(), ["reply 1 0/00h 40002h"]);
    // Not wanted: not told.
    bench.log(1, 4, 0, 4096, false);
    bench.listen(1, 0);
    bench.target.remove_namespace(&nqn(SUBSYSTEM), NamespaceId(3)).unwrap();
    assert!(bench.actions().is_empty());
    let reply = bench.send(1, sqe, Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr());
}

#[test]
fn aborts_tell_the_truth() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.listen(1, EVERYTHING);
    bench.io_queue(2, id, 1);
    let abort = |queue: u32, command_id: u32| {
        command(AdminOpcode::Abort.0, 1, 0, [queue | command_id << 16, 0, 0, 0, 0, 0])
    };
    // A request for an event: the aborted command completes first.
    assert_eq!(bench.send(1, abort(0, 101), Vec::new()), None);
    assert_eq!(bench.actions(), ["reply 1 0/07h 0h", "reply 1 0/00h 0h"]);
    // Nothing of that kind, no such queue.
    assert_eq!(bench.send(1, abort(9, 5), Vec::new()), None);
    assert_eq!(bench.actions(), ["reply 1 0/00h 1h"]);
    // Another admin command: its data may be on their way still, which the connection knows.
    assert_eq!(bench.send(1, abort(0, 101), Vec::new()), None);
    assert_eq!(bench.actions(), ["abort 1 101 0"]);
    bench.target.abort_result(0, true);
    assert_eq!(bench.actions(), ["reply 1 0/00h 0h"]);
    // An I/O command: its queue knows.
    for command_id in 5..9 {
        assert_eq!(bench.send(1, abort(1, command_id), Vec::new()), None);
    }
    assert_eq!(bench.actions(), ["abort 2 5 1", "abort 2 6 2", "abort 2 7 3", "abort 2 8 4"]);
    let reply = bench.send(1, abort(1, 9), Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::ABORT_LIMIT_EXCEEDED);
    bench.target.abort_result(2, true);
    bench.target.abort_result(1, false);
    bench.target.abort_result(1, true);
    assert_eq!(bench.actions(), ["reply 1 0/00h 0h", "reply 1 0/00h 1h"]);
    // The queue goes before it has answered.
    bench.target.closed(bench.now, ConnectionId(2));
    assert_eq!(bench.actions(), ["reply 1 0/00h 1h", "reply 1 0/00h 1h"]);
    bench.target.abort_result(3, true);
    assert!(bench.actions().is_empty());
}

#[test]
fn removing_a_subsystem_closes_its_controllers() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.io_queue(2, id, 1);
    bench.target.remove_subsystem(&nqn(SUBSYSTEM)).unwrap();
    assert_eq!(bench.actions(), ["close 1", "close 2"]);
    let reply = bench.admin(1, AdminOpcode::Identify, [1, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::ABORTED_SQ_DELETION);
    // Added again before the old queues are gone: their ids are not dealt again.
    let ids = SubsystemConfig { controller_ids: 1..=2, ..subsystem(SUBSYSTEM) };
    bench.target.add_subsystem(ids).unwrap();
    assert_eq!(bench.admin_queue(3, HOST), 2);
    let reply = bench.connect(4, HOST, SUBSYSTEM);
    assert_eq!(status(&reply), Status::CONNECT_CONTROLLER_BUSY);
}

#[test]
fn many_controllers_and_namespaces() {
    let mut bench = Bench::new();
    let subsystem = nqn(SUBSYSTEM);
    for id in 1..=1024 {
        if id != 1 && id != 3 {
            bench.target.add_namespace(&subsystem, namespace(id, 12)).unwrap();
        }
    }
    assert_eq!(bench.target.free_namespace_id(&subsystem), None);
    for controller in 0..128 {
        // One host cannot have them all.
        let host = format!("nqn.2026-11.example:host-{}", controller / 32);
        let id = bench.admin_queue(controller * 10, &host);
        for queue in 1..=4 {
            let reply = bench.connect_io_of(&host, controller * 10 + u64::from(queue), id, queue);
            assert_eq!(status(&reply), Status::SUCCESS);
        }
    }
    bench.target.resize_namespace(&subsystem, NamespaceId(1024), 4096).unwrap();
    let mut snapshots = Vec::new();
    while let Some(action) = bench.target.take_action() {
        let Action::SetNamespaces(_, snapshot) = action else { panic!("snapshots alone") };
        snapshots.push(snapshot);
    }
    assert_eq!(snapshots.len(), 128 * 4);
    let shared = snapshots.iter().all(|other| std::sync::Arc::ptr_eq(other, &snapshots[0]));
    assert!(shared, "one copy for all");
    let list = bench.identify(0, 2, 0);
    assert_eq!(u32_at(&list, 4092), 1024);
}

#[test]
fn configuration_is_checked() {
    let mut bench = Bench::new();
    let subsystem = nqn(SUBSYSTEM);
    let good = namespace(2, 12);
    let bad = [
        NamespaceConfig { id: NamespaceId(0), ..good.clone() },
        NamespaceConfig { id: NamespaceId(1025), ..good.clone() },
        NamespaceConfig { capacity: 0, ..good.clone() },
        NamespaceConfig { capacity: 4097, ..good.clone() },
        NamespaceConfig { block_shift: 10, ..good.clone() },
        NamespaceConfig { uuid: [0; 16], ..good.clone() },
        NamespaceConfig { uuid: namespace(1, 9).uuid, ..good.clone() },
        namespace(1, 9),
    ];
    for config in bad {
        assert!(bench.target.add_namespace(&subsystem, config).is_err());
    }
    assert!(bench.target.resize_namespace(&subsystem, NamespaceId(1), 1).is_err());
    assert!(bench.actions().is_empty());
    assert!(Nqn::new("iqn.x").is_err());
    assert!(Nqn::new(&format!("nqn.{}", "x".repeat(219))).is_ok());
    assert!(Nqn::new(&format!("nqn.{}", "x".repeat(220))).is_err());
    assert!(Nqn::new("nqn.a\nb").is_err());
}
