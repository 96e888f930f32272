//! Which APIs we speak, in which versions, and which header each version carries.
//!
//! The numbers come from the generator's table, not from Kafka's descriptors. Two ranges exist per API:
//! what can be decoded, and what ApiVersions may announce; they differ for Produce alone.
//!
//! Deliberately absent: which of these APIs the server has a handler for; it announces a subset.

use crate::api_key::ApiKey;

/// An inclusive range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionRange {
    /// Oldest version.
    pub min: i16,
    /// Newest version.
    pub max: i16,
}

impl VersionRange {
    /// The range of `min` to `max`, both included.
    pub const fn new(min: i16, max: i16) -> Self {
        Self { min, max }
    }

    /// Is the version in the range?
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// Every version of the range, oldest first.
    pub fn iter(self) -> std::ops::RangeInclusive<i16> {
        self.min..=self.max
    }
}

/// The facts of one API; the generated half of this module.
pub(crate) struct ApiInfo {
    pub(crate) name: &'static str,
    pub(crate) decodable: VersionRange,
    pub(crate) advertised: VersionRange,
    pub(crate) request_flexible_since: i16,
    pub(crate) response_flexible_since: i16,
}

impl ApiKey {
    /// Kafka's number for it.
    pub const fn id(self) -> i16 {
        self as i16
    }

    /// Kafka's name for it, such as `OffsetForLeaderEpoch`.
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// The versions that can be decoded and encoded.
    pub const fn decodable(self) -> VersionRange {
        self.info().decodable
    }

    /// The versions that ApiVersions may announce.
    ///
    /// Produce is announced from 0 although it decodes from 3: older librdkafka stops compressing when it
    /// does not see the old versions (KAFKA-18659). No client sends them.
    pub const fn advertised(self) -> VersionRange {
        self.info().advertised
    }

    /// First version whose request has compact lengths and tagged fields; `None` when no version has.
    pub const fn first_flexible_version(self) -> Option<i16> {
        match self.info().request_flexible_since {
            i16::MAX => None,
            since => Some(since),
        }
    }
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The version of the request header in front of a request; 1 or 2 for every API of ours.
///
/// It is also defined for versions we cannot decode, because the correlation id of an unsupported
/// ApiVersions request must be read to answer it (KIP-511).
pub const fn request_header_version(api: ApiKey, version: i16) -> i16 {
    if version >= api.info().request_flexible_since { 2 } else { 1 }
}

/// The version of the response header in front of a response.
///
/// ApiVersions always answers with version 0: its client does not know yet what the broker speaks
/// (KIP-511).
pub const fn response_header_version(api: ApiKey, version: i16) -> i16 {
    if matches!(api, ApiKey::ApiVersions) || version < api.info().response_flexible_since { 0 } else { 1 }
}

/// Every API with the range that ApiVersions may announce, in key order.
pub fn advertised() -> impl Iterator<Item = (ApiKey, VersionRange)> {
    ApiKey::ALL.iter().map(|api| (*api, api.advertised()))
}

/// Every API with the range that can be decoded, in key order.
pub fn decodable() -> impl Iterator<Item = (ApiKey, VersionRange)> {
    ApiKey::ALL.iter().map(|api| (*api, api.decodable()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_rise() {
        let ids: Vec<i16> = ApiKey::ALL.iter().map(|api| api.id()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        for api in ApiKey::ALL {
            assert_eq!(ApiKey::from_id(api.id()), Some(*api));
        }
        assert_eq!(ApiKey::from_id(4), None, "LeaderAndIsr is not a client's API");
        assert_eq!(ApiKey::from_id(-1), None);
    }

    #[test]
    fn produce_announces_what_it_cannot_decode() {
        assert_eq!(ApiKey::Produce.advertised(), VersionRange::new(0, 13));
        assert_eq!(ApiKey::Produce.decodable(), VersionRange::new(3, 13));
        let differing = ApiKey::ALL.iter().filter(|api| api.advertised() != api.decodable());
        assert_eq!(differing.collect::<Vec<_>>(), [&ApiKey::Produce]);
    }

    #[test]
    fn header_versions() {
        assert_eq!(request_header_version(ApiKey::Fetch, 11), 1);
        assert_eq!(request_header_version(ApiKey::Fetch, 12), 2);
        assert_eq!(response_header_version(ApiKey::Fetch, 11), 0);
        assert_eq!(response_header_version(ApiKey::Fetch, 12), 1);
        assert_eq!(request_header_version(ApiKey::ApiVersions, 77), 2);
        assert_eq!(response_header_version(ApiKey::ApiVersions, 4), 0);
        assert_eq!(request_header_version(ApiKey::SaslHandshake, 1), 1);
        assert_eq!(ApiKey::SaslHandshake.first_flexible_version(), None);
    }
}
