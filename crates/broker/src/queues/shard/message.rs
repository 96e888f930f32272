//! What a queue shard is asked to do, and its answers.
//!
//! **Invariant.** Every message with a reply is answered, or its caller sees the sender dropped and knows that
//! the shard has ended.

use std::sync::Arc;

use ferrymq_storage::{SHARED_BYTES_MIN, ShareKey, StorageError};
use ferrymq_types::{Epoch, LogId, Offset};
use tokio::sync::oneshot;

use super::barriers::Reply;
use super::joint::Prepare;
use crate::queues::ack::AckState;
use crate::queues::consuming::Consuming;
use crate::queues::dead_letters::DeadLetterTo;
use crate::queues::error::QueueError;
use crate::queues::settings::QueueSettings;
use crate::queues::sink::DeliverySink;
use crate::queues::streams::{Source, StreamFrom};
use crate::queues::types::{
    DeleteIf, Delivery, Message, NewConsumer, QueueHandle, QueueStat, Routed, Settle,
};

/// One message for some queues of a shard.
#[derive(Debug, Clone)]
pub(in crate::queues) struct Item {
    /// Its place in the call.
    pub(in crate::queues) index: u32,
    pub(in crate::queues) message: Message,
    /// All queues it goes to; the shard takes its own.
    pub(in crate::queues) to: Routed,
    /// Under which its body is known in each of them, if it is worth writing once.
    pub(in crate::queues) share: Option<ShareKey>,
}

impl Item {
    /// A message for all of these queues; clone it for further shards.
    pub(in crate::queues) fn new(index: u32, message: Message, to: Routed) -> Item {
        let worth = to.queues().len() > 1 && message.body.len() >= SHARED_BYTES_MIN;
        Item { index, message, to, share: worth.then(ShareKey::new) }
    }
}

/// A queue whose log was claimed.
pub(in crate::queues) struct Attached {
    pub(in crate::queues) handle: QueueHandle,
    pub(in crate::queues) epoch: Epoch,
    /// Where the log starts.
    pub(in crate::queues) start: u64,
    /// The next offset of the log.
    pub(in crate::queues) next: u64,
    /// Whether it outlives a restart.
    pub(in crate::queues) durable: bool,
    /// Whether each of its messages does.
    pub(in crate::queues) always_durable: bool,
    /// Who gets its messages, and how often they may fail.
    pub(in crate::queues) consuming: Consuming,
    pub(in crate::queues) acks: AckState,
    /// Where its dead letters go.
    pub(in crate::queues) dead_letter: Option<Arc<DeadLetterTo>>,
    /// What is asked of it.
    pub(in crate::queues) settings: QueueSettings,
    /// Bytes of bodies that are available; counted only where there is a limit of them.
    pub(in crate::queues) ready_bytes: u64,
    /// Its messages are kept back, for as many milliseconds at least.
    pub(in crate::queues) lane: Option<u64>,
    /// Its messages are those of a topic's partition.
    pub(in crate::queues) source: Option<Arc<Source>>,
}

/// A level whose log was claimed, of a queue that was attached before.
pub(in crate::queues) struct AttachedLevel {
    pub(in crate::queues) queue: QueueHandle,
    pub(in crate::queues) priority: u8,
    /// What the level's log is read and appended under.
    pub(in crate::queues) handle: QueueHandle,
    pub(in crate::queues) epoch: Epoch,
    /// Where the log starts.
    pub(in crate::queues) start: u64,
    /// The next offset of the log.
    pub(in crate::queues) next: u64,
    pub(in crate::queues) acks: AckState,
    /// As [`Attached::ready_bytes`].
    pub(in crate::queues) ready_bytes: u64,
    /// As [`Attached::source`].
    pub(in crate::queues) source: Option<Arc<Source>>,
}

/// What may change of a queue while it is there.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::queues) struct Configured {
    pub(in crate::queues) consuming: Consuming,
    pub(in crate::queues) dead_letter: Option<Arc<DeadLetterTo>>,
    pub(in crate::queues) settings: QueueSettings,
}

/// A log that nobody uses any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queues) struct Released {
    pub(in crate::queues) log: LogId,
    pub(in crate::queues) epoch: Epoch,
    pub(in crate::queues) next: u64,
}

/// Why a queue's shard refused.
#[derive(Debug, Clone)]
pub(in crate::queues) enum Refused {
    /// The queue is not here (any more).
    Gone,
    /// Somebody has it to himself, or wants to and others are there.
    Exclusive,
    /// It delivers to one consumer at a time, and only to consumers.
    SingleActive,
    /// It has consumers.
    InUse,
    /// It has messages.
    NotEmpty,
    /// The queue takes no more messages.
    Full(QueueHandle),
    /// The shard has stopped working.
    Storage(StorageError),
}

pub(in crate::queues) type Failed = Vec<(u32, QueueError)>;
pub(in crate::queues) type GetReply = oneshot::Sender<Result<Option<(Delivery, u64)>, Refused>>;

/// A shard's mailbox. Queues are named by handle, not by log: a log may serve another queue by the time the message
/// is read.
pub(in crate::queues) enum ShardMessage {
    /// Takes over a queue.
    Attach(Box<Attached>),
    /// Takes over a level of a queue.
    AttachLevel(Box<AttachedLevel>),
    /// Puts messages into queues; answers with those that failed.
    Publish { items: Vec<Item>, reply: oneshot::Sender<Failed> },
    /// Adds a consumer; answers with its number.
    Consume {
        queue: QueueHandle,
        session: u64,
        new: NewConsumer,
        sink: DeliverySink,
        reply: oneshot::Sender<Result<u32, Refused>>,
    },
    /// Adds a consumer of a stream.
    ConsumeStream {
        queue: QueueHandle,
        session: u64,
        new: NewConsumer,
        from: Box<StreamFrom>,
        sink: DeliverySink,
        reply: oneshot::Sender<Result<u32, Refused>>,
    },
    /// Removes a consumer; answers whether it was the queue's last.
    Cancel { queue: QueueHandle, session: u64, consumer: u32, reply: oneshot::Sender<bool> },
    /// Grants a consumer more.
    Credit { queue: QueueHandle, consumer: u32, more: u32 },
    /// Settles deliveries.
    Settle { queue: QueueHandle, session: u64, what: Vec<(Offset, Settle)> },
    /// Answers once what was settled so far is durable, as far as that is promised.
    Barrier { reply: Reply },
    /// Takes one message; if it is unsettled for too long, `told` hears of it.
    Get { queue: QueueHandle, session: u64, no_ack: bool, told: Option<DeliverySink>, reply: GetReply },
    /// Is done with everything available; answers how much that was, when it is durable.
    Purge { queue: QueueHandle, reply: oneshot::Sender<Result<u64, Refused>> },
    /// Checks and stops serving the queue; answers how many messages are ready. `idle`: only if it has been unused for as
    /// long as it may be.
    Close { queue: QueueHandle, only_if: DeleteIf, idle: bool, reply: oneshot::Sender<Result<u64, Refused>> },
    /// Goes on serving a queue that was closed.
    Reopen { queue: QueueHandle },
    /// Has a queue go by other settings; answers when it does.
    Configure { queue: QueueHandle, configured: Box<Configured>, reply: oneshot::Sender<()> },
    /// Lets go of a queue; answers with its own log and those of its levels when nothing is in flight any more.
    Detach { queue: QueueHandle, reply: oneshot::Sender<Vec<Released>> },
    /// What is in the queue; `declared`: asked by a declaration, which is a use of it.
    Stat { queue: QueueHandle, declared: bool, reply: oneshot::Sender<Result<QueueStat, Refused>> },
    /// What is in each queue.
    StatAll { reply: oneshot::Sender<Vec<(LogId, QueueStat)>> },
    /// Seals a part of a joint commit and holds what it touches until it is with the store.
    Prepare(Box<Prepare>),
    /// Messages that were due and that a queue refused are due again in a while.
    Again { queue: QueueHandle, offsets: Vec<u64> },
    /// Ends a session; answers which queues lost their last consumer.
    EndSession { session: u64, reply: oneshot::Sender<Vec<QueueHandle>> },
}

/// Bytes a message without a payload is counted as.
pub(in crate::queues) const SMALL: usize = 256;

impl ShardMessage {
    /// Bytes it is counted as in the mailbox.
    pub(in crate::queues) fn bytes(&self) -> usize {
        match self {
            ShardMessage::Publish { items, .. } => {
                SMALL + items.iter().map(|item| item.message.bytes() + 128).sum::<usize>()
            }
            ShardMessage::Settle { what, .. } => SMALL + what.len() * size_of::<(Offset, Settle)>(),
            ShardMessage::Prepare(prepare) => prepare.bytes(),
            _ => SMALL,
        }
    }
}

/// Wakes a shard; kept by sinks without room.
pub(super) type ShardWaker = Arc<tokio::sync::Notify>;
