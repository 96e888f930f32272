//! Bindings: exchanges lead to queues and to exchanges.
//!
//! **Invariants.** A binding is stored if both its ends are. The same binding twice is one; taking away what is
//! not there is fine, as in RabbitMQ.
//!
//! Deliberately absent: permissions (the doors have them).

use super::declare::{always_durable, check_arguments};
use super::error::QueueError;
use super::exchange::{check_binding, routes_as};
use super::handle::Queues;
use super::logs::Admin;
use super::records::{BindingRecord, binding_key, put};
use super::topology::{Binding, Destination, Vhost};
use super::types::BindingSpec;

impl Queues {
    pub(super) async fn add_binding(
        &self,
        admin: &mut Admin,
        session: u64,
        vhost: &str,
        spec: BindingSpec,
        destination: Destination,
    ) -> Result<(), QueueError> {
        let binding = {
            let topology = self.topology.read();
            let vhost = topology.vhost(vhost)?;
            let binding = named_binding(vhost, spec, destination)?;
            check(vhost, &binding)?;
            check_owner(vhost, session, &binding)?;
            if vhost.find_binding(&binding).is_some() {
                return Ok(());
            }
            binding
        };
        let number = admin.next_binding;
        if binding.stored {
            self.write(vec![put(binding_key(number), BindingRecord::new(vhost, &binding))?]).await?;
        }
        admin.next_binding += 1;
        self.change(vhost, |vhost| vhost.add_binding(number, binding))?;
        Ok(())
    }

    pub(super) async fn remove_binding(
        &self,
        session: u64,
        vhost: &str,
        spec: BindingSpec,
        destination: Destination,
    ) -> Result<(), QueueError> {
        let removal = {
            let topology = self.topology.read();
            let vhost = topology.vhost(vhost)?;
            match named_binding(vhost, spec, destination) {
                Ok(binding) => match vhost.find_binding(&binding) {
                    Some(number) => {
                        check_owner(vhost, session, &binding)?;
                        Some(vhost.plan_binding(number))
                    }
                    None => None,
                },
                // What one end is missing of is not there.
                Err(QueueError::NotFound { .. }) => None,
                Err(error) => return Err(error),
            }
        };
        match removal {
            Some(removal) => self.remove(vhost, &removal, Vec::new()).await,
            None => Ok(()),
        }
    }
}

/// Whether its exchange takes it.
fn check(vhost: &Vhost, binding: &Binding) -> Result<(), QueueError> {
    let classic = match &binding.destination {
        Destination::Queue(name) => {
            let queue = vhost.queue(name)?;
            Some(!always_durable(&queue.spec) && !queue.handle.is_stream())
        }
        Destination::Exchange(_) => None,
    };
    let source = &vhost.exchange(&binding.source)?.spec;
    let kind = routes_as(source.kind, &source.arguments);
    check_binding(kind, &binding.routing_key, &binding.arguments, classic).map_err(QueueError::Unfit)
}

/// Whether the queue that it leads to is this session's to bind.
fn check_owner(vhost: &Vhost, session: u64, binding: &Binding) -> Result<(), QueueError> {
    match &binding.destination {
        Destination::Queue(name) => vhost.queue_for(name, session).map(drop),
        Destination::Exchange(_) => Ok(()),
    }
}

/// A binding between what is there; of two ends that are not, the exchange is told.
fn named_binding(vhost: &Vhost, spec: BindingSpec, destination: Destination) -> Result<Binding, QueueError> {
    let BindingSpec { source, routing_key, arguments, .. } = spec;
    let is_default = matches!(&destination, Destination::Exchange(name) if name.is_empty());
    if source.is_empty() || is_default {
        return Err(QueueError::DefaultExchange);
    }
    let from = vhost.exchange(&source)?;
    let to_durable = match &destination {
        Destination::Queue(name) => vhost.queue(name)?.stored(),
        Destination::Exchange(name) => vhost.exchange(name)?.spec.durable,
    };
    check_arguments(&arguments)?;
    let stored = from.spec.durable && to_durable;
    Ok(Binding { source, destination, routing_key, arguments, stored })
}
