//! A look at the store and what follows from it: who lives, who owns what, which topics there are; what is now this
//! broker's is taken, what is to be another's handed over.
//!
//! **Invariants.** One look at a time. What is given to others is let go of first: nothing of it is under way when its new
//! owner is named. Between a claim and another look at the owners nothing claimed is served.
//!
//! Deliberately absent: beats; what taking and letting go mean to partitions (`broker/owning`) and groups.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ferrymq_storage::{Compare, ErrorKind, Listing, Put, Revision, StorageError};
use ferrymq_types::LogId;

use super::keeper::Shared;
use super::members::Members;
use super::record::{BrokerRecord, OWNERS, Owners, State, VERSION};
use super::spread::spread;
use super::view::Picture;
use super::{INTERVAL, SETTLED, SLOTS, slot_of};
use crate::broker::{decode, encode};

/// Between two looks if somebody missed something, and while slots are on their way here.
const SOON: Duration = Duration::from_millis(50);
/// How long somebody else who should spread slots may take.
const OTHERS_TURN: Duration = Duration::from_secs(1);
/// How long a deletion of a topic may be its deleter's, before it is finished by others.
const DELETERS_TURN: Duration = Duration::from_secs(10);
/// Looks at the epochs of logs that are elsewhere, after owners have changed.
const EPOCH_LOOKS: u32 = 6;

/// What is remembered from one look to the next.
pub(super) struct Tick {
    shared: Arc<Shared>,
    members: Members,
    brokers_seen: Revision,
    topics_seen: Revision,
    deleting_seen: Revision,
    /// Topics on their way out, and since when.
    deleting: HashMap<String, Duration>,
    living: BTreeSet<i32>,
    /// When membership last changed.
    changed: Duration,
    /// Since when slots should be spread otherwise.
    uneven: Option<Duration>,
    epoch_looks: u32,
    failed: bool,
}

impl Tick {
    pub(super) fn new(shared: Arc<Shared>) -> Tick {
        Tick {
            shared,
            members: Members::default(),
            brokers_seen: Revision(0),
            topics_seen: Revision(0),
            deleting_seen: Revision(0),
            deleting: HashMap::new(),
            living: BTreeSet::new(),
            changed: Duration::ZERO,
            uneven: None,
            epoch_looks: EPOCH_LOOKS,
            failed: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.look().await {
                Ok(()) => self.failed = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.failed, true) {
                        tracing::warn!(%error, "this broker could not look at the cluster; trying again");
                    }
                }
            }
            let shared = &self.shared;
            // Never more often than this, however much is missed.
            shared.clock.sleep(SOON).await;
            if !self.is_expecting() {
                tokio::select! {
                    () = shared.view.look.notified() => {}
                    () = shared.clock.sleep(INTERVAL.saturating_sub(SOON)) => {}
                }
            }
        }
    }

    /// Whether slots are on their way here.
    fn is_expecting(&self) -> bool {
        let (picture, id) = (self.shared.view.picture(), self.shared.view.id());
        (0..SLOTS).any(|slot| picture.owners.target[slot] == id && picture.owners.owner[slot] != id)
    }

    async fn look(&mut self) -> Result<(), StorageError> {
        self.look_at_brokers().await?;
        self.look_at_owners().await?;
        self.look_at_topics().await?;
        self.spread().await?;
        self.hand_over().await?;
        self.let_go_of_lost().await;
        self.take().await?;
        self.look_at_epochs().await?;
        self.finish_deletions().await?;
        let (picture, id) = (self.shared.view.picture(), self.shared.view.id());
        self.shared.held.send_replace(picture.owners.owner.iter().filter(|owner| **owner == id).count());
        Ok(())
    }

    async fn look_at_brokers(&mut self) -> Result<(), StorageError> {
        let listing = self.shared.meta.list("brokers/", self.brokers_seen).await?;
        let now = self.shared.clock.uptime();
        let all = self.brokers_seen == Revision(0);
        if !listing.complete {
            self.brokers_seen = Revision(0);
            return Box::pin(self.look_at_brokers()).await;
        }
        let mut moved = Vec::new();
        for entry in &listing.entries {
            let record: BrokerRecord = decode(entry)?;
            if record.v == VERSION {
                moved.push((entry.revision, record));
            }
        }
        let id_of = |key: &String| key.trim_start_matches("brokers/").parse().ok();
        let gone: Vec<i32> = listing.deleted.iter().filter_map(id_of).collect();
        self.members.looked(now, moved, &gone, all);
        self.brokers_seen = listing.revision;
        let mut brokers = self.members.living();
        // Of itself a broker knows by its beats.
        brokers.retain(|id, record| *id != self.shared.view.id() || record.life == self.shared.view.life());
        let living: BTreeSet<i32> = brokers.keys().copied().collect();
        if living != self.living {
            tracing::info!(brokers = ?living, "the brokers that live");
            (self.living, self.changed) = (living, now);
        }
        let picture = self.shared.view.picture();
        self.shared.view.set(Picture { brokers, ..(*picture).clone() });
        Ok(())
    }

    async fn look_at_owners(&mut self) -> Result<(), StorageError> {
        let entry = self.shared.meta.get(OWNERS).await?;
        let picture = self.shared.view.picture();
        let revision = entry.as_ref().map(|entry| entry.revision);
        if revision == picture.revision {
            return Ok(());
        }
        let owners = match &entry {
            Some(entry) => decode::<Owners>(entry)?,
            None => Owners::default(),
        };
        if !owners.is_sound() {
            let text = "the record of owners is not understood: a newer FerryMQ wrote it";
            return Err(StorageError::new(ErrorKind::Internal, text));
        }
        self.epoch_looks = EPOCH_LOOKS;
        self.shared.view.set(Picture { owners, revision, ..(*picture).clone() });
        Ok(())
    }

    async fn look_at_topics(&mut self) -> Result<(), StorageError> {
        let mut listing: Listing = self.shared.meta.list("topics/", self.topics_seen).await?;
        if !listing.complete {
            listing = self.shared.meta.list("topics/", Revision(0)).await?;
            self.topics_seen = Revision(0);
        }
        if listing.entries.is_empty() && listing.deleted.is_empty() && self.topics_seen != Revision(0) {
            self.topics_seen = listing.revision;
            return Ok(());
        }
        let all = self.topics_seen == Revision(0);
        let gone = self.shared.broker.see_topics(&listing, all).await?;
        self.topics_seen = listing.revision;
        self.epoch_looks = EPOCH_LOOKS;
        if !gone.is_empty()
            && let Err(error) = self.shared.groups.topics_deleted(gone).await
        {
            tracing::warn!(%error, "offsets of deleted topics are left to expire");
        }
        Ok(())
    }

    /// Changes owners and targets, if it is this broker's turn to.
    async fn spread(&mut self) -> Result<(), StorageError> {
        let (picture, now) = (self.shared.view.picture(), self.shared.clock.uptime());
        let serving = picture.brokers.values().filter(|record| record.state == State::Serving);
        let takers: BTreeSet<i32> = serving.map(|record| record.id).collect();
        let settled = now.saturating_sub(self.changed) >= SETTLED;
        let Some(owners) = spread(&picture.owners, &self.living, &takers, settled) else {
            self.uneven = None;
            return Ok(());
        };
        let since = *self.uneven.get_or_insert(now);
        let is_first = takers.first() == Some(&self.shared.view.id());
        if is_first || now.saturating_sub(since) >= OTHERS_TURN {
            self.put_owners(&picture, owners).await?;
        }
        Ok(())
    }

    /// Puts other owners in place of those in a picture. If somebody was faster, the next look sees it.
    async fn put_owners(&mut self, picture: &Picture, owners: Owners) -> Result<(), StorageError> {
        let compare = Compare { key: OWNERS.to_owned(), revision: picture.revision };
        let put = Put { key: OWNERS.to_owned(), value: Some(encode(&owners)?) };
        match self.shared.meta.txn(vec![compare], vec![put]).await {
            Ok(revision) => {
                self.epoch_looks = EPOCH_LOOKS;
                let revision = Some(revision);
                self.shared.view.set(Picture { owners, revision, ..picture.clone() });
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.shared.view.missed();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Lets go of what is not this broker's, and names the owner of what was to be handed over.
    async fn hand_over(&mut self) -> Result<(), StorageError> {
        let (shared, picture) = (&self.shared, self.shared.view.picture());
        let id = shared.view.id();
        let is_mine = |log: LogId| picture.owners.is_of(slot_of(log), id);
        shared.broker.let_go(|log| !is_mine(log)).await;
        for (index, log) in shared.group_logs.iter().enumerate() {
            if !is_mine(*log) {
                shared.groups.let_go(index).await;
            }
        }
        let mut owners = picture.owners.clone();
        for slot in 0..SLOTS {
            if owners.owner[slot] == id {
                owners.owner[slot] = owners.target[slot];
            }
        }
        if owners != picture.owners {
            self.put_owners(&picture, owners).await?;
        }
        Ok(())
    }

    /// Lets go of what the store said is another's; what should be this broker's is then claimed anew.
    async fn let_go_of_lost(&mut self) {
        let lost = self.shared.broker.take_lost();
        if !lost.is_empty() {
            self.shared.broker.let_go(|log| lost.contains(&log)).await;
        }
        for index in 0..self.shared.group_logs.len() {
            if self.shared.groups.is_lost(index) {
                self.shared.groups.let_go(index).await;
            }
        }
    }

    /// Takes what is this broker's and not here.
    async fn take(&mut self) -> Result<(), StorageError> {
        let view = self.shared.view.clone();
        for (index, log) in self.shared.group_logs.iter().enumerate() {
            if view.is_mine(*log) {
                self.shared.groups.take(index);
            }
        }
        let claimed = self.shared.broker.claim_mine(|log| view.is_mine(log)).await?;
        if claimed.is_empty() {
            return Ok(());
        }
        self.look_at_owners().await?;
        let count = claimed.len();
        self.shared.broker.serve_claimed(claimed, |log| view.is_mine(log)).await?;
        tracing::info!(count, "this broker took logs");
        Ok(())
    }

    async fn look_at_epochs(&mut self) -> Result<(), StorageError> {
        if self.epoch_looks > 0 {
            self.epoch_looks -= 1;
            self.shared.broker.look_at_epochs().await?;
        }
        Ok(())
    }

    /// Ends what a broker that died left half deleted.
    async fn finish_deletions(&mut self) -> Result<(), StorageError> {
        if self.living.first() != Some(&self.shared.view.id()) {
            return Ok(());
        }
        let mut listing = self.shared.meta.list("deleting/", self.deleting_seen).await?;
        if !listing.complete {
            listing = self.shared.meta.list("deleting/", Revision(0)).await?;
            self.deleting.clear();
        }
        self.deleting_seen = listing.revision;
        let now = self.shared.clock.uptime();
        for key in &listing.deleted {
            self.deleting.remove(key);
        }
        self.deleting.extend(listing.entries.into_iter().map(|entry| (entry.key, now)));
        let old = |since: &Duration| now.saturating_sub(*since) >= DELETERS_TURN;
        if self.deleting.values().any(old) {
            self.shared.broker.finish_deletions().await?;
            self.deleting.clear();
        }
        Ok(())
    }
}
