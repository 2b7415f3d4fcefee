//! Hosts that fence each other on a node with two cores.

use super::*;
use nvmeof_target::testing::{Transfer, command};
use storage_spec::nvme::command::{Command as NvmeCommand, NvmOpcode};
use storage_spec::nvme::status::Status;

/// Writes that the victim has under way.
const WRITES: u64 = 64;
/// How often the volume changes hands.
const ROUNDS: u64 = 40;
const EXCLUSIVE_ACCESS: u32 = 2;
const WRITE_EXCLUSIVE: u32 = 1;

fn reservation(
    opcode: NvmOpcode,
    nsid: u32,
    dword_10: u32,
    keys: [u64; 2],
) -> (NvmeCommand, Transfer) {
    let mut command = command(opcode, nsid, 0, 1);
    command.dwords = [dword_10, 0, 0, 0, 0, 0].map(Into::into);
    (command, Transfer::Write(keys.iter().flat_map(|key| key.to_le_bytes()).collect()))
}

fn order(queue: &mut Queue, opcode: NvmOpcode, nsid: u32, dword_10: u32, keys: [u64; 2]) {
    let (command, transfer) = reservation(opcode, nsid, dword_10, keys);
    assert_eq!(queue.execute(command, transfer).status, Status::SUCCESS);
}

/// The host with key `own` writes blocks that say so, as many as it can.
fn begin_writes(queue: &mut Queue, nsid: u32, own: u64, large: bool) -> Vec<u16> {
    let blocks = if large { 16 } else { 1 };
    let write = |block| {
        let data = vec![own as u8; blocks as usize * 4096];
        (command(NvmOpcode::Write, nsid, block, blocks), Transfer::Write(data))
    };
    (0..WRITES).map(|at| write(at * u64::from(blocks))).map(|(c, t)| queue.begin(c, t)).collect()
}

#[test]
fn nothing_of_the_preempted_lands_after_the_answer() {
    let bench = Bench::start(&[256 << 20]);
    let nsid = bench.create("v", 64 << 20, "ram");
    let (mut admins, mut queues) = (Vec::new(), Vec::new());
    for id in [1, 2] {
        let (admin, queue) = bench.host_as([id; 16]);
        admins.push(admin);
        queues.push(queue);
    }
    let area = (WRITES * 16) as u32;
    let [mut holder, mut other] = <[Queue; 2]>::try_from(queues).ok().expect("two");
    order(&mut holder, NvmOpcode::ReservationRegister, nsid, 0, [0, 1]);
    order(&mut other, NvmOpcode::ReservationRegister, nsid, 0, [0, 2]);
    order(&mut holder, NvmOpcode::ReservationAcquire, nsid, EXCLUSIVE_ACCESS << 8, [1, 0]);
    let (mut own, mut conflicts) = (1, 0);
    for round in 0..ROUNDS {
        admins.iter_mut().for_each(Queue::keep_alive);
        let writes = begin_writes(&mut holder, nsid, own, round % 2 == 0);
        let kind = if round % 3 == 0 { WRITE_EXCLUSIVE } else { EXCLUSIVE_ACCESS };
        let victim = own;
        own = 3 - own;
        order(&mut other, NvmOpcode::ReservationAcquire, nsid, 2 | kind << 8, [own, victim]);
        let read = |queue: &mut Queue| -> Vec<u8> {
            let parts = (0..area / 128).map(|part| queue.read(nsid, u64::from(part) * 128, 128));
            parts.flat_map(|part| part.data).collect()
        };
        let after_answer = read(&mut other);
        let statuses: Vec<_> = writes.iter().map(|id| holder.finish(*id).status).collect();
        let is_fenced = |status: &&Status| {
            status.is(Status::RESERVATION_CONFLICT) || status.is(Status::PREEMPTED)
        };
        conflicts += statuses.iter().filter(is_fenced).count();
        assert!(statuses.iter().all(|status| status.is_success() || is_fenced(&status)));
        assert!(after_answer == read(&mut other), "round {round}: a write landed late");
        let late = holder.write(nsid, 0, vec![9; 4096]);
        assert!(late.is(Status::RESERVATION_CONFLICT), "{late:?}");
        // Who was preempted registers again, and preempts in the next round.
        order(&mut holder, NvmOpcode::ReservationRegister, nsid, 0, [0, victim]);
        std::mem::swap(&mut holder, &mut other);
    }
    assert!(conflicts > 0, "no write was under way when its host was preempted");
}

#[test]
fn a_volume_that_is_deleted_takes_its_reservation_along() {
    let bench = Bench::start(&[256 << 20]);
    let nsid = bench.create("v", 1 << 20, "ram");
    let (_admin, mut holder) = bench.host_as([1; 16]);
    let (_other_admin, mut other) = bench.host_as([2; 16]);
    order(&mut holder, NvmOpcode::ReservationRegister, nsid, 3 << 30, [0, 1]);
    order(&mut holder, NvmOpcode::ReservationAcquire, nsid, EXCLUSIVE_ACCESS << 8, [1, 0]);
    assert!(other.write(nsid, 0, vec![1; 4096]).is(Status::RESERVATION_CONFLICT));
    bench.node.call(Command::DeleteVolume { name: "v".into() }).unwrap();
    assert!(other.write(nsid, 0, vec![1; 4096]).is(Status::INVALID_NAMESPACE));
    assert_eq!(bench.create("w", 1 << 20, "ram"), nsid);
    assert_eq!(other.write(nsid, 0, vec![1; 4096]), Status::SUCCESS);
}
