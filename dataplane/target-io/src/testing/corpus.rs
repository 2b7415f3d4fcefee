//! Replay of what fuzzing has found.

use std::fs;
use std::path::Path;

/// Runs the body of a fuzz target on every file of `fuzz/corpus/<name>`.
///
/// # Panics
/// If there is none, or where the body panics; the file at work is printed then.
pub fn replay(name: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("a folder that can be listed").path();
        println!("{}", path.display());
        body(&fs::read(&path).expect("a file that can be read"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}
