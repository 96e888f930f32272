//! What queues have stored, read as a start reads it: for those who try bytes that nobody wrote.
//!
//! **Invariant.** Bytes that are read are written the same and read again; none panic.
//!
//! Deliberately absent: records of acknowledgements ([`ack`](super::ack)), which are read on their own.

use bytes::Bytes;
use ferrymq_storage::{Entry, Put, Revision, StorageError};
use ferrymq_types::BatchBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::{self, Messages};
use super::policy::Policy;
use super::records::{
    BindingRecord, DelaysRecord, DeletingRecord, ExchangeRecord, PolicyRecord, QueueRecord, SettingsRecord,
    VhostRecord, put, put_queue, put_vhost, read,
};
use super::types::Message;

/// The kinds of records that [`rewrite_record`] knows.
pub const RECORD_KINDS: u8 = 8;

fn entry(value: &[u8]) -> Entry {
    Entry { key: "k".to_owned(), value: Bytes::copy_from_slice(value), revision: Revision(1) }
}

fn again<T: Serialize + DeserializeOwned>(value: &[u8]) -> Result<Put, StorageError> {
    put("k".to_owned(), read::<T>(&entry(value))?)
}

/// Reads a record of the topology, of a kind below [`RECORD_KINDS`], and writes it again; `None` if it is none.
#[must_use]
pub fn rewrite_record(kind: u8, value: &[u8]) -> Option<Bytes> {
    let put = match kind {
        0 => again::<SettingsRecord>(value),
        1 => read::<VhostRecord>(&entry(value)).and_then(|record| put_vhost("k".to_owned(), record)),
        2 => again::<ExchangeRecord>(value),
        3 => read::<QueueRecord>(&entry(value)).and_then(|record| put_queue("k".to_owned(), record)),
        4 => again::<BindingRecord>(value),
        5 => again::<DelaysRecord>(value),
        6 => again::<DeletingRecord>(value),
        7 => {
            let record: PolicyRecord = read(&entry(value)).ok()?;
            let vhost = record.vhost.clone();
            let policy = Policy::stored(record.spec()).ok()?;
            put("k".to_owned(), PolicyRecord::new(&vhost, &policy.spec))
        }
        _ => return None,
    };
    put.ok()?.value
}

/// Reads the messages of a stored batch, as far as they can be, and writes each again: what was read, and what is read of
/// what was written.
#[must_use]
pub fn rewrite_messages(batch: &[u8]) -> Vec<(Message, Option<Message>)> {
    let mut run = Bytes::copy_from_slice(batch);
    let Ok(mut messages) = Messages::split_from(&mut run) else { return Vec::new() };
    let (mut all, mut scratch) = (Vec::new(), Vec::new());
    while messages.offset() < messages.next() {
        let stamp = messages.stamp();
        let Ok(message) = messages.take() else { break };
        let now_ms = stamp.map_or(0, |stamp| stamp.enqueued_ms);
        let mut builder = BatchBuilder::new(now_ms);
        envelope::push(&mut builder, &message, now_ms, &mut scratch);
        let written = Messages::split_from(&mut builder.build()).and_then(|mut messages| messages.take());
        all.push((message, written.ok()));
    }
    all
}
