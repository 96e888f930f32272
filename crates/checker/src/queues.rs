//! What must be true of queues: a history of messages published, delivered, settled and removed, and its rules.
//!
//! ```text
//!  load ---> Publishing, Delivery, Holder, Removal, Declaration, Count, Stop ---> QueueHistory ---> check
//! ```
//! The process of a broker has *lives*, counted up; each ends with a [`Stop`]. A *channel* is what deliveries belong
//! to and what gives them back when it ends. Times are of one counter that all who take notes share.
//!
//! What a broker promises here is written in ADR 0006. A message of which the promise is [`Survives::PowerCut`] is
//! there until it is settled or removed; an acknowledgement is durable once a later question on its connection is answered;
//! what may have been delivered before is marked.
//!
//! What is rejected in the source of [`DeadLetters`] is in the source or in the target until it is settled there, and
//! never in both; once it was seen in the target it has left the source, durably if it survives.
//!
//! Of a transaction all happens or nothing, and nothing before it was asked for; what is confirmed with it is durable,
//! acknowledgements too.
//!
//! What an exchange keeps back is not seen before it is due.
//!
//! A queue with a [`Limit`] drops its oldest messages, or refuses new ones; one that is set while clients work holds as soon
//! as that was answered. Into a *stream* a transaction or a dead letter may get without the rest, and a letter more than once.
//!
//! **Invariants of who takes notes.** A delivery is noted when it is taken off a channel that is not being closed
//! and holds nothing back unnoted; once a channel begins to end, what comes on it is not noted. A value is published
//! once to a queue. What nobody knows is left open: a settlement without a later answer on its channel, a publishing without
//! a confirm. A channel that the broker ended, or that broke, held nothing for certain when it did.
//!
//! Deliberately absent: exchanges and routing, limits on time and bytes, and a file format; a run keeps this in memory.

mod answers;
mod deliveries;
mod ends;
mod facts;
mod fate;
mod limits;
mod report;
mod transactions;

#[cfg(test)]
mod tests;

use std::ops::Range;

pub use report::{QueueExpectations, QueueReport, QueueRule, QueueViolation};

use crate::history::{Outcome, Survives, Value};

/// Everything that was seen, in any order.
#[derive(Debug, Clone, Default)]
pub struct QueueHistory {
    /// What was published.
    pub publishings: Vec<Publishing>,
    /// Confirms that nobody waited for, in words.
    pub stray_answers: Vec<String>,
    /// What was delivered.
    pub deliveries: Vec<Delivery>,
    /// Who may have held messages without our having seen them.
    pub holders: Vec<Holder>,
    /// Purges and deletions of queues.
    pub removals: Vec<Removal>,
    /// Declarations of queues.
    pub declarations: Vec<Declaration>,
    /// How transactions ended.
    pub transactions: Vec<Transaction>,
    /// Which queues have dead letters, and where these go.
    pub letters: Vec<DeadLetters>,
    /// Limits of queues. One that is declared is set before anything else.
    pub limits: Vec<Change<Limit>>,
    /// Which policies were set, in words, or taken away. One that is none is taken away before anything else.
    pub policies: Vec<Change<Option<String>>>,
    /// Which policies were there.
    pub policies_seen: Vec<Change<Option<String>>>,
    /// What of `queues` are streams.
    pub streams: Vec<String>,
    /// How many messages a queue said to have.
    pub counts: Vec<Count>,
    /// The ends of lives.
    pub stops: Vec<Stop>,
    /// Times in which the store had failed: nothing that was published in them may have been confirmed in them.
    pub broken: Vec<Range<u64>>,
    /// Times in which the store may have refused messages: a refusal says nothing of a queue's limit.
    pub full: Vec<Range<u64>>,
}

/// What became of a publishing, in the order in which it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was confirmed.
    Confirmed,
    /// It was refused. It may have happened all the same.
    Refused,
    /// It came back: no queue took it.
    Returned,
}

/// A message on its way in.
#[derive(Debug, Clone)]
pub struct Publishing {
    /// The queue that it is for. One for several queues is as many publishings of the same value, with the same answers.
    pub queue: String,
    /// What it carries.
    pub value: Value,
    /// What it is promised to survive once it is confirmed.
    pub survives: Survives,
    /// Whether there is a way to the queue. If not, it was asked to come back.
    pub routable: bool,
    /// The life in which it was published.
    pub life: u32,
    /// When it was published.
    pub began: u64,
    /// When the last answer came.
    pub ended: u64,
    /// What was answered.
    pub answers: Vec<Answer>,
    /// Its connection was open all the time that an answer was waited for.
    pub stayed: bool,
    /// The transaction that it belongs to.
    pub part_of: Option<u64>,
    /// An exchange keeps it back, and nobody may see it before.
    pub due: Option<u64>,
}

/// Publishings and settlements of which all happen or none.
#[derive(Debug, Clone, Copy)]
pub struct Transaction {
    /// Its number.
    pub id: u64,
    /// When it was asked for, if it was.
    pub asked: Option<u64>,
    /// Whether it happened. What it settled is noted as settled unless it certainly did not happen.
    pub outcome: Outcome,
}

/// What a queue rejects goes to another. Others may publish to both.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// Where messages are rejected.
    pub source: String,
    /// Where they go; it has no dead letters of its own.
    pub target: String,
}

/// What a queue does with messages that are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest goes, into its dead letters if it has any.
    DropHead,
    /// The new one is refused, and goes into dead letters if there are any.
    Refuse,
}

/// How many messages a queue may have ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// So many; `None`: any number.
    pub messages: Option<u64>,
    /// What becomes of others.
    pub overflow: Overflow,
    /// What was out of the queue at any time without being noted, at most: that is not ready.
    pub unseen: u64,
}

/// Something was set, or seen to be, by one client after the other.
#[derive(Debug, Clone)]
pub struct Change<T> {
    /// Of what.
    pub of: String,
    /// What it is then.
    pub to: T,
    /// When it was asked for.
    pub began: u64,
    /// When it was answered.
    pub ended: u64,
    /// How it was answered.
    pub outcome: Outcome,
}

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Acknowledged, or rejected for good where no dead letters are kept: it is done.
    Done,
    /// Rejected for good in a queue with dead letters: it goes to the target.
    Rejected,
    /// Given back to the queue.
    Returned,
}

/// That a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// How.
    pub how: How,
    /// When that was sent.
    pub sent: u64,
    /// When something that was asked later on the same channel had been answered; in a transaction, when that had.
    pub vouched: Option<u64>,
    /// The transaction that it belongs to.
    pub part_of: Option<u64>,
}

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Out of which queue.
    pub queue: String,
    /// What it carries.
    pub value: Value,
    /// Marked as perhaps delivered before.
    pub redelivered: bool,
    /// The life in which it was delivered.
    pub life: u32,
    /// The channel, of all lives.
    pub channel: u64,
    /// When it was taken off the channel.
    pub at: u64,
    /// A stretch of deliveries of one queue, by number, in which nobody else had and nobody returned anything.
    pub stretch: Option<u64>,
    /// Nobody was to settle it.
    pub no_ack: bool,
    /// How it was settled.
    pub settled: Option<Settled>,
    /// When its channel began to end or, if that was not our doing, since when it may have.
    pub let_go: Option<u64>,
    /// Its channel was ended by the broker, at the latest when something that was asked later was not answered any
    /// more: when this was taken, the broker may already have given the message to somebody else.
    pub unsure: bool,
    /// Part of the last reading.
    pub last: bool,
}

/// A channel that may have been given messages of a queue that it never noted.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Of which queue.
    pub queue: String,
    /// In which life.
    pub life: u32,
    /// From when on.
    pub began: u64,
    /// Until when; `None`: nobody knows, at the latest until the life ended.
    pub ended: Option<u64>,
    /// What it was given and did not note is gone: at most so many messages.
    pub loses: usize,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// What was ready.
    Ready,
    /// The queue with everything in it.
    Queue,
}

/// Messages of a queue were removed.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Of which queue.
    pub queue: String,
    /// Which messages.
    pub what: Removed,
    /// When it was asked for.
    pub began: u64,
    /// When it was answered.
    pub ended: u64,
    /// How it was answered.
    pub outcome: Outcome,
}

/// A queue that outlives the broker was declared.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// Its name.
    pub queue: String,
    /// When it was asked for.
    pub began: u64,
    /// When it was answered.
    pub ended: u64,
    /// How it was answered.
    pub outcome: Outcome,
}

/// A queue was asked for, without being made.
#[derive(Debug, Clone)]
pub struct Count {
    /// Its name.
    pub queue: String,
    /// When it was asked for.
    pub began: u64,
    /// When it was answered.
    pub ended: u64,
    /// How many messages are ready and how many consumers there are; `None`: there is no such queue.
    pub found: Option<(u64, u64)>,
    /// The last reading begins here: no client has anything or is on its way.
    pub last: bool,
}

/// The end of a life.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// Which.
    pub life: u32,
    /// When it began to end.
    pub began: u64,
    /// It was asked to, and said that it did.
    pub clean: bool,
}

/// Holds a history to the rules.
#[must_use]
pub fn check(history: &QueueHistory, expected: &QueueExpectations) -> QueueReport {
    let mut report = QueueReport::default();
    let facts = facts::collect(history, &mut report);
    answers::check(history, &facts, &mut report);
    deliveries::check(&facts, &mut report);
    fate::check(&facts, expected, &mut report);
    transactions::check(history, &facts, expected, &mut report);
    limits::check(history, &facts, expected, &mut report);
    ends::check(history, &facts, expected, &mut report);
    report
}
