//! Logs that turned out to be another broker's.
//!
//! **Invariant.** Each stays noted until who is to own it was looked up.
//!
//! Deliberately absent: the looking up (`broker::owning`).

use std::collections::BTreeSet;
use std::sync::Arc;

use ferrymq_types::LogId;
use parking_lot::Mutex;

use crate::cluster::View;

/// Logs that the store said are another's: whoever is to own them is asked before they are claimed again.
pub(crate) struct Lost {
    pub(crate) logs: Mutex<BTreeSet<LogId>>,
    view: Arc<View>,
}

impl Lost {
    pub(crate) fn new(view: Arc<View>) -> Arc<Lost> {
        Arc::new(Lost { logs: Mutex::default(), view })
    }

    pub(super) fn note(&self, log: LogId) {
        self.logs.lock().insert(log);
        self.view.missed();
    }
}
