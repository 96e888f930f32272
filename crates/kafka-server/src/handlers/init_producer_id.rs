//! InitProducerId: a producer id for an idempotent producer (KIP-98, KIP-360).
//!
//! Transactional ids are refused until transactions are served.

use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::{InitProducerIdRequest, InitProducerIdResponse};

use crate::context::Context;
use crate::errors;

pub(crate) async fn handle(context: &Context, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let refuse = |code: ErrorCode| InitProducerIdResponse {
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    match &request.transactional_id {
        None => {}
        Some(id) if id.is_empty() => return refuse(ErrorCode::InvalidRequest),
        // There is no room for a text here. Every client takes this code as final; some retry any other.
        Some(_) => return refuse(ErrorCode::TransactionalIdAuthorizationFailed),
    }
    if (request.producer_id < 0) != (request.producer_epoch < 0) {
        return refuse(ErrorCode::InvalidRequest);
    }
    match context.broker.new_producer_id().await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(error) => refuse(errors::storage(&error)),
    }
}
