//! Policies: arguments that an operator gives to queues and exchanges from outside, by their names.
//!
//! ```text
//!  policies of a virtual host ─▶ the first that fits ─┐
//!  operator policies          ─▶ the first that fits ─┴▶ merged by key ─▶ over the arguments, by key and type of queue
//! ```
//! RabbitMQ's rules: of each sort one policy applies, that of the highest priority whose pattern is found in the name and
//! whose keys the type of queue all knows; an operator's wins or limits, as the key says. What comes out is a
//! declaration as if its arguments had been given so, and everything else goes by that.
//!
//! Reading order: here (what a policy is, which one applies), `keys` (what a definition may say), `merge` (what
//! comes out), `apply` (setting and clearing them).
//!
//! **Invariants.** Which policy applies is a pure function of policies, name and type, never stored. Patterns are bounded
//! in size, and in the steps they may take on a name. Of two with the same priority the one whose name comes first
//! applies (RabbitMQ promises no order).
//!
//! Deliberately absent: who may set one (the doors), words for what is wrong with one (a door's), limits of virtual hosts.

mod apply;
pub(super) mod keys;
pub(super) mod merge;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::Arc;

use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::args::{Arguments, Value};
use super::error::QueueError;
use super::settings::QueueType;

pub(super) use apply::load;

/// Policies, and operator policies, of one virtual host.
pub const POLICIES_MAX: usize = 1000;
/// Bytes of a pattern. RabbitMQ's.
pub const PATTERN_BYTES_MAX: usize = 1024;
/// Bytes of the texts of a definition.
pub const DEFINITION_BYTES_MAX: usize = 64 * 1024;
/// Steps back that a pattern may take on one name. RabbitMQ's.
const BACKTRACKS_MAX: usize = 50_000;
/// Bytes of what a pattern is compiled to.
const COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Whose policy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicySort {
    /// A user's.
    Policy,
    /// An operator's: it is merged over a user's.
    Operator,
}

/// What a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    /// Queues and exchanges.
    All,
    /// Queues of every type.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
    /// Exchanges.
    Exchanges,
}

impl ApplyTo {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ApplyTo::All => "all",
            ApplyTo::Queues => "queues",
            ApplyTo::ClassicQueues => "classic_queues",
            ApplyTo::QuorumQueues => "quorum_queues",
            ApplyTo::Streams => "streams",
            ApplyTo::Exchanges => "exchanges",
        }
    }

    /// The inverse of [`ApplyTo::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<ApplyTo> {
        use ApplyTo::{All, ClassicQueues, Exchanges, Queues, QuorumQueues, Streams};
        let all = [All, Queues, ClassicQueues, QuorumQueues, Streams, Exchanges];
        all.into_iter().find(|one| one.name() == name)
    }

    fn includes(self, subject: &Subject<'_>) -> bool {
        matches!(
            (self, subject),
            (ApplyTo::All, _)
                | (ApplyTo::Queues, Subject::Queue(..))
                | (ApplyTo::Exchanges, Subject::Exchange(_))
                | (ApplyTo::ClassicQueues, Subject::Queue(_, QueueType::Classic))
                | (ApplyTo::QuorumQueues, Subject::Queue(_, QueueType::Quorum))
                | (ApplyTo::Streams, Subject::Queue(_, QueueType::Stream))
        )
    }
}

/// A policy as asked for, or as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySpec {
    /// Its name, unique among those of its sort in its virtual host.
    pub name: Arc<str>,
    /// What must be found in the name of a queue or exchange: a regular expression, with look-around.
    pub pattern: String,
    /// What it applies to.
    pub apply_to: ApplyTo,
    /// The highest that fits applies.
    pub priority: i64,
    /// Keys and values.
    pub definition: Arguments,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq)]
pub enum BadPolicy {
    /// The pattern is longer than [`PATTERN_BYTES_MAX`].
    PatternTooLong,
    /// The pattern is no regular expression, or too large a one; why.
    Pattern(String),
    /// The definition says nothing.
    Empty,
    /// Its texts are longer than [`DEFINITION_BYTES_MAX`].
    TooLong,
    /// It has this key more than once.
    Twice(String),
    /// Nothing is set by these keys in a policy of this sort.
    Unknown(Vec<(String, Value)>),
    /// The value of a key is not legal.
    Value(&'static str, Value),
    /// Messages that come back are to wait, of this kind, and it is not said for how long.
    RetryWithoutMin(String),
    /// The longest wait of messages that come back, in milliseconds, is shorter than the shortest.
    RetryMaxBelowMin {
        /// The shortest.
        min: i64,
        /// The longest.
        max: i64,
    },
}

/// Why a policy was not set.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PolicyError {
    /// Something is wrong with it.
    #[error("the policy is not legal: {0:?}")]
    Bad(BadPolicy),
    /// What any change may run into.
    #[error("{0}")]
    Queue(#[from] QueueError),
}

impl From<ferrymq_storage::StorageError> for PolicyError {
    fn from(error: ferrymq_storage::StorageError) -> PolicyError {
        PolicyError::Queue(error.into())
    }
}

/// A policy that was checked, ready to be compared with names.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) spec: PolicySpec,
    pattern: Regex,
}

impl Policy {
    /// Checks a policy.
    pub(super) fn new(spec: PolicySpec, sort: PolicySort) -> Result<Policy, BadPolicy> {
        keys::check(&spec.definition, sort)?;
        Policy::stored(spec)
    }

    /// A policy whose definition was checked once: what an older program took is not refused by a newer one.
    pub(super) fn stored(spec: PolicySpec) -> Result<Policy, BadPolicy> {
        if spec.pattern.len() > PATTERN_BYTES_MAX {
            return Err(BadPolicy::PatternTooLong);
        }
        let pattern = RegexBuilder::new(&spec.pattern)
            .backtrack_limit(BACKTRACKS_MAX)
            .delegate_size_limit(COMPILED_BYTES_MAX)
            .delegate_dfa_size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| BadPolicy::Pattern(error.to_string()))?;
        Ok(Policy { spec, pattern })
    }

    fn fits(&self, subject: &Subject<'_>) -> bool {
        let (name, takes) = match subject {
            Subject::Queue(name, kind) => (name, keys::all_of(&self.spec.definition, *kind)),
            Subject::Exchange(name) => (name, true),
        };
        // A pattern that takes too many steps on a name does not fit it.
        takes && self.spec.apply_to.includes(subject) && self.pattern.is_match(name).unwrap_or(false)
    }
}

/// What a policy may apply to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A queue of this name and type.
    Queue(&'a str, QueueType),
    /// An exchange of this name.
    Exchange(&'a str),
}

/// The policies that apply to something.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Applied<'a> {
    pub(super) policy: Option<&'a Arc<Policy>>,
    pub(super) operator: Option<&'a Arc<Policy>>,
}

impl Applied<'_> {
    /// What they say together.
    pub(super) fn definition(&self) -> Arguments {
        let definition = |policy: Option<&Arc<Policy>>| {
            policy.map(|policy| policy.spec.definition.clone()).unwrap_or_default()
        };
        match (self.policy, self.operator) {
            (None, None) => Arguments::default(),
            (policy, None) => definition(policy),
            (policy, operator) => merge::with_operator(&definition(policy), &definition(operator)),
        }
    }
}

/// The policies of a virtual host; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    /// In the order in which they are tried.
    ordinary: Vec<Arc<Policy>>,
    operator: Vec<Arc<Policy>>,
}

impl Policies {
    /// Those of a sort, in the order in which they are tried.
    pub(super) fn all(&self, sort: PolicySort) -> &[Arc<Policy>] {
        match sort {
            PolicySort::Policy => &self.ordinary,
            PolicySort::Operator => &self.operator,
        }
    }

    fn of(&mut self, sort: PolicySort) -> &mut Vec<Arc<Policy>> {
        match sort {
            PolicySort::Policy => &mut self.ordinary,
            PolicySort::Operator => &mut self.operator,
        }
    }

    /// The one of this name.
    pub(super) fn get(&self, sort: PolicySort, name: &str) -> Option<&Arc<Policy>> {
        self.all(sort).iter().find(|policy| &*policy.spec.name == name)
    }

    /// Adds one, in the place of that of the same name.
    pub(super) fn insert(&mut self, sort: PolicySort, policy: Policy) {
        self.remove(sort, &policy.spec.name);
        let place = |policy: &Policy| (Reverse(policy.spec.priority), policy.spec.name.clone());
        let all = self.of(sort);
        let at = all.partition_point(|before| place(before) < place(&policy));
        all.insert(at, Arc::new(policy));
    }

    /// Takes the one of this name away; whether it was there.
    pub(super) fn remove(&mut self, sort: PolicySort, name: &str) -> bool {
        let all = self.of(sort);
        let before = all.len();
        all.retain(|policy| &*policy.spec.name != name);
        all.len() < before
    }

    /// Those that apply.
    pub(super) fn applied(&self, subject: &Subject<'_>) -> Applied<'_> {
        let first = |all: &'_ [Arc<Policy>]| all.iter().position(|policy| policy.fits(subject));
        Applied {
            policy: first(&self.ordinary).and_then(|at| self.ordinary.get(at)),
            operator: first(&self.operator).and_then(|at| self.operator.get(at)),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ordinary.is_empty() && self.operator.is_empty()
    }
}
