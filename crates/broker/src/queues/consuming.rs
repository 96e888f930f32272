//! What a queue's declaration says of who gets which message: one consumer at a time, and how often a message may
//! fail.
//!
//! | Argument | Queues | Value |
//! |---|---|---|
//! | `x-single-active-consumer` | all | true or false |
//! | `x-delivery-limit` | quorum | failures a message may have, 20 if not given; below 0: no limit |
//!
//! **Invariant.** Parsing never fails: what was stored was checked.
//!
//! Deliberately absent: the checks (`settings`).

use super::args::Value;
use super::settings::QueueType;
use super::types::QueueSpec;

pub(super) const SINGLE_ACTIVE: &str = "x-single-active-consumer";
pub(super) const DELIVERY_LIMIT: &str = "x-delivery-limit";
/// Failures that a message of a quorum queue may have unless its queue says otherwise.
const DELIVERY_LIMIT_DEFAULT: u16 = 20;

/// How a queue hands out its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Consuming {
    /// To one consumer at a time; and whether one of a higher priority takes over from him.
    pub(super) single: Option<bool>,
    /// Whether failures are counted and told.
    pub(super) counts: bool,
    /// A message goes when it has failed more often than this.
    pub(super) delivery_limit: Option<u16>,
}

impl Consuming {
    /// What a declaration says that was checked.
    pub(super) fn of(spec: &QueueSpec) -> Consuming {
        let is_quorum = QueueType::of(&spec.arguments) == Some(QueueType::Quorum);
        let is_single = matches!(spec.arguments.get(SINGLE_ACTIVE), Some(Value::Bool(true)));
        let limit = match spec.arguments.get(DELIVERY_LIMIT).and_then(Value::as_int) {
            None => Some(DELIVERY_LIMIT_DEFAULT),
            Some(..0) => None,
            Some(limit) => Some(u16::try_from(limit).unwrap_or(u16::MAX)),
        };
        Consuming {
            single: is_single.then_some(is_quorum),
            counts: is_quorum,
            // More cannot be counted: then it is no limit.
            delivery_limit: limit.filter(|limit| is_quorum && *limit < u16::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::args::{Arguments, Width};

    fn spec(arguments: &[(&str, Value)]) -> QueueSpec {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        QueueSpec {
            name: "q".into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: Arguments(arguments),
        }
    }

    fn int(value: i64) -> Value {
        Value::Int(value, Width::I32)
    }

    #[test]
    fn what_is_not_said_depends_on_the_type() {
        assert_eq!(Consuming::of(&spec(&[])), Consuming::default());
        let quorum = ("x-queue-type", Value::text("quorum"));
        let counting = Consuming { single: None, counts: true, delivery_limit: Some(20) };
        assert_eq!(Consuming::of(&spec(std::slice::from_ref(&quorum))), counting);
        for (given, limit) in [(0, Some(0)), (3, Some(3)), (-1, None), (70_000, None)] {
            let spec = spec(&[quorum.clone(), (DELIVERY_LIMIT, int(given))]);
            assert_eq!(Consuming::of(&spec).delivery_limit, limit);
        }
        for (arguments, single) in [(vec![], Some(false)), (vec![quorum], Some(true))] {
            let on = (SINGLE_ACTIVE, Value::Bool(true));
            assert_eq!(Consuming::of(&spec(&[arguments, vec![on]].concat())).single, single);
        }
        assert_eq!(Consuming::of(&spec(&[(SINGLE_ACTIVE, Value::Bool(false))])).single, None);
    }
}
