//! Which APIs are served, and the way from a frame to its handler.
//!
//! **Invariants.** [`SERVED`] is what ApiVersions advertises and what is answered: one list for both. An
//! unknown version of ApiVersions is answered in version 0 with what there is (KIP-511); anything else that
//! cannot be decoded closes the connection, as does what is larger than its API has use for: what is decoded
//! takes many times its bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ferrymq_kafka_codec::encode::EncodeError;
use ferrymq_kafka_codec::message::Body;
use ferrymq_kafka_codec::{ApiKey, Decoder, Frame, RequestHeader, RequestKind, ResponseKind, StrBytes};
use ferrymq_types::limits::{LARGE_REQUEST_BYTES_MAX, SMALL_REQUEST_BYTES_MAX};

use crate::answers::AnswerRoom;
use crate::connection::{Answer, Closed, Reply, Session};
use crate::handlers;

/// The APIs this door answers, in the order of their numbers.
pub const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::DescribeLogDirs,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::DescribeTopicPartitions,
];

/// Largest request of an API that is served, by the key its frame begins with.
pub(crate) fn request_bytes_max(api_key: Option<i16>, of_any: usize) -> usize {
    let api = SERVED.iter().find(|api| Some(api.id()) == api_key);
    let of_this = match api {
        Some(ApiKey::Produce) => of_any,
        Some(ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::CreateTopics | ApiKey::CreatePartitions) => {
            LARGE_REQUEST_BYTES_MAX
        }
        _ => SMALL_REQUEST_BYTES_MAX,
    };
    of_this.min(of_any)
}

/// A request that was begun.
pub(crate) struct Begun {
    /// The answer being made.
    pub(crate) answer: Answer,
    /// Whether the request's bytes are with their owners, who count them, and no longer here.
    pub(crate) handed_over: bool,
}

/// A request and what is known of who sent it.
struct Call {
    correlation: i32,
    version: i16,
    client_id: Option<StrBytes>,
}

/// What decoding a frame may take, in bytes: real requests stay far below, a list of a million empty names
/// does not. A produce request is mostly batches, which are not copied.
fn memory_limit(frame: &[u8]) -> usize {
    let times = if frame.starts_with(&ApiKey::Produce.id().to_be_bytes()) { 2 } else { 8 };
    frame.len().saturating_mul(times).saturating_add(1 << 20)
}

/// Decodes a frame and begins to answer it.
pub(crate) async fn begin(session: &Arc<Session>, body: BytesMut) -> Result<Begun, Closed> {
    let frame = body.freeze();
    let mut decoder = Decoder::with_memory_limit(&frame, memory_limit(&frame));
    let header = RequestHeader::decode(&mut decoder).map_err(|error| bad("request header", &error))?;
    let (version, correlation) = (header.api_version, header.correlation_id);
    let Some(api) = header.api().filter(|api| SERVED.contains(api)) else {
        return Err(Closed(format!("API key {} is not served", header.api_key)));
    };
    let client_id = header.client_id;
    if !api.decodable().contains(version) {
        if api == ApiKey::ApiVersions {
            let body = handlers::api_versions::unsupported();
            let answer = Box::pin(async move { respond(correlation, 0, &body) });
            return Ok(Begun { answer, handed_over: false });
        }
        return Err(Closed(format!("{api} version {version} is not supported")));
    }
    let request = RequestKind::decode(api, &mut decoder, version).map_err(|error| bad(api.name(), &error))?;
    let session = session.clone();
    let call = Call { correlation, version, client_id };
    Ok(Begun {
        handed_over: false,
        answer: match request {
            RequestKind::Produce(request) => {
                // A produce request is written over its own frame: nothing else may refer to that.
                drop(call);
                return handlers::produce::begin(&session, correlation, version, frame, request).await;
            }
            RequestKind::Fetch(request) => Box::pin(async move {
                let (response, room, deferred) = handlers::fetch::handle(&session, version, request).await;
                let parts = Frame::response_parts(correlation, version, &response);
                let mut parts = parts.map_err(|error| unencoded(ApiKey::Fetch, version, error))?.into_iter();
                let frame = parts.next().unwrap_or_default();
                let rest = deferred.into_iter().zip(parts).collect();
                Ok(Some(Reply { frame, rest, room }))
            }),
            request => Box::pin(async move { answer(&session, call, request).await }),
        },
    })
}

/// Hands a request to its handler.
async fn answer(session: &Session, call: Call, request: RequestKind) -> Result<Option<Reply>, Closed> {
    use ApiKey as Api;
    let (correlation, version) = (call.correlation, call.version);
    let response = match request.api() {
        Api::FindCoordinator
        | Api::JoinGroup
        | Api::SyncGroup
        | Api::Heartbeat
        | Api::LeaveGroup
        | Api::OffsetCommit
        | Api::OffsetFetch
        | Api::OffsetDelete
        | Api::DescribeGroups
        | Api::ListGroups
        | Api::DeleteGroups => of_groups(session, call, request).await?,
        Api::DescribeConfigs
        | Api::AlterConfigs
        | Api::IncrementalAlterConfigs
        | Api::DescribeCluster
        | Api::DescribeLogDirs
        | Api::ListPartitionReassignments => of_settings(session, version, request).await?,
        _ => of_topics(session, version, request).await?,
    };
    respond(correlation, version, &response)
}

/// Topics and their records.
async fn of_topics(session: &Session, version: i16, request: RequestKind) -> Result<ResponseKind, Closed> {
    use handlers as h;
    let context = &*session.context;
    Ok(match request {
        RequestKind::ApiVersions(request) => {
            ResponseKind::ApiVersions(h::api_versions::handle(version, &request))
        }
        RequestKind::Metadata(request) => {
            ResponseKind::Metadata(h::metadata::handle(context, &session.listener, version, request).await)
        }
        RequestKind::ListOffsets(request) => {
            ResponseKind::ListOffsets(h::list_offsets::handle(context, version, request).await)
        }
        RequestKind::CreateTopics(request) => {
            ResponseKind::CreateTopics(h::create_topics::handle(context, version, request).await)
        }
        RequestKind::DeleteTopics(request) => {
            ResponseKind::DeleteTopics(h::delete_topics::handle(context, version, request).await)
        }
        RequestKind::DeleteRecords(request) => {
            ResponseKind::DeleteRecords(h::delete_records::handle(context, request).await)
        }
        RequestKind::InitProducerId(request) => {
            ResponseKind::InitProducerId(h::init_producer_id::handle(context, request).await)
        }
        RequestKind::OffsetForLeaderEpoch(request) => {
            ResponseKind::OffsetForLeaderEpoch(h::offset_for_leader_epoch::handle(context, request).await)
        }
        RequestKind::CreatePartitions(request) => {
            ResponseKind::CreatePartitions(h::create_partitions::handle(context, request).await)
        }
        RequestKind::DescribeProducers(request) => {
            ResponseKind::DescribeProducers(h::describe_producers::handle(context, request).await)
        }
        RequestKind::DescribeTopicPartitions(request) => {
            ResponseKind::DescribeTopicPartitions(h::describe_topic_partitions::handle(context, &request))
        }
        other => return Err(Closed(format!("{} has no handler", other.api()))),
    })
}

/// Consumer groups.
async fn of_groups(session: &Session, call: Call, request: RequestKind) -> Result<ResponseKind, Closed> {
    use handlers as h;
    let (context, version) = (&*session.context, call.version);
    Ok(match request {
        RequestKind::FindCoordinator(request) => ResponseKind::FindCoordinator(h::find_coordinator::handle(
            context,
            &session.listener,
            version,
            request,
        )),
        RequestKind::JoinGroup(request) => {
            let client = (call.client_id, session.peer.ip());
            ResponseKind::JoinGroup(h::join_group::handle(context, version, client, request).await)
        }
        RequestKind::SyncGroup(request) => {
            ResponseKind::SyncGroup(h::sync_group::handle(context, request).await)
        }
        RequestKind::Heartbeat(request) => {
            ResponseKind::Heartbeat(h::heartbeat::handle(context, request).await)
        }
        RequestKind::LeaveGroup(request) => {
            ResponseKind::LeaveGroup(h::leave_group::handle(context, version, request).await)
        }
        RequestKind::OffsetCommit(request) => {
            ResponseKind::OffsetCommit(h::offset_commit::handle(context, version, request).await)
        }
        RequestKind::OffsetFetch(request) => {
            ResponseKind::OffsetFetch(h::offset_fetch::handle(context, version, request).await)
        }
        RequestKind::DescribeGroups(request) => {
            ResponseKind::DescribeGroups(h::describe_groups::handle(context, version, request).await)
        }
        RequestKind::ListGroups(request) => {
            ResponseKind::ListGroups(h::list_groups::handle(context, request).await)
        }
        RequestKind::DeleteGroups(request) => {
            ResponseKind::DeleteGroups(h::delete_groups::handle(context, request).await)
        }
        RequestKind::OffsetDelete(request) => {
            ResponseKind::OffsetDelete(h::offset_delete::handle(context, request).await)
        }
        other => return Err(Closed(format!("{} has no handler", other.api()))),
    })
}

/// The broker and what is set.
async fn of_settings(session: &Session, version: i16, request: RequestKind) -> Result<ResponseKind, Closed> {
    use handlers as h;
    let context = &*session.context;
    Ok(match request {
        RequestKind::DescribeConfigs(request) => {
            ResponseKind::DescribeConfigs(h::describe_configs::handle(context, request).await)
        }
        RequestKind::AlterConfigs(request) => {
            ResponseKind::AlterConfigs(h::alter_configs::handle(context, request).await)
        }
        RequestKind::IncrementalAlterConfigs(request) => ResponseKind::IncrementalAlterConfigs(
            h::incremental_alter_configs::handle(context, request).await,
        ),
        RequestKind::DescribeCluster(request) => ResponseKind::DescribeCluster(h::describe_cluster::handle(
            context,
            &session.listener,
            version,
            &request,
        )),
        RequestKind::DescribeLogDirs(request) => {
            ResponseKind::DescribeLogDirs(h::describe_log_dirs::handle(context, request).await)
        }
        RequestKind::ListPartitionReassignments(_) => {
            ResponseKind::ListPartitionReassignments(h::list_partition_reassignments::handle())
        }
        other => return Err(Closed(format!("{} has no handler", other.api()))),
    })
}

/// Encodes an answer.
pub(crate) fn respond(correlation: i32, version: i16, body: &impl Body) -> Result<Option<Reply>, Closed> {
    let frame = Frame::response(correlation, version, body);
    let frame = frame.map_err(|error| unencoded(body.api(), version, error))?;
    Ok(Some(Reply { frame, rest: Vec::new(), room: AnswerRoom::default() }))
}

fn unencoded(api: ApiKey, version: i16, error: EncodeError) -> Closed {
    tracing::error!(api = api.name(), version, error = %error, "an answer could not be encoded");
    Closed("an answer could not be encoded".to_owned())
}

fn bad(what: &str, error: &dyn std::fmt::Display) -> Closed {
    Closed(format!("{what} could not be decoded: {error}"))
}

/// Where `part` lies in `whole`, if it is a slice of it.
pub(crate) fn range_in(whole: &Bytes, part: &Bytes) -> Option<std::ops::Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}
