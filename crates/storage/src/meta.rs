//! [`MetaStore`]: small records with versions, for what must be agreed on rarely and read often.
//!
//! **Invariants.** A transaction is all or nothing and durable when it returns. A revision is a number that
//! rises with every transaction; an entry's revision is that of the transaction that last wrote it, so that
//! comparing revisions is comparing versions.
//!
//! Deliberately absent: watches (poll [`MetaStore::list`] with the last revision) and leases.

use bytes::Bytes;

use crate::{Pending, StorageError};

/// The number of a transaction; rises without gaps being promised. 0: before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// Keeps small records. Keys are UTF-8 paths such as `topics/orders`; values at most 1 MiB.
pub trait MetaStore: Send + Sync + 'static {
    /// The entry under `key`.
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>>;

    /// All entries whose key starts with `prefix` and that were written after `since`, and the keys deleted
    /// after it. `Revision(0)` lists everything that is there. Entries ascend by key.
    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>>;

    /// Checks all compares and then applies all puts, in one step.
    ///
    /// # Errors
    /// `Conflict` if a compare does not hold; then nothing changed.
    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>>;

    /// Says that `broker` is alive; returns the revision at which it said so. Others see it in a list of
    /// `brokers/`.
    fn heartbeat(&self, broker: u32, status: Bytes) -> Pending<Result<Revision, StorageError>>;
}

/// A record and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The transaction that wrote it.
    pub revision: Revision,
}

/// Part of the store as of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// The revision the listing is true at; pass it to the next call.
    pub revision: Revision,
    /// What is there and newer than asked.
    pub entries: Vec<Entry>,
    /// What was deleted since. Only as far back as the store remembers: if `complete` is false, list anew
    /// from `Revision(0)`.
    pub deleted: Vec<String>,
    /// Whether `deleted` is complete.
    pub complete: bool,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Whose revision to compare.
    pub key: String,
    /// `None`: the key must not exist. Otherwise it must exist at exactly this revision.
    pub revision: Option<Revision>,
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Which key.
    pub key: String,
    /// The new value; `None` deletes the key.
    pub value: Option<Bytes>,
}
