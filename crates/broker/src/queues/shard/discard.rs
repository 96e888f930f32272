//! Messages that leave their queue without having been consumed.
//!
//! ```text
//!  discard ─▶ no dead letter exchange: done
//!         └─▶ waiting (ranges of offsets) ─▶ moving (a mover has them) ─▶ done, by a joint commit
//! ```
//! **Invariants.** What comes here is acquired, and by nobody: no consumer holds it any more. It is done once it is
//! gone for good, and until then a crash brings it back. On its way as a dead letter it is neither available nor
//! unacked, and nothing of it is in memory but its offset and why it goes. Each queue has one mover at most.
//!
//! Deliberately absent: deciding that a message has to go; moving it (`queues::dead_letters`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use ferrymq_runtime::TaskKind;
use ferrymq_types::LogId;
use tokio::sync::oneshot;

use super::lanes::Lane;
use super::queue::Debt;
use super::{Done, Owner};
use crate::queues::dead_letters::{self, DeadLetterTo, Moving};
use crate::queues::tally::DeadLettering;
use crate::queues::types::QueueHandle;

/// Why a message leaves.
pub(super) use crate::queues::dead_letters::DeathReason as Reason;

/// Letters handed to a mover at a time.
const MOVED_AT_A_TIME: usize = 4096;

/// A message that has to go.
#[derive(Debug)]
pub(super) struct Discarded {
    /// Its id.
    pub(super) offset: u64,
    pub(super) reason: Reason,
    /// Whether it would come back after a restart.
    pub(super) survives: bool,
}

/// Letters for a mover, in the order in which they go.
type Taken = VecDeque<(u64, Reason)>;

/// The dead letters of one queue.
#[derive(Debug)]
pub(super) struct Letters {
    /// They are no letters, but were kept back and are due.
    due: bool,
    /// Where those go that come; `None`: nowhere any more.
    to: Option<Arc<DeadLetterTo>>,
    /// And where each goes. Neighbours with the same reason and way are one range.
    waiting: VecDeque<(Range<u64>, Reason, Arc<DeadLetterTo>)>,
    moving: bool,
    /// How many are not done.
    count: u64,
}

impl Letters {
    pub(super) fn new(to: Arc<DeadLetterTo>) -> Letters {
        Letters { due: false, to: Some(to), waiting: VecDeque::new(), moving: false, count: 0 }
    }

    /// Of messages that were kept back: each knows by itself where it goes.
    pub(super) fn due() -> Letters {
        let to = DeadLetterTo { exchange: "".into(), routing_key: None, of: Default::default() };
        Letters { due: true, ..Letters::new(Arc::new(to)) }
    }

    /// Some are not done, and no longer on their way.
    pub(super) fn came_back(&mut self, count: u64) {
        self.count = self.count.saturating_sub(count);
    }

    /// Where those go that come.
    pub(super) fn to(&self) -> Option<&Arc<DeadLetterTo>> {
        self.to.as_ref()
    }

    /// Those that come from now on go there; `None`: nowhere, they are done.
    pub(super) fn send_to(&mut self, to: Option<Arc<DeadLetterTo>>) {
        self.to = to;
    }

    /// How many are on their way.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// One of them has arrived.
    pub(super) fn arrived(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// Adds one by its id.
    fn add(&mut self, offset: u64, reason: Reason, to: &Arc<DeadLetterTo>) {
        self.count += 1;
        match self.waiting.back_mut() {
            Some((range, why, there)) if range.end == offset && *why == reason && Arc::ptr_eq(there, to) => {
                range.end += 1;
            }
            _ => self.waiting.push_back((offset..offset + 1, reason, to.clone())),
        }
    }

    /// The next that a mover takes, all to one place.
    fn take(&mut self) -> Option<(Arc<DeadLetterTo>, Taken)> {
        let to = self.waiting.front().map(|(.., to)| to.clone())?;
        let mut taken = VecDeque::new();
        while let Some((range, reason, _)) =
            self.waiting.front_mut().filter(|(.., there)| Arc::ptr_eq(there, &to))
        {
            let room = (MOVED_AT_A_TIME - taken.len()) as u64;
            let until = range.end.min(range.start + room);
            taken.extend((range.start..until).map(|offset| (offset, *reason)));
            range.start = until;
            if !range.is_empty() {
                break;
            }
            self.waiting.pop_front();
        }
        Some((to, taken))
    }
}

impl Owner {
    /// Lets go of messages of one queue, in the order in which they have to go.
    pub(super) fn discard(&mut self, log: LogId, gone: Vec<Discarded>) {
        let Some(queue) = self.queues.get_mut(&log).filter(|_| !gone.is_empty()) else { return };
        if let Some(letters) = &mut queue.letters
            && let Some(to) = letters.to.clone()
        {
            gone.iter().for_each(|gone| letters.add(gone.offset, gone.reason, &to));
            return self.move_letters(log);
        }
        let mut debt = Debt::Lazy;
        let mut done = 0;
        let kind = queue.kind();
        for Discarded { offset, reason, survives } in gone {
            self.context.tally.died(kind, DeadLettering::Disabled, reason);
            tracing::trace!(queue = %queue.handle.name(), offset, ?reason, "discarded");
            done += u64::from(queue.finish(offset));
            if survives {
                debt = Debt::Must;
            }
        }
        self.owe(log, debt, done);
        self.run_soon(log);
    }

    /// Hands letters that wait to a mover, if none is at work.
    fn move_letters(&mut self, log: LogId) {
        if self.stopped.is_some() || self.context.tasks.is_stopping() {
            return;
        }
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let (logs, sources) = (queue.level_logs(), queue.level_sources());
        let Some(letters) = queue.letters.as_mut().filter(|letters| !letters.moving) else { return };
        let Some((to, taken)) = letters.take() else { return };
        letters.moving = true;
        let (over, is_over) = oneshot::channel();
        let due = letters.due;
        let was_written = |lane: &mut Box<Lane>| {
            taken.iter().map(|(id, _)| *id).filter(|id| lane.take_written(*id)).collect()
        };
        let written = queue.lane.as_mut().map(was_written).unwrap_or_default();
        let moving =
            Moving { queue: queue.handle.clone(), logs, sources, to, letters: taken, due, written, over };
        let queues = self.context.queues.clone();
        self.context.tasks.spawn(TaskKind::Owner, "mover", dead_letters::run(queues, moving));
        let queue = queue.handle.clone();
        self.done.push(Box::pin(async move {
            // Dropped when the mover is done, however it ends.
            let _dropped = is_over.await;
            Done::Moved(queue)
        }));
    }

    /// A mover has ended: the next one goes on with what came meanwhile.
    pub(super) fn on_moved(&mut self, queue: &QueueHandle) {
        let Some((log, queue)) = self.here(queue) else { return };
        if let Some(letters) = &mut queue.letters {
            letters.moving = false;
            self.move_letters(log);
            // Others may be due.
            self.run_soon(log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_order_holds() {
        let to = |exchange: &str| {
            let of = Default::default();
            Arc::new(DeadLetterTo { exchange: exchange.into(), routing_key: None, of })
        };
        let (x, y) = (to("x"), to("y"));
        let mut letters = Letters::new(x.clone());
        (0..5000).for_each(|offset| letters.add(offset, Reason::Expired, &x));
        letters.add(3, Reason::Rejected, &x);
        letters.add(2, Reason::Rejected, &x);
        letters.add(3, Reason::MaxLength, &x);
        letters.add(4, Reason::MaxLength, &y);
        assert_eq!((letters.waiting.len(), letters.count()), (5, 5004));
        let (_, first) = letters.take().unwrap();
        assert_eq!((first.len(), first.back()), (MOVED_AT_A_TIME, Some(&(4095, Reason::Expired))));
        let (_, rest) = letters.take().unwrap();
        assert_eq!((rest.len(), rest.front()), (907, Some(&(4096, Reason::Expired))));
        let order: Vec<u64> = rest.iter().skip(904).map(|(offset, _)| *offset).collect();
        assert_eq!(order, [3, 2, 3]);
        // What goes elsewhere goes by itself.
        assert_eq!(letters.take(), Some((y, VecDeque::from([(4, Reason::MaxLength)]))));
        assert!(letters.take().is_none());
    }
}
