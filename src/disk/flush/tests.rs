//! A writer, a verifier, and a drive that keeps its word or not.

use super::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A verifier for so many connections.
fn verifier(connections: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || ledger::serve(&listener, Some(connections)));
    address
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("flush-{name}-{}", std::process::id()))
}

/// Some batches on a new file, acknowledged.
fn written(path: &Path, verifier: SocketAddr) {
    let _ = std::fs::remove_file(path);
    create_file(path, 1 << 20, Allocation::Written, &mut |_| {}).expect("room");
    let bench = Bench::new().expect("memory");
    let mut disk = bench.drive(&medium::open(path).expect("free")).expect("a ring");
    let session = Uuid::new_v4();
    let mut writer = Writer::new(&mut *disk, bench.pool(), session, 256);
    writer.fill().expect("written");
    let mut connection = Connection::open(verifier, session, 256).expect("a verifier");
    for _ in 0..5 {
        let batch = writer.batch().expect("written");
        connection.tell(&batch).expect("told");
    }
}

fn verified(path: &Path, verifier: SocketAddr) -> Report {
    let bench = Bench::new().expect("memory");
    let mut disk = bench.drive(&medium::open(path).expect("free")).expect("a ring");
    let session = find_session(&mut *disk, bench.pool()).expect("read").expect("a session");
    verify(&mut *disk, bench.pool(), session, verifier).expect("verified")
}

#[test]
fn a_drive_that_keeps_its_word_passes_and_another_does_not() {
    let (path, verifier) = (path("word"), verifier(4));
    written(&path, verifier);
    let report = verified(&path, verifier);
    assert_eq!((report.checked, report.lost), (256, 0));
    // A drive that forgets: two slots as they were before the last batches.
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("the file");
    let mut lost = 0;
    for place in 1..256_u64 {
        let mut bytes = [0; SLOT];
        file.read_exact_at(&mut bytes, place * SLOT as u64).expect("there");
        let mut slot = Slot::decode(&bytes).expect("a slot");
        // Numbers of the first filling are up to 256: these were never told.
        if slot.number > 256 && lost < 2 {
            slot.number = 1;
            slot.encode(&mut bytes);
            file.write_all_at(&bytes, place * SLOT as u64).expect("written");
            lost += 1;
        }
    }
    assert_eq!(verified(&path, verifier).lost, 2);
    std::fs::remove_file(path).expect("ours");
}

#[test]
fn a_torn_slot_is_none() {
    let mut bytes = [0; SLOT];
    let slot = Slot { session: Uuid::new_v4(), place: 7, number: 9 };
    slot.encode(&mut bytes);
    assert_eq!(Slot::decode(&bytes), Some(slot));
    let mut newer = [0; SLOT];
    Slot { number: 10, ..slot }.encode(&mut newer);
    newer[512..].copy_from_slice(&bytes[512..]);
    assert_eq!(Slot::decode(&newer), None);
    assert_eq!(Slot::decode(&[0; SLOT]), None);
    assert_eq!(Slot::decode(&bytes[..100]), None);
}

#[test]
fn nonsense_at_the_verifier_harms_nobody_else() {
    use std::io::{Read, Write};
    let address = verifier(4);
    for line in ["GET / HTTP/1.1\r\n\r\n", "basalt-flush 1 x 1\n", "basalt-flush 1\n"] {
        let mut stream = std::net::TcpStream::connect(address).expect("a listener");
        stream.write_all(line.as_bytes()).expect("sent");
        let mut answer = String::new();
        // It hangs up, by a reset where there was more to read.
        let _ = stream.read_to_string(&mut answer);
        assert_eq!(answer, "");
    }
    let mut connection = Connection::open(address, Uuid::new_v4(), 4).expect("still there");
    assert!(connection.tell(&[(4, 1)]).is_err(), "a slot that it does not have");
}
