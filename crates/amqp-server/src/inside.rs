//! Messages that come from beside clients, checked and routed as a client's would be.
//!
//! **Invariant.** What a channel would be closed for is an error here, in the same words.
//!
//! Deliberately absent: direct replies (nobody waits for one here), returns, and who may publish where.

use bytes::Bytes;
use ferrymq_amqp_codec::Properties;
use ferrymq_broker::queues::{Message, Publish, Queues};

use crate::args::MessageView;
use crate::expiration;
use crate::failure::Failure;
use crate::publish::{as_delivered, carbon_copies};

/// A message from beside clients.
#[derive(Debug, Clone, Default)]
pub struct Inside {
    /// The virtual host.
    pub vhost: String,
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: Bytes,
    /// Properties as AMQP encodes them: flags and fields.
    pub properties: Bytes,
    /// The body.
    pub body: Bytes,
}

/// Where it goes now, and as what; it may be nowhere.
///
/// # Errors
/// The text with which RabbitMQ would close the channel.
pub fn route(queues: &Queues, message: Inside) -> Result<Publish, String> {
    checked(queues, message).map_err(|failure| failure.text)
}

fn checked(queues: &Queues, message: Inside) -> Result<Publish, Failure> {
    let Inside { vhost, exchange, routing_key, properties, body } = message;
    let parsed = Properties::parse(&properties)?;
    let headers = parsed.headers().unwrap_or_default();
    let ttl_ms = parsed.expiration().map(expiration::parse).transpose()?;
    let copies = [headers.get(b"CC"), headers.get(b"BCC")];
    let mut keys = vec![&routing_key[..]];
    keys.extend(carbon_copies(copies)?);
    let to = queues.route_all(&vhost, &exchange, &keys, &MessageView::new(parsed))?;
    drop(keys);
    let message = Message {
        exchange: Bytes::from(exchange),
        routing_key,
        body,
        persistent: parsed.delivery_mode() == Some(2),
        priority: parsed.priority(),
        ttl_ms,
        delay: None,
        properties: as_delivered(&properties, None)?,
    };
    Ok(Publish { message, to })
}
