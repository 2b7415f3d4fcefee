//! The built program with a real node: demo, serve, and the commands that talk to it.

use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use storage_spec::nvme::status::Status;

/// A host on blocking sockets, the one that the plane's own tests have.
#[cfg(test)]
#[allow(dead_code)]
#[path = "../dataplane/src/node/tests/host.rs"]
mod host;

/// Disks that go and come under a running node.
#[cfg(test)]
#[path = "node/hotplug.rs"]
mod hotplug;

const PROGRAM: &str = env!("CARGO_BIN_EXE_basalt");
/// Longest wait for anything, so that a stuck node fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        // Not /tmp: direct I/O needs a real file system.
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let dir = root.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory of the test's own");
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running node, killed when the test ends.
struct Node {
    child: Child,
    /// What it printed when it was ready.
    ready: Value,
    socket: String,
}

impl Node {
    fn start(arguments: &[&str], socket: &str, notify: Option<&str>) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).args(["--output", "json", "--socket", socket]);
        command.stdout(Stdio::piped()).env_remove("NOTIFY_SOCKET");
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", "200000");
        }
        Self::begin(command, socket)
    }

    fn begin(mut command: Command, socket: &str) -> Self {
        let mut child = command.spawn().expect("the program runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line when it is ready");
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("not ready: {line:?}, {:?}", child.wait());
        });
        Self { child, ready, socket: socket.to_owned() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).args(["--output", "json", "--socket", &self.socket]);
        command.output().expect("the program runs")
    }

    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], word: &str) {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Stops it, which must end well, and gives what it told its manager.
    fn stop_and_listen(mut self, signal: &str, manager: &UnixDatagram) -> Vec<String> {
        self.signal(signal);
        let (mut said, mut buffer) = (Vec::new(), [0; 256]);
        loop {
            let ended = self.child.try_wait().expect("ours");
            while let Ok(len) = manager.recv(&mut buffer) {
                said.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
            if let Some(status) = ended {
                assert_eq!(status.code(), Some(0));
                return said;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it and gives its exit code.
    fn stop(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("ours").code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> String {
    target_io::testing::free_port().to_string()
}

#[test]
fn demo_keeps_its_data_over_every_kind_of_end() {
    let scratch = Scratch::new("demo");
    let (dir, socket) = (scratch.path("demo"), scratch.path("s"));
    let (port, discovery) = (free_port(), free_port());
    let iscsi = free_port();
    let ports = ["--port", &port, "--discovery-port", &discovery, "--iscsi-port", &iscsi];
    let demo = [&["demo", "--dir", &dir][..], &ports].concat();
    let first = [&demo[..], &["--size", "256MiB"]].concat();
    let node = Node::start(&first, &socket, None);
    let nqn = node.ready["nqn"].as_str().expect("a name").to_owned();
    assert_eq!(node.ready["addresses"][0], format!("127.0.0.1:{port}"));
    assert_eq!(node.ready["addresses"][1], format!("127.0.0.1:{discovery}"));
    let volumes = node.ask(&["volume", "list"]);
    assert_eq!(volumes[0]["name"], "demo");
    assert_eq!(volumes[0]["size"], 256 << 20);
    let uuid = volumes[0]["uuid"].clone();
    assert_eq!(node.ask(&["host", "list"])[0]["nqn"], "*");
    node.ask(&["volume", "create", "more", "1GiB"]);
    second_node_is_refused(&demo, &socket);
    assert_eq!(node.stop("INT"), Some(0));
    assert!(!PathBuf::from(&socket).exists(), "a clean end removes the socket");

    let node = Node::start(&demo, &socket, None);
    assert_eq!(node.ready["nqn"], nqn.as_str());
    assert_eq!(node.ask(&["volume", "show", "demo"])["uuid"], uuid);
    node.ask(&["volume", "delete", "more", "--yes"]);
    assert_eq!(node.stop("KILL"), None);
    assert!(PathBuf::from(&socket).exists(), "a killed node leaves its socket");

    let node = Node::start(&demo, &socket, None);
    assert_eq!(node.ask(&["volume", "list"]).as_array().expect("a list").len(), 1);
    assert_eq!(node.stop("TERM"), Some(0));
    image_is_guarded_and_sound(&format!("{dir}/disk0.img"));
}

fn second_node_is_refused(demo: &[&str], socket: &str) {
    let run = |socket: &str| {
        let output = Command::new(PROGRAM).args(demo).args(["--socket", socket]).output();
        let output = output.expect("the program runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run(socket);
    assert!(text.contains("another node is running"), "{text}");
    let text = run(&format!("{socket}2"));
    assert!(text.contains("in use"), "the disk is locked: {text}");
}

fn image_is_guarded_and_sound(image: &str) {
    let (code, _, text) = run(&["disk", "format", image]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("a Basalt disk") && text.contains("--force"), "{text}");
    let (code, _, text) = run(&["disk", "check", image]);
    assert_eq!(code, Some(0), "{text}");
}

/// Runs the program without a node: exit code, standard output and error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM).args(arguments).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn disks_are_formatted_listed_checked_and_guarded() {
    let scratch = Scratch::new("disks");
    let disk = scratch.path("foreign");
    let file = File::create(&disk).expect("writable");
    file.set_len(256 << 20).expect("sparse");
    file.write_all_at(b"LUKS\xba\xbe", 0).expect("written");
    let (code, _, text) = run(&["disk", "format", &disk]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("a LUKS volume") && text.contains("--force"), "{text}");
    assert!(run(&["disk", "list", &disk]).1.contains("a LUKS volume"));
    let (code, _, text) = run(&["disk", "check", &disk]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("not a formatted disk"), "{text}");

    let (code, made, text) = run(&["disk", "format", &disk, "--force", "--output", "json"]);
    assert_eq!(code, Some(0), "{text}");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["shards"], 1);
    let listed = run(&["disk", "list", &disk, "--output", "json"]).1;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["uuid"], made["uuid"]);
    assert_eq!(run(&["disk", "check", &disk]).0, Some(0));
    damage_is_found(&disk, &file, &scratch);
}

fn damage_is_found(disk: &str, file: &File, scratch: &Scratch) {
    file.write_all_at(&[0xa5; 4096], 0).expect("written");
    let (code, findings, text) = run(&["disk", "check", disk]);
    assert_eq!(code, Some(6), "one superblock is gone: {findings}{text}");
    file.set_len(128 << 20).expect("cut");
    let config = scratch.path("node.toml");
    let port = free_port();
    let text = format!(
        "[node]\nnqn = \"nqn.2014-08.org.nvmexpress:uuid:6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10\"\n\
         [[disk]]\npath = \"{disk}\"\n[[portal]]\nlisten = \"127.0.0.1:{port}\"\n"
    );
    fs::write(&config, text).expect("writable");
    let socket = scratch.path("s");
    let (code, _, text) = run(&["serve", "--config", &config, "--socket", &socket]);
    assert_eq!(code, Some(1), "a truncated disk without its first superblock: {text}");
    assert!(text.contains(disk), "{text}");
}

#[test]
fn new_files_and_separate_journals() {
    let scratch = Scratch::new("journal");
    let (disk, journal) = (scratch.path("disk"), scratch.path("journal"));
    File::create(&journal).expect("writable").set_len(128 << 20).expect("sparse");
    let size = ["--size", "128MiB", "--allocate", "written", "--journal", &journal];
    let format = [&["disk", "format", &disk][..], &size, &["--shards", "2"]].concat();
    let (code, out, text) = run(&format);
    assert_eq!(code, Some(0), "{text}");
    assert!(out.contains("[[disk]]") && out.contains("journal = "), "{out}");
    let (code, _, text) = run(&["disk", "check", &disk]);
    assert_ne!(code, Some(0), "without its journal: {text}");
    assert_eq!(run(&["disk", "check", &disk, "--journal", &journal]).0, Some(0));
}

#[test]
fn commands_change_the_running_node() {
    let scratch = Scratch::new("commands");
    let (port, metrics) = (free_port(), free_port());
    let config = scratch.path("node.toml");
    let text = format!(
        "[node]\nname = \"test\"\n\
         nqn = \"nqn.2014-08.org.nvmexpress:uuid:6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10\"\n\
         buffers = \"16MiB\"\n[[disk]]\nram = \"256MiB\"\nshards = 1\n\
         [[portal]]\nlisten = \"127.0.0.1:{port}\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n"
    );
    fs::write(&config, text).expect("writable");
    let notify = scratch.path("notify");
    let manager = UnixDatagram::bind(&notify).expect("free");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let heard = || {
        let mut buffer = [0; 256];
        let len = manager.recv(&mut buffer).expect("the node notifies");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    let node = Node::start(&["serve", "--config", &config], &scratch.path("s"), Some(&notify));
    assert!(heard().contains("READY=1"));
    for _ in 0..3 {
        assert!(heard().contains("WATCHDOG=1"), "a node that lives says so, again and again");
    }
    // From here on they are heard at the end alone.
    manager.set_nonblocking(true).expect("a mode");
    assert_eq!(node.ask(&["node"])["name"], "test");
    volumes(&node);
    hosts(&node);
    assert!(node.ask(&["connections"]).as_array().expect("a list").is_empty());
    let rates = node.ask(&["stat", "--count", "1", "--interval", "0.1"]);
    assert!(!rates["cores"].as_array().expect("a list").is_empty());
    let events = node.run(&["events"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    for kind in ["node.started", "volume.resized", "host.allowed", "volume.deleted"] {
        assert!(events.contains(kind), "no {kind} in {events}");
    }
    let metrics = scrape(&metrics);
    assert!(metrics.contains("basalt_core_turns_total"), "{metrics}");
    assert!(metrics.contains("basalt_volume_reads_total{volume=\"kept\"} 0"), "{metrics}");
    node.signal("HUP");
    assert_eq!(node.ask(&["node"])["name"], "test", "SIGHUP is ignored");
    port_in_use_is_told(&port, &scratch);
    let stopped = node.stop_and_listen("TERM", &manager);
    assert!(stopped.iter().any(|said| said.contains("STOPPING=1")), "{stopped:?}");
}

fn volumes(node: &Node) {
    let made = node.ask(&["volume", "create", "v", "1GiB", "--block-size", "512"]);
    assert_eq!((made["size"].as_u64(), made["block_size"].as_u64()), (Some(1 << 30), Some(512)));
    assert_eq!(node.ask(&["volume", "resize", "v", "+1GiB"])["size"], 2_u64 << 30);
    assert_eq!(node.ask(&["volume", "rename", "v", "w.1"])["name"], "w.1");
    assert_eq!(node.ask(&["volume", "rename", "w.1", "w"])["name"], "w");
    node.fails(&["volume", "rename", "w", ".."], "not a name");
    node.ask(&["volume", "create", "kept", "4096"]);
    node.fails(&["volume", "create", "kept", "1GiB"], "exists");
    node.fails(&["volume", "create", "a b", "1GiB"], "other characters");
    node.fails(&["volume", "create", "odd", "5000"], "multiple of 4096");
    node.fails(&["volume", "resize", "w", "4096"], "destroy data");
    node.fails(&["volume", "show", "v"], "v");
    node.ask(&["volume", "delete", "w", "--yes"]);
    node.fails(&["volume", "delete", "w", "--yes"], "w");
    assert_eq!(node.run(&["volume", "delete", "kept"]).status.code(), Some(5), "not confirmed");
}

fn hosts(node: &Node) {
    let nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555";
    node.ask(&["host", "allow", nqn]);
    node.ask(&["host", "allow", "*"]);
    assert_eq!(node.ask(&["host", "list"]).as_array().expect("a list").len(), 2);
    node.ask(&["host", "deny", "*"]);
    assert_eq!(node.ask(&["host", "list"])[0]["nqn"], nqn);
    node.fails(&["host", "allow", "somebody"], "nqn.YYYY-MM");
    node.fails(&["host", "deny", "*"], "not on the list");
}

fn scrape(port: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("metrics are served");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    text
}

fn port_in_use_is_told(port: &str, scratch: &Scratch) {
    let (dir, socket) = (scratch.path("other"), scratch.path("s2"));
    let other = free_port();
    let demo = ["demo", "--dir", &dir, "--size", "64MiB", "--port", port];
    let output = Command::new(PROGRAM)
        .args(demo)
        .args(["--discovery-port", &other, "--iscsi-port", &free_port(), "--socket", &socket])
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(port) && text.contains("in use"), "{text}");
    assert!(!PathBuf::from(&socket).exists(), "nothing is left behind");
}

/// A configuration on these disks, and its path.
fn configure(scratch: &Scratch, name: &str, disks: &[&str], more: &str) -> String {
    let path = scratch.path(name);
    let disks: String = disks.iter().map(|disk| format!("[[disk]]\npath = \"{disk}\"\n")).collect();
    let port = free_port();
    let text = format!(
        "[node]\nnqn = \"nqn.2014-08.org.nvmexpress:uuid:6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10\"\n\
         buffers = \"16MiB\"\n{disks}[[portal]]\nlisten = \"127.0.0.1:{port}\"\n{more}"
    );
    fs::write(&path, text).expect("writable");
    path
}

/// Formats files of two shards each.
fn format_disks(disks: &[&str]) {
    for disk in disks {
        let format = ["disk", "format", disk, "--size", "128MiB", "--allocate", "sparse"];
        let (code, _, text) = run(&[&format[..], &["--shards", "2"]].concat());
        assert_eq!(code, Some(0), "{text}");
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|volume| volume["name"].as_str()).collect()
}

#[test]
fn a_missing_disk_keeps_no_other_from_being_served() {
    let scratch = Scratch::new("missing");
    let (first, second, gone) = (scratch.path("a"), scratch.path("b"), scratch.path("gone"));
    format_disks(&[&first, &second]);
    let metrics = free_port();
    let more = format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n");
    let config = configure(&scratch, "node.toml", &[&first, &second], &more);
    let (serve, socket) = (["serve", "--config", &config], scratch.path("s"));
    let node = Node::start(&serve, &socket, None);
    node.ask(&["volume", "create", "on-first", "1GiB", "--disk", &first]);
    node.ask(&["volume", "create", "on-second", "1GiB", "--disk", &second]);
    node.ask(&["host", "allow", "*"]);
    assert_eq!(node.stop("TERM"), Some(0));

    fs::rename(&first, &gone).expect("moved");
    let node = Node::start(&serve, &socket, None);
    let missing = |node: &Node, reason: &str| {
        let listed = node.run(&["volume", "list"]);
        let told = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(told.contains(&first) && told.contains(reason), "{told}");
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        assert_eq!(names(&listed), ["on-second"]);
        let disks = &node.ask(&["node"])["disks"];
        assert_eq!((&disks[0]["state"], &disks[1]["state"]), (&"offline".into(), &"ok".into()));
        assert!(disks[0]["reason"].as_str().expect("why").contains(reason), "{disks}");
        let listed = node.ask(&["disk", "list"]);
        let state = |path: &str| {
            let mut listed = listed.as_array().expect("a list").iter();
            listed.find(|disk| disk["path"] == path).map(|disk| disk["node_state"].clone())
        };
        assert_eq!(state(&first), Some("offline".into()), "{listed}");
        assert_eq!(state(&second), Some("ok".into()), "{listed}");
        let events = node.run(&["events"]);
        let events = String::from_utf8_lossy(&events.stdout).into_owned();
        assert!(events.contains("disk.offline") && events.contains(reason), "{events}");
        let metrics = scrape(&metrics);
        for (disk, is_offline) in [(&first, 1), (&second, 0)] {
            let line = format!("basalt_disk_offline{{disk=\"{disk}\"}} {is_offline}.0");
            assert!(metrics.contains(&line), "no {line} in {metrics}");
        }
        node.fails(&["volume", "create", "more", "1GiB", "--disk", &first], "offline");
        node.fails(&["volume", "show", "on-first"], &first);
    };
    missing(&node, "no such file or device");
    node.ask(&["volume", "create", "meanwhile", "1GiB"]);
    assert_eq!(node.ask(&["volume", "show", "meanwhile"])["disk"], second.as_str());
    node.ask(&["volume", "delete", "meanwhile", "--yes"]);
    node.ask(&["host", "deny", "*"]);
    node.ask(&["host", "allow", "nqn.2026-11.io.example:host"]);
    assert_eq!(node.stop("TERM"), Some(0));

    // Its superblocks are good, and nothing between them is.
    fs::copy(&gone, &first).expect("copied");
    let file = File::options().write(true).open(&first).expect("writable");
    for mib in 1..127 {
        file.write_all_at(&[0xa5; 1 << 20], mib << 20).expect("written");
    }
    let node = Node::start(&serve, &socket, None);
    missing(&node, "checkpoint");
    assert_eq!(node.stop("TERM"), Some(0));

    fs::rename(&gone, &first).expect("moved back");
    let node = Node::start(&serve, &socket, None);
    assert_eq!(names(&node.ask(&["volume", "list"])), ["on-first", "on-second"]);
    assert_eq!(node.ask(&["node"])["disks"][0]["state"], "ok");
    assert_eq!(node.stop("TERM"), Some(0));
}

#[test]
fn a_node_that_could_serve_nothing_does_not_start() {
    let scratch = Scratch::new("nothing");
    let (first, second) = (scratch.path("a"), scratch.path("b"));
    File::create(&second).expect("writable").set_len(128 << 20).expect("sparse");
    let config = configure(&scratch, "none.toml", &[&first, &second], "");
    let socket = scratch.path("s");
    let (code, _, text) = run(&["serve", "--config", &config, "--socket", &socket]);
    assert_eq!(code, Some(1), "{text}");
    for word in ["no disk can be served", &first, "no such file", &second, "not a formatted disk"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let directory = scratch.0.display().to_string();
    let config = configure(&scratch, "wrong.toml", &[&directory, &second], "");
    let (code, _, text) = run(&["serve", "--config", &config, "--socket", &socket]);
    assert_eq!(code, Some(3), "what cannot be a disk was not meant: {text}");
    assert!(text.contains("neither a regular file nor a block device"), "{text}");
}

#[test]
fn a_journal_disk_is_not_taken_for_a_disk() {
    let scratch = Scratch::new("wrong");
    let (good, disk, journal) = (scratch.path("a"), scratch.path("b"), scratch.path("j"));
    format_disks(&[&good]);
    File::create(&journal).expect("writable").set_len(128 << 20).expect("sparse");
    let format = ["disk", "format", &disk, "--size", "128MiB", "--journal", &journal];
    assert_eq!(run(&format).0, Some(0));
    let config = configure(&scratch, "wrong.toml", &[&good, &journal], "");
    let socket = scratch.path("s");
    let (code, _, text) = run(&["serve", "--config", &config, "--socket", &socket]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains(&journal) && text.contains("journal disk"), "{text}");

    let journal_of = format!("{disk}\"\njournal = \"{journal}");
    let config = configure(&scratch, "right.toml", &[&good, &journal_of], "");
    fs::remove_file(&journal).expect("there");
    let node = Node::start(&["serve", "--config", &config], &socket, None);
    let disks = node.ask(&["node"])["disks"].clone();
    assert_eq!(disks[1]["state"], "offline");
    assert!(disks[1]["reason"].as_str().expect("why").contains(&journal), "{disks}");
}

#[test]
fn a_node_goes_on_when_nobody_reads_what_it_says() {
    let scratch = Scratch::new("unheard");
    let (dir, socket, port, other) =
        (scratch.path("d"), scratch.path("s"), free_port(), free_port());
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--dir", &dir, "--size", "64MiB", "--port", &port]);
    command.args(["--discovery-port", &other, "--iscsi-port", &free_port()]);
    command.args(["--output", "json", "--socket", &socket]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut node = Node::begin(command, &socket);
    let mut said = BufReader::new(node.child.stderr.take().expect("piped"));
    said.read_line(&mut String::new()).expect("it says something");
    drop(said);
    for name in ["one", "two", "three"] {
        node.ask(&["volume", "create", name, "1GiB"]);
        // Events are logged twice a second.
        std::thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(names(&node.ask(&["volume", "list"])).len(), 4);
    assert_eq!(node.stop("TERM"), Some(0));
}

/// Blocks in a slab, the unit in which a volume takes space.
const SLAB_BLOCKS: u64 = 512;

fn slab_content(slab: u64) -> Vec<u8> {
    vec![slab as u8 + 1; 4096]
}

/// A running node and a host that is connected to it.
fn serve(config: &str, scratch: &Scratch) -> (Node, [host::Queue; 2]) {
    let node = Node::start(&["serve", "--config", config], &scratch.path("s"), None);
    let info = node.ask(&["node"]);
    let nqn = info["nqn"].as_str().expect("a name");
    let address = info["addresses"][0].as_str().expect("an address").parse().expect("one");
    node.run(&["host", "allow", "*"]);
    let (admin, io) = host::connect(address, nqn, [7; 16]);
    (node, [admin, io])
}

/// Writes one block to each slab from `slab` on until the disk is full; the first that got none.
fn fill(queue: &mut host::Queue, mut slab: u64) -> u64 {
    loop {
        match queue.write(1, slab * SLAB_BLOCKS, slab_content(slab)) {
            Status::SUCCESS => slab += 1,
            status => {
                assert!(status.is(Status::CAPACITY_EXCEEDED), "{status:?}");
                return slab;
            }
        }
    }
}

fn is_there(queue: &mut host::Queue, slabs: u64) {
    for slab in 0..slabs {
        assert_eq!(queue.read(1, slab * SLAB_BLOCKS, 1).data, slab_content(slab), "slab {slab}");
    }
}

fn await_event(node: &Node, kind: &str) -> Value {
    const TRIES: u32 = 600;
    for _ in 0..TRIES {
        let lines = node.run(&["events"]).stdout;
        let events = String::from_utf8(lines).expect("JSON is UTF-8");
        let mut events = events.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        if let Some(event) = events.find(|event: &Value| event["kind"] == kind) {
            return event;
        }
        std::thread::sleep(PATIENCE / TRIES);
    }
    panic!("no event {kind}");
}

#[test]
fn a_full_disk_goes_on_once_it_has_grown() {
    let scratch = Scratch::new("grow");
    let disk = scratch.path("disk");
    let format = ["disk", "format", &disk, "--size", "128MiB", "--allocate", "sparse"];
    assert_eq!(run(&[&format[..], &["--shards", "2"]].concat()).0, Some(0));
    let config = configure(&scratch, "node.toml", &[&disk], "");
    let (node, [admin, mut io]) = serve(&config, &scratch);
    let made = node.ask(&["volume", "create", "v", "1GiB"]);
    assert_eq!(made["write_protected"], false);
    let full = fill(&mut io, 0);
    let event = await_event(&node, "disk.full");
    assert!(event["text"].as_str().expect("text").contains(&disk), "{event}");
    let (code, _, text) = run(&["disk", "grow", &disk]);
    assert_eq!(code, Some(5), "a node runs on it: {text}");
    assert!(text.contains("stop the node"), "{text}");
    drop((admin, io));
    assert_eq!(node.stop("TERM"), Some(0));

    let (code, said, text) = run(&["disk", "grow", &disk]);
    assert_eq!(code, Some(0), "{text}");
    assert!(said.contains("uses all of its device"), "{said}");
    File::options().write(true).open(&disk).expect("ours").set_len(192 << 20).expect("sparse");
    let listed = run(&["disk", "list", &disk]).1;
    assert!(listed.contains("`basalt disk grow` would add"), "{listed}");
    let (node, _queues) = serve(&config, &scratch);
    let event = await_event(&node, "disk.growable");
    assert!(event["text"].as_str().expect("text").contains("basalt disk grow"), "{event}");
    assert_eq!(node.stop("KILL"), None);
    let (code, grown, text) = run(&["disk", "grow", &disk, "--output", "json"]);
    assert_eq!(code, Some(0), "{text}");
    let grown: Value = serde_json::from_str(&grown).expect("JSON");
    assert!(grown["added_bytes"].as_u64().is_some_and(|added| added > 40 << 20), "{grown}");
    assert_eq!(grown["extensions"], 1);

    let (node, [_admin, mut io]) = serve(&config, &scratch);
    is_there(&mut io, full);
    let again = fill(&mut io, full);
    assert!(again > full, "the write that was refused, and others");
    is_there(&mut io, again);
    assert_eq!(node.stop("TERM"), Some(0));
    let bigger = ["disk", "grow", &disk, "--size", "256MiB"];
    let (code, said, text) = run(&bigger);
    assert_eq!(code, Some(0), "{text}");
    assert!(said.contains("has grown by"), "{said}");
    let (code, checked, text) = run(&["disk", "check", &disk]);
    assert_eq!(code, Some(0), "{checked}{text}");
    assert!(checked.contains("grown 2 times"), "{checked}");
    assert!(run(&["disk", "list", &disk]).1.contains("grown 2 times"));
    let (_node, [_admin, mut io]) = serve(&config, &scratch);
    is_there(&mut io, again);
    assert!(fill(&mut io, again) > again);
}

#[test]
fn what_cannot_grow_is_told() {
    let scratch = Scratch::new("no-growth");
    let disk = scratch.path("disk");
    File::create(&disk).expect("writable").set_len(128 << 20).expect("sparse");
    let grow = ["disk", "grow", &disk];
    let (code, _, text) = run(&[&grow[..], &["--size", "256MiB"]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("not a formatted disk"), "{text}");
    assert_eq!(fs::metadata(&disk).expect("there").len(), 128 << 20, "as it was");
    assert_eq!(run(&["disk", "format", &disk]).0, Some(0));
    for (size, word) in [("64MiB", "only grows"), ("268435457", "4096")] {
        let (code, _, text) = run(&[&grow[..], &["--size", size]].concat());
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(word), "{text}");
    }
    File::options().write(true).open(&disk).expect("ours").set_len(129 << 20).expect("sparse");
    let (code, _, text) = run(&grow);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("needs at least"), "{text}");
    assert_eq!(run(&["disk", "check", &disk]).0, Some(0));
}
