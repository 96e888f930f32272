//! What comes out where an operator, a user and a declaration say something.
//!
//! **Invariant.** Pure: definitions and arguments in, a declaration out.
//!
//! Deliberately absent: checks; what is merged was checked.

use std::borrow::Cow;

use super::keys::{KEYS, State, Wins, find};
use super::{Applied, Policies, Subject};
use crate::queues::args::{Arguments, Value};
use crate::queues::settings::QueueType;
use crate::queues::types::QueueSpec;

/// One policy's definition, with an operator's over it.
pub(super) fn with_operator(user: &Arguments, operator: &Arguments) -> Arguments {
    let mut all = user.0.clone();
    for (name, value) in operator.iter() {
        match all.iter_mut().find(|(known, _)| known == name) {
            None => all.push((name.to_owned(), value.clone())),
            Some((_, set)) => {
                let wins = find(name).and_then(|key| key.operator).unwrap_or(Wins::Outer);
                *set = winner(wins, value, set).clone();
            }
        }
    }
    Arguments(all)
}

/// Who wins: what is set from outside, or what it is set over.
fn winner<'a>(wins: Wins, outer: &'a Value, inner: &'a Value) -> &'a Value {
    let smaller = outer.as_int() <= inner.as_int();
    let unlimited = outer.as_int() < Some(0) || inner.as_int() < Some(0);
    let outer_wins = match wins {
        Wins::Outer => true,
        Wins::Inner => false,
        Wins::Min => smaller,
        Wins::Max => !smaller,
        Wins::Limit => smaller != unlimited,
    };
    if outer_wins { outer } else { inner }
}

/// A queue's declaration under a definition: as if its arguments had been given so.
fn under<'a>(spec: &'a QueueSpec, kind: QueueType, definition: &Arguments) -> Cow<'a, QueueSpec> {
    let mut spec = Cow::Borrowed(spec);
    for key in KEYS.iter().filter(|key| key.state == State::Served && key.name != ALTERNATE) {
        let Some(set) = definition.get(key.name) else { continue };
        let argument = format!("x-{}", key.name);
        let value = match spec.arguments.get(&argument) {
            Some(given) => winner(key.wins(kind), set, given).clone(),
            None => set.clone(),
        };
        spec.to_mut().arguments.0.push((argument, value));
    }
    spec
}

/// The key and the argument of exchanges.
pub(in crate::queues) const ALTERNATE: &str = "alternate-exchange";

impl Policies {
    /// The policies that apply to a queue.
    pub(in crate::queues) fn of_queue(&self, spec: &QueueSpec) -> Applied<'_> {
        self.applied(&Subject::Queue(&spec.name, kind_of(spec)))
    }

    /// A queue's declaration under the policies that apply to it.
    pub(in crate::queues) fn effective<'a>(&self, spec: &'a QueueSpec) -> Cow<'a, QueueSpec> {
        if self.is_empty() {
            return Cow::Borrowed(spec);
        }
        under(spec, kind_of(spec), &self.of_queue(spec).definition())
    }

    /// Where an exchange sends what it has no binding for, if a policy says so.
    pub(in crate::queues) fn alternate(&self, exchange: &str) -> Option<String> {
        let applied = self.applied(&Subject::Exchange(exchange));
        applied.definition().get(ALTERNATE).and_then(Value::as_text).map(str::to_owned)
    }
}

fn kind_of(spec: &QueueSpec) -> QueueType {
    QueueType::of(&spec.arguments).unwrap_or(QueueType::Classic)
}
