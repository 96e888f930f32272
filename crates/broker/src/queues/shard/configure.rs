//! A queue goes by other settings from now on: a policy that applies to it was set, changed or cleared.
//!
//! **Invariants.** What follows from the new settings (what is too many goes, what is too old goes, timers) follows by
//! the ways in which it always does. A limit of bytes counts what is there: where nobody counted before, it is measured
//! from the log first, and until then nothing of the queue is delivered; it goes on taking messages, acks and returns.
//! Letters that wait go where they were to go when they left.
//!
//! Deliberately absent: which policy applies (`policy`). Messages that are there are judged by the new time to live from
//! when they were enqueued, unlike RabbitMQ's classic queues, which judge each by what was said when it came.

use std::collections::HashMap;
use std::sync::Arc;

use ferrymq_storage::StorageError;
use tokio::sync::oneshot;

use super::discard::Letters;
use super::limits::Limits;
use super::message::Configured;
use super::queue::Queue;
use super::timers::Kind;
use super::{Done, Owner};
use crate::queues::consuming::Consuming;
use crate::queues::dead_letters::DeadLetterTo;
use crate::queues::measure::measure;
use crate::queues::settings::QueueSettings;
use crate::queues::types::QueueHandle;

/// What was found in a log for a limit of bytes.
pub(super) struct Measured {
    queue: QueueHandle,
    /// Which measuring it was.
    number: u32,
    levels: Vec<Level>,
    /// Who waits for it.
    reply: oneshot::Sender<()>,
}

/// What was found in the log of one level.
struct Level {
    /// The id of its first place.
    base: u64,
    ready: Result<u64, StorageError>,
    /// Bodies of what was held when it began, by their offsets.
    held: HashMap<u64, u32>,
}

impl Owner {
    /// Has a queue go by other settings; answers when it does.
    pub(super) fn configure(
        &mut self,
        handle: &QueueHandle,
        configured: Configured,
        reply: oneshot::Sender<()>,
    ) {
        let Some(queue) = self.queues.get_mut(&handle.log()).filter(|queue| queue.handle == *handle) else {
            // A queue that is gone goes by nothing. Whoever does not wait needs no answer.
            let _ = reply.send(());
            return;
        };
        let log = handle.log();
        let Configured { consuming, dead_letter, settings } = configured;
        let before = queue.settings;
        queue.for_each(&mut |level| {
            level.settings = QueueSettings { expires_ms: None, ..settings };
            level.consuming = Consuming { single: None, ..consuming };
        });
        (queue.settings, queue.consuming) = (settings, consuming);
        queue.send_letters_to(dead_letter);
        let must_measure = queue.limit_anew();
        if before.ttl_ms != settings.ttl_ms {
            let timers = &mut self.timers;
            queue.for_each(&mut |level| {
                timers.set(&mut level.times.head, level.handle.log(), Kind::Head, None);
                level.times.head_for = None;
            });
        }
        if before.expires_ms != settings.expires_ms {
            // A deadline that was set before sees what holds then.
            self.used(log);
        }
        self.run_soon(log);
        if must_measure {
            return self.measure(handle, reply);
        }
        let _ = reply.send(());
    }

    /// Counts the bytes of what a queue has, while it delivers nothing.
    fn measure(&mut self, handle: &QueueHandle, reply: oneshot::Sender<()>) {
        let Some((_, queue)) = self.here(handle) else { return };
        let number = queue.begin_to_measure();
        let mut logs = Vec::new();
        for base in queue.bases() {
            let level = queue.level(base);
            logs.push((base, level.handle.log(), level.acks.clone()));
        }
        let (store, queue) = (self.context.store.clone(), handle.clone());
        self.done.push(Box::pin(async move {
            let mut levels = Vec::with_capacity(logs.len());
            for (base, log, acks) in logs {
                let mut held = HashMap::new();
                let ready = measure(&*store, log, acks.floor()..acks.end(), &acks, Some(&mut held)).await;
                levels.push(Level { base, ready, held });
            }
            Done::Measured(Measured { queue, number, levels, reply })
        }));
    }

    pub(super) fn on_measured(&mut self, measured: Measured) {
        let Measured { queue: handle, number, levels, reply } = measured;
        let Some((log, queue)) = self.here(&handle) else { return };
        let Some(is_valid) = queue.ends_measuring(number) else { return };
        if !is_valid {
            return self.measure(&handle, reply);
        }
        for Level { base, ready, held } in levels {
            let ready = ready.unwrap_or_else(|error| {
                tracing::warn!(log = log.0, %error, "a queue's bytes could not be counted: its limit is looser");
                0
            });
            queue.take_measured(base, ready, held);
        }
        self.run_soon(log);
        let _ = reply.send(());
    }
}

impl Queue {
    /// Messages that leave from now on go there.
    fn send_letters_to(&mut self, to: Option<Arc<DeadLetterTo>>) {
        match (&mut self.letters, to) {
            (Some(letters), to) => letters.send_to(to),
            (letters @ None, Some(to)) => *letters = Some(Box::new(Letters::new(to))),
            (None, None) => {}
        }
    }

    /// Takes its limits from its settings; whether what is there has to be measured.
    fn limit_anew(&mut self) -> bool {
        let holds_any = self.ready_count() + self.waiting() > 0 || !self.unacked.is_empty();
        let (mut counts, mut is_counted) = (false, true);
        self.for_each(&mut |level| {
            let counted = level.limits.take().and_then(|limits| limits.into_counted());
            is_counted &= counted.is_some();
            level.limits = Limits::of(&level.settings, 0);
            if let Some(limits) = &mut level.limits {
                limits.go_on_with(counted);
                counts |= limits.counts_bytes();
            }
        });
        counts && !is_counted && holds_any
    }
}
