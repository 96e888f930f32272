//! Makes written records visible to readers, and keeps the newest batches in memory.
//!
//! **Invariants.** Called only once the records are durable for their class. What one group does to one log is seen
//! by readers at once.
//!
//! Deliberately absent: writing.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::core::{Core, Item};
use crate::counters::Counters;
use crate::format::{Kind, Record};
use crate::log::{Cached, LogState};
use crate::shared::Log;

impl Core {
    /// Publishes those of `items` whose flag is `early`. They are sorted by log.
    pub(crate) fn publish(&mut self, items: &[Item], early: bool) {
        for run in items.chunk_by(|one, other| one.record.header.log == other.record.header.log) {
            if run.iter().any(|item| item.early == early) {
                self.publish_run(run, early);
            }
        }
        self.evict();
    }

    fn publish_run(&mut self, run: &[Item], early: bool) {
        let Some(id) = run.first().map(|item| item.record.header.log) else { return };
        let log = self.shared.logs.read().get(&id).cloned();
        let log = match log {
            Some(log) => log,
            None => {
                let log = Arc::new(Log { id, state: RwLock::new(LogState::default()) });
                self.shared.logs.write().insert(id, log.clone());
                log
            }
        };
        for group in run.chunk_by(|one, other| one.group == other.group) {
            if group.iter().any(|item| item.early == early) {
                self.publish_group(&log, group);
            }
        }
    }

    /// Publishes what one group does to one log under one lock: a reader sees all of it or nothing.
    fn publish_group(&mut self, log: &Log, items: &[Item]) {
        for item in items {
            self.prewarm(log, &item.record);
        }
        let mut state = log.state.write();
        for Item { record, kind, .. } in items {
            let Some(data) = self.active(*kind).map(|active| active.data.clone()) else { continue };
            if record.header.is_batch() {
                let bytes = record.payload.len() as u64;
                Counters::add(&self.shared.counters.bytes_appended, bytes);
                data.put(bytes);
            }
            state.apply(&record.header, data.id, &record.payload, &*self.shared);
            if record.header.kind == Kind::Append {
                self.keep_in_memory(&mut state, record);
            }
        }
        if state.deleted {
            drop(state);
            self.shared.logs.write().remove(&log.id);
        }
    }

    /// Loads what applying `record` will need, so that no lock is held while the device is waited for.
    fn prewarm(&self, log: &Log, record: &Record) {
        let files = log.state.read().touched_by(&record.header, &record.payload);
        for file in files {
            if let Err(error) = self.shared.load_entries(log.id, file) {
                tracing::warn!(log = log.id, file = file.0, %error, "cannot load an index");
            }
        }
    }

    fn keep_in_memory(&mut self, state: &mut LogState, record: &Record) {
        let bytes: &Bytes = &record.payload;
        if bytes.len() > self.shared.options.tail_cache_bytes {
            // What cannot be kept breaks the chain: everything before it must go too.
            state.tail.clear();
            return;
        }
        let header = &record.header;
        let next = header.base + u64::from(header.span);
        state.tail.push_back(Cached { base: header.base, next, bytes: bytes.clone() });
        self.tail_order.push_back((header.log, header.base, bytes.len()));
        self.tail_bytes += bytes.len();
    }

    /// Drops the oldest batches from memory until the budget holds.
    fn evict(&mut self) {
        while self.tail_bytes > self.shared.options.tail_cache_bytes {
            let Some((log, base, bytes)) = self.tail_order.pop_front() else { break };
            self.tail_bytes -= bytes;
            let Some(log) = self.shared.logs.read().get(&log).cloned() else { continue };
            let mut state = log.state.write();
            while state.tail.front().is_some_and(|cached| cached.base <= base) {
                state.tail.pop_front();
            }
        }
    }
}
