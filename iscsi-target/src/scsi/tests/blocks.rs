//! Commands that touch the medium.

use super::*;
use crate::scsi::harness::land;
use storage_spec::crc32c;
use target_io::BlockError;
use target_io::testing::PlainBuf;

const READ_16: u8 = 0x88;

fn cdb_16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn information(ending: Ending<PlainBuf>) -> u64 {
    ending.sense.expect("it failed").information.expect("it is told")
}

#[test]
fn reads_and_writes_of_every_length() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let data: Vec<u8> = (0..1024).map(|at| at as u8).collect();
    let writes: [&[u8]; 7] = [
        &[0x0A, 0, 0, 9, 2, 0],
        &[0x2A, 0, 0, 0, 0, 9, 0, 0, 2, 0],
        &[0xAA, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        &[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        &[0x2E, 2, 0, 0, 0, 9, 0, 0, 2, 0],
        &[0xAE, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        &[0x8E, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
    ];
    let reads: [&[u8]; 4] = [
        &[0x08, 0, 0, 9, 2, 0],
        &[0x28, 0x18, 0, 0, 0, 9, 0, 0, 2, 0],
        &[0xA8, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        &[READ_16, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
    ];
    for (write, read) in writes.into_iter().zip(reads.into_iter().cycle()) {
        harness.memory.volumes[0].fill(0xEE);
        assert!(bytes_of(harness.request(write, &data)).is_empty());
        assert_eq!(bytes_of(harness.request(read, &[])), data);
        assert!(harness.memory.volumes[0][..9 * 512].iter().all(|&byte| byte == 0xEE));
        assert_eq!(harness.memory.volumes[0][11 * 512], 0xEE);
    }
    // No count in six bytes is 256.
    assert_eq!(bytes_of(harness.request(&[0x08, 0, 0, 0, 0, 0], &[])).len(), 256 << 9);
}

#[test]
fn ranges_end_with_the_unit() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let last = 2047;
    let read = |lba, blocks| cdb_16(READ_16, 0, lba, blocks);
    assert_eq!(bytes_of(harness.request(&read(last, 1), &[])).len(), 512);
    assert_eq!(sense(harness.request(&read(last, 2), &[])), OUT_OF_RANGE);
    assert_eq!(sense(harness.request(&read(u64::MAX, 1), &[])), OUT_OF_RANGE);
    assert_eq!(sense(harness.request(&read(u64::MAX, 0), &[])), OUT_OF_RANGE);
    assert!(bytes_of(harness.request(&read(last + 1, 0), &[])).is_empty());
    assert_eq!(sense(harness.request(&read(last + 2, 0), &[])), OUT_OF_RANGE);
    for opcode in [0x88, 0x8A, 0x8B, 0x8E, 0x8F, 0x93, 0x89] {
        let cdb = cdb_16(opcode, 0x20, 0, 1);
        let ending = harness.request(&cdb, &[0; 1024]);
        assert_eq!(ending.sense, Some(Sense::cdb_bit(1, 7)), "{opcode:02X}");
    }
}

#[test]
fn data_must_be_as_long_as_the_command_says() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let write = cdb_16(0x8A, 0, 0, 2);
    // Of too few data the blocks that come whole are written; the transport tells of the rest.
    let before = harness.memory.volumes[0].clone();
    bytes_of(harness.request(&write, &[9; 511]));
    assert!(harness.memory.volumes[0] == before);
    bytes_of(harness.request(&write, &[9; 1023]));
    assert!(harness.memory.volumes[0][..512] == [9; 512]);
    assert!(harness.memory.volumes[0][512..] == before[512..]);
    bytes_of(harness.request(&write, &[0; 2000]));
    let same = cdb_16(0x93, 0, 0, 2);
    assert_eq!(sense(harness.request(&same, &[0; 511])), WRONG_DATA_LENGTH);
    assert_eq!(sense(harness.request(&same, &[0; 1024])), WRONG_DATA_LENGTH);
    bytes_of(harness.request(&same, &[0; 512]));
    let without = cdb_16(0x93, 1, 0, 2);
    assert_eq!(sense(harness.request(&without, &[0; 512])), WRONG_DATA_LENGTH);
    bytes_of(harness.request(&without, &[]));
}

#[test]
fn miscompares_tell_where() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let there = harness.memory.volumes[0][9 * 512..11 * 512].to_vec();
    let mut cdb = cdb_16(0x89, 0, 9, 0);
    cdb[13] = 1;
    for at in [0, 27, 511] {
        let mut data = [&there[..512], &[7; 512]].concat();
        data[at] ^= 1;
        let ending = harness.request(&cdb, &data);
        let bytes = ending.sense.expect("it failed").to_bytes();
        assert_eq!((bytes[0], bytes[2], bytes[12], bytes[13]), (0xF0, 0xE, 0x1D, 0));
        assert_eq!(bytes[3..7], (at as u32).to_be_bytes());
        assert_eq!(harness.memory.volumes[0][9 * 512..11 * 512], there);
    }
    bytes_of(harness.request(&cdb, &[&there[..512], &[7; 512]].concat()));
    assert_eq!(harness.memory.volumes[0][9 * 512..10 * 512], [7; 512]);
    assert_eq!(harness.memory.volumes[0][10 * 512..11 * 512], there[512..]);
    for count in [0, 2] {
        cdb[13] = count;
        assert_eq!(sense(harness.request(&cdb, &[0; 2048])), INVALID_CDB);
    }
    cdb[13] = 0;
    bytes_of(harness.request(&cdb, &[]));
    // VERIFY with data, and with one block for all.
    let there = harness.memory.volumes[0][9 * 512..11 * 512].to_vec();
    let verify = cdb_16(0x8F, 2, 9, 2);
    bytes_of(harness.request(&verify, &there));
    let mut other = there;
    other[700] ^= 4;
    assert_eq!(information(harness.request(&verify, &other)), 700);
    harness.memory.volumes[0][5 * 512..600 * 512].fill(9);
    let verify = cdb_16(0x8F, 6, 5, 595);
    bytes_of(harness.request(&verify, &[9; 512]));
    harness.memory.volumes[0][599 * 512 + 8] = 1;
    assert_eq!(information(harness.request(&verify, &[9; 512])), 8);
    assert_eq!(sense(harness.request(&cdb_16(0x8F, 4, 5, 1), &[9; 512])), INVALID_CDB);
}

#[test]
fn what_cannot_be_done_says_why() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let mut fail = |cdb: &[u8], data: &[u8], error| {
        harness.memory.fail_next = Some(error);
        harness.request(cdb, data)
    };
    let (read, write) = (cdb_16(READ_16, 0, 8, 8), cdb_16(0x8A, 0, 8, 1));
    let media = fail(&read, &[], BlockError::Media { offset: 11 << 9 });
    assert_eq!(information(media), 11);
    let media = fail(&read, &[], BlockError::Media { offset: 11 << 9 });
    assert_eq!(sense(media), (3, 0x11, 0));
    assert_eq!(sense(fail(&read, &[], BlockError::DiskFailed)), (4, 0x44, 0));
    assert_eq!(sense(fail(&write, &[0; 512], BlockError::DiskFailed)), (3, 3, 0));
    assert_eq!(sense(fail(&write, &[0; 512], BlockError::Full)), (7, 0x27, 7));
    assert_eq!(sense(fail(&write, &[0; 512], BlockError::VolumeGone)), (2, 4, 1));
    // What cannot be read is there.
    let status = cdb_16(0x9E, 0x12, 9, 24);
    let extent = bytes_of(fail(&status, &[], BlockError::Media { offset: 9 << 9 }));
    assert_eq!(extent, [0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 0]);
}

#[test]
fn unmap_and_status() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, blocks) in [(8_u64, 16_u32), (40, 1)] {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    let mut cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0];
    bytes_of(harness.request(&cdb, &list));
    assert!(harness.memory.volumes[0][8 * 512..24 * 512].iter().all(|&byte| byte == 0));
    assert!(harness.memory.volumes[0][40 * 512..41 * 512].iter().all(|&byte| byte == 0));
    assert!(harness.memory.volumes[0][41 * 512..42 * 512].iter().any(|&byte| byte != 0));
    let status = bytes_of(harness.request(&cdb_16(0x9E, 0x12, 3, 56), &[]));
    let extent = |lba: u8, blocks: u8, status| [0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, status];
    assert_eq!(status[8..21], extent(3, 5, 0));
    assert_eq!(status[24..37], extent(8, 16, 1));
    // To the end of what one read reaches: 256 KiB.
    assert_eq!(status[40..56], [0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 1, 0xE8, 0, 0, 0, 0]);
    assert_eq!(sense(harness.request(&cdb_16(0x9E, 0x12, 2048, 24), &[])), OUT_OF_RANGE);
    // A hole is followed to its end.
    harness.memory.volumes[0][100 * 512..2047 * 512].fill(0);
    let status = bytes_of(harness.request(&cdb_16(0x9E, 0x12, 104, 56), &[]));
    assert_eq!(status[8..24], [0, 0, 0, 0, 0, 0, 0, 104, 0, 0, 7, 0x90, 1, 0, 0, 0]);
    assert_eq!(status[24..40], [0, 0, 0, 0, 0, 0, 7, 0xF8, 0, 0, 0, 8, 0, 0, 0, 0]);
    // Data are no hole, though their checksum is that of one: the generator of CRC32C itself.
    let page = &mut harness.memory.volumes[0][4096..8192];
    page.fill(0);
    page[64..72].copy_from_slice(&(0x82F6_3B78_u64 << 1 | 1).to_le_bytes());
    assert_eq!(crc32c::checksum(page), crc32c::ZERO_BLOCK);
    let status = bytes_of(harness.request(&cdb_16(0x9E, 0x12, 8, 24), &[]));
    assert_eq!(status[20], 0);
    // All or nothing is unmapped.
    list[24..32].copy_from_slice(&2048_u64.to_be_bytes());
    harness.memory.volumes[0].fill(1);
    assert_eq!(sense(harness.request(&cdb, &list)), OUT_OF_RANGE);
    assert!(harness.memory.volumes[0].iter().all(|&byte| byte == 1));
    bytes_of(harness.request(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]));
    cdb[8] = 7;
    assert_eq!(sense(harness.request(&cdb, &list)), LIST_LENGTH);
    cdb[1] = 1;
    assert_eq!(sense(harness.request(&cdb, &list)), INVALID_CDB);
}

#[test]
fn a_large_hole_is_not_followed_to_its_end_in_one_command() {
    let mut harness = Harness::new(&[(96 << 20, 12)]);
    harness.memory.volumes[0].fill(0);
    let Admitted::Task(mut task, _) = harness.admit(0, Lun(0), &cdb_16(0x9E, 0x12, 1, 24), 0)
    else {
        panic!("a task")
    };
    let mut progress = task.start(target_io::Ticket(0), None, &mut harness.memory);
    let mut requests = 0;
    while let Progress::Pending = progress {
        requests += 1;
        let (_, result) = harness.memory.execute(0);
        progress = task.complete(result, &mut harness.memory);
    }
    let Progress::End(ending) = progress else { panic!("it ends") };
    assert_eq!(bytes_of(ending)[15..21], [1, 0, 0, 0x40, 0, 1]);
    assert!(requests <= 257, "{requests}");
}

#[test]
fn write_same_to_the_end() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    bytes_of(harness.request(&cdb_16(0x93, 8, 2000, 0), &[0xFF; 512]));
    assert!(harness.memory.volumes[0][2000 * 512..].iter().all(|&byte| byte == 0));
    assert_ne!(harness.memory.volumes[0][1999 * 512..2000 * 512], [0; 512]);
    assert_eq!(sense(harness.request(&cdb_16(0x93, 0x10, 0, 1), &[0; 512])), INVALID_CDB);
    for lba in [2048, 2049] {
        assert_eq!(sense(harness.request(&cdb_16(0x93, 0, lba, 0), &[0; 512])), OUT_OF_RANGE);
    }
}

#[test]
fn sanitize_erases_everything() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    assert_eq!(sense(harness.request(&[0x48, 1, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8])), INVALID_CDB);
    assert_eq!(sense(harness.request(&[0x48, 2, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8])), INVALID_CDB);
    for (at, byte) in [(1, 0x42), (2, 1), (6, 1)] {
        let mut cdb = [0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[at] = byte;
        assert_eq!(sense(harness.request(&cdb, &[])), INVALID_CDB);
    }
    bytes_of(harness.request(&[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], &[]));
    assert!(harness.memory.volumes[0].iter().all(|&byte| byte == 0));
}

#[test]
fn two_or_writes_at_once_lose_nothing() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    harness.memory.volumes[0].fill(0);
    let mut start = |bits: u8| {
        let cdb = cdb_16(0x8B, 0, 3, 10);
        let data = vec![bits; 5120];
        let Admitted::Task(mut task, needs) = harness.admit(0, Lun(0), &cdb, data.len()) else {
            panic!("a task")
        };
        let data = land(&mut harness.memory, needs, &data);
        let ticket = target_io::Ticket(bits.into());
        let progress = task.start(ticket, Some(data), &mut harness.memory);
        assert!(matches!(progress, Progress::Pending));
        task
    };
    let mut tasks = [start(1), start(2)];
    let mut ended = 0;
    while ended < 2 {
        // The oldest request first: both read before one writes.
        let (ticket, result) = harness.memory.execute(0);
        let task = &mut tasks[ticket.0 as usize - 1];
        match task.complete(result, &mut harness.memory) {
            Progress::End(ending) => {
                bytes_of(ending);
                ended += 1;
            }
            progress => assert!(matches!(progress, Progress::Pending)),
        }
    }
    let expected = |at| if (3 * 512..13 * 512).contains(&at) { 3 } else { 0 };
    let volume = &harness.memory.volumes[0];
    assert!(volume.iter().enumerate().all(|(at, &byte)| byte == expected(at)));
}

#[test]
fn bits_that_are_set_are_not_written_again() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    harness.memory.volumes[0].fill(0xF0);
    let data = [&[0x30; 4096][..], &[0x31; 512], &[0x10; 512]].concat();
    let Admitted::Task(mut task, needs) =
        harness.admit(0, Lun(0), &cdb_16(0x8B, 0, 5, 10), data.len())
    else {
        panic!("a task")
    };
    let data = land(&mut harness.memory, needs, &data);
    let mut progress = task.start(target_io::Ticket(0), Some(data), &mut harness.memory);
    let mut requests = 0;
    while let Progress::Pending = progress {
        requests += 1;
        let (_, result) = harness.memory.execute(0);
        progress = task.complete(result, &mut harness.memory);
    }
    let Progress::End(ending) = progress else { panic!("it ends") };
    bytes_of(ending);
    // Two blocks of the store are read, and one is written.
    assert_eq!(requests, 3);
    assert_eq!(harness.memory.volumes[0][13 * 512..14 * 512], [0xF1; 512]);
    harness.memory.volumes[0][13 * 512..14 * 512].fill(0xF0);
    assert!(harness.memory.volumes[0].iter().all(|&byte| byte == 0xF0));
}

#[test]
fn cancelled_tasks_make_no_further_request() {
    let mut harness = Harness::new(&[(1 << 20, 9)]);
    let Admitted::Task(mut task, needs) = harness.admit(0, Lun(0), &cdb_16(0x93, 0, 0, 1500), 512)
    else {
        panic!("a task")
    };
    let data = land(&mut harness.memory, needs, &[1; 512]);
    task.start(target_io::Ticket(0), Some(data), &mut harness.memory);
    task.cancel();
    assert!(task.is_pending());
    let (_, result) = harness.memory.execute(0);
    let Progress::End(ending) = task.complete(result, &mut harness.memory) else {
        panic!("it ends")
    };
    assert_eq!(ending.status, Status::TaskAborted);
    assert_eq!(harness.memory.pending(), 0);
}
