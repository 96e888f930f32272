//! Virtual hosts: made, changed, and deleted with everything in them.
//!
//! ```text
//! delete: vhosts/<v> ─▶ vhosts-deleting/<v> (durable: it is decided) ─▶ nobody finds it, its clients hear it
//!         ─▶ its queues are closed ─▶ its records go, logs to queues-deleting/ ─▶ logs go, the mark goes
//! ```
//! **Invariants.** A deletion is decided by one transaction. What is left of it after a crash, or where the store
//! refused, is done at the next start, and before a virtual host of that name is made again. Nobody finds a queue or an
//! exchange of one that is being deleted.
//!
//! Deliberately absent: closing connections (the doors, which [`VhostEnd`] tells); limits of a virtual host.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferrymq_storage::{MetaStore, Put, StorageError};
use ferrymq_types::LogId;
use ferrymq_types::limits::QUEUE_NAME_BYTES_MAX;
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use super::delays;
use super::error::{Entity, QueueError};
use super::handle::Queues;
use super::logs::Admin;
use super::open::load_records;
use super::records::{
    BINDINGS, BindingRecord, DELAYS, DELETING, DelaysRecord, DeletingRecord, EXCHANGES, ExchangeRecord,
    OPERATOR_POLICIES, POLICIES, PolicyRecord, QUEUES, QueueRecord, VHOSTS, VHOSTS_DELETING, VhostRecord,
    gone, key, put, put_vhost, read,
};
use super::settings::QueueType;
use super::shard::message::{Refused, ShardMessage};
use super::topology::QueueEntry;
use super::types::{DeleteIf, VhostSpec};

/// Virtual hosts that there may be.
pub const VHOSTS_MAX: usize = 10_000;
/// Records changed in one transaction.
const PUTS_PER_TRANSACTION: usize = 1024;
/// Queues that are let go of at a time.
const QUEUES_AT_A_TIME: usize = 64;

/// Tells when a virtual host is deleted, also if another of its name is made at once.
#[derive(Debug, Clone)]
pub struct VhostEnd(watch::Receiver<()>);

impl VhostEnd {
    /// Waits until it is deleted.
    pub async fn ended(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Queues {
    /// What queues are that name no type in virtual hosts made from now on, unless those say otherwise.
    #[must_use]
    pub fn default_queue_type(&self) -> QueueType {
        self.default_queue_type
    }

    /// Makes a virtual host with its predeclared exchanges; whether it was not there before.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn create_vhost(self: &Arc<Queues>, vhost: &str) -> Result<bool, QueueError> {
        if self.has_vhost(vhost) {
            return Ok(false);
        }
        let default_queue_type = self.default_queue_type;
        self.put_vhost(VhostSpec { default_queue_type, ..VhostSpec::named(vhost) }).await
    }

    /// Makes a virtual host, or has the one there be so; whether it was not there before.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn put_vhost(self: &Arc<Queues>, spec: VhostSpec) -> Result<bool, QueueError> {
        self.in_turn(|queues, _turn| async move { queues.put_vhost_now(spec).await }).await
    }

    /// Deletes a virtual host with its queues, exchanges and policies, and tells its clients; whether it was there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn delete_vhost(self: &Arc<Queues>, vhost: &str) -> Result<bool, QueueError> {
        let vhost = vhost.to_owned();
        self.in_turn(|queues, mut turn| async move { queues.delete_vhost_now(&mut turn, &vhost).await }).await
    }

    /// All virtual hosts, by name.
    #[must_use]
    pub fn vhosts(&self) -> Vec<VhostSpec> {
        let mut all: Vec<VhostSpec> = self.topology.read().vhosts().map(|vhost| vhost.spec.clone()).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Enters a virtual host; `None` if there is none of this name.
    #[must_use]
    pub fn enter(&self, vhost: &str) -> Option<VhostEnd> {
        self.topology.read().vhost(vhost).ok().map(|vhost| VhostEnd(vhost.end()))
    }

    async fn put_vhost_now(&self, spec: VhostSpec) -> Result<bool, QueueError> {
        check_name(&spec.name)?;
        let (is_there, count) = {
            let topology = self.topology.read();
            (topology.has_vhost(&spec.name), topology.vhosts().count())
        };
        if !is_there {
            if count >= VHOSTS_MAX {
                return Err(QueueError::Limit {
                    what: "the number of virtual hosts",
                    limit: VHOSTS_MAX as u64,
                });
            }
            // What is left of an earlier one of this name is none of this one's.
            if self.stores.meta.get(&key(VHOSTS_DELETING, &[&spec.name])).await?.is_some() {
                finish(&*self.stores.meta, &spec.name).await?;
            }
        }
        self.write(vec![put_vhost(key(VHOSTS, &[&spec.name]), VhostRecord::new(&spec))?]).await?;
        let mut topology = self.topology.write();
        match topology.vhost_mut(&spec.name.clone()) {
            Ok(vhost) => vhost.spec = spec,
            Err(_) => topology.add_vhost(spec),
        }
        Ok(!is_there)
    }

    async fn delete_vhost_now(&self, admin: &mut Admin, name: &str) -> Result<bool, QueueError> {
        let Ok(spec) = self.topology.read().vhost(name).map(|vhost| vhost.spec.clone()) else {
            return Ok(false);
        };
        // First, while all of it can still be refused: with a stream goes its topic.
        for entry in self.of_topics(name) {
            match entry.handle.is_stream() {
                true => self.delete_stream(&entry, DeleteIf::default()).await?,
                false => self.delete_over_topic(&entry.handle, DeleteIf::default()).await?,
            };
        }
        let mark = put_vhost(key(VHOSTS_DELETING, &[name]), VhostRecord::new(&spec))?;
        self.write(vec![gone(key(VHOSTS, &[name])), mark]).await?;
        let removed = self.topology.write().remove_vhost(name);
        self.changed();
        let mut entries = Vec::new();
        if let Some(vhost) = removed {
            self.tally.deleted.fetch_add(vhost.queues.len() as u64, Ordering::Relaxed);
            entries.extend(vhost.queues.into_values());
            entries.extend(vhost.lanes.iter().flat_map(|lanes| lanes.iter()).map(delays::entry_of));
        }
        let closed: Vec<QueueEntry> = stream::iter(entries)
            .map(|entry| self.close_for_good(entry))
            .buffer_unordered(QUEUES_AT_A_TIME)
            .filter_map(async |closed| closed)
            .collect()
            .await;
        let finished = finish(&*self.stores.meta, name).await;
        if let Err(error) = &finished {
            tracing::warn!(vhost = name, %error, "what a deleted virtual host had is deleted at the next start");
        }
        let count = closed.len();
        let detach = |entry: QueueEntry| async move {
            let detach = |reply| ShardMessage::Detach { queue: entry.handle.clone(), reply };
            let released = self.ask(&entry.handle, detach).await;
            (entry, released)
        };
        let released: Vec<_> =
            stream::iter(closed).map(detach).buffer_unordered(QUEUES_AT_A_TIME).collect().await;
        for (entry, released) in released {
            // Of a shard that has ended nothing is known; the next start claims the logs anew.
            for released in released.into_iter().flatten() {
                match (entry.stored(), &finished) {
                    (true, Ok(())) => self.delete_log(released, key(DELETING, &[&released.log.to_string()])),
                    (true, Err(_)) => {}
                    (false, _) => self.give_back(admin, released),
                }
            }
        }
        tracing::info!(vhost = name, queues = count, "a virtual host is deleted");
        Ok(true)
    }

    /// Streams, and queues over topics.
    fn of_topics(&self, vhost: &str) -> Vec<QueueEntry> {
        let topology = self.topology.read();
        let queues = topology.vhost(vhost).into_iter().flat_map(|vhost| vhost.queues.values());
        queues.filter(|entry| entry.handle.is_stream() || entry.is_over_topic()).cloned().collect()
    }

    /// Has a queue's shard serve it no longer; `None` if it cannot.
    async fn close_for_good(&self, entry: QueueEntry) -> Option<QueueEntry> {
        let (queue, only_if) = (entry.handle.clone(), DeleteIf::default());
        let close = |reply| ShardMessage::Close { queue, only_if, idle: false, reply };
        match self.ask(&entry.handle, close).await {
            Ok(Err(Refused::Storage(_))) | Err(_) => None,
            Ok(_) => Some(entry),
        }
    }
}

fn check_name(name: &Arc<str>) -> Result<(), QueueError> {
    let bad = |why| Err(QueueError::BadName { entity: Entity::Vhost, why });
    match name {
        name if name.is_empty() => bad("it is empty"),
        name if name.len() > QUEUE_NAME_BYTES_MAX => bad("longer than 255 bytes"),
        name if name.contains(['\r', '\n', '\0']) => bad("it holds a control character"),
        _ => Ok(()),
    }
}

/// Finishes deletions that a crash cut short: before any record is read.
pub(super) async fn finish_all(meta: &dyn MetaStore) -> Result<(), StorageError> {
    for (_, record) in load_records::<VhostRecord>(meta, VHOSTS_DELETING).await? {
        finish(meta, &record.name).await?;
    }
    Ok(())
}

/// Deletes the records of everything in a virtual host, and then the mark that says so. Logs are left to
/// `queues-deleting/`.
async fn finish(meta: &dyn MetaStore, vhost: &str) -> Result<(), StorageError> {
    let within = |prefix: &str| key(prefix, &[vhost, ""]);
    let mut puts: Vec<Put> = Vec::new();
    for (key_of, record) in load_records::<QueueRecord>(meta, &within(QUEUES)).await? {
        // In this order, wherever a transaction ends: a log that nothing names would stay for good.
        for log in record.logs() {
            puts.push(put(key(DELETING, &[&log.to_string()]), DeletingRecord { log: log.0 })?);
        }
        puts.push(gone(key_of));
    }
    if let Some(entry) = meta.get(&key(DELAYS, &[vhost])).await? {
        for log in read::<DelaysRecord>(&entry)?.logs {
            puts.push(put(key(DELETING, &[&LogId(log).to_string()]), DeletingRecord { log })?);
        }
        puts.push(gone(key(DELAYS, &[vhost])));
    }
    for (key, record) in load_records::<BindingRecord>(meta, BINDINGS).await? {
        if record.vhost == vhost {
            puts.push(gone(key));
        }
    }
    let exchanges = load_records::<ExchangeRecord>(meta, &within(EXCHANGES)).await?;
    puts.extend(exchanges.into_iter().map(|(key, _)| gone(key)));
    for prefix in [POLICIES, OPERATOR_POLICIES] {
        let policies = load_records::<PolicyRecord>(meta, &within(prefix)).await?;
        puts.extend(policies.into_iter().map(|(key, _)| gone(key)));
    }
    puts.push(gone(key(VHOSTS_DELETING, &[vhost])));
    for chunk in puts.chunks(PUTS_PER_TRANSACTION) {
        meta.txn(Vec::new(), chunk.to_vec()).await?;
    }
    Ok(())
}
