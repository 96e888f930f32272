//! Joint commits: publishes and settlements over several queues and shards that stand or fall as one.
//!
//! ```text
//!  turn ─▶ Prepare to each shard ─▶ operations ─▶ one group to the store ─▶ submitted ─▶ turn's end
//!                                                                           └─▶ outcome ─▶ to each shard, to the caller
//! ```
//! **Invariants.** One joint commit is put together at a time: shards hold what it touches from their part until the
//! whole is with the store, and only one turn can make them. Many wait for their outcomes side by side. What was
//! begun ends, whoever waits for it. A commit that did not happen left everything as it was.
//!
//! Owners of topics take part for who brings records for them (`relayed`); a client's transactions and dead letters write to
//! topics before their joint commit.
//!
//! Deliberately absent: stores that cannot change several logs in one group; such a commit is refused there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrymq_storage::{ErrorKind, Op, Outcome, StorageError};
use ferrymq_types::Offset;
use ferrymq_types::limits::QUEUE_MESSAGE_BYTES_MAX;
use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard, Semaphore, oneshot};

use super::error::QueueError;
use super::handle::{Queues, refused};
use super::session::Session;
use super::shard::joint::{Prepare, Settles};
use super::shard::message::{Item, Refused, ShardMessage};
use super::streams::{Appending, StreamRecord, TooLarge};
use super::types::{Publish, QueueHandle, Settle};
use crate::broker::Invited;
use crate::shard::AppendError;
use crate::to_its_end::to_its_end;
use crate::topics::Topic;

/// Joint commits that may be under way at a time.
const IN_FLIGHT: usize = 16;
/// How often one is put together anew because something before it in a queue failed and took it along.
const ATTEMPTS: usize = 8;

/// Whose turn it is.
pub(super) struct Joint {
    turn: Mutex<()>,
    room: Semaphore,
    /// Which partition is next for records without a key.
    topics_turn: AtomicUsize,
}

impl Default for Joint {
    fn default() -> Joint {
        Joint { turn: Mutex::new(()), room: Semaphore::new(IN_FLIGHT), topics_turn: AtomicUsize::new(0) }
    }
}

/// What a joint commit does.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    pub(super) publishes: Vec<Publish>,
    pub(super) settles: Vec<Settles>,
    /// Records of topics.
    pub(super) records: Vec<(Arc<Topic>, StreamRecord)>,
    /// What whoever asks notes in a log of its own.
    pub(super) notes: Vec<Op>,
}

impl Parts {
    fn is_empty(&self) -> bool {
        let Parts { publishes, settles, records, notes } = self;
        publishes.is_empty() && settles.is_empty() && records.is_empty() && notes.is_empty()
    }
}

/// A shard's words in a joint commit.
struct Partner {
    shard: usize,
    answer: oneshot::Receiver<Result<Vec<Op>, Refused>>,
    submitted: oneshot::Sender<()>,
    outcome: oneshot::Sender<Outcome>,
    /// Dropped by the shard when it has done with it.
    over: Option<oneshot::Receiver<()>>,
}

impl Queues {
    /// Publishes all of these and settles all of those, or nothing: also after a crash, as far as messages and queues
    /// survive one at all. Returns when it is durable. Goes on when the call is dropped.
    ///
    /// Messages for a queue that has been deleted go nowhere, and what `session` does not hold is left alone, as with
    /// [`Queues::publish`] and [`Queues::settle`].
    ///
    /// # Errors
    /// [`QueueError`]: nothing happened, and what was to be settled is held as before, unless the error is of a
    /// kind that leaves this open ([`ErrorKind::Unknown`]). A store without atomic changes of several logs
    /// refuses with [`ErrorKind::InvalidArgument`].
    pub async fn commit(
        self: &Arc<Queues>,
        session: &Session,
        publishes: Vec<Publish>,
        settles: Vec<(QueueHandle, Vec<(Offset, Settle)>)>,
    ) -> Result<(), QueueError> {
        let limit = QUEUE_MESSAGE_BYTES_MAX;
        if publishes.iter().any(|publish| publish.message.bytes() > limit) {
            return Err(QueueError::Limit { what: "the size of a message", limit: limit as u64 });
        }
        // Its end waits: what it holds must be there to be settled, also at the second attempt.
        let alive = session.hold().await;
        let session = Some(session.id());
        let settles = settles.into_iter().map(|(queue, what)| Settles { queue, session, what }).collect();
        let (queues, parts) = (self.clone(), Parts { publishes, settles, ..Parts::default() });
        let commit = async move {
            let _alive = alive;
            queues.commit_parts(&parts).await
        };
        to_its_end(&self.tasks, commit).await
    }

    /// The same, for as long as somebody waits for it: that must be to its end.
    pub(super) async fn commit_parts(self: &Arc<Queues>, parts: &Parts) -> Result<(), QueueError> {
        if self.streams.is_none() {
            return self.commit_queues(parts).await;
        }
        let (rest, settled) = self.append_streams(parts, TooLarge::Refused).await?;
        self.commit_queues(&rest).await?;
        self.settle_streams(settled).await;
        Ok(())
    }

    /// The same for parts of queues only.
    pub(super) async fn commit_queues(self: &Arc<Queues>, parts: &Parts) -> Result<(), QueueError> {
        if parts.is_empty() {
            return Ok(());
        }
        if !self.stores.logs.atomic_multi_log() {
            let what = "this store cannot change several logs in one step";
            return Err(StorageError::new(ErrorKind::InvalidArgument, what).into());
        }
        for publish in parts.publishes.iter().filter(|publish| publish.message.priority.is_some()) {
            self.make_levels(publish).await?;
        }
        let mut outcome = Ok(());
        for _ in 0..ATTEMPTS {
            outcome = self.commit_once(parts).await;
            if !matches!(outcome, Err(QueueError::Retry)) {
                break;
            }
        }
        outcome
    }

    async fn commit_once(&self, parts: &Parts) -> Result<(), QueueError> {
        let Ok(_room) = self.joint.room.acquire().await else { return Err(QueueError::Stopped) };
        let turn = self.joint.turn.lock().await;
        let mut partners = self.invite(parts).await;
        let overs: Vec<_> = partners.iter_mut().filter_map(|partner| partner.over.take()).collect();
        let outcome = self.commit_with(parts, partners, turn).await;
        // Each shard knows before anybody goes on: what is tried again finds what is to be settled, and who asked finds
        // what was published.
        for over in overs {
            // Dropped when it is over.
            let _dropped = over.await;
        }
        outcome
    }

    /// Puts the parts together and hands them over; the turn is over then.
    async fn commit_with(
        &self,
        parts: &Parts,
        partners: Vec<Partner>,
        turn: MutexGuard<'_, ()>,
    ) -> Result<(), QueueError> {
        let mut group = Vec::new();
        let mut waiting = Vec::with_capacity(partners.len());
        for partner in partners {
            // Should one refuse, the others see that the word never comes.
            let ops = partner.answer.await.map_err(|_| QueueError::Stopped)?;
            group.extend(ops.map_err(|why| not_prepared(why, parts))?);
            waiting.push((partner.submitted, partner.outcome));
        }
        // Last: their shards do nothing else from their answer on.
        let owners = self.invite_topics(parts).await?;
        let mut overs = Vec::with_capacity(owners.len());
        for owner in owners {
            let ops = owner.answer.await.map_err(|_| QueueError::Stopped)?;
            group.extend(ops.map_err(not_appended)?);
            waiting.push((owner.submitted, owner.outcome));
            overs.push(owner.over);
        }
        group.extend(parts.notes.iter().cloned());
        let answer = match group.is_empty() {
            true => None,
            false => Some(self.stores.logs.commit(vec![group])),
        };
        let outcomes: Vec<_> = waiting
            .into_iter()
            .map(|(submitted, outcome)| {
                // A shard that has ended meanwhile needs to hear nothing.
                let _ended = submitted.send(()).is_err();
                outcome
            })
            .collect();
        drop(turn);
        let outcome = match answer {
            None => Ok(()),
            Some(answer) => answer.await.pop().unwrap_or_else(|| Err(unanswered())),
        };
        let told = told(&outcome, parts);
        for to in outcomes {
            let _ended = to.send(told.clone()).is_err();
        }
        for over in overs {
            // Dropped when it is over.
            let _dropped = over.await;
        }
        outcome.map_err(|error| match error.kind() {
            ErrorKind::Conflict => QueueError::Retry,
            _ => QueueError::Storage(error),
        })
    }

    /// Asks the owners of topics for their parts.
    async fn invite_topics(&self, parts: &Parts) -> Result<Vec<Invited>, QueueError> {
        let (Some(streams), false) = (&self.streams, parts.records.is_empty()) else { return Ok(Vec::new()) };
        let turn = self.joint.topics_turn.fetch_add(1, Ordering::Relaxed);
        let mut appending = Appending::new(self.clock.wall_ms(), turn);
        for (index, (topic, record)) in (0u32..).zip(&parts.records) {
            appending.add(index, topic, record);
        }
        let (items, _, failed) = appending.finish();
        match failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(streams.topics.broker.invite(items).await),
        }
    }

    /// Asks each shard that has a part for it.
    async fn invite(&self, parts: &Parts) -> Vec<Partner> {
        let mut shares: Vec<(Vec<Item>, Vec<Settles>)> =
            self.shards.iter().map(|_| Default::default()).collect();
        let indexed = (0u32..).zip(&parts.publishes);
        let spread =
            indexed.flat_map(|(index, publish)| publish.clone().spread().map(move |part| (index, part)));
        for (index, Publish { message, to }) in spread {
            let mut shards: Vec<usize> = to.queues().iter().map(|queue| queue.0.shard).collect();
            shards.sort_unstable();
            shards.dedup();
            let item = Item::new(index, message, to);
            for shard in shards {
                shares[shard].0.push(item.clone());
            }
        }
        for settles in &parts.settles {
            shares[settles.queue.0.shard].1.push(settles.clone());
        }
        let mut partners = Vec::new();
        let mut invitations = Vec::new();
        for (shard, (items, settles)) in shares.into_iter().enumerate() {
            if items.is_empty() && settles.is_empty() {
                continue;
            }
            let (reply, answer) = oneshot::channel();
            let (submitted, is_submitted) = oneshot::channel();
            let (outcome, is_decided) = oneshot::channel();
            let (over, is_over) = oneshot::channel();
            let prepare =
                Prepare { items, settles, reply, submitted: is_submitted, outcome: is_decided, over };
            let bytes = prepare.bytes();
            invitations.push(self.shards[shard].send(ShardMessage::Prepare(Box::new(prepare)), bytes));
            partners.push(Partner { shard, answer, submitted, outcome, over: Some(is_over) });
        }
        for (sent, partner) in join_all(invitations).await.into_iter().zip(&partners) {
            if sent.is_err() {
                tracing::debug!(shard = partner.shard, "a shard has ended before a joint commit");
            }
        }
        partners
    }
}

fn not_prepared(why: Refused, parts: &Parts) -> QueueError {
    match (why, parts.settles.first()) {
        (Refused::Storage(error), _) => QueueError::Storage(error),
        (Refused::Full(queue), _) => {
            QueueError::Full { vhost: queue.vhost().clone(), name: queue.name().clone() }
        }
        // Only letters insist on their queue, and they come from one.
        (why, Some(Settles { queue, .. })) => refused(queue, why),
        (_, None) => QueueError::Retry,
    }
}

fn not_appended(why: AppendError) -> QueueError {
    match why {
        AppendError::Storage(error) => QueueError::Storage(error),
        // If its topic has gone, it is looked up again by whoever asked.
        AppendError::Gone | AppendError::Retry | AppendError::Elsewhere | AppendError::Producer(_) => {
            QueueError::Retry
        }
    }
}

/// What shards hear of an outcome. Whose log was fenced is not known: if it was the one of the note, theirs are theirs still. They
/// hear that nothing happened; whoever is fenced learns it by its next write.
fn told(outcome: &Outcome, parts: &Parts) -> Outcome {
    match outcome {
        Err(error) if !parts.notes.is_empty() && error.kind() == ErrorKind::Fenced => {
            Err(StorageError::new(ErrorKind::Conflict, "a part of a joint commit was fenced"))
        }
        outcome => outcome.clone(),
    }
}

fn unanswered() -> StorageError {
    StorageError::new(ErrorKind::Unknown, "a commit without an outcome")
}
