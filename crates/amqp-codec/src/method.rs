//! Methods: one struct each, in a module per class, and [`Method`] for any of them.
//!
//! Methods, ids, fields and their order are those of AMQP 0-9-1 with RabbitMQ's extensions
//! (`connection.blocked`, `connection.update-secret`, `exchange.bind`, `basic.nack`, `confirm.select`).
//!
//! Invariants:
//!
//! - Strings and tables are borrowed from the payload. Short strings are any bytes.
//! - A payload that is longer than its fields is refused, as RabbitMQ does.
//!
//! Deliberately absent: who may send a method and when; that is the state of a connection.

use std::fmt;

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::error::{DecodeError, EncodeError, Snippet};
use crate::frame::FrameKind;

#[macro_use]
mod macros;

pub mod access;
pub mod basic;
pub mod channel;
pub mod confirm;
pub mod connection;
pub mod exchange;
pub mod queue;
pub mod tx;

/// The two numbers in front of a method's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MethodId {
    /// The class, such as 60 for basic.
    pub class: u16,
    /// The method within the class.
    pub method: u16,
}

impl MethodId {
    /// None, as `connection.close` says it when no method was at fault.
    pub const NONE: Self = Self { class: 0, method: 0 };

    /// Both numbers as one, the class first, as they stand on the wire.
    pub const fn key(self) -> u32 {
        (self.class as u32) << 16 | self.method as u32
    }

    /// The ids at the beginning of a method frame's payload, whether there is such a method or not.
    pub fn peek(payload: &[u8]) -> Option<Self> {
        let &[a, b, c, d] = payload.first_chunk()?;
        Some(Self { class: u16::from_be_bytes([a, b]), method: u16::from_be_bytes([c, d]) })
    }

    /// The specification's name, such as `queue.declare`, if there is such a method.
    pub fn name(self) -> Option<&'static str> {
        Method::NAMES.iter().find(|(id, _)| *id == self).map(|(_, name)| *name)
    }
}

impl fmt::Display for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}.{}", self.class, self.method),
        }
    }
}

/// A method as its struct.
pub trait WireMethod<'a>: Sized {
    /// Its ids.
    const ID: MethodId;
    /// Its name in the specification, such as `queue.declare`.
    const NAME: &'static str;

    /// Reads the fields.
    ///
    /// # Errors
    /// Those of [`Decoder`].
    fn read(d: &mut Decoder<'a>) -> Result<Self, DecodeError>;

    /// Writes the fields.
    ///
    /// # Errors
    /// Those of [`Encoder`].
    fn write(&self, e: &mut Encoder<'_>) -> Result<(), EncodeError>;
}

/// Reads the fields of one method to the end of the payload.
#[inline(always)]
fn read_whole<'a, M: WireMethod<'a>>(fields: &'a [u8]) -> Result<M, DecodeError> {
    let mut d = Decoder::new(fields);
    let method = M::read(&mut d)?;
    d.finish()?;
    Ok(method)
}

/// The ids and the rest of a method frame's payload.
#[inline]
fn split_id(payload: &[u8]) -> Result<(MethodId, &[u8]), DecodeError> {
    match payload.split_first_chunk() {
        Some((&[a, b, c, d], fields)) => {
            Ok((MethodId { class: u16::from_be_bytes([a, b]), method: u16::from_be_bytes([c, d]) }, fields))
        }
        None => {
            let kind = FrameKind::Method as u8;
            Err(DecodeError::UnknownFrame { kind, payload: Snippet::of(payload) })
        }
    }
}

any_method! {
    ConnectionStart: connection::Start<'a>,
    ConnectionStartOk: connection::StartOk<'a>,
    ConnectionSecure: connection::Secure<'a>,
    ConnectionSecureOk: connection::SecureOk<'a>,
    ConnectionTune: connection::Tune,
    ConnectionTuneOk: connection::TuneOk,
    ConnectionOpen: connection::Open<'a>,
    ConnectionOpenOk: connection::OpenOk<'a>,
    ConnectionClose: connection::Close<'a>,
    ConnectionCloseOk: connection::CloseOk,
    ConnectionBlocked: connection::Blocked<'a>,
    ConnectionUnblocked: connection::Unblocked,
    ConnectionUpdateSecret: connection::UpdateSecret<'a>,
    ConnectionUpdateSecretOk: connection::UpdateSecretOk,
    ChannelOpen: channel::Open<'a>,
    ChannelOpenOk: channel::OpenOk<'a>,
    ChannelFlow: channel::Flow,
    ChannelFlowOk: channel::FlowOk,
    ChannelClose: channel::Close<'a>,
    ChannelCloseOk: channel::CloseOk,
    AccessRequest: access::Request<'a>,
    AccessRequestOk: access::RequestOk,
    ExchangeDeclare: exchange::Declare<'a>,
    ExchangeDeclareOk: exchange::DeclareOk,
    ExchangeDelete: exchange::Delete<'a>,
    ExchangeDeleteOk: exchange::DeleteOk,
    ExchangeBind: exchange::Bind<'a>,
    ExchangeBindOk: exchange::BindOk,
    ExchangeUnbind: exchange::Unbind<'a>,
    ExchangeUnbindOk: exchange::UnbindOk,
    QueueDeclare: queue::Declare<'a>,
    QueueDeclareOk: queue::DeclareOk<'a>,
    QueueBind: queue::Bind<'a>,
    QueueBindOk: queue::BindOk,
    QueuePurge: queue::Purge<'a>,
    QueuePurgeOk: queue::PurgeOk,
    QueueDelete: queue::Delete<'a>,
    QueueDeleteOk: queue::DeleteOk,
    QueueUnbind: queue::Unbind<'a>,
    QueueUnbindOk: queue::UnbindOk,
    BasicQos: basic::Qos,
    BasicQosOk: basic::QosOk,
    BasicConsume: basic::Consume<'a>,
    BasicConsumeOk: basic::ConsumeOk<'a>,
    BasicCancel: basic::Cancel<'a>,
    BasicCancelOk: basic::CancelOk<'a>,
    BasicPublish: basic::Publish<'a>,
    BasicReturn: basic::Return<'a>,
    BasicDeliver: basic::Deliver<'a>,
    BasicGet: basic::Get<'a>,
    BasicGetOk: basic::GetOk<'a>,
    BasicGetEmpty: basic::GetEmpty<'a>,
    BasicAck: basic::Ack,
    BasicReject: basic::Reject,
    BasicRecoverAsync: basic::RecoverAsync,
    BasicRecover: basic::Recover,
    BasicRecoverOk: basic::RecoverOk,
    BasicNack: basic::Nack,
    TxSelect: tx::Select,
    TxSelectOk: tx::SelectOk,
    TxCommit: tx::Commit,
    TxCommitOk: tx::CommitOk,
    TxRollback: tx::Rollback,
    TxRollbackOk: tx::RollbackOk,
    ConfirmSelect: confirm::Select,
    ConfirmSelectOk: confirm::SelectOk,
}

impl Method<'_> {
    /// Whether a content header and a body follow.
    pub const fn has_content(&self) -> bool {
        matches!(
            self,
            Self::BasicPublish(_) | Self::BasicReturn(_) | Self::BasicDeliver(_) | Self::BasicGetOk(_)
        )
    }
}

#[cfg(test)]
mod tests;
