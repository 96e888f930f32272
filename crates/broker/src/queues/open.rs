//! Reading everything back at the start.
//!
//! ```text
//! records ─▶ topology          claims in bulk: state logs, queues, pool
//! state logs ─▶ ack records    headers of queues that are not empty ─▶ which messages exist
//! ```
//! **Invariants.** Nothing is served before its log is claimed and its acks are replayed. A queue's messages are
//! counted by its batches' headers; no body is read. Before anything is delivered, the state log says that the
//! last stop is no longer the end of the story.
//!
//! Deliberately absent: repairing records that cannot be read; the start is refused and says which.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::{Action, Claim, Compare, ErrorKind, LogStore, MetaStore, Op, Revision, StorageError};
use ferrymq_types::{LogId, Offset, OwnerId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore, oneshot, watch};

use super::ack::{AckState, Replay};
use super::consuming::Consuming;
use super::dead_letters::{DeadLetterTo, MOVERS};
use super::declare::always_durable;
use super::delays::LANES;
use super::error::QueueError;
use super::handle::{QueueOptions, Queues};
use super::idle;
use super::joint::Joint;
use super::logs::{Admin, FIRST_POOL_LOG};
use super::measure::ready_bytes;
use super::policy;
use super::priorities::Priorities;
use super::records::{
    self, BINDINGS, BindingRecord, DELAYS, DELETING, DelaysRecord, DeletingRecord, EXCHANGES, ExchangeRecord,
    POOL_COUNTER, QUEUES, QueueRecord, SETTINGS, SettingsRecord, VHOSTS, VhostRecord, binding_number, gone,
    key, put, put_vhost, read,
};
use super::settings::QueueSettings;
use super::shard::journal::{Journal, Journaled};
use super::shard::message::{Attached, AttachedLevel, Released, SMALL, ShardMessage};
use super::shard::{self, ShardContext};
use super::streams::{self, Streams};
use super::tally::Tally;
use super::topology::{QueueEntry, Topology};
use super::types::{QueueHandle, QueueSpec, VhostSpec};
use super::vhosts;
use crate::broker::Stores;

/// State logs are those from here on, one per shard.
pub const FIRST_STATE_LOG: u64 = 32;
/// Most shards.
pub const SHARDS_MAX: usize = 16;
/// Logs claimed in one call.
const CLAIMS_PER_CALL: usize = 10_000;
/// Batches described in one call.
const HEADERS_PER_CALL: usize = 4096;
/// Queues whose headers are read at a time.
const LOADS_AT_A_TIME: usize = 64;
/// The virtual host that is there from the first start on.
const FIRST_VHOST: &str = "/";

/// A stored queue as it was found.
struct LoadedQueue {
    handle: QueueHandle,
    spec: QueueSpec,
    settings: QueueSettings,
    levels: Vec<(u8, u64)>,
    /// Its own log and those of its levels, what is not done of them, and bytes of bodies that are available.
    logs: Vec<(Claim, AckState, u64)>,
}

impl Queues {
    /// Reads the topology, claims the queues' logs, replays what was acknowledged and starts the shards. At the
    /// first start it makes the virtual host `/` and its predeclared exchanges.
    ///
    /// # Errors
    /// Whatever the store answers, or `Internal` for records of a newer version.
    pub async fn open(
        stores: Stores,
        options: QueueOptions,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
    ) -> Result<Arc<Queues>, StorageError> {
        // One owner for queues and topics: a commit has one.
        let topics = options.topics.as_ref();
        let owner = topics.map_or_else(|| OwnerId(rng.next_u128()), |topics| topics.broker.owner());
        let shards = shard_count(&*stores.meta, &options).await?;
        vhosts::finish_all(&*stores.meta).await?;
        finish_deletions(&stores, owner).await?;
        let mut topology = Topology::default();
        load_vhosts(&*stores.meta, &mut topology).await?;
        let logs = (0..shards as u64).map(|shard| LogId(FIRST_STATE_LOG + shard)).collect();
        let claims = claim(&*stores.logs, logs, owner).await?;
        let opened = Arc::new(AtomicBool::new(false));
        let (here, found) = watch::channel(Weak::new());
        let (unused, told) = idle::hints();
        let tally = Arc::<Tally>::default();
        let mut senders = Vec::new();
        let mut journaled = Vec::new();
        for (index, claim) in claims.into_iter().enumerate() {
            let (journal, said) = begin_journal(&stores, claim, owner, &rng, &clock).await?;
            let context = ShardContext {
                store: stores.logs.clone(),
                clock: clock.clone(),
                owner,
                writer: rng.next_u64(),
                tasks: tasks.clone(),
                opened: opened.clone(),
                queues: found.clone(),
                unused: unused.clone(),
                tally: tally.clone(),
            };
            senders.push(shard::start(index, context, journal, &options));
            journaled.push(said);
        }
        let pool = load_pool(&stores, owner).await?;
        let streams = options.topics.clone().map(|topics| {
            senders.push(streams::desk(topics.clone(), options.mailbox_bytes, clock.clone(), &tasks));
            Streams::new(topics, &senders)
        });
        let queues = Queues {
            stores,
            clock,
            rng,
            tasks,
            owner,
            topology: RwLock::new(topology),
            generation: AtomicU64::new(1),
            shards: senders,
            streams,
            admin: Arc::new(Mutex::new(Admin { pool, ..Admin::default() })),
            sessions: AtomicU64::new(0),
            joint: Joint::default(),
            letters: options.letters.clone(),
            default_queue_type: options.default_queue_type,
            tally,
            movers: Semaphore::new(MOVERS),
        };
        queues.load(&journaled).await?;
        let queues = Arc::new(queues);
        here.send_replace(Arc::downgrade(&queues));
        opened.store(true, Ordering::Release);
        idle::start(&queues, told);
        streams::watch_topics(&queues);
        Ok(queues)
    }

    async fn load(&self, journaled: &[Journaled]) -> Result<(), StorageError> {
        self.load_queues(journaled).await?;
        self.load_streams().await?;
        self.set_on_streams().await;
        self.load_over_topics(journaled).await?;
        self.load_lanes(journaled).await?;
        self.load_bindings().await?;
        self.all_attached().await;
        Ok(())
    }

    /// Waits until every shard has taken over all that was attached: a state log that is rewritten before that would
    /// forget the rest.
    async fn all_attached(&self) {
        // There is no such session: what counts is that the answer comes after everything before it.
        let session = u64::MAX;
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let _ended = shard.send(ShardMessage::EndSession { session, reply }, SMALL).await.is_err();
            let _ended = answer.await.is_err();
        }
    }

    /// As many queues at a time as are claimed in one call: what is only needed on the way stays small.
    async fn load_queues(&self, journaled: &[Journaled]) -> Result<(), StorageError> {
        let mut entries = self.stores.meta.list(QUEUES, Revision(0)).await?.entries.into_iter();
        while !entries.as_slice().is_empty() {
            let records = entries.by_ref().take(CLAIMS_PER_CALL).map(|entry| read(&entry));
            let records = records.collect::<Result<Vec<QueueRecord>, _>>()?;
            let logs = records.iter().flat_map(QueueRecord::logs).collect();
            let claims = claim(&*self.stores.logs, logs, self.owner).await?;
            self.load_some(records, claims, journaled).await?;
            // Or mailboxes would hold, on a busy machine, nearly all of them at once.
            self.all_attached().await;
        }
        Ok(())
    }

    async fn load_some(
        &self,
        records: Vec<QueueRecord>,
        claims: Vec<Claim>,
        journaled: &[Journaled],
    ) -> Result<(), StorageError> {
        let nothing = Replay::default();
        let mut claims = claims.into_iter();
        let loads = records.into_iter().map(|mut record| {
            let claims: Vec<Claim> = claims.by_ref().take(record.logs().count()).collect();
            let (vhost, levels) = (self.name_of(&record.vhost), std::mem::take(&mut record.levels));
            let log = LogId(record.log);
            let spec = record.spec();
            let nothing = &nothing;
            async move {
                let handle = self.identify(log, vhost?, spec.name.clone(), Priorities::of_queue(&spec));
                let said = &journaled[handle.0.shard];
                let settings = QueueSettings::of(&self.effective(handle.vhost(), &spec));
                let mut logs = Vec::with_capacity(claims.len());
                for claim in claims {
                    let replay = said.acks.get(&claim.log).unwrap_or(nothing);
                    let acks = load_acks(&*self.stores.logs, claim, replay, said.clean).await?;
                    let bytes = match settings.bytes_max {
                        Some(_) => ready_bytes(&*self.stores.logs, claim, &acks).await?,
                        None => 0,
                    };
                    logs.push((claim, acks, bytes));
                }
                Ok::<_, StorageError>(LoadedQueue { handle, spec, settings, levels, logs })
            }
        });
        let mut loads = stream::iter(loads).buffered(LOADS_AT_A_TIME);
        while let Some(loaded) = loads.try_next().await? {
            self.attach_loaded(loaded).await?;
        }
        Ok(())
    }

    /// The name of a virtual host that stored queues lie in: one for all of them.
    fn name_of(&self, vhost: &str) -> Result<Arc<str>, StorageError> {
        let topology = self.topology.read();
        let vhost = topology.vhost(vhost).map_err(|_| {
            internal(format!("stored queues lie in a virtual host that is not there: {vhost}"))
        })?;
        Ok(vhost.name.clone())
    }

    async fn attach_loaded(&self, loaded: LoadedQueue) -> Result<(), StorageError> {
        let LoadedQueue { handle, spec, settings, levels, logs } = loaded;
        let mut logs = logs.into_iter();
        let Some((claim, acks, ready_bytes)) = logs.next() else { return Ok(()) };
        let effective = self.effective(handle.vhost(), &spec);
        let attached = Attached {
            handle: handle.clone(),
            epoch: claim.epoch,
            start: claim.start.0,
            next: claim.next.0,
            durable: true,
            always_durable: always_durable(&spec),
            consuming: Consuming::of(&effective),
            acks,
            dead_letter: DeadLetterTo::of(&effective),
            settings,
            ready_bytes,
            lane: None,
            source: None,
        };
        self.attach(attached).await.map_err(stopped)?;
        for ((priority, _), (claim, acks, ready_bytes)) in levels.into_iter().zip(logs) {
            let level = AttachedLevel {
                queue: handle.clone(),
                priority,
                handle: handle.of_level(claim.log),
                epoch: claim.epoch,
                start: claim.start.0,
                next: claim.next.0,
                acks,
                ready_bytes,
                source: None,
            };
            self.attach_level(level).await.map_err(stopped)?;
        }
        self.topology.write().add_queue(QueueEntry { handle, spec, owner: None });
        Ok(())
    }

    /// Messages that exchanges keep back.
    async fn load_lanes(&self, journaled: &[Journaled]) -> Result<(), StorageError> {
        let nothing = Replay::default();
        for (key, record) in load_records::<DelaysRecord>(&*self.stores.meta, DELAYS).await? {
            if record.logs.len() != LANES || !self.topology.read().has_vhost(&record.vhost) {
                return Err(internal(format!("a stored record of delays makes no sense: {key}")));
            }
            let logs = record.logs.into_iter().map(LogId).collect();
            let mut lanes = Vec::new();
            for (lane, claim) in claim(&*self.stores.logs, logs, self.owner).await?.into_iter().enumerate() {
                let said = &journaled[self.shard_of(claim.log)];
                let replay = said.acks.get(&claim.log).unwrap_or(&nothing);
                let acks = load_acks(&*self.stores.logs, claim, replay, said.clean).await?;
                lanes.push(self.attach_lane(&record.vhost, lane, claim, acks).await.map_err(stopped)?);
            }
            self.set_lanes(&record.vhost, lanes).map_err(stopped)?;
        }
        Ok(())
    }

    async fn load_bindings(&self) -> Result<(), StorageError> {
        let mut admin = self.admin.lock().await;
        for (key, record) in load_records::<BindingRecord>(&*self.stores.meta, BINDINGS).await? {
            let number = binding_number(&key);
            let vhost = record.vhost.clone();
            let (Some(number), Some(binding)) = (number, record.binding()) else {
                return Err(internal(format!("a stored binding makes no sense: {key}")));
            };
            admin.next_binding = admin.next_binding.max(number + 1);
            let mut topology = self.topology.write();
            let Ok(vhost) = topology.vhost_mut(&vhost) else { continue };
            if !vhost.add_binding(number, binding) {
                tracing::warn!(key, "a stored binding leads from or to what is not there; it is left alone");
            }
        }
        Ok(())
    }
}

/// Reads a state log and makes durable that the shard serves again.
async fn begin_journal(
    stores: &Stores,
    claim: Claim,
    owner: OwnerId,
    rng: &Rng,
    clock: &Clock,
) -> Result<(Journal, Journaled), StorageError> {
    let (mut journal, said) = Journal::load(&*stores.logs, claim, owner, rng.next_u64()).await?;
    let (op, sealed) = journal.seal(clock.wall_ms());
    stores.logs.commit(vec![vec![op]]).await.pop().unwrap_or(Ok(()))?;
    journal.settled(sealed, true);
    Ok((journal, said))
}

/// What is not done of a queue's log.
async fn load_acks(
    store: &dyn LogStore,
    claim: Claim,
    replay: &Replay,
    clean: bool,
) -> Result<AckState, StorageError> {
    let (start, next) = (claim.start.0, claim.next.0);
    let mut existing: Vec<Range<u64>> = Vec::new();
    let mut at = start;
    while at < next {
        let heads = store.headers(claim.log, Offset(at), HEADERS_PER_CALL, 0).await?;
        let Some(last) = heads.last() else { break };
        at = last.base.0 + u64::from(last.span);
        for head in heads {
            let range = head.base.0..head.base.0 + u64::from(head.span);
            match existing.last_mut() {
                Some(before) if before.end == range.start => before.end = range.end,
                _ => existing.push(range),
            }
        }
    }
    Ok(replay.restore(start, next, existing, clean))
}

async fn shard_count(meta: &dyn MetaStore, options: &QueueOptions) -> Result<usize, StorageError> {
    if let Some(entry) = meta.get(SETTINGS).await? {
        let SettingsRecord { shards } = read(&entry)?;
        return match shards {
            1..=SHARDS_MAX => Ok(shards),
            _ => Err(internal(format!("the stored number of shards makes no sense: {shards}"))),
        };
    }
    let shards = options.shards.clamp(1, SHARDS_MAX);
    let first = Compare { key: SETTINGS.to_owned(), revision: None };
    let default_queue_type = options.default_queue_type;
    let vhost = VhostRecord::new(&VhostSpec { default_queue_type, ..VhostSpec::named(FIRST_VHOST) });
    let settings = put(SETTINGS.to_owned(), SettingsRecord { shards })?;
    let puts = vec![settings, put_vhost(key(VHOSTS, &[FIRST_VHOST]), vhost)?];
    meta.txn(vec![first], puts).await?;
    Ok(shards)
}

pub(super) async fn load_records<T: serde::de::DeserializeOwned>(
    meta: &dyn MetaStore,
    prefix: &str,
) -> Result<Vec<(String, T)>, StorageError> {
    let listing = meta.list(prefix, Revision(0)).await?;
    listing.entries.iter().map(|entry| Ok((entry.key.clone(), read(entry)?))).collect()
}

async fn load_vhosts(meta: &dyn MetaStore, topology: &mut Topology) -> Result<(), StorageError> {
    for (_, record) in load_records::<VhostRecord>(meta, VHOSTS).await? {
        topology.add_vhost(record.spec());
    }
    policy::load(meta, topology).await?;
    for (key, record) in load_records::<ExchangeRecord>(meta, EXCHANGES).await? {
        let Ok(vhost) = topology.vhost_mut(&record.vhost) else {
            return Err(internal(format!("a stored exchange lies in no virtual host: {key}")));
        };
        vhost.add_exchange(record.spec(), false);
    }
    Ok(())
}

async fn claim(store: &dyn LogStore, logs: Vec<LogId>, owner: OwnerId) -> Result<Vec<Claim>, StorageError> {
    let mut claims = Vec::with_capacity(logs.len());
    for chunk in logs.chunks(CLAIMS_PER_CALL) {
        claims.extend(store.claim(chunk.to_vec(), owner).await?);
    }
    if claims.len() != logs.len() {
        return Err(internal("a claim without an answer".to_owned()));
    }
    Ok(claims)
}

/// Claims the logs of queues that did not outlive the last process, and empties them.
async fn load_pool(stores: &Stores, owner: OwnerId) -> Result<Vec<Released>, StorageError> {
    let Some(entry) = stores.meta.get(POOL_COUNTER).await? else { return Ok(Vec::new()) };
    let count = records::read_counter(&entry)?;
    let logs = (0..count).map(|at| LogId(FIRST_POOL_LOG + at)).collect();
    let claims = claim(&*stores.logs, logs, owner).await?;
    let full = claims.iter().filter(|claim| claim.start < claim.next);
    let trims = full.map(|claim| {
        let Claim { log, epoch, next, .. } = *claim;
        vec![Op { log, epoch, owner, action: Action::Trim(next) }]
    });
    for outcome in stores.logs.commit(trims.collect()).await {
        outcome?;
    }
    let free = |claim: &Claim| Released { log: claim.log, epoch: claim.epoch, next: claim.next.0 };
    Ok(claims.iter().rev().map(free).collect())
}

/// Deletes the logs of queues whose deletion a crash cut short.
async fn finish_deletions(stores: &Stores, owner: OwnerId) -> Result<(), StorageError> {
    let all: HashMap<String, DeletingRecord> =
        load_records(&*stores.meta, DELETING).await?.into_iter().collect();
    for (key, record) in all {
        let log = LogId(record.log);
        match stores.logs.claim(vec![log], owner).await {
            Ok(claims) => {
                let epoch = claims.first().map(|claim| claim.epoch).unwrap_or_default();
                let op = Op { log, epoch, owner, action: Action::Delete };
                stores.logs.commit(vec![vec![op]]).await.pop().unwrap_or(Ok(()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        stores.meta.txn(Vec::new(), vec![gone(key)]).await?;
    }
    Ok(())
}

pub(super) fn internal(what: String) -> StorageError {
    StorageError::new(ErrorKind::Internal, what)
}

fn stopped(error: QueueError) -> StorageError {
    StorageError::new(ErrorKind::Closed, "a shard of queues has ended").caused_by(error)
}
