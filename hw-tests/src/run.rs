//! Runs scenarios: most one after the other, since a guest of several processors takes all that
//! this machine has; those with machines of one processor side by side.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::bed::{Bed, Kind, Maker};
use crate::node::Shape;
use crate::scenario::{Outcome, Run, Scenario};

/// What reports of failures say of wrong data, and of a node that ended by itself.
const NEVER_BY_CHANCE: &[&str] = &[
    "verify:",
    "verify failed",
    "differ",
    "ismatch",
    "orrupt",
    "checksum",
    "panicked",
    "assertion",
    "ended by itself",
    "lost",
    "stale",
    "foreign",
];

/// How a scenario ended after one try or several.
enum Ended {
    Well(Outcome),
    /// For good.
    Failed,
    /// It may be run again.
    Doubtful,
}

/// How many ended how.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Runs each scenario until it does not fail, at most `tries` times, small ones in `lanes` at
/// once; prints how each ended and how many so, and returns how many failed.
pub(crate) fn all(mut maker: Maker, scenarios: &[&Scenario], tries: usize, lanes: usize) -> u32 {
    let (small, others): (Vec<&Scenario>, Vec<&Scenario>) =
        scenarios.iter().partition(|scenario| matches!(scenario.run, Run::Small(_)));
    let mut counts = Counts::default();
    let mut bed: Option<Bed> = None;
    for scenario in others {
        counts.add(&tried(1..=tries, tries, &mut maker, &mut bed, scenario));
    }
    drop(bed);
    // What fails beside another is run again with the machine to itself.
    for scenario in side_by_side(&maker, small, tries, lanes, &mut counts) {
        counts.add(&tried(2..=tries, tries, &mut maker, &mut None, scenario));
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    counts.failed
}

impl Counts {
    fn add(&mut self, ended: &Ended) {
        match ended {
            Ended::Well(Outcome::Passed) => self.passed += 1,
            Ended::Well(Outcome::Skipped(_)) => self.skipped += 1,
            Ended::Failed | Ended::Doubtful => self.failed += 1,
        }
    }
}

/// Runs each scenario once, so many at a time, and returns those that may be run again.
fn side_by_side<'a>(
    maker: &Maker,
    scenarios: Vec<&'a Scenario>,
    tries: usize,
    lanes: usize,
    counts: &mut Counts,
) -> Vec<&'a Scenario> {
    let waiting = Mutex::new(VecDeque::from(scenarios));
    let ended = Mutex::new((counts, Vec::new()));
    thread::scope(|scope| {
        for lane in 1..=lanes {
            let mut maker = maker.lane(lane);
            let (waiting, ended) = (&waiting, &ended);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(scenario) = next else { return };
                    let how = tried(1..=1, tries, &mut maker, &mut None, scenario);
                    let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                    match how {
                        Ended::Doubtful => ended.1.push(scenario),
                        how => ended.0.add(&how),
                    }
                }
            });
        }
    });
    ended.into_inner().unwrap_or_else(PoisonError::into_inner).1
}

/// Makes these attempts of at most `tries`, until one does not fail.
fn tried(
    attempts: RangeInclusive<usize>,
    tries: usize,
    maker: &mut Maker,
    bed: &mut Option<Bed>,
    scenario: &Scenario,
) -> Ended {
    let name = scenario.name;
    for attempt in attempts {
        let started = Instant::now();
        let outcome = run_one(maker, bed, scenario);
        let took = started.elapsed().as_secs_f32();
        let error = match outcome {
            Ok(Outcome::Passed) => {
                println!("PASS {name} ({took:.1} s)");
                if attempt > 1 {
                    println!("AGAIN {name}: it failed at first, see above");
                }
                return Ended::Well(Outcome::Passed);
            }
            Ok(Outcome::Skipped(reason)) => {
                println!("SKIP {name}: {reason}");
                return Ended::Well(Outcome::Skipped(reason));
            }
            Err(error) => error,
        };
        let mut report = format!("({took:.1} s): {error:#}");
        if let Some(mut bed) = bed.take() {
            report += &format!("\n{}\n{}", bed.guest.diagnosis(), bed.node.log());
        }
        if attempt == tries || maker.is_broken || is_beyond_doubt(&report) {
            println!("FAIL {name} {report}");
            return Ended::Failed;
        }
        println!("{name} failed and is run again {report}");
    }
    Ended::Doubtful
}

/// Whether this failure tells of wrong data or of a node that stopped by itself, which no busy
/// machine and no other program can cause, so that once is enough.
fn is_beyond_doubt(report: &str) -> bool {
    NEVER_BY_CHANCE.iter().any(|word| report.contains(word))
}

fn run_one(maker: &mut Maker, bed: &mut Option<Bed>, scenario: &Scenario) -> Result<Outcome> {
    match scenario.run {
        Run::OnBed(shape, run) => {
            if shape == Shape::Wide && maker.kind != Kind::Basalt {
                let reason = "it looks into our own node".to_owned();
                return Ok(Outcome::Skipped(reason));
            }
            // Only one machine at a time.
            *bed = bed.take().filter(|bed| bed.shape == shape);
            if bed.is_none() {
                ensure!(!maker.is_broken, "there is nothing to run it on: see above");
                maker.is_broken = true;
                *bed = Some(maker.make(shape, None)?);
                maker.is_broken = false;
            }
            let bed = bed.as_mut().context("a bed was just made")?;
            let outcome = run(bed)?;
            bed.clear().context("after the scenario")?;
            Ok(outcome)
        }
        Run::Alone(run) | Run::Small(run) => {
            ensure!(!maker.is_broken, "there is nothing to run it on: see above");
            *bed = None;
            run(maker)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::bail;

    use super::*;
    use crate::image::Image;

    #[test]
    fn wrong_data_and_a_dead_node_are_not_tried_again() {
        for report in [
            "(1.0 s): fio: verify: bad magic header 0, wanted acca at file /dev/nvme0n1",
            "(1.0 s): cmp: EOF: - /dev/zero differ: byte 1, line 1",
            "(1.0 s): the node\nbasalt ended by itself (signal: 6); its log ends:\n",
            "(1.0 s): thread 'core-0' panicked at store/shard.rs",
        ] {
            assert!(is_beyond_doubt(report), "{report}");
        }
        assert!(!is_beyond_doubt("(90.0 s): `connect` took longer than 90 s in the guest:\n"));
    }

    #[test]
    fn small_scenarios_that_fail_are_run_again_unless_data_were_wrong() {
        static BUSY: AtomicU32 = AtomicU32::new(0);
        static LATE: AtomicU32 = AtomicU32::new(0);
        static WRONG: AtomicU32 = AtomicU32::new(0);
        fn busy(_: &mut Maker) -> Result<Outcome> {
            ensure!(BUSY.fetch_add(1, Ordering::Relaxed) > 0, "too busy");
            Ok(Outcome::Passed)
        }
        fn late(_: &mut Maker) -> Result<Outcome> {
            LATE.fetch_add(1, Ordering::Relaxed);
            bail!("too late")
        }
        fn wrong(_: &mut Maker) -> Result<Outcome> {
            WRONG.fetch_add(1, Ordering::Relaxed);
            bail!("these blocks differ")
        }
        let small = |name, run| Scenario { name, about: "", run: Run::Small(run) };
        let scenarios = [small("busy", busy), small("late", late), small("wrong", wrong)];
        let scenarios: Vec<&Scenario> = scenarios.iter().collect();
        let empty = PathBuf::new;
        let image = Image { kernel: empty(), initramfs: empty(), root: empty() };
        let (kind, binary, folder) = (Kind::Basalt, empty(), empty());
        let maker = Maker { image, kind, binary, folder, made: 0, is_broken: false };
        assert_eq!(all(maker, &scenarios, 2, 2), 2);
        let counts = [&BUSY, &LATE, &WRONG].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [2, 2, 1]);
    }
}
