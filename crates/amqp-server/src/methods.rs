//! What methods do, a file for each class; here is which is which.
//!
//! **Invariants.** Everything but publishes and settlements first hands over what was gathered; what is answered, waits until
//! acknowledgements before it are durable, so that none of them returns after the answer. A method that fails has changed nothing that the client could still ask about: its channel or connection ends.

mod basic;
mod channel;
mod consume;
mod exchange;
mod queue;
mod reply;

use ferrymq_amqp_codec::method::connection::UpdateSecretOk;
use ferrymq_amqp_codec::method::{access, confirm};
use ferrymq_amqp_codec::{Method, ReplyCode};

use crate::failure::Failure;
use crate::reader::{Halt, Reader};

impl Reader<'_> {
    /// A method on channel 0.
    pub(crate) async fn connection_method(&mut self, method: &Method<'_>) -> Result<(), Halt> {
        match method {
            Method::ConnectionClose(_) => Err(Halt::Closed),
            // There is nothing to refresh: a user is who logged in.
            Method::ConnectionUpdateSecret(_) => {
                self.send_durably().await?;
                self.connection.output.method(0, &UpdateSecretOk {});
                Ok(())
            }
            other => {
                let text = "unexpected method in connection state running";
                Err(Failure::hard(ReplyCode::ChannelError, text).of(other.id()).into())
            }
        }
    }

    /// A method on an open channel, other than `basic.publish`.
    pub(crate) async fn method(&mut self, number: u16, method: &Method<'_>) -> Result<(), Failure> {
        match method {
            Method::BasicAck(ack) => return self.ack(number, ack),
            Method::BasicNack(nack) => return self.nack(number, nack),
            Method::BasicReject(reject) => return self.reject(number, reject),
            _ if is_answered(method) => self.send_durably().await?,
            _ => self.send().await,
        }
        match method {
            Method::ChannelOpen(_) => {
                Err(Failure::new(ReplyCode::ChannelError, "second 'channel.open' seen"))
            }
            Method::ChannelClose(_) => {
                self.close_channel(number).await;
                Ok(())
            }
            Method::ChannelFlow(flow) => self.flow(number, flow.active),
            Method::ExchangeDeclare(declare) => self.exchange_declare(number, declare).await,
            Method::ExchangeDelete(delete) => self.exchange_delete(number, delete).await,
            Method::ExchangeBind(bind) => self.exchange_bind(number, bind).await,
            Method::ExchangeUnbind(unbind) => self.exchange_unbind(number, unbind).await,
            Method::QueueDeclare(declare) => self.queue_declare(number, declare).await,
            Method::QueueBind(bind) => self.queue_bind(number, bind).await,
            Method::QueueUnbind(unbind) => self.queue_unbind(number, unbind).await,
            Method::QueuePurge(purge) => self.queue_purge(number, purge).await,
            Method::QueueDelete(delete) => self.queue_delete(number, delete).await,
            Method::BasicQos(qos) => self.qos(number, qos),
            Method::BasicConsume(consume) => self.consume(number, consume).await,
            Method::BasicCancel(cancel) => self.cancel(number, cancel.consumer_tag, cancel.nowait).await,
            Method::BasicGet(get) => self.get(number, get).await,
            Method::BasicRecover(recover) => self.recover(number, recover.requeue, true).await,
            Method::BasicRecoverAsync(recover) => self.recover(number, recover.requeue, false).await,
            Method::ConfirmSelect(select) => self.confirm_select(number, select),
            Method::AccessRequest(_) => {
                self.connection.output.method(number, &access::RequestOk { ticket: 1 });
                Ok(())
            }
            Method::TxSelect(_) => self.tx_select(number),
            Method::TxCommit(_) => self.tx_commit(number).await,
            Method::TxRollback(_) => self.tx_rollback(number),
            _ => Err(Failure::new(ReplyCode::CommandInvalid, "unimplemented method")),
        }
    }

    fn confirm_select(&mut self, number: u16, select: &confirm::Select) -> Result<(), Failure> {
        if let Some(channel) = self.connection.state.lock().channels.get_mut(&number) {
            if channel.tx.is_some() {
                let text = "cannot switch from tx to confirm mode";
                return Err(Failure::new(ReplyCode::PreconditionFailed, text));
            }
            channel.confirms.get_or_insert(0);
        }
        if !select.nowait {
            self.connection.output.method(number, &confirm::SelectOk {});
        }
        Ok(())
    }
}

/// Whether the client waits for an answer.
fn is_answered(method: &Method<'_>) -> bool {
    match method {
        Method::ExchangeDeclare(declare) => !declare.nowait,
        Method::ExchangeDelete(delete) => !delete.nowait,
        Method::ExchangeBind(bind) => !bind.nowait,
        Method::ExchangeUnbind(unbind) => !unbind.nowait,
        Method::QueueDeclare(declare) => !declare.nowait,
        Method::QueueBind(bind) => !bind.nowait,
        Method::QueuePurge(purge) => !purge.nowait,
        Method::QueueDelete(delete) => !delete.nowait,
        Method::BasicConsume(consume) => !consume.nowait,
        Method::BasicCancel(cancel) => !cancel.nowait,
        Method::ConfirmSelect(select) => !select.nowait,
        Method::BasicRecoverAsync(_) => false,
        _ => true,
    }
}
