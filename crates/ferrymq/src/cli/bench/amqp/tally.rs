//! What all publishers and consumers of a run share: how far each queue is, latencies, and whether anything moves.
//!
//! **Invariants.** A queue is done when all its publishers are and as much was consumed as they published; its
//! consumers learn so at once. A run in which nothing moves for the client's patience ends with an error.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ferrymq_runtime::Clock;
use tokio::sync::watch;

use super::super::pacer::now_ns;
use super::super::report::Latencies;
use super::slices::Slices;

/// One queue.
pub(super) struct Tally {
    publishers_left: Cell<u32>,
    expected: Cell<u64>,
    received: Cell<u64>,
    done: watch::Sender<bool>,
}

impl Tally {
    /// A queue with `expected` messages, and more from so many publishers.
    pub(super) fn new(expected: u64, publishers: u32) -> Tally {
        let tally = Tally {
            publishers_left: Cell::new(publishers),
            expected: Cell::new(expected),
            received: Cell::new(0),
            done: watch::Sender::new(false),
        };
        tally.settle();
        tally
    }

    /// A publisher is done and put so many into the queue.
    pub(super) fn published(&self, count: u64) {
        self.publishers_left.set(self.publishers_left.get().saturating_sub(1));
        self.expected.set(self.expected.get() + count);
        self.settle();
    }

    /// So many more were consumed.
    pub(super) fn consumed(&self, count: u64) {
        self.received.set(self.received.get() + count);
        self.settle();
    }

    /// How many more are wanted.
    pub(super) fn wanted(&self) -> u64 {
        if self.publishers_left.get() > 0 {
            return u64::MAX;
        }
        self.expected.get().saturating_sub(self.received.get())
    }

    /// Becomes true once.
    pub(super) fn done(&self) -> watch::Receiver<bool> {
        self.done.subscribe()
    }

    fn settle(&self) {
        if self.publishers_left.get() == 0 && self.received.get() >= self.expected.get() {
            self.done.send_if_modified(|done| !std::mem::replace(done, true));
        }
    }
}

/// What the whole run shares.
pub(super) struct Shared {
    pub(super) clock: Clock,
    /// Messages due before this, in nanoseconds of the clock, are not counted in latencies.
    pub(super) counted_from_ns: u64,
    pub(super) delivered: RefCell<Latencies>,
    pub(super) confirmed: RefCell<Latencies>,
    pub(super) slices: Slices,
    confirms: Cell<u64>,
    deliveries: Cell<u64>,
    last_confirm: Cell<Duration>,
    last_delivery: Cell<Duration>,
}

impl Shared {
    /// Begins now; `messages` is how many will be published, for the slices.
    pub(super) fn start(clock: &Clock, warmup_seconds: u64, messages: u64) -> Shared {
        let now = clock.uptime();
        Shared {
            clock: clock.clone(),
            counted_from_ns: now_ns(clock) + warmup_seconds * 1_000_000_000,
            delivered: RefCell::new(Latencies::new()),
            confirmed: RefCell::new(Latencies::new()),
            slices: Slices::new(messages, now),
            confirms: Cell::new(0),
            deliveries: Cell::new(0),
            last_confirm: Cell::new(now),
            last_delivery: Cell::new(now),
        }
    }

    /// So many more were confirmed, or are known to be with the broker.
    pub(super) fn confirm(&self, count: u64) {
        if count > 0 {
            let now = self.clock.uptime();
            self.confirms.set(self.confirms.get() + count);
            self.last_confirm.set(now);
            self.slices.confirmed(self.confirms.get(), now);
        }
    }

    /// So many more were delivered.
    pub(super) fn deliver(&self, count: u64) {
        if count > 0 {
            self.deliveries.set(self.deliveries.get() + count);
            self.last_delivery.set(self.clock.uptime());
        }
    }

    pub(super) fn confirms(&self) -> (u64, Duration) {
        (self.confirms.get(), self.last_confirm.get())
    }

    pub(super) fn deliveries(&self) -> (u64, Duration) {
        (self.deliveries.get(), self.last_delivery.get())
    }

    /// Ends when nothing was confirmed or delivered for so long, with the error that says so.
    pub(super) async fn watch(&self, patience_seconds: u64) -> anyhow::Error {
        let mut quiet = Quiet::default();
        loop {
            self.clock.sleep(Duration::from_secs(1)).await;
            let (confirms, deliveries) = (self.confirms.get(), self.deliveries.get());
            if quiet.second(confirms + deliveries) >= patience_seconds {
                return anyhow::anyhow!(
                    "nothing moved for {patience_seconds} s, after {confirms} confirms and {deliveries} deliveries"
                );
            }
        }
    }
}

/// For how long a number has not moved.
#[derive(Default)]
struct Quiet {
    seen: u64,
    seconds: u64,
}

impl Quiet {
    /// A second has passed; how many have since the number last moved.
    fn second(&mut self, number: u64) -> u64 {
        self.seconds = if number == self.seen { self.seconds + 1 } else { 0 };
        self.seen = number;
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_done_when_all_that_was_published_came() {
        let tally = Tally::new(0, 2);
        let done = tally.done();
        tally.consumed(5);
        tally.published(3);
        assert!(!*done.borrow(), "a publisher is left");
        tally.published(3);
        assert!(!*done.borrow(), "one message is left");
        assert_eq!(tally.wanted(), 1);
        tally.consumed(1);
        assert!(*done.borrow());
        assert!(*Tally::new(0, 0).done().borrow(), "an empty queue");
        assert!(!*Tally::new(1, 0).done().borrow());
    }

    #[test]
    fn what_moves_is_not_quiet() {
        let mut quiet = Quiet::default();
        let seconds: Vec<u64> = [0, 0, 5, 5, 5, 6].map(|number| quiet.second(number)).into();
        assert_eq!(seconds, [1, 2, 0, 1, 2, 0]);
    }
}
