//! Who waits until what a shard was told to settle is durable.
//!
//! ```text
//! asked ── all that is owed is with the store ──▶ handed ── the commits under way then are done ──▶ answered
//! ```
//! **Invariants.** An answer without an error comes after every commit of the sync lane that holds an acknowledgement from
//! before the question. If one of those failed, the answer is that error: what it held is written again later, and
//! nobody knows when. Whoever asks while nothing is owed or under way is answered at once, and nothing is written for
//! him.
//!
//! Deliberately absent: dead letters, which are moved by joint commits; messages that do not outlive a restart, whose
//! acknowledgements nothing is promised of.

use tokio::sync::oneshot;

use super::Owner;
use crate::queues::error::QueueError;

/// Told once it is so.
pub(in crate::queues) type Reply = oneshot::Sender<Result<(), QueueError>>;

/// Questions, and the commits that they wait for.
#[derive(Default)]
pub(super) struct Barriers {
    asked: Vec<Reply>,
    /// What was under way when all that was owed was with the store: the last of these commits.
    handed: Vec<(u64, Reply)>,
    last: u64,
    under_way: Vec<u64>,
}

impl Barriers {
    /// Whether anybody asked and what is owed is not known to be with the store.
    pub(super) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// A commit of the sync lane goes to the store; its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.under_way.push(self.last);
        self.last
    }

    /// The commit is done; `failed` if an acknowledgement in it may not be durable.
    pub(super) fn end(&mut self, number: u64, failed: Option<&QueueError>) {
        self.under_way.retain(|other| *other != number);
        let first = self.under_way.iter().min().copied().unwrap_or(u64::MAX);
        let (done, waiting) = std::mem::take(&mut self.handed)
            .into_iter()
            .partition(|(until, _)| *until < first || failed.is_some() && *until >= number);
        self.handed = waiting;
        for (until, reply) in done {
            tell(reply, failed.filter(|_| until >= number).cloned());
        }
    }

    /// All that is owed is with the store.
    fn hand(&mut self) {
        let last = self.under_way.iter().max().copied();
        for reply in self.asked.drain(..) {
            match last {
                Some(last) => self.handed.push((last, reply)),
                None => tell(reply, None),
            }
        }
    }

    /// Nothing becomes durable any more.
    pub(super) fn fail(&mut self, error: &QueueError) {
        let handed = self.handed.drain(..).map(|(_, reply)| reply);
        self.asked.drain(..).chain(handed).for_each(|reply| tell(reply, Some(error.clone())));
    }
}

impl Owner {
    /// Somebody asks.
    pub(super) fn on_barrier(&mut self, reply: Reply) {
        match &self.stopped {
            Some(error) => tell(reply, Some(QueueError::Storage(error.clone()))),
            None => self.barriers.asked.push(reply),
        }
    }

    /// Lets those who asked wait for what is under way, if that is all there is.
    pub(super) fn hand_barriers(&mut self) {
        if self.barriers.is_asked() && !self.due && self.journal.is_up_to_date() {
            self.barriers.hand();
        }
    }
}

/// A caller that went away needs no answer.
fn tell(reply: Reply, error: Option<QueueError>) {
    let _gone = reply.send(error.map_or(Ok(()), Err)).is_err();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(barriers: &mut Barriers) -> oneshot::Receiver<Result<(), QueueError>> {
        let (reply, answer) = oneshot::channel();
        barriers.asked.push(reply);
        answer
    }

    #[test]
    fn an_answer_waits_for_all_that_is_under_way_in_whatever_order_it_ends() {
        let mut barriers = Barriers::default();
        let mut idle = ask(&mut barriers);
        barriers.hand();
        assert!(idle.try_recv().unwrap().is_ok(), "nothing is under way");
        let (first, second) = (barriers.begin(), barriers.begin());
        let mut both = ask(&mut barriers);
        barriers.hand();
        let third = barriers.begin();
        barriers.end(second, None);
        assert!(both.try_recv().is_err(), "the first is under way");
        barriers.end(first, None);
        assert!(both.try_recv().unwrap().is_ok(), "the third came later");
        barriers.end(third, None);
    }

    #[test]
    fn a_failure_is_told_to_who_waits_for_it_and_to_nobody_else() {
        let mut barriers = Barriers::default();
        let first = barriers.begin();
        let mut early = ask(&mut barriers);
        barriers.hand();
        let second = barriers.begin();
        let mut late = ask(&mut barriers);
        barriers.hand();
        let mut asked = ask(&mut barriers);
        barriers.end(second, Some(&QueueError::Retry));
        assert!(matches!(late.try_recv().unwrap(), Err(QueueError::Retry)));
        assert!(early.try_recv().is_err(), "the first is under way");
        assert!(asked.try_recv().is_err(), "what is owed is not with the store");
        barriers.end(first, None);
        assert!(early.try_recv().unwrap().is_ok());
        barriers.fail(&QueueError::Stopped);
        assert!(matches!(asked.try_recv().unwrap(), Err(QueueError::Stopped)));
    }
}
