//! Produce: batches are checked here, given offsets and written by their owners, and answered once durable.
//!
//! The frame is decoded in place; then every reference into it is dropped, the frame is cut at the batches'
//! bounds, and each batch is patched and stored without having been copied.
//!
//! **Invariants.** Requests of one connection reach the owners in the order they came. `acks=1` and
//! `acks=all` are alike: both are answered after the topic's durability class is met.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use ferrymq_broker::broker::PendingAppends;
use ferrymq_broker::validate::{Refusal, check_batch};
use ferrymq_broker::{AppendError, AppendItem, Appended, Partition};
use ferrymq_kafka_codec::messages::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData, TopicProduceResponse,
};
use ferrymq_kafka_codec::{ErrorCode, Records, StrBytes};
use ferrymq_types::batch::into_mut;
use ferrymq_types::limits::PARTITIONS_MAX;
use ferrymq_types::{BatchError, BatchHeader, BatchView, Compression};

use crate::cluster::Node;
use crate::connection::{Closed, Reply, Session};
use crate::context::Context;
use crate::dispatch::{Begun, range_in, respond};
use crate::errors;
use crate::turns::Turns;

/// First version that may carry zstd (KIP-110).
const ZSTD_SINCE: i16 = 7;
/// First version whose answer carries error messages (KIP-467).
const ERROR_TEXT_SINCE: i16 = 8;
/// First version whose answer tells who leads instead (KIP-951).
const LEADER_SINCE: i16 = 10;
/// First version that names topics by id.
const TOPIC_ID_SINCE: i16 = 13;

/// One batch that passed its checks.
struct Accepted {
    topic: usize,
    slot: usize,
    partition: Arc<Partition>,
    range: Range<usize>,
    header: BatchHeader,
}

/// Where an answer belongs: topic, slot in it, and the partition.
type Place = (usize, usize, Arc<Partition>);

/// A batch that did not.
struct Refused {
    code: ErrorCode,
    text: Option<String>,
    records: Vec<(i32, String)>,
}

/// Checks a request, hands its batches to their owners and returns the answer being made.
pub(crate) async fn begin(
    session: &Arc<Session>,
    correlation: i32,
    version: i16,
    frame: Bytes,
    request: ProduceRequest,
) -> Result<Begun, Closed> {
    let context = &session.context;
    let acks = request.acks;
    let mut response = ProduceResponse::default();
    let mut accepted = Vec::new();
    let named: usize = request.topic_data.iter().map(|topic| 1 + topic.partition_data.len()).sum();
    if named > 2 * PARTITIONS_MAX {
        return Err(Closed(format!("a produce request that names {named} topics and partitions")));
    }
    let mut turns = Turns::default();
    look_up_missing(context, version, &request);
    for (index, topic) in request.topic_data.iter().enumerate() {
        turns.spend(1 + topic.partition_data.len()).await;
        response.responses.push(check_topic(
            context,
            version,
            &request,
            &frame,
            (index, topic),
            &mut accepted,
        ));
    }
    drop(request);
    let (items, places) = cut(frame, accepted);
    context.counters.batches_in_total.fetch_add(items.len() as u64, Ordering::Relaxed);
    let records: u64 = items.iter().map(|item| u64::from(item.header.span())).sum();
    context.counters.records_in_total.fetch_add(records, Ordering::Relaxed);
    let pending = context.broker.append(items).await;
    let answer = finish(session.clone(), pending, places, response, acks, (correlation, version));
    Ok(Begun { answer: Box::pin(answer), handed_over: true })
}

/// Of several brokers another may have created what this one does not know yet.
fn look_up_missing(context: &Context, version: i16, request: &ProduceRequest) {
    let Some(view) = context.broker.cluster() else { return };
    let topics = context.broker.topics();
    let is_missing = |topic: &TopicProduceData| match version >= TOPIC_ID_SINCE {
        true => topics.by_id(uuid::Uuid::from_bytes(topic.topic_id.0)).is_none(),
        false => topics.get(&topic.name).is_none(),
    };
    if request.topic_data.iter().any(is_missing) {
        view.missed();
    }
}

/// Waits for the owners and fills in what they answered.
async fn finish(
    session: Arc<Session>,
    pending: PendingAppends,
    places: Vec<Place>,
    mut response: ProduceResponse,
    acks: i16,
    (correlation, version): (i32, i16),
) -> Result<Option<Reply>, Closed> {
    let context = &*session.context;
    let results = pending.wait().await;
    for ((topic, slot, partition), result) in places.into_iter().zip(results) {
        let answer = &mut response.responses[topic].partition_responses[slot];
        fill(context, answer, result, &partition, version);
    }
    if acks != 0 {
        if version >= LEADER_SINCE {
            let answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
            let named = answers.map(|answer| answer.current_leader.leader_id);
            let nodes = context.endpoints(&session.listener, named).into_iter();
            let told =
                |node: Node| NodeEndpoint { node_id: node.id, host: node.host, port: node.port, rack: None };
            response.node_endpoints = nodes.map(told).collect();
        }
        return respond(correlation, version, &response);
    }
    let mut answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    match answers.find(|answer| answer.error_code != 0) {
        // The only way to tell a producer that wants no answers.
        Some(failed) => Err(Closed(format!("a produce request with acks=0 failed: {}", failed.error_code))),
        None => Ok(None),
    }
}

fn check_topic(
    context: &Context,
    version: i16,
    request: &ProduceRequest,
    frame: &Bytes,
    (index, topic): (usize, &TopicProduceData),
    accepted: &mut Vec<Accepted>,
) -> TopicProduceResponse {
    let topics = context.broker.topics();
    let (found, unknown) = if version >= TOPIC_ID_SINCE {
        (topics.by_id(uuid::Uuid::from_bytes(topic.topic_id.0)), ErrorCode::UnknownTopicId)
    } else {
        (topics.get(&topic.name), ErrorCode::UnknownTopicOrPartition)
    };
    let mut answer =
        TopicProduceResponse { name: topic.name.detach(), topic_id: topic.topic_id, ..Default::default() };
    accepted.reserve(topic.partition_data.len());
    answer.partition_responses.reserve(topic.partition_data.len());
    for (slot, data) in topic.partition_data.iter().enumerate() {
        let partition = found.as_ref().and_then(|topic| {
            topic.partitions.get(usize::try_from(data.index).unwrap_or(usize::MAX)).cloned()
        });
        let mut slot_answer = PartitionProduceResponse { index: data.index, ..Default::default() };
        let checked = match partition {
            None => {
                let code = if found.is_some() { ErrorCode::UnknownTopicOrPartition } else { unknown };
                Err(Refused { code, text: None, records: Vec::new() })
            }
            Some(partition) if !context.broker.is_served(&partition) => {
                tell_leader(context, &mut slot_answer, &partition, version);
                Err(Refused { code: ErrorCode::NotLeaderOrFollower, text: None, records: Vec::new() })
            }
            Some(partition) => check_partition(context, version, request, frame, data, &partition)
                .map(|(range, header)| Accepted { topic: index, slot, partition, range, header }),
        };
        match checked {
            Ok(batch) => accepted.push(batch),
            Err(refused) => refuse(&mut slot_answer, refused, version),
        }
        answer.partition_responses.push(slot_answer);
    }
    answer
}

fn check_partition(
    context: &Context,
    version: i16,
    request: &ProduceRequest,
    frame: &Bytes,
    data: &PartitionProduceData,
    partition: &Partition,
) -> Result<(Range<usize>, BatchHeader), Refused> {
    if !(-1..=1).contains(&request.acks) {
        return Err(Refused { code: ErrorCode::InvalidRequiredAcks, text: None, records: Vec::new() });
    }
    if request.transactional_id.is_some() {
        let text = "transactions are not supported yet".to_owned();
        return Err(Refused { code: ErrorCode::InvalidTxnState, text: Some(text), records: Vec::new() });
    }
    let batch = only_batch(version, data.records.as_ref())?;
    let compression = batch.header.compression();
    if compression == Some(Compression::Zstd) && version < ZSTD_SINCE {
        let text = "Produce requests with version 6 or below are not allowed to use ZStandard compression";
        let code = ErrorCode::UnsupportedCompressionType;
        return Err(Refused { code, text: Some(text.to_owned()), records: Vec::new() });
    }
    if batch.header.is_transactional() {
        let text = "transactions are not supported yet".to_owned();
        return Err(Refused { code: ErrorCode::InvalidTxnState, text: Some(text), records: Vec::new() });
    }
    // The clock as it is: one that was wrong and is corrected must not go on refusing what is right.
    let now_ms = context.broker.clock().system_ms();
    let header = check_batch(&batch, &partition.config.get(), now_ms).map_err(|refusal| {
        let text = refusal.to_string();
        let records = match &refusal {
            Refusal::Record { index: Some(index), .. } => vec![(*index, text.clone())],
            _ => Vec::new(),
        };
        Refused { code: errors::refusal(&refusal), text: Some(text), records }
    })?;
    let range = range_in(frame, &batch.bytes).ok_or_else(|| Refused {
        code: ErrorCode::UnknownServerError,
        text: None,
        records: Vec::new(),
    })?;
    Ok((range, header))
}

/// The one batch that a partition's data must be.
fn only_batch(version: i16, records: Option<&Records>) -> Result<BatchView, Refused> {
    let invalid =
        |text: String| Refused { code: ErrorCode::InvalidRecord, text: Some(text), records: Vec::new() };
    let none = || {
        invalid(format!(
            "Produce requests with version {version} must have at least one record batch per partition"
        ))
    };
    let mut bytes = records.and_then(|records| records.chunks().next().cloned()).ok_or_else(none)?;
    if bytes.is_empty() {
        return Err(none());
    }
    let batch = BatchView::split_from(&mut bytes).map_err(|error| match error {
        BatchError::Magic { .. } => invalid(format!(
            "Produce requests with version {version} are only allowed to contain record batches with magic version 2"
        )),
        error => Refused { code: ErrorCode::CorruptMessage, text: Some(error.to_string()), records: Vec::new() },
    })?;
    if bytes.is_empty() {
        Ok(batch)
    } else {
        Err(invalid(format!(
            "Produce requests with version {version} are only allowed to contain exactly one record batch per partition"
        )))
    }
}

/// Cuts the frame into its batches, from the back, so that each owns its bytes.
fn cut(frame: Bytes, accepted: Vec<Accepted>) -> (Vec<AppendItem>, Vec<Place>) {
    let mut rest: BytesMut = into_mut(frame);
    let mut items = Vec::with_capacity(accepted.len());
    let mut places = Vec::with_capacity(accepted.len());
    for batch in accepted.into_iter().rev() {
        rest.truncate(batch.range.end);
        let bytes = rest.split_off(batch.range.start);
        places.push((batch.topic, batch.slot, batch.partition.clone()));
        items.push(AppendItem { partition: batch.partition, bytes, header: batch.header });
    }
    items.reverse();
    places.reverse();
    (items, places)
}

fn fill(
    context: &Context,
    answer: &mut PartitionProduceResponse,
    result: Result<Appended, AppendError>,
    partition: &Partition,
    version: i16,
) {
    match result {
        Ok(appended) => {
            answer.base_offset = appended.base.signed();
            answer.log_append_time_ms = appended.append_time_ms.unwrap_or(-1);
            answer.log_start_offset = appended.log_start.signed();
        }
        Err(error) => {
            let refused =
                Refused { code: errors::append(&error), text: Some(error.to_string()), records: Vec::new() };
            let is_elsewhere = refused.code == ErrorCode::NotLeaderOrFollower;
            refuse(answer, refused, version);
            if is_elsewhere {
                tell_leader(context, answer, partition, version);
            }
        }
    }
}

/// Names the leader to a producer that asked another broker.
fn tell_leader(
    context: &Context,
    answer: &mut PartitionProduceResponse,
    partition: &Partition,
    version: i16,
) {
    if version >= LEADER_SINCE
        && let Some((leader_id, leader_epoch)) = context.current_leader(partition)
    {
        answer.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
    }
}

fn refuse(answer: &mut PartitionProduceResponse, refused: Refused, version: i16) {
    answer.error_code = refused.code.code();
    answer.base_offset = -1;
    answer.log_append_time_ms = -1;
    answer.log_start_offset = -1;
    if version >= ERROR_TEXT_SINCE {
        answer.error_message = refused.text.map(StrBytes::from);
        let errors = refused.records.into_iter().map(|(batch_index, text)| BatchIndexAndErrorMessage {
            batch_index,
            batch_index_error_message: Some(StrBytes::from(text)),
        });
        answer.record_errors = errors.collect();
    }
}
