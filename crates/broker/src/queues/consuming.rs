//! What a queue's declaration says of who gets which message: one consumer at a time, and how often a message may
//! fail.
//!
//! | Argument | Queues | Value |
//! |---|---|---|
//! | `x-single-active-consumer` | all | true or false |
//! | `x-delivery-limit` | quorum | failures a message may have, 20 if not given; below 0: no limit |
//! | `x-delayed-retry-type` | quorum | whose returned messages wait: `all`, `failed`, `returned`, `disabled` |
//! | `x-delayed-retry-min` | quorum | for how many milliseconds, times the failures so far; without it, none waits |
//! | `x-delayed-retry-max` | quorum | for how many at most; `x-delayed-retry-min` if not given |
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

pub(super) const RETRY_TYPE: &str = "x-delayed-retry-type";
pub(super) const RETRY_MIN: &str = "x-delayed-retry-min";
pub(super) const RETRY_MAX: &str = "x-delayed-retry-max";

/// Which returned messages wait before they are available again, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    /// Those that failed.
    failed: bool,
    /// Those that came back without a failure.
    returned: bool,
    min_ms: u64,
    max_ms: u64,
}

impl Retry {
    fn of(spec: &QueueSpec) -> Option<Retry> {
        let ms =
            |name| spec.arguments.get(name).and_then(Value::as_int).and_then(|ms| u64::try_from(ms).ok());
        let (failed, returned) = match spec.arguments.get(RETRY_TYPE).and_then(Value::as_text)? {
            "all" => (true, true),
            "failed" => (true, false),
            "returned" => (false, true),
            _ => return None,
        };
        let min_ms = ms(RETRY_MIN)?;
        Some(Retry { failed, returned, min_ms, max_ms: ms(RETRY_MAX).unwrap_or(min_ms) })
    }

    /// How long one waits that comes back now after so many failures, in milliseconds; `None`: it does not.
    pub(super) fn delay_ms(&self, failed: bool, failures: u16) -> Option<u64> {
        let waits = if failed { self.failed } else { self.returned };
        waits.then(|| self.min_ms.saturating_mul(u64::from(failures.max(1))).min(self.max_ms))
    }

    /// The same for one that was returned and failed so often in an earlier life.
    pub(super) fn delay_again_ms(&self, returned: u16, failed: u16) -> Option<u64> {
        let by_failure = (failed > 0).then(|| self.delay_ms(true, failed)).flatten();
        by_failure.or_else(|| (returned > failed).then(|| self.delay_ms(false, failed)).flatten())
    }
}

/// How a queue hands out its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Consuming {
    /// To one consumer at a time; and whether one of a higher priority takes over from him.
    pub(super) single: Option<bool>,
    /// Whether failures are counted and told.
    pub(super) counts: bool,
    /// A message goes when it has failed more often than this.
    pub(super) delivery_limit: Option<u16>,
    /// Which messages wait when they come back.
    pub(super) retry: Option<Retry>,
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
            retry: Retry::of(spec).filter(|_| is_quorum),
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
        let counting = Consuming { counts: true, delivery_limit: Some(20), ..Consuming::default() };
        assert_eq!(Consuming::of(&spec(std::slice::from_ref(&quorum))), counting);
        for (given, limit) in [(0, Some(0)), (3, Some(3)), (-1, None), (70_000, None)] {
            let spec = spec(&[quorum.clone(), (DELIVERY_LIMIT, int(given))]);
            assert_eq!(Consuming::of(&spec).delivery_limit, limit);
        }
        let retrying = |list: &[(&str, Value)]| {
            Consuming::of(&spec(&[std::slice::from_ref(&quorum), list].concat())).retry
        };
        let (of, min) = (|kind| (RETRY_TYPE, Value::text(kind)), (RETRY_MIN, int(100)));
        let max = (RETRY_MAX, int(250));
        assert_eq!(retrying(&[of("all")]), None, "no time is no time");
        assert_eq!(retrying(&[of("disabled"), min.clone()]), None);
        assert_eq!(Consuming::of(&spec(&[of("all"), min.clone()])).retry, None, "not of classic queues");
        let all = retrying(&[of("all"), min.clone(), max]).unwrap();
        let delays = [(false, 0), (true, 1), (true, 2), (true, 3), (false, 2)];
        assert_eq!(
            delays.map(|(failed, count)| all.delay_ms(failed, count).unwrap()),
            [100, 100, 200, 250, 200]
        );
        let failed = retrying(&[of("failed"), min.clone()]).unwrap();
        assert_eq!((failed.delay_ms(false, 0), failed.delay_ms(true, 5)), (None, Some(100)));
        assert_eq!((failed.delay_again_ms(3, 0), failed.delay_again_ms(3, 1)), (None, Some(100)));
        let returned = retrying(&[of("returned"), min]).unwrap();
        assert_eq!((returned.delay_ms(false, 0), returned.delay_ms(true, 5)), (Some(100), None));
        assert_eq!((returned.delay_again_ms(3, 3), returned.delay_again_ms(3, 2)), (None, Some(100)));
        for (arguments, single) in [(vec![], Some(false)), (vec![quorum], Some(true))] {
            let on = (SINGLE_ACTIVE, Value::Bool(true));
            assert_eq!(Consuming::of(&spec(&[arguments, vec![on]].concat())).single, single);
        }
        assert_eq!(Consuming::of(&spec(&[(SINGLE_ACTIVE, Value::Bool(false))])).single, None);
    }
}
