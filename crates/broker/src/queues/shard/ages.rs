//! How long ago something was enqueued, whatever the system's clock has done since.
//!
//! ```text
//!  stamp     ────┐ step forward        stamps are the system's time at the start plus time since, and jump when
//!           ────/                      the system's clock goes ahead of them; they never fall
//!  uptime ──────────────────▶          where they jumped is kept, so that a stamp leads back to its uptime
//! ```
//! **Invariants.** In one life of the shard the age of a message is monotonic time: no step of the clock makes it
//! older. What an earlier life has enqueued is as old at the start of this one as the system's clock says then, and no
//! younger than new: a clock that was set back in between means later, not sooner.
//!
//! Deliberately absent: what is done with ages.

use std::collections::VecDeque;

use ferrymq_runtime::Clock;

/// How far the system's clock may be ahead before that is a step: readings are rounded.
const SLACK_MS: i64 = 5;
/// Steps that are remembered. What lies before them counts as younger than it is.
const STEPS_MAX: usize = 64;

/// The time of one shard.
#[derive(Debug)]
pub(super) struct Ages {
    clock: Clock,
    /// From this stamp on, at this uptime.
    scale: VecDeque<(i64, i64)>,
}

impl Ages {
    pub(super) fn new(clock: Clock) -> Ages {
        let start = (clock.system_ms(), uptime_ms(&clock));
        Ages { clock, scale: VecDeque::from([start]) }
    }

    /// Milliseconds since the process began.
    pub(super) fn now_ms(&self) -> i64 {
        uptime_ms(&self.clock)
    }

    /// The stamp of what is enqueued now.
    pub(super) fn stamp(&mut self) -> i64 {
        let (now_ms, system_ms) = (self.now_ms(), self.clock.system_ms());
        let (stamp, since_ms) = self.scale.back().copied().unwrap_or_default();
        let here = stamp.saturating_add(now_ms - since_ms);
        if system_ms <= here.saturating_add(SLACK_MS) {
            return here;
        }
        if self.scale.len() == STEPS_MAX {
            self.scale.remove(1);
        }
        self.scale.push_back((system_ms, now_ms));
        system_ms
    }

    /// The uptime, possibly negative, at which something was stamped, in an earlier life or in this one; too late
    /// rather than too early.
    pub(super) fn stamped_at(&self, stamp: i64, earlier: bool) -> i64 {
        let place = |at: usize| {
            let (from, since_ms) = self.scale[at];
            since_ms.saturating_add(stamp.saturating_sub(from))
        };
        if earlier {
            return place(0).min(self.scale[0].1);
        }
        let at = self.scale.iter().rposition(|(from, _)| *from <= stamp).unwrap_or(0);
        match self.scale.get(at + 1) {
            Some((_, next_ms)) => place(at).min(*next_ms),
            None => place(at),
        }
    }
}

fn uptime_ms(clock: &Clock) -> i64 {
    i64::try_from(clock.uptime().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn steps_of_the_clock_change_no_age() {
        let clock = Clock::starting_at(1_000_000);
        let mut ages = Ages::new(clock.clone());
        let mut stamps = Vec::new();
        for step_ms in [0, 3_600_000, -7_200_000, 50, 10_000_000, 3, -10_000_000, 90_000_000] {
            clock.step_wall(step_ms);
            stamps.push((ages.now_ms(), ages.stamp()));
            pass(1000).await;
            stamps.push((ages.now_ms(), ages.stamp()));
            pass(1000).await;
        }
        assert!(stamps.is_sorted(), "{stamps:?}");
        for (at_ms, stamp) in stamps {
            assert_eq!(ages.stamped_at(stamp, false), at_ms);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_life_is_as_old_as_the_clock_says() {
        let clock = Clock::starting_at(1_000_000);
        pass(500).await;
        let ages = Ages::new(clock);
        assert_eq!(ages.stamped_at(1_000_500 - 60_000, true), 500 - 60_000);
        // The clock was an hour ahead then: its messages begin to age now.
        assert_eq!(ages.stamped_at(4_600_500, true), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_younger() {
        let clock = Clock::starting_at(0);
        let mut ages = Ages::new(clock.clone());
        let mut stamps = Vec::new();
        for _ in 0..200 {
            clock.step_wall(100_000);
            stamps.push((ages.now_ms(), ages.stamp()));
            pass(1000).await;
        }
        assert_eq!(ages.scale.len(), STEPS_MAX);
        for (at_ms, stamp) in stamps {
            let told = ages.stamped_at(stamp, false);
            assert!((at_ms..=ages.now_ms()).contains(&told), "{at_ms} {told}");
        }
    }
}
