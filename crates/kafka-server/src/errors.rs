//! The one place where our errors become Kafka's codes. Every match is exhaustive where it can be.

use ferrymq_broker::groups::GroupError;
use ferrymq_broker::producers::ProducerError;
use ferrymq_broker::validate::Refusal;
use ferrymq_broker::{AppendError, SettingError, TopicError};
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_storage::{ErrorKind, StorageError};

/// A refused batch.
#[must_use]
pub fn refusal(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Corrupt(_) => ErrorCode::CorruptMessage,
        Refusal::TooLarge { .. } => ErrorCode::MessageTooLarge,
        Refusal::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        Refusal::Timestamp { .. } | Refusal::TimestampType => ErrorCode::InvalidTimestamp,
        Refusal::Format(_) | Refusal::Record { .. } => ErrorCode::InvalidRecord,
    }
}

/// A failed append.
#[must_use]
pub fn append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Gone => ErrorCode::UnknownTopicOrPartition,
        AppendError::Producer(ProducerError::StaleEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendError::Producer(ProducerError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::Storage(error) => storage(error),
        AppendError::Retry | AppendError::Elsewhere => ErrorCode::NotLeaderOrFollower,
    }
}

/// A failed operation of the store.
#[must_use]
pub fn storage(error: &StorageError) -> ErrorCode {
    match error.kind() {
        ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::NotFound => ErrorCode::NotLeaderOrFollower,
        ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::Closed | ErrorKind::Unknown => {
            ErrorCode::KafkaStorageError
        }
        ErrorKind::Corrupt { .. } => ErrorCode::CorruptMessage,
        ErrorKind::LimitExceeded => ErrorCode::PolicyViolation,
        _ => ErrorCode::UnknownServerError,
    }
}

/// A failed change of topics.
#[must_use]
pub fn topic(error: &TopicError) -> ErrorCode {
    match error {
        TopicError::Exists(_) => ErrorCode::TopicAlreadyExists,
        TopicError::NotFound => ErrorCode::UnknownTopicOrPartition,
        TopicError::Name(_) => ErrorCode::InvalidTopicException,
        TopicError::Partitions(_) => ErrorCode::InvalidPartitions,
        TopicError::Setting(SettingError::Unknown(_) | SettingError::Invalid { .. }) => {
            ErrorCode::InvalidConfig
        }
        TopicError::Storage(error) => storage(error),
    }
}

/// A refused operation of a group. What depends on the version of a request its handler decides.
#[must_use]
pub fn group(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::CoordinatorLoading => ErrorCode::CoordinatorLoadInProgress,
        GroupError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
        GroupError::NotCoordinator => ErrorCode::NotCoordinator,
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::MemberIdRequired { .. } => ErrorCode::MemberIdRequired,
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
        // Kafka's answer when a group's record does not fit into a batch.
        GroupError::GroupTooLarge => ErrorCode::UnknownServerError,
        // Not GROUP_MAX_SIZE_REACHED, which ends a consumer: it is not this group that is too large, and room comes
        // back. Every client takes this one for a broker that is not ready and joins again after a pause.
        GroupError::NoRoom => ErrorCode::CoordinatorNotAvailable,
        GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
        GroupError::InvalidRequest(_) => ErrorCode::InvalidRequest,
    }
}
