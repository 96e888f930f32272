//! ApiVersions: what this door serves.
//!
//! No feature is advertised: `group.version`, `transaction.version` and `share.version` come with what they
//! stand for, because clients change their protocol when they see them.

use ferrymq_kafka_codec::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use ferrymq_kafka_codec::{ApiKey, ErrorCode};

use crate::dispatch::SERVED;

pub(crate) fn handle(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let named = |text: &str| {
        let ends = text.bytes().next().zip(text.bytes().last());
        ends.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    };
    if version >= 3 && !(named(&request.client_software_name) && named(&request.client_software_version)) {
        return ApiVersionsResponse { error_code: ErrorCode::InvalidRequest.code(), ..served() };
    }
    served()
}

/// The answer to a version we do not know (KIP-511); to be encoded in version 0.
pub(crate) fn unsupported() -> ApiVersionsResponse {
    let api_keys = vec![entry(ApiKey::ApiVersions)];
    ApiVersionsResponse { error_code: ErrorCode::UnsupportedVersion.code(), api_keys, ..Default::default() }
}

fn served() -> ApiVersionsResponse {
    let api_keys = SERVED.iter().copied().map(entry).collect();
    ApiVersionsResponse { api_keys, ..Default::default() }
}

fn entry(api: ApiKey) -> ApiVersion {
    let range = api.advertised();
    ApiVersion { api_key: api.id(), min_version: range.min, max_version: range.max }
}
