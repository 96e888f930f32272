//! Who else there is, and who leads what, as clients of one listener are told.
//!
//! **Invariants.** A broker that stands alone leads everything. A client is told addresses of the listener that it came
//! through; a broker that has no listener of that name is not there for it.
//!
//! Deliberately absent: how any of it is known; `ferrymq_broker::cluster` has that.

use std::collections::BTreeSet;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::StrBytes;
use ferrymq_types::LogId;

use crate::context::Context;
use crate::listener::Listener;

/// A broker that clients can reach.
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: StrBytes,
    pub(crate) port: i32,
}

impl Context {
    /// The brokers that clients of a listener can reach, by id; this one always.
    pub(crate) fn nodes(&self, listener: &Listener) -> Vec<Node> {
        let own = Node {
            id: self.config.node_id,
            host: StrBytes::from(listener.advertised.host.clone()),
            port: i32::from(listener.advertised.port),
        };
        let mut nodes = vec![own];
        for record in self.broker.cluster().map(|view| view.brokers()).unwrap_or_default() {
            let at = record.listeners.into_iter().find(|at| at.listener == listener.name);
            if let Some(at) = at.filter(|_| record.id != self.config.node_id) {
                nodes.push(Node { id: record.id, host: StrBytes::from(at.host), port: i32::from(at.port) });
            }
        }
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    /// Who is named as the controller: any broker is as good.
    pub(crate) fn controller(&self) -> i32 {
        let first = self.broker.cluster().and_then(|view| view.brokers().first().map(|record| record.id));
        first.unwrap_or(self.config.node_id)
    }

    /// Who leads a log; `None`: nobody that lives, as far as this broker knows.
    pub(crate) fn leader(&self, log: LogId) -> Option<i32> {
        match self.broker.cluster() {
            None => Some(self.config.node_id),
            Some(view) => view.owner(log),
        }
    }

    /// Who leads a partition.
    pub(crate) fn leader_of(&self, partition: &Partition) -> Option<i32> {
        self.leader(partition.log)
    }

    /// What a client that asked the wrong broker, or with an old epoch, is told with the error (KIP-951): who leads and since
    /// which epoch. `None` if either is not known: clients take no leader without an epoch newer than theirs.
    pub(crate) fn current_leader(&self, partition: &Partition) -> Option<(i32, i32)> {
        let leader = self.leader_of(partition)?;
        let epoch = partition.leader_epoch();
        // Of several brokers, one that owns it and serves it not yet, or no more, has nothing to tell.
        let is_known = epoch >= 0 && (self.broker.cluster().is_none() || leader != self.config.node_id);
        is_known.then_some((leader, epoch))
    }

    /// Where clients of a listener reach the leaders that an answer names.
    pub(crate) fn endpoints(&self, listener: &Listener, leaders: impl Iterator<Item = i32>) -> Vec<Node> {
        let named: BTreeSet<i32> = leaders.filter(|id| *id >= 0).collect();
        if named.is_empty() {
            return Vec::new();
        }
        self.nodes(listener).into_iter().filter(|node| named.contains(&node.id)).collect()
    }
}
