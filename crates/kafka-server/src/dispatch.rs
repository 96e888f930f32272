//! Which APIs are served, and the way from a frame to its handler.
//!
//! **Invariants.** [`SERVED`] is what ApiVersions advertises and what is answered: one list for both. An
//! unknown version of ApiVersions is answered in version 0 with what there is (KIP-511); anything else that
//! cannot be decoded closes the connection.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ferrymq_kafka_codec::message::Body;
use ferrymq_kafka_codec::{ApiKey, Decoder, Frame, RequestHeader, RequestKind};

use crate::connection::{Answer, Closed, Session};
use crate::handlers;

/// The APIs this door answers, in the order of their numbers.
pub const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::InitProducerId,
];

/// A request that was begun.
pub(crate) struct Begun {
    /// The answer being made.
    pub(crate) answer: Answer,
}

/// Decodes a frame and begins to answer it.
pub(crate) async fn begin(session: &Arc<Session>, body: BytesMut) -> Result<Begun, Closed> {
    let frame = body.freeze();
    let mut decoder = Decoder::new(&frame);
    let header = RequestHeader::decode(&mut decoder).map_err(|error| bad("request header", &error))?;
    let (version, correlation) = (header.api_version, header.correlation_id);
    let Some(api) = header.api().filter(|api| SERVED.contains(api)) else {
        return Err(Closed(format!("API key {} is not served", header.api_key)));
    };
    drop(header);
    if !api.decodable().contains(version) {
        if api == ApiKey::ApiVersions {
            let body = handlers::api_versions::unsupported();
            return Ok(Begun { answer: Box::pin(async move { respond(correlation, 0, &body) }) });
        }
        return Err(Closed(format!("{api} version {version} is not supported")));
    }
    if api == ApiKey::Produce {
        let request =
            RequestKind::decode(api, &mut decoder, version).map_err(|error| bad(api.name(), &error))?;
        decoder.finish().map_err(|error| bad(api.name(), &error))?;
        let RequestKind::Produce(request) = request else {
            return Err(Closed("not a produce request".into()));
        };
        return handlers::produce::begin(session, correlation, version, frame, request).await;
    }
    let request = RequestKind::decode(api, &mut decoder, version).map_err(|error| bad(api.name(), &error))?;
    decoder.finish().map_err(|error| bad(api.name(), &error))?;
    let session = session.clone();
    Ok(Begun { answer: Box::pin(async move { answer(&session, correlation, version, request).await }) })
}

/// Hands a request to its handler.
async fn answer(
    session: &Session,
    correlation: i32,
    version: i16,
    request: RequestKind,
) -> Result<Option<Frame>, Closed> {
    let context = &*session.context;
    match request {
        RequestKind::ApiVersions(request) => {
            respond(correlation, version, &handlers::api_versions::handle(version, &request))
        }
        RequestKind::Metadata(request) => {
            respond(correlation, version, &handlers::metadata::handle(context, version, request).await)
        }
        RequestKind::Fetch(request) => {
            respond(correlation, version, &handlers::fetch::handle(session, version, request).await)
        }
        RequestKind::ListOffsets(request) => {
            respond(correlation, version, &handlers::list_offsets::handle(context, version, request).await)
        }
        RequestKind::CreateTopics(request) => {
            respond(correlation, version, &handlers::create_topics::handle(context, version, request).await)
        }
        RequestKind::DeleteTopics(request) => {
            respond(correlation, version, &handlers::delete_topics::handle(context, version, request).await)
        }
        RequestKind::InitProducerId(request) => {
            respond(correlation, version, &handlers::init_producer_id::handle(context, request).await)
        }
        other => Err(Closed(format!("{other:?} has no handler"))),
    }
}

/// Encodes an answer.
pub(crate) fn respond(correlation: i32, version: i16, body: &impl Body) -> Result<Option<Frame>, Closed> {
    match Frame::response(correlation, version, body) {
        Ok(frame) => Ok(Some(frame)),
        Err(error) => {
            tracing::error!(api = body.api().name(), version, error = %error, "an answer could not be encoded");
            Err(Closed("an answer could not be encoded".to_owned()))
        }
    }
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
