//! The directory tree as programs see it, as the device has it, and the changes in between.
//!
//! **Invariants.** A change of names is all or nothing, a rename included. Changes of one name reach the
//! device in order; changes of different names in any order. Syncing a directory makes durable all changes
//! of its names and whatever they build on. The root is always there.
//!
//! Deliberately absent: removing directories, hard links.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::crash::Crash;
use super::rng::Rng;

/// The number of a directory.
pub(super) type DirId = u64;
/// The number of a file.
pub(super) type FileId = u64;

const ROOT: DirId = 0;

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(FileId),
    Dir(DirId),
}

type Tree = BTreeMap<(DirId, String), Node>;

/// One change: names and what they lead to from then on.
#[derive(Debug, Clone)]
struct Change {
    sequence: u64,
    sets: Vec<((DirId, String), Option<Node>)>,
}

impl Change {
    fn apply(&self, tree: &mut Tree) {
        for (name, node) in &self.sets {
            match node {
                Some(node) => tree.insert(name.clone(), *node),
                None => tree.remove(name),
            };
        }
    }
}

/// All names.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: Tree,
    synced: Tree,
    pending: Vec<Change>,
}

/// A place in the tree: a directory that exists and a name in it that may not.
pub(super) type Place = (DirId, String);

impl Names {
    /// The directory at a path.
    pub(super) fn dir(&self, parts: &[&str]) -> io::Result<DirId> {
        let mut at = ROOT;
        for part in parts {
            match self.live.get(&(at, (*part).to_owned())) {
                Some(Node::Dir(dir)) => at = *dir,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok(at)
    }

    /// The place a path names.
    pub(super) fn place(&self, parts: &[&str]) -> io::Result<Place> {
        match parts.split_last() {
            Some((name, dir)) => Ok((self.dir(dir)?, (*name).to_owned())),
            None => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// What is at a place.
    pub(super) fn get(&self, place: &Place) -> Option<Node> {
        self.live.get(place).copied()
    }

    /// The file at a place.
    pub(super) fn file(&self, place: &Place) -> io::Result<FileId> {
        match self.get(place) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, dir: DirId) -> Vec<String> {
        let from = (dir, String::new());
        self.live
            .range(from..)
            .take_while(|((at, _), _)| *at == dir)
            .map(|((_, name), _)| name.clone())
            .collect()
    }

    /// Lets names lead elsewhere, for programs at once, for the device some day.
    pub(super) fn set(&mut self, sequence: u64, sets: Vec<(Place, Option<Node>)>) {
        let change = Change { sequence, sets };
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// Makes a directory's names durable as of `sequence`.
    pub(super) fn sync(&mut self, dir: DirId, sequence: u64) {
        for change in self.take_pending(dir, sequence) {
            change.apply(&mut self.synced);
        }
    }

    /// A sync that failed: the changes count as written, and are or are not.
    pub(super) fn fail_sync(&mut self, dir: DirId, rng: &mut Rng) {
        let changes = self.take_pending(dir, u64::MAX);
        apply_some(&changes, &mut self.synced, &mut Crash::random(rng.next(), u64::MAX));
    }

    /// Takes out the changes of a directory's names and, transitively, earlier ones of the same names.
    fn take_pending(&mut self, dir: DirId, sequence: u64) -> Vec<Change> {
        let mut wanted: HashSet<Place> = HashSet::new();
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            let here = change.sequence <= sequence && change.sets.iter().any(|((at, _), _)| *at == dir);
            if here || change.sets.iter().any(|(place, _)| wanted.contains(place)) {
                wanted.extend(change.sets.iter().map(|(place, _)| place.clone()));
                taken.push(change);
            } else {
                left.push(change);
            }
        }
        taken.reverse();
        left.reverse();
        self.pending = left;
        taken
    }

    /// The tree that one power cut left.
    pub(super) fn after_power_cut(&self, crash: &mut Crash) -> Names {
        let mut tree = self.synced.clone();
        apply_some(&self.pending, &mut tree, crash);
        let mut reached = Tree::new();
        let mut to_visit = vec![ROOT];
        while let Some(dir) = to_visit.pop() {
            for (place, node) in tree.range((dir, String::new())..).take_while(|((at, _), _)| *at == dir) {
                reached.insert(place.clone(), *node);
                if let Node::Dir(dir) = node {
                    to_visit.push(*dir);
                }
            }
        }
        Names { live: reached.clone(), synced: reached, pending: Vec::new() }
    }

    /// Files that a name leads to.
    pub(super) fn linked(&self) -> HashSet<FileId> {
        files(self.live.values())
    }

    /// Files that a name leads to now or may lead to after a power cut.
    pub(super) fn reachable(&self) -> HashSet<FileId> {
        let unsynced =
            self.pending.iter().flat_map(|change| &change.sets).filter_map(|(_, node)| node.as_ref());
        files(self.live.values().chain(self.synced.values()).chain(unsynced))
    }
}

fn files<'a>(nodes: impl Iterator<Item = &'a Node>) -> HashSet<FileId> {
    nodes
        .filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Dir(_) => None,
        })
        .collect()
}

/// Applies the changes that the power cut spares; none whose earlier change of the same name it did not.
fn apply_some(changes: &[Change], tree: &mut Tree, crash: &mut Crash) {
    let mut lost: HashSet<&Place> = HashSet::new();
    for change in changes {
        let possible = !change.sets.iter().any(|(place, _)| lost.contains(place));
        if crash.keeps(change.sequence) && possible {
            change.apply(tree);
        } else {
            lost.extend(change.sets.iter().map(|(place, _)| place));
        }
    }
}
