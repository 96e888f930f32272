//! What became of a round whose reply was lost, and of rows that were not as expected.
//!
//! ```text
//! before: turn t      round: t -> t+1      this: t -> t+2, as often as it takes
//! odd: the round was done.   even: it was not, and cannot be any more: it asks for turn t
//! ```
//! **Invariants.** What is decided here cannot change afterwards: the row has been written since. A row that lies behind
//! what was acknowledged stops the store.
//!
//! Deliberately absent: trying the round again; its writer does.

use std::collections::HashMap;

use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::LogId;

use crate::connection::{Connection, Failed};
use crate::plan::Change;
use crate::read::rows::{columns, row_of, rows};
use crate::row::{Row, closed};
use crate::store::Shared;
use crate::writer::Writer;

/// What became of a round.
pub(crate) enum Fate {
    /// Committed. The turns of those of its rows that are still ours.
    Done { turns: HashMap<LogId, u64> },
    /// Certainly nothing happened; it may be planned again.
    NotDone,
    /// It ends with this.
    Failed(StorageError),
}

/// What one row says of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Done,
    NotDone,
    /// Others have written over it.
    Nothing,
    /// The database has lost what was acknowledged.
    Rewound,
}

impl Writer {
    /// Finds out what became of a round whose reply was lost.
    pub(crate) async fn resolve(&mut self, changes: &[(LogId, Change)]) -> Fate {
        self.disconnect_if_closed();
        let mut said = false;
        loop {
            let shared = self.shared.clone();
            let Ok(connection) = self.connected().await else {
                let what = "the database ended before it said what became of a commit";
                return Fate::Failed(StorageError::new(ErrorKind::Unknown, what));
            };
            let found = match turn_rows(&shared, connection, changes).await {
                Ok(_) if connection.is_doubtful() => continue,
                Ok(found) => found,
                Err(Failed::Lost(_)) => {
                    self.disconnect();
                    continue;
                }
                Err(failed) => {
                    if failed.is_full() {
                        shared.note_full(true);
                    } else if !std::mem::replace(&mut said, true) {
                        tracing::warn!("cannot ask yet what became of a round, asking on: {failed}");
                    }
                    shared.clock.sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let words: Vec<Word> = changes.iter().map(|(log, change)| word(change, found.get(log))).collect();
            tracing::info!(?words, "found out what became of a round");
            if words.contains(&Word::Rewound) {
                return rewound(&shared, ErrorKind::Unknown);
            }
            let ours = |log: &LogId, change: &Change| {
                found.get(log).filter(|row| is_same(&change.before, row)).map(|row| row.turn)
            };
            if words.contains(&Word::Done) {
                let turns = changes.iter().filter_map(|(log, change)| Some((*log, ours(log, change)?)));
                return Fate::Done { turns: turns.collect() };
            }
            let mut mirror = shared.mirror.lock();
            for (log, change) in changes {
                match (ours(log, change), mirror.get_mut(*log)) {
                    (Some(turn), Some(known)) => known.row.turn = turn,
                    (None, Some(_)) => mirror.forget(*log),
                    (_, None) => {}
                }
            }
            if words.contains(&Word::NotDone) {
                return Fate::NotDone;
            }
            let what = "the reply to a commit was lost, and others have written since";
            return Fate::Failed(StorageError::new(ErrorKind::Unknown, what));
        }
    }

    fn disconnect_if_closed(&mut self) {
        // A connection that only doubts is still good, and the first to ask.
        if self.is_closed() {
            self.disconnect();
        }
    }

    /// Reads the rows that a round was wrong about.
    pub(crate) async fn refresh(&mut self, changes: &[(LogId, Change)]) -> Fate {
        let shared = self.shared.clone();
        let logs: Vec<LogId> = changes.iter().map(|(log, _)| *log).collect();
        let connection = match self.connected().await {
            Ok(connection) => connection,
            Err(error) => return Fate::Failed(error),
        };
        let found = match rows(connection, &shared.names, &logs).await {
            Ok(found) => found,
            Err(Failed::Lost(_)) => {
                self.disconnect();
                return Fate::NotDone;
            }
            Err(failed) => return Fate::Failed(failed.into_error("cannot read rows")),
        };
        let mut mirror = shared.mirror.lock();
        for log in logs {
            let Some(known) = mirror.get_mut(log) else { continue };
            match found.get(&log) {
                Some(row) if row.turn >= known.row.turn => {
                    let turned = Row { turn: row.turn, ..known.row };
                    if turned == *row {
                        known.row = turned;
                    } else {
                        mirror.forget(log);
                    }
                }
                _ => {
                    drop(mirror);
                    return rewound(&shared, ErrorKind::Closed);
                }
            }
        }
        Fate::NotDone
    }
}

fn is_same(before: &Row, now: &Row) -> bool {
    (before.epoch, before.owner) == (now.epoch, now.owner)
}

fn word(change: &Change, row: Option<&Row>) -> Word {
    let (before, after) = (&change.before, &change.after);
    let Some(row) = row.filter(|row| row.turn >= before.turn && row.epoch >= before.epoch) else {
        return Word::Rewound;
    };
    let appended = after.next > before.next;
    if is_same(before, row) {
        let odd = (row.turn - before.turn) % 2 == 1;
        return if odd { Word::Done } else { Word::NotDone };
    }
    if appended && row.commit == after.commit {
        Word::Done
    } else if appended && row.next < after.next {
        Word::NotDone
    } else {
        Word::Nothing
    }
}

async fn turn_rows(
    shared: &Shared,
    connection: &Connection,
    changes: &[(LogId, Change)],
) -> Result<HashMap<LogId, Row>, Failed> {
    let sql = format!(
        "UPDATE {} l SET turn = l.turn + 2 FROM unnest($1::int8[]) AS r(id) WHERE l.id = r.id RETURNING {}",
        shared.names.table("log"),
        columns("l")
    );
    let ids: Vec<i64> = changes.iter().map(|(log, _)| log.0.cast_signed()).collect();
    Ok(connection.query(&sql, &[&ids]).await?.iter().map(row_of).collect())
}

fn rewound(shared: &Shared, kind: ErrorKind) -> Fate {
    shared.close(
        "the database lies behind what it acknowledged: it was restored or promoted; restart the broker to go on from \
         what it has"
            .to_owned(),
    );
    Fate::Failed(match kind {
        ErrorKind::Closed => closed(),
        kind => StorageError::new(kind, "the database lies behind what it acknowledged"),
    })
}

#[cfg(test)]
mod tests {
    use ferrymq_types::{CommitId, Epoch, Offset, OwnerId};

    use super::*;
    use crate::plan::Plan;
    use crate::row::Holes;

    fn commit(sequence: u64) -> Option<CommitId> {
        Some(CommitId { writer: 1, sequence })
    }

    /// From turn 10 and offset 5 to offset `next`.
    fn change(next: u64) -> Change {
        let before = Row {
            epoch: Epoch(3),
            owner: OwnerId(7),
            turn: 10,
            next: Offset(5),
            commit: commit(1),
            ..Row::default()
        };
        let mut plan = Plan::default();
        plan.know(LogId(1), Some((before, Holes::default(), 0)));
        let trim = ferrymq_storage::Op {
            log: LogId(1),
            epoch: Epoch(3),
            owner: OwnerId(7),
            action: ferrymq_storage::Action::Trim(Offset(0)),
        };
        plan.apply(&[trim]).unwrap();
        let (_, mut change) = plan.changes().remove(0);
        change.after.next = Offset(next);
        change.after.commit = if next > 5 { commit(2) } else { commit(1) };
        change
    }

    #[test]
    fn a_row_tells_what_became_of_a_round() {
        let row = change(8).before;
        let turned = |turn, next, sequence| Row { turn, next: Offset(next), commit: commit(sequence), ..row };
        let taken = |turn, next, sequence| Row { epoch: Epoch(4), ..turned(turn, next, sequence) };
        for (change, row, expected) in [
            (change(8), turned(12, 5, 1), Word::NotDone),
            (change(8), turned(13, 8, 2), Word::Done),
            // It took three attempts to ask.
            (change(8), turned(16, 5, 1), Word::NotDone),
            (change(8), turned(17, 8, 2), Word::Done),
            // A round that only trims has no commit of its own.
            (change(5), turned(12, 5, 1), Word::NotDone),
            (change(5), turned(13, 5, 1), Word::Done),
            (change(8), taken(14, 5, 1), Word::NotDone),
            (change(8), taken(15, 8, 2), Word::Done),
            (change(8), taken(20, 9, 5), Word::Nothing),
            (change(5), taken(15, 5, 1), Word::Nothing),
            (change(8), turned(9, 5, 1), Word::Rewound),
            (change(8), Row { epoch: Epoch(2), ..turned(12, 5, 1) }, Word::Rewound),
        ] {
            assert_eq!(word(&change, Some(&row)), expected, "{row:?}");
        }
        assert_eq!(word(&change(8), None), Word::Rewound);
    }
}
