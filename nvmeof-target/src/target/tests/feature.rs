//! Get Features and Set Features.

use super::*;

impl Bench {
    fn get(&mut self, feature: u32, select: u32) -> Reply {
        self.admin(1, AdminOpcode::GetFeatures, [feature | select << 8, 0, 0, 0, 0, 0])
    }

    fn set(&mut self, feature: u32, value: u32) -> Reply {
        self.admin(1, AdminOpcode::SetFeatures, [feature, value, 0, 0, 0, 0])
    }
}

#[test]
fn number_of_queues_is_the_smaller_of_asked_and_possible() {
    let mut bench = Bench::with(TargetConfig { io_queues_max: 8, ..Default::default() });
    let id = bench.admin_queue(1, HOST);
    assert_eq!(bench.get(7, 0).result, 0x0007_0007);
    assert_eq!(bench.set(7, 0x00FF_00FF).result, 0x0007_0007);
    assert_eq!(bench.set(7, 0x0003_0001).result, 0x0001_0001);
    assert_eq!(bench.get(7, 0).result, 0x0001_0001);
    assert_eq!(status(&bench.set(7, 0xFFFF_0000)), Status::INVALID_FIELD.dnr());
    let reply = bench.connect_io(2, id, 3);
    assert_eq!(status(&reply), Status::CONNECT_INVALID_PARAMETERS);
    bench.io_queue(2, id, 2);
    assert_eq!(status(&bench.set(7, 0)), Status::COMMAND_SEQUENCE_ERROR.dnr());
}

#[test]
fn values_are_kept_until_reset_and_defaults_are_known() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    for (feature, value) in [(1, 0x0102_0307), (5, 7), (8, 0x0102), (0x0A, 1), (0x0B, 1 << 8)] {
        let default = bench.get(feature, 0).result;
        assert_eq!(status(&bench.set(feature, value)), Status::SUCCESS, "{feature:02x}h");
        assert_eq!(bench.get(feature, 0).result, value.into());
        assert_eq!(bench.get(feature, 1).result, default);
        assert_eq!(bench.get(feature, 2).result, default);
        assert_eq!(bench.get(feature, 3).result & 0b101, 0b100, "changeable, not saveable");
    }
    bench.set_cc(1, CC_DISABLE);
    bench.set_cc(1, CC_ENABLE);
    assert_eq!((bench.get(1, 0).result, bench.get(0x0B, 0).result), (0, 0));
    assert_eq!(bench.get(0x0F, 0).result, 5000, "the Keep Alive Timeout stays");
}

#[test]
fn refused_values() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let invalid = Status::INVALID_FIELD.dnr();
    for (feature, value) in [(2, 1), (4, 0x0001_0000), (4, 0x0020_0000), (5, 1 << 16), (0x19, 1)] {
        assert_eq!(status(&bench.set(feature, value)), invalid, "{feature:02x}h {value:x}h");
    }
    assert_eq!(status(&bench.set(0x0B, 1 << 14)), invalid);
    assert_eq!(status(&bench.set(0x06, 1)), invalid, "there is no volatile cache");
    assert_eq!(status(&bench.get(0x06, 0)), invalid);
    assert_eq!(status(&bench.get(1, 4)), invalid);
    assert_eq!(status(&bench.set(1 | 1 << 31, 0)), Status::FEATURE_NOT_SAVEABLE.dnr());
    let reply = bench.admin_on(1, AdminOpcode::SetFeatures, 1, [1, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
}

#[test]
fn temperature_thresholds_are_two() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let mut get =
        |kind: u32| bench.admin(1, AdminOpcode::GetFeatures, [4, kind << 20, 0, 0, 0, 0]).result;
    assert_eq!((get(0), get(1)), (0xFFFF, 0));
    bench.set(4, 350);
    bench.set(4, 1 << 20 | 250);
    let mut get =
        |kind: u32| bench.admin(1, AdminOpcode::GetFeatures, [4, kind << 20, 0, 0, 0, 0]).result;
    assert_eq!((get(0), get(1)), (350, 250));
}

#[test]
fn keep_alive_timeout_can_be_changed() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    bench.set(0x0F, 1_234);
    assert_eq!(bench.get(0x0F, 0).result, 1_300, "rounded up to 100 ms");
    assert_eq!(bench.target.deadline(), Some(bench.now + Duration::from_millis(1_300)));
    bench.set(0x0F, 0);
    bench.now += Duration::from_secs(3600);
    bench.target.on_deadline(bench.now);
    assert!(bench.actions().is_empty());
    bench.set(0x0F, u32::MAX);
    assert_eq!(status(&bench.get(0x0F, 0)), Status::SUCCESS);
}

#[test]
fn host_identity_and_behavior() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let reply = bench.admin(1, AdminOpcode::GetFeatures, [0x81, 1, 0, 0, 0, 0]);
    assert_eq!(reply.data, [7; 16]);
    assert_eq!(status(&bench.get(0x81, 0)), Status::INVALID_FIELD.dnr());
    assert_eq!(status(&bench.set(0x81, 1)), Status::COMMAND_SEQUENCE_ERROR.dnr());
    let sqe = command(AdminOpcode::SetFeatures.0, 1, 0, [0x16, 0, 0, 0, 0, 0]);
    let short = bench.send(1, sqe, vec![1; 511]).unwrap();
    assert_eq!(status(&short), Status::DATA_SGL_LENGTH_INVALID.dnr());
    let mut data = vec![0; 512];
    data[0] = 1;
    assert_eq!(status(&bench.send(1, sqe, data.clone()).unwrap()), Status::SUCCESS);
    assert_eq!(bench.get(0x16, 0).data, data);
    data[0] = 2;
    assert_eq!(status(&bench.send(1, sqe, data).unwrap()), Status::INVALID_FIELD.dnr());
}

#[test]
fn write_protection_is_kept_before_it_is_answered() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    bench.listen(1, 1 << 8);
    bench.io_queue(2, id, 1);
    assert_eq!(bench.identify(1, 1, 0)[531], 1, "NWPC");
    let set = |bench: &mut Bench, nsid: u32, state: u32| {
        let sqe = command(AdminOpcode::SetFeatures.0, 1, nsid, [0x84, state, 0, 0, 0, 0]);
        bench.send(1, sqe, Vec::new()).map(|reply| status(&reply))
    };
    let get = |bench: &mut Bench, select: u32| {
        let dwords = [0x84 | select << 8, 0, 0, 0, 0, 0];
        bench.admin_on(1, AdminOpcode::GetFeatures, 3, dwords).result
    };
    assert_eq!(set(&mut bench, 3, 0), Some(Status::SUCCESS), "it is so already");
    assert_eq!(set(&mut bench, 3, 1), None);
    assert_eq!(bench.actions(), ["protect 3 true 0"]);
    assert_eq!(get(&mut bench, 0), 0, "not yet");
    bench.target.protection_result(0, false);
    assert_eq!(bench.actions(), ["reply 1 0/82h 0h"]);
    assert_eq!(set(&mut bench, 3, 1), None);
    bench.target.protection_result(1, true);
    let (snapshot, event) = ("namespaces 2 [1024, 0, 1024]", "reply 1 0/00h 40002h");
    assert_eq!(bench.actions(), ["protect 3 true 1", snapshot, event, "reply 1 0/00h 0h"]);
    assert_eq!([0, 1, 2].map(|select| get(&mut bench, select)), [1, 0, 1]);
    assert_eq!(get(&mut bench, 3), 0b110, "changeable, a namespace's");
    for (cns, offset) in [(0, 99), (8, 8)] {
        assert_eq!(bench.identify(1, cns, 3)[offset], 1, "NSATTR");
        assert_eq!(bench.identify(1, cns, 1)[offset], 0, "NSATTR");
    }
    let mut other = Bench::new();
    other.admin_queue(1, HOST);
    for (nsid, state, want) in [
        (3, 2, Status::INVALID_FIELD),
        (3, 3, Status::INVALID_FIELD),
        (2, 1, Status::INVALID_NAMESPACE),
        (0, 1, Status::INVALID_NAMESPACE),
        (u32::MAX, 1, Status::INVALID_FIELD),
    ] {
        assert_eq!(set(&mut other, nsid, state), Some(want.dnr()));
    }
    // The namespace goes meanwhile; then the host.
    assert_eq!((set(&mut other, 3, 1), set(&mut other, 1, 1)), (None, None));
    other.target.remove_namespace(&nqn(SUBSYSTEM), NamespaceId(3)).unwrap();
    other.actions();
    other.target.protection_result(0, true);
    assert_eq!(other.actions(), ["reply 1 0/0bh 0h"]);
    other.target.closed(other.now, ConnectionId(1));
    other.target.protection_result(1, true);
    assert!(other.actions().is_empty());
}
