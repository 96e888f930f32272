//! The levels of a queue that orders by priority: each a log of its own, and a [`Queue`] without consumers inside the
//! queue that it is of.
//!
//! **Invariants.** A message has one level, and in it one place: returned messages come back to it. Consumers, who has
//! what, getters, limits and dead letters are the queue's and speak of ids; offsets, acks, runs, what is ready in memory
//! and the log are the level's. For a queue without levels an id is an offset and nothing here costs anything.
//!
//! Deliberately absent: making levels (`queues::priorities`), and which message is of which (it as well).

use std::sync::Arc;

use ferrymq_types::LogId;

use super::follow::Followed;
use super::message::{Attached, AttachedLevel};
use super::queue::{Debt, Queue};
use super::{ByLog, Owner};
use crate::queues::consuming::Consuming;
pub(super) use crate::queues::priorities::place;
use crate::queues::priorities::{PLACE_BITS, base};
use crate::queues::settings::QueueSettings;
use crate::queues::streams::Source;
use crate::queues::types::Message;

/// The levels of one queue beside that of its own log, highest first.
pub(super) struct Levels {
    all: Vec<(u8, Queue)>,
    /// Of partitions, whose turn it is.
    turn: u8,
}

impl Queue {
    /// The priority of its own log.
    fn own_priority(&self) -> u8 {
        self.handle.priorities().map_or(0, |priorities| priorities.own())
    }

    /// Whether what was returned comes before everything else whatever its priority, and heads of all levels expire.
    fn is_quorum(&self) -> bool {
        self.consuming.counts
    }

    fn base_of(&self, priority: u8) -> u64 {
        u64::from(priority ^ self.own_priority()) << PLACE_BITS
    }

    /// The level that an id is of; itself, if that is its own log.
    #[inline]
    pub(super) fn level(&mut self, id: u64) -> &mut Queue {
        if base(id) == 0 || self.levels.is_none() {
            return self;
        }
        self.level_above(id)
    }

    fn level_above(&mut self, id: u64) -> &mut Queue {
        let own = self.own_priority();
        let is_it = |priority: u8| u64::from(priority ^ own) << PLACE_BITS == base(id);
        let levels = self.levels.as_deref().into_iter().flat_map(|levels| &levels.all);
        // A level that is there stays as long as its queue.
        let Some(at) = levels.into_iter().position(|(priority, _)| is_it(*priority)) else { return self };
        match &mut self.levels {
            Some(levels) => &mut levels.all[at].1,
            None => unreachable!("it was just found"),
        }
    }

    /// The level that a new message goes to.
    #[inline]
    pub(super) fn level_for(&mut self, message: &Message) -> &mut Queue {
        if self.levels.is_none() {
            return self;
        }
        let priority = self.handle.priorities().map_or(0, |priorities| priorities.of(message));
        self.level(self.base_of(priority))
    }

    /// Itself and its levels.
    pub(super) fn each(&self) -> impl Iterator<Item = &Queue> {
        let levels = self.levels.as_deref().into_iter().flat_map(|levels| &levels.all);
        std::iter::once(self).chain(levels.map(|(_, level)| level))
    }

    /// Calls `with` for itself and its levels.
    pub(super) fn for_each(&mut self, with: &mut dyn FnMut(&mut Queue)) {
        with(self);
        for (_, level) in self.levels.iter_mut().flat_map(|levels| &mut levels.all) {
            with(level);
        }
    }

    /// The level whose message is to go next, by the id of its first place: the highest that has any. In a quorum queue
    /// what was returned comes first.
    #[inline]
    pub(super) fn front(&self) -> u64 {
        if self.levels.is_none() { 0 } else { self.front_level() }
    }

    fn front_level(&self) -> u64 {
        if self.is_over_topic() {
            return self.front_partition();
        }
        let first = |which: fn(Available) -> bool| {
            self.in_order().find(|(_, level)| which(level.available())).map(|(base, _)| base)
        };
        let returned = self.is_quorum().then(|| first(|has| has == Available::Returned)).flatten();
        returned.or_else(|| first(|has| has != Available::Nothing)).unwrap_or(0)
    }

    /// Partitions take turns: the next that has something.
    fn front_partition(&self) -> u64 {
        let turn = self.levels.as_ref().map_or(0, |levels| levels.turn);
        let has_some = |base: u64, level: &Queue| {
            let number = u8::try_from(base >> PLACE_BITS).unwrap_or(0);
            (level.available() != Available::Nothing).then_some((number < turn, base))
        };
        let all = self.in_order().filter_map(|(base, level)| has_some(base, level));
        // Those at or behind it first.
        all.min().map_or(0, |(_, base)| base)
    }

    /// The partition behind the one of this id is the next whose turn it is.
    #[inline]
    pub(super) fn pass_the_turn(&mut self, id: u64) {
        if let Some(levels) = self.levels.as_deref_mut().filter(|_| self.followed.is_some()) {
            levels.turn = u8::try_from(id >> PLACE_BITS).unwrap_or(0).wrapping_add(1);
        }
    }

    /// Itself and its levels, highest priority first, with the ids of their first places.
    fn in_order(&self) -> impl Iterator<Item = (u64, &Queue)> {
        let own = self.own_priority();
        let levels = self.levels.as_deref().map_or(&[][..], |levels| &levels.all);
        let (above, below) = levels.split_at(levels.partition_point(|(priority, _)| *priority > own));
        let based = move |level: &'_ (u8, Queue)| u64::from(level.0 ^ own) << PLACE_BITS;
        let above = above.iter().map(move |level| (based(level), &level.1));
        let below = below.iter().map(move |level| (based(level), &level.1));
        above.chain([(0, self)]).chain(below)
    }

    fn available(&self) -> Available {
        match (self.acks.has_returned(), self.acks.fresh() < self.acks.end()) {
            (true, _) => Available::Returned,
            (false, true) => Available::Fresh,
            (false, false) => Available::Nothing,
        }
    }

    /// Those of its levels of which heads that are over go, the front among them: by the ids of their first places.
    pub(super) fn expiring(&self) -> Vec<u64> {
        if self.is_quorum() { self.bases() } else { vec![self.front()] }
    }

    /// The ids of the first places of all its levels, highest priority first.
    pub(super) fn bases(&self) -> Vec<u64> {
        self.in_order().map(|(base, _)| base).collect()
    }

    /// The logs of its levels, by the ids of their first places.
    pub(super) fn level_logs(&self) -> Vec<(u64, LogId)> {
        self.in_order().map(|(base, level)| (base, level.handle.log())).collect()
    }

    /// The partitions of a queue over a topic, by the ids of their first places.
    pub(super) fn level_sources(&self) -> Vec<(u64, Arc<Source>)> {
        let source = |level: &Queue| level.followed.as_ref().map(|followed| followed.source.clone());
        self.in_order().filter_map(|(base, level)| Some((base, source(level)?))).collect()
    }

    /// How many messages are available.
    #[inline]
    pub(super) fn ready_count(&self) -> u64 {
        self.each().map(|level| level.acks.ready()).sum()
    }

    /// An acquired message is done. False if it was not acquired.
    #[inline]
    pub(super) fn finish(&mut self, id: u64) -> bool {
        self.level(id).acks.finish(place(id))
    }

    /// Adds a level that was claimed; nothing happens if it is there.
    fn add_level(&mut self, priority: u8, level: Queue) {
        let levels = self.levels.get_or_insert_with(|| Box::new(Levels { all: Vec::new(), turn: 0 }));
        let at = levels.all.partition_point(|(other, _)| *other > priority);
        if levels.all.get(at).is_none_or(|(other, _)| *other != priority) {
            levels.all.insert(at, (priority, level));
        }
    }
}

/// What a level has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Available {
    Returned,
    Fresh,
    Nothing,
}

impl Owner {
    /// Takes over a level of a queue that is here.
    pub(super) fn attach_level(&mut self, attached: AttachedLevel) {
        let AttachedLevel { queue, priority, handle, epoch, start, next, acks, ready_bytes, source } =
            attached;
        let (log, budget, watcher) = (handle.log(), self.budget.clone(), self.watcher.clone());
        let Some((root, queue)) = self.here(&queue) else { return };
        let attached = Attached {
            handle,
            epoch,
            start,
            next,
            acks,
            ready_bytes,
            durable: queue.durable,
            always_durable: queue.is_always_durable(),
            consuming: Consuming { single: None, ..queue.consuming },
            dead_letter: None,
            settings: QueueSettings { expires_ms: None, ..queue.settings },
            lane: None,
            source: source.clone(),
        };
        let mut level = Queue::new(attached, budget, None, 0);
        level.followed = source.map(|source| Followed::new(source, &watcher, log));
        let (lost_the_head, filled) = (level.owes_a_trim(), level.acks.ready() > 0);
        let first = queue.base_of(priority);
        queue.add_level(priority, level);
        queue.wait_anew(first);
        self.queues.link(log, root);
        if filled {
            self.run_soon(root);
        }
        if lost_the_head {
            self.owe(log, Debt::Lazy, 0);
        }
    }
}

/// Queues by their own log, found by the log of any of their levels.
#[derive(Default)]
pub(super) struct Shelf {
    /// Boxed, since a queue is large: a table keeps room for up to twice as many entries as it has, and holds them
    /// twice while it grows.
    queues: ByLog<Box<Queue>>,
    /// The own log of the queue that a level's log is of.
    roots: ByLog<LogId>,
}

impl Shelf {
    /// The queue that a log belongs to, by its own log.
    #[inline]
    pub(super) fn root(&self, log: LogId) -> LogId {
        self.roots.get(&log).copied().unwrap_or(log)
    }

    /// The queue or level of this log.
    #[inline]
    pub(super) fn get(&self, log: &LogId) -> Option<&Queue> {
        match self.roots.get(log) {
            None => self.queues.get(log).map(Box::as_ref),
            Some(root) => self.queues.get(root)?.each().find(|level| level.handle.log() == *log),
        }
    }

    /// The queue or level of this log.
    #[inline]
    pub(super) fn get_mut(&mut self, log: &LogId) -> Option<&mut Queue> {
        match self.roots.get(log) {
            None => self.queues.get_mut(log).map(Box::as_mut),
            Some(root) => {
                let levels = self.queues.get_mut(root)?.levels.as_mut()?;
                levels.all.iter_mut().map(|(_, level)| level).find(|level| level.handle.log() == *log)
            }
        }
    }

    /// Puts a queue there, with its levels.
    pub(super) fn insert(&mut self, log: LogId, queue: Queue) {
        let levels = queue.each().skip(1).map(|level| (level.handle.log(), log));
        self.roots.extend(levels);
        self.queues.insert(log, Box::new(queue));
    }

    /// Takes a queue out by its own log, with its levels.
    pub(super) fn remove(&mut self, log: &LogId) -> Option<Queue> {
        let queue = *self.queues.remove(log)?;
        for level in queue.each().skip(1) {
            self.roots.remove(&level.handle.log());
        }
        Some(queue)
    }

    fn link(&mut self, log: LogId, root: LogId) {
        self.roots.insert(log, root);
    }

    /// All queues, by their own logs.
    pub(super) fn whole(&self) -> impl Iterator<Item = (LogId, &Queue)> {
        self.queues.iter().map(|(log, queue)| (*log, &**queue))
    }

    /// All queues and levels.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LogId, &Queue)> {
        self.queues.values().flat_map(|queue| queue.each()).map(|level| (level.handle.log(), level))
    }

    /// Calls `with` for all queues and levels.
    pub(super) fn for_each(&mut self, with: &mut dyn FnMut(&mut Queue)) {
        self.queues.values_mut().for_each(|queue| queue.for_each(with));
    }
}
