//! Identify, by byte offsets of the specification.

use super::*;

#[test]
fn controller() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    let data = bench.identify(1, 0x01, 0);
    assert_eq!(&data[4..24], b"S123                ");
    assert_eq!(data[76], 0b1011, "CMIC: ports, controllers, ANA");
    assert_eq!(data[77], 8, "MDTS: 1 MiB");
    assert_eq!(u16_at(&data, 78), id);
    assert_eq!(u32_at(&data, 80), 0x0002_0000, "VER");
    assert_eq!(u32_at(&data, 92), 1 << 8 | 1 << 11, "OAES");
    assert_eq!(u32_at(&data, 96), 1 | 1 << 6, "CTRATT: HIDS, TBKAS");
    assert_eq!(data[111], 1, "CNTRLTYPE");
    assert_eq!((data[258], data[259]), (3, 3), "ACL, AERL");
    assert_eq!(data[261], 0b10_0110, "LPA");
    assert!(u16_at(&data, 320) > 0, "KAS");
    assert_eq!(u32_at(&data, 328), 0, "SANICAP");
    assert!(data[342] > 0, "ANATT");
    assert_eq!((u32_at(&data, 344), u32_at(&data, 348)), (1, 1), "ANAGRPMAX, NANAGRPID");
    assert_eq!((data[512], data[513]), (0x66, 0x44));
    assert_eq!(u16_at(&data, 514), 128, "MAXCMD");
    assert_eq!((u32_at(&data, 516), u32_at(&data, 540)), (1024, 1024), "NN, MNAN");
    assert_eq!(u16_at(&data, 520), 0b1_1011_1111, "ONCS");
    assert_eq!(u16_at(&data, 522), 1, "FUSES");
    assert_eq!(data[525], 0b110, "VWC: none, flush of all namespaces");
    assert_eq!((u16_at(&data, 526), u16_at(&data, 528)), (0, 0), "AWUN, AWUPF");
    assert_eq!(u32_at(&data, 536) & 3, 1, "SGLS");
    assert_eq!(&data[768..768 + SUBSYSTEM.len()], SUBSYSTEM.as_bytes());
    assert_eq!(data[768 + SUBSYSTEM.len()], 0);
    assert_eq!(u32_at(&data, 1792), (64 + 8192) / 16, "IOCCSZ");
    assert_eq!(u32_at(&data, 1796), 1, "IORCSZ");
    assert_eq!(u16_at(&data, 1800), 0, "ICDOFF");
    let ana_log = 16 + 32 * u32_at(&data, 348) + 4 * u32_at(&data, 540);
    assert!(ana_log <= 4096 << data[77], "Linux disables ANA otherwise");
}

#[test]
fn namespaces_of_both_block_sizes() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    for (nsid, shift, grain_z) in [(1, 9, 7), (3, 12, 0)] {
        let data = bench.identify(1, 0x00, nsid);
        assert_eq!(u64_at(&data, 0), (1 << 30) >> shift, "NSZE");
        assert_eq!(u64_at(&data, 8), (1 << 30) >> shift, "NCAP");
        assert_eq!(data[24], 0b1_1011, "NSFEAT");
        assert_eq!(data[30], 1, "NMIC");
        assert_eq!(data[33], 9, "DLFEAT");
        for offset in [34, 36, 38, 40, 44, 64, 66, 68, 70, 72] {
            assert_eq!(u16_at(&data, offset), grain_z, "offset {offset}: 4 KiB");
        }
        assert_eq!(u16_at(&data, 42), 0, "NABO");
        assert_eq!(u64_at(&data, 48), 1 << 30, "NVMCAP");
        assert_eq!(u32_at(&data, 92), 1, "ANAGRPID");
        assert_eq!(data[130], shift, "LBADS");
        assert_ne!(&data[104..120], &[0; 16], "NGUID");
        assert_ne!(&data[120..128], &[0; 8], "EUI64");
        assert!(data[384..].starts_with(format!("volume-{nsid}\0").as_bytes()));
    }
}

#[test]
fn namespaces_that_are_not_there() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    for cns in [0x00, 0x05, 0x08, 0x11] {
        assert_eq!(bench.identify(1, cns, 2), [0; 4096], "inactive: CNS {cns:02x}h");
        for nsid in [0, 1025, u32::MAX] {
            let dwords = [cns.into(), 0, 0, 0, 0, 0];
            let reply = bench.admin_on(1, AdminOpcode::Identify, nsid, dwords);
            assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
        }
    }
    let reply = bench.admin_on(1, AdminOpcode::Identify, 2, [3, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
}

#[test]
fn lists_and_descriptors() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    for cns in [0x02, 0x07, 0x10, 0x1A] {
        let data = bench.identify(1, cns, 0);
        assert_eq!([u32_at(&data, 0), u32_at(&data, 4), u32_at(&data, 8)], [1, 3, 0]);
        assert_eq!(u32_at(&bench.identify(1, cns, 1), 0), 3);
        assert_eq!(u32_at(&bench.identify(1, cns, 3), 0), 0);
    }
    let data = bench.identify(1, 0x03, 3);
    assert_eq!(&data[..2], &[1, 8]);
    assert_eq!(&data[12..14], &[2, 16]);
    assert_eq!(&data[32..34], &[3, 16]);
    assert_eq!(data[36..52], namespace(3, 12).uuid);
    assert_eq!(&data[52..57], &[4, 1, 0, 0, 0]);
    assert_eq!(&data[57..61], &[0; 4]);

    let other = bench.admin_queue(2, OTHER_HOST);
    for (cns, nsid) in [(0x12, 1), (0x13, 0)] {
        let data = bench.identify(1, cns, nsid);
        assert_eq!([u16_at(&data, 0), u16_at(&data, 2), u16_at(&data, 4)], [2, id, other]);
    }
    let above = u32::from(id + 1) << 16 | 0x13;
    let reply = bench.admin(1, AdminOpcode::Identify, [above, 0, 0, 0, 0, 0]);
    assert_eq!([u16_at(&reply.data, 0), u16_at(&reply.data, 2)], [1, other]);
}

#[test]
fn command_sets() {
    let mut bench = Bench::new();
    let id = bench.admin_queue(1, HOST);
    assert_eq!(bench.identify(1, 0x06, 0)[..4], [13, 13, 13, 0], "VSL, WZSL, WUSL, DMRL");
    let independent = bench.identify(1, 0x08, 1);
    assert_eq!((independent[1], independent[4], independent[14]), (1, 1, 1));
    assert_eq!(u16_at(&bench.identify(1, 0x14, 0), 0), id);
    let reply = bench.admin(1, AdminOpcode::Identify, [0xFFFF_001C, 0, 0, 0, 0, 0]);
    assert_eq!(u64_at(&reply.data, 0), 1);
    for cns in [0x05, 0x06, 0x07] {
        let reply = bench.admin_on(1, AdminOpcode::Identify, 1, [cns, 2 << 24, 0, 0, 0, 0]);
        assert_eq!(status(&reply), Status::INVALID_FIELD.dnr(), "no zoned namespaces");
    }
    let reply = bench.admin(1, AdminOpcode::Identify, [0x7F, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::INVALID_FIELD.dnr());
}

#[test]
fn discovery_controller() {
    let mut bench = Bench::new();
    bench.discovery_queue(1, HOST);
    let data = bench.identify(1, 0x01, 0);
    assert_eq!(data[111], 2, "CNTRLTYPE");
    assert_eq!(u32_at(&data, 92), 1 << 31, "OAES");
    assert!(data[768..].starts_with(b"nqn.2014-08.org.nvmexpress.discovery\0"));
    assert_eq!(u32_at(&data, 516), 0, "NN");
    let reply = bench.admin(1, AdminOpcode::Identify, [2, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::INVALID_FIELD.dnr());
}

#[test]
fn long_names_are_cut_between_characters() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let name = format!("{}é", "x".repeat(63));
    bench.target.rename_namespace(&nqn(SUBSYSTEM), NamespaceId(1), &name).unwrap();
    let data = bench.identify(1, 0x00, 1);
    assert_eq!(&data[384..384 + 65], [&[b'x'; 63][..], &[0, 0]].concat());
}
