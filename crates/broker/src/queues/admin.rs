//! Changes of the topology: each is durable before anyone sees it, and one is made at a time.
//!
//! **Invariants.** A queue that conditions forbid to delete is not touched: its shard checks and closes it in one
//! step. A deleted queue's log stands in `queues-deleting/` until it is gone, so that a crash leaks nothing.
//!
//! Deliberately absent: whose turn it is and callers that go away (`changes`); permissions (the doors have them).

use std::sync::Arc;

use ferrymq_storage::{Put, StorageError};
use ferrymq_types::LogId;
use tokio::sync::OwnedMutexGuard;

use super::ack::AckState;
use super::consuming::Consuming;
use super::dead_letters::DeadLetterTo;
use super::declare::{
    always_durable, check_exchange, check_new_name, check_queue, same_exchange, same_queue,
};
use super::default_type::with_default;
use super::error::{Entity, QueueError};
use super::handle::{Queues, not_of_streams, refused};
use super::logs::Admin;
use super::priorities::Priorities;
use super::records::{
    DELETING, DeletingRecord, EXCHANGES, ExchangeRecord, QUEUES, QueueRecord, binding_key, gone, key, put,
};
use super::session::Session;
use super::settings::{QueueSettings, QueueType};
use super::shard::message::{Attached, Refused, Released, SMALL, ShardMessage};
use super::streams::is_over_topic;
use super::tally;
use super::topology::{QueueEntry, Removal, Vhost};
use super::types::{
    Declared, DeleteIf, ExchangeKind, ExchangeSpec, QueueHandle, QueueIdentity, QueueSpec, QueueStat,
};
use crate::broker::base64_url;

/// A queue that was just made.
const FRESH: QueueStat = QueueStat { ready: 0, unacked: 0, consumers: 0 };

impl Queues {
    pub(super) async fn declare_exchange_now(
        &self,
        admin: &mut Admin,
        vhost: &str,
        spec: ExchangeSpec,
    ) -> Result<bool, QueueError> {
        {
            let topology = self.topology.read();
            let vhost = topology.vhost(vhost)?;
            if spec.name.is_empty() {
                return Err(QueueError::DefaultExchange);
            }
            if let Ok(found) = vhost.exchange(&spec.name) {
                return same_exchange(&vhost.name, &found.spec, &spec).map(|()| false);
            }
        }
        check_new_name(Entity::Exchange, &spec.name)?;
        check_exchange(vhost, &spec)?;
        if spec.kind == ExchangeKind::Delayed {
            self.make_lanes(admin, vhost).await?;
        }
        if spec.durable {
            let key = key(EXCHANGES, &[vhost, &spec.name]);
            self.write(vec![put(key, ExchangeRecord::new(vhost, &spec))?]).await?;
        }
        self.change(vhost, |vhost| vhost.add_exchange(spec, false))?;
        Ok(true)
    }

    /// What an exchange is (a passive declaration).
    ///
    /// # Errors
    /// [`QueueError::NotFound`] or [`QueueError::NoVhost`].
    pub fn exchange(&self, vhost: &str, name: &str) -> Result<ExchangeSpec, QueueError> {
        Ok(self.topology.read().vhost(vhost)?.exchange(name)?.spec.clone())
    }

    pub(super) async fn delete_exchange_now(
        &self,
        vhost: &str,
        name: &str,
        only_if: DeleteIf,
    ) -> Result<bool, QueueError> {
        let removal = {
            let topology = self.topology.read();
            let vhost = topology.vhost(vhost)?;
            let name: Arc<str> = Arc::from(name);
            if name.is_empty() {
                return Err(QueueError::DefaultExchange);
            }
            if name.starts_with("amq.") {
                return Err(QueueError::ReservedName { entity: Entity::Exchange, name });
            }
            if vhost.exchange(&name).is_err() {
                return Ok(false);
            }
            if only_if.unused && vhost.bindings_from(&name) > 0 {
                return Err(QueueError::InUse { entity: Entity::Exchange, vhost: vhost.name.clone(), name });
            }
            vhost.plan_exchange(&name)
        };
        self.remove(vhost, &removal, Vec::new()).await?;
        Ok(true)
    }

    pub(super) async fn declare_queue_now(
        &self,
        mut admin: OwnedMutexGuard<Admin>,
        session: u64,
        vhost: &str,
        spec: QueueSpec,
    ) -> Result<Declared, QueueError> {
        let spec = with_default(spec, self.topology.read().vhost(vhost)?.spec.default_queue_type);
        while let Some(queue) = self.check_declared(session, vhost, &spec)? {
            drop(admin);
            match self.stat_declared(&queue).await {
                // It was just deleted, for nobody used it, say: it is made again.
                Err(QueueError::NotFound { .. }) => admin = self.admin.clone().lock_owned().await,
                stat => return Ok(Declared { queue, created: false, stat: stat? }),
            }
        }
        let is_stream = QueueType::of(&spec.arguments) == Some(QueueType::Stream);
        let spec = match &*spec.name {
            "" if is_stream => return Err(QueueError::ServerNamed),
            "" => QueueSpec { name: self.generated_name(), ..spec },
            _ => {
                check_new_name(Entity::Queue, &spec.name)?;
                spec
            }
        };
        let at = self.topology.read().vhost(vhost)?.name.clone();
        check_queue(&at, &spec)?;
        if is_stream {
            return self.declare_stream(at, spec).await;
        }
        if is_over_topic(&spec.arguments) {
            return self.declare_over_topic(&mut admin, at, spec).await;
        }
        let owner = spec.exclusive.then_some(session);
        let durable = spec.durable && owner.is_none();
        let log = match durable {
            true => self.stored_log(&mut admin, vhost, &spec).await?,
            false => self.pooled_log(&mut admin).await?,
        };
        let handle = self.identify(log.log, at, spec.name.clone(), Priorities::of_queue(&spec));
        let effective = self.topology.read().vhost(vhost)?.policies().effective(&spec).into_owned();
        let attached = Attached {
            handle: handle.clone(),
            epoch: log.epoch,
            start: log.next,
            next: log.next,
            durable,
            always_durable: always_durable(&spec),
            consuming: Consuming::of(&effective),
            acks: AckState::new(log.next),
            dead_letter: DeadLetterTo::of(&effective),
            settings: QueueSettings::of(&effective),
            ready_bytes: 0,
            lane: None,
            source: None,
        };
        self.attach(attached).await?;
        self.topology.write().add_queue(QueueEntry { handle: handle.clone(), spec, owner });
        self.changed();
        Ok(Declared { queue: handle, created: true, stat: FRESH })
    }

    /// A new log for a durable queue, and the queue's record. Side by side they share a sync: a record whose log is not
    /// there is as good as one whose log is empty, the next start makes it.
    async fn stored_log(
        &self,
        admin: &mut Admin,
        vhost: &str,
        spec: &QueueSpec,
    ) -> Result<Released, QueueError> {
        let id = self.durable_id(admin).await?;
        let record = QueueRecord::new(vhost, spec, id.0, self.clock.wall_ms());
        let key = key(QUEUES, &[vhost, &spec.name]);
        let (claimed, written) =
            tokio::join!(self.claim_one(id), self.write(vec![put(key.clone(), record)?]));
        written?;
        match claimed {
            Ok(log) => Ok(log),
            Err(error) => {
                // Nobody was told that there is such a queue.
                self.write(vec![gone(key)]).await?;
                Err(error.into())
            }
        }
    }

    /// The queue of this name, if it is there and as asked.
    fn check_declared(
        &self,
        session: u64,
        vhost: &str,
        spec: &QueueSpec,
    ) -> Result<Option<QueueHandle>, QueueError> {
        let topology = self.topology.read();
        let vhost = topology.vhost(vhost)?;
        let Some(entry) = vhost.queues.get(&spec.name) else { return Ok(None) };
        // A queue that is nobody's cannot be taken, and one's own must be asked for as one's own.
        let mine = if spec.exclusive { Some(session) } else { None };
        if entry.owner != mine {
            let (vhost, name) = (vhost.name.clone(), spec.name.clone());
            return Err(QueueError::ExclusiveLocked { vhost, name });
        }
        same_queue(&vhost.name, &entry.spec, spec)?;
        Ok(Some(entry.handle.clone()))
    }

    /// A queue that this session may use, with what is in it (a passive declaration).
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn queue(&self, session: &Session, vhost: &str, name: &str) -> Result<Declared, QueueError> {
        let queue = self.find(session, vhost, name)?;
        let stat = self.stat_declared(&queue).await?;
        Ok(Declared { queue, created: false, stat })
    }

    pub(super) async fn delete_queue_now(
        &self,
        admin: &mut Admin,
        session: u64,
        vhost: &str,
        name: &str,
        only_if: DeleteIf,
    ) -> Result<u64, QueueError> {
        let found = self.topology.read().vhost(vhost)?.queue_for(name, session).cloned();
        match found {
            Err(QueueError::NotFound { vhost, name, .. })
                if self.topic_as_stream(&vhost, &name).is_some() =>
            {
                Err(QueueError::NotDeclared { vhost, name })
            }
            Ok(entry) if entry.handle.is_stream() => self.delete_stream(&entry, only_if).await,
            Ok(entry) if entry.is_over_topic() => self.delete_over_topic(&entry.handle, only_if).await,
            found => self.delete(admin, found?, only_if, false).await,
        }
    }

    /// What is in a queue that is being declared, which is a use of it.
    async fn stat_declared(&self, queue: &QueueHandle) -> Result<QueueStat, QueueError> {
        let stat = |reply| ShardMessage::Stat { queue: queue.clone(), declared: true, reply };
        self.ask(queue, stat).await?.map_err(|why| refused(queue, why))
    }

    /// Is done with all messages that are ready; how many.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn purge(&self, session: &Session, vhost: &str, name: &str) -> Result<u64, QueueError> {
        let queue = self.find(session, vhost, name)?;
        not_of_streams(&queue, "queue.purge")?;
        let purge = |reply| ShardMessage::Purge { queue: queue.clone(), reply };
        self.ask(&queue, purge).await?.map_err(|why| refused(&queue, why))
    }

    pub(super) async fn delete_if_auto_now(
        &self,
        admin: &mut Admin,
        queue: &QueueHandle,
    ) -> Result<(), QueueError> {
        let Some(entry) = self.entry_of(queue).filter(|entry| entry.spec.auto_delete) else {
            return Ok(());
        };
        match self.delete(admin, entry, DeleteIf { unused: true, empty: false }, false).await {
            Ok(_) | Err(QueueError::InUse { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete_if_unused_now(
        &self,
        admin: &mut Admin,
        queue: &QueueHandle,
    ) -> Result<bool, QueueError> {
        let Some(entry) = self.entry_of(queue) else { return Ok(false) };
        match self.delete(admin, entry, DeleteIf::default(), true).await {
            Ok(_) => Ok(true),
            Err(QueueError::InUse { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A queue that is still there.
    pub(super) fn entry_of(&self, queue: &QueueHandle) -> Option<QueueEntry> {
        let topology = self.topology.read();
        let entry = topology.vhost(queue.vhost()).ok()?.queues.get(queue.name())?;
        (entry.handle == *queue).then(|| entry.clone())
    }

    pub(super) async fn delete_exclusive_now(&self, admin: &mut Admin, session: u64) {
        let names = self.topology.write().exclusive.remove(&session).unwrap_or_default();
        for (vhost, name) in names {
            let entry = {
                let topology = self.topology.read();
                topology.vhost(&vhost).ok().and_then(|vhost| vhost.queues.get(&name).cloned())
            };
            let Some(entry) = entry.filter(|entry| entry.owner == Some(session)) else { continue };
            if let Err(error) = self.delete(admin, entry, DeleteIf::default(), false).await {
                tracing::warn!(queue = %name, %error, "an exclusive queue could not be deleted");
            }
        }
    }

    async fn delete(
        &self,
        admin: &mut Admin,
        entry: QueueEntry,
        only_if: DeleteIf,
        idle: bool,
    ) -> Result<u64, QueueError> {
        let queue = &entry.handle;
        let close = |reply| ShardMessage::Close { queue: queue.clone(), only_if, idle, reply };
        let count = match self.ask(queue, close).await? {
            Ok(count) => count,
            Err(why @ (Refused::InUse | Refused::NotEmpty | Refused::Storage(_))) => {
                return Err(refused(queue, why));
            }
            Err(Refused::Gone | Refused::Exclusive | Refused::SingleActive | Refused::Full(_)) => 0,
        };
        let removal = self.topology.read().vhost(queue.vhost())?.plan_queue(queue.name());
        if let Err(error) = self.remove_with_logs(&entry, &removal).await {
            self.tell(queue, ShardMessage::Reopen { queue: queue.clone() }).await;
            return Err(error);
        }
        if let Some(owner) = entry.owner {
            self.topology.write().disown(owner, queue);
        }
        let detach = |reply| ShardMessage::Detach { queue: queue.clone(), reply };
        let released = self.ask(queue, detach).await;
        // Of a shard that has ended nothing is known; the next start claims the logs anew.
        for released in released.into_iter().flatten() {
            if entry.stored() {
                self.delete_log(released, deleting_key(released.log));
            } else {
                self.give_back(admin, released);
            }
        }
        Ok(count)
    }

    /// Takes a queue out of the store, with what goes with it; its logs are remembered until they are gone.
    async fn remove_with_logs(&self, entry: &QueueEntry, removal: &Removal) -> Result<(), QueueError> {
        let mut puts = Vec::new();
        if entry.stored() {
            let mut logs = self.level_logs(&entry.handle).await?;
            logs.push(entry.handle.log());
            for log in logs {
                puts.push(put(deleting_key(log), DeletingRecord { log: log.0 })?);
            }
        }
        self.remove(entry.handle.vhost(), removal, puts).await
    }

    /// Takes a planned removal away, from the store first.
    pub(super) async fn remove(
        &self,
        vhost: &str,
        removal: &Removal,
        mut puts: Vec<Put>,
    ) -> Result<(), QueueError> {
        {
            let topology = self.topology.read();
            let vhost = topology.vhost(vhost)?;
            let stored = |number: &&u64| vhost.binding(**number).is_some_and(|binding| binding.stored);
            puts.extend(removal.bindings.iter().filter(stored).map(|number| gone(binding_key(*number))));
            for name in &removal.exchanges {
                if vhost.exchange(name).is_ok_and(|exchange| exchange.spec.durable && !exchange.predeclared) {
                    puts.push(gone(key(EXCHANGES, &[&vhost.name, name])));
                }
            }
            if let Some(name) =
                removal.queue.as_ref().filter(|name| vhost.queue(name).is_ok_and(QueueEntry::stored))
            {
                puts.push(gone(key(QUEUES, &[&vhost.name, name])));
            }
        }
        self.write(puts).await?;
        if removal.queue.is_some() {
            tally::count(&self.tally.deleted);
        }
        self.change(vhost, |vhost| vhost.remove(removal))
    }

    pub(super) async fn write(&self, puts: Vec<Put>) -> Result<(), StorageError> {
        if puts.is_empty() {
            return Ok(());
        }
        self.stores.meta.txn(Vec::new(), puts).await.map(drop)
    }

    pub(super) fn change<T>(
        &self,
        vhost: &str,
        change: impl FnOnce(&mut Vhost) -> T,
    ) -> Result<(), QueueError> {
        change(self.topology.write().vhost_mut(vhost)?);
        self.changed();
        Ok(())
    }

    /// Which shard has a log.
    pub(super) fn shard_of(&self, log: LogId) -> usize {
        // The desk of streams is none of theirs.
        let shards = self.shards.len() - usize::from(self.streams.is_some());
        usize::try_from(log.0 % shards as u64).unwrap_or(0)
    }

    pub(super) fn identify(
        &self,
        log: LogId,
        vhost: Arc<str>,
        name: Arc<str>,
        priorities: Option<Box<Priorities>>,
    ) -> QueueHandle {
        let (shard, vhost_number) = (self.shard_of(log), self.topology.read().number_of(&vhost));
        let (stream, over) = (None, None);
        QueueHandle(Arc::new(QueueIdentity {
            log,
            shard,
            vhost,
            vhost_number,
            name,
            priorities,
            stream,
            over,
        }))
    }

    pub(super) async fn attach(&self, attached: Attached) -> Result<(), QueueError> {
        let shard = attached.handle.0.shard;
        let message = ShardMessage::Attach(Box::new(attached));
        self.shards[shard].send(message, SMALL).await.map_err(|_| QueueError::Stopped)
    }

    fn generated_name(&self) -> Arc<str> {
        Arc::from(format!("amq.gen-{}", base64_url(&self.rng.next_u128().to_be_bytes())))
    }
}

/// Where it stands that a log is being deleted.
fn deleting_key(log: LogId) -> String {
    key(DELETING, &[&log.to_string()])
}
