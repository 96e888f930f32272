//! What was asked of an engine, what it answered and what it shows, in the words of the checker, and its verdict.
//!
//! **Invariant.** A round's pieces of work are noted one after the other: the engine promises to do them in order.
//!
//! Deliberately absent: rules; they are the checker's. What it has no word for is noted besides: whether an engine's
//! statistics fit what it shows, and whether its refusals say why.

use std::sync::Arc;

use ferrymq_checker::{Expectations, History, Pending, Polled, Recorder, Report, What, check_future, trace};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::read::Reader;
use ferrymq_storage::{Batch, ErrorKind, StorageError};

use super::payload;

/// What is wrong.
#[derive(Debug)]
pub struct Verdict {
    /// Rules that are broken.
    pub report: Report,
    /// What the rules have no word for.
    pub besides: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.report.is_clean() && self.besides.is_empty()
    }

    /// Fails the test if anything is wrong.
    pub fn assert_clean(&self, place: &str) {
        assert!(self.is_clean(), "{place}: {}\n{:?}", self.report, self.besides);
    }
}

/// A history in the making.
#[derive(Default)]
pub struct Journal {
    past: Arc<History>,
    recorder: Recorder,
    besides: Vec<String>,
    /// The disk in whose trace acknowledgements are noted.
    pub trace: Option<SimDisk>,
    /// Something on the disk was damaged on purpose.
    pub is_damaged: bool,
}

fn name(log: u64) -> String {
    log.to_string()
}

impl Journal {
    /// Ends this history here: it becomes the past of any number of futures.
    pub fn seal(&mut self) {
        assert!(self.past.ops.is_empty(), "a future has no futures of its own");
        self.past = Arc::new(self.recorder.history());
        self.recorder = Recorder::after(&self.past);
    }

    /// One of the futures of a history that was sealed.
    pub fn future(&self) -> Journal {
        let recorder = Recorder::after(&self.past);
        Journal { past: self.past.clone(), recorder, besides: self.besides.clone(), ..Journal::default() }
    }

    /// Begins an operation.
    pub fn begin(&self, what: What) -> Pending {
        self.recorder.begin("owner", what)
    }

    /// An operation that certainly happened.
    pub fn done(&self, what: What) {
        self.begin(what).ok();
    }

    pub fn besides(&mut self, what: impl Into<String>) {
        self.besides.push(what.into());
    }

    /// Notes in the trace that a batch was acknowledged.
    pub fn acked(disk: &SimDisk, batch: &Batch) {
        trace::ack(disk, &batch.bytes[..batch.bytes.len().min(64)]);
    }

    /// Reads all of these logs from beginning to end.
    pub fn look(&mut self, reader: &Reader, logs: impl Iterator<Item = u64>, last: bool) {
        let mut topics = Vec::new();
        for log in logs {
            match reader.stat(log) {
                Ok(stat) => {
                    topics.push(name(log));
                    self.done(What::Watermark { log: name(log), offset: Some(stat.next.0) });
                    if let Err(error) = self.read(reader, log, 0, stat.next.0, last) {
                        self.besides(format!("log {log}: {error:?}"));
                    }
                    self.headers(reader, log, stat.bytes);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => self.besides(format!("log {log}: {error:?}")),
            }
        }
        self.done(What::ListTopics { topics });
        for text in reader.health().damage {
            self.done(What::Damage { log: None, from: 0, to: 0, text });
        }
    }

    /// Reads a log from an offset on, over damage; where it ends.
    ///
    /// # Errors
    /// The first that is no damage.
    pub fn read(
        &mut self,
        reader: &Reader,
        log: u64,
        from: u64,
        next: u64,
        last: bool,
    ) -> Result<u64, StorageError> {
        let (mut begin, mut at, mut records) = (from, from, Vec::new());
        let poll = |from, next: u64, records: Vec<Polled>| {
            let end = records.last().map_or(next, |record| next.max(record.offset + 1));
            self.done(What::Poll { log: name(log), from, next: end, records, last });
        };
        loop {
            // One byte is one batch.
            match reader.read(log, at, u64::MAX, 1) {
                Ok(read) => {
                    let Some(run) = read.runs.first() else { break };
                    let span = run.next.0 - run.base.0;
                    records.push(Polled { offset: run.base.0, value: payload::read(&run.bytes, span) });
                    at = run.next.0;
                }
                Err(error) => {
                    poll(begin, at, std::mem::take(&mut records));
                    // A failed sync may have cost what did not wait for it; what is left shows after a restart.
                    if reader.health().stopped.is_some() {
                        return Ok(at);
                    }
                    let ErrorKind::Corrupt { resume } = error.kind() else { return Err(error) };
                    let (to, text) = (resume.0.max(at + 1), format!("{error:?}"));
                    self.done(What::Damage { log: Some(name(log)), from: at, to, text });
                    (begin, at) = (to, to);
                }
            }
        }
        poll(begin, next, records);
        Ok(at)
    }

    /// What the indexes say of a log fits together, unless something was damaged.
    fn headers(&mut self, reader: &Reader, log: u64, bytes: u64) {
        if self.is_damaged {
            return;
        }
        let Ok(heads) = reader.headers(log, 0, usize::MAX, 0) else { return };
        if heads.iter().map(|head| u64::from(head.size)).sum::<u64>() != bytes {
            self.besides(format!("log {log}: stat says {bytes} bytes, and there are others"));
        }
        for pair in heads.windows(2) {
            if pair[1].base.0 < pair[0].base.0 + u64::from(pair[0].span) {
                self.besides(format!("log {log}: batches overlap at {}", pair[1].base));
            }
            if pair[1].epoch < pair[0].epoch {
                self.besides(format!("log {log}: the epoch falls at {}", pair[1].base));
            }
        }
    }

    /// Holds everything so far to the rules.
    pub fn judge(&self, expected: &Expectations) -> Verdict {
        let report = check_future(&self.past, &self.recorder.history(), expected);
        Verdict { report, besides: self.besides.clone() }
    }

    /// Acknowledged sends and records read so far, without the past.
    pub fn counts(&self) -> (usize, usize) {
        let history = self.recorder.history();
        let acked = |what: &What| usize::from(matches!(what, What::Send { .. }));
        let read = |what: &What| if let What::Poll { records, .. } = what { records.len() } else { 0 };
        let ok = || history.ops.iter().filter(|op| op.is_ok());
        (ok().map(|op| acked(&op.what)).sum(), ok().map(|op| read(&op.what)).sum())
    }
}
