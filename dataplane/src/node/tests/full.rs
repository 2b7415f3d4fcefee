//! A disk that is full, under a running node.

use super::*;
use nvmeof_target::testing::{Transfer, command};
use storage_spec::nvme::command::{DsmRange, NvmOpcode};
use storage_spec::nvme::status::Status;
use zerocopy::{FromZeros, IntoBytes};

/// Blocks in a slab, the unit in which a volume takes space.
const SLAB_BLOCKS: u64 = 512;
/// Dataset Management: deallocate, in dword 11.
const DSM_DEALLOCATE: u32 = 4;

fn block_of(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

/// Writes one block to each slab until the disk is full; the slabs that got one.
fn fill(queue: &mut Queue, nsid: u32) -> u64 {
    for slab in 0.. {
        match queue.write(nsid, slab * SLAB_BLOCKS, block_of(slab as u8)) {
            Status::SUCCESS => {}
            status => {
                assert!(status.is(Status::CAPACITY_EXCEEDED), "{status:?}");
                return slab;
            }
        }
    }
    unreachable!("the disk is smaller than the volume")
}

fn deallocate(queue: &mut Queue, nsid: u32, block: u64, blocks: u32) -> Status {
    let mut range = DsmRange::new_zeroed();
    range.lba = block.into();
    range.blocks = blocks.into();
    let mut trim = command(NvmOpcode::DatasetManagement, nsid, 0, 1);
    trim.dwords[0] = 0.into();
    trim.dwords[1] = DSM_DEALLOCATE.into();
    trim.dwords[2] = 0.into();
    queue.execute(trim, Transfer::Write(range.as_bytes().to_vec())).status
}

/// Writes as soon as there is room: what is freed is deallocated on the disk first.
fn write_when_free(queue: &mut Queue, nsid: u32, block: u64, byte: u8) {
    for _ in 0..1000 {
        match queue.write(nsid, block, block_of(byte)) {
            Status::SUCCESS => return,
            status => assert!(status.is(Status::CAPACITY_EXCEEDED), "{status:?}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("what was freed does not come back");
}

#[test]
fn a_full_disk_refuses_new_data_alone_and_goes_on_when_there_is_room() {
    let bench = Bench::start(&[64 << 20, 64 << 20]);
    let first = bench.create("first", 1 << 30, "ram");
    let other = bench.create("other", 1 << 30, "ram-1");
    let (_admin, mut queue) = bench.host();
    let (_other_admin, mut other_queue) = bench.host();
    let slabs = fill(&mut queue, first);
    assert!(slabs > 4, "{slabs}");

    // Writers hear it again; overwrites of what is there, reads and the other disk go on.
    let beyond = slabs * SLAB_BLOCKS;
    assert!(queue.write(first, beyond, block_of(1)).is(Status::CAPACITY_EXCEEDED));
    assert_eq!(queue.write(first, 0, block_of(0xEE)), Status::SUCCESS);
    assert_eq!(queue.write(first, 1, block_of(0xEF)), Status::SUCCESS, "in a slab that it has");
    assert_eq!(queue.read(first, 0, 1).data, block_of(0xEE));
    assert_eq!(queue.read(first, beyond, 1).data, block_of(0), "nothing came of the refused one");
    assert_eq!(other_queue.write(other, 0, block_of(7)), Status::SUCCESS);

    // What is trimmed can be used again.
    assert_eq!(deallocate(&mut queue, first, SLAB_BLOCKS, SLAB_BLOCKS as u32), Status::SUCCESS);
    write_when_free(&mut queue, first, beyond, 0xAB);
    assert_eq!(queue.read(first, beyond, 1).data, block_of(0xAB));
    assert_eq!(queue.read(first, SLAB_BLOCKS, 1).data, block_of(0));
    let again = queue.write(first, beyond + SLAB_BLOCKS, block_of(1));
    assert!(again.is(Status::CAPACITY_EXCEEDED), "that was one slab: {again:?}");

    // A volume can be made, shown, renamed and deleted, and what it held can be used again.
    let disk = |name: &str| match bench.node.call(Command::ShowVolume { name: name.into() }) {
        Ok(Answer::Volume(volume)) => (volume.disk, volume.used),
        other => panic!("not shown: {other:?}"),
    };
    assert_eq!(disk("first"), ("ram".into(), slabs << 21));
    bench.node.call(Command::DeleteVolume { name: "first".into() }).unwrap();
    let third = bench.create("third", 1 << 30, "ram");
    let (_third_admin, mut third_queue) = bench.host();
    write_when_free(&mut third_queue, third, 0, 3);
    assert_eq!(fill(&mut third_queue, third), slabs);
    assert_eq!(other_queue.read(other, 0, 1).data, block_of(7));
    assert!(!bench.has_event("disk.failed"));
}
