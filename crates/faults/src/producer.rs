//! A producer: pipelined batches of one to a thousand records to several partitions, idempotent or not.
//!
//! **Invariants.** An idempotent producer sends a batch again, byte for byte and in order, until it is answered;
//! it has one writer number as long as its producer id. Any other never sends a value twice and takes a new
//! writer number with every connection, so that a writer's order is the order of one connection.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::ProduceResponse;
use ferrymq_runtime::Rng;

use crate::batch::{Stamp, encode};
use crate::client::Client;
use crate::history::{During, Outcome, Sent};
use crate::ops;
use crate::value::Value;
use crate::world::{Log, World};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Unanswered requests on one connection.
const WINDOW: usize = 5;
/// Microseconds of work that may be made up for after a wait.
const CATCH_UP: u64 = 200_000;

/// How a producer behaves.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) idempotent: bool,
    pub(crate) logs: Vec<Arc<Log>>,
    pub(crate) seed: u64,
    /// Bytes a second, on average.
    pub(crate) rate: u64,
}

/// A batch without an answer.
struct Batch {
    log: Arc<Log>,
    first: Value,
    count: u32,
    bytes: Bytes,
    began: u64,
    /// What the end of the log was known to be before this was sent for the first time.
    floor: i64,
}

struct Flight {
    correlation: i32,
    batches: Vec<Batch>,
}

/// The state of one producer thread.
pub(crate) struct Producer {
    world: Arc<World>,
    plan: Plan,
    rng: Rng,
    writer: u32,
    counter: u32,
    identity: Option<(i64, i16)>,
    sequences: Vec<i32>,
    unanswered: VecDeque<Flight>,
    /// Batches to be sent again, oldest first.
    again: VecDeque<Batch>,
    sent_bytes: u64,
    began: u64,
}

/// Why a connection is left.
enum Leave {
    Broken(io::Error),
    /// An answer with an error that sending again may cure.
    Refused,
}

impl From<io::Error> for Leave {
    fn from(error: io::Error) -> Leave {
        Leave::Broken(error)
    }
}

impl Producer {
    /// A producer that has sent nothing.
    pub(crate) fn new(world: Arc<World>, plan: Plan) -> Producer {
        let rng = Rng::seeded(plan.seed);
        let (writer, began) = (world.new_writer(), world.now());
        Producer {
            sequences: vec![0; plan.logs.len()],
            rng,
            writer,
            counter: 0,
            identity: None,
            unanswered: VecDeque::new(),
            again: VecDeque::new(),
            sent_bytes: 0,
            began,
            world,
            plan,
        }
    }

    /// Produces until the run stops and everything is answered or given up.
    pub(crate) fn run(mut self) {
        while !self.world.given_up() {
            let idle = self.unanswered.is_empty() && self.again.is_empty();
            if idle && self.world.stopping() {
                break;
            }
            let Some(address) = self.world.server() else { continue };
            let result = self.world.connect(address, PATIENCE).map_err(Leave::from);
            match result.and_then(|mut client| self.converse(&mut client)) {
                Ok(()) => continue,
                Err(Leave::Broken(error)) => self.world.broke("produce", &error),
                Err(Leave::Refused) => {}
            }
            self.disconnected();
            self.world.wait(Duration::from_millis(10 + self.rng.below(40)));
        }
        for batch in self.take_pending() {
            self.settle(&batch, Outcome::Info);
        }
    }

    fn converse(&mut self, client: &mut Client) -> Result<(), Leave> {
        if self.plan.idempotent && self.identity.is_none() {
            match ops::init_producer(client)? {
                Ok(identity) => self.identity = Some(identity),
                Err(code) => {
                    self.world.error("init producer", code);
                    return Err(Leave::Refused);
                }
            }
        }
        while let Some(batch) = self.again.pop_front() {
            self.world.counts.resent.fetch_add(1, Ordering::Relaxed);
            self.send(client, vec![batch])?;
        }
        loop {
            let window = if self.world.stopping() { 0 } else { WINDOW };
            while self.unanswered.len() < window {
                let batches = self.compose();
                self.send(client, batches)?;
                if self.rng.below(4) == 0 {
                    break;
                }
            }
            let Some(flight) = self.unanswered.front() else { return Ok(()) };
            let answer: ProduceResponse = client.receive(flight.correlation, ops::PRODUCE)?;
            let Some(flight) = self.unanswered.pop_front() else { return Ok(()) };
            self.answered(flight.batches, &answer)?;
            self.hold_back();
        }
    }

    /// Remembers the batches as sent, then sends them.
    fn send(&mut self, client: &mut Client, batches: Vec<Batch>) -> Result<(), Leave> {
        self.sent_bytes += batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        let parts = batches.iter().map(|batch| (&*batch.log.topic, batch.log.partition, batch.bytes.clone()));
        let request = ops::produce(parts);
        // If sending breaks, the batches are unanswered all the same.
        let expected = client.send(&request, ops::PRODUCE);
        let correlation = *expected.as_ref().unwrap_or(&-1);
        self.unanswered.push_back(Flight { correlation, batches });
        expected?;
        Ok(())
    }

    /// New batches for one to three partitions.
    fn compose(&mut self) -> Vec<Batch> {
        let partitions = 1 + usize::try_from(self.rng.below(8)).unwrap_or(0).saturating_sub(5);
        let from = usize::try_from(self.rng.below(self.plan.logs.len() as u64)).unwrap_or(0);
        let partitions = partitions.min(self.plan.logs.len());
        (0..partitions).map(|index| self.batch((from + index) % self.plan.logs.len())).collect()
    }

    fn batch(&mut self, place: usize) -> Batch {
        let (count, size) = match self.rng.below(20) {
            0..=5 => (1, self.rng.below(2_000)),
            6..=12 => (1 + self.rng.below(20), self.rng.below(400)),
            13..=17 => (50 + self.rng.below(300), self.rng.below(100)),
            18 => (500 + self.rng.below(501), self.rng.below(60)),
            _ => (1 + self.rng.below(3), 20_000 + self.rng.below(180_000)),
        };
        let count = u32::try_from(count).unwrap_or(1);
        let sizes = vec![usize::try_from(size).unwrap_or(0); usize::try_from(count).unwrap_or(1)];
        let first = Value { writer: self.writer, counter: self.counter };
        self.counter += count;
        let stamp = self.identity.map(|(producer_id, epoch)| {
            let sequence = self.sequences[place];
            self.sequences[place] = sequence.wrapping_add_unsigned(count) & i32::MAX;
            Stamp { producer_id, epoch, sequence }
        });
        let bytes = encode(first, &sizes, stamp, self.world.clock.wall_ms());
        let log = self.plan.logs[place].clone();
        let floor = log.floor.load(Ordering::SeqCst);
        Batch { log, first, count, bytes, began: self.world.now(), floor }
    }

    fn answered(&mut self, batches: Vec<Batch>, answer: &ProduceResponse) -> Result<(), Leave> {
        let mut refused = Vec::new();
        for batch in batches {
            let found = answer
                .responses
                .iter()
                .filter(|topic| topic.name.as_str() == batch.log.topic)
                .flat_map(|topic| &topic.partition_responses)
                .find(|partition| partition.index == batch.log.partition);
            let Some(found) = found else {
                let what = || format!("{}: the answer does not name it", batch.log);
                self.world.violation("produce-answered-wrongly", what);
                self.settle(&batch, Outcome::Info);
                continue;
            };
            let duplicate = found.error_code == ErrorCode::DuplicateSequenceNumber as i16;
            match found.error_code {
                0 => self.acknowledged(&batch, Some(found.base_offset).filter(|offset| *offset >= 0)),
                _ if duplicate && self.plan.idempotent => self.acknowledged(&batch, None),
                code => {
                    self.world.error("produce", code);
                    refused.push((batch, code));
                }
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        if self.plan.idempotent {
            self.refused(refused);
            return Err(Leave::Refused);
        }
        for (batch, code) in refused {
            self.settle(&batch, if certain(code) { Outcome::Fail(code) } else { Outcome::Info });
        }
        self.world.wait(Duration::from_millis(5));
        Ok(())
    }

    /// Errors to an idempotent producer: send again, in order, or start over if the broker lost the sequence.
    fn refused(&mut self, refused: Vec<(Batch, i16)>) {
        for (batch, code) in &refused {
            // All that came before on this partition was answered well, so the sequence cannot be wrong.
            if fatal(*code) {
                let what = || format!("{} {} x{}: error {code}", batch.log, batch.first, batch.count);
                self.world.violation("idempotent-producer-stuck", what);
                self.identity = None;
            }
        }
        let mut again: VecDeque<Batch> = refused.into_iter().map(|(batch, _)| batch).collect();
        again.extend(self.unanswered.drain(..).flat_map(|flight| flight.batches));
        self.again = again;
    }

    fn acknowledged(&mut self, batch: &Batch, offset: Option<i64>) {
        if let Some(offset) = offset {
            if offset < batch.floor {
                let what =
                    || format!("{} {}: offset {offset}, the end was {}", batch.log, batch.first, batch.floor);
                self.world.violation("offset-reused", what);
            }
            batch.log.floor.fetch_max(offset + i64::from(batch.count), Ordering::SeqCst);
        }
        let counts = &self.world.counts;
        counts.acked.fetch_add(u64::from(batch.count), Ordering::Relaxed);
        counts.acked_batches.fetch_add(1, Ordering::Relaxed);
        counts.acked_bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        self.settle(batch, Outcome::Ok(offset));
    }

    fn settle(&self, batch: &Batch, outcome: Outcome) {
        let count = u64::from(batch.count);
        match outcome {
            Outcome::Ok(_) => {}
            Outcome::Fail(_) => drop(self.world.counts.failed.fetch_add(count, Ordering::Relaxed)),
            Outcome::Info => drop(self.world.counts.info.fetch_add(count, Ordering::Relaxed)),
        }
        let during = During { began: batch.began, ended: self.world.now() };
        let sent = Sent { log: batch.log.index, first: batch.first, count: batch.count, outcome, during };
        self.world.history.lock().sent.push(sent);
    }

    fn take_pending(&mut self) -> Vec<Batch> {
        let flights = self.unanswered.drain(..).flat_map(|flight| flight.batches);
        self.again.drain(..).chain(flights).collect()
    }

    /// The connection is gone: send again or forget, each in its way.
    fn disconnected(&mut self) {
        // What was sent again stands before what had not yet been sent again.
        let flights: Vec<Batch> = self.unanswered.drain(..).flat_map(|flight| flight.batches).collect();
        for batch in flights.into_iter().rev() {
            self.again.push_front(batch);
        }
        if self.plan.idempotent && self.identity.is_some() {
            return;
        }
        for batch in std::mem::take(&mut self.again) {
            self.settle(&batch, Outcome::Info);
        }
        self.writer = self.world.new_writer();
        self.counter = 0;
        self.sequences.fill(0);
    }

    /// Keeps the rate, so that a run's size follows from its length.
    fn hold_back(&mut self) {
        let spent = self.world.now().saturating_sub(self.began);
        let due = self.sent_bytes.saturating_mul(1_000_000) / self.plan.rate.max(1);
        // A long time without a server is not made up for.
        self.began += spent.saturating_sub(due + CATCH_UP);
        if due > spent {
            self.world.pause(Duration::from_micros((due - spent).min(200_000)));
        }
    }
}

/// Errors after which the batch is certainly not stored.
fn certain(code: i16) -> bool {
    let certain = [
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::MessageTooLarge,
        ErrorCode::RecordListTooLarge,
        ErrorCode::CorruptMessage,
        ErrorCode::InvalidRecord,
    ];
    certain.iter().any(|known| *known as i16 == code)
}

/// Errors an idempotent producer that keeps to the rules must never see.
fn fatal(code: i16) -> bool {
    let fatal = [
        ErrorCode::OutOfOrderSequenceNumber,
        ErrorCode::UnknownProducerId,
        ErrorCode::InvalidProducerEpoch,
        ErrorCode::CorruptMessage,
        ErrorCode::InvalidRecord,
    ];
    fatal.iter().any(|known| *known as i16 == code)
}
