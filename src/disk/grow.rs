//! `basalt disk grow`.

use super::medium::{self, Bench, Medium, Trust, opened};
use super::{Allocate, absolute};
use crate::failure::{Exit, Failure};
use crate::output::{Format, print, print_json};
use crate::size::Size;
use clap::Args;
use dataplane::disk;
use dataplane::disk::kernel::{OpenError, extend_file, reserve_file};
use dataplane::store::{self, GrowError};
use serde::Serialize;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// `basalt disk grow`.
#[derive(Debug, Args)]
pub struct GrowOptions {
    /// A disk whose device or file has become larger; no node may run on it
    pub path: PathBuf,
    /// Make the file this large first
    #[arg(long)]
    pub size: Option<Size>,
    /// How the file gets what is new
    #[arg(long, default_value = "reserved", requires = "size")]
    pub allocate: Allocate,
    /// What the operator accepts of a controller.
    #[command(flatten)]
    pub trust: Trust,
}

#[derive(Debug, Serialize)]
struct GrownDisk<'a> {
    path: &'a Path,
    uuid: Uuid,
    /// 0: it used all of its device already.
    added_bytes: u64,
    data_bytes: u64,
    /// How often it has grown.
    extensions: u32,
}

pub(super) fn grow(options: &GrowOptions, output: Format) -> Result<(), Failure> {
    let path = &options.path;
    let bench = Bench::trusting(options.trust)?;
    if let Some(Size(size)) = options.size {
        extend(&bench, path, size, options.allocate)?;
    }
    let medium = medium::open(path)?;
    let mut refused = None;
    let mut reserve = |range| {
        reserve(path, &medium, range).map_err(|error| {
            refused = Some(error);
            disk::Error::NoSpace
        })
    };
    let grown = store::grow(bench.drive(&medium)?, bench.pool(), &mut reserve);
    if let Some(error) = refused {
        return Err(opened(&error));
    }
    let grown = grown.map_err(|error| failed(&medium.name(), &error))?;
    let store::Grown { disk: uuid, added_bytes, data_bytes, extensions } = grown;
    if output == Format::Json {
        return print_json(&GrownDisk { path, uuid, added_bytes, data_bytes, extensions });
    }
    let (shown, room) = (path.display(), Size(data_bytes));
    if added_bytes == 0 {
        return print(&format!(
            "{shown} uses all of its device already: {room} for data. Enlarge the device first, or \
             a file by --size.\n"
        ));
    }
    print(&format!("{shown} has grown by {} to {room} for data.\n", Size(added_bytes)))
}

/// Makes the file of a disk larger.
fn extend(bench: &Bench, path: &Path, size: u64, allocate: Allocate) -> Result<(), Failure> {
    let usage = |text: String| Err(Failure::new(Exit::Usage, text));
    let medium = medium::open(path)?;
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    let Medium::Kernel(file) = &medium else {
        return usage(format!("{} is no file: it has the size that it has", path.display()));
    };
    if !is_file {
        return usage(format!("{} is no file: it has the size that it has", path.display()));
    }
    // Not a byte is added to what is no disk of ours.
    let probed = store::probe(bench.drive(&medium)?, bench.pool());
    probed.map_err(|error| failed(&medium.name(), &error.into()))?;
    let present = file.info().capacity;
    if size == present {
        return Ok(());
    }
    if size < present || !size.is_multiple_of(4096) {
        let text = "a disk only grows, to whole 4096 bytes; it has";
        return usage(format!("{text} {} ({present} bytes)", Size(present)));
    }
    let bar = medium::bar("writing", size - present);
    let made = extend_file(path, size, allocate.into(), &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    made.map_err(|error| opened(&error))
}

/// Has room for metadata reserved in a file, which may be sparse.
fn reserve(path: &Path, medium: &Medium, range: Range<u64>) -> Result<(), OpenError> {
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !is_file || !matches!(medium, Medium::Kernel(_)) {
        return Ok(());
    }
    match reserve_file(path, range) {
        Err(error @ OpenError::NoSpace { .. }) => Err(error),
        // A file system that cannot reserve: then the space comes with the writes.
        _ => Ok(()),
    }
}

fn failed(name: &str, error: &GrowError) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("{name}: {error}"));
    match error {
        GrowError::TooLittle { .. } => failure.hint("enlarge the device or file further"),
        GrowError::TooOften | GrowError::Largest => {
            failure.hint("add another disk, and move volumes to it")
        }
        GrowError::Mount(_) => {
            let absolute = absolute(Path::new(name));
            failure.hint(format!("`basalt disk list {absolute}` shows what is on it"))
        }
        GrowError::Disk(_) => failure.hint("run it again once the device is mended"),
    }
}
