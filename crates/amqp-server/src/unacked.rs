//! Deliveries of a channel that the client has not settled, by delivery tag.
//!
//! **Invariants.** Tags rise. Settling one costs a search at most; what was settled out of order is swept when
//! it outweighs the rest, so that one delivery that is never settled does not make the others accumulate.
//!
//! Deliberately absent: what becomes of the messages; the queues know.

use std::collections::VecDeque;

use ferrymq_broker::queues::QueueHandle;
use ferrymq_types::Offset;

/// Settled entries are swept when there are more than this, and more than live ones.
const SWEEP_AT: usize = 1024;

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unacked {
    pub(crate) queue: QueueHandle,
    pub(crate) offset: Offset,
    /// The global prefetch counts it.
    pub(crate) consumed: bool,
}

impl Unacked {
    /// The offset of one that went back to its queue: whoever settles it settles nothing.
    pub(crate) const GIVEN_BACK: Offset = Offset(u64::MAX);
}

/// The deliveries of one channel. `T` is what is kept of each.
#[derive(Debug)]
pub(crate) struct UnackedList<T = Unacked> {
    entries: VecDeque<(u64, Option<T>)>,
    live: usize,
}

impl<T> Default for UnackedList<T> {
    fn default() -> Self {
        UnackedList { entries: VecDeque::new(), live: 0 }
    }
}

impl<T> UnackedList<T> {
    /// How many are not settled.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.live
    }

    /// All of them, in order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|(_, delivery)| delivery.as_mut())
    }

    /// Adds the delivery with the highest tag so far.
    pub(crate) fn push(&mut self, tag: u64, delivery: T) {
        self.entries.push_back((tag, Some(delivery)));
        self.live += 1;
    }

    /// Takes one delivery out.
    pub(crate) fn take(&mut self, tag: u64) -> Option<T> {
        let at = match self.entries.front() {
            Some((first, _)) if *first == tag => 0,
            _ => self.entries.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?,
        };
        let taken = self.entries.get_mut(at)?.1.take()?;
        self.live -= 1;
        while self.entries.front().is_some_and(|(_, delivery)| delivery.is_none()) {
            self.entries.pop_front();
        }
        if self.entries.len() > 2 * self.live + SWEEP_AT {
            self.entries.retain(|(_, delivery)| delivery.is_some());
        }
        Some(taken)
    }

    /// Takes all deliveries up to one that is there out, in order; `None`, and nothing happens, if it is not.
    pub(crate) fn take_up_to(&mut self, tag: u64) -> Option<Vec<T>> {
        let at = self.position_of(tag)?;
        let taken: Vec<T> = self.entries.drain(..=at).filter_map(|(_, delivery)| delivery).collect();
        self.live -= taken.len();
        while self.entries.front().is_some_and(|(_, delivery)| delivery.is_none()) {
            self.entries.pop_front();
        }
        Some(taken)
    }

    /// Takes one delivery, or all up to it (0: all there are), with their tags; `None` if it is not there.
    pub(crate) fn take_tagged(&mut self, tag: u64, multiple: bool) -> Option<Vec<(u64, T)>> {
        if !multiple {
            return self.take(tag).map(|delivery| vec![(tag, delivery)]);
        }
        let until = if tag == 0 { self.entries.len() } else { self.position_of(tag)? + 1 };
        let taken = self.entries.drain(..until);
        let taken: Vec<_> = taken.filter_map(|(tag, delivery)| Some((tag, delivery?))).collect();
        self.live -= taken.len();
        while self.entries.front().is_some_and(|(_, delivery)| delivery.is_none()) {
            self.entries.pop_front();
        }
        Some(taken)
    }

    /// Puts back what was taken, in its old place.
    pub(crate) fn put_back(&mut self, taken: Vec<(u64, T)>) {
        self.live += taken.len();
        self.entries.retain(|(_, delivery)| delivery.is_some());
        self.entries.extend(taken.into_iter().map(|(tag, delivery)| (tag, Some(delivery))));
        self.entries.make_contiguous().sort_by_key(|(tag, _)| *tag);
    }

    /// Where a delivery that is there stands.
    fn position_of(&self, tag: u64) -> Option<usize> {
        let at = self.entries.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?;
        self.entries.get(at)?.1.as_ref().map(|_| at)
    }

    /// Takes all of them out, in order.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.live = 0;
        std::mem::take(&mut self.entries).into_iter().filter_map(|(_, delivery)| delivery).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(tags: impl IntoIterator<Item = u64>) -> UnackedList<u64> {
        let mut list = UnackedList::default();
        tags.into_iter().for_each(|tag| list.push(tag, tag));
        list
    }

    #[test]
    fn one_or_all_up_to_one_or_all() {
        let mut some = list([1, 2, 5, 6, 9]);
        assert_eq!(some.take(5), Some(5));
        assert_eq!((some.take(5), some.take(3), some.take(10)), (None, None, None));
        assert_eq!(some.take_up_to(5), None, "it was settled");
        assert_eq!(some.take_up_to(6), Some(vec![1, 2, 6]));
        assert_eq!(some.len(), 1);
        some.push(10, 10);
        assert_eq!(some.take_all(), [9, 10]);
        assert_eq!((some.len(), some.take(9)), (0, None));
    }

    #[test]
    fn what_was_taken_with_its_tag_goes_back_to_its_place() {
        let mut some = list([1, 2, 5, 6, 9]);
        let mut taken = some.take_tagged(5, false).unwrap();
        taken.extend(some.take_tagged(2, true).unwrap());
        assert_eq!(taken, [(5, 5), (1, 1), (2, 2)]);
        assert_eq!((some.take_tagged(5, true), some.take_tagged(3, false)), (None, None));
        some.push(11, 11);
        some.put_back(taken);
        assert_eq!(some.len(), 6);
        assert_eq!(some.take_tagged(6, true).unwrap(), [(1, 1), (2, 2), (5, 5), (6, 6)]);
        assert_eq!(some.take_tagged(0, true).unwrap(), [(9, 9), (11, 11)]);
        assert_eq!((some.take_tagged(0, true), some.len()), (Some(Vec::new()), 0));
    }

    #[test]
    fn what_was_settled_does_not_accumulate_behind_what_was_not() {
        let mut some = list([1]);
        for tag in 2..100_000 {
            some.push(tag, tag);
            assert_eq!(some.take(tag), Some(tag));
        }
        assert_eq!(some.len(), 1);
        assert!(some.entries.len() <= 2 * SWEEP_AT, "{}", some.entries.len());
    }
}
