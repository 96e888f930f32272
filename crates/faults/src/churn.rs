//! Churn: topics that come and go, beginnings of logs that are deleted.
//!
//! **Invariant.** One thread makes and deletes all topics of a run's churn, so its operations on a topic have an
//! order. A topic made again under an old name is a log of its own: nothing of the old one may be in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_kafka_codec::messages::ProduceResponse;
use ferrymq_kafka_codec::{ApiKey, ErrorCode};
use ferrymq_runtime::Rng;

use crate::batch;
use crate::client::Client;
use crate::history::{Outcome, Sent, TopicChange};
use crate::ops::{self, TopicPlan};
use crate::value::Value;
use crate::world::{Kind, Log, World};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Topics of the churn at a time.
const TOPICS: usize = 8;

/// The thread that makes and deletes.
pub(crate) struct Churn {
    world: Arc<World>,
    trimmed: Vec<Arc<Log>>,
    rng: Rng,
    names: u64,
    /// Topics that are there, as far as is known.
    topics: Vec<(String, Option<Arc<Log>>)>,
    can_trim: bool,
}

impl Churn {
    /// A churn that has done nothing; `trimmed` are the logs whose beginnings it may delete.
    pub(crate) fn new(world: Arc<World>, trimmed: Vec<Arc<Log>>, seed: u64) -> Churn {
        let rng = Rng::seeded(seed);
        Churn { world, trimmed, rng, names: 0, topics: Vec::new(), can_trim: false }
    }

    /// Works until the run stops.
    pub(crate) fn run(mut self) {
        while !self.world.stopping() {
            let Some(address) = self.world.server() else { continue };
            let result = self.world.connect(address, PATIENCE).and_then(|mut client| self.work(&mut client));
            if let Err(error) = result {
                self.world.broke("churn", &error);
            }
            self.world.pause(Duration::from_millis(20));
        }
    }

    fn work(&mut self, client: &mut Client) -> io::Result<()> {
        self.can_trim = ops::served(client)?.contains(&ApiKey::DeleteRecords);
        while !self.world.stopping() {
            match self.rng.below(10) {
                0..=3 => self.make(client)?,
                4..=6 => self.delete(client)?,
                _ => self.trim(client)?,
            }
            self.world.pause(Duration::from_millis(self.rng.below(80)));
        }
        Ok(())
    }

    fn make(&mut self, client: &mut Client) -> io::Result<()> {
        if self.topics.len() >= TOPICS {
            return Ok(());
        }
        // Half of the names come again.
        let name = format!("churn-{}", self.names / 2);
        self.names += 1;
        if self.topics.iter().any(|(topic, _)| *topic == name) {
            return Ok(());
        }
        let plan = TopicPlan { name: name.clone(), partitions: 1, configs: Vec::new() };
        let began = self.world.now();
        // Whatever comes of it: there may be a topic now.
        self.topics.push((name.clone(), None));
        let result = ops::create_topic(client, &plan);
        let outcome = match &result {
            Ok(0) => Outcome::Ok(None),
            Ok(code) => {
                self.world.error("create topic", *code);
                Outcome::Info
            }
            Err(_) => Outcome::Info,
        };
        self.changed(&name, true, outcome, began);
        if result? == 0 {
            let log = self.world.add_log(&name, 0, Kind::Churned);
            if let Some(place) = self.topics.iter_mut().find(|(topic, _)| *topic == name) {
                place.1 = Some(log.clone());
            }
            self.write(client, &log)?;
        }
        Ok(())
    }

    /// A few batches from a writer of their own.
    fn write(&mut self, client: &mut Client, log: &Log) -> io::Result<()> {
        let writer = self.world.new_writer();
        let mut counter = 0;
        for _ in 0..self.rng.below(4) {
            let count = 1 + u32::try_from(self.rng.below(5)).unwrap_or(0);
            let first = Value { writer, counter };
            counter += count;
            let sizes = vec![64; usize::try_from(count).unwrap_or(0)];
            let bytes = batch::encode(first, &sizes, None, self.world.clock.wall_ms());
            let began = self.world.now();
            let request = ops::produce([(&*log.topic, 0, bytes)].into_iter());
            let answer: io::Result<ProduceResponse> = client.call(&request, ops::PRODUCE);
            let found = answer.as_ref().ok().and_then(|answer| answer.responses.first());
            let found = found.and_then(|topic| topic.partition_responses.first());
            let outcome = match found.map(|found| (found.error_code, found.base_offset)) {
                Some((0, offset)) => Outcome::Ok(Some(offset)),
                Some((code, _)) => {
                    self.world.error("produce to churn", code);
                    Outcome::Info
                }
                None => Outcome::Info,
            };
            if let Outcome::Ok(Some(offset)) = outcome {
                self.world.counts.acked.fetch_add(u64::from(count), Ordering::Relaxed);
                log.floor.fetch_max(offset + i64::from(count), Ordering::SeqCst);
            }
            let during = self.world.since(began);
            let sent = Sent { log: log.index, first, count, outcome, during };
            self.world.history.lock().sent.push(sent);
            answer?;
        }
        Ok(())
    }

    fn delete(&mut self, client: &mut Client) -> io::Result<()> {
        if self.topics.len() < 2 {
            return Ok(());
        }
        let place = usize::try_from(self.rng.below(self.topics.len() as u64)).unwrap_or(0);
        let (name, log) = self.topics[place].clone();
        if let Some(log) = &log {
            log.dropped.store(true, Ordering::SeqCst);
        }
        let began = self.world.now();
        let result = ops::delete_topic(client, &name);
        let gone = match &result {
            Ok(0) => true,
            Ok(code) => *code == ErrorCode::UnknownTopicOrPartition as i16,
            Err(_) => false,
        };
        match &result {
            Ok(0) => self.changed(&name, false, Outcome::Ok(None), began),
            // An earlier deletion of unknown result did happen, if there was one: the topic is gone now.
            Ok(code) => {
                self.world.error("delete topic", *code);
                self.changed(&name, false, Outcome::Info, began);
            }
            Err(_) => self.changed(&name, false, Outcome::Info, began),
        }
        if gone {
            self.topics.remove(place);
        }
        result.map(|_| ())
    }

    fn changed(&self, name: &str, made: bool, outcome: Outcome, began: u64) {
        if matches!(outcome, Outcome::Ok(_)) {
            self.world.counts.topic_changes.fetch_add(1, Ordering::Relaxed);
        }
        let change = TopicChange { name: name.to_owned(), made, outcome, during: self.world.since(began) };
        self.world.history.lock().topics.push(change);
    }

    fn trim(&mut self, client: &mut Client) -> io::Result<()> {
        if !self.can_trim || self.trimmed.is_empty() {
            return Ok(());
        }
        let place = usize::try_from(self.rng.below(self.trimmed.len() as u64)).unwrap_or(0);
        let log = self.trimmed[place].clone();
        let (done, end) = (log.trim_done.load(Ordering::SeqCst), log.floor.load(Ordering::SeqCst));
        // Now and then everything goes.
        let span = u64::try_from(end - done).unwrap_or(0);
        let to = if self.rng.below(5) == 0 {
            end
        } else {
            done + i64::try_from(self.rng.below(span + 1)).unwrap_or(0)
        };
        log.trim_asked.fetch_max(to, Ordering::SeqCst);
        match ops::delete_records(client, &log.topic, log.partition, to)? {
            Ok(start) => {
                if start > log.trim_asked.load(Ordering::SeqCst) {
                    let what = || format!("{log}: deleted up to {start}, asked for {to}");
                    self.world.violation("deleted-too-much", what);
                }
                log.trim_done.fetch_max(start, Ordering::SeqCst);
                self.world.counts.trims.fetch_add(1, Ordering::Relaxed);
            }
            Err(code) => self.world.error("delete records", code),
        }
        Ok(())
    }
}
