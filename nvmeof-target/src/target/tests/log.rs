//! Log pages: contents by the offsets of the specification, and reading them in parts.

use super::*;
use proptest::prelude::*;

#[test]
fn health() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    bench.target.set_health(Health {
        degraded: true,
        temperature: 300,
        bytes_read: 512_001,
        writes: 9,
        media_errors: 2,
        ..Health::default()
    });
    let data = bench.log(1, 2, 0, 512, false).data;
    assert_eq!(data[0], 0b100);
    assert_eq!(u16_at(&data, 1), 300);
    assert_eq!((data[3], data[4]), (100, 10));
    assert_eq!((u64_at(&data, 32), u64_at(&data, 80), u64_at(&data, 160)), (2, 9, 2));
    let reply = bench.admin_on(1, AdminOpcode::GetLogPage, 1, [0x007F_0002, 0, 0, 0, 0, 0]);
    assert_eq!(status(&reply), Status::INVALID_FIELD.dnr(), "there is none per namespace");
}

#[test]
fn critical_warnings_are_told() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    bench.admin_queue(2, OTHER_HOST);
    bench.listen(1, 0b1_1111);
    bench.listen(2, 0);
    let well = Health { temperature: 300, ..Health::default() };
    bench.target.set_health(well.clone());
    assert!(bench.actions().is_empty());
    let degraded = Health { degraded: true, ..well.clone() };
    bench.target.set_health(degraded.clone());
    assert_eq!(bench.actions(), ["reply 1 0/00h 20001h"]);
    // Masked until the page has been read; another kind is not.
    bench.target.set_health(well.clone());
    bench.target.set_health(Health { space_low: true, ..degraded.clone() });
    assert_eq!(bench.actions(), ["reply 1 0/00h 20201h"]);
    assert_eq!(bench.log(1, 2, 0, 512, false).data[0], 0b101);
    bench.target.set_health(well);
    bench.target.set_health(degraded);
    assert_eq!(bench.actions(), ["reply 1 0/00h 20001h"]);
    // The host's own threshold.
    bench.admin(1, AdminOpcode::SetFeatures, [4, 300, 0, 0, 0, 0]);
    assert_eq!(bench.actions(), ["reply 1 0/00h 20101h"]);
    assert_eq!(bench.log(1, 2, 0, 512, true).data[0], 0b110);
    assert_eq!(bench.log(2, 2, 0, 512, true).data[0], 0b100);
    // What is there already is told when it is asked for.
    bench.admin(2, AdminOpcode::SetFeatures, [0x0B, 0b100, 0, 0, 0, 0]);
    assert_eq!(bench.actions(), ["reply 2 0/00h 20001h"]);
}

#[test]
fn what_is_supported() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let pages = bench.log(1, 0, 0, 1024, false).data;
    for page in 0..=255_u8 {
        let reply = bench.log(1, page, 0, 16, false);
        let listed = u32_at(&pages, usize::from(page) * 4) & 1 == 1;
        assert_eq!(status(&reply).is_success(), listed, "page {page:02x}h");
        assert!(listed || status(&reply) == Status::INVALID_LOG_PAGE.dnr());
    }
    let effects = bench.log(1, 5, 0, 4096, false).data;
    for opcode in 0..=255_u8 {
        // An Asynchronous Event Request is not answered.
        if opcode == AdminOpcode::AsyncEventRequest.0 || opcode == AdminOpcode::Abort.0 {
            continue;
        }
        let reply = bench.send(1, command(opcode, 1, 1, [0x7F; 6]), Vec::new()).unwrap();
        let listed = u32_at(&effects, usize::from(opcode) * 4) & 1 == 1;
        let refused = status(&reply).is(Status::INVALID_OPCODE);
        assert!(refused != listed || opcode == FABRICS_OPCODE, "opcode {opcode:02x}h");
    }
    assert_eq!(u32_at(&effects, 1024 + 4), 1 | 2 | 1 << 20, "Write changes blocks");
    // nvme-cli asks for zoned commands, too: there are none, which is no error.
    let dwords = [5 | 1023 << 16, 0, 0, 0, 2 << 24, 0];
    let zoned = bench.admin(1, AdminOpcode::GetLogPage, dwords);
    assert_eq!(
        (zoned.data[..1024] == effects[..1024], &zoned.data[1024..2048]),
        (true, &[0; 1024][..])
    );
    let features = bench.log(1, 0x12, 0, 1024, false).data;
    for feature in 0..=255_u8 {
        let dwords = [u32::from(feature), 1, 0, 0, 0, 0];
        let reply = bench.admin_on(1, AdminOpcode::GetFeatures, 1, dwords);
        let listed = u32_at(&features, usize::from(feature) * 4) & 1 == 1;
        assert_eq!(status(&reply).is_success(), listed, "feature {feature:02x}h");
    }
}

#[test]
fn ana() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let data = bench.log(1, 0x0C, 0, 64, false).data;
    assert_eq!(u16_at(&data, 8), 1, "groups");
    assert_eq!((u32_at(&data, 16), u32_at(&data, 20)), (1, 2), "group 1 of two namespaces");
    assert_eq!(data[32], 1, "optimized");
    assert_eq!([48, 52, 56].map(|at| u32_at(&data, at)), [1, 3, 0]);
    let groups_only = 0x0C | 1 << 8 | 15 << 16;
    let reply = bench.admin(1, AdminOpcode::GetLogPage, [groups_only, 0, 0, 0, 0, 0]);
    assert_eq!(u32_at(&reply.data, 20), 0);
    assert_eq!(u32_at(&reply.data, 48), 0);
    bench.target.remove_namespace(&nqn(SUBSYSTEM), NamespaceId(1)).unwrap();
    let after = bench.log(1, 0x0C, 0, 64, false).data;
    assert!(u64_at(&after, 0) > u64_at(&data, 0));
}

#[test]
fn requests_out_of_bounds() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    let invalid = Status::INVALID_FIELD.dnr();
    for (offset, len) in [(2, 512), (516, 4), (u64::MAX - 3, 4), (0, (1 << 20) + 4)] {
        let reply = bench.log(1, 2, offset, len, false);
        assert_eq!(status(&reply), invalid, "{offset} + {len}");
    }
    assert_eq!(bench.log(1, 2, 512, 4, false).data, [0; 4], "right at the end");
    for (index, bit) in [(4, 1 << 23), (4, 1), (1, u32::from(u16::MAX))] {
        let mut dwords = [0x007F_0002, 0, 0, 0, 0, 0];
        dwords[index] = bit;
        let reply = bench.admin_on(1, AdminOpcode::GetLogPage, u32::MAX, dwords);
        assert_eq!(status(&reply), invalid);
    }
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let mut bench = Bench::new();
    bench.admin_queue(1, HOST);
    bench.listen(1, 1 << 8);
    bench.target.remove_namespace(&nqn(SUBSYSTEM), NamespaceId(1)).unwrap();
    assert_eq!(bench.actions().len(), 1);
    for (opcode, dword_10, dword_11, len) in [
        (AdminOpcode::Identify, 1, 0, 4096_u32),
        (AdminOpcode::GetLogPage, 4 | 1023 << 16, 0, 4096),
        (AdminOpcode::GetFeatures, 0x16, 0, 512),
        (AdminOpcode::GetFeatures, 0x81, 1, 16),
    ] {
        let mut sqe = command(opcode.0, 1, 0, [dword_10, dword_11, 0, 0, 0, 0]);
        sqe[32..36].copy_from_slice(&(len - 1).to_le_bytes());
        let short = bench.send(1, sqe, Vec::new()).unwrap();
        assert_eq!(status(&short), Status::DATA_SGL_LENGTH_INVALID.dnr());
        assert!(short.data.is_empty());
        sqe[32..36].copy_from_slice(&len.to_le_bytes());
        let reply = bench.send(1, sqe, Vec::new()).unwrap();
        assert_eq!(reply.data.len(), len as usize);
        let is_list = opcode == AdminOpcode::GetLogPage;
        assert!(!is_list || reply.data[0] == 1, "kept over the read that failed");
    }
    assert_eq!(bench.log(1, 4, 0, 4096, false).data, [0; 4096]);
}

proptest! {
    /// However a page is cut into reads, the parts make up the whole.
    #[test]
    fn parts_make_up_the_whole(
        page in prop::sample::select(vec![0x00_u8, 0x04, 0x05, 0x0C, 0x12, 0x70]),
        cuts in prop::collection::vec(1_usize..1500, 1..20),
    ) {
        let mut bench = Bench::new();
        for id in 10..200 {
            bench.target.add_namespace(&nqn(SUBSYSTEM), namespace(id, 12)).unwrap();
        }
        if page == 0x70 {
            bench.discovery_queue(1, HOST);
        } else {
            bench.admin_queue(1, HOST);
        }
        let whole = bench.log(1, page, 0, 8192, true).data;
        let mut offset = 0;
        for cut in cuts {
            let len = cut * 4;
            let part = bench.log(1, page, offset as u64, len, true);
            if !status(&part).is_success() {
                prop_assert!(offset > 1024);
                break;
            }
            prop_assert_eq!(part.data.len(), len);
            let end = whole.len().min(offset + len);
            if offset < end {
                prop_assert_eq!(&part.data[..end - offset], &whole[offset..end]);
            }
            offset += len;
        }
    }
}
