//! The prefetch that several consumers have together, of whichever queues (`basic.qos` with `global`, RabbitMQ's limiter).
//!
//! A queue takes a permit for each delivery before it goes; the door gives it back when the delivery is settled. A consumer that
//! finds none waits, as it does for room in its sink: its shard is woken when one comes back.
//!
//! **Invariants.** Of permits of one term no more than the limit are taken, apart from those taken before a limit was lowered.
//! Without a limit nothing is counted, and a look costs one load. A permit of an earlier term is none.
//!
//! Deliberately absent: who deserves the next one; whichever queue asks first has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What deliveries of some consumers must not exceed together.
#[derive(Debug, Default)]
pub struct Permits {
    /// A copy of "there is a limit" to look at without the lock.
    limited: AtomicBool,
    state: Mutex<State>,
}

/// What a delivery took; the default took nothing, because there was no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permit(u32);

#[derive(Debug, Default)]
struct State {
    /// 0: none.
    limit: u32,
    /// Counts limits that were set; what was taken under an earlier one does not count. Never 0 while there is a limit.
    term: u32,
    used: u32,
    /// Shards that found none.
    waiting: Vec<Arc<Notify>>,
}

impl Permits {
    /// Sets the limit, 0 for none; `used` of it are with the client already. What is under way has not been counted.
    pub fn limit(&self, limit: u32, used: u32) {
        let mut state = self.state.lock();
        self.limited.store(limit != 0, Ordering::Relaxed);
        state.limit = limit;
        state.term = state.term.wrapping_add(1).max(1);
        state.used = used;
        state.wake();
    }

    /// Counts a delivery that came without a permit of this term; false if there is none left for it.
    pub fn admit(&self, permit: Permit) -> bool {
        if !self.limited.load(Ordering::Relaxed) {
            return true;
        }
        let mut state = self.state.lock();
        permit.0 == state.term || state.take().is_some()
    }

    /// So many were settled.
    pub fn give(&self, count: u32) {
        if count > 0 && self.limited.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            state.used = state.used.saturating_sub(count);
            state.wake();
        }
    }

    /// A delivery that has this one will not go to the client.
    pub fn give_back(&self, permit: Permit) {
        if permit != Permit::default() && self.limited.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            if permit.0 == state.term {
                state.used = state.used.saturating_sub(1);
                state.wake();
            }
        }
    }

    /// Takes one; where there is none, `shard` is woken when there may be.
    pub(super) fn take(&self, shard: &Arc<Notify>) -> Option<Permit> {
        if !self.limited.load(Ordering::Relaxed) {
            return Some(Permit::default());
        }
        let mut state = self.state.lock();
        let taken = state.take();
        if taken.is_none() {
            state.wait(shard);
        }
        taken
    }

    /// Whether there is one, for a delivery that takes none but waits for one, as RabbitMQ's without acknowledgements do; else
    /// as [`Permits::take`].
    pub(super) fn is_open(&self, shard: &Arc<Notify>) -> bool {
        if !self.limited.load(Ordering::Relaxed) {
            return true;
        }
        let mut state = self.state.lock();
        let is_open = state.limit == 0 || state.used < state.limit;
        if !is_open {
            state.wait(shard);
        }
        is_open
    }
}

impl State {
    fn take(&mut self) -> Option<Permit> {
        if self.limit == 0 {
            return Some(Permit::default());
        }
        (self.used < self.limit).then(|| {
            self.used += 1;
            Permit(self.term)
        })
    }

    fn wait(&mut self, shard: &Arc<Notify>) {
        if !self.waiting.iter().any(|known| Arc::ptr_eq(known, shard)) {
            self.waiting.push(shard.clone());
        }
    }

    fn wake(&mut self) {
        if self.limit == 0 || self.used < self.limit {
            self.waiting.drain(..).for_each(|shard| shard.notify_one());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_none_is_woken_when_one_comes_back() {
        let (permits, shard) = (Permits::default(), Arc::new(Notify::new()));
        assert_eq!(permits.take(&shard), Some(Permit(0)), "no limit");
        permits.limit(2, 1);
        let taken = permits.take(&shard).unwrap();
        assert_eq!((permits.take(&shard), permits.is_open(&shard)), (None, false));
        let mut woken = std::pin::pin!(shard.notified());
        assert!(futures_util::poll!(woken.as_mut()).is_pending());
        permits.give_back(taken);
        woken.await;
        assert!(permits.is_open(&shard));
        permits.give(1);
        assert_eq!((permits.take(&shard), permits.take(&shard)), (Some(taken), Some(taken)));
    }

    #[test]
    fn what_was_taken_under_another_limit_does_not_count() {
        let (permits, shard) = (Permits::default(), Arc::new(Notify::new()));
        permits.limit(1, 0);
        let old = permits.take(&shard).unwrap();
        assert!(permits.admit(old), "it is counted");
        assert!(!permits.admit(Permit::default()), "there is no room for another");
        permits.limit(1, 0);
        permits.give_back(old);
        assert!(permits.admit(old), "it takes one now");
        assert_eq!(permits.take(&shard), None);
        permits.limit(0, 0);
        assert!(permits.admit(old) && permits.take(&shard).is_some());
        // Lowered below what is with the client: nothing until that has gone down.
        permits.limit(1, 3);
        permits.give(2);
        assert_eq!(permits.take(&shard), None);
        permits.give(1);
        assert!(permits.take(&shard).is_some());
    }
}
