//! The property `expiration`: milliseconds as text, told apart from what is none as RabbitMQ does.
//!
//! **Invariant.** What RabbitMQ takes is taken, and nothing else: digits with or without a sign, from zero to ten years.
//!
//! Deliberately absent: what happens when the time is over (the queues know).

use ferrymq_amqp_codec::ReplyCode;
use ferrymq_broker::queues::settings::EXPIRY_MS_MAX;

use crate::failure::Failure;

/// The time to live that a publisher wrote.
///
/// # Errors
/// 406 with RabbitMQ's reason.
pub(crate) fn parse(text: &[u8]) -> Result<u64, Failure> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, left) = rest.split_at(digits);
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    let number = &digits[zeros..];
    let why = if digits.is_empty() {
        "no_integer".to_owned()
    } else if !left.is_empty() {
        format!("{{leftover_string,{}}}", quoted(left))
    } else if negative && !number.is_empty() {
        format!("{{value_negative,-{}}}", String::from_utf8_lossy(number))
    } else {
        let value = number
            .iter()
            .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
        match value {
            Some(value) if value <= EXPIRY_MS_MAX.cast_unsigned() => return Ok(value),
            _ => format!("{{value_too_large,{}}}", String::from_utf8_lossy(number)),
        }
    };
    let text = String::from_utf8_lossy(text);
    Err(Failure::new(ReplyCode::PreconditionFailed, format_args!("invalid expiration '{text}': {why}")))
}

/// A string as Erlang prints it.
fn quoted(text: &[u8]) -> String {
    if text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return format!("\"{}\"", String::from_utf8_lossy(text).replace('\\', "\\\\").replace('"', "\\\""));
    }
    let numbers: Vec<String> = text.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_rabbitmq_takes_them() {
        for (text, ms) in
            [("0", 0), ("5", 5), ("+5", 5), ("-0", 0), ("007", 7), ("315360000000", 315_360_000_000)]
        {
            assert_eq!(parse(text.as_bytes()).unwrap(), ms, "{text}");
        }
        for (text, why) in [
            ("", "no_integer"),
            ("abc", "no_integer"),
            (" 5", "no_integer"),
            ("-", "no_integer"),
            ("5ms", "{leftover_string,\"ms\"}"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("5\"", "{leftover_string,\"\\\"\"}"),
            ("-5", "{value_negative,-5}"),
            ("315360000001", "{value_too_large,315360000001}"),
            ("99999999999999999999999", "{value_too_large,99999999999999999999999}"),
        ] {
            let failure = parse(text.as_bytes()).unwrap_err();
            assert_eq!(failure.text, format!("PRECONDITION_FAILED - invalid expiration '{text}': {why}"));
        }
    }
}
