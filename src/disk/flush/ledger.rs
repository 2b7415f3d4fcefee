//! What must last: kept by the verifier, told by writers, over TCP in lines of text.
//!
//! ```text
//! writer                                  verifier
//! basalt-flush 1 SESSION SLOTS            slots SLOTS       what is known of the session, or 0
//! ack PLACE:NUMBER ...                    ok
//! have PLACE:NUMBER ...                   ok
//! verdict                                 verdict CHECKED LOST FIRST
//! ```

use crate::failure::{Exit, Failure};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Longest line in bytes: a batch of slots, or a piece of the disk.
const LINE_MAX: u64 = 64 << 10;
/// Most slots of a session, and sessions of a verifier.
const SLOTS_MAX: u64 = 1 << 24;
const SESSIONS_MAX: usize = 256;
/// A peer that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What the verifier found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    pub(super) checked: u64,
    pub(super) lost: u64,
    pub(super) first_lost: Option<u64>,
}

/// The writer's end.
pub(super) struct Connection {
    reader: BufReader<TcpStream>,
    slots: u64,
}

impl Connection {
    /// Opens a session with so many slots; none: one that the verifier may know.
    pub(super) fn open(verifier: SocketAddr, session: Uuid, slots: u64) -> Result<Self, Failure> {
        let unreachable = |e: io::Error| {
            let hint = "start it there: `basalt disk check-flush verifier`";
            Failure::io(format!("no verifier at {verifier}"), &e).hint(hint)
        };
        let stream = TcpStream::connect(verifier).map_err(unreachable)?;
        let set_up =
            stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(SILENCE_MAX)));
        set_up.map_err(unreachable)?;
        let mut connection = Self { reader: BufReader::new(stream), slots: 0 };
        let answer = connection.ask(&format!("basalt-flush 1 {session} {slots}"))?;
        let known = answer.strip_prefix("slots ").and_then(|count| count.parse().ok());
        connection.slots = known.ok_or_else(|| strange(&answer))?;
        Ok(connection)
    }

    /// Slots that the verifier knows.
    pub(super) fn slots(&self) -> u64 {
        self.slots
    }

    /// Tells what must last from now on.
    pub(super) fn tell(&mut self, slots: &[(u64, u64)]) -> Result<(), Failure> {
        self.send("ack", slots)
    }

    /// Shows what is there.
    pub(super) fn show(&mut self, slots: &[(u64, u64)]) -> Result<(), Failure> {
        self.send("have", slots)
    }

    /// What comes of it.
    pub(super) fn verdict(&mut self) -> Result<Verdict, Failure> {
        let answer = self.ask("verdict")?;
        let numbers: Vec<u64> =
            answer.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
        let [checked, lost, first] = numbers[..] else { return Err(strange(&answer)) };
        Ok(Verdict { checked, lost, first_lost: (lost > 0).then_some(first) })
    }

    fn send(&mut self, what: &str, slots: &[(u64, u64)]) -> Result<(), Failure> {
        let mut line = what.to_owned();
        for (place, number) in slots {
            write!(line, " {place}:{number}").expect("a String takes everything");
        }
        let answer = self.ask(&line)?;
        if answer == "ok" { Ok(()) } else { Err(strange(&answer)) }
    }

    fn ask(&mut self, line: &str) -> Result<String, Failure> {
        let lost = |e: io::Error| Failure::io("the verifier is gone", &e);
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes()).map_err(lost)?;
        match read_line(&mut self.reader).map_err(lost)? {
            Some(answer) => Ok(answer),
            None => Err(lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn strange(answer: &str) -> Failure {
    let shown: String = answer.chars().take(80).collect();
    Failure::new(Exit::Failed, format!("the verifier answers {shown:?}"))
}

/// Numbers that must last, by session: at least so new each slot has to be.
type Sessions = Arc<Mutex<HashMap<Uuid, Vec<u64>>>>;

/// Serves writers, each on a thread, for ever or until so many connections have ended.
pub(super) fn serve(listener: &TcpListener, connections: Option<usize>) {
    let sessions = Sessions::default();
    let streams = listener.incoming().take(connections.unwrap_or(usize::MAX));
    let threads = streams.filter_map(Result::ok).map(|stream| {
        let sessions = Arc::clone(&sessions);
        std::thread::spawn(move || {
            let peer = stream.peer_addr();
            if let (Err(error), Ok(peer)) = (attend(stream, &sessions), peer) {
                eprintln!("basalt: writer {peer}: {error}");
            }
        })
    });
    for thread in threads {
        if connections.is_some() {
            let _ = thread.join();
        }
    }
}

fn attend(stream: TcpStream, sessions: &Sessions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(hello) = read_line(&mut reader)? else { return Ok(()) };
    let words: Vec<&str> = hello.split(' ').collect();
    let ["basalt-flush", "1", session, slots] = words[..] else { return Err(bad("no writer")) };
    let session = Uuid::parse_str(session).map_err(|_| bad("no session"))?;
    let slots: u64 = slots.parse().map_err(|_| bad("no number of slots"))?;
    if slots > SLOTS_MAX {
        return Err(bad("too many slots"));
    }
    let known = {
        let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if slots > 0 && (sessions.len() < SESSIONS_MAX || sessions.contains_key(&session)) {
            sessions.insert(session, vec![0; slots as usize]);
        }
        sessions.get(&session).map_or(0, Vec::len)
    };
    reader.get_mut().write_all(format!("slots {known}\n").as_bytes())?;
    let mut verdict = Verdict::default();
    while let Some(line) = read_line(&mut reader)? {
        let answer = {
            let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
            let numbers = sessions.get_mut(&session).ok_or_else(|| bad("unknown session"))?;
            take(&line, numbers, &mut verdict).ok_or_else(|| bad("a line that makes no sense"))?
        };
        reader.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Takes one line and gives the answer; `None` if it makes no sense.
fn take(line: &str, numbers: &mut [u64], verdict: &mut Verdict) -> Option<String> {
    let mut words = line.split(' ');
    let what = words.next()?;
    for word in words {
        let (place, number) = word.split_once(':')?;
        let (place, number): (usize, u64) = (place.parse().ok()?, number.parse().ok()?);
        let must_last = numbers.get_mut(place)?;
        match what {
            "ack" => *must_last = number.max(*must_last),
            "have" => {
                verdict.checked += 1;
                if number < *must_last {
                    verdict.lost += 1;
                    verdict.first_lost.get_or_insert(place as u64);
                }
            }
            _ => return None,
        }
    }
    match what {
        "ack" | "have" => Some("ok\n".to_owned()),
        "verdict" => {
            let Verdict { checked, lost, first_lost } = *verdict;
            Some(format!("verdict {checked} {lost} {}\n", first_lost.unwrap_or(0)))
        }
        _ => None,
    }
}

/// A line without its end; `None` at the end of the stream.
fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    match line.pop() {
        Some('\n') => Ok(Some(line)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end")),
    }
}
