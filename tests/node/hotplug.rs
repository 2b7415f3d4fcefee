use super::*;

/// A block that says who it is.
fn content(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

fn nsid(made: &Value) -> u32 {
    made["nsid"].as_u64().expect("a number") as u32
}

/// A host that is told that a disk failed, and connected still.
#[track_caller]
fn fails(queue: &mut host::Queue, nsid: u32) {
    assert_ne!(queue.read(nsid, 0, 1).status, Status::SUCCESS, "it is away");
    assert_ne!(queue.write(nsid, 0, content(0xee)), Status::SUCCESS, "it is away");
}

fn state(node: &Node, disk: usize) -> Value {
    node.ask(&["node"])["disks"][disk]["state"].clone()
}

#[test]
fn a_disk_is_taken_offline_and_comes_back_under_its_hosts() {
    let scratch = Scratch::new("offline");
    let (first, second, away) = (scratch.path("a"), scratch.path("b"), scratch.path("away"));
    let stranger = scratch.path("stranger");
    format_disks(&[&first, &second, &stranger]);
    let config = configure(&scratch, "node.toml", &[&first, &second], "");
    let (node, [_admin, mut io]) = serve(&config, &scratch);
    let on_first = nsid(&node.ask(&["volume", "create", "one", "1GiB", "--disk", &first]));
    let on_second = nsid(&node.ask(&["volume", "create", "two", "1GiB", "--disk", &second]));
    assert_eq!(io.write(on_first, 0, content(1)), Status::SUCCESS);
    // Its next chunk is on the other shard.
    assert_eq!(io.write(on_first, 65536, content(2)), Status::SUCCESS);
    node.fails(&["disk", "online", &first], "already");
    node.fails(&["disk", "offline", "/nowhere"], "no disk /nowhere");

    node.ask(&["disk", "offline", &first]);
    node.fails(&["disk", "offline", &first], "already");
    assert_eq!((state(&node, 0), state(&node, 1)), ("offline".into(), "ok".into()));
    fails(&mut io, on_first);
    assert_eq!(io.write(on_second, 0, content(3)), Status::SUCCESS, "the others go on");
    node.fails(&["volume", "resize", "one", "2GiB"], "offline");
    assert_eq!(names(&node.ask(&["volume", "list"])), ["one", "two"]);
    assert_eq!(run(&["disk", "check", &first]).0, Some(0), "nobody holds it");
    let (code, _, text) = run(&["disk", "grow", &first, "--size", "192MiB"]);
    assert_eq!(code, Some(0), "{text}");

    fs::rename(&first, &away).expect("moved");
    node.fails(&["disk", "online", &first], "not there");
    fs::rename(&stranger, &first).expect("moved");
    node.fails(&["disk", "online", &first], "another disk is in its place");
    fails(&mut io, on_first);
    fs::rename(&away, &first).expect("moved back");
    node.ask(&["disk", "online", &first]);
    assert_eq!(state(&node, 0), "ok");
    assert_eq!(io.read(on_first, 0, 1).data, content(1), "on the same connection");
    assert_eq!(io.read(on_first, 65536, 1).data, content(2));
    assert_eq!(io.write(on_first, 1, content(4)), Status::SUCCESS);
    node.ask(&["volume", "resize", "one", "2GiB"]);
    await_event(&node, "disk.returned");
    for disk in [&first, &second] {
        let events = String::from_utf8(node.run(&["events"]).stdout).expect("JSON");
        let is_told = events.lines().any(|e| e.contains("disk.offline") && e.contains(disk));
        assert_eq!(is_told, *disk == first);
    }
    assert_eq!(node.stop("TERM"), Some(0), "it stops well");
    assert_eq!(run(&["disk", "check", &first]).0, Some(0));
    let (_node, [_admin, mut io]) = serve(&config, &scratch);
    assert_eq!(io.read(on_first, 1, 1).data, content(4));
}

#[test]
fn a_better_way_that_a_disk_cannot_go_is_told_whenever_it_comes() {
    const TRIES: u32 = 600;
    let scratch = Scratch::new("better");
    let (first, second) = (scratch.path("a"), scratch.path("b"));
    format_disks(&[&first, &second]);
    let config = configure(&scratch, "node.toml", &[&first, &second], "");
    let plain = format!("path = \"{first}\"\n");
    let text = fs::read_to_string(&config).expect("it was written");
    let asked = text.replace(&plain, &format!("{plain}passthrough = true\n"));
    assert_ne!(text, asked);
    fs::write(&config, asked).expect("writable");
    let (node, _queues) = serve(&config, &scratch);
    let told = || {
        let events = String::from_utf8(node.run(&["events"]).stdout).expect("JSON");
        let of_it = events.lines().filter(|event| event.contains("disk.passthrough"));
        of_it.inspect(|event| assert!(event.contains(&first) && event.contains("file"))).count()
    };
    for times in 1..=2 {
        let is_told = |_| {
            std::thread::sleep(PATIENCE / TRIES);
            told() == times
        };
        assert!((0..TRIES).any(is_told), "it came {times} times");
        node.ask(&["disk", "offline", &first]);
        node.ask(&["disk", "online", &first]);
    }
}

#[test]
fn a_disk_that_was_not_there_at_start_is_served_when_it_comes() {
    let scratch = Scratch::new("late");
    let (first, second, away) = (scratch.path("a"), scratch.path("b"), scratch.path("away"));
    format_disks(&[&first, &second]);
    let config = configure(&scratch, "node.toml", &[&first, &second], "");
    let (node, [admin, mut io]) = serve(&config, &scratch);
    let one = nsid(&node.ask(&["volume", "create", "one", "1GiB", "--disk", &first]));
    let two = nsid(&node.ask(&["volume", "create", "two", "1GiB", "--disk", &second]));
    for (nsid, byte) in [(one, 1), (two, 2)] {
        assert_eq!(io.write(nsid, 0, content(byte)), Status::SUCCESS);
        assert_eq!(io.write(nsid, 65536, content(byte + 2)), Status::SUCCESS);
    }
    node.ask(&["host", "allow", "nqn.2026-11.io.example:denied"]);
    drop((admin, io));
    // Its journal is to be replayed when it comes.
    assert_eq!(node.stop("KILL"), None);
    fs::rename(&first, &away).expect("moved");

    let (node, [_admin, mut io]) = serve(&config, &scratch);
    assert_eq!(state(&node, 0), "offline");
    assert_eq!(names(&node.ask(&["volume", "list"])), ["two"]);
    node.ask(&["host", "deny", "nqn.2026-11.io.example:denied"]);
    node.fails(&["disk", "online", &first], "not there");
    fs::rename(&away, &first).expect("moved back");
    await_event(&node, "disk.returned");
    assert_eq!(names(&node.ask(&["volume", "list"])), ["one", "two"]);
    for (nsid, byte) in [(one, 1), (two, 2)] {
        assert_eq!(io.read(nsid, 0, 1).data, content(byte), "on the same connection");
        assert_eq!(io.read(nsid, 65536, 1).data, content(byte + 2));
    }
    let hosts = node.ask(&["host", "list"]).to_string();
    assert!(!hosts.contains("denied"), "it was denied meanwhile: {hosts}");
    assert_eq!(io.write(one, 2, content(9)), Status::SUCCESS);
    assert_eq!(node.stop("KILL"), None);

    let (node, [_admin, mut io]) = serve(&config, &scratch);
    assert_eq!(io.read(one, 2, 1).data, content(9));
    let hosts = node.ask(&["host", "list"]).to_string();
    assert!(!hosts.contains("denied"), "the disk has taken note: {hosts}");
}
