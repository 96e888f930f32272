//! Partitions come and go: of several brokers each has those that it owns, and knows of the others.
//!
//! **Invariants.** A partition is another object each time it is taken: whoever holds the former sees that it is gone, and looks
//! again. When [`Broker::let_go`] returns, nothing that was accepted is under way any more.
//!
//! Deliberately absent: who is to own what ([`crate::cluster`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ferrymq_storage::{Action, Claim, ErrorKind, Listing, Op, StorageError};
use ferrymq_types::{Durability, LogId, Offset};
use tokio::sync::oneshot;

use super::admin::decode;
use super::load::CLAIMS_PER_CALL;
use super::{Broker, SMALL_MESSAGE_BYTES};
use crate::partition::{Bounds, Partition};
use crate::shard::Message;
use crate::topics::{RECORD_VERSION, Topic, TopicRecord};

impl Broker {
    /// Notes what of the topics' records has changed; `all` if nothing else is there. Returns the names of topics that went.
    ///
    /// # Errors
    /// `Internal` for a record of a newer version.
    pub(crate) async fn see_topics(
        &self,
        listing: &Listing,
        all: bool,
    ) -> Result<Vec<Arc<str>>, StorageError> {
        let _turn = self.admin.lock().await;
        let mut gone = Vec::new();
        let mut there = HashSet::new();
        for entry in &listing.entries {
            let record: TopicRecord = decode(entry)?;
            let name = entry.key.trim_start_matches("topics/");
            if record.v != RECORD_VERSION {
                let text = format!("topic record has version {}: a newer FerryMQ wrote it", record.v);
                return Err(StorageError::new(ErrorKind::Internal, text));
            }
            there.insert(name.to_owned());
            let known = self.topics.get(name);
            // What this broker wrote itself it knows already, and maybe more.
            if known.as_ref().is_some_and(|known| known.revision >= entry.revision) {
                continue;
            }
            let known = match known {
                Some(old) if old.id != record.id => {
                    gone.push(old.name.clone());
                    self.forget_topic(&old).await;
                    None
                }
                known => known,
            };
            let built = self.build_elsewhere(name, record, known.as_deref(), entry.revision);
            let topic = built.map_err(|error| {
                StorageError::new(ErrorKind::Internal, format!("stored topic {name} is invalid: {error}"))
            })?;
            self.topics.insert(topic);
        }
        let removed = |topic: &Arc<Topic>| match all {
            true => !there.contains(&*topic.name) && topic.revision <= listing.revision,
            false => {
                listing.deleted.iter().any(|key| key.trim_start_matches("topics/") == &*topic.name)
                    && topic.revision <= listing.revision
            }
        };
        if all || !listing.deleted.is_empty() {
            for topic in self.topics.all().into_iter().filter(removed) {
                gone.push(topic.name.clone());
                self.forget_topic(&topic).await;
            }
        }
        Ok(gone)
    }

    /// Looks a topic up in the store: another broker may have made, changed or deleted it. Does nothing if there is none.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub async fn look_up_topic(&self, name: &str) -> Result<(), StorageError> {
        if self.options.cluster.is_none() {
            return Ok(());
        }
        let key = format!("topics/{name}");
        // Before the look: what is made after it must not be taken for what was deleted before it.
        let known = self.topics.get(name).map(|topic| topic.revision);
        let entry = self.stores.meta.get(&key).await?;
        if entry.as_ref().map(|entry| entry.revision) == known {
            return Ok(());
        }
        let revision = known.unwrap_or_default();
        let deleted = if entry.is_none() { vec![key] } else { Vec::new() };
        let listing = Listing { revision, entries: entry.into_iter().collect(), deleted, complete: true };
        self.see_topics(&listing, false).await.map(drop)
    }

    async fn forget_topic(&self, topic: &Topic) {
        self.topics.remove(&topic.name);
        for partition in &topic.partitions {
            partition.publish_gone();
            let message = Message::Detach { log: partition.log };
            self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        }
    }

    /// Claims what should be here and is not; what was deleted meanwhile is left out.
    pub(crate) async fn claim_mine(&self, mine: impl Fn(LogId) -> bool) -> Result<Vec<Claim>, StorageError> {
        let wanted: Vec<LogId> = self.topics.with(|topics| {
            let all = topics.iter().flat_map(|topic| &topic.partitions);
            all.filter(|partition| partition.is_elsewhere() && mine(partition.log))
                .map(|partition| partition.log)
                .collect()
        });
        let mut claims = Vec::with_capacity(wanted.len());
        for chunk in wanted.chunks(CLAIMS_PER_CALL) {
            match self.stores.logs.claim(chunk.to_vec(), self.owner).await {
                Ok(claimed) => claims.extend(claimed),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    for log in chunk {
                        match self.stores.logs.claim(vec![*log], self.owner).await {
                            Ok(claimed) => claims.extend(claimed),
                            Err(error) if error.kind() == ErrorKind::NotFound => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(claims)
    }

    /// Serves what was claimed, as far as it still is to be here.
    pub(crate) async fn serve_claimed(
        &self,
        claims: Vec<Claim>,
        mine: impl Fn(LogId) -> bool,
    ) -> Result<(), StorageError> {
        let _turn = self.admin.lock().await;
        let claims: HashMap<LogId, Claim> = claims.into_iter().map(|claim| (claim.log, claim)).collect();
        for topic in self.topics.all() {
            let mut fresh = Vec::new();
            let partitions = topic.partitions.iter().map(|old| {
                let claim = claims.get(&old.log).filter(|claim| old.is_elsewhere() && mine(claim.log));
                let Some(claim) = claim else { return old.clone() };
                let partition = self.partition_of(&topic, old.index, claim);
                fresh.push((old.clone(), partition.clone()));
                partition
            });
            let partitions: Vec<_> = partitions.collect();
            if fresh.is_empty() {
                continue;
            }
            for (_, partition) in &fresh {
                if topic.config.get().durability != Durability::Sync {
                    partition.skip_lost_tail().await?;
                }
                let message = Message::Attach { partition: partition.clone(), next: partition.next() };
                self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
            }
            self.topics.insert(Arc::new(topic.with_partitions(partitions)));
            fresh.iter().for_each(|(old, _)| old.publish_gone());
        }
        Ok(())
    }

    fn partition_of(&self, topic: &Topic, index: u32, claim: &Claim) -> Arc<Partition> {
        let (start, next, taken_ms) = (claim.start, claim.next, self.clock.wall_ms());
        let bounds = Bounds { epoch: claim.epoch, start, next, taken_ms };
        let (name, config, store) = (topic.name.clone(), topic.config.clone(), self.stores.logs.clone());
        Partition::new(name, index, claim.log, config, bounds, store)
    }

    /// Lets go of partitions: nothing new is taken for them from now on, and what was has its outcome at the end of this.
    pub(crate) async fn let_go(&self, which: impl Fn(LogId) -> bool) {
        let released = {
            let _turn = self.admin.lock().await;
            self.replace_by_elsewhere(which)
        };
        if released.is_empty() {
            return;
        }
        let mut waiting = Vec::new();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let logs = released.iter().map(|partition| partition.log).collect();
            if shard.send(Message::Release { logs, reply }, SMALL_MESSAGE_BYTES).await {
                waiting.push(answer);
            }
        }
        for answer in waiting {
            // A shard that has ended has nothing under way.
            let _ = answer.await;
        }
        // Operations on a log take effect in turn: what changes nothing is done once all before it is. What it comes to does
        // not matter.
        let ops = released.iter().map(|partition| {
            let (log, epoch, owner) = (partition.log, partition.epoch(), self.owner);
            vec![Op { log, epoch, owner, action: Action::Trim(Offset::ZERO) }]
        });
        self.stores.logs.commit(ops.collect()).await;
        tracing::info!(count = released.len(), "this broker let go of logs");
    }

    fn replace_by_elsewhere(&self, which: impl Fn(LogId) -> bool) -> Vec<Arc<Partition>> {
        let mut released = Vec::new();
        for topic in self.topics.all() {
            let before = released.len();
            let partitions = topic.partitions.iter().map(|old| {
                if old.is_elsewhere() || !which(old.log) {
                    return old.clone();
                }
                released.push(old.clone());
                self.elsewhere(&topic.name, old.index, old.log, &topic.config, old.epoch())
            });
            let partitions: Vec<_> = partitions.collect();
            if released.len() > before {
                self.topics.insert(Arc::new(topic.with_partitions(partitions)));
            }
        }
        released.iter().for_each(|old| old.publish_moved());
        released
    }

    /// Reads the epochs of the logs that are elsewhere, to be told to clients.
    pub(crate) async fn look_at_epochs(&self) -> Result<(), StorageError> {
        let elsewhere: Vec<Arc<Partition>> = self.topics.with(|topics| {
            let all = topics.iter().flat_map(|topic| &topic.partitions);
            all.filter(|partition| partition.is_elsewhere()).cloned().collect()
        });
        for chunk in elsewhere.chunks(CLAIMS_PER_CALL) {
            let logs = chunk.iter().map(|partition| partition.log).collect();
            let epochs = self.stores.logs.epochs(logs).await?;
            for (partition, epoch) in chunk.iter().zip(epochs) {
                epoch.into_iter().for_each(|epoch| partition.publish_epoch(epoch));
            }
        }
        Ok(())
    }

    /// Logs that the store said are another's since it was last asked.
    pub(crate) fn take_lost(&self) -> BTreeSet<LogId> {
        self.context.lost.as_ref().map(|lost| std::mem::take(&mut *lost.logs.lock())).unwrap_or_default()
    }
}
