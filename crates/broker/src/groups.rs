//! Consumer groups: membership, rebalances and committed offsets, as state machines over logs.
//!
//! ```text
//!   doors ── Groups ──┬─ shard 0 ── Coordinator (pure) ── log 0
//!                     ├─ shard 1 ── Coordinator (pure) ── log 1      a group lives in the shard
//!                     └─ ...                                         its id hashes to, for good
//! ```
//! An operation reads and changes the state in memory at once and emits records; the answer waits until all
//! records emitted so far are durable. Whoever gets an answer has therefore seen nothing that a crash can
//! take back, be it the answer to a commit, a fetch or a heartbeat.
//!
//! **Invariants.**
//! - [`coordinator::Coordinator`] does no I/O, reads no clock and draws no random number: replaying the log
//!   gives the state that its durable records describe.
//! - An append that failed, or whose fate is unknown, costs the shard its state: every waiting answer fails
//!   with a retriable error, the log is claimed again and replayed. There are no snapshots to roll back to:
//!   the log is the rollback. Failed appends are rare and a replay is short (see below), while versioned
//!   structures would slow down every operation and are hard to get right.
//! - The log is kept short by walking the live state in the background and appending each entry once more,
//!   a chunk per flush; when the last chunk is durable, everything before the first is trimmed. Appending
//!   and trimming was chosen over replacing a range in place because a crash at any point leaves a log whose
//!   plain replay is right, without markers, and because it needs no large atomic write.
//!
//! Deliberately absent: anything that names a protocol's request or error code, the KIP-848 and share group
//! protocols (their records have kinds of their own next to those in [`record`]), transactional offset
//! commits, and the assignment of partitions, which classic groups leave to their leader.

pub mod config;
pub mod coordinator;
pub mod handle;
pub mod hash;
pub mod record;
pub mod types;

mod admin;
mod batch;
mod codec;
mod group;
mod join;
mod leave;
mod load;
mod member;
mod message;
mod offsets;
mod rebalance;
mod serving;
mod shard;
mod subscription;
mod sync;
mod timers;

#[cfg(test)]
mod tests;

pub use config::GroupsConfig;
pub use handle::{Groups, SHARDS_DEFAULT, Start};
pub use record::{CommittedOffset, GroupMetadata, GroupRecord, MemberMetadata};
pub use types::{
    CommitOffset, CommitRequest, DeleteOffsetsRequest, FetchGroup, FetchedGroup, FetchedOffset,
    GroupDescription, GroupError, GroupState, GroupType, HeartbeatRequest, JoinMember, JoinRequest,
    JoinResponse, LeaveMember, LeaveRequest, LeaveResult, ListRequest, ListedGroup, MemberDescription,
    Protocol, SyncRequest, SyncResponse,
};
