//! The discovery log: who sees what, by which way, and when it changes.

use super::*;

const DISCOVERY_EVENT: u32 = 1 << 31;

impl Bench {
    fn discovery_log(&mut self, connection: u64) -> (u64, Vec<(u8, u16, String)>) {
        let header = self.log(connection, 0x70, 0, 1024, true).data;
        let records = u64_at(&header, 8) as usize;
        let whole = self.log(connection, 0x70, 0, 1024 * (records + 1), false).data;
        assert_eq!(&whole[..1024], header);
        let entries = whole[1024..].chunks(1024).map(|entry| {
            let text = |field: &[u8]| {
                String::from_utf8(field.to_vec()).unwrap().trim_end_matches([' ', '\0']).to_owned()
            };
            let nqn = text(&entry[256..512]);
            let name = nqn.rsplit(':').next().unwrap().to_owned();
            let address = format!("{name} {}:{}", text(&entry[512..768]), text(&entry[32..64]));
            assert_eq!(entry[0], 3, "TCP");
            assert_eq!(entry[1], if address.contains("::") { 2 } else { 1 });
            assert_eq!(u16_at(entry, 6), 0xFFFF);
            (entry[2], u16_at(entry, 4), address)
        });
        (u64_at(&header, 0), entries.collect())
    }
}

#[test]
fn entries_and_addresses() {
    let mut bench = Bench::new();
    bench.target.add_port(port(PortId(3), "192.0.2.7:4421", false)).unwrap();
    bench.target.add_port(port(PortId(4), "127.0.0.1:4422", false)).unwrap();
    bench.target.add_port(port(PortId(5), "[2001:db8::1]:4420", false)).unwrap();
    bench.target.add_port(port(PortId(6), "[::]:4423", false)).unwrap();
    let mut advertised = port(PortId(7), "10.0.0.1:4420", false);
    advertised.advertised = Some("198.51.100.1:14420".parse().unwrap());
    bench.target.add_port(advertised).unwrap();
    bench.port = DISCOVERY_PORT;
    bench.discovery_queue(1, HOST);
    let (_, entries) = bench.discovery_log(1);
    let want = [
        (3, 2, "nqn.2014-08.org.nvmexpress.discovery 192.0.2.1:8009"),
        (2, 1, "node 192.0.2.1:4420"),
        (2, 3, "node 192.0.2.7:4421"),
        (2, 7, "node 198.51.100.1:14420"),
    ];
    assert_eq!(entries, want.map(|(kind, port, text)| (kind, port, text.to_owned())));
}

#[test]
fn families_are_kept_apart() {
    let v6 = port(PortId(1), "[2001:db8::1]:4420", false);
    let any_v6 = port(PortId(2), "[::]:4420", false);
    let any_v4 = port(PortId(3), "0.0.0.0:4420", false);
    let host_v4: IpAddr = "192.0.2.1".parse().unwrap();
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    let host_v6: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(v6.address_for(host_v4, &any_v6), None);
    assert_eq!(any_v4.address_for(host_v6, &v6), None);
    assert_eq!(any_v6.address_for(host_v4, &any_v4), None);
    let through_both = any_v6.address_for(mapped, &any_v6);
    assert_eq!(through_both, Some("192.0.2.1:4420".parse().unwrap()));
    assert_eq!(any_v4.address_for(mapped, &any_v6), through_both);
    assert_eq!(any_v6.address_for(host_v6, &v6), Some("[2001:db8::1]:4420".parse().unwrap()));
}

#[test]
fn hosts_see_what_they_may_connect_to_and_hear_of_its_changes_alone() {
    let mut bench = Bench::new();
    bench.target.set_allow_any(&nqn(SUBSYSTEM), false).unwrap();
    bench.target.allow_host(&nqn(SUBSYSTEM), nqn(HOST)).unwrap();
    for (connection, host) in [(1, HOST), (2, OTHER_HOST)] {
        bench.discovery_queue(connection, host);
        bench.listen(connection, DISCOVERY_EVENT);
    }
    let (generation, entries) = bench.discovery_log(1);
    let (other_generation, other_entries) = bench.discovery_log(2);
    assert_eq!((entries.len(), other_entries.len()), (2, 1));

    let hosts = AllowedHosts { any: false, listed: [nqn(HOST)].into_iter().collect() };
    let second = SubsystemConfig { hosts, ..subsystem("nqn.2026-11.example:second") };
    bench.target.add_subsystem(second.clone()).unwrap();
    assert_eq!(bench.actions(), ["reply 1 0/00h 70f002h"]);
    bench.target.remove_subsystem(&second.nqn).unwrap();
    assert!(bench.actions().is_empty(), "masked until read");
    bench.target.add_subsystem(second.clone()).unwrap();
    let (after, entries) = bench.discovery_log(1);
    assert_eq!((after, entries.len()), (generation + 3, 3));
    assert_eq!(bench.discovery_log(2), (other_generation, other_entries));

    bench.target.allow_host(&second.nqn, nqn(OTHER_HOST)).unwrap();
    assert_eq!(bench.actions(), ["reply 2 0/00h 70f002h"]);
    assert_eq!(bench.discovery_log(1).0, after);
    assert_eq!(bench.discovery_log(2).1.len(), 2);
    bench.target.add_port(port(PortId(9), "0.0.0.0:4429", false)).unwrap();
    assert_eq!(bench.actions(), ["reply 1 0/00h 70f002h", "reply 2 0/00h 70f002h"]);
    assert_eq!(bench.discovery_log(1).0, after + 1);
    assert_eq!(bench.discovery_log(2).1.len(), 3);
    bench.target.set_allow_any(&nqn(SUBSYSTEM), true).unwrap();
    assert_eq!(bench.actions(), ["reply 2 0/00h 70f002h"], "the first saw it already");
}

#[test]
fn reading_beyond_the_end_after_the_log_has_shrunk() {
    let mut bench = Bench::new();
    bench.discovery_queue(1, HOST);
    let generation = bench.discovery_log(1).0;
    bench.target.remove_port(PORT).unwrap();
    let reply = bench.log(1, 0x70, 2048, 1024, true);
    assert_eq!(status(&reply), Status::SUCCESS);
    assert_eq!(reply.data, [0; 1024]);
    assert_ne!(bench.discovery_log(1).0, generation);
}

#[test]
fn only_what_discovery_needs() {
    let mut bench = Bench::new();
    bench.discovery_queue(1, HOST);
    let reply = bench.log(1, 0x02, 0, 512, false);
    assert_eq!(status(&reply), Status::INVALID_LOG_PAGE.dnr());
    let reply = bench.admin(1, AdminOpcode::GetFeatures, [7, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::INVALID_FIELD.dnr());
    let reply = bench.admin(1, AdminOpcode::SetFeatures, [0x0F, 30_000, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::SUCCESS);
    let reply = bench.admin(1, AdminOpcode::SetFeatures, [0x0B, 1 << 8, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::INVALID_FIELD.dnr());
    // An I/O queue of a discovery controller does not exist.
    let data = connect_data(1, HOST, Nqn::discovery().as_str());
    let reply = bench.send(2, connect(1, 31, 0), data).unwrap();
    assert_eq!(status(&reply), Status::CONNECT_INVALID_PARAMETERS);
}
