//! What a history is held to, and what was found.
//!
//! Deliberately absent: severity. Every violation is a bug, in the broker or in the test.

use std::collections::BTreeMap;
use std::fmt;

/// What to hold a history to.
#[derive(Debug, Clone)]
pub struct Expectations {
    /// Producers are idempotent: no value twice.
    pub idempotent: bool,
    /// Each writer's messages to one log stay in the order of sending. Holds for idempotent producers and for
    /// those with one request in flight.
    pub ordered: bool,
    /// After all faults every log was read from beginning to end, in polls marked `last`.
    pub read_to_the_end: bool,
    /// Where logs begin by now: what was trimmed is not missed below. Logs that are not named begin at 0.
    pub starts: BTreeMap<String, u64>,
    /// Sends that must have been acknowledged at least.
    pub sends_min: usize,
    /// Records that must have been read at least.
    pub records_min: usize,
    /// Acknowledged records that damage of the disk, which the broker reports, may cost at most. `None`: nothing
    /// was damaged, and reporting damage is wrong.
    pub damaged_max: Option<usize>,
}

impl Default for Expectations {
    fn default() -> Expectations {
        Expectations {
            idempotent: true,
            ordered: true,
            read_to_the_end: true,
            starts: BTreeMap::new(),
            sends_min: 1,
            records_min: 1,
            damaged_max: None,
        }
    }
}

/// The rules. The letters are those of the project's list of anomalies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A1, A2: an acknowledged record is not there.
    Lost,
    /// A3: one offset, two values.
    Diverged,
    /// A3: an offset was given out that was known to be taken, or lies below one that was.
    OffsetReused,
    /// A4: one value at two offsets in spite of idempotence.
    Duplicated,
    /// A5: a record that was refused is there.
    FailedButVisible,
    /// A22: a record is there that nobody sent.
    NeverSent,
    /// A13: a record was read and is not there any more.
    Vanished,
    /// A9, A10: a reader was taken past a record, or got it out of order.
    Skipped,
    /// A11: a writer's messages are out of order.
    Reordered,
    /// A13: a high watermark went back.
    WatermarkWentBack,
    /// A14: a committed offset is lost, or an older one is back.
    OffsetWentBack,
    /// A30: a topic or log that was created is gone, or one that was deleted is back.
    TopicWentBack,
    /// A7: of a group that stands or falls together only a part is there.
    Torn,
    /// A28: a record that was removed is there again.
    CameBack,
    /// A17: an owner that had lost its log was obeyed, or an epoch was given out a second time.
    StaleOwner,
    /// Damage is reported where nothing was damaged.
    FalseDamage,
    /// The broker did not come back after a fault, or is of no use since.
    Unusable,
    /// A20: an acknowledgement before its bytes, or their file's name, were durable.
    AckedBeforeSync,
    /// Too little succeeded to prove anything.
    TooFew,
    /// The test broke the rules of recording; nothing can be concluded.
    BadHistory,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule is broken.
    pub rule: Rule,
    /// Where and how.
    pub what: String,
}

/// Everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Violations, in no particular order.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether no rule is broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// The rules broken, each once, in order.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.violations.iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// Fails a test if a rule is broken.
    ///
    /// # Panics
    /// With what was found.
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }

    pub(crate) fn add(&mut self, rule: Rule, what: impl Into<String>) {
        self.violations.push(Violation { rule, what: what.into() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        if self.is_clean() {
            return f.write_str("no rule is broken");
        }
        write!(f, "{} violations", self.violations.len())?;
        for violation in self.violations.iter().take(SHOWN) {
            write!(f, "\n  {:?}: {}", violation.rule, violation.what)?;
        }
        if self.violations.len() > SHOWN { f.write_str("\n  and more") } else { Ok(()) }
    }
}
