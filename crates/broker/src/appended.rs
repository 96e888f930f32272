//! When a partition's records were appended, as far as the broker itself knows: what keeps retention from
//! believing a producer's timestamps alone.
//!
//! A [`Mark`] says that every record below an offset was appended at or before a time. Retention sets them while
//! it looks at a partition, a sixteenth of `retention.ms` apart, and stores them under `appended/<log>`, so that
//! a restart forgets nothing. Kafka looks at a segment file's time of change to the same end.
//!
//! **Invariants.** A mark never claims an earlier time than the true one; where nothing is known (appended
//! since the last mark, and the broker was restarted), the time of the start is claimed. So a record is
//! never taken for older than it is. Leaving a mark out only makes records seem younger.
//!
//! Deliberately absent: exactness. A mark's time is that of the last record below it.

use std::collections::HashMap;
use std::sync::Arc;

use ferrymq_storage::{Entry, ErrorKind, MetaStore, Put, Revision, StorageError};
use ferrymq_types::{LogId, Offset};
use serde::{Deserialize, Serialize};

use crate::broker::{decode, encode};

/// The version of the stored marks.
const MARKS_VERSION: u32 = 1;
/// Where they lie in the state store.
const KEY: &str = "appended/";
/// `retention.ms` over this is how far marks lie apart.
pub(crate) const MARKS_PER_RETENTION: i64 = 16;
/// Marks kept per partition; every second one goes beyond that.
const MARKS_MAX: usize = 64;
/// Changed entries stored in one transaction.
const PUTS_PER_TXN: usize = 256;

/// Every record below an offset was appended at or before a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    /// The offset behind the records meant.
    pub(crate) until: u64,
    /// The time, in milliseconds since 1970.
    pub(crate) ms: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u32,
    marks: Vec<Mark>,
}

/// The marks of one partition: offsets and times rise.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Marks {
    list: Vec<Mark>,
    /// Where the partition ended when it was last looked at.
    seen: Option<u64>,
}

impl Marks {
    /// Takes marks from the future back to `now_ms`, by which all that is here was appended: they were set
    /// while the clock was ahead. Whether there were any.
    pub(crate) fn correct(&mut self, now_ms: i64) -> bool {
        let ahead = self.list.iter_mut().filter(|mark| mark.ms > now_ms);
        ahead.map(|mark| mark.ms = now_ms).count() > 0
    }

    /// Takes a look: the partition ends at `next`, and its last append was at `last_ms` or before. Whether
    /// there is something new to store.
    pub(crate) fn look(&mut self, start: Offset, next: Offset, last_ms: i64, spacing_ms: i64) -> bool {
        let before = self.list.len();
        self.list.retain(|mark| mark.until > start.0);
        let forgotten = self.list.len() != before;
        // The first look of a run finds what was there at the start, so nothing need be in flux.
        let idle = self.seen.is_none_or(|seen| seen == next.0);
        self.seen = Some(next.0);
        let last = self.list.last().copied();
        if next <= start || last.is_some_and(|last| last.until >= next.0) {
            return forgotten;
        }
        let ms = last.map_or(last_ms, |last| last.ms.max(last_ms));
        if !idle && last.is_some_and(|last| ms - last.ms < spacing_ms) {
            return forgotten;
        }
        // Many short rests must not make many marks: the newest moves on until it is far enough from the one
        // before it.
        if self.list.len() >= 2 && ms - self.list[self.list.len() - 2].ms < spacing_ms {
            self.list.pop();
        }
        self.list.push(Mark { until: next.0, ms });
        if self.list.len() > MARKS_MAX {
            let mut index = 0;
            self.list.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        true
    }

    /// The offset below which every record was certainly appended before `cutoff_ms`.
    pub(crate) fn older_than(&self, cutoff_ms: i64) -> Offset {
        let older = self.list.iter().rev().find(|mark| mark.ms < cutoff_ms);
        Offset(older.map_or(0, |mark| mark.until))
    }
}

/// The marks of all partitions, as stored and as they are now.
pub(crate) struct AllMarks {
    state: Arc<dyn MetaStore>,
    by_log: HashMap<LogId, Marks>,
    changed: Vec<LogId>,
}

impl AllMarks {
    /// Reads them back.
    ///
    /// # Errors
    /// Whatever the store answers; `Internal` for marks that cannot be read.
    pub(crate) async fn load(state: Arc<dyn MetaStore>) -> Result<AllMarks, StorageError> {
        let mut by_log = HashMap::new();
        for entry in &state.list(KEY, Revision(0)).await?.entries {
            let (log, list) = read(entry)?;
            by_log.insert(log, Marks { list, seen: None });
        }
        Ok(AllMarks { state, by_log, changed: Vec::new() })
    }

    /// The marks of one partition.
    pub(crate) fn of(&mut self, log: LogId) -> &mut Marks {
        self.by_log.entry(log).or_default()
    }

    /// Notes that a partition's marks are to be stored.
    pub(crate) fn changed(&mut self, log: LogId) {
        self.changed.push(log);
    }

    /// Forgets the partitions that are no more.
    pub(crate) fn keep_only(&mut self, there: impl Fn(LogId) -> bool) {
        let gone: Vec<LogId> = self.by_log.keys().copied().filter(|log| !there(*log)).collect();
        for log in gone {
            self.by_log.remove(&log);
            self.changed.push(log);
        }
    }

    /// Stores what changed. What could not be stored is tried again the next time.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub(crate) async fn store(&mut self) -> Result<(), StorageError> {
        while !self.changed.is_empty() {
            let from = self.changed.len().saturating_sub(PUTS_PER_TXN);
            let puts: Result<Vec<Put>, StorageError> =
                self.changed[from..].iter().map(|log| put(*log, self.by_log.get(log))).collect();
            self.state.txn(Vec::new(), puts?).await?;
            self.changed.truncate(from);
        }
        Ok(())
    }
}

fn put(log: LogId, marks: Option<&Marks>) -> Result<Put, StorageError> {
    let list = marks.map(|marks| marks.list.clone()).filter(|list| !list.is_empty());
    let value = list.map(|marks| encode(&Stored { v: MARKS_VERSION, marks })).transpose()?;
    Ok(Put { key: format!("{KEY}{log}"), value })
}

fn read(entry: &Entry) -> Result<(LogId, Vec<Mark>), StorageError> {
    let refused = |text: String| StorageError::new(ErrorKind::Internal, text);
    let Some(log) = entry.key.strip_prefix(KEY).and_then(|log| log.parse().ok()) else {
        return Err(refused(format!("stored record {} has no log in its name", entry.key)));
    };
    let stored: Stored = decode(entry)?;
    if stored.v != MARKS_VERSION {
        let text = format!("stored record {} has version {}: a newer FerryMQ wrote it", entry.key, stored.v);
        return Err(refused(text));
    }
    Ok((LogId(log), stored.marks))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Offset = Offset(0);

    #[test]
    fn a_busy_partition_is_marked_now_and_then_and_a_resting_one_once() {
        let mut marks = Marks::default();
        assert!(marks.look(START, Offset(10), 1_000, 100), "the first look finds it at rest");
        assert!(!marks.look(START, Offset(20), 1_050, 100), "busy, and the last mark is young");
        assert!(marks.look(START, Offset(30), 1_100, 100), "busy, and the last mark is old enough");
        assert!(!marks.look(START, Offset(40), 1_110, 100));
        assert!(marks.look(START, Offset(40), 1_110, 100), "at rest");
        assert!(!marks.look(START, Offset(40), 1_110, 100), "and that is known");
        let mark = |until, ms| Mark { until, ms };
        assert_eq!(marks.list, [mark(10, 1_000), mark(30, 1_100), mark(40, 1_110)]);
        assert_eq!(marks.older_than(1_100), Offset(10));
        assert_eq!(marks.older_than(1_101), Offset(30));
        assert_eq!(marks.older_than(1_000), Offset(0));
        assert!(marks.look(Offset(30), Offset(40), 1_110, 100), "marks below the start are forgotten");
        assert_eq!(marks.list, [mark(40, 1_110)]);
        assert!(!marks.correct(1_110) && marks.correct(1_100), "the clock was ahead");
        assert_eq!(marks.list, [mark(40, 1_100)]);
    }

    #[test]
    fn marks_stay_few_and_never_claim_less_than_the_truth() {
        let mut marks = Marks::default();
        for step in 0..10_000_u64 {
            let ms = i64::try_from(step).unwrap_or_default() * 7;
            marks.look(START, Offset(step + 1), ms, 5);
            assert!(marks.list.len() <= MARKS_MAX);
        }
        // Offset `n` was appended at `7 n`: nothing above may be taken for older than a cutoff.
        for cutoff in (0..70_000).step_by(11) {
            let older = marks.older_than(cutoff).0;
            assert!(older == 0 || i64::try_from(older - 1).unwrap_or_default() * 7 < cutoff);
        }
        for step in 0..1_000_u64 {
            let mut rests = Marks::default();
            rests.look(START, Offset(step + 1), 0, 1_000_000);
            assert!(rests.list.len() <= 2, "rests within one spacing share a mark");
        }
    }

    /// The golden form: version 1 is read for as long as there are directories that hold it.
    #[test]
    fn stored_marks_read_back_and_newer_ones_are_refused() {
        let entry = |text: &str| Entry {
            key: "appended/1024".to_owned(),
            value: bytes::Bytes::from(text.to_owned()),
            revision: Revision(1),
        };
        let golden = r#"{"v":1,"marks":[{"until":10,"ms":1000},{"until":30,"ms":1100}]}"#;
        let (log, list) = read(&entry(golden)).unwrap();
        assert_eq!((log, list.len()), (LogId(1024), 2));
        let again = put(log, Some(&Marks { list, seen: None })).unwrap();
        assert_eq!((again.key.as_str(), again.value.as_deref()), ("appended/1024", Some(golden.as_bytes())));
        for bad in [r#"{"v":2,"marks":[]}"#, "{", r#"{"v":1,"marks":[],"more":1}"#] {
            let error = read(&entry(bad)).unwrap_err();
            assert!(error.to_string().contains("newer FerryMQ"), "{error}");
        }
    }
}
