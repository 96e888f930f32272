//! FindCoordinator: whoever owns the log of a group's shard coordinates it.
//!
//! Transactions and share groups have no coordinator until they are served. Who asks for a transaction's is
//! refused for good, and told why: an error that can be retried lets its producer wait until it gives up.

use std::collections::HashSet;

use ferrymq_kafka_codec::messages::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use crate::context::Context;
use crate::listener::Listener;

/// Consumer groups.
const GROUP: i8 = 0;
/// Transactions.
const TRANSACTION: i8 = 1;
/// First version that asks for many keys at once (KIP-699).
const BATCHED_SINCE: i16 = 4;
/// First version whose answer has room for a text.
const TEXT_SINCE: i16 = 1;
/// What Kafka says where there is no error.
const NO_ERROR_TEXT: &str = "NONE";
/// What a transactional producer is told.
const NO_TRANSACTIONS: &str =
    "transactions are not supported yet; use an idempotent producer without a transactional id";

pub(crate) fn handle(
    context: &Context,
    listener: &Listener,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let code = match request.key_type {
        GROUP => ErrorCode::None,
        TRANSACTION => no_transactions(version),
        _ => ErrorCode::InvalidRequest,
    };
    let nodes = context.nodes(listener);
    let find = |group: &StrBytes| {
        let id = context.leader(context.groups.log_of(group)).filter(|_| code == ErrorCode::None);
        match nodes.iter().find(|node| Some(node.id) == id) {
            Some(node) => (ErrorCode::None, node.id, node.host.clone(), node.port),
            None if code == ErrorCode::None => (ErrorCode::CoordinatorNotAvailable, -1, StrBytes::new(), -1),
            None => (code, -1, StrBytes::new(), -1),
        }
    };
    let text_of = |code: ErrorCode, none: &'static str| match code {
        ErrorCode::None => none,
        _ if request.key_type == TRANSACTION => NO_TRANSACTIONS,
        code => code.message(),
    };
    if version < BATCHED_SINCE {
        let (code, node_id, host, port) = find(&request.key);
        let text = text_of(code, NO_ERROR_TEXT);
        return FindCoordinatorResponse {
            error_code: code.code(),
            error_message: (version >= TEXT_SINCE).then(|| StrBytes::from(text)),
            node_id,
            host,
            port,
            ..Default::default()
        };
    }
    let mut answered = HashSet::new();
    let keys = request.coordinator_keys.into_iter().filter(|key| answered.insert(key.clone()));
    let coordinators = keys.map(|key| {
        let (code, node_id, host, port) = find(&key);
        let error_message = Some(StrBytes::from(text_of(code, "")));
        Coordinator { key, node_id, host, port, error_code: code.code(), error_message }
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..Default::default() }
}

/// The code that ends a transactional producer at once, whoever wrote it.
///
/// Java's takes every code that it does not retry as fatal, but shows the text beside it only for those it does
/// not expect here. librdkafka and its bindings, and older clients, which all ask for one key at a time, retry
/// everything but a failed authorization; they show its text.
fn no_transactions(version: i16) -> ErrorCode {
    if version < BATCHED_SINCE {
        ErrorCode::TransactionalIdAuthorizationFailed
    } else {
        ErrorCode::InvalidRequest
    }
}
