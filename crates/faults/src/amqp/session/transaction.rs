//! Transactions of a session: what is published and settled happens with the commit, or not at all.
//!
//! **Invariant.** One that was not asked for certainly did not happen; one whose answer never came may have.

use std::io::{ErrorKind, Result};
use std::sync::atomic::Ordering;

use ferrymq_amqp_codec::method::tx;
use ferrymq_checker::Outcome;
use ferrymq_checker::queues::{Answer, Publishing, Transaction};

use super::Session;

/// An open transaction.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) published: Vec<Publishing>,
    /// Tags, and where in the deliveries.
    pub(super) settled: Vec<(u64, usize)>,
    /// When the commit was asked for.
    asked: Option<u64>,
}

impl Session {
    /// From now on its channels have transactions instead of confirms.
    pub(in crate::amqp) fn transact(&mut self) -> Result<()> {
        self.transacts = true;
        self.renew()
    }

    pub(super) fn begin_transactions(&mut self) -> Result<()> {
        self.ask(&tx::Select {})?;
        self.open_transaction();
        Ok(())
    }

    fn open_transaction(&mut self) {
        self.tx = Some(Open { id: u64::from(self.world.new_writer()), ..Open::default() });
    }

    /// Commits what was published and settled since the last commit or rollback; another transaction begins.
    pub(in crate::amqp) fn commit(&mut self) -> Result<()> {
        let now = self.world.now();
        if let Some(open) = &mut self.tx {
            open.asked = Some(now);
        }
        if let Err(error) = self.ask(&tx::Commit {}) {
            if let Some(open) = self.tx.as_mut().filter(|_| error.kind() == ErrorKind::TimedOut) {
                open.published.iter_mut().for_each(|publishing| publishing.stayed = true);
            }
            return Err(error);
        }
        let now = self.world.now();
        let Some(open) = self.tx.take() else { return Ok(()) };
        self.world.counts.confirmed.fetch_add(open.published.len() as u64, Ordering::Relaxed);
        self.world.counts.settled.fetch_add(open.settled.len() as u64, Ordering::Relaxed);
        for mut publishing in open.published {
            (publishing.ended, publishing.answers) = (now, vec![Answer::Confirmed]);
            self.answered.push(publishing);
        }
        for (_, place) in open.settled {
            if let Some(settled) = self.deliveries.get_mut(place).and_then(|one| one.settled.as_mut()) {
                settled.vouched = Some(now);
            }
        }
        self.note_transaction(open.id, open.asked, Outcome::Ok);
        self.open_transaction();
        Ok(())
    }

    /// Asks for a commit and does not wait for the answer: the session is to be cut.
    pub(in crate::amqp) fn ask_to_commit(&mut self) -> Result<()> {
        let now = self.world.now();
        if let Some(open) = &mut self.tx {
            open.asked = Some(now);
        }
        self.link.put(&tx::Commit {})?;
        self.flush()
    }

    /// Undoes what was published and settled since the last commit or rollback: what was settled is held again.
    pub(in crate::amqp) fn roll_back(&mut self) -> Result<()> {
        let settled = self.tx.as_ref().map(|open| open.settled.clone()).unwrap_or_default();
        self.end_transaction();
        self.held.extend(settled);
        self.ask(&tx::Rollback {})?;
        self.open_transaction();
        Ok(())
    }

    /// Notes how a transaction ended that got no answer to a commit.
    pub(super) fn end_transaction(&mut self) {
        let Some(open) = self.tx.take() else { return };
        if open.asked.is_none() {
            for (_, place) in open.settled {
                if let Some(delivery) = self.deliveries.get_mut(place) {
                    delivery.settled = None;
                }
            }
        }
        self.answered.extend(open.published);
        let outcome = if open.asked.is_some() { Outcome::Info } else { Outcome::Fail };
        self.note_transaction(open.id, open.asked, outcome);
    }

    fn note_transaction(&self, id: u64, asked: Option<u64>, outcome: Outcome) {
        self.world.queues.lock().transactions.push(Transaction { id, asked, outcome });
    }
}
