//! Secrets for CHAP: from files that nobody else may read, or from standard input; never from the
//! command line, which everybody on the machine sees.

use crate::failure::{Exit, Failure};
use crate::output::note;
use clap::Args;
use dataplane::node::{Chap, Password};
use std::fs::File;
use std::io::{BufRead, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Most bytes of a file that are read: secrets are shorter.
const SECRET_FILE_MAX: u64 = 4096;

/// How an initiator proves who it is.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Have an iSCSI initiator prove by CHAP that it is this user
    #[arg(long, value_name = "USER")]
    pub chap: Option<String>,
    /// File with its secret, 12 to 255 bytes, that only its owner may read [default: standard
    /// input]
    #[arg(long, value_name = "PATH", requires = "chap")]
    pub secret_file: Option<PathBuf>,
    /// Prove to the initiator that the target is this user
    #[arg(long, value_name = "USER", requires = "chap", requires = "target_secret_file")]
    pub target_user: Option<String>,
    /// File with the target's secret
    #[arg(long, value_name = "PATH", requires = "target_user")]
    pub target_secret_file: Option<PathBuf>,
}

/// Reads the secrets that the options name.
pub(super) fn read(options: &Options) -> Result<Option<Chap>, Failure> {
    let Some(user) = options.chap.clone() else { return Ok(None) };
    let secret = match &options.secret_file {
        Some(path) => from_file(path)?,
        None => from_input()?,
    };
    let target = match (&options.target_user, &options.target_secret_file) {
        (Some(user), Some(path)) => Some((user.clone(), from_file(path)?)),
        _ => None,
    };
    Ok(Some(Chap { user, secret, target }))
}

fn from_file(path: &Path) -> Result<Password, Failure> {
    let failed = |error| Failure::io(path.display(), &error);
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        let text = format!("{}: others may read this secret", path.display());
        let hint = format!("chmod 600 {}", path.display());
        return Err(Failure::new(Exit::Usage, text).hint(hint));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(SECRET_FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(without_end(&text))
}

fn from_input() -> Result<Password, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        note("The secret, and then Enter (it is shown as you type; --secret-file avoids that):");
    }
    let mut text = Zeroizing::new(String::new());
    let line = input.lock().read_line(&mut text);
    line.map_err(|error| Failure::io("standard input", &error))?;
    Ok(without_end(&text))
}

/// A secret without the end of its line.
fn without_end(text: &str) -> Password {
    Password(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let path = std::env::temp_dir().join(format!("basalt-secret-{}", std::process::id()));
        std::fs::write(&path, "a secret of twelve\n").expect("a file");
        let set = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("ours");
        };
        set(0o644);
        let refused = from_file(&path).expect_err("others may read it").to_string();
        assert!(refused.contains("others may read") && !refused.contains("twelve"), "{refused}");
        set(0o600);
        let read = from_file(&path).expect("only ours");
        assert_eq!(read.0.as_str(), "a secret of twelve");
        assert_eq!(format!("{read:?}"), "Password");
        std::fs::remove_file(&path).expect("ours");
    }
}
