//! Idempotent producers: what was appended last by whom, per partition (KIP-98, KIP-360).
//!
//! **Invariants.** A batch whose sequence numbers are among the last five of its producer is a duplicate and
//! answered with the first append's offset. A batch that does not follow its producer's last is refused. State
//! is a pure function of the batch headers in the log, so it can be rebuilt from them at any time.
//!
//! Deliberately absent: transactions (a later issue adds them beside this), expiry by wall clock of another
//! machine.

use std::collections::HashMap;

use ferrymq_types::limits::PRODUCER_BATCHES_REMEMBERED;
use ferrymq_types::{BatchHeader, Offset};
use serde::{Deserialize, Serialize};

/// Producers remembered per partition; beyond it the one silent for longest is forgotten.
pub const PRODUCERS_MAX: usize = 10_000;

/// What [`Producers::check`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Follows the producer's last batch, or is not idempotent: append it.
    Fresh,
    /// Was appended before, at this offset.
    Duplicate {
        /// Offset of its first record.
        base: Offset,
        /// When it was appended, milliseconds since 1970.
        timestamp: i64,
    },
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// A newer incarnation of the producer has written.
    #[error("epoch {epoch} of producer {id} is smaller than the last seen epoch {last}")]
    StaleEpoch {
        /// Producer id.
        id: i64,
        /// Epoch of the batch.
        epoch: i16,
        /// Epoch in force.
        last: i16,
    },
    /// A batch before it is missing.
    #[error("out of order sequence number for producer {id}: {sequence} (incoming), {last} (last)")]
    OutOfOrder {
        /// Producer id.
        id: i64,
        /// First sequence number of the batch.
        sequence: i32,
        /// Last sequence number appended, or -1.
        last: i32,
    },
}

/// One producer's recent past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// Epoch in force.
    pub epoch: i16,
    /// Oldest first; at most five.
    pub batches: Vec<Remembered>,
}

/// One appended batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// First sequence number.
    pub first_sequence: i32,
    /// Last sequence number.
    pub last_sequence: i32,
    /// Offset of the first record.
    pub base: u64,
    /// Largest timestamp of the batch.
    pub timestamp: i64,
    /// When it was appended, by this broker's clock.
    pub seen_ms: i64,
}

/// Undoes one [`Producers::append`] whose write failed.
#[derive(Debug)]
pub struct Undo {
    id: i64,
    before: Option<Producer>,
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producers {
    by_id: HashMap<i64, Producer>,
}

impl Producers {
    /// Whether `header`'s batch may be appended.
    ///
    /// # Errors
    /// [`ProducerError`].
    pub fn check(&self, header: &BatchHeader) -> Result<Check, ProducerError> {
        if !header.has_producer_id() {
            return Ok(Check::Fresh);
        }
        let id = header.producer_id;
        // Nothing known: the records may have been trimmed, so any sequence number is accepted.
        let Some(producer) = self.by_id.get(&id) else { return Ok(Check::Fresh) };
        if header.producer_epoch < producer.epoch {
            return Err(ProducerError::StaleEpoch { id, epoch: header.producer_epoch, last: producer.epoch });
        }
        let sequence = header.base_sequence;
        if header.producer_epoch > producer.epoch {
            return if sequence == 0 {
                Ok(Check::Fresh)
            } else {
                Err(ProducerError::OutOfOrder { id, sequence, last: -1 })
            };
        }
        let same = |batch: &&Remembered| {
            batch.first_sequence == sequence && batch.last_sequence == header.last_sequence()
        };
        if let Some(batch) = producer.batches.iter().find(same) {
            return Ok(Check::Duplicate { base: Offset(batch.base), timestamp: batch.timestamp });
        }
        let last = producer.batches.last().map_or(-1, |batch| batch.last_sequence);
        let expected = if last == i32::MAX { 0 } else { last + 1 };
        if sequence == expected {
            Ok(Check::Fresh)
        } else {
            Err(ProducerError::OutOfOrder { id, sequence, last })
        }
    }

    /// Notes a batch that was, or is being, appended at `base`.
    pub fn append(&mut self, header: &BatchHeader, base: Offset, now_ms: i64) -> Option<Undo> {
        if !header.has_producer_id() {
            return None;
        }
        let id = header.producer_id;
        let before = self.by_id.get(&id).cloned();
        if before.is_none() && self.by_id.len() >= PRODUCERS_MAX {
            self.forget_oldest();
        }
        let producer = self
            .by_id
            .entry(id)
            .or_insert_with(|| Producer { epoch: header.producer_epoch, batches: Vec::new() });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == PRODUCER_BATCHES_REMEMBERED {
            producer.batches.remove(0);
        }
        producer.batches.push(Remembered {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base: base.0,
            timestamp: header.max_timestamp,
            seen_ms: now_ms,
        });
        Some(Undo { id, before })
    }

    /// Takes back an append that did not happen. Undo in the reverse order of appending.
    pub fn undo(&mut self, undo: Undo) {
        match undo.before {
            Some(producer) => self.by_id.insert(undo.id, producer),
            None => self.by_id.remove(&undo.id),
        };
    }

    /// Forgets producers silent since before `cutoff_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, cutoff_ms: i64) {
        self.by_id
            .retain(|_, producer| producer.batches.last().is_some_and(|last| last.seen_ms >= cutoff_ms));
    }

    /// All producers, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.by_id.iter().map(|(id, producer)| (*id, producer))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn forget_oldest(&mut self) {
        let oldest = self
            .by_id
            .iter()
            .min_by_key(|(_, producer)| producer.batches.last().map_or(i64::MIN, |last| last.seen_ms))
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(id: i64, epoch: i16, sequence: i32, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 100,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 5,
            producer_id: id,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: count,
        }
    }

    fn append(producers: &mut Producers, header: &BatchHeader, base: u64) -> Option<Undo> {
        assert_eq!(producers.check(header), Ok(Check::Fresh));
        producers.append(header, Offset(base), 0)
    }

    #[test]
    fn the_last_five_batches_are_known() {
        let mut producers = Producers::default();
        for index in 0..7i32 {
            append(&mut producers, &batch(1, 0, index * 2, 2), index.cast_unsigned().into());
        }
        for index in 2..7i32 {
            let duplicate = Check::Duplicate { base: Offset(index.cast_unsigned().into()), timestamp: 5 };
            assert_eq!(producers.check(&batch(1, 0, index * 2, 2)), Ok(duplicate));
        }
        let forgotten = producers.check(&batch(1, 0, 2, 2));
        assert_eq!(forgotten, Err(ProducerError::OutOfOrder { id: 1, sequence: 2, last: 13 }));
        assert!(producers.check(&batch(1, 0, 16, 1)).is_err());
        assert!(producers.check(&batch(2, 0, 16, 1)).is_ok(), "an unknown producer may start anywhere");
    }

    #[test]
    fn epochs_fence_and_start_over() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(1, 1, 0, 3), 0);
        let stale = ProducerError::StaleEpoch { id: 1, epoch: 0, last: 1 };
        assert_eq!(producers.check(&batch(1, 0, 3, 1)), Err(stale));
        assert!(producers.check(&batch(1, 2, 3, 1)).is_err(), "a new epoch starts at sequence 0");
        append(&mut producers, &batch(1, 2, 0, 1), 3);
        assert!(producers.check(&batch(1, 1, 3, 1)).is_err());
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(1, 0, i32::MAX - 1, 2), 0);
        append(&mut producers, &batch(1, 0, 0, 2), 2);
        append(&mut producers, &batch(1, 0, 2, 1), 4);
        let mut producers = Producers::default();
        append(&mut producers, &batch(1, 0, i32::MAX, 3), 0);
        append(&mut producers, &batch(1, 0, 2, 2), 3);
    }

    #[test]
    fn undo_in_reverse_restores() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(1, 0, 0, 1), 0);
        let before = producers.clone();
        let first = append(&mut producers, &batch(1, 0, 1, 1), 1).unwrap();
        let second = append(&mut producers, &batch(1, 0, 2, 1), 2).unwrap();
        let other = append(&mut producers, &batch(9, 0, 0, 1), 3).unwrap();
        producers.undo(other);
        producers.undo(second);
        producers.undo(first);
        assert_eq!(producers, before);
    }

    #[test]
    fn silent_producers_are_forgotten() {
        let mut producers = Producers::default();
        producers.append(&batch(1, 0, 0, 1), Offset(0), 100);
        producers.append(&batch(2, 0, 0, 1), Offset(1), 200);
        producers.expire(150);
        assert_eq!(producers.iter().map(|(id, _)| id).collect::<Vec<_>>(), vec![2]);
    }
}
