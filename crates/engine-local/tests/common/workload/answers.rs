//! What the workload notes once a piece of work is answered.
//!
//! **Invariant.** Only a refusal that is sure counts as one; what may have happened is unknown.
//!
//! Deliberately absent: what to ask next.

use ferrymq_checker::{Pending, Survives, Terms, What};
use ferrymq_storage::{Batch, ErrorKind, StorageError};
use ferrymq_types::Durability;

use super::super::payload::{self, Writer};
use super::{Known, Note, Workload};

impl Workload {
    pub(super) fn note_claim(&mut self, note: Note, claims: &Result<Vec<(u32, u64)>, StorageError>) {
        let Note::Claim(logs, owner) = note else { unreachable!("a claim was asked for") };
        for (at, id) in logs.into_iter().enumerate() {
            let log = self.logs.get_mut(&id).unwrap();
            let name = id.to_string();
            let create = self.journal.begin(What::CreateTopic { topic: name.clone() });
            let Ok(claims) = claims else {
                create.info();
                continue;
            };
            create.ok();
            let (epoch, next) = claims[at];
            self.journal.done(What::Claim { log: name.clone(), epoch: Some(epoch) });
            self.journal.done(What::Watermark { log: name, offset: Some(next) });
            (log.epoch, log.owner, log.next) = (epoch, owner, next);
        }
    }

    pub(super) fn note_group(&mut self, notes: Vec<Note>, result: &Result<(), StorageError>) {
        let end = self.end_of(&notes, result);
        for note in notes {
            match note {
                Note::Adds { log, batches } => {
                    batches.into_iter().for_each(|batch| self.note_send(log, batch, end, result.is_ok()));
                }
                Note::Frees { log, from, to } => {
                    end(self.journal.begin(What::Remove { log: log.to_string(), from, to }));
                    let log = self.logs.get_mut(&log).unwrap();
                    let is_freed = |base: u64, known: &Known| base + u64::from(known.span) <= to;
                    log.batches.retain(|base, known| *base < from || !is_freed(*base, known));
                }
                Note::Deletes(log) => {
                    let topic = log.to_string();
                    end(self.journal.begin(What::DeleteTopic { topic: topic.clone() }));
                    end(self.journal.begin(What::Remove { log: topic, from: 0, to: u64::MAX }));
                    let is_refused = !matches!(
                        result.as_ref().map_err(StorageError::kind),
                        Ok(()) | Err(ErrorKind::Unknown)
                    );
                    self.logs.get_mut(&log).unwrap().deleted = !is_refused;
                }
                Note::Claim(..) => unreachable!("a group was asked for"),
            }
        }
    }

    /// How operations end that are answered so.
    fn end_of(&mut self, notes: &[Note], result: &Result<(), StorageError>) -> fn(Pending) {
        let Err(error) = result else { return Pending::ok };
        let is_stale = |note: &Note| match note {
            Note::Adds { batches, .. } => batches.iter().any(|(_, _, writer)| *writer == Writer::Stale),
            _ => false,
        };
        let is_stale = notes.iter().any(is_stale);
        match error.kind() {
            ErrorKind::Unknown => return Pending::info,
            // The store has stopped, or the log was deleted in the same round.
            ErrorKind::Closed | ErrorKind::NotFound => {}
            ErrorKind::Fenced if is_stale => {}
            // No space or no index: this one and what builds on it.
            ErrorKind::Full | ErrorKind::Conflict | ErrorKind::Unavailable if !is_stale => {}
            _ => self.journal.besides(format!("unexpected refusal: {error:?}")),
        }
        Pending::fail
    }

    fn note_send(
        &mut self,
        log: u64,
        (batch, terms, writer): (Batch, Terms, Writer),
        end: fn(Pending),
        ok: bool,
    ) {
        let value = payload::read(&batch.bytes, u64::from(batch.span));
        let class = match terms.survives {
            Survives::PowerCut => Durability::Sync,
            Survives::Kill => Durability::Os,
            Survives::Nothing => Durability::Memory,
        };
        let base = batch.base.0;
        let sending =
            self.journal.begin(What::Send { log: log.to_string(), value, offset: Some(base), terms });
        end(sending);
        if ok && writer != Writer::Stale {
            let known = Known { span: batch.span, class };
            self.logs.get_mut(&log).unwrap().batches.insert(base, known);
        }
    }
}
