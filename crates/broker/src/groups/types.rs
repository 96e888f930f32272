//! What the doors ask of groups and what they are told.
//!
//! **Invariants.** Neutral words: a door turns its own requests into these and these into its own answers.
//! [`GroupError`] has one variant per decision, so that a door's map from it needs no catch-all.
//!
//! Deliberately absent: error codes, API versions, encodings.

use std::sync::Arc;

use bytes::Bytes;

use super::record::CommittedOffset;

/// Why a group operation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The shard is still replaying its log. Retriable.
    #[error("the group's shard is loading")]
    CoordinatorLoading,
    /// The shard cannot serve: it is stopping, or its log cannot be read. Retriable.
    #[error("the group's shard is not available")]
    CoordinatorNotAvailable,
    /// The shard lost what it had not yet made durable, or another broker owns its log. Retriable; whether
    /// the operation took effect is unknown.
    #[error("the group's shard was interrupted")]
    NotCoordinator,
    /// The group id is empty or too long.
    #[error("invalid group id")]
    InvalidGroupId,
    /// The session timeout is out of bounds.
    #[error("session timeout out of bounds")]
    InvalidSessionTimeout,
    /// The member must join again with this id.
    #[error("join again with member id {member_id}")]
    MemberIdRequired {
        /// The id given to the member.
        member_id: Arc<str>,
    },
    /// No such member; it must join anew without an id.
    #[error("unknown member id")]
    UnknownMemberId,
    /// Another member has taken the group instance id; this one must stop.
    #[error("the group instance id belongs to another member")]
    FencedInstanceId,
    /// The member has no protocol in common with the group.
    #[error("inconsistent group protocol")]
    InconsistentGroupProtocol,
    /// Not the group's present generation.
    #[error("illegal generation")]
    IllegalGeneration,
    /// The group is rebalancing: join again.
    #[error("a rebalance is in progress")]
    RebalanceInProgress,
    /// The group has as many members as it may have.
    #[error("the group is full")]
    GroupMaxSizeReached,
    /// The group's subscriptions and assignments have more bytes than they may have.
    #[error("the group's metadata is too large")]
    GroupTooLarge,
    /// All groups together have as many bytes as they may have. Retriable: sessions end and make room.
    #[error("there is no room for more in any group")]
    NoRoom,
    /// No such group. For a commit by a member (generation not negative) of a group that is not there; Kafka
    /// clients before OffsetCommit version 9 are told `ILLEGAL_GENERATION`.
    #[error("group id not found")]
    GroupIdNotFound,
    /// The group has members.
    #[error("the group is not empty")]
    NonEmptyGroup,
    /// A member of the group subscribes to the topic.
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    /// The metadata beside an offset is too long.
    #[error("offset metadata too large")]
    OffsetMetadataTooLarge,
    /// The request contradicts itself.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
}

/// A group's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupState {
    /// No members; perhaps offsets.
    Empty,
    /// Members are being gathered for the next generation.
    PreparingRebalance,
    /// The leader's assignment is awaited.
    CompletingRebalance,
    /// All members have assignments.
    Stable,
}

impl GroupState {
    /// Kafka's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
        }
    }

    /// The inverse of [`GroupState::name`], whatever the case.
    #[must_use]
    pub fn parse(text: &str) -> Option<GroupState> {
        use GroupState::{CompletingRebalance, Empty, PreparingRebalance, Stable};
        [Empty, PreparingRebalance, CompletingRebalance, Stable]
            .into_iter()
            .find(|state| state.name().eq_ignore_ascii_case(text))
    }
}

/// Which protocol a group's members speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupType {
    /// Join, sync, heartbeat; the leader assigns.
    Classic,
}

impl GroupType {
    /// Kafka's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            GroupType::Classic => "classic",
        }
    }

    /// The inverse of [`GroupType::name`], whatever the case.
    #[must_use]
    pub fn parse(text: &str) -> Option<GroupType> {
        text.eq_ignore_ascii_case("classic").then_some(GroupType::Classic)
    }
}

/// A way of assigning that a member supports, and what it says to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Its name, such as `range`.
    pub name: Arc<str>,
    /// The member's metadata: opaque, but for the topics of consumers (see `subscription`).
    pub metadata: Bytes,
}

/// Asks to become or to stay a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The group.
    pub group: String,
    /// Empty for a new member.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// The client's name for itself; begins the member id.
    pub client_id: String,
    /// Where the client is, for people.
    pub client_host: String,
    /// After this long without a sign of life the member is removed.
    pub session_timeout_ms: u32,
    /// How long a rebalance waits for members to join again. Negative values as 0.
    pub rebalance_timeout_ms: u32,
    /// Such as `consumer`.
    pub protocol_type: String,
    /// Preferred first.
    pub protocols: Vec<Protocol>,
    /// Whether a new member is first given an id and must join again with it (JoinGroup v4 and later).
    pub member_id_required: bool,
    /// Whether the client understands [`JoinResponse::skip_assignment`] (JoinGroup v9 and later).
    pub can_skip_assignment: bool,
}

/// A new generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinResponse {
    /// Its number.
    pub generation: i32,
    /// Such as `consumer`.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol that all members support.
    pub protocol_name: Option<Arc<str>>,
    /// The member that assigns.
    pub leader: Arc<str>,
    /// The member that asked.
    pub member_id: Arc<str>,
    /// All members, for the leader; empty for the others.
    pub members: Vec<JoinMember>,
    /// Tells the leader that the present assignment stays.
    pub skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// What it says for the chosen protocol.
    pub metadata: Bytes,
}

/// Brings (leader) and asks for the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRequest {
    /// The group.
    pub group: String,
    /// The member.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// From the join.
    pub generation: i32,
    /// Checked if present (SyncGroup v5).
    pub protocol_type: Option<String>,
    /// Checked if present (SyncGroup v5).
    pub protocol_name: Option<String>,
    /// Member id and assignment, from the leader.
    pub assignments: Vec<(String, Bytes)>,
}

/// What is assigned to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncResponse {
    /// Such as `consumer`.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol in use.
    pub protocol_name: Option<Arc<str>>,
    /// Opaque; from the leader.
    pub assignment: Bytes,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatRequest {
    /// The group.
    pub group: String,
    /// The member.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// From the join.
    pub generation: i32,
}

/// Takes members out of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveRequest {
    /// The group.
    pub group: String,
    /// Who leaves.
    pub members: Vec<LeaveMember>,
}

/// One member that leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveMember {
    /// Its id; empty if it is named by its instance id only.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
}

/// What became of one of [`LeaveRequest::members`], in the same order.
pub type LeaveResult = Result<(), GroupError>;

/// Commits offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRequest {
    /// The group.
    pub group: String,
    /// The member; empty without membership.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// From the join; negative without membership.
    pub generation: i32,
    /// How long the offsets live, instead of the broker's retention (OffsetCommit v2 to v4).
    pub retention_ms: Option<u64>,
    /// What to commit. Whether the partitions exist is for the caller to check.
    pub offsets: Vec<CommitOffset>,
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOffset {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id, if the caller knows it.
    pub topic_id: Option<[u8; 16]>,
    /// The partition.
    pub partition: u32,
    /// The next offset to consume.
    pub offset: i64,
    /// Leader epoch of the last consumed record.
    pub leader_epoch: Option<i32>,
    /// The client's note.
    pub metadata: String,
}

/// Whose offsets to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchGroup {
    /// The group.
    pub group: String,
    /// Which partitions; `None`: all that have an offset.
    pub partitions: Option<Vec<(Arc<str>, u32)>>,
}

/// Offsets of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedGroup {
    /// The group.
    pub group: String,
    /// Its offsets in the order asked. A group that does not exist has none and that is no error.
    pub offsets: Result<Vec<FetchedOffset>, GroupError>,
}

/// One partition's offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedOffset {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// What was committed, if anything.
    pub committed: Option<CommittedOffset>,
}

/// Deletes committed offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOffsetsRequest {
    /// The group.
    pub group: String,
    /// Whose offsets.
    pub partitions: Vec<(Arc<str>, u32)>,
}

/// Filters a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListRequest {
    /// Only these states; `None`: all. An empty list lists nothing.
    pub states: Option<Vec<GroupState>>,
    /// Only these types; `None`: all. An empty list lists nothing.
    pub types: Option<Vec<GroupType>>,
}

/// A group in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its id.
    pub group: Arc<str>,
    /// Such as `consumer`; empty if it never had members.
    pub protocol_type: Arc<str>,
    /// Its state.
    pub state: GroupState,
    /// Its type.
    pub group_type: GroupType,
}

/// A group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group: Arc<str>,
    /// Its state.
    pub state: GroupState,
    /// Such as `consumer`; empty if it never had members.
    pub protocol_type: Arc<str>,
    /// The protocol in use; empty unless stable.
    pub protocol_name: Arc<str>,
    /// Its generation.
    pub generation: i32,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The client's name for itself.
    pub client_id: Arc<str>,
    /// Where the client is.
    pub client_host: Arc<str>,
    /// What it says for the chosen protocol; empty unless the group is stable.
    pub metadata: Bytes,
    /// What is assigned to it.
    pub assignment: Bytes,
}
