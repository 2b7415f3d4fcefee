//! The built program, run as a person runs it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("basalt-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory of the test's own");
        Self(dir)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("writable");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn basalt(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.env_remove("BASALT_SOCKET").args(arguments).output().expect("the program runs")
}

/// Runs the program and expects this exit code and these words on standard error.
#[track_caller]
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let output = basalt(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: no {word:?} in: {text}");
    }
    assert!(output.stdout.is_empty(), "{arguments:?}: errors go to standard error");
}

#[test]
fn wrong_command_lines() {
    fails(&[], 2, &["Usage: basalt"]);
    fails(&["dance"], 2, &["unrecognized subcommand 'dance'"]);
    fails(&["serve"], 2, &["--config <FILE>"]);
    fails(&["volume", "create", "v"], 2, &["<SIZE>"]);
    fails(&["volume", "create", "v", "12 parsecs"], 2, &["unknown unit", "GiB"]);
    fails(&["volume", "create", "v", "1G", "--block-size", "1000"], 2, &["512 or 4096"]);
    fails(&["stat", "--interval", "0"], 2, &["0.1 to 3600"]);
    fails(&["node", "--output", "xml"], 2, &["[possible values: table, json]"]);
    fails(&["disk", "format", "/x", "--shards", "0"], 2, &["1..=64"]);
    fails(&["disk", "format", "/x", "--size", "1G", "--force"], 2, &["cannot be used with"]);
}

#[test]
fn help_and_version() {
    let help = basalt(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    for word in ["demo", "serve", "disk", "volume", "host", "stat", "events", "Exit codes"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    assert!(basalt(&["--version"]).stdout.starts_with(b"basalt "));
}

#[test]
fn without_a_node() {
    let scratch = Scratch::new("nobody");
    let socket = scratch.0.join("none.sock").display().to_string();
    for command in [
        &["volume", "list"][..],
        &["volume", "create", "v", "1GiB"],
        &["host", "allow", "*"],
        &["stat", "--count", "1"],
        &["events"],
        &["connections"],
        &["node"],
    ] {
        let arguments = [command, &["--socket", &socket]].concat();
        fails(&arguments, 4, &["no node is running at", "basalt demo", "--socket"]);
    }
    fails(&["volume", "delete", "v", "--yes", "--socket", &socket], 4, &["no node is running"]);
}

#[test]
fn errors_are_json_where_that_is_asked_for() {
    let scratch = Scratch::new("json");
    let socket = scratch.0.join("none.sock").display().to_string();
    for (arguments, exit) in [
        (&["volume", "list", "--socket", &socket][..], 4),
        (&["disk", "check", "/nonexistent"], 1),
        (&["serve", "--config", "/nonexistent"], 3),
    ] {
        let output = basalt(&[arguments, &["--output", "json"]].concat());
        assert_eq!(output.status.code(), Some(exit));
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert_eq!(said["error"]["exit"], exit);
        assert!(said["error"]["message"].as_str().is_some_and(|text| text.contains("/")), "{said}");
    }
}

#[test]
fn the_socket_may_be_named_in_the_environment() {
    let named = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.env("BASALT_SOCKET", "/nonexistent/env").args(arguments);
        String::from_utf8(command.output().expect("the program runs").stderr).expect("text")
    };
    assert!(named(&["volume", "list"]).contains("/nonexistent/env"));
    assert!(!named(&["volume", "create"]).contains("--socket <PATH>"), "it is not asked for");
    let both = named(&["volume", "list", "--socket", "/nonexistent/option"]);
    assert!(both.contains("/nonexistent/option"), "{both}");
}

#[test]
fn bad_configurations_name_the_line() {
    let scratch = Scratch::new("config");
    let text = "[node]\nnqn = \"nqn.2014-08.org.nvmexpress:uuid:\
                6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10\"\npol = true\n";
    let unknown = scratch.file("unknown.toml", text);
    fails(&["serve", "--config", &unknown], 3, &["unknown.toml:3:1: unknown field `pol`"]);
    let bad = text.replace("pol = true", "buffers = \"1KiB\"\n[[disk]]\npath = \"x\"");
    let bad = scratch.file("bad.toml", &bad);
    fails(&["serve", "--config", &bad], 3, &["bad.toml:3:11: ", "bad.toml:5:8: ", "16 MiB"]);
    let good = text.replace("pol = true", "[[disk]]\nram = \"1GiB\"");
    let good = scratch.file("good.toml", &good);
    let checked = basalt(&["serve", "--check", "--config", &good]);
    assert!(checked.status.success(), "{checked:?}");
    let missing = scratch.0.join("missing.toml").display().to_string();
    fails(&["serve", "--config", &missing], 3, &["cannot read", "basalt demo"]);
    let binary = scratch.0.join("binary.toml");
    fs::write(&binary, [0xff, 0xfe]).expect("writable");
    fails(&["serve", "--config", &binary.display().to_string()], 3, &["cannot read"]);
}

#[test]
fn a_socket_path_that_cannot_be() {
    let scratch = Scratch::new("socket");
    let text = "[node]\nnqn = \"nqn.2014-08.org.nvmexpress:uuid:\
                6a8f4f1c-3b1e-4e57-9d58-2f8c3f3f5a10\"\n[[disk]]\nram = \"1GiB\"";
    let config = scratch.file("good.toml", text);
    let serve = ["serve", "--config", &config, "--socket"];
    fails(&[&serve[..], &[&"x".repeat(200)]].concat(), 2, &["107 bytes", "--socket"]);
    let file = scratch.file("file", "precious");
    fails(&[&serve[..], &[&file]].concat(), 1, &["not a socket"]);
    assert_eq!(fs::read_to_string(&file).expect("there"), "precious");
    fails(&[&serve[..], &["/nonexistent/dir/s"]].concat(), 1, &["cannot make the directory"]);
}

#[test]
fn disks_that_are_none() {
    let scratch = Scratch::new("disks");
    let directory = scratch.0.display().to_string();
    fails(&["disk", "format", &directory], 1, &["neither a regular file nor a block device"]);
    fails(&["disk", "format", "/nonexistent"], 1, &["no such file", "--size"]);
    fails(&["disk", "check", "/nonexistent"], 1, &["no such file"]);
    fails(&["disk", "list", "/nonexistent"], 1, &["/nonexistent"]);
    let same = scratch.0.join("d").display().to_string();
    fails(&["disk", "format", &same, "--journal", &same], 2, &["--journal"]);
    let small = ["disk", "format", &same, "--size", "1MiB"];
    fails(&small, 2, &["64 MiB"]);
    let exists = scratch.file("exists", "x");
    fails(&["disk", "format", &exists, "--size", "1GiB"], 5, &["exists already"]);
    assert_eq!(fs::read_to_string(&exists).expect("there"), "x");
}
