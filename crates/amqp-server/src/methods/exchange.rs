//! Class exchange: declaring, deleting and binding exchanges.
//!
//! **Invariants.** Deleting and unbinding what is not there succeeds. Line ends in names are dropped when
//! something is declared, deleted or bound, as RabbitMQ does.

use ferrymq_amqp_codec::ReplyCode;
use ferrymq_amqp_codec::method::exchange;
use ferrymq_broker::queues::{BindingSpec, DeleteIf, Entity, ExchangeKind, ExchangeSpec, QueueError};

use super::queue::{absent_is_fine, declared_name, name, without_line_ends};
use crate::args::from_table;
use crate::failure::Failure;
use crate::reader::Reader;

impl Reader<'_> {
    pub(crate) async fn exchange_declare(
        &mut self,
        number: u16,
        declare: &exchange::Declare<'_>,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let name = declared_name(Entity::Exchange, declare.exchange)?;
        if declare.passive {
            check_not_default(&name)?;
            queues.exchange(vhost, &name)?;
        } else {
            let kind = std::str::from_utf8(declare.kind).ok().and_then(ExchangeKind::parse);
            let Some(kind) = kind else {
                let kind = String::from_utf8_lossy(declare.kind);
                let text = format!("unknown exchange type '{kind}'");
                return Err(Failure::new(ReplyCode::PreconditionFailed, text));
            };
            check_not_default(&name)?;
            let spec = ExchangeSpec {
                name: name.into(),
                kind,
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                internal: declare.internal,
                arguments: from_table(declare.arguments)?,
            };
            queues.declare_exchange(&connection.session, vhost, spec).await?;
        }
        if !declare.nowait {
            connection.output.method(number, &exchange::DeclareOk {});
        }
        Ok(())
    }

    pub(crate) async fn exchange_delete(
        &mut self,
        number: u16,
        delete: &exchange::Delete<'_>,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        let vhost = &connection.opened.vhost;
        let name = declared_name(Entity::Exchange, delete.exchange)?;
        check_not_default(&name)?;
        if name.starts_with("amq.") {
            let text = format!("deletion of system exchange '{name}' in vhost '{vhost}' not allowed");
            return Err(Failure::new(ReplyCode::AccessRefused, text));
        }
        let only_if = DeleteIf { unused: delete.if_unused, empty: false };
        let deleted =
            connection.context.queues.delete_exchange(&connection.session, vhost, &name, only_if).await;
        absent_is_fine(deleted, false)?;
        if !delete.nowait {
            connection.output.method(number, &exchange::DeleteOk {});
        }
        Ok(())
    }

    pub(crate) async fn exchange_bind(
        &mut self,
        number: u16,
        bind: &exchange::Bind<'_>,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        let spec = self.exchange_binding(bind.source, bind.destination, bind.routing_key, bind.arguments)?;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        queues.bind_exchange(&connection.session, vhost, spec).await?;
        if !bind.nowait {
            connection.output.method(number, &exchange::BindOk {});
        }
        Ok(())
    }

    pub(crate) async fn exchange_unbind(
        &mut self,
        number: u16,
        unbind: &exchange::Unbind<'_>,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        let spec =
            self.exchange_binding(unbind.source, unbind.destination, unbind.routing_key, unbind.arguments)?;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        absent_is_fine(queues.unbind_exchange(&connection.session, vhost, spec).await, ())?;
        if !unbind.nowait {
            connection.output.method(number, &exchange::UnbindOk {});
        }
        Ok(())
    }

    fn exchange_binding(
        &self,
        source: &[u8],
        destination: &[u8],
        routing_key: &[u8],
        arguments: ferrymq_amqp_codec::Table<'_>,
    ) -> Result<BindingSpec, Failure> {
        let source = without_line_ends(name(self.connection, Entity::Exchange, source)?);
        let destination = without_line_ends(name(self.connection, Entity::Exchange, destination)?);
        check_not_default(&source)?;
        check_not_default(&destination)?;
        Ok(BindingSpec {
            source,
            destination,
            routing_key: bytes::Bytes::copy_from_slice(routing_key),
            arguments: from_table(arguments)?,
        })
    }
}

/// The default exchange is nobody's to change.
pub(super) fn check_not_default(name: &str) -> Result<(), Failure> {
    if name.is_empty() { Err(QueueError::DefaultExchange.into()) } else { Ok(()) }
}
