use super::*;
use std::thread;

fn nops(owner: &Owner, indices: std::ops::Range<u32>) {
    for index in indices {
        // SAFETY: names no memory and no file.
        unsafe { owner.push(index, !index, opcode::Nop::new().build()) };
    }
}

#[test]
fn more_than_the_queues_hold_is_never_lost() {
    const COUNT: u32 = 1000;
    let ring = Ring::new(RingOptions { submissions: 4, completions: 8, polled: false }).unwrap();
    let owner = ring.join();
    nops(&owner, 0..COUNT);
    assert!(ring.counters().deferred >= u64::from(COUNT) - 4);
    let mut seen = vec![false; COUNT as usize];
    for _ in 0..COUNT {
        ring.turn();
        while let Some(completed) = owner.pop() {
            assert_eq!(completed.generation, !completed.index);
            assert!(!std::mem::replace(&mut seen[completed.index as usize], true));
        }
        if seen.iter().all(|&seen| seen) {
            break;
        }
    }
    assert!(seen.iter().all(|&seen| seen));
    assert_eq!(ring.counters().submitted, u64::from(COUNT));
    assert_eq!(ring.counters().completed, u64::from(COUNT));
}

#[test]
fn an_idle_turn_makes_no_system_call() {
    let ring = Ring::new(RingOptions::default()).unwrap();
    let owner = ring.join();
    nops(&owner, 0..100);
    assert_eq!(ring.turn(), 100);
    assert_eq!(ring.counters().enters, 1);
    for _ in 0..1000 {
        ring.turn();
    }
    assert_eq!(ring.counters().enters, 1);
    owner.drain();
}

#[test]
fn completions_go_to_their_owners_and_ids_are_reused() {
    let ring = Ring::new(RingOptions::default()).unwrap();
    let (first, second) = (ring.join(), ring.join());
    nops(&first, 0..3);
    nops(&second, 3..5);
    assert_eq!(ring.turn(), 5);
    let indices = |owner: &Owner| -> Vec<u32> {
        std::iter::from_fn(|| owner.pop()).map(|completed| completed.index).collect()
    };
    assert_eq!((indices(&first), indices(&second)), (vec![0, 1, 2], vec![3, 4]));
    drop(first);
    let third = ring.join();
    nops(&third, 7..8);
    ring.turn();
    assert_eq!((indices(&third), indices(&second)), (vec![7], vec![]));
    assert_eq!(ring.0.borrow().owners.len(), 2);
}

#[test]
fn waiting_ends_by_time_by_completion_and_by_waker() {
    let ring = Ring::new(RingOptions::default()).unwrap();
    let owner = ring.join();
    ring.announce_sleep();
    assert_eq!(ring.wait(Some(Duration::from_millis(5))), 0);
    nops(&owner, 0..1);
    assert_eq!(ring.wait(None), 1);
    assert_eq!(ring.wait(None), 1, "what was not fetched keeps us awake");
    assert!(owner.pop().is_some());
    let waker = ring.waker();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        waker.wake();
    });
    ring.announce_sleep();
    assert_eq!(ring.wait(None), 0);
    assert_eq!(ring.counters().wakes, 1);
    other.join().unwrap();
    ring.waker().wake();
    assert_eq!(ring.waker().signals(), 1, "a core that is awake is not signalled");
}

#[test]
fn cancelling_ends_an_operation_and_leaves_others() {
    let ring = Ring::new(RingOptions::default()).unwrap();
    let owner = ring.join();
    let (read, _write) = io::pipe().unwrap();
    for index in 0..2 {
        let entry = opcode::PollAdd::new(Fd(read.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the pipe outlives the owner's drain below.
        unsafe { owner.push(index, 5, entry) };
    }
    ring.turn();
    owner.cancel(1, 5);
    while ring.turn() == 0 {}
    let completed = owner.pop().unwrap();
    assert_eq!((completed.index, completed.result), (1, -libc::ECANCELED));
    assert!(owner.pop().is_none());
    owner.cancel(0, 5);
    owner.drain();
}

#[test]
fn set_up_errors_say_what_to_do() {
    let error = |number| setup_error(io::Error::from_raw_os_error(number));
    assert!(error(libc::EPERM).to_string().contains("kernel.io_uring_disabled"));
    assert!(matches!(error(libc::ENOSYS), RingError::Missing));
    assert!(matches!(error(libc::EINVAL), RingError::TooOld));
    assert!(error(libc::ENOMEM).to_string().contains("ulimit -l"));
}
