//! Which time to go by when the system's clock steps: believed time, and the steps not yet believed.
//!
//! The system's clock is set wrong, is corrected, and goes on while nobody runs here; from inside these cannot be
//! told apart. So believed time advances with monotonic time, and a step, forward or back, in a run or between
//! two, is taken over only once the broker has run for as long as the step is long, [`CONFIRMED_AFTER_MS`] at
//! most. Until then there is time to correct a wrong clock; afterwards whoever waits for old records
//! to go has lost no more than that. A correction cancels the step that it corrects. See `docs/adr/0005`.
//!
//! [`ferrymq_runtime::Clock`] says how the two are used: what expires is compared with the earlier of believed
//! and system time, what is stamped gets the later.
//!
//! **Invariants.** A step of the system's clock alone never moves [`Clock::expiry_ms`] forward. What is believed is
//! stored, so that a restart with a wrong clock is a step like any other. `trust-clock` takes over every
//! step at once, and nothing else does.
//!
//! Deliberately absent: asking anybody else for the time. A record stamped while the clock was behind seems
//! older by that much once the correction is believed.

use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::Clock;
use ferrymq_storage::{ErrorKind, MetaStore, Put, StorageError};
use serde::{Deserialize, Serialize};

use crate::broker::{decode, encode};

/// How long the broker runs at most before it believes a step.
const CONFIRMED_AFTER_MS: i64 = 24 * 60 * 60 * 1000;
/// Less than this is the two clocks' different pace.
const PACE_MS: i64 = 1_000;
/// A step from here on is told to the operator.
const TOLD_MS: i64 = 60 * 60 * 1000;
/// Steps remembered one by one; beyond that, the two oldest become one.
const STEPS_MAX: usize = 16;
/// How often what is believed is stored, at most.
const STORED_EVERY: Duration = Duration::from_secs(60);
/// The version of the stored form.
const STORED_VERSION: u32 = 1;
/// Where it lies.
const KEY: &str = "clock/believed";

/// A step of the system's clock that is not believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// How far, in milliseconds; negative: back.
    by_ms: i64,
    /// How long the broker must still run until it is believed.
    left_ms: i64,
}

/// Believed time at one moment. Believed time and all steps together are the system's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Believed {
    v: u32,
    /// Milliseconds since 1970.
    ms: i64,
    /// Oldest first.
    steps: Vec<Step>,
}

impl Believed {
    fn new(ms: i64) -> Believed {
        Believed { v: STORED_VERSION, ms, steps: Vec::new() }
    }

    /// Takes in that the broker has run for `passed_ms` and the system's clock shows `system_ms`. Returns the
    /// step that is new, if there is one.
    fn observe(&mut self, passed_ms: i64, system_ms: i64) -> Option<Step> {
        self.ms = self.ms.saturating_add(passed_ms);
        for step in &mut self.steps {
            step.left_ms = step.left_ms.saturating_sub(passed_ms);
        }
        let confirmed = self.steps.iter().filter(|step| step.left_ms <= 0);
        self.ms = confirmed.fold(self.ms, |ms, step| ms.saturating_add(step.by_ms));
        self.steps.retain(|step| step.left_ms > 0);
        let expected = self.steps.iter().fold(self.ms, |ms, step| ms.saturating_add(step.by_ms));
        let mut by_ms = system_ms.saturating_sub(expected);
        if by_ms.saturating_abs() > PACE_MS {
            by_ms = self.cancel(by_ms);
        }
        if by_ms.saturating_abs() <= PACE_MS {
            self.ms = self.ms.saturating_add(by_ms);
            return None;
        }
        let step = Step { by_ms, left_ms: by_ms.saturating_abs().min(CONFIRMED_AFTER_MS) };
        if self.steps.len() == STEPS_MAX {
            let oldest = self.steps.remove(0);
            let next = &mut self.steps[0];
            next.by_ms = next.by_ms.saturating_add(oldest.by_ms);
            next.left_ms = next.left_ms.max(oldest.left_ms);
        }
        self.steps.push(step);
        Some(step)
    }

    /// Lets a step undo those before it that go the other way, the newest first; returns what is left of it.
    fn cancel(&mut self, mut by_ms: i64) -> i64 {
        while let Some(newest) = self.steps.last_mut()
            && by_ms != 0
            && (newest.by_ms > 0) != (by_ms > 0)
        {
            if newest.by_ms.saturating_abs() > by_ms.saturating_abs() {
                newest.by_ms = newest.by_ms.saturating_add(by_ms);
                return 0;
            }
            by_ms = by_ms.saturating_add(newest.by_ms);
            self.steps.pop();
        }
        by_ms
    }
}

/// Keeps a clock's believed time, in memory and in the store.
pub(crate) struct Keeper {
    meta: Arc<dyn MetaStore>,
    clock: Clock,
    /// Whether every step is believed at once.
    trust: bool,
    believed: Believed,
    looked: Duration,
    stored: Option<Duration>,
}

impl Keeper {
    /// Reads what was believed and compares the clock with it.
    ///
    /// # Errors
    /// Whatever the store answers; `Internal` for a record that cannot be read.
    pub(crate) async fn open(
        meta: Arc<dyn MetaStore>,
        clock: Clock,
        trust: bool,
    ) -> Result<Keeper, StorageError> {
        let believed = match meta.get(KEY).await? {
            None => Believed::new(clock.system_ms()),
            Some(entry) => decode::<Believed>(&entry)?,
        };
        if believed.v != STORED_VERSION {
            let text = format!("stored record {KEY} has version {}: a newer FerryMQ wrote it", believed.v);
            return Err(StorageError::new(ErrorKind::Internal, text));
        }
        let looked = clock.uptime();
        let mut keeper = Keeper { meta, clock, trust, believed, looked, stored: None };
        keeper.look().await?;
        Ok(keeper)
    }

    /// Looks at the system's clock, sets believed time by it, and stores that once in a while.
    ///
    /// # Errors
    /// Whatever the store answers; believed time is set all the same.
    pub(crate) async fn look(&mut self) -> Result<(), StorageError> {
        let (now, system_ms) = (self.clock.uptime(), self.clock.system_ms());
        let passed = now.saturating_sub(self.looked);
        // Whole milliseconds only, so that many looks lose nothing.
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        self.looked += Duration::from_millis(passed_ms.unsigned_abs());
        if self.trust {
            self.believed = Believed::new(system_ms);
        } else if let Some(step) = self.believed.observe(passed_ms, system_ms) {
            tell(step);
        }
        self.clock.believe(self.believed.ms);
        if self.stored.is_none_or(|stored| now.saturating_sub(stored) >= STORED_EVERY) {
            let put = Put { key: KEY.to_owned(), value: Some(encode(&self.believed)?) };
            self.meta.txn(Vec::new(), vec![put]).await?;
            self.stored = Some(now);
        }
        Ok(())
    }
}

fn tell(step: Step) {
    let Step { by_ms, left_ms } = step;
    if by_ms.saturating_abs() < TOLD_MS {
        tracing::debug!(by_ms, left_ms, "the system's clock has stepped");
    } else if by_ms > 0 {
        tracing::warn!(
            by_s = by_ms / 1000,
            believed_in_s = left_ms / 1000,
            "the system's clock has gone forward, or the broker was down for that long: until it has run for a \
             while, records and offsets expire as if it had not. If the clock is wrong, correct it; if it is \
             right and space is needed at once, restart with --trust-clock"
        );
    } else {
        tracing::warn!(
            by_s = by_ms / 1000,
            believed_in_s = left_ms / 1000,
            "the system's clock has gone back: nothing expires before its time by either reading. If the clock \
             is wrong, correct it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * 60 * 1000;
    const DAY: i64 = 24 * HOUR;
    const NOW: i64 = 20_000 * DAY;

    #[test]
    fn a_step_is_believed_after_its_own_length_and_a_day_at_most() {
        for (by, after) in [(HOUR, HOUR), (30 * DAY, DAY), (-2 * HOUR, 2 * HOUR), (-90 * DAY, DAY)] {
            let mut believed = Believed::new(NOW);
            assert_eq!(believed.observe(0, NOW + by), Some(Step { by_ms: by, left_ms: after }));
            believed.observe(after - 1, NOW + by + after - 1);
            assert_eq!(believed.ms, NOW + after - 1, "{by}: not yet");
            assert_eq!(believed.observe(1, NOW + by + after), None);
            assert_eq!((believed.ms, believed.steps.len()), (NOW + by + after, 0), "{by}: now");
        }
    }

    #[test]
    fn a_correction_cancels_what_it_corrects() {
        let mut believed = Believed::new(NOW);
        believed.observe(0, NOW + 30 * DAY);
        assert_eq!(believed.observe(HOUR, NOW + HOUR), None, "all of it");
        assert_eq!(believed, Believed::new(NOW + HOUR));
        believed.observe(0, NOW + 31 * HOUR);
        assert_eq!(believed.observe(0, NOW + 11 * HOUR), None, "a part of it");
        assert_eq!(believed.steps, [Step { by_ms: 10 * HOUR, left_ms: DAY }]);
        let more = believed.observe(0, NOW - HOUR);
        assert_eq!(more, Some(Step { by_ms: -2 * HOUR, left_ms: 2 * HOUR }), "more than all of it");
    }

    #[test]
    fn the_clocks_may_differ_in_pace_and_steps_stay_few() {
        let mut believed = Believed::new(NOW);
        for minute in 1..1_000 {
            assert_eq!(believed.observe(60_000, NOW + minute * 60_010), None);
        }
        assert_eq!(believed.ms, NOW + 999 * 60_010);
        let mut system_ms = believed.ms;
        for _ in 0..100 {
            system_ms += HOUR;
            believed.observe(0, system_ms);
            let all = believed.steps.iter().fold(believed.ms, |ms, step| ms + step.by_ms);
            assert_eq!(all, system_ms);
            assert!(believed.steps.len() <= STEPS_MAX);
        }
        let (least, most) = (i64::MIN, i64::MAX);
        for system_ms in [least, most, 0, most, least] {
            believed.observe(most, system_ms);
        }
    }

    /// The golden form: version 1 is read for as long as there are directories that hold it.
    #[test]
    fn the_stored_form_stays() {
        let golden = r#"{"v":1,"ms":5000,"steps":[{"by_ms":7200000,"left_ms":60000}]}"#;
        let believed: Believed = serde_json::from_str(golden).unwrap();
        assert_eq!(believed.steps, [Step { by_ms: 7_200_000, left_ms: 60_000 }]);
        assert_eq!(serde_json::to_string(&believed).unwrap(), golden);
    }
}
