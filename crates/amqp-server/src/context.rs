//! What every connection can reach.
//!
//! **Invariant.** Shared by all connections, changed by none, but for counters.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ferrymq_broker::queues::Queues;
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
    /// Channels closed for a mistake of the client.
    pub channel_errors_total: AtomicU64,
    /// Bytes read.
    pub bytes_in_total: AtomicU64,
    /// Bytes written.
    pub bytes_out_total: AtomicU64,
    /// Messages published to an exchange that is there.
    pub published_total: AtomicU64,
    /// Messages confirmed.
    pub confirmed_total: AtomicU64,
    /// Messages refused with a nack.
    pub nacked_total: AtomicU64,
    /// Messages that no queue got.
    pub unroutable_total: AtomicU64,
    /// Messages sent to consumers or as the answer to a get.
    pub delivered_total: AtomicU64,
    /// Deliveries settled by the client: acknowledged, refused or requeued.
    pub settled_total: AtomicU64,
}
