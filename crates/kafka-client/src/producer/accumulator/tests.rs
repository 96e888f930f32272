//! The accumulator alone: linger, fullness, order of retries, room.

use super::*;
use crate::ClientError;

fn config(batch_bytes: usize, buffer_bytes: usize) -> ProducerConfig {
    let linger = Duration::from_millis(5);
    ProducerConfig { batch_bytes, buffer_bytes, linger, ..ProducerConfig::default() }
}

fn clock() -> Instant {
    ferrymq_runtime::Clock::starting_at(0).now()
}

fn push(accumulator: &mut Accumulator, partition: u32, bytes: usize, now: Instant) -> Pushed {
    let value = vec![7; bytes];
    let record = ProducerRecord { value: Some(&value), ..ProducerRecord::default() };
    accumulator.push(partition, 1000, &record, || now)
}

#[test]
fn a_batch_goes_when_it_lingered_or_is_full() {
    let mut accumulator = Accumulator::new(&config(1000, 100_000), 2, false);
    let now = clock();
    assert_eq!(push(&mut accumulator, 0, 300, now), Pushed::First);
    assert_eq!(push(&mut accumulator, 0, 300, now), Pushed::Added);
    assert!(accumulator.take(10_000, |_| true).is_empty(), "neither full nor old");
    assert_eq!(accumulator.next_deadline(), Some(now + Duration::from_millis(5)));
    accumulator.expire(now + Duration::from_millis(4));
    assert!(accumulator.take(10_000, |_| true).is_empty());
    // The third does not fit: the first batch is full, the second opens.
    assert_eq!(push(&mut accumulator, 0, 300, now), Pushed::Filled);
    let taken = accumulator.take(10_000, |_| true);
    assert_eq!(taken.iter().map(|batch| batch.records).collect::<Vec<_>>(), [2]);
    accumulator.expire(now + Duration::from_millis(5));
    assert_eq!(accumulator.next_deadline(), None);
    assert_eq!(accumulator.take(10_000, |_| true)[0].records, 1);
}

#[test]
fn a_request_carries_one_batch_per_partition_up_to_its_size() {
    let mut accumulator = Accumulator::new(&config(500, 100_000), 3, false);
    let now = clock();
    for partition in [0, 0, 0, 1, 1, 2, 2] {
        push(&mut accumulator, partition, 400, now);
    }
    accumulator.expire(now + Duration::from_secs(1));
    let partitions = |taken: Vec<Batch>| taken.iter().map(|batch| batch.partition).collect::<Vec<_>>();
    assert_eq!(partitions(accumulator.take(10_000, |partition| partition != 1)), [0, 2]);
    assert_eq!(partitions(accumulator.take(10_000, |_| true)).len(), 3);
    assert_eq!(partitions(accumulator.take(600, |_| true)).len(), 1, "the second does not fit");
}

#[test]
fn a_batch_that_returns_goes_first_and_alone() {
    let mut accumulator = Accumulator::new(&config(500, 100_000), 1, false);
    let now = clock();
    for _ in 0..4 {
        push(&mut accumulator, 0, 400, now);
    }
    accumulator.expire(now + Duration::from_secs(1));
    let take = |accumulator: &mut Accumulator| accumulator.take(10_000, |_| true).pop();
    let first = take(&mut accumulator).unwrap();
    let second = take(&mut accumulator).unwrap();
    let third = take(&mut accumulator).unwrap();
    accumulator.put_back(second);
    assert!(accumulator.older_waits(0, third.ordinal));
    accumulator.put_back(first);
    assert!(take(&mut accumulator).is_none(), "the third is still in flight");
    accumulator.settle(&third, None);
    let again = take(&mut accumulator).unwrap();
    assert_eq!((again.ordinal, again.attempts), (0, 1));
    assert!(take(&mut accumulator).is_none(), "alone");
    accumulator.settle(&again, None);
    assert_eq!(take(&mut accumulator).unwrap().ordinal, 1);
}

#[test]
fn room_is_bounded_and_given_back() {
    let mut accumulator = Accumulator::new(&config(500, 1000), 1, true);
    let now = clock();
    assert_eq!(push(&mut accumulator, 0, 400, now), Pushed::First);
    assert_eq!(push(&mut accumulator, 0, 400, now), Pushed::Filled);
    assert_eq!(push(&mut accumulator, 0, 400, now), Pushed::NoRoom);
    assert!(accumulator.flush().is_none());
    let taken = accumulator.take(10_000, |_| true);
    assert_eq!(taken[0].tags, [0]);
    assert!(accumulator.settle(&taken[0], None), "there is room");
    assert_eq!(push(&mut accumulator, 0, 400, now), Pushed::First);
    while let Some(batch) = accumulator.take(10_000, |_| true).pop() {
        accumulator.settle(&batch, Some(&ClientError::Invalid("no".to_owned())));
    }
    accumulator.flush();
    let last = accumulator.take(10_000, |_| true).pop().unwrap();
    accumulator.settle(&last, None);
    let report = accumulator.flush().unwrap();
    assert_eq!((report.acked_records, report.failed_records), (2, 1));
    // A record larger than everything goes through alone.
    assert_eq!(push(&mut accumulator, 0, 5000, now), Pushed::Filled);
}
