//! Whose turn it is: those of the highest priority, one after the other.
//!
//! **Invariants.** One ring for each priority that somebody consumes with, highest first. The front of the first
//! ring that is not empty is next. Whoever is in no ring (no credit, no room) holds up nobody below.
//!
//! Deliberately absent: who may stand in a ring, and why.

use std::collections::VecDeque;

/// Consumers of one priority that can take a message.
#[derive(Debug)]
struct Ring {
    priority: i64,
    ids: VecDeque<u32>,
}

/// The rings of one queue.
#[derive(Debug, Default)]
pub(super) struct Rings(Vec<Ring>);

impl Rings {
    /// Whether nobody can take a message.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|ring| ring.ids.is_empty())
    }

    /// Who is next.
    pub(super) fn first(&self) -> Option<u32> {
        self.0.iter().find_map(|ring| ring.ids.front().copied())
    }

    /// Adds somebody behind his equals.
    pub(super) fn push(&mut self, priority: i64, id: u32) {
        let at = self.0.partition_point(|ring| ring.priority > priority);
        match self.0.get_mut(at).filter(|ring| ring.priority == priority) {
            Some(ring) => ring.ids.push_back(id),
            None => self.0.insert(at, Ring { priority, ids: VecDeque::from([id]) }),
        }
    }

    /// Takes whoever is next out.
    pub(super) fn pop(&mut self) {
        if let Some(ring) = self.0.iter_mut().find(|ring| !ring.ids.is_empty()) {
            ring.ids.pop_front();
        }
    }

    /// Whoever is next has had his turn: his equals come first now.
    pub(super) fn rotate(&mut self) {
        if let Some(ring) = self.0.iter_mut().find(|ring| !ring.ids.is_empty())
            && ring.ids.len() > 1
        {
            ring.ids.rotate_left(1);
        }
    }

    /// Takes somebody out.
    pub(super) fn remove(&mut self, id: u32) {
        self.0.iter_mut().for_each(|ring| ring.ids.retain(|other| *other != id));
    }

    /// Forgets rings that nobody stands in. To be called when somebody is gone for good: a ring that is empty for
    /// a moment is worth keeping.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|ring| !ring.ids.is_empty());
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|ring| ring.ids.iter().copied())
    }
}
