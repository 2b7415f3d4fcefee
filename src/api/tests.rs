use super::*;
use crate::client::{Client, encode};
use crate::failure::{Exit, Failure};
use crate::plane::fake::{Fake, SLOW};
use crate::socket::Bound;
use dataplane::node::{ConnectionInfo, DiskInfo, HostInfo, NodeEvent, Snapshot, VolumeInfo};
use hyper::Method;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const NO_BODY: Option<&()> = None;

struct Stand {
    node: Arc<Fake>,
    server: Server,
    socket: Bound,
    client: Client,
}

fn stand(name: &str) -> Stand {
    let path = PathBuf::from(format!("/tmp/basalt-test-{name}-{}.sock", std::process::id()));
    let socket = Bound::new(&path).expect("free");
    let node = Arc::new(Fake::default());
    let info = NodeInfo {
        name: "n".to_owned(),
        nqn: "q".to_owned(),
        version: "v".to_owned(),
        iqn: "iqn".to_owned(),
        addresses: Vec::new(),
        iscsi_addresses: Vec::new(),
    };
    let listener = socket.listener().expect("bound");
    let any = Some("127.0.0.1:0".parse().expect("address"));
    let server = Server::start(node.clone(), info, listener, any).expect("started");
    Stand { node, server, client: Client::new(&path).expect("client"), socket }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Failure>, text: &str) {
    let failure = result.expect_err("refused");
    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.text.contains(text), "{failure}");
}

#[test]
fn volumes_come_change_and_go() {
    let Stand { client, .. } = &stand("volumes");
    let new = json!({"name": "v1", "size": 1 << 30, "block_size": 512, "disk": "/dev/y"});
    let made: VolumeInfo = client.request(Method::POST, "/v1/volumes", Some(&new)).expect("made");
    assert_eq!((made.size, made.block_size, made.disk.as_str()), (1 << 30, 512, "/dev/y"));
    assert!(!made.uuid.is_nil());
    refused(client.request::<Value>(Method::POST, "/v1/volumes", Some(&new)), "there is a volume");
    let change = json!({"size": 2_u64 << 30});
    let changed: VolumeInfo =
        client.request(Method::PATCH, "/v1/volumes/v1", Some(&change)).expect("resized");
    assert_eq!(changed.size, 2 << 30);
    let rename = json!({"name": "v2"});
    let renamed: VolumeInfo =
        client.request(Method::PATCH, "/v1/volumes/v1", Some(&rename)).expect("renamed");
    assert_eq!(renamed.name, "v2");
    assert_eq!(client.get::<Vec<VolumeInfo>>("/v1/volumes").expect("list").len(), 1);
    refused(client.get::<VolumeInfo>("/v1/volumes/v1"), "no volume \"v1\"");
    let _: Value = client.request(Method::DELETE, "/v1/volumes/v2", NO_BODY).expect("deleted");
    refused(client.request::<Value>(Method::DELETE, "/v1/volumes/v2", NO_BODY), "no volume");
}

#[test]
fn initiators_are_sent_elsewhere() {
    let Stand { client, .. } = &stand("redirect");
    let path = "/v1/iscsi/redirect";
    assert_eq!(client.get::<Value>(path).expect("shown"), Value::Null);
    let to = json!({"to": "[2001:db8::1]:3260"});
    let _: Value = client.request(Method::PUT, path, Some(&to)).expect("set");
    let whole = json!({"to": "[2001:db8::1]:3260", "permanent": false});
    assert_eq!(client.get::<Value>(path).expect("shown"), whole);
    for wrong in [json!({"to": "nowhere"}), json!({}), json!({"to": "192.0.2.1:1", "for": 1})] {
        refused(client.request::<Value>(Method::PUT, path, Some(&wrong)), "body: ");
    }
    let _: Value = client.request(Method::DELETE, path, NO_BODY).expect("removed");
    assert_eq!(client.get::<Value>(path).expect("shown"), Value::Null);
}

#[test]
fn bad_values_do_not_reach_the_node() {
    let Stand { client, .. } = &stand("bad");
    for (body, text) in [
        (json!({"name": "a b", "size": 4096}), "other characters"),
        (json!({"name": "a", "size": 0}), "multiple of 4096"),
        (json!({"name": "a", "size": 5000}), "multiple of 4096"),
        (json!({"name": "a", "size": 4096, "block_size": 1024}), "512 or 4096"),
        (json!({"name": "a", "size": 4096, "color": 1}), "unknown field `color`"),
        (json!({"name": "a"}), "missing field `size`"),
        (json!(null), "body"),
    ] {
        refused(client.request::<Value>(Method::POST, "/v1/volumes", Some(&body)), text);
    }
    for (body, text) in [
        (json!({}), "one at a time"),
        (json!({"size": 4096, "name": "b"}), "one at a time"),
        (json!({"size": 1}), "multiple of 4096"),
        (json!({"name": ""}), "not empty"),
    ] {
        refused(client.request::<Value>(Method::PATCH, "/v1/volumes/v", Some(&body)), text);
    }
    let host = json!({"nqn": "bad nqn"});
    refused(client.request::<Value>(Method::POST, "/v1/hosts", Some(&host)), "no spaces");
    refused(client.get::<Value>("/v2/other"), "no such path");
    assert!(client.get::<Vec<VolumeInfo>>("/v1/volumes").expect("list").is_empty());
}

#[test]
fn hosts_disks_connections_counters() {
    let Stand { client, .. } = &stand("lists");
    let nqn = "nqn.2014-08.org.nvmexpress:uuid:6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10";
    for nqn in [nqn, "*"] {
        let host = Host { nqn: nqn.to_owned(), chap: None };
        let _: Value = client.request(Method::POST, "/v1/hosts", Some(&host)).expect("allowed");
    }
    assert_eq!(client.get::<Vec<HostInfo>>("/v1/hosts").expect("list").len(), 2);
    let path = format!("/v1/hosts?nqn={}", encode(nqn));
    let _: Value = client.request(Method::DELETE, &path, NO_BODY).expect("denied");
    assert_eq!(client.get::<Vec<HostInfo>>("/v1/hosts").expect("list")[0].nqn, "*");
    assert_eq!(client.get::<Vec<DiskInfo>>("/v1/disks").expect("list")[0].free, 5);
    let disk = json!({"disk": "/dev/x"});
    let _: Value = client.request(Method::POST, "/v1/disks/offline", Some(&disk)).expect("done");
    assert_eq!(
        client.get::<Vec<NodeEvent>>("/v1/events").expect("events")[0].text,
        "/dev/x is offline"
    );
    refused(client.request::<Value>(Method::POST, "/v1/disks/online", Some(&disk)), "/dev/x");
    let other = json!({"path": "/dev/x"});
    refused(client.request::<Value>(Method::POST, "/v1/disks/online", Some(&other)), "unknown");
    assert_eq!(client.get::<Vec<ConnectionInfo>>("/v1/connections").expect("list")[0].id, 7);
    assert_eq!(client.get::<Snapshot>("/v1/counters").expect("counters").cores[0].turns, 9);
    assert_eq!(client.get::<NodeInfo>("/v1/node").expect("node").name, "n");
}

#[test]
fn events_are_waited_for() {
    let Stand { client, node, .. } = &stand("events");
    node.event("first");
    let events: Vec<NodeEvent> = client.get("/v1/events").expect("events");
    assert_eq!(events[0].text, "first");
    let none: Vec<NodeEvent> = client.get("/v1/events?since=1").expect("events");
    assert!(none.is_empty());
    let later = std::thread::spawn({
        let node = Arc::clone(node);
        move || {
            std::thread::sleep(Duration::from_millis(150));
            node.event("second");
        }
    });
    let events: Vec<NodeEvent> = client.get("/v1/events?since=1&wait_ms=10000").expect("events");
    assert_eq!(events[0].text, "second");
    later.join().expect("no panic");
}

#[test]
fn a_slow_command_does_not_hold_up_others() {
    let stand = stand("slow");
    let path = stand.socket.path().to_owned();
    let slow = std::thread::spawn(move || {
        Client::new(&path).expect("client").get::<Value>("/v1/volumes/slow").expect_err("missing");
    });
    std::thread::sleep(SLOW / 20);
    #[expect(clippy::disallowed_methods, reason = "no I/O path: how long a client waits")]
    let before = SystemTime::now();
    let _: NodeInfo = stand.client.get("/v1/node").expect("node");
    assert!(before.elapsed().expect("no step of the clock") < SLOW / 2);
    slow.join().expect("no panic");
}

#[test]
fn metrics_over_tcp_and_nothing_else() {
    let stand = stand("metrics");
    let address = stand.server.metrics_address().expect("given");
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(address).expect("listening");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    };
    let metrics = ask("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("basalt_core_turns_total{core=\"3\"} 9"), "{metrics}");
    assert!(ask("/v1/volumes").starts_with("HTTP/1.1 404"));
}

#[test]
fn garbage_is_answered_or_hung_up_on_and_the_server_lives() {
    let stand = stand("garbage");
    for garbage in
        [&b"\0\0\0\0\r\n\r\n"[..], b"GET", b"POST /v1/volumes HTTP/1.1\r\nContent-Length: 99"]
    {
        let mut stream = UnixStream::connect(stand.socket.path()).expect("listening");
        stream.write_all(garbage).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("ended");
    }
    let big = json!({"name": "x".repeat(100_000), "size": 4096});
    stand.client.request::<Value>(Method::POST, "/v1/volumes", Some(&big)).expect_err("too large");
    let _: NodeInfo = stand.client.get("/v1/node").expect("lives");
}

#[test]
fn a_taken_metrics_port_is_told() {
    let stand = stand("taken");
    let taken = stand.server.metrics_address();
    let path = PathBuf::from(format!("/tmp/basalt-test-taken2-{}.sock", std::process::id()));
    let socket = Bound::new(&path).expect("free");
    let info: NodeInfo = stand.client.get("/v1/node").expect("node");
    let listener = socket.listener().expect("bound");
    let error = Server::start(stand.node.clone(), info, listener, taken).expect_err("taken");
    assert!(matches!(error, ServerError::Metrics { .. }), "{error}");
}

#[test]
fn without_a_node_the_client_says_so() {
    let client = Client::new(&PathBuf::from("/tmp/basalt-nobody.sock")).expect("client");
    let failure = client.get::<Value>("/v1/node").expect_err("nobody");
    assert_eq!(failure.exit, Exit::NoNode);
    assert!(failure.to_string().contains("basalt serve"), "{failure}");
}
