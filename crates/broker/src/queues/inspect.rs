//! What there is, for whoever operates the broker: queues, exchanges and bindings with the policies that apply.
//!
//! **Invariants.** Each list is of one moment. Counts of messages are asked of the shards, once for all their queues, and
//! are of a moment later.
//!
//! Deliberately absent: rates and histories; who may see what (the doors).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::LogId;
use tokio::sync::oneshot;

use super::args::Arguments;
use super::error::QueueError;
use super::handle::Queues;
use super::policy::{Applied, Subject};
use super::settings::QueueType;
use super::shard::message::{SMALL, ShardMessage};
use super::streams::policies::is_made;
use super::topology::{Destination, Exchange, QueueEntry, Vhost};
use super::types::{ExchangeSpec, QueueHandle, QueueSpec, QueueStat};

/// The policies that apply to something, by name, and what they say together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AppliedPolicies {
    /// A user's.
    pub policy: Option<Arc<str>>,
    /// An operator's.
    pub operator: Option<Arc<str>>,
    /// What they say.
    pub definition: Arguments,
}

/// A queue as it is.
#[derive(Debug, Clone)]
pub struct QueueInfo {
    /// It.
    pub queue: QueueHandle,
    /// As it was declared.
    pub spec: QueueSpec,
    /// Its type.
    pub kind: QueueType,
    /// What applies to it besides.
    pub applied: AppliedPolicies,
    /// What is in it; `None`: it is not known, it is just being deleted for instance.
    pub stat: Option<QueueStat>,
}

/// An exchange as it is.
#[derive(Debug, Clone)]
pub struct ExchangeInfo {
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// As it was declared.
    pub spec: ExchangeSpec,
    /// What applies to it besides.
    pub applied: AppliedPolicies,
}

/// A binding as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingInfo {
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// The exchange that messages come from; empty: the default one, whose bindings nobody made.
    pub source: Arc<str>,
    /// Where they go.
    pub destination: Arc<str>,
    /// Whether that is a queue, or else an exchange.
    pub to_queue: bool,
    /// What a routing key is compared with.
    pub routing_key: Bytes,
    /// Its arguments.
    pub arguments: Arguments,
}

impl From<Applied<'_>> for AppliedPolicies {
    fn from(applied: Applied<'_>) -> AppliedPolicies {
        AppliedPolicies {
            policy: applied.policy.map(|policy| policy.spec.name.clone()),
            operator: applied.operator.map(|policy| policy.spec.name.clone()),
            definition: applied.definition(),
        }
    }
}

impl Queues {
    /// The queues of a virtual host, or of all, by name, with what is in them.
    ///
    /// # Errors
    /// [`QueueError::NoVhost`].
    pub async fn list_queues(&self, vhost: Option<&str>) -> Result<Vec<QueueInfo>, QueueError> {
        let mut all = self.of_vhosts(vhost, |vhost, all| {
            all.extend(vhost.queues.values().map(|entry| info_of(vhost, entry)));
        })?;
        all.sort_unstable_by(|a, b| {
            (a.queue.vhost(), a.queue.name()).cmp(&(b.queue.vhost(), b.queue.name()))
        });
        let stats = self.stats().await;
        for info in &mut all {
            info.stat = stats.get(&info.queue.log()).copied();
        }
        Ok(all)
    }

    /// A queue, with what is in it.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] or [`QueueError::NoVhost`].
    pub async fn inspect_queue(&self, vhost: &str, name: &str) -> Result<QueueInfo, QueueError> {
        let mut info = {
            let topology = self.topology.read();
            let vhost = topology.vhost(vhost)?;
            info_of(vhost, vhost.queue(name)?)
        };
        info.stat = Some(self.stat(&info.queue).await?);
        Ok(info)
    }

    /// The exchanges of a virtual host, or of all, by name.
    ///
    /// # Errors
    /// [`QueueError::NoVhost`].
    pub fn list_exchanges(&self, vhost: Option<&str>) -> Result<Vec<ExchangeInfo>, QueueError> {
        let mut all = self.of_vhosts(vhost, |vhost, all| {
            all.extend(vhost.exchanges.values().map(|exchange| exchange_info(vhost, exchange)));
        })?;
        all.sort_unstable_by(|a, b| (&a.vhost, &a.spec.name).cmp(&(&b.vhost, &b.spec.name)));
        Ok(all)
    }

    /// An exchange.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] or [`QueueError::NoVhost`].
    pub fn inspect_exchange(&self, vhost: &str, name: &str) -> Result<ExchangeInfo, QueueError> {
        let topology = self.topology.read();
        let vhost = topology.vhost(vhost)?;
        Ok(exchange_info(vhost, vhost.exchange(name)?))
    }

    /// The bindings of a virtual host, or of all, those of the default exchange among them.
    ///
    /// # Errors
    /// [`QueueError::NoVhost`].
    pub fn list_bindings(&self, vhost: Option<&str>) -> Result<Vec<BindingInfo>, QueueError> {
        let mut all = self.of_vhosts(vhost, bindings_of)?;
        all.sort_by(|a, b| {
            let place = |one: &BindingInfo| {
                let (source, destination) = (one.source.clone(), one.destination.clone());
                (one.vhost.clone(), source, !one.to_queue, destination, one.routing_key.clone())
            };
            place(a).cmp(&place(b))
        });
        Ok(all)
    }

    /// How many queues and exchanges there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let topology = self.topology.read();
        let add = |(queues, exchanges), vhost: &Vhost| {
            (queues + vhost.queues.len(), exchanges + vhost.exchanges.len())
        };
        topology.vhosts().fold((0, 0), add)
    }

    /// Records that topics trimmed before queues over them were done with them, since the start.
    #[must_use]
    pub fn trimmed(&self) -> u64 {
        self.streams.as_ref().map_or(0, super::streams::Streams::trimmed)
    }

    /// What is in all queues together.
    pub async fn totals(&self) -> QueueStat {
        self.stats().await.values().fold(QueueStat::default(), |sum, one| QueueStat {
            ready: sum.ready + one.ready,
            unacked: sum.unacked + one.unacked,
            consumers: sum.consumers + one.consumers,
        })
    }

    /// What is in each queue, by its log. A shard that has ended tells nothing.
    async fn stats(&self) -> HashMap<LogId, QueueStat> {
        let mut waiting = Vec::new();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let _ended = shard.send(ShardMessage::StatAll { reply }, SMALL).await.is_err();
            waiting.push(answer);
        }
        let mut all = HashMap::new();
        for answer in waiting {
            all.extend(answer.await.unwrap_or_default());
        }
        all
    }

    fn of_vhosts<T>(
        &self,
        vhost: Option<&str>,
        mut take: impl FnMut(&Vhost, &mut Vec<T>),
    ) -> Result<Vec<T>, QueueError> {
        let topology = self.topology.read();
        let mut all = Vec::new();
        match vhost {
            Some(name) => take(topology.vhost(name)?, &mut all),
            None => topology.vhosts().for_each(|vhost| take(vhost, &mut all)),
        }
        Ok(all)
    }
}

fn info_of(vhost: &Vhost, entry: &QueueEntry) -> QueueInfo {
    // A topic that was there before its stream goes by no policy.
    let goes_by_none = entry.handle.stream().is_some() && !is_made(&entry.handle);
    let applied = if goes_by_none { Applied::default() } else { vhost.policies().of_queue(&entry.spec) };
    let applied = applied.into();
    QueueInfo {
        queue: entry.handle.clone(),
        spec: entry.spec.clone(),
        kind: QueueType::of(&entry.spec.arguments).unwrap_or(QueueType::Classic),
        applied,
        stat: None,
    }
}

fn exchange_info(vhost: &Vhost, exchange: &Exchange) -> ExchangeInfo {
    let applied = vhost.policies().applied(&Subject::Exchange(&exchange.spec.name)).into();
    ExchangeInfo { vhost: vhost.name.clone(), spec: exchange.spec.clone(), applied }
}

fn bindings_of(vhost: &Vhost, all: &mut Vec<BindingInfo>) {
    all.extend(vhost.queues.keys().map(|name| BindingInfo {
        vhost: vhost.name.clone(),
        source: Arc::from(""),
        destination: name.clone(),
        to_queue: true,
        routing_key: Bytes::copy_from_slice(name.as_bytes()),
        arguments: Arguments::default(),
    }));
    all.extend(vhost.bindings().map(|binding| {
        let (destination, to_queue) = match &binding.destination {
            Destination::Queue(name) => (name.clone(), true),
            Destination::Exchange(name) => (name.clone(), false),
        };
        BindingInfo {
            vhost: vhost.name.clone(),
            source: binding.source.clone(),
            destination,
            to_queue,
            routing_key: binding.routing_key.clone(),
            arguments: binding.arguments.clone(),
        }
    }));
}
