//! The rules of queues, what to hold a history to, and what was found.
//!
//! Deliberately absent: severity. Every violation is a bug, in the broker or in the test.

use std::fmt;

/// What to hold a history to.
#[derive(Debug, Clone, Copy)]
pub struct QueueExpectations {
    /// After all faults every queue was read to its end, in deliveries marked `last`.
    pub read_to_the_end: bool,
    /// Publishings that must have been confirmed at least.
    pub confirmed_min: usize,
    /// Deliveries that must have been noted at least.
    pub delivered_min: usize,
    /// Deliveries that must have been settled for good, with a later answer on their channel, at least.
    pub done_min: usize,
    /// Messages that must have been seen as dead letters at least.
    pub letters_min: usize,
    /// Messages for several queues that must have been confirmed at least.
    pub copied_min: usize,
    /// Transactions that must have been committed at least.
    pub transactions_min: usize,
    /// Messages that were kept back and must have been seen at least.
    pub delayed_min: usize,
    /// Messages that full queues must have refused at least.
    pub refused_min: usize,
    /// Policies that must have been set or taken away at least.
    pub policies_min: usize,
    /// Messages that must have been seen in streams at least.
    pub streamed_min: usize,
}

impl Default for QueueExpectations {
    fn default() -> QueueExpectations {
        QueueExpectations {
            read_to_the_end: true,
            confirmed_min: 1,
            delivered_min: 1,
            done_min: 1,
            letters_min: 0,
            copied_min: 0,
            transactions_min: 0,
            delayed_min: 0,
            refused_min: 0,
            policies_min: 0,
            streamed_min: 0,
        }
    }
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueRule {
    /// A confirmed message is not there, and nobody took or removed it.
    ConfirmedLost,
    /// A message that was delivered and not settled is not there.
    UnackedLost,
    /// A message is there that nobody published to that queue.
    NeverPublished,
    /// A message is there that was returned to its publisher.
    ReturnedButThere,
    /// A message is there twice.
    Duplicated,
    /// A publishing was answered by two confirms, or something was confirmed that nobody published.
    ConfirmedTwice,
    /// A publishing was not answered although its connection lived.
    Unanswered,
    /// A message without a way was confirmed and did not come back before, or one with a way came back.
    WronglyReturned,
    /// An acknowledged message came again although the acknowledgement was vouched for.
    AckedCameBack,
    /// A message is in a queue of dead letters, and nobody rejected it.
    MovedUnasked,
    /// A message came again out of its queue after it had been seen as a dead letter.
    MovedCameBack,
    /// A message of a transaction is there that was not asked for yet, or was rolled back.
    Uncommitted,
    /// A message that is kept back came before it was due.
    TooEarly,
    /// A part of a transaction happened and another did not.
    HalfCommitted,
    /// A message is there that its full queue had refused.
    RefusedButThere,
    /// The letter of a message that a full queue refused is nowhere.
    RefusedLost,
    /// A message was refused by a queue that had room for it.
    RefusedWithRoom,
    /// A message was taken by a queue that was full and refuses.
    TakenBeyondLimit,
    /// A queue that drops its oldest messages has more than it may.
    OverLimit,
    /// A policy is not there that was set, or one that was taken away is.
    PolicyWentBack,
    /// A message was delivered while somebody else had it.
    DeliveredWhileHeld,
    /// A message was delivered a second time without the mark.
    Unmarked,
    /// A publisher's messages came out of order.
    OutOfOrder,
    /// A message that is never stored was there in a later life.
    Outlived,
    /// A message that was purged, or whose queue was deleted, came back.
    RemovedCameBack,
    /// A queue counts other messages or consumers than there are.
    Miscounted,
    /// A queue that was declared is gone, or one that was deleted is there.
    QueueWentBack,
    /// Something was confirmed although the store had failed before it was published.
    ConfirmedAfterFailure,
    /// Too little succeeded to prove anything.
    TooFew,
    /// The test broke the rules of taking notes; nothing can be concluded.
    BadHistory,
}

impl QueueRule {
    /// Every rule.
    pub const ALL: [QueueRule; 30] = [
        QueueRule::ConfirmedLost,
        QueueRule::UnackedLost,
        QueueRule::NeverPublished,
        QueueRule::ReturnedButThere,
        QueueRule::Duplicated,
        QueueRule::ConfirmedTwice,
        QueueRule::Unanswered,
        QueueRule::WronglyReturned,
        QueueRule::AckedCameBack,
        QueueRule::MovedUnasked,
        QueueRule::MovedCameBack,
        QueueRule::Uncommitted,
        QueueRule::HalfCommitted,
        QueueRule::RefusedButThere,
        QueueRule::RefusedLost,
        QueueRule::RefusedWithRoom,
        QueueRule::TakenBeyondLimit,
        QueueRule::OverLimit,
        QueueRule::PolicyWentBack,
        QueueRule::TooEarly,
        QueueRule::DeliveredWhileHeld,
        QueueRule::Unmarked,
        QueueRule::OutOfOrder,
        QueueRule::Outlived,
        QueueRule::RemovedCameBack,
        QueueRule::Miscounted,
        QueueRule::QueueWentBack,
        QueueRule::ConfirmedAfterFailure,
        QueueRule::TooFew,
        QueueRule::BadHistory,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            QueueRule::ConfirmedLost => "confirmed-lost",
            QueueRule::UnackedLost => "unacked-lost",
            QueueRule::NeverPublished => "never-published",
            QueueRule::ReturnedButThere => "returned-but-there",
            QueueRule::Duplicated => "message-duplicated",
            QueueRule::ConfirmedTwice => "confirmed-twice",
            QueueRule::Unanswered => "unanswered-publish",
            QueueRule::WronglyReturned => "wrongly-returned",
            QueueRule::AckedCameBack => "acked-came-back",
            QueueRule::MovedUnasked => "moved-unasked",
            QueueRule::MovedCameBack => "moved-came-back",
            QueueRule::Uncommitted => "uncommitted-but-there",
            QueueRule::HalfCommitted => "half-committed",
            QueueRule::RefusedButThere => "refused-but-there",
            QueueRule::RefusedLost => "refused-letter-lost",
            QueueRule::RefusedWithRoom => "refused-with-room",
            QueueRule::TakenBeyondLimit => "taken-beyond-limit",
            QueueRule::OverLimit => "over-limit",
            QueueRule::PolicyWentBack => "policy-went-back",
            QueueRule::TooEarly => "delivered-too-early",
            QueueRule::DeliveredWhileHeld => "delivered-while-held",
            QueueRule::Unmarked => "delivered-again-without-redelivered",
            QueueRule::OutOfOrder => "out-of-order",
            QueueRule::Outlived => "transient-outlived-its-life",
            QueueRule::RemovedCameBack => "removed-came-back",
            QueueRule::Miscounted => "miscounted",
            QueueRule::QueueWentBack => "queue-went-back",
            QueueRule::ConfirmedAfterFailure => "confirmed-after-a-failed-sync",
            QueueRule::TooFew => "too-few-messages",
            QueueRule::BadHistory => "bad-queue-history",
        }
    }
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueViolation {
    /// Which rule is broken.
    pub rule: QueueRule,
    /// Where and how.
    pub what: String,
}

/// Everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueReport {
    /// Violations, in no particular order.
    pub violations: Vec<QueueViolation>,
    /// How much there was of what a minimum may be set for, by its name.
    pub counts: Vec<(&'static str, usize)>,
}

impl QueueReport {
    /// The rules broken, each once, in order.
    #[must_use]
    pub fn rules(&self) -> Vec<QueueRule> {
        let mut rules: Vec<QueueRule> = self.violations.iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    pub(super) fn add(&mut self, rule: QueueRule, what: impl Into<String>) {
        self.violations.push(QueueViolation { rule, what: what.into() });
    }
}

impl fmt::Display for QueueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        write!(f, "{} violations", self.violations.len())?;
        for violation in self.violations.iter().take(SHOWN) {
            write!(f, "\n  {}: {}", violation.rule.name(), violation.what)?;
        }
        if self.violations.len() > SHOWN { f.write_str("\n  and more") } else { Ok(()) }
    }
}
