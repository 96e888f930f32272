//! What a shard can be asked: a closed list.
//!
//! **Invariant.** Every message carries the way back to its caller.
//!
//! Deliberately absent: broadcasts; the handle asks every shard.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::types::{
    CommitRequest, DeleteOffsetsRequest, FetchGroup, FetchedOffset, GroupDescription, GroupError,
    HeartbeatRequest, JoinRequest, JoinResponse, LeaveRequest, LeaveResult, ListRequest, ListedGroup,
    SyncRequest, SyncResponse,
};

/// The way back to the caller.
pub(super) type Reply<T> = oneshot::Sender<Result<T, GroupError>>;

/// One operation.
pub(super) enum Message {
    Join(JoinRequest, Reply<JoinResponse>),
    Sync(SyncRequest, Reply<SyncResponse>),
    Heartbeat(HeartbeatRequest, Reply<()>),
    Leave(LeaveRequest, Reply<Vec<LeaveResult>>),
    Commit(CommitRequest, Reply<Vec<Result<(), GroupError>>>),
    Fetch(FetchGroup, Reply<Vec<FetchedOffset>>),
    DeleteOffsets(DeleteOffsetsRequest, Reply<Vec<Result<(), GroupError>>>),
    List(ListRequest, Reply<Vec<ListedGroup>>),
    Describe(String, Reply<GroupDescription>),
    DeleteGroup(String, Reply<()>),
    TopicsDeleted(Arc<[Arc<str>]>, Reply<()>),
}

impl Message {
    /// Answers with an error; a caller that has gone away does not mind.
    pub(super) fn refuse(self, error: &GroupError) {
        let error = error.clone();
        let _gone = match self {
            Message::Join(_, reply) => reply.send(Err(error)).is_err(),
            Message::Sync(_, reply) => reply.send(Err(error)).is_err(),
            // Sessions start anew when the shard has loaded, so the member is as well as alive. Clients take
            // any other answer for a reason to give up their partitions.
            Message::Heartbeat(_, reply) if error == GroupError::CoordinatorLoading => {
                reply.send(Ok(())).is_err()
            }
            Message::Heartbeat(_, reply)
            | Message::DeleteGroup(_, reply)
            | Message::TopicsDeleted(_, reply) => reply.send(Err(error)).is_err(),
            Message::Leave(_, reply) | Message::Commit(_, reply) | Message::DeleteOffsets(_, reply) => {
                reply.send(Err(error)).is_err()
            }
            Message::Fetch(_, reply) => reply.send(Err(error)).is_err(),
            Message::List(_, reply) => reply.send(Err(error)).is_err(),
            Message::Describe(_, reply) => reply.send(Err(error)).is_err(),
        };
    }

    /// About how many bytes it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        const SELF: usize = 256;
        SELF + match self {
            Message::Join(request, _) => {
                let protocols = request.protocols.iter();
                request.group.len() + protocols.map(|p| 64 + p.name.len() + p.metadata.len()).sum::<usize>()
            }
            Message::Sync(request, _) => {
                let assignments = request.assignments.iter();
                request.group.len()
                    + assignments.map(|(id, bytes)| 64 + id.len() + bytes.len()).sum::<usize>()
            }
            Message::Commit(request, _) => {
                request.offsets.iter().map(|offset| 128 + offset.metadata.len()).sum::<usize>()
            }
            Message::Fetch(request, _) => request.partitions.as_ref().map_or(0, |list| list.len() * 32),
            Message::DeleteOffsets(request, _) => request.partitions.len() * 32,
            Message::Leave(request, _) => request.members.len() * 128,
            Message::Heartbeat(..)
            | Message::List(..)
            | Message::Describe(..)
            | Message::DeleteGroup(..)
            | Message::TopicsDeleted(..) => 0,
        }
    }
}

/// An answer that waits until it is true for good.
pub(super) trait Release: Send {
    /// Sends it.
    fn release(self: Box<Self>);
    /// Sends `error` in its place.
    fn fail(self: Box<Self>, error: &GroupError);
}

/// An answer and its caller.
pub(super) struct Parked<T> {
    pub(super) reply: Reply<T>,
    pub(super) answer: Result<T, GroupError>,
}

impl<T: Send> Release for Parked<T> {
    fn release(self: Box<Self>) {
        let _gone = self.reply.send(self.answer).is_err();
    }

    fn fail(self: Box<Self>, error: &GroupError) {
        let _gone = self.reply.send(Err(error.clone())).is_err();
    }
}
