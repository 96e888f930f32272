//! A queue that delivers to one consumer at a time: who it is, and who comes next.
//!
//! **Invariants.** At most one consumer is the holder, and only he stands in a ring. The next holder is the one of
//! the highest priority that has consumed longest. Where a higher priority preempts (quorum queues), a holder of a
//! lower one is sent nothing more and stays the holder until he has settled everything, so that the order in which
//! messages are worked on holds across the change. A holder that ends leaves at once; what he had comes back to its
//! place, before everything his successor has not had.

use super::Consumers;

/// Who has a queue to himself.
#[derive(Debug, Default)]
pub(super) struct Single {
    holder: Option<u32>,
    preempts: bool,
    /// The holder is sent nothing more, because somebody of a higher priority waits.
    quiescing: bool,
}

impl Single {
    pub(super) fn new(preempts: bool) -> Single {
        Single { preempts, ..Single::default() }
    }

    /// Whether this consumer may be sent something.
    pub(super) fn admits(&self, id: u32) -> bool {
        self.holder == Some(id) && !self.quiescing
    }
}

impl Consumers {
    /// Decides who is the holder. To be called when somebody joins or ends, and when a holder that others wait for
    /// has settled something.
    pub(super) fn elect(&mut self) {
        let Some(single) = &self.single else { return };
        let holder = single.holder.filter(|id| self.all.get(id).is_some_and(|holder| holder.active));
        let waiting = self.all.iter().filter(|(id, consumer)| consumer.active && Some(**id) != holder);
        let first = |(_, one): &(&u32, &super::Consumer), (_, other): &(&u32, &super::Consumer)| {
            other.priority.cmp(&one.priority).then(one.joined.cmp(&other.joined))
        };
        let next = waiting.min_by(first).map(|(id, consumer)| (*id, consumer.priority));
        let (mut quiescing, mut elected) = (false, holder);
        match (holder.and_then(|id| self.all.get(&id)), next) {
            (None, _) => elected = next.map(|(id, _)| id),
            (Some(now), Some((id, priority))) if single.preempts && priority > now.priority => {
                quiescing = now.unacked > 0;
                elected = if quiescing { holder } else { Some(id) };
            }
            _ => {}
        }
        let before = single.holder;
        self.single = Some(Single { holder: elected, preempts: single.preempts, quiescing });
        if let Some(id) = before.filter(|id| quiescing || elected != Some(*id)) {
            self.leave(id);
        }
        if let Some(id) = elected {
            self.enter(id);
        }
    }

    /// A consumer settled something: a holder that others wait for may have settled everything.
    pub(super) fn elect_if_done(&mut self, id: u32) {
        let waited_for = |single: &Single| single.quiescing && single.holder == Some(id);
        if self.single.as_ref().is_some_and(waited_for)
            && self.all.get(&id).is_none_or(|consumer| consumer.unacked == 0)
        {
            self.elect();
        }
    }
}
