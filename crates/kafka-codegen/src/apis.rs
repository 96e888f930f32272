//! The one table of Kafka APIs FerryMQ speaks and the versions of each.
//!
//! The numbers are ours, never "whatever the descriptor ends with": a descriptor's last version may be
//! unstable (InitProducerId 6) and a release may raise it without us having read what changed. Raising a
//! number here and regenerating is how a new version is taken in.
//!
//! Deliberately absent: the APIs brokers use among themselves, and the share, streams and telemetry APIs.

/// One row: what we decode, and what ApiVersions may announce when that differs.
pub(crate) struct Api {
    /// Kafka's numeric API key.
    pub(crate) key: i16,
    /// Kafka's name of the API, without `Request` or `Response`.
    pub(crate) name: &'static str,
    /// Oldest version we decode.
    pub(crate) min: i16,
    /// Newest version we decode.
    pub(crate) max: i16,
    /// Oldest version ApiVersions announces.
    pub(crate) advertised_min: i16,
}

const fn api(key: i16, name: &'static str, min: i16, max: i16) -> Api {
    Api { key, name, min, max, advertised_min: min }
}

/// Every API, in key order.
pub(crate) const APIS: &[Api] = &[
    // Announced from 0 although 0-2 cannot be decoded: older librdkafka turns compression off when it
    // does not see them (KAFKA-18659).
    Api { key: 0, name: "Produce", min: 3, max: 13, advertised_min: 0 },
    api(1, "Fetch", 4, 18),
    api(2, "ListOffsets", 1, 11),
    api(3, "Metadata", 0, 13),
    api(8, "OffsetCommit", 2, 10),
    api(9, "OffsetFetch", 1, 10),
    api(10, "FindCoordinator", 0, 6),
    api(11, "JoinGroup", 0, 9),
    api(12, "Heartbeat", 0, 4),
    api(13, "LeaveGroup", 0, 5),
    api(14, "SyncGroup", 0, 5),
    api(15, "DescribeGroups", 0, 6),
    api(16, "ListGroups", 0, 5),
    api(17, "SaslHandshake", 0, 1),
    api(18, "ApiVersions", 0, 4),
    api(19, "CreateTopics", 2, 7),
    api(20, "DeleteTopics", 1, 6),
    api(21, "DeleteRecords", 0, 2),
    // The descriptor also has version 6, unstable (KIP-939).
    api(22, "InitProducerId", 0, 5),
    api(23, "OffsetForLeaderEpoch", 2, 4),
    api(24, "AddPartitionsToTxn", 0, 5),
    api(25, "AddOffsetsToTxn", 0, 4),
    api(26, "EndTxn", 0, 5),
    api(28, "TxnOffsetCommit", 0, 5),
    api(29, "DescribeAcls", 1, 3),
    api(30, "CreateAcls", 1, 3),
    api(31, "DeleteAcls", 1, 3),
    api(32, "DescribeConfigs", 1, 4),
    api(33, "AlterConfigs", 0, 2),
    api(35, "DescribeLogDirs", 1, 4),
    api(36, "SaslAuthenticate", 0, 2),
    api(37, "CreatePartitions", 0, 3),
    api(42, "DeleteGroups", 0, 2),
    api(44, "IncrementalAlterConfigs", 0, 1),
    api(46, "ListPartitionReassignments", 0, 0),
    api(47, "OffsetDelete", 0, 0),
    api(48, "DescribeClientQuotas", 0, 1),
    api(49, "AlterClientQuotas", 0, 1),
    api(50, "DescribeUserScramCredentials", 0, 0),
    api(51, "AlterUserScramCredentials", 0, 0),
    api(60, "DescribeCluster", 0, 2),
    api(61, "DescribeProducers", 0, 0),
    api(65, "DescribeTransactions", 0, 0),
    api(66, "ListTransactions", 0, 2),
    api(68, "ConsumerGroupHeartbeat", 0, 1),
    api(69, "ConsumerGroupDescribe", 0, 1),
    api(75, "DescribeTopicPartitions", 0, 0),
];
