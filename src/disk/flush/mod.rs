//! `basalt disk check-flush`: does a drive keep what it said that it flushed?
//!
//! A writer on the machine under test fills slots of a disk with rising numbers, flushes, and only
//! then tells a verifier on another machine which numbers must last. The power is cut; after it is
//! back the same writer finds its slots and sends what they hold. A slot that holds less than was
//! told is a lie of the drive, of its controller, or of what stands between.

mod ledger;
mod slot;
#[cfg(test)]
mod tests;

use super::content::{self, Content};
use super::medium::{self, Bench, Medium, Trust};
use crate::failure::{Exit, Failure};
use crate::output::{Format, print, print_json};
use crate::size::Size;
use clap::{Args, Subcommand};
use dataplane::disk::kernel::{Allocation, create_file};
use dataplane::disk::{Completion, Disk, Op, WriteData};
use dataplane::dma::{Buf, Pool};
use ledger::{Connection, Verdict};
use serde::Serialize;
use slot::{SLOT, Slot};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Writes in flight between two flushes.
const BATCH: usize = 32;

/// `basalt disk check-flush`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Remember what writers tell, on a machine whose power stays on; ends with SIGINT
    Verifier {
        /// Where to listen
        #[arg(long, default_value = "0.0.0.0:7420")]
        listen: SocketAddr,
    },
    /// Write and flush until the power goes; after that, say what is left
    Writer(WriterOptions),
}

/// `basalt disk check-flush writer`.
#[derive(Debug, Args)]
pub struct WriterOptions {
    /// A file to make, a block device, or pci:ADDRESS; all that it holds is lost
    pub disk: PathBuf,
    /// The verifier
    #[arg(long, value_name = "ADDRESS")]
    pub verifier: SocketAddr,
    /// How much of the disk to write
    #[arg(long, default_value = "64MiB")]
    pub size: Size,
    /// Stop after so many seconds instead of when the power goes
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Overwrite what is on the disk
    #[arg(long)]
    pub force: bool,
    /// What the operator accepts of a controller.
    #[command(flatten)]
    pub trust: Trust,
}

/// Runs the command.
///
/// # Errors
/// [`Exit::Damage`] when the drive has lost what it flushed.
pub(super) fn run(command: &Command, output: Format) -> Result<(), Failure> {
    match command {
        Command::Verifier { listen } => {
            let listener = TcpListener::bind(listen)
                .map_err(|e| Failure::io(format!("cannot listen on {listen}"), &e))?;
            eprintln!("basalt: waiting for writers on {listen}");
            ledger::serve(&listener, None);
            Ok(())
        }
        Command::Writer(options) => write_or_verify(options, output),
    }
}

#[derive(Debug, Serialize)]
struct Report {
    session: Uuid,
    checked: u64,
    lost: u64,
    first_lost: Option<u64>,
}

fn write_or_verify(options: &WriterOptions, output: Format) -> Result<(), Failure> {
    let is_device = medium::DeviceName::parse(&options.disk).is_some();
    if !is_device && !options.disk.exists() {
        create_file(&options.disk, options.size.0, Allocation::Written, &mut |_| {})
            .map_err(|error| medium::opened(&error))?;
    }
    let bench = Bench::trusting(options.trust)?;
    let medium = medium::open(&options.disk)?;
    let mut disk = bench.drive(&medium)?;
    let Some(session) = find_session(&mut *disk, bench.pool())? else {
        drop(disk);
        return write(options, &bench, &medium);
    };
    let report = verify(&mut *disk, bench.pool(), session, options.verifier)?;
    let Report { checked, lost, .. } = report;
    let text = if lost == 0 {
        format!("All of {checked} slots hold what was flushed.\n")
    } else {
        format!("{lost} of {checked} slots have lost what was flushed.\n")
    };
    if output == Format::Json {
        print_json(&report)?
    } else {
        print(&text)?
    }
    // Whoever runs it once more begins a new session.
    forget(&mut *disk, bench.pool())?;
    if lost == 0 {
        return Ok(());
    }
    let hint = "do not trust this drive's cache: switch it off, or use another drive";
    Err(Failure::new(Exit::Damage, "the drive does not keep what it flushed").hint(hint))
}

/// Writes until the time is over or the power goes.
fn write(options: &WriterOptions, bench: &Bench, medium: &Medium) -> Result<(), Failure> {
    match content::of(&options.disk, Some((bench, medium)))? {
        Content::Empty => {}
        _ if options.force => {}
        _ => {
            let text = format!("{} is not empty", options.disk.display());
            let hint = "if its data are not needed, give --force to overwrite it";
            return Err(Failure::new(Exit::Refused, text).hint(hint));
        }
    }
    let mut disk = bench.drive(medium)?;
    let slots = options.size.0.min(disk.info().capacity) / SLOT as u64;
    let session = Uuid::new_v4();
    let mut writer = Writer::new(&mut *disk, bench.pool(), session, slots);
    writer.fill()?;
    let mut verifier = Connection::open(options.verifier, session, slots)?;
    let until = options.seconds.map(Duration::from_secs);
    let start = now();
    let mut flushes = 0_u64;
    eprintln!("basalt: session {session}: writing {slots} slots; cut the power when you like");
    while until.is_none_or(|until| start.elapsed() < until) {
        let written = writer.batch()?;
        verifier.tell(&written)?;
        flushes += 1;
    }
    print(&format!("{flushes} flushes; run it again to verify.\n"))
}

#[expect(clippy::disallowed_methods, reason = "a tool, on real time")]
fn now() -> Instant {
    Instant::now()
}

/// Writes slots.
struct Writer<'a> {
    disk: &'a mut dyn Disk,
    pool: &'a Pool,
    session: Uuid,
    numbers: Vec<u64>,
    next: u64,
    random: u64,
}

impl<'a> Writer<'a> {
    fn new(disk: &'a mut dyn Disk, pool: &'a Pool, session: Uuid, slots: u64) -> Self {
        let random = session.as_u64_pair().0 | 1;
        Self { disk, pool, session, numbers: vec![0; slots as usize], next: 1, random }
    }

    /// Gives every slot its first number.
    fn fill(&mut self) -> Result<(), Failure> {
        let all: Vec<u64> = (0..self.numbers.len() as u64).collect();
        for part in all.chunks(BATCH) {
            self.put(part)?;
        }
        Ok(())
    }

    /// Writes some slots anew and flushes; what they hold now must last.
    fn batch(&mut self) -> Result<Vec<(u64, u64)>, Failure> {
        let mut places = Vec::with_capacity(BATCH);
        while places.len() < BATCH.min(self.numbers.len()) {
            // xorshift64: any spread will do.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let place = self.random % self.numbers.len() as u64;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        self.put(&places)?;
        Ok(places.into_iter().map(|place| (place, self.numbers[place as usize])).collect())
    }

    fn put(&mut self, places: &[u64]) -> Result<(), Failure> {
        let ops = places.iter().map(|&place| {
            let number = self.next;
            self.next += 1;
            self.numbers[place as usize] = number;
            let slot = Slot { session: self.session, place, number };
            let mut buf = take(self.pool, SLOT);
            slot.encode(&mut buf);
            let data = WriteData::One(buf.freeze());
            Op::Write { offset: place * SLOT as u64, data, fua: false }
        });
        let ops: Vec<Op> = ops.collect();
        execute(self.disk, ops)?;
        execute(self.disk, vec![Op::Flush]).map(drop)
    }
}

/// The session of a writer whose slots are on the disk.
fn find_session(disk: &mut dyn Disk, pool: &Pool) -> Result<Option<Uuid>, Failure> {
    let bytes = read(disk, pool, 0, SLOT)?;
    Ok(Slot::decode(&bytes).filter(|slot| slot.place == 0).map(|slot| slot.session))
}

fn verify(
    disk: &mut dyn Disk,
    pool: &Pool,
    session: Uuid,
    verifier: SocketAddr,
) -> Result<Report, Failure> {
    const PIECE: usize = 128 << 10;
    let mut connection = Connection::open(verifier, session, 0)?;
    let slots = connection.slots();
    if slots == 0 {
        let text = format!("the verifier knows nothing of session {session}");
        let hint = "was it restarted? begin anew: wipe the disk, then run this again";
        return Err(Failure::new(Exit::Failed, text).hint(hint));
    }
    let end = (slots * SLOT as u64).min(disk.info().capacity);
    let mut offset = 0;
    while offset < end {
        let len = PIECE.min((end - offset) as usize);
        let bytes = read(disk, pool, offset, len)?;
        let found = bytes.chunks_exact(SLOT).enumerate().map(|(index, bytes)| {
            let place = offset / SLOT as u64 + index as u64;
            let slot = Slot::decode(bytes);
            let good = slot.filter(|slot| slot.session == session && slot.place == place);
            (place, good.map_or(0, |slot| slot.number))
        });
        connection.show(&found.collect::<Vec<_>>())?;
        offset += len as u64;
    }
    let Verdict { checked, lost, first_lost } = connection.verdict()?;
    Ok(Report { session, checked, lost, first_lost })
}

fn forget(disk: &mut dyn Disk, pool: &Pool) -> Result<(), Failure> {
    let mut buf = take(pool, SLOT);
    buf.fill(0);
    let data = WriteData::One(buf.freeze());
    execute(disk, vec![Op::Write { offset: 0, data, fua: false }])?;
    execute(disk, vec![Op::Flush]).map(drop)
}

fn read(disk: &mut dyn Disk, pool: &Pool, offset: u64, len: usize) -> Result<Buf, Failure> {
    let op = Op::Read { offset, buf: take(pool, len) };
    let ended = execute(disk, vec![op])?.swap_remove(0);
    let Op::Read { buf, .. } = ended.op else { unreachable!("a read comes back as one") };
    Ok(buf)
}

fn take(pool: &Pool, len: usize) -> Buf {
    pool.alloc(len).expect("a tool holds few buffers at once")
}

/// Executes operations side by side, and waits for all.
fn execute(disk: &mut dyn Disk, ops: Vec<Op>) -> Result<Vec<Completion>, Failure> {
    let count = ops.len();
    assert!(count <= disk.info().queue_depth, "{count} operations at once");
    for (tag, op) in ops.into_iter().enumerate() {
        disk.submit(tag as u64, op);
    }
    let mut done = Vec::with_capacity(count);
    while done.len() < count {
        disk.poll(&mut done);
    }
    let name = &disk.info().name;
    match done.iter().find_map(|completion| completion.result.err()) {
        None => Ok(done),
        Some(error) => Err(Failure::new(Exit::Failed, format!("{name}: {error}"))),
    }
}
