//! What the broker adds to a delivery: where in its topic the message lies.
//!
//! **Invariant.** These headers are the broker's. They are told anew at each delivery, and a message that is published
//! with them (because it was consumed before) is stored without them.
//!
//! Deliberately absent: whether a queue has another name than its topic; who asks for a message says so by naming the topic.

use ferrymq_amqp_codec::table::Entry;

use crate::properties::put_entry;

/// The offset of the message in its partition.
pub const OFFSET: &str = "x-stream-offset";
/// The partition it lies in; told where there are several.
pub const PARTITION: &str = "x-kafka-partition";

/// The topic it lies in; told where that is not the queue's own name.
pub const TOPIC: &str = "x-kafka-topic";

/// Where a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The offset in its partition.
    pub offset: u64,
    /// The partition, if there are several.
    pub partition: Option<u32>,
    /// The topic, if it is to be told.
    pub topic: Option<&'a str>,
}

/// Whether a header of this name is the broker's own.
pub(crate) fn is_place(name: &[u8]) -> bool {
    [OFFSET, PARTITION, TOPIC].iter().any(|known| known.as_bytes() == name)
}

/// Whether an entry is the client's.
pub(crate) fn is_clients(entry: &Entry<'_>) -> bool {
    !is_place(entry.name())
}

impl Place<'_> {
    /// Appends it to the entries of a table.
    pub(crate) fn put(self, table: &mut Vec<u8>) {
        // Offsets stay below 2^63 in the record format.
        put_entry(table, OFFSET.as_bytes(), b'l', &self.offset.to_be_bytes());
        if let Some(partition) = self.partition {
            put_entry(table, PARTITION.as_bytes(), b'l', &u64::from(partition).to_be_bytes());
        }
        if let Some(topic) = self.topic {
            put_entry(table, TOPIC.as_bytes(), b'S', topic.as_bytes());
        }
    }
}
