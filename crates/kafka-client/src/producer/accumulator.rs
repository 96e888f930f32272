//! The batches of a producer that wait to be sent: pure state, no clock and no I/O of its own.
//!
//! **Invariants.** A partition has at most one open batch, the youngest. Batches leave a partition in order. A
//! batch that comes back stands in front of the younger ones and leaves alone, so that order holds. Bytes are
//! counted when a batch opens and when it grows, and given back when its fate is known.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_types::BatchBuilder;
use tokio::time::Instant;

use super::{ProducerConfig, ProducerRecord, ProducerReport};

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It joined an open batch.
    Added,
    /// It opened a batch: somebody must watch its linger.
    First,
    /// It filled a batch, which can go.
    Filled,
    /// The buffer is full; nothing was taken.
    NoRoom,
}

/// Bytes of a record beside key, value and headers, at most.
const RECORD_OVERHEAD: usize = 32;
/// Header of a batch and a little more.
const BATCH_SLACK: usize = 256;

/// Records on their way, in one of two shapes.
pub(super) enum Body {
    /// Still uncompressed and without sequence.
    Building(BatchBuilder),
    /// As it was or will be sent.
    Sealed(Bytes),
}

/// One batch.
pub(super) struct Batch {
    pub(super) partition: u32,
    /// Rises over all batches of the producer.
    pub(super) ordinal: u64,
    pub(super) body: Body,
    pub(super) records: u32,
    /// What was counted for it.
    pub(super) bytes: usize,
    pub(super) opened: Instant,
    pub(super) attempts: u32,
    pub(super) tags: Vec<u64>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Batch>,
    /// Whether the last of them still takes records.
    open: bool,
    in_flight: usize,
    /// A batch that is sent again is in flight.
    solo: bool,
    /// The last call of [`Accumulator::take`] that took from here.
    taken_in: u64,
    /// Bytes of the last batch: the next will be about as large.
    typical_bytes: usize,
}

pub(super) struct Accumulator {
    queues: Vec<Queue>,
    /// Batches that can go, by partition, in the order in which they became so.
    ready: VecDeque<u32>,
    /// Open batches by age: partition and ordinal.
    lingering: VecDeque<(u32, u64, Instant)>,
    linger: Duration,
    batch_bytes: usize,
    buffer_bytes: usize,
    tagged: bool,
    bytes: usize,
    unsettled: usize,
    travelling: usize,
    next_ordinal: u64,
    takes: u64,
    closed: bool,
    report: ProducerReport,
}

impl Accumulator {
    pub(super) fn new(config: &ProducerConfig, partitions: usize, tagged: bool) -> Accumulator {
        Accumulator {
            queues: std::iter::repeat_with(Queue::default).take(partitions).collect(),
            ready: VecDeque::new(),
            lingering: VecDeque::new(),
            linger: config.linger,
            batch_bytes: config.batch_bytes,
            buffer_bytes: config.buffer_bytes,
            tagged,
            bytes: 0,
            unsettled: 0,
            travelling: 0,
            next_ordinal: 0,
            takes: 0,
            closed: false,
            report: ProducerReport::default(),
        }
    }

    pub(super) fn push(
        &mut self,
        partition: u32,
        timestamp: i64,
        record: &ProducerRecord<'_>,
        now: impl FnOnce() -> Instant,
    ) -> Pushed {
        let headers = record.headers.iter().map(|header| {
            header.key.len() + header.value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD / 2
        });
        let size = RECORD_OVERHEAD
            + record.key.map_or(0, <[u8]>::len)
            + record.value.map_or(0, <[u8]>::len)
            + headers.sum::<usize>();
        // A record larger than the whole buffer goes through alone rather than never.
        if self.bytes + size > self.buffer_bytes && self.bytes > 0 {
            if self.ready.is_empty() && self.travelling == 0 {
                self.close_all();
            }
            return Pushed::NoRoom;
        }
        let opened = self.make_open(partition, timestamp, size, now);
        let queue = &mut self.queues[partition as usize];
        let Some(batch) = queue.batches.back_mut() else { return Pushed::NoRoom };
        let Body::Building(builder) = &mut batch.body else { return Pushed::NoRoom };
        builder.push(timestamp, record.key, record.value, record.headers);
        batch.records += 1;
        let grown = builder.bytes().saturating_sub(batch.bytes);
        batch.bytes += grown;
        self.bytes += grown;
        if self.tagged {
            batch.tags.push(record.tag);
        }
        if batch.bytes >= self.batch_bytes {
            queue.typical_bytes = batch.bytes;
            queue.open = false;
            self.ready.push_back(partition);
            return Pushed::Filled;
        }
        opened
    }

    /// Makes sure that the partition's last batch has room for `size` more: what the push is, unless it fills
    /// the batch.
    fn make_open(
        &mut self,
        partition: u32,
        timestamp: i64,
        size: usize,
        now: impl FnOnce() -> Instant,
    ) -> Pushed {
        let queue = &mut self.queues[partition as usize];
        let mut pushed = Pushed::First;
        if queue.open {
            let bytes = queue.batches.back().map_or(0, |batch| batch.bytes);
            if bytes + size <= self.batch_bytes {
                return Pushed::Added;
            }
            queue.typical_bytes = bytes;
            queue.open = false;
            self.ready.push_back(partition);
            pushed = Pushed::Filled;
        }
        let opened = now();
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let capacity = queue.typical_bytes.max(size) + BATCH_SLACK;
        queue.batches.push_back(Batch {
            partition,
            ordinal,
            body: Body::Building(BatchBuilder::with_capacity(timestamp, capacity)),
            records: 0,
            bytes: 0,
            opened,
            attempts: 0,
            tags: Vec::new(),
        });
        queue.open = true;
        self.unsettled += 1;
        self.lingering.push_back((partition, ordinal, opened));
        pushed
    }

    /// When the oldest open batch will have waited long enough.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        while let Some((partition, ordinal, opened)) = self.lingering.front() {
            if self.is_open(*partition, *ordinal) {
                return Some(*opened + self.linger);
            }
            self.lingering.pop_front();
        }
        None
    }

    fn is_open(&self, partition: u32, ordinal: u64) -> bool {
        let queue = &self.queues[partition as usize];
        queue.open && queue.batches.back().is_some_and(|batch| batch.ordinal == ordinal)
    }

    /// Closes the batches that have waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((partition, ordinal, opened)) = self.lingering.front().copied() {
            let open = self.is_open(partition, ordinal);
            if open && opened + self.linger > now {
                break;
            }
            self.lingering.pop_front();
            if open {
                self.close_open(partition);
            }
        }
    }

    fn close_all(&mut self) {
        while let Some((partition, ordinal, _)) = self.lingering.pop_front() {
            if self.is_open(partition, ordinal) {
                self.close_open(partition);
            }
        }
    }

    fn close_open(&mut self, partition: u32) {
        let queue = &mut self.queues[partition as usize];
        queue.typical_bytes = queue.batches.back().map_or(0, |batch| batch.bytes);
        queue.open = false;
        self.ready.push_back(partition);
    }

    /// Takes batches that can go and whose partition `wanted` accepts: at most one per partition, at most
    /// `request_bytes` in all but at least one.
    pub(super) fn take(&mut self, request_bytes: usize, mut wanted: impl FnMut(u32) -> bool) -> Vec<Batch> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut later = VecDeque::new();
        self.takes += 1;
        while let Some(partition) = self.ready.pop_front() {
            let queue = &mut self.queues[partition as usize];
            let Some(front) = queue.batches.front() else { continue };
            if !taken.is_empty() && bytes + front.bytes > request_bytes {
                self.ready.push_front(partition);
                break;
            }
            let again = front.attempts > 0;
            let barred = queue.solo || (again && queue.in_flight > 0);
            if queue.taken_in == self.takes || barred || !wanted(partition) {
                later.push_back(partition);
                // Each partition was looked at: there is nothing else to find.
                if later.len() > self.queues.len() {
                    break;
                }
                continue;
            }
            queue.taken_in = self.takes;
            queue.in_flight += 1;
            queue.solo = again;
            bytes += front.bytes;
            taken.extend(queue.batches.pop_front());
        }
        self.travelling += taken.len();
        while let Some(partition) = later.pop_back() {
            self.ready.push_front(partition);
        }
        taken
    }

    /// A batch comes back to be sent again.
    pub(super) fn put_back(&mut self, mut batch: Batch) {
        batch.attempts += 1;
        let queue = &mut self.queues[batch.partition as usize];
        queue.in_flight -= 1;
        queue.solo = false;
        self.travelling -= 1;
        self.ready.push_front(batch.partition);
        let at = queue.batches.partition_point(|other| other.ordinal < batch.ordinal);
        queue.batches.insert(at, batch);
    }

    /// Whether a batch of the partition older than `ordinal` is waiting to be sent again.
    pub(super) fn older_waits(&self, partition: u32, ordinal: u64) -> bool {
        let front = self.queues[partition as usize].batches.front();
        front.is_some_and(|batch| batch.ordinal < ordinal)
    }

    /// The fate of a batch that was taken is known. Whether somebody may wait for that.
    pub(super) fn settle(&mut self, batch: &Batch, error: Option<&crate::ClientError>) -> bool {
        let queue = &mut self.queues[batch.partition as usize];
        queue.in_flight -= 1;
        queue.solo = false;
        self.travelling -= 1;
        self.bytes -= batch.bytes;
        self.unsettled -= 1;
        let report = &mut self.report;
        match error {
            None => {
                report.acked_records += u64::from(batch.records);
                report.acked_bytes += batch.bytes as u64;
                report.batches += 1;
            }
            Some(error) => {
                report.failed_records += u64::from(batch.records);
                report.first_error.get_or_insert_with(|| error.clone());
            }
        }
        self.unsettled == 0 || self.bytes < self.buffer_bytes
    }

    pub(super) fn count_request(&mut self) {
        self.report.requests += 1;
    }

    /// Lets everything go at once; the report once nothing is left.
    pub(super) fn flush(&mut self) -> Option<ProducerReport> {
        self.close_all();
        (self.unsettled == 0).then(|| self.report.clone())
    }

    pub(super) fn report(&self) -> &ProducerReport {
        &self.report
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests;
