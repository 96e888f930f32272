//! How a waiting reader learns that one of its partitions has something new.
//!
//! A [`Watcher`] is registered once with each partition it follows. A partition that changes marks itself in
//! the watcher's short list and wakes it, so that following 1,000 quiet partitions costs nothing per poll and
//! nothing is ever polled.
//!
//! **Invariant.** A change after [`Watcher::take_changed`] returned is in the next list: the mark is cleared
//! before the reader looks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// One reader's view on many partitions.
#[derive(Debug, Default)]
pub struct Watcher {
    changed: Mutex<Vec<Arc<Registration>>>,
    wake: Notify,
}

/// The tie between one watcher and one partition. Dropping it ends the watch.
#[derive(Debug)]
pub struct Registration {
    token: u64,
    marked: AtomicBool,
    watcher: Weak<Watcher>,
}

/// The partition's side: who is watching.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<Vec<Weak<Registration>>>);

impl Watcher {
    /// A watcher of nothing yet.
    #[must_use]
    pub fn new() -> Arc<Watcher> {
        Arc::new(Watcher::default())
    }

    /// The tokens of the partitions that changed since the last call.
    #[must_use]
    pub fn take_changed(&self) -> Vec<u64> {
        let changed = std::mem::take(&mut *self.changed.lock());
        changed
            .into_iter()
            .map(|registration| {
                registration.marked.store(false, Ordering::Release);
                registration.token
            })
            .collect()
    }

    /// Waits until at least one partition has changed. Cancel safe.
    pub async fn changed(&self) {
        loop {
            let woken = self.wake.notified();
            if !self.changed.lock().is_empty() {
                return;
            }
            woken.await;
        }
    }
}

impl Watchers {
    /// Starts a watch; `token` is what [`Watcher::take_changed`] will name it by.
    #[must_use]
    pub fn register(&self, watcher: &Arc<Watcher>, token: u64) -> Arc<Registration> {
        let registration = Arc::new(Registration {
            token,
            marked: AtomicBool::new(false),
            watcher: Arc::downgrade(watcher),
        });
        let mut list = self.0.lock();
        // Ended watches are swept here, so that the list is never longer than twice the live ones.
        if list.len() == list.capacity() {
            list.retain(|entry| entry.strong_count() > 0);
        }
        list.push(Arc::downgrade(&registration));
        registration
    }

    /// Tells all watchers.
    pub fn notify(&self) {
        let mut list = self.0.lock();
        if list.is_empty() {
            return;
        }
        list.retain(|entry| {
            let Some(registration) = entry.upgrade() else { return false };
            let Some(watcher) = registration.watcher.upgrade() else { return false };
            if !registration.marked.swap(true, Ordering::AcqRel) {
                watcher.changed.lock().push(registration);
                watcher.wake.notify_one();
            }
            true
        });
    }

    /// How many watches are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.lock().iter().filter(|entry| entry.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_once_and_not_lost() {
        let watchers = Watchers::default();
        let watcher = Watcher::new();
        let kept = watchers.register(&watcher, 7);
        watchers.notify();
        watchers.notify();
        watcher.changed().await;
        assert_eq!(watcher.take_changed(), vec![7]);
        assert!(watcher.take_changed().is_empty());
        watchers.notify();
        watcher.changed().await;
        assert_eq!(watcher.take_changed(), vec![7]);
        drop(kept);
        watchers.notify();
        assert!(watcher.take_changed().is_empty());
        assert_eq!(watchers.live(), 0);
    }
}
