//! Runs a core on real time: spins while there is work, sleeps in its ring when there is none.

use super::Core;
use crate::uring::Ring;
use nvmeof_target::io::Now;
use std::time::Instant;

/// Shortest and longest time without work before a core sleeps.
const SPIN_MIN: Now = Now::from_micros(10);
const SPIN_MAX: Now = Now::from_micros(200);
/// Least time without work before a core sleeps that waits for a device of its own: to arm and to
/// disarm an interrupt are system calls, and all but slow disks answer before.
const SPIN_DEVICE: Now = Now::from_micros(500);
/// A sleep shorter than this would better have been spun through.
const SHORT_SLEEP: Now = Now::from_micros(100);
/// Longest sleep: counters are published, and shards look after their timers.
const SLEEP_MAX: Now = Now::from_millis(500);
/// Longest sleep with requests at the shards.
const SLEEP_BUSY_MAX: Now = Now::from_millis(5);
/// How often counters are published.
const PUBLISH_PERIOD: Now = Now::from_millis(200);

/// Monotonic time since the node started: the same for all its cores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "the one clock that all cores take time from")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "as above")]
    pub(crate) fn now(self) -> Now {
        Instant::now().duration_since(self.0)
    }
}

/// Runs `core` until it has stopped. `poll`: never sleeps.
pub(crate) fn run(core: &mut Core, ring: &Ring, clock: Clock, poll: bool) {
    let mut spin = SPIN_MIN;
    let mut idle_since = None;
    let mut next_publish = Now::ZERO;
    while !core.is_stopped() {
        let now = clock.now();
        if now >= next_publish {
            core.publish(ring.counters().enters);
            next_publish = now + PUBLISH_PERIOD;
        }
        let worked = core.turn(now);
        if ring.turn() > 0 || worked {
            idle_since = None;
            continue;
        }
        let idle_for = now - *idle_since.get_or_insert(now);
        let spin_now = if core.awaits_device() { spin.max(SPIN_DEVICE) } else { spin };
        if poll || idle_for < spin_now || core.must_poll() {
            std::hint::spin_loop();
            continue;
        }
        let asleep = sleep(core, ring, clock, now);
        idle_since = None;
        spin = if asleep < SHORT_SLEEP { spin * 2 } else { spin / 2 }.clamp(SPIN_MIN, SPIN_MAX);
    }
    core.publish(ring.counters().enters);
    // The last messages are on their way, and what the ring still holds is let go.
    ring.turn();
}

/// Sleeps until the deadline or something comes; how long that was.
fn sleep(core: &mut Core, ring: &Ring, clock: Clock, now: Now) -> Now {
    let longest = if core.in_flight() > 0 { SLEEP_BUSY_MAX } else { SLEEP_MAX };
    let timeout = core.deadline(now).map_or(longest, |at| at.saturating_sub(now).min(longest));
    if timeout.is_zero() {
        return SHORT_SLEEP;
    }
    core.rest();
    ring.announce_sleep();
    if !core.is_quiet() || !core.arm() {
        core.disarm();
        ring.stay_awake();
        return Now::ZERO;
    }
    ring.wait(Some(timeout));
    core.disarm();
    let asleep = clock.now() - now;
    core.note_sleep(asleep);
    asleep
}
