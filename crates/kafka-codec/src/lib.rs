//! The Kafka wire protocol: bytes in, structs out. Pure, bounded, no I/O.
//!
//! In reading order:
//!
//! - [`api`]: which APIs and versions exist for us ([`ApiKey`], [`VersionRange`]).
//! - [`header`]: request and response headers.
//! - [`messages`]: one module per API, generated; [`messages::RequestKind`] dispatches on the header.
//! - [`decode`] and [`encode`]: the reader of a frame and the writer of a rope of chunks.
//! - [`Frame`], [`Records`], [`StrBytes`], [`Uuid`]: what the messages are made of.
//! - [`ErrorCode`]: Kafka's error codes.
//!
//! Invariants:
//!
//! - No input makes it panic, recurse or allocate more than a small multiple of the input. Every count is
//!   checked against the bytes left before anything is allocated for it.
//! - Nothing is copied on the way in: strings, byte fields and records are slices of the frame. Whoever
//!   keeps one keeps the frame alive; [`StrBytes::detach`] copies out.
//! - Records are not copied on the way out either, from [`encode::RECORDS_SPLICE_MIN`] bytes on.
//!
//! Deliberately absent: record batches (their headers, checksums and compression belong to the types
//! crate), sockets, and any judgement about what a request may do.
#![forbid(unsafe_code)]

pub mod api;
mod api_key;
pub mod decode;
pub mod encode;
mod error_code;
mod frame;
pub mod header;
pub mod message;
pub mod messages;
mod records;
mod str_bytes;
mod uuid;

pub use api::VersionRange;
pub use api_key::ApiKey;
pub use decode::{DecodeError, Decoder};
pub use encode::{EncodeError, Encoder};
pub use error_code::ErrorCode;
pub use frame::Frame;
pub use header::{RequestHeader, ResponseHeader};
pub use message::{Body, Message, Request};
pub use messages::{RequestKind, ResponseKind};
pub use records::Records;
pub use str_bytes::StrBytes;
pub use uuid::Uuid;

/// The README's example, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
