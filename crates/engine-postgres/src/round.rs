//! Groups become a statement, and its answer their outcomes.
//!
//! **Invariants.** What is told as done was committed, and the mirror says so before anybody is told. A refusal is told
//! only if nothing happened.
//!
//! Deliberately absent: what a lost reply meant; see `resolve`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ferrymq_storage::{Action, ErrorKind, Group, Outcome, StorageError};
use ferrymq_types::LogId;
use tokio_postgres::error::SqlState;

use crate::claim::is_fence;
use crate::connection::{Connection, Failed};
use crate::options::SeededBug;
use crate::plan::{Change, Plan, looks_at};
use crate::read::{live_batches, place, rows};
use crate::resolve::Fate;
use crate::statement;
use crate::store::{Shared, count};
use crate::writer::Writer;

/// How often a round is planned again because rows were not as expected.
const ATTEMPTS: usize = 100;

/// How long to wait for another table in place of one that was dropped.
const PAUSE_FOR_A_TABLE: Duration = Duration::from_millis(50);

/// What became of a round's statement.
enum Written {
    Done,
    /// Rows are not as the plan supposed; nothing happened.
    Stale,
    /// Nothing happened, and the same may be tried again.
    Again,
    /// Nothing happened: the table is not there any more.
    NoTable,
    /// Nothing happened.
    Refused(StorageError),
    /// Nobody knows yet.
    Lost,
}

impl Writer {
    /// Commits groups as one round; one outcome for each.
    pub(crate) async fn commit(&mut self, groups: &[Group]) -> Vec<Outcome> {
        for _ in 0..ATTEMPTS {
            let plan = match self.plan(groups).await {
                Ok(Ok(plan)) => plan,
                Ok(Err(Failed::Lost(_))) => {
                    self.disconnect();
                    continue;
                }
                Ok(Err(failed)) => return all(groups, &failed.into_error("cannot plan a round")),
                Err(error) => return all(groups, &error),
            };
            let mut plan = plan;
            let mut outcomes: Vec<Outcome> = groups.iter().map(|group| plan.apply(group)).collect();
            let changes = plan.changes();
            if changes.is_empty() {
                return outcomes;
            }
            let shared = self.shared.clone();
            let segment = enter(&shared, &changes);
            let fate = self.see_through(&changes, segment).await;
            shared.segments.lock().leave(segment);
            match fate {
                Fate::Done { turns } => {
                    shared.note_full(false);
                    count(&shared.counters.bytes_appended, bytes_of(&changes));
                    settle(&shared, changes, &turns, segment);
                    count(&shared.counters.rounds, 1);
                    count(
                        &shared.counters.groups,
                        outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64,
                    );
                    return outcomes;
                }
                Fate::NotDone => {}
                Fate::Failed(error) => {
                    if error.kind() == ErrorKind::Full {
                        shared.note_full(true);
                    }
                    for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
                        *outcome = Err(error.clone());
                    }
                    return outcomes;
                }
            }
        }
        all(groups, &StorageError::new(ErrorKind::Unavailable, "rows change under each round"))
    }

    /// Runs the statement until it is known what became of it.
    async fn see_through(&mut self, changes: &[(LogId, Change)], segment: i64) -> Fate {
        let written = match self.connected().await {
            Ok(_) => self.write(changes, segment).await,
            Err(error) => return Fate::Failed(error),
        };
        match written {
            Written::Done => done(changes),
            Written::Again => Fate::NotDone,
            Written::NoTable => {
                let shared = self.shared.clone();
                shared.segments.lock().lost(segment, shared.clock.now());
                shared.mirror.lock().forget_extents();
                shared.housekeeping.notify_one();
                shared.clock.sleep(PAUSE_FOR_A_TABLE).await;
                Fate::NotDone
            }
            Written::Stale => {
                count(&self.shared.counters.stale_rounds, 1);
                self.refresh(changes).await
            }
            Written::Refused(error) => Fate::Failed(error),
            Written::Lost if self.shared.options.has(SeededBug::BlindRetry) => Fate::NotDone,
            Written::Lost if self.shared.options.has(SeededBug::BelieveLostReply) => done(changes),
            Written::Lost => self.resolve(changes).await,
        }
    }

    async fn write(&mut self, changes: &[(LogId, Change)], segment: i64) -> Written {
        let shared = self.shared.clone();
        let statement = {
            let mirror = shared.mirror.lock();
            let known = |log| mirror.get(log).and_then(|known| known.segment);
            let fenced = !shared.options.has(SeededBug::WriteUnfenced);
            statement::round(&shared.names, (segment, fenced), changes, known)
        };
        let Ok(connection) = self.connected().await else { return Written::Again };
        let replaces = changes.iter().any(|(_, change)| change.replaces());
        let result = if replaces {
            write_replacing(&shared, connection, changes, segment, &statement).await
        } else {
            connection.query(&statement.sql, &statement.values()).await.map(drop)
        };
        match result {
            Ok(()) if connection.is_doubtful() => Written::Lost,
            Ok(()) => Written::Done,
            Err(failed) if is_fence(&failed) => Written::Stale,
            Err(failed) if failed.is_passing() => Written::Again,
            Err(failed) if failed.code() == Some(&SqlState::UNDEFINED_TABLE) => Written::NoTable,
            Err(Failed::Lost(why)) => {
                tracing::warn!("the reply to a round was lost: {why}");
                count(&shared.counters.lost_replies, 1);
                Written::Lost
            }
            Err(failed) => {
                if !failed.is_full() {
                    tracing::error!("the database refused a round: {failed}");
                }
                Written::Refused(failed.into_error("the database refused to write"))
            }
        }
    }

    /// Gathers what is known of the groups' logs.
    async fn plan(&mut self, groups: &[Group]) -> Result<Result<Plan, Failed>, StorageError> {
        let shared = self.shared.clone();
        let logs: HashSet<LogId> = groups.iter().flatten().map(|op| op.log).collect();
        let mut plan = Plan::default();
        let mut strangers = Vec::new();
        let mut starts = HashMap::new();
        {
            let mirror = shared.mirror.lock();
            for log in logs {
                match mirror.get(log) {
                    Some(known) => {
                        starts.insert(log, known.row.start);
                        plan.know(log, Some((known.row, known.holes.clone(), known.memory)));
                    }
                    None => strangers.push(log),
                }
            }
        }
        let looks: Vec<_> = groups
            .iter()
            .flatten()
            .filter(|op| !matches!(op.action, Action::Append(_) | Action::Delete))
            .collect();
        if strangers.is_empty() && looks.is_empty() {
            return Ok(Ok(plan));
        }
        let connection = self.connected().await?;
        let strange = async {
            if strangers.is_empty() {
                return Ok(());
            }
            let rows = rows::rows(connection, &shared.names, &strangers).await?;
            let mut holes = rows::holes(connection, &shared.names, &strangers).await?;
            for log in &strangers {
                let row = rows.get(log).copied();
                starts.extend(row.map(|row| (*log, row.start)));
                plan.know(*log, row.map(|row| (row, holes.remove(log).unwrap_or_default(), 0)));
            }
            Ok(())
        };
        if let Err(failed) = strange.await {
            return Ok(Err(failed));
        }
        for op in looks {
            let Some(start) = starts.get(&op.log) else { continue };
            for range in looks_at(op, *start) {
                match batches(&shared, connection, op.log, range).await {
                    Ok(live) => plan.know_batches(op.log, live),
                    Err(failed) => return Ok(Err(failed)),
                }
            }
        }
        Ok(Ok(plan))
    }
}

fn done(changes: &[(LogId, Change)]) -> Fate {
    Fate::Done { turns: changes.iter().map(|(log, change)| (*log, change.before.turn + 1)).collect() }
}

/// The live batches of a range, from memory if they are there.
async fn batches(
    shared: &Shared,
    connection: &Connection,
    log: LogId,
    range: std::ops::Range<ferrymq_types::Offset>,
) -> Result<Vec<(u64, crate::plan::Live)>, Failed> {
    if range.start >= range.end {
        return Ok(Vec::new());
    }
    {
        let mirror = shared.mirror.lock();
        if let Some(known) =
            mirror.get(log).filter(|known| known.tail.covers(range.start.max(known.row.start)))
        {
            return Ok(known.tail.live(range.start.max(known.row.start), range.end));
        }
    }
    match place(shared, connection, log).await? {
        None => Ok(Vec::new()),
        Some(place) => live_batches(connection, &shared.names, &place, range.start, range.end).await,
    }
}

/// Bytes of the batches that come with these changes.
fn bytes_of(changes: &[(LogId, Change)]) -> u64 {
    let inserts = changes.iter().flat_map(|(_, change)| &change.inserts);
    inserts.map(|insert| insert.batch.bytes.len() as u64).sum()
}

/// Takes part in the active segment.
fn enter(shared: &Shared, changes: &[(LogId, Change)]) -> i64 {
    let bytes = bytes_of(changes);
    let (max, age) = (shared.options.segment_bytes, shared.options.segment_age);
    let (segment, rotated) = shared.segments.lock().enter(bytes, max, age, shared.clock.now());
    if rotated {
        shared.housekeeping.notify_one();
    }
    segment
}

/// Makes the mirror say what was committed.
fn settle(shared: &Shared, changes: Vec<(LogId, Change)>, turns: &HashMap<LogId, u64>, segment: i64) {
    let mut mirror = shared.mirror.lock();
    for (log, change) in changes {
        match turns.get(&log) {
            Some(turn) => mirror.changed(log, change, *turn, segment),
            // Done, but somebody else has it since.
            None => mirror.forget(log),
        }
    }
}

/// A round that replaces batches: some rows go before others come, so it takes several statements.
async fn write_replacing(
    shared: &Shared,
    connection: &Connection,
    changes: &[(LogId, Change)],
    segment: i64,
    fence: &statement::Statement,
) -> Result<(), Failed> {
    let mut replacing = Vec::new();
    for (log, change) in changes.iter().filter(|(_, change)| change.replaces()) {
        if let Some(place) = place(shared, connection, *log).await? {
            replacing.push((log, change, place));
        }
    }
    let result = async {
        connection.batch("BEGIN").await?;
        connection.query(&fence.sql, &fence.values()).await?;
        for (log, change, place) in &replacing {
            // What came with this very round has no extent before it.
            let of = |base: u64| match place.extents.is_empty() || base >= change.before.next.0 {
                true => segment,
                false => place.extents[place.index(base)].1,
            };
            for base in &change.replaced {
                for table in [shared.names.batches(of(*base)), shared.names.memory(of(*base))] {
                    let sql = format!("DELETE FROM {table} WHERE log = $1::int8 AND base = $2::int8");
                    connection.query(&sql, &[&log.0.cast_signed(), &base.cast_signed()]).await?;
                }
            }
            for insert in change.inserts.iter().filter(|insert| insert.replaces) {
                let segment = of(insert.batch.base.0);
                let names = &shared.names;
                let table = if insert.memory { names.memory(segment) } else { names.batches(segment) };
                let mut statement = statement::Statement::default();
                statement::insert(&mut statement, &table, &[(**log, insert)]);
                connection.query(&statement.sql, &statement.values()).await?;
            }
        }
        connection.batch("COMMIT").await
    };
    let result = result.await;
    if matches!(result, Err(Failed::Refused(_))) {
        connection.batch("ROLLBACK").await?;
    }
    result
}

fn all(groups: &[Group], error: &StorageError) -> Vec<Outcome> {
    groups.iter().map(|_| Err(error.clone())).collect()
}
