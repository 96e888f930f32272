//! What a broker believes of the cluster, for all its doors and owners to read.
//!
//! **Invariants.** It may be late; nothing is acknowledged because of it. [`View::is_serving`] is false from [`LEASE`] after the
//! last heartbeat that was answered was sent, on this machine's own clock.
//!
//! Deliberately absent: how it comes about; see `keeper`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferrymq_runtime::Clock;
use ferrymq_storage::Revision;
use ferrymq_types::LogId;
use parking_lot::RwLock;
use tokio::sync::Notify;
use uuid::Uuid;

use super::record::{BrokerRecord, Owners, State};
use super::{LEASE, slot_of};

/// See the module.
#[derive(Debug)]
pub struct View {
    id: i32,
    life: Uuid,
    clock: Clock,
    /// Milliseconds of the clock's uptime.
    serves_until: AtomicU64,
    ended: AtomicBool,
    picture: RwLock<Arc<Picture>>,
    /// Somebody missed something: it is time for a look.
    pub(super) look: Notify,
    /// Told when this broker's id has become another's.
    pub(super) end: Notify,
}

/// The cluster at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Picture {
    pub(super) brokers: BTreeMap<i32, BrokerRecord>,
    pub(super) owners: Owners,
    pub(super) revision: Option<Revision>,
}

impl View {
    pub(super) fn new(id: i32, life: Uuid, clock: Clock) -> Arc<View> {
        Arc::new(View {
            id,
            life,
            clock,
            serves_until: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            picture: RwLock::default(),
            look: Notify::new(),
            end: Notify::new(),
        })
    }

    /// This broker's id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// What was drawn at this broker's start.
    #[must_use]
    pub fn life(&self) -> Uuid {
        self.life
    }

    /// Whether this broker may answer as an owner.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        let now = u64::try_from(self.clock.uptime().as_millis()).unwrap_or(u64::MAX);
        now < self.serves_until.load(Ordering::Acquire) && !self.ended.load(Ordering::Acquire)
    }

    /// A heartbeat that was sent at this uptime was answered.
    pub(super) fn beat(&self, sent: Duration) {
        let until = u64::try_from((sent + LEASE).as_millis()).unwrap_or(u64::MAX);
        self.serves_until.fetch_max(until, Ordering::AcqRel);
    }

    /// This broker's id has become another's: it never serves again.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.notify_one();
    }

    /// Waits until this broker's id has become another's.
    pub async fn ended(&self) {
        self.end.notified().await;
    }

    /// Asks for a look at the store soon: something was missed that others may have made.
    pub fn missed(&self) {
        self.look.notify_one();
    }

    /// The brokers that live and serve, by id.
    #[must_use]
    pub fn brokers(&self) -> Vec<BrokerRecord> {
        let picture = self.picture();
        let there = picture.brokers.values().filter(|record| record.state != State::Starting);
        there.cloned().collect()
    }

    /// Who owns a log; `None` if nobody that lives does.
    #[must_use]
    pub fn owner(&self, log: LogId) -> Option<i32> {
        let picture = self.picture();
        let owner = picture.owners.owner[slot_of(log)];
        picture.brokers.contains_key(&owner).then_some(owner)
    }

    /// Whether this broker owns a log and is not to hand it over.
    #[must_use]
    pub fn is_mine(&self, log: LogId) -> bool {
        self.picture().owners.is_of(slot_of(log), self.id)
    }

    /// How many slots this broker owns.
    #[must_use]
    pub fn slots_owned(&self) -> usize {
        self.picture().owners.owner.iter().filter(|owner| **owner == self.id).count()
    }

    pub(super) fn picture(&self) -> Arc<Picture> {
        self.picture.read().clone()
    }

    pub(super) fn set(&self, picture: Picture) {
        *self.picture.write() = Arc::new(picture);
    }
}
