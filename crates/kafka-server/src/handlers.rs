//! One file per API.

pub(crate) mod api_versions;
pub(crate) mod create_topics;
pub(crate) mod delete_topics;
pub(crate) mod fetch;
pub(crate) mod init_producer_id;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod produce;
pub(crate) mod settings;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::ErrorCode;

/// Compares the epoch a client believes in with the one in force (KIP-320); -1: the client does not say.
pub(crate) fn check_epoch(partition: &Partition, believed: i32) -> Option<ErrorCode> {
    let epoch = partition.epoch().0.cast_signed();
    match believed {
        -1 => None,
        older if older < epoch => Some(ErrorCode::FencedLeaderEpoch),
        newer if newer > epoch => Some(ErrorCode::UnknownLeaderEpoch),
        _ => None,
    }
}
