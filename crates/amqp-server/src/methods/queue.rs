//! Class queue: declaring, binding, purging and deleting queues.
//!
//! **Invariants.** An empty name stands for the queue declared last on the channel. Deleting and unbinding what
//! is not there succeeds. Counts that are told include what this connection published before.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{ReplyCode, Table};
use ferrymq_broker::queues::{BindingSpec, DeleteIf, Entity, QueueError, QueueSpec};

use super::exchange::check_not_default;
use crate::args::from_table;
use crate::failure::Failure;
use crate::reader::Reader;
use crate::state::Connection;

impl Reader<'_> {
    pub(crate) async fn queue_declare(
        &mut self,
        number: u16,
        declare: &queue::Declare<'_>,
    ) -> Result<(), Failure> {
        self.settle_all().await;
        let connection = self.connection;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let declared = if declare.passive {
            let name = match declared_name(Entity::Queue, declare.queue)? {
                empty if empty.is_empty() => self.queue_name(number, b"")?,
                name => name.into(),
            };
            queues.queue(&connection.session, vhost, &name).await?
        } else {
            let spec = QueueSpec {
                name: declared_name(Entity::Queue, declare.queue)?.into(),
                // One that goes with its connection cannot outlive the broker.
                durable: declare.durable && !declare.exclusive,
                exclusive: declare.exclusive,
                auto_delete: declare.auto_delete,
                arguments: from_table(declare.arguments)?,
            };
            queues.declare_queue(&connection.session, vhost, spec).await?
        };
        let name = declared.queue.name().clone();
        if !declare.nowait {
            let ok = queue::DeclareOk {
                queue: name.as_bytes(),
                message_count: counted(declared.stat.ready),
                consumer_count: counted(declared.stat.consumers),
            };
            connection.output.method(number, &ok);
        }
        if let Some(channel) = connection.state.lock().channels.get_mut(&number) {
            channel.last_queue = Some(name);
        }
        Ok(())
    }

    pub(crate) async fn queue_bind(&mut self, number: u16, bind: &queue::Bind<'_>) -> Result<(), Failure> {
        let connection = self.connection;
        let spec = self.queue_binding(number, bind.queue, bind.exchange, bind.routing_key, bind.arguments)?;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        queues.bind(&connection.session, vhost, spec).await?;
        if !bind.nowait {
            connection.output.method(number, &queue::BindOk {});
        }
        Ok(())
    }

    pub(crate) async fn queue_unbind(
        &mut self,
        number: u16,
        unbind: &queue::Unbind<'_>,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        let spec =
            self.queue_binding(number, unbind.queue, unbind.exchange, unbind.routing_key, unbind.arguments)?;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        absent_is_fine(queues.unbind(&connection.session, vhost, spec).await, ())?;
        connection.output.method(number, &queue::UnbindOk {});
        Ok(())
    }

    fn queue_binding(
        &self,
        number: u16,
        queue: &[u8],
        exchange: &[u8],
        routing_key: &[u8],
        arguments: Table<'_>,
    ) -> Result<BindingSpec, Failure> {
        let destination = self.queue_name(number, queue)?;
        let routing_key = if queue.is_empty() && routing_key.is_empty() {
            Bytes::copy_from_slice(destination.as_bytes())
        } else {
            Bytes::copy_from_slice(routing_key)
        };
        let source = name(self.connection, Entity::Exchange, exchange)?;
        check_not_default(&source)?;
        Ok(BindingSpec { source, destination, routing_key, arguments: from_table(arguments)? })
    }

    pub(crate) async fn queue_purge(&mut self, number: u16, purge: &queue::Purge<'_>) -> Result<(), Failure> {
        self.settle_all().await;
        let connection = self.connection;
        let name = self.queue_name(number, purge.queue)?;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let purged = queues.purge(&connection.session, vhost, &name).await?;
        if !purge.nowait {
            connection.output.method(number, &queue::PurgeOk { message_count: counted(purged) });
        }
        Ok(())
    }

    pub(crate) async fn queue_delete(
        &mut self,
        number: u16,
        delete: &queue::Delete<'_>,
    ) -> Result<(), Failure> {
        self.settle_all().await;
        let connection = self.connection;
        let name = match declared_name(Entity::Queue, delete.queue)? {
            empty if empty.is_empty() => self.queue_name(number, b"")?,
            name => name.into(),
        };
        let only_if = DeleteIf { unused: delete.if_unused, empty: delete.if_empty };
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        connection.state.lock().cancels = Some(Vec::new());
        let deleted = queues.delete_queue(&connection.session, vhost, &name, only_if).await;
        let cancels = connection.state.lock().cancels.take().unwrap_or_default();
        let deleted = absent_is_fine(deleted, 0);
        if let (Ok(count), false) = (&deleted, delete.nowait) {
            connection.output.method(number, &queue::DeleteOk { message_count: counted(*count) });
        }
        for (channel, tag) in cancels {
            connection.output.method(channel, &basic::Cancel { consumer_tag: &tag, nowait: true });
        }
        deleted.map(|_| ())
    }

    /// The queue that a name stands for on a channel.
    pub(crate) fn queue_name(&self, number: u16, given: &[u8]) -> Result<Arc<str>, Failure> {
        if !given.is_empty() {
            return name(self.connection, Entity::Queue, given);
        }
        let state = self.connection.state.lock();
        let last = state.channels.get(&number).and_then(|channel| channel.last_queue.clone());
        last.ok_or_else(|| Failure::new(ReplyCode::NotFound, "no previously declared queue"))
    }
}

/// A count as the wire has it.
pub(super) fn counted(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A name of something that should be there; one that is not UTF-8 cannot be.
pub(super) fn name(connection: &Connection, entity: Entity, given: &[u8]) -> Result<Arc<str>, Failure> {
    match std::str::from_utf8(given) {
        Ok(name) => Ok(name.into()),
        Err(_) => {
            let (vhost, name) = (connection.opened.vhost.clone(), String::from_utf8_lossy(given).into());
            Err(QueueError::NotFound { entity, vhost, name }.into())
        }
    }
}

/// A name to declare or delete, without line ends.
pub(super) fn declared_name(entity: Entity, given: &[u8]) -> Result<String, Failure> {
    match std::str::from_utf8(given) {
        Ok(name) => Ok(name.replace(['\r', '\n'], "")),
        Err(_) => Err(QueueError::BadName { entity, why: "it is not UTF-8" }.into()),
    }
}

/// What is not there need not be taken away.
pub(super) fn absent_is_fine<T>(done: Result<T, QueueError>, nothing: T) -> Result<T, Failure> {
    match done {
        Err(QueueError::NotFound { .. }) => Ok(nothing),
        other => Ok(other?),
    }
}
