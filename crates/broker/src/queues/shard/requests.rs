//! Publish requests that wait for their runs.
//!
//! **Invariants.** A request is answered when all its parts are, with what failed of it, ascending. The room its
//! bytes take in the mailbox is given back with the answer: what is in flight counts as queued.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use ferrymq_runtime::BytePermit;
use tokio::sync::oneshot;

use super::message::Failed;
use super::queue::{OffsetHasher, Part};
use crate::queues::error::QueueError;

/// One publish request.
struct Request {
    missing: usize,
    failed: Failed,
    reply: oneshot::Sender<Failed>,
    _permit: BytePermit,
}

/// All publish requests of a shard.
#[derive(Default)]
pub(super) struct Requests {
    all: HashMap<u64, Request, BuildHasherDefault<OffsetHasher>>,
    last: u64,
}

impl Requests {
    /// The number of the request that is added next.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Adds a request of which this many parts are to be answered, and these messages have failed already.
    pub(super) fn add(
        &mut self,
        parts: usize,
        failed: Failed,
        reply: oneshot::Sender<Failed>,
        permit: BytePermit,
    ) {
        self.last += 1;
        let request = Request { missing: parts, failed, reply, _permit: permit };
        if parts == 0 {
            request.answer();
        } else {
            self.all.insert(self.last, request);
        }
    }

    pub(super) fn succeed(&mut self, part: Part) {
        self.settle(part.request, |_| {});
    }

    pub(super) fn fail(&mut self, part: Part, error: &QueueError) {
        self.settle(part.request, |failed| {
            failed.extend(part.messages.into_iter().map(|index| (index, error.clone())));
        });
    }

    fn settle(&mut self, request: u64, with: impl FnOnce(&mut Failed)) {
        let Some(waiting) = self.all.get_mut(&request) else { return };
        with(&mut waiting.failed);
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(request) = self.all.remove(&request)
        {
            request.answer();
        }
    }
}

impl Request {
    fn answer(mut self) {
        self.failed.sort_by_key(|(index, _)| *index);
        self.failed.dedup_by_key(|(index, _)| *index);
        // A client that went away needs no answer.
        let _ = self.reply.send(self.failed);
    }
}
