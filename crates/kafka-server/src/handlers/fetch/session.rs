//! What a consumer follows: its partitions, its positions, and which of them may have something (KIP-227).
//!
//! **Invariants.** A session belongs to one connection and ends with it. What sessions remember is bounded, each and
//! together, and so is what they remember of partitions that do not exist. A partition is hot when it may have
//! something that was not told; a cold one costs nothing until it changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferrymq_broker::watch::Registration;
use ferrymq_broker::{Partition, Topic, Watcher};
use ferrymq_kafka_codec::messages::fetch::{FetchPartition, FetchRequest, PartitionData};
use ferrymq_kafka_codec::{ErrorCode, Records, StrBytes, Uuid};
use ferrymq_runtime::BytePermit;
use ferrymq_types::IdMap;
use ferrymq_types::limits::{
    FETCH_SESSION_PARTITION_BYTES, FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSION_UNKNOWN_MAX,
};

use super::read;
use crate::context::Context;
use crate::turns::Turns;

/// First version that names topics by id.
const TOPIC_ID_SINCE: i16 = 13;

/// How a topic is named: by name before version 13, by id from then on.
type TopicKey = (StrBytes, Uuid);

/// One followed partition.
pub(super) struct Entry {
    topic: TopicKey,
    /// The partition's index.
    pub(super) index: i32,
    /// Where the consumer is.
    pub(super) offset: i64,
    /// Most bytes it wants of it.
    pub(super) bytes_max: i32,
    /// The epoch it believes in.
    pub(super) leader_epoch: i32,
    partition: Option<Arc<Partition>>,
    registration: Option<Arc<Registration>>,
    seen_high_watermark: i64,
    told: (i64, i64, i64),
    hot: bool,
    was_unknown: bool,
}

fn find(context: &Context, (name, id): &TopicKey) -> Option<Arc<Topic>> {
    let topics = context.broker.topics();
    match id.is_zero() {
        true => topics.get(name),
        false => topics.by_id(uuid::Uuid::from_bytes(id.0)),
    }
}

fn partition_of(topic: &Topic, index: i32) -> Option<Arc<Partition>> {
    topic.partitions.get(usize::try_from(index).ok()?).cloned()
}

/// The partitions one consumer follows.
pub(crate) struct FetchSession {
    id: i32,
    epoch: i32,
    by_id: bool,
    next_token: u64,
    entries: IdMap<u64, Entry>,
    /// Tokens in the order the partitions were first asked for.
    order: Vec<u64>,
    /// Tokens by topic and partition. Clients without sessions name all of their partitions in every fetch, so a topic is
    /// looked up once; and they choose the partitions' numbers, so those are not hashed.
    tokens: HashMap<TopicKey, BTreeMap<i32, u64>>,
    hot: VecDeque<u64>,
    watcher: Arc<Watcher>,
    /// Followed partitions that were not there when they were first asked for.
    unknown: usize,
    /// Room for what is remembered, if it outlives the request.
    room: Option<BytePermit>,
}

impl FetchSession {
    /// A session for one request.
    pub(super) fn single(version: i16) -> FetchSession {
        FetchSession {
            id: 0,
            epoch: 0,
            by_id: version >= TOPIC_ID_SINCE,
            next_token: 0,
            entries: IdMap::default(),
            order: Vec::new(),
            tokens: HashMap::new(),
            hot: VecDeque::new(),
            watcher: Watcher::new(),
            unknown: 0,
            room: None,
        }
    }

    /// A session that the next requests of the connection go on with.
    pub(super) fn create(context: &Context, version: i16) -> FetchSession {
        let counter = context.fetch_sessions.fetch_add(1, Ordering::Relaxed);
        // Ids are positive; after 2^31 sessions they start over, long after the first have ended.
        let id = (counter & i32::MAX).max(1);
        FetchSession { id, epoch: 1, ..FetchSession::single(version) }
    }

    /// Takes room for what the session remembers by now. If it is too much it is not to be gone on with: the
    /// answer is that of a session for one request.
    pub(super) fn settle(&mut self, context: &Context) -> bool {
        let bytes = self.entries.len() * FETCH_SESSION_PARTITION_BYTES;
        let held = self.room.as_ref().map_or(0, BytePermit::bytes);
        let fits = self.entries.len() <= FETCH_SESSION_PARTITIONS_MAX
            && self.unknown <= FETCH_SESSION_UNKNOWN_MAX
            && (bytes <= held || self.grow(context, bytes - held));
        if !fits {
            (self.id, self.room) = (0, None);
        } else if let Some(room) = &mut self.room {
            room.shrink_to(bytes);
        }
        fits
    }

    fn grow(&mut self, context: &Context, bytes: usize) -> bool {
        let Some(more) = context.sessions.try_take(bytes) else { return false };
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        true
    }

    pub(super) fn id(&self) -> i32 {
        self.id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks that a request is the next of this session.
    pub(super) fn advance(&mut self, epoch: i32, version: i16) -> Result<(), ErrorCode> {
        if epoch != self.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if (version >= TOPIC_ID_SINCE) != self.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        self.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        Ok(())
    }

    /// Takes in what a request adds, changes and forgets.
    pub(super) async fn update(&mut self, context: &Context, request: &FetchRequest) {
        let mut turns = Turns::default();
        for topic in &request.forgotten_topics_data {
            let key = (topic.topic.clone(), topic.topic_id);
            for index in &topic.partitions {
                turns.spend(1).await;
                self.forget(&key, *index);
            }
        }
        if !request.forgotten_topics_data.is_empty() {
            self.order.retain(|token| self.entries.contains_key(token));
        }
        for topic in &request.topics {
            // The session outlives the request, so its names are copied out of the request's frame.
            let key = (topic.topic.detach(), topic.topic_id);
            let found = find(context, &key);
            if self.entries.is_empty() {
                self.entries.reserve(topic.partitions.len());
            }
            for wanted in &topic.partitions {
                turns.spend(1).await;
                self.follow(&key, found.as_deref(), wanted);
            }
        }
    }

    fn forget(&mut self, key: &TopicKey, index: i32) {
        let Some(of_topic) = self.tokens.get_mut(key) else { return };
        let Some(token) = of_topic.remove(&index) else { return };
        if of_topic.is_empty() {
            self.tokens.remove(key);
        }
        let entry = self.entries.remove(&token);
        let was_unknown = entry.is_some_and(|entry| entry.was_unknown);
        self.unknown -= usize::from(was_unknown);
    }

    /// Follows a partition; `topic` is its topic as it is now.
    fn follow(&mut self, key: &TopicKey, topic: Option<&Topic>, wanted: &FetchPartition) {
        let of_topic = match self.tokens.get_mut(key) {
            Some(of_topic) => of_topic,
            None => self.tokens.entry(key.clone()).or_default(),
        };
        let mut is_new = false;
        let token = *of_topic.entry(wanted.partition).or_insert_with(|| {
            is_new = true;
            self.next_token += 1;
            self.order.push(self.next_token);
            self.next_token
        });
        let entry = self.entries.entry(token).or_insert_with(|| Entry::new(key.clone(), wanted.partition));
        entry.offset = wanted.fetch_offset;
        entry.bytes_max = wanted.partition_max_bytes;
        entry.leader_epoch = wanted.current_leader_epoch;
        entry.resolve(|_| topic.and_then(|topic| partition_of(topic, wanted.partition)));
        if is_new && entry.partition.is_none() {
            entry.was_unknown = true;
            self.unknown += 1;
        }
        if !std::mem::replace(&mut entry.hot, true) {
            self.hot.push_back(token);
        }
    }

    fn heat(&mut self, token: u64) {
        if let Some(entry) = self.entries.get_mut(&token)
            && !entry.hot
        {
            entry.hot = true;
            self.hot.push_back(token);
        }
    }

    /// The hot partitions, in the order in which to look at them.
    pub(super) fn take_hot(&mut self) -> VecDeque<u64> {
        std::mem::take(&mut self.hot)
    }

    /// Says that a hot partition was looked at, and whether it had records.
    pub(super) fn put_back(&mut self, token: u64, more: bool) {
        let Some(entry) = self.entries.get_mut(&token) else { return };
        entry.hot = false;
        if more || entry.partition.is_none() {
            // The consumer may ask again without moving on.
            self.heat(token);
        }
    }

    /// Puts back hot partitions that were not looked at, before the others.
    pub(super) fn put_front(&mut self, mut rest: VecDeque<u64>) {
        rest.append(&mut self.hot);
        self.hot = rest;
    }

    /// Watches every partition; whether one changed since it was looked at.
    pub(super) async fn watch(&mut self) -> bool {
        let mut missed = Vec::new();
        let mut turns = Turns::default();
        for (token, entry) in &mut self.entries {
            turns.spend(1).await;
            let (None, Some(partition)) = (&entry.registration, &entry.partition) else { continue };
            entry.registration = Some(partition.watchers.register(&self.watcher, *token));
            if partition.high_watermark().signed() != entry.seen_high_watermark || partition.is_gone() {
                missed.push(*token);
            }
        }
        for token in &missed {
            self.heat(*token);
        }
        !missed.is_empty()
    }

    /// Waits until a watched partition changes. Cancel safe.
    pub(super) async fn changed(&self) {
        self.watcher.changed().await;
    }

    /// Makes the partitions that changed hot.
    pub(super) fn take_changed(&mut self) {
        for token in self.watcher.take_changed() {
            self.heat(token);
        }
    }

    pub(super) fn entry_mut(&mut self, token: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&token)
    }

    /// All partitions, in the order they were first asked for.
    pub(super) fn tokens(&self) -> Vec<u64> {
        self.order.clone()
    }

    /// The topic of a partition as an answer of `version` names it.
    pub(super) fn topic_of(&self, token: u64, version: i16) -> TopicKey {
        let key = self.entries.get(&token).map(|entry| entry.topic.clone()).unwrap_or_default();
        if version >= TOPIC_ID_SINCE { (StrBytes::new(), key.1) } else { (key.0, Uuid::ZERO) }
    }

    /// The answer for a partition that was not looked at.
    pub(super) fn empty_answer(&self, token: u64, read_committed: bool) -> PartitionData {
        let Some(entry) = self.entries.get(&token) else { return PartitionData::default() };
        match entry.partition() {
            Some(partition) => read::bounds(entry, partition, read_committed),
            None => entry.failed(entry.unknown_code()),
        }
    }

    /// Notes what the consumer is told; whether its bounds differ from what it was told before.
    pub(super) fn note_answered(&mut self, token: u64, data: &PartitionData) -> bool {
        let now = (data.high_watermark, data.last_stable_offset, data.log_start_offset);
        match self.entries.get_mut(&token) {
            Some(entry) => std::mem::replace(&mut entry.told, now) != now,
            None => false,
        }
    }
}

impl Entry {
    fn new(topic: TopicKey, index: i32) -> Entry {
        Entry {
            topic,
            index,
            offset: 0,
            bytes_max: 0,
            leader_epoch: -1,
            partition: None,
            registration: None,
            seen_high_watermark: -1,
            told: (-1, -1, -1),
            hot: false,
            was_unknown: false,
        }
    }

    /// Sees to it that the partition is the one that there is: `find` is asked if its topic was deleted meanwhile.
    fn resolve(&mut self, find: impl FnOnce(&TopicKey) -> Option<Arc<Partition>>) {
        if self.partition.as_ref().is_none_or(|partition| partition.is_gone()) {
            self.registration = None;
            self.partition = find(&self.topic);
        }
        if let Some(partition) = &self.partition {
            self.seen_high_watermark = partition.high_watermark().signed();
        }
    }

    /// The same before it is looked at.
    pub(super) fn refresh(&mut self, context: &Context) {
        let index = self.index;
        self.resolve(|key| find(context, key).and_then(|topic| partition_of(&topic, index)));
    }

    pub(super) fn partition(&self) -> Option<&Arc<Partition>> {
        self.partition.as_ref()
    }

    /// The code for a partition that is not there.
    pub(super) fn unknown_code(&self) -> ErrorCode {
        if self.topic.1.is_zero() { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::UnknownTopicId }
    }

    /// An answer that is only an error.
    pub(super) fn failed(&self, code: ErrorCode) -> PartitionData {
        PartitionData {
            partition_index: self.index,
            error_code: code.code(),
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            records: Some(Records::new()),
            ..Default::default()
        }
    }
}
