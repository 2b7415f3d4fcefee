//! Our end of the guest's virtio port: scripts go in, what they printed comes out.
//!
//! The protocol is described in `guest/guest-init`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// The guest ends a script at its limit; we wait a little longer for its last words.
const GRACE: Duration = Duration::from_secs(10);

/// How a script ended.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) printed: String,
}

type Waiting = Arc<Mutex<HashMap<u64, Sender<Done>>>>;

/// The connection to a guest.
pub(crate) struct Agent {
    stream: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU64,
    greeting: Job,
}

/// A script that runs in the guest.
pub(crate) struct Job {
    answer: Receiver<Done>,
    script: String,
    limit: Duration,
}

impl Agent {
    /// Serves a connection that QEMU has made.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let waiting = Waiting::default();
        // The guest greets as if a script 0 had run.
        let greeting = register(&waiting, 0, "", Duration::ZERO);
        let reader = stream.try_clone()?;
        let answers = Arc::clone(&waiting);
        thread::spawn(move || {
            let _ = deliver(reader, &answers);
            // The guest is gone: nobody gets an answer any more.
            answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Self { stream: Mutex::new(stream), waiting, next: AtomicU64::new(1), greeting })
    }

    /// Waits until the guest is up and returns its kernel's release.
    pub(crate) fn greeting(&self, limit: Duration) -> Result<String> {
        let done = self.greeting.answer.recv_timeout(limit);
        let done = done.map_err(|_| anyhow!("the guest did not come up"))?;
        Ok(done.printed.trim().to_owned())
    }

    /// Starts a script; the guest kills it after `limit`.
    pub(crate) fn start(&self, script: &str, limit: Duration) -> Result<Job> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let job = register(&self.waiting, id, script, limit);
        let mut message = format!("{id} {} {}\n", limit.as_secs().max(1), script.len());
        message.push_str(script);
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(message.as_bytes()).context("the guest is gone")?;
        Ok(job)
    }
}

impl Job {
    pub(crate) fn script(&self) -> &str {
        &self.script
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits for the end. `limit` counts from now.
    pub(crate) fn wait(self, limit: Duration) -> Result<Done> {
        let answer = self.answer.recv_timeout(limit + GRACE);
        let script = self.script.trim().lines().next().unwrap_or_default();
        answer.map_err(|_| anyhow!("no answer from the guest to `{script}` in {limit:?}"))
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        match self.answer.try_recv() {
            Ok(done) => {
                // Put it back for `wait`.
                let (sender, receiver) = channel();
                let _ = sender.send(done);
                self.answer = receiver;
                false
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => true,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => false,
        }
    }
}

fn register(waiting: &Waiting, id: u64, script: &str, limit: Duration) -> Job {
    let (sender, answer) = channel();
    waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
    Job { answer, script: script.to_owned(), limit }
}

/// Reads answers until the connection ends.
fn deliver(stream: UnixStream, waiting: &Waiting) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let mut next = || words.next().with_context(|| format!("not an answer: {line}"));
        let (id, code, size) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
        let mut printed = vec![0; size];
        stream.read_exact(&mut printed)?;
        let printed = String::from_utf8_lossy(&printed).into_owned();
        let sender = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(sender) = sender {
            let _ = sender.send(Done { code, printed });
        }
    }
}
