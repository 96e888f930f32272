//! Queues: exchanges that route, queues that are logs with an ack subscription, consumers with credit.
//!
//! ```text
//!  door ── route (a look at the topology) ── publish ──▶ shard ── commit ──▶ durable ──▶ confirm
//!                                                          │                   │
//!  session ◀── Deliver ◀── sink (bounded in bytes) ◀── dispatch ◀── ready ◀────┘
//!     └─────── settle / credit ──────────────────────────▶ ack machine ── trims, deltas ──▶ next commit
//! ```
//! Reading order: [`types`] and [`args`] (what goes in and out), [`error`], [`handle`] (everything a door
//! calls), [`exchange`] (pure routing), `topology` (which exchanges, queues and bindings there are),
//! [`ack`] (who has what of a queue: the pure ack machine), `envelope` (a message as a record), then the
//! shard that owns queues. `docs/adr/0006-queues.md` says why it is so.
//!
//! **How a door uses it.** One [`Session`] per connection and one [`deliveries`] channel per channel or
//! connection. `route` once per exchange and routing key and keep the answer while [`Queues::generation`]
//! stays; `publish` the messages of one read together, and confirm what the returned future says.
//! Deliveries name their consumer by the door's token; `settle` wants the queue and the offset.
//!
//! **Invariants.**
//! - A persistent message in a durable queue is confirmed, and delivered, only once it is durable.
//! - A message is delivered in the order of the queue, a returned one at its old place, lowest first.
//! - Requests of one caller to one queue take effect in the order of the calls, as soon as the call returns.
//! - What a session had and did not settle is available again, marked redelivered, when the session ends.
//! - After a restart, what was not durably settled is there again; what may have been delivered before it is
//!   marked redelivered.
//!
//! - A message whose time is over, or that is too many, leaves from the head of its queue; see
//!   `docs/adr/0007-time-and-length-in-queues.md`.
//! - A stream is a topic; see `docs/adr/0011-across-the-doors.md`.
//! - A message that an exchange keeps back is durable before it is confirmed, and goes on once, when it is due; see
//!   `docs/adr/0012-delayed-messages.md`.
//! - A joint commit happens whole or not at all, a dead letter's move among them; see
//!   `docs/adr/0008-joint-commits.md`.
//!
//! - Where messages have priorities the highest goes first, in the order of one priority; see
//!   `docs/adr/0009-priorities.md`.
//! - What a policy says holds for its queues and exchanges at once; see `docs/adr/0010-policies-and-virtual-hosts.md`.
//!
//! - What is relayed from outside is published once, with the note that it was; see `docs/adr/0016-publish-in-a-transaction.md`.
//!
//! Deliberately absent: any wire protocol.

pub mod ack;
mod acked;
mod admin;
pub mod args;
mod bind;
mod changes;
mod consuming;
pub mod dead_letters;
pub mod declare;
mod default_type;
mod delays;
mod envelope;
pub mod error;
pub mod exchange;
pub mod handle;
mod idle;
pub mod inspect;
mod joint;
mod logs;
mod measure;
pub mod open;
pub mod permits;
pub mod policy;
mod priorities;
mod records;
mod relayed;
pub mod session;
pub mod settings;
mod shard;
pub mod sink;
pub mod stored;
pub mod streams;
pub mod tally;
mod topology;
pub mod types;
mod varint;
pub mod vhosts;

pub use acked::AckedAt;
pub use args::{Arguments, Value, Width};
pub use dead_letters::{DeadLetterTo, DeadLetters, Death, DeathReason, LetterWriter, RouteDue, RouteLetter};
pub use error::{Entity, Property, QueueError, Unfit};
pub use exchange::{HashProperty, Headers, NoHeaders};
pub use handle::{PendingPublish, Published, QueueOptions, Queues};
pub use inspect::{AppliedPolicies, BindingInfo, ExchangeInfo, QueueInfo};
pub use permits::{Permit, Permits};
pub use policy::{ApplyTo, BadPolicy, PolicyError, PolicySort, PolicySpec};
pub use relayed::{RelayLog, Relayed};
pub use session::Session;
pub use settings::{Overflow, QueueSettings, QueueType, Wrong};
pub use sink::{Deliveries, DeliverySink, Event, deliveries};
pub use streams::{StreamFilter, StreamFrom, StreamPlace, StreamRecord, StreamStart, Topics, Translate};
pub use tally::{DeadLettering, Tally};
pub use types::{
    BindingSpec, Consumer, Credit, Declared, Delay, DeleteIf, Delivery, ExchangeKind, ExchangeSpec, Got,
    Message, NewConsumer, Publish, QueueHandle, QueueSpec, QueueStat, Routed, Settle, VhostSpec,
};
pub use vhosts::VhostEnd;
