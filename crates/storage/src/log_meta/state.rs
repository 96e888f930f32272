//! What a metadata store holds: entries, and which keys were deleted of late. Pure.
//!
//! **Invariants.** The revision rises with everything applied. An entry's revision is at most the state's.
//!
//! Deliberately absent: the log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{Entry, Listing, Put, Revision};

/// Deletions remembered for who asks what has changed.
const DELETIONS_MAX: usize = 10_000;
/// Bytes an entry takes in a snapshot beside key and value, and a little for what holds it in memory.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

/// An entry without its key. There may be hundreds of thousands for as long as the process runs, so each takes what
/// it takes and no more: a key that stands once, and a value of our own rather than a view of what it came in.
#[derive(Debug)]
struct Held {
    revision: Revision,
    value: Box<[u8]>,
}

impl Held {
    fn entry(&self, key: &str) -> Entry {
        let value = Bytes::copy_from_slice(&self.value);
        Entry { key: key.to_owned(), value, revision: self.revision }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<Box<str>, Held>,
    deletions: VecDeque<(Revision, String)>,
    /// Deletions up to here are no longer remembered.
    forgotten: Revision,
    bytes: u64,
}

impl State {
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// About how many bytes a snapshot takes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).map(|held| held.entry(key))
    }

    /// Which transaction wrote an entry that is there.
    pub(super) fn revision_of(&self, key: &str) -> Option<Revision> {
        self.entries.get(key).map(|held| held.revision)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(|(key, held)| held.entry(key))
    }

    /// Applies a transaction.
    pub(super) fn apply(&mut self, revision: Revision, puts: Vec<Put>) {
        self.revision = revision;
        for put in puts {
            match put.value {
                Some(value) => self.insert(Entry { key: put.key, value, revision }),
                None => {
                    if self.remove(&put.key) {
                        self.deletions.push_back((revision, put.key));
                    }
                }
            }
        }
        while self.deletions.len() > DELETIONS_MAX {
            self.forgotten = self.deletions.pop_front().map_or(self.forgotten, |(revision, _)| revision);
        }
    }

    /// Takes in one part of a snapshot, which does not tell what was deleted before it.
    pub(super) fn load(&mut self, revision: Revision, entries: Vec<Entry>) {
        self.revision = revision;
        self.forgotten = revision;
        entries.into_iter().for_each(|entry| self.insert(entry));
    }

    /// The log has moved on without a change.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    fn insert(&mut self, entry: Entry) {
        let Entry { key, value, revision } = entry;
        self.remove(&key);
        self.bytes += size(&key, &value);
        self.entries.insert(key.into(), Held { revision, value: Box::from(&*value) });
    }

    fn remove(&mut self, key: &str) -> bool {
        match self.entries.remove(key) {
            Some(held) => {
                self.bytes -= size(key, &held.value);
                true
            }
            None => false,
        }
    }

    pub(super) fn list(&self, prefix: &str, since: Revision) -> Listing {
        let under = self.entries.range(Box::from(prefix)..).take_while(|(key, _)| key.starts_with(prefix));
        let changed = under.filter(|(_, held)| held.revision > since);
        let entries = changed.map(|(key, held)| held.entry(key)).collect();
        let from_nothing = since == Revision(0);
        let mut deleted: Vec<String> = self
            .deletions
            .iter()
            .filter(|(revision, key)| *revision > since && key.starts_with(prefix) && !from_nothing)
            .filter(|(_, key)| !self.entries.contains_key(key.as_str()))
            .map(|(_, key)| key.clone())
            .collect();
        deleted.sort_unstable();
        deleted.dedup();
        Listing {
            revision: self.revision,
            entries,
            deleted,
            complete: from_nothing || since >= self.forgotten,
        }
    }
}

fn size(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: Option<&'static str>) -> Put {
        Put { key: key.to_owned(), value: value.map(Bytes::from) }
    }

    #[test]
    fn changes_are_listed_since_a_revision() {
        let mut state = State::default();
        state.apply(Revision(1), vec![put("a/1", Some("x")), put("a/2", Some("x")), put("b/1", Some("x"))]);
        state.apply(Revision(4), vec![put("a/1", None), put("a/2", Some("y")), put("a/9", None)]);
        state.apply(Revision(5), vec![put("b/1", None)]);
        let all = state.list("a/", Revision(0));
        assert_eq!(all.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), ["a/2"]);
        assert!(all.deleted.is_empty() && all.complete);
        let changes = state.list("a/", Revision(1));
        assert_eq!((changes.entries.len(), changes.revision), (1, Revision(5)));
        assert_eq!(changes.deleted, ["a/1"], "a key that never was is not deleted");
        assert_eq!(state.list("", Revision(4)).deleted, ["b/1"]);
        assert!(state.list("a/", Revision(4)).deleted.is_empty());
        state.apply(Revision(6), vec![put("a/1", Some("again"))]);
        assert!(state.list("a/", Revision(1)).deleted.is_empty(), "what is there is not deleted");
    }

    #[test]
    fn deletions_are_remembered_up_to_a_bound() {
        let mut state = State::default();
        for turn in 0..DELETIONS_MAX as u64 + 5 {
            state.apply(Revision(turn * 2 + 1), vec![put("k", Some("v"))]);
            state.apply(Revision(turn * 2 + 2), vec![put("k", None)]);
        }
        assert_eq!(state.deletions.len(), DELETIONS_MAX);
        assert!(!state.list("", Revision(9)).complete);
        assert!(state.list("", Revision(10)).complete);
        assert!(state.list("", Revision(0)).complete);
        assert_eq!(state.bytes(), 0);
        let mut state = State::default();
        state.load(Revision(70_000), vec![]);
        assert!(!state.list("", Revision(69_999)).complete, "a snapshot does not tell what was deleted");
    }
}
