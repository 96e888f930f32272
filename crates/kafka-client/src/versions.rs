//! Which version of each API is spoken on a connection.
//!
//! **Invariant.** A version is chosen only if the broker announced it, the codec knows it and this client
//! understands its meaning: some versions address topics by id or answer in another shape, and are capped.
//!
//! Deliberately absent: features (`finalized_features`); nothing here depends on them.

use std::collections::HashMap;

use ferrymq_kafka_codec::ApiKey;
use ferrymq_kafka_codec::messages::ApiVersionsResponse;

/// What one broker announced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(HashMap<ApiKey, i16>);

impl Versions {
    pub(crate) fn new(answer: &ApiVersionsResponse) -> Versions {
        let chosen = answer.api_keys.iter().filter_map(|range| {
            let api = ApiKey::from_id(range.api_key)?;
            let version = range.max_version.min(newest(api));
            let oldest = range.min_version.max(api.decodable().min);
            (version >= oldest).then_some((api, version))
        });
        Versions(chosen.collect())
    }

    pub(crate) fn of(&self, api: ApiKey) -> Option<i16> {
        self.0.get(&api).copied()
    }
}

/// The newest version this client understands.
fn newest(api: ApiKey) -> i16 {
    let cap = match api {
        // From 13 on, topics are addressed by id.
        ApiKey::Produce | ApiKey::Fetch => 12,
        // From 10 on, likewise; from 9 on, the member epoch of KIP-848.
        ApiKey::OffsetCommit => 8,
        // Version 8 asks for several groups; 10 addresses topics by id.
        ApiKey::OffsetFetch => 7,
        // Version 4 asks for several keys.
        ApiKey::FindCoordinator => 3,
        // Version 6 deletes by id.
        ApiKey::DeleteTopics => 5,
        // Version 6 answers GROUP_ID_NOT_FOUND where 5 says "Dead".
        ApiKey::DescribeGroups => 5,
        _ => i16::MAX,
    };
    cap.min(api.decodable().max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_kafka_codec::messages::api_versions::ApiVersion;

    #[test]
    fn the_newest_common_version_is_chosen() {
        let range = |api: ApiKey, min_version, max_version| ApiVersion {
            api_key: api.id(),
            min_version,
            max_version,
        };
        let answer = ApiVersionsResponse {
            api_keys: vec![
                range(ApiKey::Produce, 0, 13),
                range(ApiKey::Metadata, 0, 9),
                range(ApiKey::Fetch, 17, 99),
                ApiVersion { api_key: 999, min_version: 0, max_version: 1 },
            ],
            ..ApiVersionsResponse::default()
        };
        let versions = Versions::new(&answer);
        assert_eq!(versions.of(ApiKey::Produce), Some(12));
        assert_eq!(versions.of(ApiKey::Metadata), Some(9));
        assert_eq!(versions.of(ApiKey::Fetch), None, "nothing in common");
        assert_eq!(versions.of(ApiKey::ListGroups), None, "not announced");
    }
}
