//! The built program as libiscsi's conformance tests see it, one process for each suite.
//!
//! The tool's own summary counts what it skips as passed, and its exit code does too: its output is
//! read instead.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use target_io::testing::free_port;

const PROGRAM: &str = env!("CARGO_BIN_EXE_basalt");
const TOOL: &str = "iscsi-test-cu";
/// Seconds for one suite.
const SUITE_SECONDS: &str = "300";

/// What tests may say that they skip. docs/scsi.md says why.
const SKIPPED: [&str; 5] = [
    "not removable",
    "SANITIZE OVERWRITE is not implemented",
    "SANITIZE CRYPTO_ERASE is not implemented",
    "WRITEATOMIC16 is not implemented",
    "LBPPB < 2",
];
/// The suite that wants a unit that is write-protected.
const PROTECTED: &str = "ALL.ReadOnly";
/// Tests that fail because they are wrong, by block size and suite. docs/scsi.md says why.
const FAILING: [(u32, &str, &str); 1] = [(512, "ALL.GetLBAStatus", "UnmapSingle")];

/// A running node, killed when the test ends.
struct Node(Child, PathBuf);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

impl Node {
    fn ask(&self, arguments: &[&str]) -> Output {
        let socket = self.1.join("s");
        let told = Command::new(PROGRAM).args(arguments).arg("--socket").arg(&socket).output();
        told.expect("the program runs")
    }

    fn tell(&self, arguments: &[&str]) {
        assert!(self.ask(arguments).status.success(), "{arguments:?}");
    }

    /// A volume of which nothing has been written: some tests rely on that.
    fn make_volume(&self, block_size: u32) {
        self.tell(&["volume", "create", "v", "64MiB", "--block-size", &block_size.to_string()]);
    }
}

/// A node on a disk in memory that lets every host in; the URLs of its first unit through two
/// portals.
fn node() -> (Node, [String; 2]) {
    static NODES: AtomicU32 = AtomicU32::new(0);
    let number = NODES.fetch_add(1, Ordering::Relaxed);
    let name = format!("iscsi-{}-{number}", std::process::id());
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).expect("a directory of the test's own");
    let ports = [free_port(), free_port(), free_port()];
    let portal = |protocol: &str, port: u16| {
        format!("[[portal]]\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:{port}\"\n")
    };
    let text = format!(
        "[node]\nnqn = \"nqn.2026-01.test:node\"\niqn = \"iqn.2026-01.test:node\"\n\
         [[disk]]\nram = \"512MiB\"\n{}{}{}",
        portal("nvme", ports[0]),
        portal("iscsi", ports[1]),
        portal("iscsi", ports[2]),
    );
    let (file, socket) = (dir.join("node.toml"), dir.join("s"));
    std::fs::write(&file, text).expect("a file");
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--output", "json", "--config"])
        .arg(&file)
        .arg("--socket")
        .arg(&socket)
        .stdout(Stdio::piped())
        .env_remove("NOTIFY_SOCKET")
        .spawn()
        .expect("the program runs");
    let stdout = child.stdout.take().expect("piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a line when it is ready");
    assert!(line.contains("iqn.2026-01.test:node"), "not ready: {line:?}");
    let node = Node(child, dir);
    node.tell(&["host", "allow", "*"]);
    let url = |port: u16| format!("iscsi://127.0.0.1:{port}/iqn.2026-01.test:node/0");
    (node, [url(ports[1]), url(ports[2])])
}

/// What a suite came to.
#[derive(Debug, Default)]
struct Verdict {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

/// Reads what the tool prints. A test's line may be cut by what it logs: its verdict ends some
/// later line.
fn read(output: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let mut test = None;
    for line in output.lines() {
        if let Some((_, name)) = line.split_once("  Test: ") {
            test = name.split(" ...").next().map(str::to_owned);
        }
        if line.contains("[SKIPPED]") {
            let name = test.clone().unwrap_or_default();
            verdict.skipped.push(format!("{name}: {}", line.trim()));
        }
        let end = line.rsplit("...").next().unwrap_or_default().trim_start();
        if end.starts_with("FAILED") {
            verdict.failed.extend(test.take());
        } else if end.starts_with("passed") {
            verdict.passed += usize::from(test.take().is_some());
        }
    }
    // A test that did not come to its end.
    verdict.failed.extend(test);
    verdict
}

fn run_all(block_size: u32) {
    let Ok(list) = Command::new(TOOL).arg("--list").output() else {
        println!("SKIPPED: {TOOL} is not installed (Debian package libiscsi-bin)");
        return;
    };
    let (node, urls) = node();
    let list = String::from_utf8_lossy(&[list.stdout, list.stderr].concat()).into_owned();
    let is_suite = |line: &&str| {
        let parts = line.trim_end().split('.').count();
        parts == 2 && (line.starts_with("ALL.") || line.starts_with("iSCSI."))
    };
    let suites: Vec<&str> = list.lines().filter(is_suite).map(str::trim_end).collect();
    assert!(suites.len() > 40, "the tool lists its suites: {list}");
    let (mut failed, mut skipped, mut passed) = (BTreeMap::new(), 0, 0);
    for suite in suites {
        node.make_volume(block_size);
        if suite == PROTECTED {
            protect(&urls[0], "on");
        }
        let output = Command::new("timeout")
            .args([SUITE_SECONDS, TOOL, "--dataloss", "--allow-sanitize", "--test", suite])
            .args(&urls)
            .output()
            .expect("the tool runs");
        if suite == PROTECTED {
            protect(&urls[0], "off");
        }
        node.tell(&["volume", "delete", "v", "--yes"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let verdict = read(&text);
        passed += verdict.passed;
        if !verdict.failed.is_empty() {
            println!("{suite}\n{text}\n");
            failed.insert(suite.to_owned(), verdict.failed);
        }
        let is_known = |why: &&String| SKIPPED.iter().any(|known| why.contains(known));
        let unknown: Vec<_> = verdict.skipped.iter().filter(|why| !is_known(why)).collect();
        assert!(unknown.is_empty(), "{suite} skips what it should not: {unknown:?}");
        skipped += verdict.skipped.len();
    }
    println!("passed: {passed}; skipped: {skipped}; failed: {failed:#?}");
    let expected: BTreeMap<String, Vec<String>> = FAILING
        .into_iter()
        .filter(|(size, ..)| *size == block_size)
        .map(|(_, suite, test)| (suite.to_owned(), vec![test.to_owned()]))
        .collect();
    assert_eq!(failed, expected);
    assert!(passed > 200, "the tool's output is read: {passed}");
}

/// Sets or ends the write protection of a unit by its mode page.
fn protect(url: &str, state: &str) {
    let set = Command::new("iscsi-swp").args(["-s", state, url]).status();
    assert!(set.expect("it is of the same package").success());
}

#[test]
fn libiscsi_finds_nothing_wrong_with_blocks_of_4096() {
    run_all(4096);
}

#[test]
fn libiscsi_finds_nothing_wrong_with_blocks_of_512() {
    run_all(512);
}

/// A node with a volume, and its URL; `None` without `iscsi-inq`.
fn node_to_inquire() -> Option<(Node, String)> {
    node_of_two_portals().map(|(node, [url, _])| (node, url))
}

/// The same, and the URL through the other portal.
fn node_of_two_portals() -> Option<(Node, [String; 2])> {
    if Command::new("iscsi-inq").output().is_err() {
        println!("SKIPPED: iscsi-inq is not installed (Debian package libiscsi-bin)");
        return None;
    }
    let (node, urls) = node();
    node.make_volume(512);
    Some((node, urls))
}

/// Whether `iscsi-inq` gets an answer as this initiator.
fn inquire(url: &str) -> bool {
    let output = Command::new("timeout")
        .args(["20", "iscsi-inq", "-i", "iqn.2026-01.test:host"])
        .arg(url)
        .output()
        .expect("the tool runs");
    String::from_utf8_lossy(&output.stdout).contains("BASALT")
}

#[test]
fn a_real_initiator_proves_who_it_is_and_so_does_the_target() {
    let Some((node, url)) = node_to_inquire() else { return };
    let tell = |arguments: &[&str]| node.ask(arguments);
    assert!(inquire(&url));
    assert!(tell(&["host", "deny", "*"]).status.success());
    assert!(!inquire(&url), "it is not on the list");
    let file = |name: &str, secret: &str| {
        let path = node.1.join(name);
        std::fs::write(&path, format!("{secret}\n")).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("ours");
        path.display().to_string()
    };
    let (ours, theirs) = (file("ours", "secretofhost"), file("theirs", "secretoftarget"));
    let allow = ["host", "allow", "iqn.2026-01.test:host", "--chap", "user"];
    let files = ["--secret-file", &ours, "--target-user", "t", "--target-secret-file", &theirs];
    let told = tell(&[&allow[..], &files[..]].concat());
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let with = |user: &str, more: &str| {
        let place = url.strip_prefix("iscsi://").expect("a URL");
        format!("iscsi://{user}@{place}{more}")
    };
    assert!(!inquire(&url), "it must prove who it is");
    assert!(!inquire(&with("user%wrongsecret00", "")));
    assert!(!inquire(&with("other%secretofhost", "")));
    assert!(inquire(&with("user%secretofhost", "")));
    let mutual = "?target_user=t&target_password=";
    assert!(inquire(&with("user%secretofhost", &format!("{mutual}secretoftarget"))));
    assert!(!inquire(&with("user%secretofhost", &format!("{mutual}wrongsecret00"))));
    let listed = tell(&["host", "list"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("yes") && !listed.contains("secretof"), "{listed}");
}

#[test]
fn a_unit_is_there_while_its_volume_is_exported() {
    let Some((node, url)) = node_to_inquire() else { return };
    let export = |protocols: &[&str]| node.ask(&[&["volume", "export", "v"], protocols].concat());
    assert!(inquire(&url));
    let told = export(&["--nvme"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("seen over  NVMe\n"), "{told:?}");
    assert!(!inquire(&url));
    assert!(export(&["--nvme", "--iscsi"]).status.success());
    assert!(inquire(&url));
    assert!(export(&["--none"]).status.success());
    assert!(!inquire(&url));
    let told = export(&[]);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("--iscsi"));
}

#[test]
fn initiators_follow_where_the_operator_sends_them() {
    let Some((node, [url, other])) = node_of_two_portals() else { return };
    let redirect = |options: &[&str]| {
        let told = node.ask(&[&["target", "redirect"], options].concat());
        (told.status.success(), String::from_utf8_lossy(&told.stdout).into_owned())
    };
    let portal_of = |url: &str| url.split('/').nth(2).expect("an address").to_owned();
    let (here, there) = (portal_of(&url), portal_of(&other));
    assert!(redirect(&[]).1.contains("are served here"));
    let nobody = format!("127.0.0.1:{}", free_port());
    assert!(redirect(&["--iscsi", &nobody, "--permanent"]).0);
    assert!(redirect(&[]).1.contains(&format!("{nobody}, for good")));
    assert!(!inquire(&url) && !inquire(&other), "nobody is served where he is sent");
    assert!(redirect(&["--iscsi", &there]).0);
    assert!(inquire(&url) && inquire(&other), "sent there, and there already");
    assert!(redirect(&["--iscsi", &here]).0);
    assert!(inquire(&url) && inquire(&other));
    assert!(redirect(&["--none"]).0);
    assert!(redirect(&[]).1.contains("are served here") && inquire(&url));
    for nowhere in ["0.0.0.0:3260", "127.0.0.1:0", "a.example"] {
        assert!(!redirect(&["--iscsi", nowhere]).0, "{nowhere}");
    }
    assert!(!redirect(&["--none", "--iscsi", &here]).0);
}

#[test]
fn the_tools_output_is_read() {
    let output = "Suite: A\n  Test: One ...passed\n  Test: Two ...    [SKIPPED] no\npassed\n  \
                  Test: Three ...    [FAILED] why\nFAILED\n    1. x.c:1\n  Test: Four ...";
    let verdict = read(output);
    assert_eq!(verdict.passed, 2);
    assert_eq!(verdict.failed, ["Three", "Four"]);
    assert_eq!(verdict.skipped.len(), 1);
}
