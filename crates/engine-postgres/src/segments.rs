//! Which table takes new batches, and which are still being written.
//!
//! **Invariant.** A segment is given to housekeeping as sealed only once no round that may write to it is left.
//!
//! Deliberately absent: SQL.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Segments {
    active: i64,
    bytes: u64,
    began: Instant,
    /// Made and empty.
    next: Option<i64>,
    users: HashMap<i64, usize>,
    sealed: Vec<i64>,
}

impl Segments {
    pub(crate) fn new(active: i64, bytes: u64, next: Option<i64>, now: Instant) -> Segments {
        Segments { active, bytes, began: now, next, users: HashMap::new(), sealed: Vec::new() }
    }

    /// A round of so many bytes begins: where they go, and whether that is a new table.
    pub(crate) fn enter(&mut self, bytes: u64, max: u64, age: Duration, now: Instant) -> (i64, bool) {
        let full = self.bytes >= max || (self.bytes > 0 && now.duration_since(self.began) >= age);
        let next = if full { self.next.take() } else { None };
        if let Some(next) = next {
            self.sealed.push(self.active);
            (self.active, self.bytes, self.began) = (next, 0, now);
        }
        self.bytes += bytes;
        *self.users.entry(self.active).or_default() += 1;
        (self.active, next.is_some())
    }

    /// A round has ended, one way or the other.
    pub(crate) fn leave(&mut self, segment: i64) {
        if let Some(users) = self.users.get_mut(&segment) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&segment);
            }
        }
    }

    /// Whether another table is to be made.
    pub(crate) fn wants_another(&self) -> bool {
        self.next.is_none()
    }

    /// A table was dropped although it was not sealed by us: somebody took us for dead.
    pub(crate) fn lost(&mut self, segment: i64, now: Instant) {
        self.next.take_if(|next| *next == segment);
        if self.active == segment
            && let Some(next) = self.next.take()
        {
            (self.active, self.bytes, self.began) = (next, 0, now);
        }
    }

    pub(crate) fn made(&mut self, segment: i64) {
        self.next = Some(segment);
    }

    /// Takes those that nobody writes to any more.
    pub(crate) fn take_sealed(&mut self) -> Vec<i64> {
        let users = &self.users;
        self.sealed.extract_if(.., |segment| !users.contains_key(segment)).collect()
    }

    /// Gives them back: they could not be marked.
    pub(crate) fn give_back(&mut self, sealed: Vec<i64>) {
        self.sealed.extend(sealed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_sealed_once_its_last_round_has_ended() {
        let now = ferrymq_runtime::Clock::system().now();
        let mut segments = Segments::new(1, 0, None, now);
        let enter = |segments: &mut Segments, bytes| segments.enter(bytes, 10, Duration::from_secs(9), now);
        assert_eq!(enter(&mut segments, 10), (1, false));
        assert_eq!(enter(&mut segments, 1), (1, false), "there is no other yet");
        assert!(segments.wants_another());
        segments.made(2);
        assert_eq!(enter(&mut segments, 1), (2, true));
        assert!(segments.take_sealed().is_empty());
        segments.leave(1);
        segments.leave(1);
        assert_eq!(segments.take_sealed(), [1]);
        assert!(segments.take_sealed().is_empty());
        segments.made(3);
        let later = now + Duration::from_secs(10);
        assert_eq!(segments.enter(0, 10, Duration::from_secs(9), later), (3, true));
        assert_eq!(
            segments.enter(0, 10, Duration::from_secs(9), later + Duration::from_secs(60)),
            (3, false)
        );
    }
}
