use super::*;

const GOOD: &str = r#"
[node]
name = "node-1"
nqn = "nqn.2014-08.org.nvmexpress:uuid:6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10"
cores = "0-1,3"
poll = true
buffers = "128MiB"
metadata_cache = 67108864
max_connections = 100

[[disk]]
path = "/dev/sdb"
journal = "/dev/nvme0n1"

[[disk]]
ram = "1GiB"
shards = 2

[[portal]]
listen = "0.0.0.0:4420"
advertise = "192.0.2.1"

[[portal]]
listen = "[::1]"
discovery_only = true

[management]
socket = "/tmp/s"

[metrics]
listen = "127.0.0.1:9420"
"#;

#[test]
fn a_good_file() {
    let config = parse(GOOD, "good").expect("valid");
    let node = config.node;
    assert_eq!(node.name, "node-1");
    assert_eq!(node.cores, [0, 1, 3]);
    assert!(node.poll);
    assert_eq!(node.buffers_per_core, 128 << 20);
    assert_eq!(node.metadata_cache, 64 << 20);
    assert_eq!(node.max_connections, 100);
    assert!(matches!(&node.disks[0].source, DiskSource::Path(path) if path.ends_with("sdb")));
    assert_eq!(node.disks[0].journal, Some(PathBuf::from("/dev/nvme0n1")));
    assert!(matches!(node.disks[1].source, DiskSource::Ram { size: 0x4000_0000, shards: 2 }));
    assert_eq!(node.portals[0].advertise, Some("192.0.2.1:4420".parse().expect("address")));
    assert_eq!(node.portals[1].listen, "[::1]:8009".parse().expect("address"));
    assert!(node.portals[1].discovery_only);
    assert_eq!(config.socket, Some(PathBuf::from("/tmp/s")));
    assert_eq!(config.metrics, Some("127.0.0.1:9420".parse().expect("address")));
}

#[test]
fn zeroes_are_asked_for_disk_by_disk() {
    let disks = "[[disk]]\npath = \"/a\"\nzero_on_free = true\n[[disk]]\npath = \"/b\"\n";
    let text = format!("node.nqn = \"{}\"\n{disks}", fresh_nqn());
    let config = parse(&text, "zeroes").expect("valid");
    assert!(config.node.disks[0].zero_on_free && !config.node.disks[1].zero_on_free);
    assert!(parse(&text.replace("true", "1"), "zeroes").is_err());
}

#[test]
fn little_is_needed() {
    let text = format!("node.nqn = \"{}\"\ndisk = [{{ path = \"/d\" }}]", fresh_nqn());
    let config = parse(&text, "little").expect("valid");
    assert_eq!(config.node.portals.len(), 3);
    assert_eq!(config.node.iqn, config.node.nqn.replacen('n', "i", 1));
    assert!(config.node.cores.is_empty());
    assert_eq!(config.metrics, None);
}

/// Replaces a line of the good file and gives the problems.
fn broken(from: &str, to: &str) -> Vec<Problem> {
    assert!(GOOD.contains(from), "{from:?} is in the file");
    parse(&GOOD.replace(from, to), "bad").expect_err("refused").problems
}

#[track_caller]
fn expect(problems: &[Problem], line: usize, text: &str) {
    let found = problems.iter().any(|p| p.line == Some(line) && p.text.contains(text));
    assert!(found, "no {text:?} at line {line} in {problems:#?}");
}

#[test]
fn every_value_is_checked_with_its_line() {
    for (from, to, line, text) in [
        ("poll = true", "pol = true", 6, "unknown field `pol`"),
        ("poll = true", "poll = 1", 6, "expected a boolean"),
        ("poll = true", "poll", 6, "expected"),
        ("[metrics]", "[metric]", 30, "unknown field `metric`"),
        ("\"node-1\"", "\"node 1\"", 3, "other characters"),
        ("\"node-1\"", "\"\"", 3, "not empty"),
        ("nqn.2014-08.org.nvmexpress:uuid:6a8f4f1c", "iqn.2014-08.x:6a8f4f1c", 4, "begin as nqn"),
        ("-2f8c3f3f5a10\"", "\"", 4, "is not a UUID"),
        ("\"0-1,3\"", "\"3-1\"", 5, "not a list"),
        ("\"0-1,3\"", "\"0-1,1\"", 5, "listed twice"),
        ("\"0-1,3\"", "[]", 5, "empty"),
        ("\"0-1,3\"", "[4096]", 5, "0 to 1023"),
        ("\"128MiB\"", "\"128 parsecs\"", 7, "unknown unit"),
        ("\"128MiB\"", "\"1MiB\"", 7, "buffers is 16 MiB to 64 GiB"),
        ("\"128MiB\"", "\"16777217B\"", 7, "multiple of 4096"),
        ("67108864", "-1", 8, "not negative"),
        ("= 100", "= 0", 9, "1 to 65535"),
        ("\"/dev/nvme0n1\"", "\"/dev/sdb\"", 13, "used twice"),
        ("\"/dev/sdb\"", "\"disk.img\"", 12, "relative"),
        ("ram = \"1GiB\"", "size = \"1GiB\"", 16, "unknown field `size`"),
        ("ram = \"1GiB\"", "", 15, "needs `path`, `device` or `ram`"),
        ("ram = \"1GiB\"", "ram = \"1GiB\"\npath = \"/d\"", 15, "not several"),
        ("ram = \"1GiB\"", "ram = \"1KiB\"", 16, "64 MiB to 4 TiB"),
        ("shards = 2", "shards = 65", 15, "64 shards at most"),
        ("shards = 2", "journal = \"/j\"", 17, "no separate journal"),
        ("\"0.0.0.0:4420\"", "\"localhost\"", 20, "not an IP address"),
        ("\"0.0.0.0:4420\"", "\"0.0.0.0:0\"", 20, "port 0"),
        ("\"0.0.0.0:4420\"", "\"0.0.0.0:99999\"", 20, "not an IP address"),
        ("\"0.0.0.0:4420\"", "\"224.0.0.1:4420\"", 20, "multicast"),
        ("\"192.0.2.1\"", "\"0.0.0.0:4420\"", 21, "real address"),
        ("\"127.0.0.1:9420\"", "\"127.0.0.1\"", 31, "needs a port"),
        ("\"127.0.0.1:9420\"", "\"127.0.0.1:4420\"", 31, "overlap"),
        ("\"/tmp/s\"", "\"s\"", 28, "relative"),
    ] {
        expect(&broken(from, to), line, text);
    }
}

#[test]
fn devices_are_checked() {
    let with = |disk: &str| {
        let text = GOOD.replace("shards = 2", "").replace("ram = \"1GiB\"", disk);
        parse(&text, "f").map(|config| config.node.disks).map_err(|invalid| invalid.problems)
    };
    let disks = with("device = \"pci:0000:01:00.0\"").expect("good");
    let DiskSource::Device { address, unit, fua: true } = disks[1].source else {
        panic!("a device")
    };
    assert_eq!((address.to_string().as_str(), unit), ("0000:01:00.0", Unit::Namespace(1)));
    let two = "device = \"pci:01:00.0\"\nport = 0\n[[disk]]\ndevice = \"pci:01:00.0\"\nport = 5";
    let unit = |disk: &DiskConfig| match disk.source {
        DiskSource::Device { unit, .. } => Some(unit),
        _ => None,
    };
    let passed = with("path = \"/dev/y\"\npassthrough = true").expect("good");
    assert!(!passed[0].passthrough && passed[1].passthrough);
    let units: Vec<Unit> = with(two).expect("good").iter().filter_map(unit).collect();
    assert_eq!(units, [Unit::Port(0), Unit::Port(5)]);
    for (disk, text) in [
        ("device = \"0000:01:00.0\"", "write it as \"pci:0000:01:00.0\""),
        ("device = \"pci:nonsense\"", "write it as"),
        ("device = \"pci:01:00.0\"\nnamespace = 0", "numbered from 1"),
        ("device = \"pci:01:00.0\"\nport = 32", "0 to 31"),
        ("device = \"pci:01:00.0\"\nport = 1\nnamespace = 1", "one of them"),
        (
            "device = \"pci:01:00.0\"\nport = 1\n[[disk]]\ndevice = \"pci:01:00.0\"\nport = 1",
            "port 1",
        ),
        ("ram = \"1GiB\"\nport = 2", "only a `device` has ports"),
        ("device = \"pci:01:00.0\"\nshards = 2", "--shards"),
        ("device = \"pci:01:00.0\"\njournal = \"/j\"", "journal on it"),
        ("device = \"pci:01:00.0\"\n[[disk]]\ndevice = \"pci:0:1:0.0\"", "is used twice"),
        ("ram = \"1GiB\"\nfua = false", "of a `device` only"),
        ("ram = \"1GiB\"\npassthrough = true", "of a `path` only"),
        ("device = \"pci:01:00.0\"\npassthrough = false", "of a `path` only"),
        ("ram = \"1GiB\"\nnamespace = 2", "only a `device` has namespaces"),
    ] {
        let problems = with(disk).expect_err("refused");
        assert!(
            problems.iter().any(|problem| problem.text.contains(text)),
            "{text}: {problems:#?}"
        );
    }
}

#[test]
fn several_problems_at_once_in_order() {
    let problems = broken("name = \"node-1\"", "name = \"/\"\nmax_connections = 0 #");
    assert_eq!(problems.len(), 1, "a duplicate key ends the reading: {problems:#?}");
    let text = GOOD.replace("\"1GiB\"", "\"1\"").replace("\"node-1\"", "\"/\"");
    let invalid = parse(&text, "dir/f.toml").expect_err("refused");
    assert_eq!(invalid.problems.len(), 2);
    let shown = invalid.to_string();
    assert!(shown.starts_with("dir/f.toml:3:8: "), "{shown}");
    assert!(shown.contains("\ndir/f.toml:16:7: "), "{shown}");
}

#[test]
fn a_missing_nqn_is_offered() {
    let problems = parse("[node]\n[[disk]]\nram = \"1GiB\"", "f").expect_err("refused").problems;
    expect(&problems, 1, "nqn = \"nqn.2014-08.org.nvmexpress:uuid:");
}

#[test]
fn overlapping_portals_are_refused() {
    let more = format!("{GOOD}\n[[portal]]\nlisten = \"127.0.0.1:4420\"\n");
    expect(&parse(&more, "f").expect_err("refused").problems, 34, "overlap");
    let v6 = format!("{GOOD}\n[[portal]]\nlisten = \"[::]:4420\"\n");
    parse(&v6, "f").expect("IPv4 and IPv6 wildcards live beside each other");
}

#[test]
fn a_hostile_text_is_only_refused() {
    for text in
        ["\0", "[[[[", "node = 3", "disk = {}", "[node]\ncores = \"0-99999999999\"", "é = \"\\u"]
    {
        parse(text, "f").expect_err("refused");
    }
}

#[test]
fn corpus_of_configuration() {
    nvmeof_target::testing::replay("configuration", fuzz::configuration);
    fuzz::configuration(GOOD.as_bytes());
}
