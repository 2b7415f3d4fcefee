//! A thread beside the plane that looks after the disks: whether one is slower than its peers, and
//! what those that the kernel drives say of themselves.

use super::health::HealthWatch;
use super::slow::{Period, SlowWatch, Verdict};
use super::{EventLog, Severity};
use crate::disk::kernel::{self, Access, Way};
use crate::disk::latency::{Distribution, Latencies};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a period of comparison is.
const PERIOD: Duration = Duration::from_secs(10);
/// SMART is read once in so many periods.
const SMART_PERIODS: u32 = 30;

/// One disk to look after.
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) rotational: bool,
    /// Of each of its shards.
    pub(super) latencies: Vec<Arc<Latencies>>,
    /// Of a disk of the kernel's; taken when it was told that it has been left.
    pub(super) way: Option<Way>,
}

/// What is told of a disk that is not accessed in a way that it might be.
fn way_lost(path: &str, access: Access, why: &str) -> String {
    let not = match access {
        Access::Plain | Access::Polled => "is driven with interrupts",
        Access::Passthrough => "is driven by way of the block layer, not past it",
    };
    format!("disk {path} {not}: {why}")
}

/// Starts the thread. It takes disks that come later, each in place of its former self, and ends
/// when what is returned is dropped.
pub(super) fn start(disks: Vec<Watched>, log: EventLog) -> Sender<Watched> {
    let (later, coming) = unbounded();
    // Without it the node serves all the same.
    let _ = std::thread::Builder::new().name("disk-watch".into()).spawn(move || {
        Watch::new(disks, log).run(&coming);
    });
    later
}

struct Watch {
    disks: Vec<Watched>,
    log: EventLog,
    before: Vec<Distribution>,
    slow: SlowWatch,
    health: Vec<HealthWatch>,
}

impl Watch {
    fn new(disks: Vec<Watched>, log: EventLog) -> Self {
        disks.iter().for_each(|disk| disk.tell_refused(&log));
        let before = disks.iter().map(Watched::read).collect();
        let health = disks.iter().map(|disk| HealthWatch::new(&disk.name)).collect();
        Self { disks, log, before, slow: SlowWatch::default(), health }
    }

    fn run(&mut self, coming: &Receiver<Watched>) {
        let mut periods = 0;
        loop {
            match coming.recv_timeout(PERIOD) {
                Ok(disk) => {
                    self.add(disk);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.compare();
            self.tell_ways();
            if periods % SMART_PERIODS == 0 {
                self.ask();
            }
            periods += 1;
        }
    }

    fn add(&mut self, disk: Watched) {
        disk.tell_refused(&self.log);
        let before = disk.read();
        match self.disks.iter().position(|known| known.name == disk.name) {
            Some(at) => {
                self.disks[at] = disk;
                self.before[at] = before;
            }
            None => {
                self.health.push(HealthWatch::new(&disk.name));
                self.disks.push(disk);
                self.before.push(before);
            }
        }
    }

    fn compare(&mut self) {
        let now: Vec<Distribution> = self.disks.iter().map(Watched::read).collect();
        let period = |((disk, now), before): ((&Watched, &Distribution), &Distribution)| Period {
            rotational: disk.rotational,
            latencies: now.since(before),
        };
        let periods: Vec<Period> =
            self.disks.iter().zip(&now).zip(&self.before).map(period).collect();
        self.before = now;
        for verdict in self.slow.see(&periods) {
            match verdict {
                Verdict::Slow { disk, percent, own, peers } => {
                    let text = format!(
                        "disk {}: slower than its peers: {percent} % of its operations take up to \
                         {} us, theirs {} us; if it stays so, replace it",
                        self.disks[disk].name,
                        own.as_micros(),
                        peers.as_micros()
                    );
                    self.log.note(Severity::Warning, "disk.slow", text);
                }
                Verdict::Well { disk } => {
                    let text = format!("disk {}: as fast as its peers", self.disks[disk].name);
                    self.log.note(Severity::Info, "disk.slow", text);
                }
            }
        }
    }

    /// Tells of each disk once that the kernel accesses it no longer as it did.
    fn tell_ways(&mut self) {
        for disk in &mut self.disks {
            let Some((access, why)) = disk.way.as_ref().and_then(Way::left) else { continue };
            self.log.note(Severity::Warning, access.event(), way_lost(&disk.name, access, why));
            disk.way = None;
        }
    }

    fn ask(&mut self) {
        let log = &self.log;
        for (disk, watch) in self.disks.iter().zip(&mut self.health) {
            if let Some(health) = kernel::health(&PathBuf::from(&disk.name)) {
                watch.see(health, &mut |severity, kind, text| log.note(severity, kind, text));
            }
        }
    }
}

impl Watched {
    /// Tells of a better way that a disk which was just opened does not go.
    fn tell_refused(&self, log: &EventLog) {
        if let Some((access, why)) = self.way.as_ref().and_then(Way::refused) {
            log.note(Severity::Warning, access.event(), way_lost(&self.name, access, why));
        }
    }

    fn read(&self) -> Distribution {
        let mut sum = Distribution::default();
        self.latencies.iter().for_each(|latencies| latencies.add_to(&mut sum));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_makes_an_event() {
        let disks: Vec<Watched> = (0..3)
            .map(|number| Watched {
                name: format!("disk-{number}"),
                rotational: false,
                latencies: vec![Arc::default(), Arc::default()],
                way: None,
            })
            .collect();
        let all: Vec<_> = disks.iter().map(|disk| disk.latencies.clone()).collect();
        let log = EventLog::new(|| 0);
        let mut watch = Watch::new(disks, log.clone());
        for _ in 0..20 {
            for (number, shards) in all.iter().enumerate() {
                let latency = Duration::from_millis(if number == 2 { 50 } else { 1 });
                shards.iter().for_each(|shard| (0..100).for_each(|_| shard.record(latency)));
            }
            watch.compare();
        }
        let events = log.since(0);
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].kind == "disk.slow" && events[0].text.contains("disk-2"), "{events:?}");
    }

    #[test]
    fn a_way_that_was_left_makes_one_event() {
        let polled = Way::new(Access::Polled, None);
        let passed = Way::new(Access::Passthrough, None);
        let disk = |name: &str, way: &Way| Watched {
            name: name.into(),
            rotational: false,
            latencies: Vec::new(),
            way: Some(way.clone()),
        };
        let log = EventLog::new(|| 0);
        let mut watch = Watch::new(vec![disk("a", &polled), disk("b", &passed)], log.clone());
        watch.tell_ways();
        assert!(log.since(0).is_empty());
        polled.leave(|| "refused".into());
        (0..3).for_each(|_| watch.tell_ways());
        passed.leave(|| "status 0x2".into());
        (0..3).for_each(|_| watch.tell_ways());
        let events = log.since(0);
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["disk.unpolled", "disk.passthrough"]);
        assert!(events[0].text.contains("disk a is driven with interrupts: refused"));
        assert!(events[1].text.contains("disk b") && events[1].text.contains("0x2"));
        // One that is opened anew may leave its way again.
        let again = Way::new(Access::Polled, None);
        watch.add(disk("a", &again));
        again.leave(|| "refused".into());
        watch.tell_ways();
        assert_eq!(log.since(0).len(), 3);
    }

    #[test]
    fn a_better_way_that_is_not_gone_makes_an_event_whenever_the_disk_comes() {
        let way = |refused| Way::new(Access::Plain, refused);
        let watched = |name: &str, way| Watched {
            name: name.into(),
            rotational: false,
            latencies: Vec::new(),
            way: Some(way),
        };
        let log = EventLog::new(|| 0);
        let polled = || Some((Access::Polled, "no ring".to_owned()));
        let first = vec![watched("a", way(polled())), watched("b", way(None))];
        let mut watch = Watch::new(first, log.clone());
        let told = |from| {
            let events = log.since(from).into_iter();
            events.map(|event| (event.kind, event.text)).collect::<Vec<_>>()
        };
        let event = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
        let unpolled = |disk| {
            event("disk.unpolled", &format!("disk {disk} is driven with interrupts: no ring"))
        };
        assert_eq!(told(0), [unpolled("a")]);
        (0..3).for_each(|_| watch.tell_ways());
        assert_eq!(told(1), [], "once");
        watch.add(watched("c", way(polled())));
        watch.add(watched("a", way(None)));
        watch.add(watched("b", way(Some((Access::Passthrough, "it is a file".into())))));
        let text = "disk b is driven by way of the block layer, not past it: it is a file";
        assert_eq!(told(1), [unpolled("c"), event("disk.passthrough", text)]);
    }
}
