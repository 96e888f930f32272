//! What every connection can reach.
//!
//! **Invariant.** Shared by all connections, changed by none, but for counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferrymq_broker::queues::{Queues, Settle};
use ferrymq_runtime::{ByteBudget, Clock, Rng};
use ferrymq_types::limits::{AMQP_CHANNELS_MAX, AMQP_FRAME_BYTES_MAX, AMQP_MESSAGE_BYTES_MAX};

use crate::alarm::Alarm;
use crate::replies::ReplyTargets;

/// How the door presents itself. The defaults are RabbitMQ's.
#[derive(Debug, Clone)]
pub struct AmqpConfig {
    /// `product` of the server's properties. Clients branch on it (kombu, the suites of amqp091-go and of the
    /// Java client), so the default is `RabbitMQ`; what it really is stands under `platform`.
    pub product: String,
    /// `version` of the server's properties: the RabbitMQ whose behaviour is promised.
    pub version: String,
    /// `platform` of the server's properties: who we are.
    pub platform: String,
    /// Channels a connection may have open.
    pub channel_max: u16,
    /// Largest frame in bytes, head and end included. Clients may ask for as little as 4,096.
    pub frame_max: u32,
    /// Seconds between signs of life that are proposed; the client decides. 0 is none.
    pub heartbeat: u16,
    /// Largest body of a message, in bytes.
    pub message_bytes_max: u64,
    /// How long a client may take from connecting to `connection.open`.
    pub handshake_patience: Duration,
    /// How long a client may read nothing while there is something for it, or hold back the rest of a message
    /// while others wait for room.
    pub patience: Duration,
}

impl Default for AmqpConfig {
    fn default() -> Self {
        AmqpConfig {
            product: "RabbitMQ".to_owned(),
            version: "4.3.0".to_owned(),
            platform: concat!("FerryMQ ", env!("CARGO_PKG_VERSION")).to_owned(),
            channel_max: AMQP_CHANNELS_MAX,
            frame_max: AMQP_FRAME_BYTES_MAX,
            heartbeat: 60,
            message_bytes_max: AMQP_MESSAGE_BYTES_MAX,
            handshake_patience: Duration::from_secs(10),
            patience: Duration::from_secs(60),
        }
    }
}

/// Everything a connection works with.
pub struct Context {
    /// The queues.
    pub queues: Arc<Queues>,
    /// How the door presents itself.
    pub config: AmqpConfig,
    /// Bytes of large messages that are being received, and of direct replies that wait, in all connections.
    pub budget: ByteBudget,
    /// What happened so far.
    pub counters: Counters,
    /// Time.
    pub clock: Clock,
    /// For names that must not be guessed or met twice.
    pub rng: Rng,
    /// Whether publishers are held back.
    pub(crate) alarm: Alarm,
    /// Who waits for direct replies.
    pub(crate) replies: Arc<ReplyTargets>,
}

impl Context {
    /// A door onto `queues`.
    #[must_use]
    pub fn new(
        queues: Arc<Queues>,
        config: AmqpConfig,
        budget: ByteBudget,
        clock: Clock,
        rng: Rng,
    ) -> Arc<Context> {
        let (counters, replies) = (Counters::default(), Arc::default());
        let alarm = Alarm::default();
        Arc::new(Context { queues, config, budget, counters, clock, rng, alarm, replies })
    }

    /// Tells whether the store has no room for messages. While it has none, publishers are held back.
    pub fn store_is_full(&self, full: bool) {
        self.alarm.set(full);
    }

    /// Whether publishers are held back: since [`Context::store_is_full`] said so, or since the store refused a
    /// message for want of room.
    #[must_use]
    pub fn holds_publishers(&self) -> bool {
        self.alarm.is_on()
    }
}

/// Counters of the door. All only rise, but for the gauges.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections_total: AtomicU64,
    /// Connections open now (gauge).
    pub connections_open: AtomicU64,
    /// Connections ended for a mistake of the client.
    pub connection_errors_total: AtomicU64,
    /// Channels opened.
    pub channels_total: AtomicU64,
    /// Channels open now (gauge).
    pub channels_open: AtomicU64,
    /// Channels closed for a mistake of the client.
    pub channel_errors_total: AtomicU64,
    /// Bytes read.
    pub bytes_in_total: AtomicU64,
    /// Bytes written.
    pub bytes_out_total: AtomicU64,
    /// Messages published to an exchange that is there.
    pub published_total: AtomicU64,
    /// Those of them that are to be confirmed.
    pub published_confirm_total: AtomicU64,
    /// Messages confirmed.
    pub confirmed_total: AtomicU64,
    /// Messages refused with a nack.
    pub nacked_total: AtomicU64,
    /// Messages that no queue got and that were returned.
    pub returned_total: AtomicU64,
    /// Messages that no queue got and that nobody wanted back.
    pub dropped_total: AtomicU64,
    /// Queues that messages went to, each counted for each message; of transactions, those that were committed.
    pub routed_total: AtomicU64,
    /// Channels open now that something was published on (gauge).
    pub publishers_open: AtomicU64,
    /// Messages sent to consumers that acknowledge.
    pub consumed_total: AtomicU64,
    /// Messages sent to consumers that do not.
    pub consumed_auto_total: AtomicU64,
    /// Messages sent as the answer to a get, to be acknowledged.
    pub got_total: AtomicU64,
    /// Messages sent as the answer to a get, done with by that.
    pub got_auto_total: AtomicU64,
    /// Gets of queues that had nothing.
    pub got_nothing_total: AtomicU64,
    /// Messages sent that may have been sent before.
    pub redelivered_total: AtomicU64,
    /// Deliveries acknowledged by the client.
    pub acknowledged_total: AtomicU64,
    /// Deliveries that the client refused or gave back.
    pub rejected_total: AtomicU64,
}

impl Counters {
    /// Messages sent to consumers or as the answer to a get.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        let all = [&self.consumed_total, &self.consumed_auto_total, &self.got_total, &self.got_auto_total];
        all.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Messages that no queue got.
    #[must_use]
    pub fn unroutable(&self) -> u64 {
        self.returned_total.load(Ordering::Relaxed) + self.dropped_total.load(Ordering::Relaxed)
    }

    /// Deliveries settled by the client: acknowledged, refused or given back.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.acknowledged_total.load(Ordering::Relaxed) + self.rejected_total.load(Ordering::Relaxed)
    }

    /// A message is sent.
    #[inline]
    pub(crate) fn count_delivery(&self, by: &AtomicU64, redelivered: bool) {
        by.fetch_add(1, Ordering::Relaxed);
        if redelivered {
            self.redelivered_total.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Deliveries are settled so.
    pub(crate) fn count_settled(&self, how: Settle, count: u64) {
        let by = if how == Settle::Ack { &self.acknowledged_total } else { &self.rejected_total };
        by.fetch_add(count, Ordering::Relaxed);
    }
}
