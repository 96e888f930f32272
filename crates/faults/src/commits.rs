//! A committer of offsets: what it wrote last, or something it tried to write since, must be read back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_kafka_codec::{ApiKey, ErrorCode};
use ferrymq_runtime::Rng;

use crate::client::Client;
use crate::history::{Commit, Outcome};
use crate::ops;
use crate::world::{Log, World};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Commits rising offsets of one group without members.
pub(crate) struct Committer {
    world: Arc<World>,
    group: String,
    logs: Vec<Arc<Log>>,
    next: i64,
    rng: Rng,
}

impl Committer {
    /// A committer that has committed nothing.
    pub(crate) fn new(world: Arc<World>, group: String, logs: Vec<Arc<Log>>, seed: u64) -> Committer {
        Committer { world, group, logs, next: 1, rng: Rng::seeded(seed) }
    }

    /// Commits until the run stops.
    pub(crate) fn run(mut self) {
        while !self.world.stopping() {
            let Some(address) = self.world.server() else { continue };
            let result = self.world.connect(address, PATIENCE).and_then(|mut client| self.work(&mut client));
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.world.broke("commit", &error),
            }
            self.world.pause(Duration::from_millis(20));
        }
    }

    /// False if groups are not served.
    fn work(&mut self, client: &mut Client) -> io::Result<bool> {
        let served = ops::served(client)?;
        if !served.contains(&ApiKey::OffsetCommit) || !served.contains(&ApiKey::OffsetFetch) {
            return Ok(false);
        }
        while !self.world.stopping() {
            let log = self.logs[usize::try_from(self.rng.below(self.logs.len() as u64)).unwrap_or(0)].clone();
            if self.rng.below(4) == 0 {
                read(&self.world, client, &self.group, &log)?;
            } else {
                self.write(client, &log)?;
            }
            self.world.pause(Duration::from_millis(self.rng.below(20)));
        }
        Ok(true)
    }

    fn write(&mut self, client: &mut Client, log: &Log) -> io::Result<()> {
        let (offset, began) = (self.next, self.world.now());
        self.next += 1;
        let result = ops::commit(client, &self.group, &log.topic, log.partition, offset);
        let outcome = match &result {
            Ok(0) => Outcome::Ok(None),
            Ok(code) => {
                self.world.error("commit", *code);
                Outcome::Info
            }
            Err(_) => Outcome::Info,
        };
        if matches!(outcome, Outcome::Ok(_)) {
            self.world.counts.commits.fetch_add(1, Ordering::Relaxed);
        }
        let (group, during) = (self.group.clone(), self.world.since(began));
        let commit = Commit { group, log: log.index, offset, written: Some(outcome), during };
        self.world.history.lock().commits.push(commit);
        result.map(|_| ())
    }
}

/// Reads a committed offset and notes it. Whether it could be read.
pub(crate) fn read(world: &World, client: &mut Client, group: &str, log: &Log) -> io::Result<bool> {
    let began = world.now();
    match ops::committed(client, group, &log.topic, log.partition)? {
        Ok(offset) => {
            let (group, during) = (group.to_owned(), world.since(began));
            let commit = Commit { group, log: log.index, offset, written: None, during };
            world.history.lock().commits.push(commit);
            Ok(true)
        }
        Err(code) => {
            world.error("committed", code);
            // A coordinator that loads says so; anything else is written down by its name only.
            Ok(code != ErrorCode::CoordinatorLoadInProgress as i16
                && code != ErrorCode::CoordinatorNotAvailable as i16
                && code != ErrorCode::NotCoordinator as i16)
        }
    }
}
