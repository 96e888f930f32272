//! A [`MetaStore`] in memory: the simplest thing that keeps the contract, and the oracle for the others.
//!
//! Deliberately absent: durability, forgetting of deletions.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Compare, Entry, ErrorKind, Listing, MetaStore, Pending, Put, Revision, StorageError};

/// Small records in memory.
#[derive(Debug, Default)]
pub struct MemoryMeta(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    revision: u64,
    /// Deleted keys stay, without a value.
    records: BTreeMap<String, (Revision, Option<Bytes>)>,
}

impl MemoryMeta {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryMeta {
        MemoryMeta::default()
    }
}

impl State {
    fn revision_of(&self, key: &str) -> Option<Revision> {
        self.records.get(key).filter(|(_, value)| value.is_some()).map(|(revision, _)| *revision)
    }

    fn txn(&mut self, compares: &[Compare], puts: Vec<Put>) -> Result<Revision, StorageError> {
        if let Some(failed) =
            compares.iter().find(|compare| self.revision_of(&compare.key) != compare.revision)
        {
            let text = format!("the record was changed by somebody else: {}", failed.key);
            return Err(StorageError::new(ErrorKind::Conflict, text));
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        for put in puts {
            self.records.insert(put.key, (revision, put.value));
        }
        Ok(revision)
    }
}

impl MetaStore for MemoryMeta {
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>> {
        let state = self.0.lock();
        let found = state.records.get(key).and_then(|(revision, value)| {
            value.clone().map(|value| Entry { key: key.to_owned(), value, revision: *revision })
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>> {
        let state = self.0.lock();
        let mut listing =
            Listing { revision: Revision(state.revision), complete: true, ..Listing::default() };
        let under = state.records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        for (key, (revision, value)) in under.filter(|(_, (revision, _))| *revision > since) {
            match value.clone() {
                Some(value) => {
                    listing.entries.push(Entry { key: key.clone(), value, revision: *revision });
                }
                None if since > Revision(0) => listing.deleted.push(key.clone()),
                None => {}
            }
        }
        Box::pin(std::future::ready(Ok(listing)))
    }

    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>> {
        let outcome = self.0.lock().txn(&compares, puts);
        Box::pin(std::future::ready(outcome))
    }

    fn heartbeat(&self, broker: u32, status: Bytes) -> Pending<Result<Revision, StorageError>> {
        self.txn(Vec::new(), vec![Put { key: format!("brokers/{broker}"), value: Some(status) }])
    }
}
