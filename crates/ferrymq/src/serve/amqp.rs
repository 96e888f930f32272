//! Where AMQP clients connect, and what the door tells them it is.
//!
//! **Invariant.** Nothing is listened on that other machines can reach unless that was asked for; `guest` is
//! let in from this machine only, whatever is listened on.
//!
//! Deliberately absent: users, TLS, several listeners.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ferrymq_amqp_server::{AmqpConfig, AmqpServer, Context, Counters};
use ferrymq_broker::queues::{QueueType, Queues};
use ferrymq_kafka_server::Endpoint;
use ferrymq_runtime::{ByteBudget, Clock, Rng, TaskKind, Tasks};
use ferrymq_storage::{Action, Op};
use ferrymq_types::{Epoch, LogId, Offset, OwnerId};

use super::listeners::{bind_one, can_be_reached, is_here, parse_endpoint};
use super::store::Store;

/// Where the door listens that was told nothing.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:5672";

/// How often to look whether the store has room.
const SPACE_LOOK: Duration = Duration::from_millis(250);

/// The settings with nothing left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpSettings {
    /// `None`: nowhere.
    pub(crate) listen: Option<Endpoint>,
    pub(crate) product: String,
    pub(crate) version: String,
    /// `None`: consumers may take for ever.
    pub(crate) consumer_timeout_ms: Option<u64>,
    pub(crate) default_queue_type: QueueType,
}

/// What the user said of them.
pub(crate) struct Said {
    pub(crate) listen: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) consumer_timeout_ms: Option<u64>,
    pub(crate) default_queue_type: Option<String>,
}

/// Checks the settings; what is wrong goes to `problems`.
pub(crate) fn check(said: Said, allow_remote: bool, problems: &mut Vec<String>) -> AmqpSettings {
    let listen = match said.listen.as_deref().unwrap_or(DEFAULT_ENDPOINT) {
        "off" => None,
        text => {
            let endpoint = parse_endpoint(text);
            match &endpoint {
                None => problems.push(format!("amqp-listen {text:?} is neither HOST:PORT nor off")),
                Some(listen) if !allow_remote && !is_here(&listen.host) => {
                    problems.push(can_be_reached("amqp-listen", listen));
                }
                Some(_) => {}
            }
            endpoint
        }
    };
    let kind = said.default_queue_type.as_deref().map(|text| (text, QueueType::parse(text)));
    if let Some((text, None)) = kind {
        problems.push(format!("default-queue-type {text:?} is not one of classic, quorum, stream"));
    }
    let defaults = AmqpConfig::default();
    AmqpSettings {
        listen,
        product: said.product.unwrap_or(defaults.product),
        version: said.version.unwrap_or(defaults.version),
        consumer_timeout_ms: said.consumer_timeout_ms,
        default_queue_type: kind.and_then(|(_, kind)| kind).unwrap_or_default(),
    }
}

/// A running door.
pub(crate) struct Door {
    pub(crate) server: AmqpServer,
    pub(crate) context: Arc<Context>,
}

/// Opens the door, unless it is off or there is nothing behind it.
pub(crate) async fn start(
    settings: &AmqpSettings,
    allow_remote: bool,
    queues: Option<&Arc<Queues>>,
    budget: ByteBudget,
    clock: &Clock,
    rng: &Rng,
    tasks: &Tasks,
) -> anyhow::Result<Option<Door>> {
    let (Some(listen), Some(queues)) = (&settings.listen, queues) else { return Ok(None) };
    let socket = bind_one("amqp-listen", listen, allow_remote).await.with_context(|| {
        format!("could not listen on {listen} for AMQP clients; --amqp-listen off does without")
    })?;
    let config = AmqpConfig {
        product: settings.product.clone(),
        version: settings.version.clone(),
        ..AmqpConfig::default()
    };
    let context = Context::new(queues.clone(), config, budget, clock.clone(), rng.clone());
    let server = AmqpServer::start(socket, &context, tasks)?;
    Ok(Some(Door { server, context }))
}

/// Tells the door whether the store has room, for as long as the door is open.
async fn watch_space(store: Store, context: Arc<Context>, stopping: impl Future<Output = ()>) {
    let mut stopping = pin!(stopping);
    loop {
        tokio::select! {
            () = &mut stopping => return,
            () = context.clock.sleep(SPACE_LOOK) => {}
        }
        if context.holds_publishers() {
            // A store looks at its space when it is given something to do, and those who would are held back. There
            // is no such log: nothing is written.
            let op = Op {
                log: LogId(u64::MAX),
                epoch: Epoch(0),
                owner: OwnerId(0),
                action: Action::Trim(Offset(0)),
            };
            let outcome = store.logs().commit(vec![vec![op]]).await;
            tracing::trace!(?outcome, "the store looked at its space");
        }
        context.store_is_full(store.health().full);
    }
}

impl Door {
    /// Has publishers held back while `store` has no room.
    pub(crate) fn watch(&self, store: &Store, tasks: &Tasks) {
        let watching = watch_space(store.clone(), self.context.clone(), tasks.stopping());
        tasks.spawn(TaskKind::Background, "space for AMQP messages", watching);
    }

    /// Says where clients connect.
    pub(crate) fn announce(&self) {
        let address = self.server.address();
        tracing::info!(listen = %address, "AMQP 0-9-1 clients connect here, as guest");
        if !address.ip().to_canonical().is_loopback() {
            tracing::warn!(listen = %address, "other machines can connect, but guest is let in from this one only");
        }
    }

    /// Connections and channels open now.
    pub(crate) fn open_now(&self) -> (u64, u64) {
        let Counters { connections_open, channels_open, .. } = &self.context.counters;
        (connections_open.load(Ordering::Relaxed), channels_open.load(Ordering::Relaxed))
    }

    /// Name, type, help and value of the door's metrics.
    pub(crate) fn samples(&self) -> [(&'static str, &'static str, &'static str, u64); 13] {
        let counters = &self.context.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (connections, _) = self.open_now();
        let errors = read(&counters.connection_errors_total);
        [
            (
                "amqp_connections_total",
                "counter",
                "AMQP connections accepted",
                read(&counters.connections_total),
            ),
            ("amqp_connections", "gauge", "AMQP connections open", connections),
            (
                "amqp_connection_errors_total",
                "counter",
                "AMQP connections ended for a mistake or refused",
                errors,
            ),
            ("amqp_channels_total", "counter", "AMQP channels opened", read(&counters.channels_total)),
            (
                "amqp_channel_errors_total",
                "counter",
                "AMQP channels closed for a mistake",
                read(&counters.channel_errors_total),
            ),
            (
                "amqp_received_bytes_total",
                "counter",
                "Bytes from AMQP clients",
                read(&counters.bytes_in_total),
            ),
            ("amqp_sent_bytes_total", "counter", "Bytes to AMQP clients", read(&counters.bytes_out_total)),
            ("amqp_published_total", "counter", "Messages published", read(&counters.published_total)),
            ("amqp_confirmed_total", "counter", "Messages confirmed", read(&counters.confirmed_total)),
            ("amqp_nacked_total", "counter", "Messages refused with a nack", read(&counters.nacked_total)),
            ("amqp_unroutable_total", "counter", "Messages that no queue got", counters.unroutable()),
            ("amqp_delivered_total", "counter", "Messages delivered", counters.delivered()),
            ("amqp_settled_total", "counter", "Deliveries settled by clients", counters.settled()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(listen: Option<&str>, allow_remote: bool) -> (AmqpSettings, Vec<String>) {
        let mut problems = Vec::new();
        let said = Said {
            listen: listen.map(str::to_owned),
            product: None,
            version: None,
            consumer_timeout_ms: None,
            default_queue_type: None,
        };
        (check(said, allow_remote, &mut problems), problems)
    }

    #[test]
    fn where_it_listens() {
        let (settings, problems) = checked(None, false);
        assert_eq!(settings.listen.unwrap().to_string(), "127.0.0.1:5672");
        assert_eq!((settings.product.as_str(), problems.len()), ("RabbitMQ", 0));
        assert_eq!(checked(Some("off"), false).0.listen, None);
        assert!(checked(Some("5672"), false).1[0].contains("neither HOST:PORT nor off"));
        assert!(checked(Some("0.0.0.0:5672"), false).1[0].contains("--allow-remote"));
        assert_eq!(checked(Some("[::]:5672"), true).1, Vec::<String>::new());
    }
}
