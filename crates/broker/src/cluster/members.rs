//! Who lives, by how long the record of each has not moved.
//!
//! **Invariants.** Silence is counted on this broker's own clock, and only between looks that were answered: a look that
//! comes late, because this broker was paused or the store away, counts for [`STEP_MAX`] at most. Whoever moves is
//! alive from then on.
//!
//! Deliberately absent: this broker itself, which judges itself more strictly; see `view`.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrymq_storage::Revision;

use super::SILENCE;
use super::record::BrokerRecord;

/// What the time between two looks counts for at most.
pub(super) const STEP_MAX: Duration = Duration::from_secs(1);

/// Who there is.
#[derive(Debug, Default)]
pub(super) struct Members {
    seen: BTreeMap<i32, Seen>,
    looked: Option<Duration>,
}

#[derive(Debug)]
struct Seen {
    record: BrokerRecord,
    revision: Revision,
    silent: Duration,
}

impl Members {
    /// A look at `now` was answered: records that moved, ids whose records went; `all` if nothing else is there.
    pub(super) fn looked(
        &mut self,
        now: Duration,
        moved: Vec<(Revision, BrokerRecord)>,
        gone: &[i32],
        all: bool,
    ) {
        let step = self.looked.map_or(Duration::ZERO, |looked| now.saturating_sub(looked).min(STEP_MAX));
        self.looked = Some(now);
        if all {
            self.seen.retain(|id, _| moved.iter().any(|(_, record)| record.id == *id));
        }
        for id in gone {
            self.seen.remove(id);
        }
        self.seen.values_mut().for_each(|seen| seen.silent = seen.silent.saturating_add(step));
        for (revision, record) in moved {
            match self.seen.get(&record.id) {
                Some(seen) if seen.revision == revision => {}
                _ => {
                    self.seen.insert(record.id, Seen { record, revision, silent: Duration::ZERO });
                }
            }
        }
    }

    /// Those that live, by id.
    pub(super) fn living(&self) -> BTreeMap<i32, BrokerRecord> {
        let living = self.seen.iter().filter(|(_, seen)| seen.silent < SILENCE);
        living.map(|(id, seen)| (*id, seen.record.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{State, VERSION};
    use super::*;
    use uuid::Uuid;

    fn record(id: i32) -> BrokerRecord {
        let (life, version) = (Uuid::nil(), String::new());
        BrokerRecord { v: VERSION, id, life, version, state: State::Serving, listeners: Vec::new() }
    }

    fn ids(members: &Members) -> Vec<i32> {
        members.living().into_keys().collect()
    }

    /// A script: at which time a look is answered, whose record has moved since, and who lives then.
    fn play(script: &[(u64, &[i32], &[i32])]) {
        let mut members = Members::default();
        for (turn, (ms, moved, living)) in script.iter().enumerate() {
            let revision = Revision(u64::try_from(turn).unwrap() + 1);
            let moved = moved.iter().map(|id| (revision, record(*id))).collect();
            members.looked(Duration::from_millis(*ms), moved, &[], false);
            assert_eq!(ids(&members), *living, "at {ms} ms");
        }
    }

    #[test]
    fn who_is_silent_for_long_is_dead_until_it_moves() {
        play(&[
            (0, &[1, 2], &[1, 2]),
            (500, &[1], &[1, 2]),
            (1000, &[1], &[1, 2]),
            (1500, &[1], &[1, 2]),
            (2000, &[1], &[1, 2]),
            (2499, &[1], &[1, 2]),
            (2500, &[1], &[1]),
            (3000, &[1, 2], &[1, 2]),
        ]);
    }

    #[test]
    fn a_pause_of_the_one_who_looks_makes_nobody_look_dead() {
        // Paused for a minute; the others went on. Then the store was away for all: nobody moved.
        play(&[(0, &[1, 2], &[1, 2]), (60_000, &[1, 2], &[1, 2]), (120_000, &[], &[1, 2])]);
        // But looks that are answered count, however far apart.
        play(&[
            (0, &[1, 2], &[1, 2]),
            (60_000, &[1], &[1, 2]),
            (120_000, &[1], &[1, 2]),
            (180_000, &[1], &[1]),
        ]);
    }

    #[test]
    fn who_leaves_is_gone_at_once_and_a_whole_list_is_whole() {
        let mut members = Members::default();
        let all = |ids: &[i32]| ids.iter().map(|id| (Revision(1), record(*id))).collect();
        members.looked(Duration::ZERO, all(&[1, 2, 3]), &[], true);
        members.looked(Duration::ZERO, Vec::new(), &[2], false);
        assert_eq!(ids(&members), [1, 3]);
        members.looked(Duration::ZERO, all(&[1]), &[], true);
        assert_eq!(ids(&members), [1]);
        // Told again of what has not moved: silence goes on.
        members.looked(Duration::from_secs(1), all(&[1]), &[], true);
        members.looked(Duration::from_secs(2), all(&[1]), &[], true);
        members.looked(Duration::from_secs(3), all(&[1]), &[], true);
        assert!(ids(&members).is_empty());
    }
}
