//! Exchanges that keep messages back: what they route as, and for how long.
//!
//! | What | Meaning |
//! |---|---|
//! | argument `x-delayed-type` | the kind of exchange that it routes as when a message is due |
//! | header `x-delay` | milliseconds, 1 to 2^32 - 1; anything else is no delay |
//!
//! **Invariant.** What a message's header says is judged as RabbitMQ's plugin does: integers of any width, text that is a
//! number, floats cut.
//!
//! Deliberately absent: where messages wait (`shard/lanes`), and the header of one that has waited (a door's).

use super::super::args::{Arguments, Value};
use super::super::error::Unfit;
use super::super::types::ExchangeKind;
use super::Headers;

/// The argument that names the kind.
pub(in crate::queues) const DELAYED_TYPE: &str = "x-delayed-type";
const DELAY: &str = "x-delay";
/// The longest delay in milliseconds, 49 days: that of a timer of Erlang's.
const DELAY_MS_MAX: i64 = u32::MAX as i64;

/// The kind that arguments name.
pub(super) fn check(arguments: &Arguments) -> Result<ExchangeKind, Unfit> {
    let text = arguments.get(DELAYED_TYPE).and_then(Value::as_text).ok_or(Unfit::NoDelayedType)?;
    match ExchangeKind::parse(text) {
        Some(ExchangeKind::Delayed) => Err(Unfit::DelayedTwice),
        Some(kind) => Ok(kind),
        None => Err(Unfit::UnknownKind(text.to_owned())),
    }
}

/// The same where it was checked.
pub(super) fn kind_behind(arguments: &Arguments) -> ExchangeKind {
    check(arguments).unwrap_or(ExchangeKind::Direct)
}

/// The kind that an exchange routes as.
pub(in crate::queues) fn routes_as(kind: ExchangeKind, arguments: &Arguments) -> ExchangeKind {
    if kind == ExchangeKind::Delayed { kind_behind(arguments) } else { kind }
}

/// How long a message with these headers is kept, in milliseconds.
pub(in crate::queues) fn delay_ms(headers: &dyn Headers) -> Option<u64> {
    let delay = match headers.value(DELAY)? {
        Value::Int(delay, _) => delay,
        Value::Text(text) | Value::Bytes(text) => std::str::from_utf8(&text).ok()?.parse().ok()?,
        Value::F32(delay) => cut(delay.into()),
        Value::F64(delay) => cut(delay),
        _ => return None,
    };
    (1..=DELAY_MS_MAX).contains(&delay).then_some(delay.unsigned_abs())
}

#[allow(clippy::cast_possible_truncation, reason = "a float as an integer is cut, and ends at its bounds")]
fn cut(delay: f64) -> i64 {
    delay as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::args::Width;

    #[test]
    fn what_is_a_delay() {
        let of = |value: Value| delay_ms(&Arguments(vec![("x-delay".to_owned(), value)]));
        let int = |delay| Value::Int(delay, Width::I64);
        for (value, delay) in [
            (int(1), Some(1)),
            (int(0), None),
            (int(-1), None),
            (int(4_294_967_295), Some(4_294_967_295)),
            (int(4_294_967_296), None),
            (Value::text("1500"), Some(1500)),
            (Value::text("soon"), None),
            (Value::F64(1500.9), Some(1500)),
            (Value::F32(0.9), None),
            (Value::F64(f64::NAN), None),
            (Value::Bool(true), None),
            (Value::Void, None),
        ] {
            assert_eq!(of(value.clone()), delay, "{value:?}");
        }
        assert_eq!(delay_ms(&Arguments::default()), None);
    }

    #[test]
    fn what_it_routes_as() {
        let of = |value: Value| check(&Arguments(vec![(DELAYED_TYPE.to_owned(), value)]));
        assert_eq!(of(Value::text("topic")), Ok(ExchangeKind::Topic));
        assert_eq!(of(Value::text("x-delayed-message")), Err(Unfit::DelayedTwice));
        assert_eq!(of(Value::text("unheard of")), Err(Unfit::UnknownKind("unheard of".to_owned())));
        assert_eq!(of(Value::Bool(true)), Err(Unfit::NoDelayedType));
        assert_eq!(check(&Arguments::default()), Err(Unfit::NoDelayedType));
    }
}
