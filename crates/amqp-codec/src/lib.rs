//! The AMQP 0-9-1 wire protocol: bytes in, borrowed structs out. Pure, bounded, no I/O.
//!
//! In reading order:
//!
//! - [`protocol_header`]: the eight bytes a connection begins with.
//! - [`frame`]: [`FrameReader`] cuts the stream into frames.
//! - [`method`]: a struct per method, and [`Method`] for any of them.
//! - [`properties`]: content headers; [`Properties`] as the publisher wrote them, [`BasicProperties`] to
//!   make and change them.
//! - [`table`] and [`table_builder`]: field tables as bytes; [`value`]: field tables that are kept.
//! - [`frame_writer`]: appends methods and whole messages to a buffer.
//! - [`decode`] and [`encode`]: the fields they are made of.
//! - [`reply_code`] and [`error`]: what went wrong, in the protocol's numbers and RabbitMQ's words.
//!
//! Invariants:
//!
//! - No input makes it panic, recurse without bound or allocate. A length is compared with the bytes that are
//!   left before it is used; only [`value`] allocates, in proportion to what was read.
//! - What a publisher wrote stays as it was: the order and the duplicates of headers, the types of values,
//!   strings that are not UTF-8. Properties and tables are checked once, then looked into in place.
//! - It serves both sides: whatever can be read can be written.
//!
//! Deliberately absent: sockets and timers; the state of connections and channels (which frame may follow
//! which); what a method means; AMQP 1.0.
#![forbid(unsafe_code)]

pub mod decode;
pub mod encode;
pub mod error;
pub mod frame;
pub mod frame_writer;
pub mod method;
pub mod properties;
pub mod protocol_header;
pub mod reply_code;
pub mod table;
pub mod table_builder;
pub mod value;

pub use decode::Decoder;
pub use encode::Encoder;
pub use error::{DecodeError, EncodeError};
pub use frame::{Frame, FrameKind, FrameReader, FrameRef};
pub use method::{Method, MethodId, WireMethod};
pub use properties::{BasicProperties, ContentHeader, Properties};
pub use protocol_header::{PROTOCOL_HEADER, ProtocolHeader};
pub use reply_code::{ReplyCode, Scope};
pub use table::{Array, Table, ValueRef};
pub use table_builder::{ArrayBuilder, TableBuilder};
pub use value::{FieldTable, Value};

/// The README's examples, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
