//! FindCoordinator: this broker coordinates every group.
//!
//! Transactions and share groups have no coordinator until they are served.

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

pub(crate) fn handle(
    context: &Context,
    listener: &Listener,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let code = match request.key_type {
        GROUP => ErrorCode::None,
        TRANSACTION => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::InvalidRequest,
    };
    let (node_id, host, port) = match code {
        ErrorCode::None => {
            let host = StrBytes::from(listener.advertised.host.clone());
            (context.config.node_id, host, i32::from(listener.advertised.port))
        }
        _ => (-1, StrBytes::new(), -1),
    };
    if version < BATCHED_SINCE {
        let text = if code == ErrorCode::None { NO_ERROR_TEXT } else { code.message() };
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
    let coordinators = keys.map(|key| Coordinator {
        key,
        node_id,
        host: host.clone(),
        port,
        error_code: code.code(),
        ..Default::default()
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..Default::default() }
}
