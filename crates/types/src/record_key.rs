//! What of a message is the key of the record that it is stored as.
//!
//! **Invariant.** [`RecordKey::parse`] takes what `Display` prints, and nothing else means the same.

use std::fmt;
use std::sync::Arc;

/// Longest name of a header, in bytes.
const NAME_MAX: usize = 255;

/// A rule; topics have it as their setting `ferrymq.record.key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum RecordKey {
    /// `routing_key`: the routing key, if the message was published to an exchange with a name.
    #[default]
    RoutingKey,
    /// `header:NAME`: the value of this header, as it is in the record; 1 to 255 bytes of name.
    Header(Arc<str>),
    /// `correlation_id`: that property.
    CorrelationId,
    /// `none`: no key.
    Nothing,
}

impl RecordKey {
    /// The rule of this text; `None`: there is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<RecordKey> {
        match text {
            "routing_key" => Some(RecordKey::RoutingKey),
            "correlation_id" => Some(RecordKey::CorrelationId),
            "none" => Some(RecordKey::Nothing),
            _ => {
                let name = text.strip_prefix("header:")?;
                (1..=NAME_MAX).contains(&name.len()).then(|| RecordKey::Header(name.into()))
            }
        }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::RoutingKey => f.write_str("routing_key"),
            RecordKey::Header(name) => write!(f, "header:{name}"),
            RecordKey::CorrelationId => f.write_str("correlation_id"),
            RecordKey::Nothing => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_they_are_written() {
        for text in ["routing_key", "header:a", "header:x y", "correlation_id", "none"] {
            assert_eq!(RecordKey::parse(text).map(|rule| rule.to_string()).as_deref(), Some(text));
        }
        for wrong in ["", "header:", "header", "Routing_Key", "none ", &format!("header:{}", "n".repeat(256))]
        {
            assert_eq!(RecordKey::parse(wrong), None, "{wrong}");
        }
    }
}
