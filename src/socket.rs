//! The management socket: where it is, and who may bind it.
//!
//! The socket file is the only guard of management: its mode is 0660, so that its owner and group
//! have the run of the node and nobody else has any.

use crate::failure::{Exit, Failure};
use rustix::fs::Mode;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket in bytes, without its NUL (unix(7)).
pub const PATH_MAX: usize = 107;

/// Where the socket is unless told otherwise: `/run/basalt/basalt.sock` for root, else
/// `$XDG_RUNTIME_DIR/basalt.sock`, else a directory of the user's own under `/tmp`.
#[must_use]
pub fn default_path() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/basalt/basalt.sock");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("basalt.sock"),
        _ => PathBuf::from(format!("/tmp/basalt-{}/basalt.sock", user.as_raw())),
    }
}

/// A bound management socket. Its file is removed when this goes.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Bound {
    /// Takes the path: a socket that a dead process left is replaced.
    ///
    /// # Errors
    /// Where a live process answers, where something else than a socket is, and as the operating
    /// system says.
    pub fn new(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        if path.as_os_str().len() > PATH_MAX {
            let text = format!("the socket path {shown} has more than {PATH_MAX} bytes");
            return Err(Failure::new(Exit::Usage, text).hint("choose a shorter --socket"));
        }
        if let Some(parent) = path.parent() {
            own_directory(parent)?;
        }
        clear(path)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o117));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(|e| Failure::io(format!("cannot bind {shown}"), &e))?;
        let metadata = fs::symlink_metadata(path);
        let metadata = metadata.map_err(|e| Failure::io(format!("cannot see {shown}"), &e))?;
        Ok(Self { listener, path: path.to_owned(), inode: metadata.ino() })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle to accept on.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode);
        if ours {
            // Nothing to do about a failure: the next start replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory, or checks that nobody else can put a socket of theirs in it.
fn own_directory(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    match fs::symlink_metadata(dir) {
        Ok(metadata) => {
            let user = rustix::process::geteuid().as_raw();
            let foreign = metadata.uid() != user && metadata.uid() != 0;
            if dir.starts_with("/tmp") && foreign {
                let text = format!("{shown} belongs to another user");
                return Err(Failure::new(Exit::Failed, text).hint("choose another --socket"));
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mode = if dir.starts_with("/run") { 0o755 } else { 0o700 };
            let made = fs::DirBuilder::new().mode(mode).create(dir);
            made.map_err(|e| Failure::io(format!("cannot make the directory {shown}"), &e))
        }
        Err(error) => Err(Failure::io(format!("cannot see {shown}"), &error)),
    }
}

/// Removes what a dead process left at `path`.
fn clear(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io(format!("cannot see {shown}"), &error)),
    };
    if !metadata.file_type().is_socket() {
        let text = format!("{shown} is there and is not a socket");
        return Err(Failure::new(Exit::Failed, text).hint("choose another --socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let text = format!("another node is running and listens at {shown}");
            let hint = "stop it first, or give this one its own --socket";
            Err(Failure::new(Exit::Failed, text).hint(hint))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| Failure::io(format!("cannot remove {shown}"), &e))
        }
        Err(error) => Err(Failure::io(format!("cannot tell who owns {shown}"), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("basalt-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory of the test's own");
        dir
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_refused() {
        let dir = scratch("socket");
        let path = dir.join("s");
        drop(UnixListener::bind(&path).expect("free"));
        assert!(path.exists(), "as a killed process leaves it");
        let bound = Bound::new(&path).expect("replaced");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o660);
        let refused = Bound::new(&path).expect_err("live");
        assert!(refused.text.contains("another node is running"), "{refused}");
        drop(bound);
        assert!(!path.exists());
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = scratch("file");
        let path = dir.join("precious");
        fs::write(&path, "data").expect("writable");
        let refused = Bound::new(&path).expect_err("no socket");
        assert!(refused.text.contains("not a socket"), "{refused}");
        assert_eq!(fs::read(&path).expect("there"), b"data");
        let long = dir.join("x".repeat(120));
        assert_eq!(Bound::new(&long).expect_err("too long").exit, Exit::Usage);
        fs::remove_dir_all(dir).expect("ours");
    }
}
