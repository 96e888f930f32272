//! The clock: monotonic time, wall time that never steps, sleeping.
//!
//! **Invariant.** Wall time is the system's at start plus monotonic time since. A step of the system clock
//! while the process runs therefore neither expires nor reorders anything; it is picked up at the next start.
//! Monotonic time is tokio's, so a test with paused time owns it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A handle to the clock; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    started_wall_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the system's clock")]
    pub fn system() -> Clock {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock::starting_at(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
    }

    /// A clock whose wall time starts at `wall_ms` milliseconds since 1970, for tests.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn starting_at(wall_ms: i64) -> Clock {
        Clock { started: Instant::now(), started_wall_ms: Arc::new(AtomicI64::new(wall_ms)) }
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

    /// Wall time in milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        let uptime = i64::try_from(self.uptime().as_millis()).unwrap_or(i64::MAX);
        self.started_wall_ms.load(Ordering::Relaxed).saturating_add(uptime)
    }

    /// Moves wall time, for tests of what depends on it.
    pub fn step_wall(&self, by_ms: i64) {
        self.started_wall_ms.fetch_add(by_ms, Ordering::Relaxed);
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
