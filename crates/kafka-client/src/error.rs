//! What can go wrong, in words that say what to do next.
//!
//! **Invariant.** A code the broker answered is kept as a number and named as Kafka names it; numbers this
//! client does not know stay readable.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_compress::CompressError;
use ferrymq_kafka_codec::{ApiKey, DecodeError, EncodeError, ErrorCode, StrBytes};
use ferrymq_types::{BatchError, RecordError};

/// An error code that a broker answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerError {
    /// What was asked for, such as `produce to orders/3`.
    pub what: String,
    /// Kafka's number.
    pub code: i16,
    /// The broker's own words, if it sent any.
    pub message: Option<String>,
}

impl BrokerError {
    /// The code, if it is one this client knows.
    #[must_use]
    pub fn known(&self) -> Option<ErrorCode> {
        ErrorCode::from_code(self.code)
    }

    /// Whether sending the same request again may help.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.known().is_some_and(ErrorCode::is_retriable)
    }
}

impl std::fmt::Display for BrokerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BrokerError { what, code, message } = self;
        match self.known() {
            Some(known) => write!(f, "{what}: {}", known.name())?,
            None => write!(f, "{what}: error code {code}")?,
        }
        match (message.as_deref(), self.known()) {
            (Some(message), _) if !message.is_empty() => write!(f, ": {message}"),
            (_, Some(known)) => write!(f, ": {}", known.message()),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BrokerError {}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// The operating system's reason.
        source: Arc<io::Error>,
    },
    /// The connection ended while an answer was awaited.
    #[error("connection to {address} was closed: {reason}")]
    Closed {
        /// Whose.
        address: String,
        /// Why, as far as is known.
        reason: String,
    },
    /// No answer in time; the connection was given up.
    #[error("no answer from {address} to {api} within {after:?}")]
    TimedOut {
        /// Who was asked.
        address: String,
        /// What.
        api: ApiKey,
        /// How long was waited.
        after: Duration,
    },
    /// The broker speaks no version of an API that this client does.
    #[error("broker {address} does not serve {api} in a version this client speaks")]
    Unsupported {
        /// Who.
        address: String,
        /// What.
        api: ApiKey,
    },
    /// The broker's bytes are not an answer.
    #[error("cannot read the answer to {api}")]
    Decode {
        /// Which answer.
        api: ApiKey,
        /// What is wrong.
        source: DecodeError,
    },
    /// A request cannot be written.
    #[error("cannot write a request")]
    Encode(#[from] EncodeError),
    /// The broker answered with an error.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A fetched record batch is damaged.
    #[error("damaged record batch in {partition}")]
    Batch {
        /// Topic and partition.
        partition: String,
        /// What is wrong.
        source: BatchError,
    },
    /// A record in a sound batch is damaged.
    #[error("damaged record in {partition}")]
    Record {
        /// Topic and partition.
        partition: String,
        /// What is wrong.
        source: RecordError,
    },
    /// Records could not be compressed or decompressed.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// The error for a code, or nothing for code 0.
    pub(crate) fn check(
        what: impl FnOnce() -> String,
        code: i16,
        message: Option<&StrBytes>,
    ) -> Result<(), ClientError> {
        if code == 0 {
            return Ok(());
        }
        let message = message.map(StrBytes::to_owned_str);
        Err(ClientError::Broker(BrokerError { what: what(), code, message }))
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Connect { .. } | ClientError::Closed { .. } | ClientError::TimedOut { .. } => true,
            ClientError::Broker(error) => error.is_retriable(),
            _ => false,
        }
    }

    /// Kafka's code, if a broker answered one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Broker(error) => error.known(),
            _ => None,
        }
    }

    /// What to do about it, where there is something to say.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            ClientError::Connect { .. } => Some(
                "is the broker running, and is --bootstrap its Kafka address? `ferrymq serve` starts one",
            ),
            ClientError::Closed { .. } => {
                Some("is --bootstrap a Kafka listener without TLS or SASL? the broker's log may say more")
            }
            ClientError::Unsupported { .. } => Some("the broker must speak Kafka 2.4 or later"),
            ClientError::Broker(error) => error.known().and_then(advice),
            _ => None,
        }
    }
}

fn advice(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopicOrPartition => {
            "`ferrymq topic list` shows what exists, `ferrymq topic create NAME` makes it"
        }
        ErrorCode::TopicAlreadyExists => "pass --if-not-exists if that is fine",
        ErrorCode::InvalidTopicException => {
            "names have at most 249 of the characters a-z A-Z 0-9 . _ - and are not `.` or `..`"
        }
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            "raise the topic's max.message.bytes, or send smaller messages or batches"
        }
        ErrorCode::OffsetOutOfRange => {
            "the offset was deleted or never existed; start from `beginning` or `end`"
        }
        ErrorCode::NonEmptyGroup => "stop the group's consumers first",
        ErrorCode::InvalidConfig => "`ferrymq topic describe NAME` lists the configs and their values",
        ErrorCode::TopicAuthorizationFailed
        | ErrorCode::GroupAuthorizationFailed
        | ErrorCode::ClusterAuthorizationFailed => "this connection's user needs an ACL for it",
        ErrorCode::CoordinatorLoadInProgress | ErrorCode::LeaderNotAvailable => {
            "the broker is still starting; try again in a moment"
        }
        _ => return None,
    })
}
