//! Fetch: records from many partitions, waiting for them if there are none yet.
//!
//! A fetch works on a [`FetchSession`]: one that lives as long as the connection (KIP-227), or one made for a
//! single request. Only partitions that may have something new are looked at: those the request names, those
//! that changed, and those that had more than fitted into the last answer.
//!
//! **Invariants.** Waiting is woken by appends, never polled. Whole batches are answered within all limits,
//! but for the first of the first partition that has one (KIP-74). Nothing at or behind the high watermark is
//! answered.

use std::time::Duration;

use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::fetch::{
    FetchRequest, FetchResponse, FetchableTopicResponse, NodeEndpoint,
};
use ferrymq_types::limits::FETCH_WAIT_MS_MAX;

use crate::answers::AnswerRoom;
use crate::cluster::Node;
use crate::connection::Session;
use crate::turns::Turns;

mod deferred;
mod read;
mod session;

pub(crate) use deferred::Deferred;
pub(crate) use session::FetchSession;

use read::{Found, Told};

/// The first version whose answers tell who leads instead (KIP-951).
const LEADER_SINCE: i16 = 16;

/// What a request asks for, apart from partitions.
struct Wanted {
    version: i16,
    bytes_min: usize,
    bytes_max: usize,
    wait: Duration,
    read_committed: bool,
}

/// The answer, the room that its records take, and what to read while it goes out, in the order of the partitions.
type Answered = (FetchResponse, AnswerRoom, Vec<Deferred>);

pub(crate) async fn handle(connection: &Session, version: i16, request: FetchRequest) -> Answered {
    let context = &*connection.context;
    let wanted = Wanted {
        version,
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0),
        bytes_max: usize::try_from(request.max_bytes).unwrap_or(0).min(context.config.fetch_bytes_max),
        wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0).min(FETCH_WAIT_MS_MAX)),
        read_committed: request.isolation_level == 1,
    };
    let mut slot = connection.fetch.lock().await;
    let (id, epoch) = (request.session_id, request.session_epoch);
    if epoch == -1 || epoch == 0 {
        // A full request: whatever session it names is over.
        slot.take_if(|session| session.id() == id);
        let mut session = match epoch {
            0 if version >= 7 => FetchSession::create(context, version),
            _ => FetchSession::single(version),
        };
        session.update(context, &request).await;
        if session.id() != 0 {
            session.settle(context);
        }
        let response = serve(connection, &mut session, &wanted, true).await;
        if session.id() != 0 {
            *slot = Some(session);
        }
        return response;
    }
    let failed = |code: ErrorCode| {
        let response = FetchResponse { error_code: code.code(), ..Default::default() };
        (response, AnswerRoom::default(), Vec::new())
    };
    let Some(session) = slot.as_mut().filter(|session| session.id() == id) else {
        return failed(ErrorCode::FetchSessionIdNotFound);
    };
    if let Err(code) = session.advance(epoch, version) {
        return failed(code);
    }
    session.update(context, &request).await;
    if !session.settle(context) {
        // The client begins anew with all its partitions and learns that it is to go on without a session.
        *slot = None;
        return failed(ErrorCode::FetchSessionIdNotFound);
    }
    serve(connection, session, &wanted, false).await
}

/// Looks, waits and answers; `full` answers name every partition.
async fn serve(connection: &Session, session: &mut FetchSession, wanted: &Wanted, full: bool) -> Answered {
    let (context, listener) = (&*connection.context, &*connection.listener);
    let clock = context.broker.clock();
    let deadline = clock.now() + wanted.wait;
    let mut found = Found::default();
    // What changed since the last answer is looked at also if this one is full without it.
    if session.id() != 0 {
        session.watch().await;
        session.take_changed();
    }
    let mut late = wanted.wait.is_zero() || session.is_empty();
    loop {
        read::look(context, session, wanted, &mut found).await;
        if late || found.urgent || found.bytes >= wanted.bytes_min {
            break;
        }
        // What was found and is not enough is read again when there is more: it stays hot.
        found.shed(context);
        if session.watch().await {
            // Something came between looking and watching.
            continue;
        }
        tokio::select! {
            () = session.changed() => {}
            () = clock.sleep_until(deadline) => late = true,
        }
        session.take_changed();
    }
    let room = std::mem::take(&mut found.room);
    let (mut response, deferred) = answer(session, wanted, full, found).await;
    if wanted.version >= LEADER_SINCE {
        let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        let nodes = context.endpoints(listener, partitions.map(|data| data.current_leader.leader_id));
        let told =
            |node: Node| NodeEndpoint { node_id: node.id, host: node.host, port: node.port, rack: None };
        response.node_endpoints = nodes.into_iter().map(told).collect();
    }
    (response, room, deferred)
}

async fn answer(
    session: &mut FetchSession,
    wanted: &Wanted,
    full: bool,
    mut found: Found,
) -> (FetchResponse, Vec<Deferred>) {
    let mut all_deferred = Vec::new();
    let mut response = FetchResponse { session_id: session.id(), ..Default::default() };
    let tokens = if full { session.tokens() } else { found.tokens() };
    let mut turns = Turns::default();
    for token in tokens {
        turns.spend(1).await;
        let empty = || Told::from(session.empty_answer(token, wanted.read_committed));
        let Told { data, deferred } = found.take(token).unwrap_or_else(empty);
        let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
        let told = session.note_answered(token, &data);
        if !(full || has_records || told || data.error_code != 0) {
            continue;
        }
        all_deferred.extend(deferred);
        let (name, topic_id) = session.topic_of(token, wanted.version);
        match response.responses.last_mut() {
            Some(last) if last.topic == name && last.topic_id == topic_id => last.partitions.push(data),
            _ => response.responses.push(FetchableTopicResponse {
                topic: name,
                topic_id,
                partitions: vec![data],
            }),
        }
    }
    (response, all_deferred)
}
