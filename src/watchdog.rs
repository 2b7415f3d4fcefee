//! The service manager's watchdog: told that the node lives, as long as every core of it answers.

use crate::plane::Node;
use dataplane::node::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Calls `alive` twice in each `period` of the watchdog, and not while a core of the node does not
/// answer: such a node is one for the service manager to restart. Never ends.
pub async fn feed(node: Arc<dyn Node>, period: Duration, alive: impl Fn()) {
    let mut ticks = tokio::time::interval(period / 2);
    // What was not said in time is not made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let node = Arc::clone(&node);
        let answer = tokio::task::spawn_blocking(move || node.call(Command::Ping)).await;
        if matches!(answer, Ok(Ok(_))) {
            alive();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::fake::Fake;
    use std::sync::atomic::Ordering;
    use tokio::sync::mpsc::unbounded_channel;

    #[tokio::test]
    async fn a_live_node_is_told_of_and_a_stalled_one_is_not() {
        let node = Arc::new(Fake::default());
        let period = Duration::from_millis(20);
        let (alive, mut heard) = unbounded_channel();
        let feeding = feed(node.clone(), period, move || {
            let _ = alive.send(());
        });
        let feeding = tokio::spawn(feeding);
        for _ in 0..5 {
            heard.recv().await.expect("it goes on");
        }
        node.is_stalled.store(true, Ordering::Relaxed);
        while node.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(period).await;
        }
        while heard.try_recv().is_ok() {}
        tokio::time::sleep(10 * period).await;
        assert!(heard.try_recv().is_err(), "a core does not answer");
        node.is_stalled.store(false, Ordering::Relaxed);
        for _ in 0..5 {
            heard.recv().await.expect("it answers again");
        }
        feeding.abort();
    }
}
