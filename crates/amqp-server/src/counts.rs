//! How often a message was returned, as RabbitMQ tells it in the headers of a delivery.
//!
//! Queues that count (quorum queues) tell `x-acquired-count`, how often the message was delivered before and came
//! back, and `x-delivery-count`, how often of that because its consumer failed on it, where that ever happened.
//!
//! **Invariants.** What was never returned goes out byte for byte as it was published. Headers of these names that
//! came with the message are replaced. Where the two do not fit, as a publisher's headers may be as large as a
//! frame, the message goes without rather than not at all.
//!
//! Deliberately absent: the order of names, by which RabbitMQ sorts the publisher's headers then.

use bytes::BytesMut;
use ferrymq_amqp_codec::{EncodeError, Properties, Table, TableBuilder, ValueRef};
use ferrymq_broker::queues::Delivery;

use crate::deliver::properties_of;

const ACQUIRED: &[u8] = b"x-acquired-count";
const FAILED: &[u8] = b"x-delivery-count";
/// What a frame with a content header holds beside the properties: eight bytes of frame, twelve of header.
const HEADER_BYTES: usize = 20;

/// The bytes of a delivery's properties with its counts, if there are any to tell.
pub(crate) fn told(delivery: &Delivery, frame_max: u32) -> Option<BytesMut> {
    let failed = delivery.failed.filter(|_| delivery.returned > 0)?;
    let bytes = with_counts(properties_of(&delivery.message), delivery.returned, failed).ok()?;
    let fits = frame_max == 0 || bytes.len() + HEADER_BYTES <= frame_max as usize;
    fits.then_some(bytes)
}

/// What goes out: the properties with counts, or those that were published.
pub(crate) fn properties<'a>(delivery: &'a Delivery, told: Option<&'a BytesMut>) -> Properties<'a> {
    let with_counts = told.and_then(|bytes| Properties::parse(bytes).ok());
    with_counts.unwrap_or_else(|| properties_of(&delivery.message))
}

fn with_counts(published: Properties<'_>, returned: u16, failed: u16) -> Result<BytesMut, EncodeError> {
    let mut headers = TableBuilder::new();
    headers.push(ACQUIRED, ValueRef::I64(returned.into()))?;
    if failed > 0 {
        headers.push(FAILED, ValueRef::I64(failed.into()))?;
    }
    for entry in published.headers().unwrap_or(Table::EMPTY) {
        if entry.name() != ACQUIRED && entry.name() != FAILED {
            headers.push_entry(entry)?;
        }
    }
    let mut bytes = BytesMut::new();
    let mut properties = published.decode();
    properties.headers = Some(headers.as_table());
    properties.encode(&mut bytes)?;
    Ok(bytes)
}
