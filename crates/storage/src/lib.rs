//! The storage contract: what an engine must do, and nothing of what is done with it.
//!
//! [`LogStore`] keeps logs, [`MetaStore`] keeps small records with compare-and-set. The broker is written
//! against these two traits only; every engine passes the same `conformance` suite
//! (feature of that name) or is not shipped.
//! `docs/adr/0002-storage-contract.md` walks each operation through the local engine, one SQL statement and
//! the object layout.
//!
//! **Invariants.** No wire protocol, no topic, no queue, no group is known here. Bytes of a batch are opaque.
//!
//! Deliberately absent: watches and leases (a lease says when to try a takeover; the fence says whether it
//! worked), reads by key, deletion of single records other than by [`Action::Discard`].

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod error;
pub mod log;
pub mod log_meta;
pub mod memory;
pub mod memory_meta;
pub mod meta;
pub mod validate;

pub use error::{ErrorKind, StorageError};
pub use log::{
    Action, Append, Batch, BatchHead, Claim, Find, Group, LogStore, Op, Outcome, Read, Run, SHARED_BYTES_MIN,
    ShareKey, SharedPart, Space, Stat,
};
pub use log_meta::LogMeta;
pub use memory::MemoryStore;
pub use meta::{Compare, Entry, Listing, MetaStore, Put, Revision};

/// A boxed future that owns what it needs.
pub type Pending<T> = futures_util::future::BoxFuture<'static, T>;
