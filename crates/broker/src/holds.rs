//! Whom retention asks before it trims a partition, and waits for, for a while.
//!
//! ```text
//!  retention: ask(start) ──▶ each hold: asked ──▶ its owner, woken by the partition's watch, lets go: reach(offset)
//!      └───── waits until all have reached it, or its patience ends ◀──────────────────────────┘
//! ```
//! **Invariants.** A hold delays a trim and never prevents it: who waits decides for how long. A hold that nobody keeps any
//! more is none. What was asked only rises.
//!
//! Deliberately absent: time; trims that a client asks for, which ask nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// One who has to let go of records before they are trimmed.
#[derive(Debug)]
pub struct Hold {
    asked: AtomicU64,
    reached: AtomicU64,
    moved: Arc<Notify>,
}

impl Hold {
    /// Below this offset records are about to be trimmed.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// Below this offset nothing is needed any more.
    pub fn reach(&self, offset: u64) {
        if self.reached.swap(offset, Ordering::AcqRel) != offset && self.asked() > 0 {
            self.moved.notify_waiters();
        }
    }
}

/// The holds of one partition. There are many partitions, and few have any.
#[derive(Debug, Default)]
pub struct Holds(OnceLock<Box<Held>>);

#[derive(Debug, Default)]
struct Held {
    all: Mutex<Vec<Weak<Hold>>>,
    moved: Arc<Notify>,
}

impl Holds {
    /// A hold that needs everything; it ends when it is dropped.
    #[must_use]
    pub fn take(&self) -> Arc<Hold> {
        let held = self.0.get_or_init(Box::default);
        let hold = Hold { asked: AtomicU64::new(0), reached: AtomicU64::new(0), moved: held.moved.clone() };
        let hold = Arc::new(hold);
        let mut all = held.all.lock();
        all.retain(|hold| hold.strong_count() > 0);
        all.push(Arc::downgrade(&hold));
        hold
    }

    /// Asks all to let go of what lies below `start`; whether there is anybody to wait for.
    pub(crate) fn ask(&self, start: u64) -> bool {
        let Some(held) = self.0.get() else { return false };
        for hold in held.all.lock().iter().filter_map(Weak::upgrade) {
            hold.asked.fetch_max(start, Ordering::AcqRel);
        }
        !held.have_reached(start)
    }

    /// Waits until nobody needs anything below `start`.
    pub(crate) async fn reached(&self, start: u64) {
        if let Some(held) = self.0.get() {
            held.reached(start).await;
        }
    }
}

impl Held {
    fn have_reached(&self, start: u64) -> bool {
        let mut holds = self.all.lock();
        holds.retain(|hold| hold.strong_count() > 0);
        let mut here = holds.iter().filter_map(Weak::upgrade);
        here.all(|hold| hold.reached.load(Ordering::Acquire) >= start)
    }

    async fn reached(&self, start: u64) {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // From now on: what moves before the look below is seen by it.
            moved.as_mut().enable();
            if self.have_reached(start) {
                return;
            }
            moved.await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn all_are_waited_for_and_those_that_end_are_not() {
        let holds = Holds::default();
        assert!(!holds.ask(5), "nobody");
        let (one, two) = (holds.take(), holds.take());
        assert!(holds.ask(5));
        assert_eq!((one.asked(), two.asked()), (5, 5));
        let mut waiting = Box::pin(holds.reached(5));
        assert!((&mut waiting).now_or_never().is_none());
        one.reach(7);
        assert!((&mut waiting).now_or_never().is_none());
        drop(two);
        waiting.await;
        assert!(!holds.ask(7));
        assert!(holds.ask(8));
    }
}
