//! The clock: monotonic time, three readings of wall time, sleeping.
//!
//! The system's clock can be wrong and can be corrected at any time, forward and back. So who asks for wall time
//! says what for:
//!
//! - [`Clock::system_ms`], the system's clock as it is: to judge what comes from outside *now*. A broker that
//!   was started with a wrong clock must not go on refusing right timestamps once the clock is right.
//! - [`Clock::wall_ms`], to stamp: the later of the system's clock and *believed time*. It never goes back but
//!   waits where it is until a clock that was set back has caught up.
//! - [`Clock::expiry_ms`], to delete by: the earlier of the two.
//!
//! Believed time is the system's at start plus monotonic time since, unless somebody who has thought about it
//! says otherwise ([`Clock::believe`]; the broker does, and remembers it over restarts).
//!
//! **Invariants.** Stamps never fall, so a step back reorders nothing. What expires is compared with the earlier
//! time, what is stamped gets the later, so no step of the system's clock expires anything by itself.
//! Monotonic time is tokio's, so a test with paused time owns it; [`Clock::step_wall`] is the system's clock
//! being set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A handle to the clock; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    wall: Arc<Wall>,
}

/// Wall time, shared by all handles.
#[derive(Debug)]
struct Wall {
    /// What the clock showed when it was made, if it does not ask the system.
    own_start_ms: Option<i64>,
    /// How far tests have moved it.
    stepped_ms: AtomicI64,
    /// The largest reading given out as a stamp.
    stamped_ms: AtomicI64,
    /// Believed time, as of uptime zero.
    believed_start_ms: AtomicI64,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Clock {
        Clock::new(None, since_1970_ms())
    }

    /// A clock whose wall time starts at `wall_ms` milliseconds since 1970, for tests.
    #[must_use]
    pub fn starting_at(wall_ms: i64) -> Clock {
        Clock::new(Some(wall_ms), wall_ms)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    fn new(own_start_ms: Option<i64>, now_ms: i64) -> Clock {
        let wall = Wall {
            own_start_ms,
            stepped_ms: AtomicI64::new(0),
            stamped_ms: AtomicI64::new(i64::MIN),
            believed_start_ms: AtomicI64::new(now_ms),
        };
        Clock { started: Instant::now(), wall: Arc::new(wall) }
    }

    /// Monotonic time since this clock was made.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Monotonic now, for deadlines.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// The system's clock as it is now, in milliseconds since 1970.
    #[must_use]
    pub fn system_ms(&self) -> i64 {
        let unmoved = match self.wall.own_start_ms {
            None => since_1970_ms(),
            Some(start_ms) => start_ms.saturating_add(self.uptime_ms()),
        };
        unmoved.saturating_add(self.wall.stepped_ms.load(Ordering::Relaxed))
    }

    /// Wall time for stamps, in milliseconds since 1970: never less than it was before.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        let now_ms = self.system_ms().max(self.believed_ms());
        // Written once a millisecond at most, however many ask.
        if self.wall.stamped_ms.load(Ordering::Relaxed) >= now_ms {
            return self.wall.stamped_ms.load(Ordering::Relaxed);
        }
        self.wall.stamped_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }

    /// Wall time to expire by, in milliseconds since 1970: what is younger than the result must stay.
    #[must_use]
    pub fn expiry_ms(&self) -> i64 {
        self.believed_ms().min(self.system_ms())
    }

    /// Sets believed time; it goes on from there with monotonic time.
    pub fn believe(&self, now_ms: i64) {
        self.wall.believed_start_ms.store(now_ms.saturating_sub(self.uptime_ms()), Ordering::Relaxed);
    }

    /// Sets the system's clock as this one sees it, for tests of what depends on it.
    pub fn step_wall(&self, by_ms: i64) {
        self.wall.stepped_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    fn believed_ms(&self) -> i64 {
        self.wall.believed_start_ms.load(Ordering::Relaxed).saturating_add(self.uptime_ms())
    }

    fn uptime_ms(&self) -> i64 {
        i64::try_from(self.uptime().as_millis()).unwrap_or(i64::MAX)
    }

    /// Sleeps. Cancel safety: dropping the future is fine.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Sleeps until a deadline. Cancel safety: dropping the future is fine.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
    pub async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline).await;
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the system's clock")]
fn since_1970_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stamps_never_fall_and_nothing_expires_by_a_step() {
        let clock = Clock::starting_at(1_000_000);
        clock.step_wall(5_000);
        assert_eq!(
            (clock.system_ms(), clock.wall_ms(), clock.expiry_ms()),
            (1_005_000, 1_005_000, 1_000_000)
        );
        clock.step_wall(-25_000);
        assert_eq!((clock.system_ms(), clock.wall_ms(), clock.expiry_ms()), (980_000, 1_005_000, 980_000));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(
            (clock.system_ms(), clock.wall_ms(), clock.expiry_ms()),
            (1_010_000, 1_030_000, 1_010_000)
        );
        clock.step_wall(60_000);
        assert_eq!(clock.expiry_ms(), 1_030_000, "monotonic time since the start, and no more");
        clock.believe(1_070_000);
        assert_eq!(clock.expiry_ms(), 1_070_000);
    }

    #[test]
    fn the_system_is_followed() {
        let clock = Clock::system();
        let before = since_1970_ms();
        assert!((before..before + 60_000).contains(&clock.wall_ms()));
    }
}
