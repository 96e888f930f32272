//! An open-loop pace: says how many messages are due, whatever became of the earlier ones.
//!
//! **Invariants.** The intended time of message `n` is `n / rate` after the start; it does not move when a message
//! goes out late, so latency counted from it has no coordinated omission. The timer is the kernel's
//! (timerfd): the runtime's own has a granularity of a millisecond.

use std::os::fd::OwnedFd;
use std::time::Duration;

use ferrymq_runtime::Clock;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// The timer does not tick more often than this; several messages are due at a tick then.
const TICK_NS_MIN: u64 = 100_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A pace.
pub(super) struct Pacer {
    timer: AsyncFd<OwnedFd>,
    clock: Clock,
    started_ns: u64,
    rate: u64,
    handed_out: u64,
}

/// Nanoseconds on the benchmark's clock.
pub(super) fn now_ns(clock: &Clock) -> u64 {
    u64::try_from(clock.uptime().as_nanos()).unwrap_or(u64::MAX)
}

impl Pacer {
    /// Starts now, with `rate` messages per second.
    pub(super) fn start(clock: &Clock, rate: u64) -> anyhow::Result<Pacer> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let tick = (SECOND_NS / rate.max(1)).max(TICK_NS_MIN);
        let tick = Duration::from_nanos(tick);
        let tick =
            Timespec { tv_sec: i64::try_from(tick.as_secs())?, tv_nsec: i64::from(tick.subsec_nanos()) };
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: tick, it_value: tick },
        )?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe to call; an owned descriptor keeps the promise"
        )]
        let timer = AsyncFd::new(timer)?;
        let started_ns = now_ns(clock);
        Ok(Pacer { timer, clock: clock.clone(), started_ns, rate: rate.max(1), handed_out: 0 })
    }

    /// Waits until messages are due; their intended times.
    pub(super) async fn due(&mut self) -> anyhow::Result<impl Iterator<Item = u64> + use<>> {
        loop {
            let (from, to) = (self.handed_out, self.due_by(now_ns(&self.clock)));
            if to > from {
                self.handed_out = to;
                let (started, rate) = (self.started_ns, self.rate);
                return Ok((from..to).map(move |number| intended(started, rate, number)));
            }
            let mut ready = self.timer.readable().await?;
            let mut ticks = [0; 8];
            if rustix::io::read(self.timer.get_ref(), &mut ticks).is_err() {
                ready.clear_ready();
            }
        }
    }

    /// Messages due by a time.
    fn due_by(&self, now: u64) -> u64 {
        let elapsed = u128::from(now.saturating_sub(self.started_ns));
        u64::try_from(elapsed * u128::from(self.rate) / u128::from(SECOND_NS)).unwrap_or(u64::MAX) + 1
    }
}

fn intended(started: u64, rate: u64, number: u64) -> u64 {
    let after = u128::from(number) * u128::from(SECOND_NS) / u128::from(rate);
    started + u64::try_from(after).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_message_is_due_once_at_its_time() {
        let clock = Clock::system();
        let mut pacer = Pacer::start(&clock, 10_000).unwrap();
        let mut times = Vec::new();
        while times.len() < 200 {
            times.extend(pacer.due().await.unwrap());
            assert!(times.last() <= Some(&now_ns(&clock)), "never early");
        }
        assert!(times.windows(2).all(|two| two[1] - two[0] == 100_000));
    }
}
