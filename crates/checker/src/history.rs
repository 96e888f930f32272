//! What was asked of a broker and what it answered, in the order in which the test saw it.
//!
//! **Invariants.** Every operation has a place where it began and, unless it is still unknown, one where it
//! ended, from one counter: if one operation ended before another began, it has the smaller number. Values are
//! unique per log and writer, and a writer counts them up in the order in which it sends. What is handed over
//! together and done in order may be noted one after the other.
//!
//! File format: JSON lines. The first is `{"format":1}`, each other one operation.
//!
//! Deliberately absent: clocks. They differ between machines and step.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// What a message carries so that it can be told from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value {
    /// Who sent it.
    pub writer: String,
    /// Which of the writer's messages to this log; rises in the order of sending.
    pub number: u64,
}

impl Value {
    /// The `number`-th value of a writer.
    #[must_use]
    pub fn new(writer: &str, number: u64) -> Value {
        Value { writer: writer.to_owned(), number }
    }

    /// As the bytes of a message.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}/{}", self.writer, self.number)
    }

    /// From the bytes of a message.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Value> {
        let (writer, number) = text.rsplit_once('/')?;
        Some(Value::new(writer, number.parse().ok()?))
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.writer, self.number)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was acknowledged.
    Ok,
    /// It certainly did not happen: the broker refused it.
    Fail,
    /// Nobody knows: no answer in time, a dropped connection, an error that does not say.
    Info,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polled {
    /// Its offset.
    pub offset: u64,
    /// What it carries.
    pub value: Value,
}

/// What a record that was acknowledged survives, at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Survives {
    /// A power cut.
    #[default]
    PowerCut,
    /// The end of the process; not that of the machine.
    Kill,
    /// Nothing.
    Nothing,
}

/// What else is known of a send; most tests have no need of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// How many offsets it takes, from its own on.
    pub span: u32,
    /// The epoch its sender held the log in.
    pub epoch: Option<u32>,
    /// Sends of one group stand or fall together, whatever logs they are for.
    pub group: Option<u64>,
    /// What it was promised to survive.
    pub survives: Survives,
    /// It takes the place of what lay at its offset, which is removed by an operation of its own.
    pub replaces: bool,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { span: 1, epoch: None, group: None, survives: Survives::PowerCut, replaces: false }
    }
}

impl Terms {
    fn are_plain(&self) -> bool {
        *self == Terms::default()
    }
}

/// What was done, with what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum What {
    /// One message was sent.
    Send {
        /// Where to, such as `orders-0`.
        log: String,
        /// What it carries.
        value: Value,
        /// The offset it got, if it was told; that which it asked for, if senders choose.
        offset: Option<u64>,
        /// What else is known of it.
        #[serde(flatten, skip_serializing_if = "Terms::are_plain")]
        terms: Terms,
    },
    /// What lies wholly between two offsets of a log was removed: trimmed, discarded, compacted, deleted.
    Remove {
        /// Which log.
        log: String,
        /// The first offset.
        from: u64,
        /// The offset behind the last.
        to: u64,
    },
    /// An owner took a log over.
    Claim {
        /// Which log.
        log: String,
        /// The epoch it was given.
        epoch: Option<u32>,
    },
    /// The broker ended and was started again; it failed if the broker did not come back.
    Restart {
        /// Whether the machine lost its power.
        power_cut: bool,
    },
    /// The broker reported damage.
    Damage {
        /// In which log; `None`: nobody knows in which.
        log: Option<String>,
        /// The first offset that it says cannot be read.
        from: u64,
        /// The offset behind the last.
        to: u64,
        /// In its words.
        text: String,
    },
    /// A log was read.
    Poll {
        /// Which.
        log: String,
        /// The position that was asked for.
        from: u64,
        /// The position from which the next poll goes on: everything in between was looked at.
        next: u64,
        /// What was there.
        records: Vec<Polled>,
        /// Part of the last reading of the whole log, after all faults were healed.
        last: bool,
    },
    /// A log's high watermark was asked for.
    Watermark {
        /// Which log.
        log: String,
        /// What was answered.
        offset: Option<u64>,
    },
    /// A consumer committed its position.
    CommitOffset {
        /// For which group.
        group: String,
        /// In which log.
        log: String,
        /// Which position.
        offset: u64,
    },
    /// A consumer asked for the position.
    FetchOffset {
        /// Of which group.
        group: String,
        /// In which log.
        log: String,
        /// What was answered; `None`: there is none.
        offset: Option<u64>,
    },
    /// A topic was created.
    CreateTopic {
        /// Its name.
        topic: String,
    },
    /// A topic was deleted.
    DeleteTopic {
        /// Its name.
        topic: String,
    },
    /// The topics were listed.
    ListTopics {
        /// What was answered.
        topics: Vec<String>,
    },
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Who did it.
    pub process: String,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// How.
    pub outcome: Outcome,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

impl Op {
    /// Whether it was acknowledged.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it had ended before another began. What is unknown may still happen and never ends.
    #[must_use]
    pub fn is_before(&self, other: &Op) -> bool {
        self.outcome != Outcome::Info && self.ended < other.began
    }
}

/// All operations of a run, in the order in which they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The operations.
    pub ops: Vec<Op>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
}

impl History {
    /// Writes it as JSON lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, &Head { format: FORMAT })?;
        for op in &self.ops {
            out.write_all(b"\n")?;
            serde_json::to_writer(&mut out, op)?;
        }
        out.write_all(b"\n")
    }

    /// Reads what [`History::write_to`] wrote.
    ///
    /// # Errors
    /// Those of `from`, and `InvalidData`.
    pub fn read_from(from: impl BufRead) -> io::Result<History> {
        let mut lines = from.lines();
        let head: Head = serde_json::from_str(&lines.next().unwrap_or_else(|| Ok(String::new()))?)?;
        if head.format != FORMAT {
            let what = format!("history has format {}, only {FORMAT} is known", head.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let ops = lines.map(|line| Ok(serde_json::from_str(&line?)?));
        Ok(History { ops: ops.collect::<io::Result<_>>()? })
    }
}

/// Records operations of many threads or tasks. Cheap to clone: clones record into the same history.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    inner: Arc<Mutex<Recorded>>,
}

#[derive(Debug, Default)]
struct Recorded {
    clock: u64,
    ops: Vec<Op>,
}

impl Recorded {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// An operation that has begun. Dropped without a word, it is unknown.
#[derive(Debug)]
pub struct Pending {
    recorder: Recorder,
    op: Option<Op>,
}

impl Recorder {
    /// A recorder of an empty history.
    #[must_use]
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// Begins an operation: call this before anything is sent.
    #[must_use]
    pub fn begin(&self, process: &str, what: What) -> Pending {
        let began = self.inner.lock().tick();
        let op = Op { process: process.to_owned(), began, ended: began, outcome: Outcome::Info, what };
        Pending { recorder: self.clone(), op: Some(op) }
    }

    /// A recorder of what came after a history, which it does not repeat.
    #[must_use]
    pub fn after(past: &History) -> Recorder {
        let clock = past.ops.iter().map(|op| op.ended).max().unwrap_or(0);
        Recorder { inner: Arc::new(Mutex::new(Recorded { clock, ops: Vec::new() })) }
    }

    /// The history so far, without what has not ended.
    #[must_use]
    pub fn history(&self) -> History {
        History { ops: self.inner.lock().ops.clone() }
    }
}

impl Pending {
    /// It was acknowledged, as asked.
    pub fn ok(self) {
        self.end(Outcome::Ok, |_| {});
    }

    /// It was acknowledged; `answer` fills in what was answered.
    pub fn ok_with(self, answer: impl FnOnce(&mut What)) {
        self.end(Outcome::Ok, answer);
    }

    /// A send was acknowledged with an offset.
    pub fn sent_at(self, at: u64) {
        self.ok_with(|what| {
            if let What::Send { offset, .. } = what {
                *offset = Some(at);
            }
        });
    }

    /// It was refused and certainly did not happen. Never for a timeout.
    pub fn fail(self) {
        self.end(Outcome::Fail, |_| {});
    }

    /// Nobody knows.
    pub fn info(self) {
        drop(self);
    }

    fn end(mut self, outcome: Outcome, answer: impl FnOnce(&mut What)) {
        if let Some(op) = &mut self.op {
            op.outcome = outcome;
            answer(&mut op.what);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut op) = self.op.take() {
            let mut recorded = self.recorder.inner.lock();
            op.ended = recorded.tick();
            recorded.ops.push(op);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(number: u64) -> What {
        What::Send {
            log: "l".to_owned(),
            value: Value::new("a/b", number),
            offset: None,
            terms: Terms::default(),
        }
    }

    #[test]
    fn what_nobody_answers_is_unknown() {
        let recorder = Recorder::new();
        drop(recorder.begin("p", send(1)));
        recorder.begin("p", send(2)).info();
        recorder.begin("p", send(3)).fail();
        recorder.begin("p", send(4)).sent_at(7);
        let ops = recorder.history().ops;
        let outcomes: Vec<_> = ops.iter().map(|op| op.outcome).collect();
        assert_eq!(outcomes, [Outcome::Info, Outcome::Info, Outcome::Fail, Outcome::Ok]);
        assert!(matches!(ops[3].what, What::Send { offset: Some(7), .. }));
        assert!(ops[2].is_before(&ops[3]) && !ops[3].is_before(&ops[2]));
        assert!(!ops[0].is_before(&ops[3]), "what is unknown may still happen");
    }

    #[test]
    fn a_history_survives_its_file() {
        let recorder = Recorder::new();
        recorder.begin("p", send(4)).sent_at(7);
        recorder.begin("p", send(5)).fail();
        recorder.begin("c", What::ListTopics { topics: vec!["t".to_owned()] }).ok();
        let records = vec![Polled { offset: 7, value: Value::new("a/b", 4) }];
        recorder.begin("c", What::Poll { log: "l".to_owned(), from: 0, next: 8, records, last: true }).ok();
        let mut file = Vec::new();
        recorder.history().write_to(&mut file).unwrap();
        assert_eq!(History::read_from(&file[..]).unwrap(), recorder.history());
        let text = String::from_utf8(file).unwrap();
        let first = r#"{"process":"p","began":1,"ended":2,"outcome":"ok","do":"send","log":"l","value":{"writer":"a/b","number":4},"offset":7}"#;
        assert_eq!(text.lines().nth(1), Some(first), "the format is pinned");
        let newer = text.replace(r#""format":1"#, r#""format":2"#);
        assert!(History::read_from(newer.as_bytes()).is_err());
        assert!(History::read_from(&b""[..]).is_err());
        assert!(History::read_from(text.replace("\"ok\"", "\"okay\"").as_bytes()).is_err());
    }

    #[test]
    fn values_are_text() {
        let value = Value::new("w/1", 5);
        assert_eq!(Value::from_text(&value.to_text()), Some(value));
        assert_eq!(Value::from_text("nonsense"), None);
        assert_eq!(Value::from_text("w/x"), None);
    }
}
