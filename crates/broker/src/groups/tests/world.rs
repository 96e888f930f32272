//! A coordinator with a clock and a log of its own, driven without tasks.
//!
//! **Invariant.** The log holds what was emitted, as bytes; a restart replays them.
//!
//! Deliberately absent: failing appends; see `runtime`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::super::config::GroupsConfig;
use super::super::coordinator::{Coordinator, Effects, Now, Ticket};
use super::super::record::GroupRecord;
use super::super::types::{GroupError, JoinResponse, Protocol, SyncResponse};

pub(super) const WALL_MS: i64 = 1_000_000;

pub(super) struct World {
    pub(super) config: Arc<GroupsConfig>,
    pub(super) coordinator: Coordinator,
    pub(super) now_ms: u64,
    pub(super) log: Vec<(Bytes, Option<Bytes>)>,
    /// The random part of the next member id.
    pub(super) fresh: u128,
    tickets: u64,
}

/// What one step brought about.
#[derive(Default)]
pub(super) struct Step {
    pub(super) records: Vec<GroupRecord>,
    pub(super) joins: Vec<(Ticket, Result<JoinResponse, GroupError>)>,
    pub(super) syncs: Vec<(Ticket, Result<SyncResponse, GroupError>)>,
}

impl World {
    pub(super) fn new(config: GroupsConfig) -> World {
        let config = Arc::new(config);
        let mut world = World {
            coordinator: Coordinator::new(Arc::clone(&config)),
            config,
            now_ms: 0,
            log: Vec::new(),
            fresh: 0,
            tickets: 0,
        };
        world.step(|coordinator, now, effects| coordinator.loaded(now, effects));
        world
    }

    pub(super) fn now(&self) -> Now {
        let wall_ms = WALL_MS + self.now_ms.cast_signed();
        Now { mono_ms: self.now_ms, wall_ms, expiry_ms: wall_ms }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Runs one operation, appends its records and checks that nothing is out of order.
    pub(super) fn step<T>(
        &mut self,
        operation: impl FnOnce(&mut Coordinator, Now, &mut Effects) -> T,
    ) -> (T, Step) {
        let now = self.now();
        let mut effects = Effects::default();
        let result = operation(&mut self.coordinator, now, &mut effects);
        for record in &effects.records {
            self.log.push((record.encode_key(), record.encode_value()));
        }
        self.check();
        let Effects { records, joins, syncs } = effects;
        (result, Step { records, joins, syncs })
    }

    /// Starts anew from the first `durable` records of the log.
    pub(super) fn restart(&mut self, durable: usize) -> Step {
        self.log.truncate(durable);
        self.coordinator = replay(&self.config, &self.log);
        self.step(|coordinator, now, effects| coordinator.loaded(now, effects)).1
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn advance(&mut self, by_ms: u64, mut each: impl FnMut(u64, Step)) {
        let until = self.now_ms + by_ms;
        while let Some(deadline) = self.coordinator.next_deadline().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(deadline);
            let step = self.step(|coordinator, now, effects| coordinator.tick(now, effects)).1;
            each(self.now_ms, step);
        }
        self.now_ms = until;
    }

    fn check(&self) {
        for group in self.coordinator.groups.values() {
            group.check(&self.coordinator.timers);
        }
    }
}

pub(super) fn replay(config: &Arc<GroupsConfig>, log: &[(Bytes, Option<Bytes>)]) -> Coordinator {
    let mut coordinator = Coordinator::new(Arc::clone(config));
    for (key, value) in log {
        coordinator.apply(GroupRecord::decode(key.clone(), value.clone()).unwrap());
    }
    coordinator
}

/// The live state as the log would have it: the last value of every key.
pub(super) fn image(coordinator: &Coordinator) -> BTreeMap<Bytes, Bytes> {
    let mut records = Vec::new();
    let mut cursor = None;
    loop {
        // Small chunks, so that every way of resuming is taken.
        cursor = coordinator.live_records(cursor, 100, &mut records);
        if cursor.is_none() {
            break;
        }
    }
    let all = records.iter().map(|record| (record.encode_key(), record.encode_value().unwrap()));
    let image: BTreeMap<Bytes, Bytes> = all.collect();
    assert_eq!(image.len(), records.len(), "a walk must give each key once");
    image
}

/// A consumer's subscription, version 0.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut out = vec![0, 0];
    out.extend(u32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        out.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend([0xff; 4]);
    out.into()
}

pub(super) fn protocol(name: &str, topics: &[&str]) -> Protocol {
    Protocol { name: Arc::from(name), metadata: subscription(topics) }
}
