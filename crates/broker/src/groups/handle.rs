//! The doors' way to the groups: cheap to clone, callable from any task.
//!
//! **Invariants.** A call is answered when its effect is durable. Dropping a call's future withdraws nothing:
//! what was asked may still happen, only nobody is told.
//!
//! Deliberately absent: retries; every error that is worth one says so ([`GroupError`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrymq_runtime::{ByteBudget, Clock, MailboxSender, Rng, TaskKind, Tasks, mailbox};
use ferrymq_storage::LogStore;
use ferrymq_types::{LogId, OwnerId};
use futures_util::future::join_all;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::cluster::View;

use super::config::GroupsConfig;
use super::hash::shard_of;
use super::message::{Message, Reply};
use super::shard::{Shard, run};
use super::types::{
    CommitRequest, DeleteOffsetsRequest, FetchGroup, FetchedGroup, FetchedOffset, GroupDescription,
    GroupError, HeartbeatRequest, JoinRequest, JoinResponse, LeaveRequest, LeaveResult, ListRequest,
    ListedGroup, SyncRequest, SyncResponse,
};

/// Shards of a new broker.
pub const SHARDS_DEFAULT: usize = 16;

/// What groups are started with.
pub struct Start {
    /// Where the logs are.
    pub store: Arc<dyn LogStore>,
    /// One log per shard. Their number and order are fixed when the broker is first set up.
    pub logs: Vec<LogId>,
    /// Who claims them.
    pub owner: OwnerId,
    /// Time.
    pub clock: Clock,
    /// Random numbers.
    pub rng: Rng,
    /// What the shards' tasks belong to.
    pub tasks: Tasks,
    /// Settings.
    pub config: GroupsConfig,
}

/// All groups of a broker.
#[derive(Clone)]
pub struct Groups {
    places: Arc<Places>,
}

/// What shards are started with, and those that are here.
struct Places {
    start: Start,
    config: Arc<GroupsConfig>,
    room: ByteBudget,
    view: Option<Arc<View>>,
    /// One for each log.
    running: Vec<RwLock<Option<Running>>>,
}

/// A shard that is here.
struct Running {
    mailbox: MailboxSender<Message>,
    /// Set when the store said that the log is another's.
    lost: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Groups {
    /// Starts one task per log; each begins with claiming and replaying it.
    ///
    /// # Panics
    /// If there are no logs.
    #[must_use]
    pub fn start(start: Start) -> Groups {
        let groups = Groups::none_here(start, None);
        (0..groups.shards()).for_each(|index| groups.take(index));
        groups
    }

    /// Groups of which none are here: shards come and go by what `view` says of their logs' owners.
    ///
    /// # Panics
    /// If there are no logs.
    #[must_use]
    pub fn start_elsewhere(start: Start, view: Arc<View>) -> Groups {
        Groups::none_here(start, Some(view))
    }

    fn none_here(start: Start, view: Option<Arc<View>>) -> Groups {
        assert!(!start.logs.is_empty(), "groups need at least one log");
        let config = Arc::new(start.config.clone());
        let room = ByteBudget::new(config.all_groups_bytes_max);
        let running = start.logs.iter().map(|_| RwLock::default()).collect();
        Groups { places: Arc::new(Places { start, config, room, view, running }) }
    }

    /// Sees that a shard is here: it begins with claiming and replaying its log.
    pub(crate) fn take(&self, index: usize) {
        let Places { start, config, room, running, .. } = &*self.places;
        let mut place = running[index].write();
        if place.is_some() {
            return;
        }
        let (sender, mailbox) = mailbox(config.mailbox_bytes);
        let lost = Arc::new(AtomicBool::new(false));
        let shard = Shard {
            log: start.logs[index],
            owner: start.owner,
            store: Arc::clone(&start.store),
            clock: start.clock.clone(),
            rng: start.rng.clone(),
            tasks: start.tasks.clone(),
            config: Arc::clone(config),
            room: room.clone(),
            lost: lost.clone(),
            mailbox,
        };
        let (end, ended) = oneshot::channel();
        start.tasks.spawn(TaskKind::Owner, "groups shard", async move {
            run(shard).await;
            // Nobody waits if it ends by itself.
            let _ = end.send(());
        });
        *place = Some(Running { mailbox: sender, lost, ended });
    }

    /// Sees that a shard is not here: what it had accepted has ended when this does.
    pub(crate) async fn let_go(&self, index: usize) {
        let running = self.places.running[index].write().take();
        let Some(Running { mailbox, ended, .. }) = running else { return };
        // A shard ends when nobody can ask it any more.
        drop(mailbox);
        let _ = ended.await;
    }

    /// Whether the store said that a shard's log is another's.
    pub(crate) fn is_lost(&self, index: usize) -> bool {
        let running = self.places.running[index].read();
        running.as_ref().is_some_and(|running| running.lost.load(Ordering::Acquire))
    }

    /// The logs of all shards, in their order.
    #[must_use]
    pub fn logs(&self) -> &[LogId] {
        &self.places.start.logs
    }

    /// The log that holds a group.
    #[must_use]
    pub fn log_of(&self, group: &str) -> LogId {
        self.places.start.logs[self.shard(group)]
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.places.running.len()
    }

    /// Joins a group. Waits until a generation is made: that may take as long as the rebalance timeout.
    ///
    /// # Errors
    /// [`GroupError`]; [`GroupError::MemberIdRequired`] carries the id to join again with.
    pub async fn join(&self, request: JoinRequest) -> Result<JoinResponse, GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::Join(request, reply)).await
    }

    /// Hands in (leader) and asks for an assignment. Waits for the leader.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn sync(&self, request: SyncRequest) -> Result<SyncResponse, GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::Sync(request, reply)).await
    }

    /// Keeps a member's session. A shard that is loading answers well.
    ///
    /// # Errors
    /// [`GroupError`]; [`GroupError::RebalanceInProgress`] asks the member to join again.
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> Result<(), GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::Heartbeat(request, reply)).await
    }

    /// Takes members out of a group; one result per member in order.
    ///
    /// # Errors
    /// [`GroupError`] for all of them.
    pub async fn leave(&self, request: LeaveRequest) -> Result<Vec<LeaveResult>, GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::Leave(request, reply)).await
    }

    /// Commits offsets; one result per offset in order.
    ///
    /// # Errors
    /// [`GroupError`] for all of them.
    pub async fn commit(&self, request: CommitRequest) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::Commit(request, reply)).await
    }

    /// Fetches a group's committed offsets.
    ///
    /// # Errors
    /// Only those of the shard, see [`GroupError`].
    pub async fn fetch(&self, request: FetchGroup) -> Result<Vec<FetchedOffset>, GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::Fetch(request, reply)).await
    }

    /// Fetches several groups' committed offsets, in order.
    pub async fn fetch_many(&self, requests: Vec<FetchGroup>) -> Vec<FetchedGroup> {
        let fetch = |request: FetchGroup| async {
            let group = request.group.clone();
            FetchedGroup { group, offsets: self.fetch(request).await }
        };
        join_all(requests.into_iter().map(fetch)).await
    }

    /// Deletes committed offsets; one result per partition in order.
    ///
    /// # Errors
    /// [`GroupError`] for all of them.
    pub async fn delete_offsets(
        &self,
        request: DeleteOffsetsRequest,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.ask(self.shard(&request.group), |reply| Message::DeleteOffsets(request, reply)).await
    }

    /// Lists the groups of all shards, by id.
    ///
    /// # Errors
    /// If a shard cannot answer: a list that lacks groups would look whole.
    pub async fn list(&self, request: ListRequest) -> Result<Vec<ListedGroup>, GroupError> {
        let ask = |shard| self.ask(shard, |reply| Message::List(request.clone(), reply));
        let lists = join_all(self.here().into_iter().map(ask)).await;
        let mut all: Vec<ListedGroup> = Vec::new();
        for list in lists {
            all.append(&mut list?);
        }
        all.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(all)
    }

    /// Describes a group.
    ///
    /// # Errors
    /// [`GroupError::GroupIdNotFound`] (Kafka clients before DescribeGroups version 6 are told of a group in
    /// state `Dead`), or those of the shard.
    pub async fn describe(&self, group: String) -> Result<GroupDescription, GroupError> {
        self.ask(self.shard(&group), |reply| Message::Describe(group, reply)).await
    }

    /// Deletes an empty group with its offsets.
    ///
    /// # Errors
    /// [`GroupError::GroupIdNotFound`], [`GroupError::NonEmptyGroup`], or those of the shard.
    pub async fn delete_group(&self, group: String) -> Result<(), GroupError> {
        self.ask(self.shard(&group), |reply| Message::DeleteGroup(group, reply)).await
    }

    /// Removes all offsets of deleted topics.
    ///
    /// # Errors
    /// If a shard could not; ask again, or leave them to expire.
    pub async fn topics_deleted(&self, topics: Vec<Arc<str>>) -> Result<(), GroupError> {
        let topics: Arc<[Arc<str>]> = topics.into();
        let ask = |shard| self.ask(shard, |reply| Message::TopicsDeleted(Arc::clone(&topics), reply));
        join_all(self.here().into_iter().map(ask)).await.into_iter().collect()
    }

    /// The shards that are here: of several brokers each speaks for its own.
    fn here(&self) -> Vec<usize> {
        (0..self.shards()).filter(|index| self.places.running[*index].read().is_some()).collect()
    }

    fn shard(&self, group: &str) -> usize {
        shard_of(group, self.shards())
    }

    async fn ask<T>(&self, shard: usize, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, GroupError> {
        let (reply, answer) = oneshot::channel();
        let message = message(reply);
        let bytes = message.bytes();
        if self.places.view.as_ref().is_some_and(|view| !view.is_serving()) {
            return Err(GroupError::NotCoordinator);
        }
        let mailbox = self.places.running[shard].read().as_ref().map(|running| running.mailbox.clone());
        let sent = mailbox.ok_or(GroupError::NotCoordinator)?.send(message, bytes).await;
        sent.map_err(|_| GroupError::CoordinatorNotAvailable)?;
        answer.await.unwrap_or(Err(GroupError::CoordinatorNotAvailable))
    }
}
