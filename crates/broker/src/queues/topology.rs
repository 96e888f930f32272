//! Which virtual hosts, exchanges, queues and bindings there are, and where a message goes.
//!
//! **Invariants.** Plain state: what is durable was written before it is changed here. Walking from exchange to
//! exchange visits each once, so cycles end. Taking something away is planned first, with everything that goes
//! with it (bindings, and exchanges declared auto-delete that lose their last one), and then applied whole.
//!
//! Deliberately absent: I/O, locks, who may do what.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::args::Arguments;
use super::delays::lane_of;
use super::error::{Entity, QueueError};
use super::exchange::{Destined, Routable, Router, delay_ms, seed_of};
use super::policy::Policies;
use super::policy::merge::ALTERNATE;
use super::types::{Delay, ExchangeKind, ExchangeSpec, Kept, QueueHandle, QueueSpec, Routed, VhostSpec};

/// The exchanges that every virtual host has. The empty name is the default exchange.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
];

/// Where a binding leads, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    /// To a queue.
    Queue(Arc<str>),
    /// To an exchange.
    Exchange(Arc<str>),
}

/// Where a binding leads, resolved.
#[derive(Debug, Clone)]
enum Target {
    Queue(QueueHandle),
    Exchange(Arc<str>),
}

impl Destined for Target {
    fn seed(&self) -> u64 {
        match self {
            Target::Queue(queue) => seed_of(true, queue.name()),
            Target::Exchange(name) => seed_of(false, name),
        }
    }
}

/// A binding.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Binding {
    pub(super) source: Arc<str>,
    pub(super) destination: Destination,
    pub(super) routing_key: Bytes,
    pub(super) arguments: Arguments,
    /// Whether there is a record of it.
    pub(super) stored: bool,
}

/// An exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) spec: ExchangeSpec,
    /// As its argument says, or else a policy.
    alternate: Option<Arc<str>>,
    router: Router<Target>,
    /// Bindings that begin here.
    bound: BTreeSet<u64>,
    pub(super) predeclared: bool,
}

/// A queue.
#[derive(Debug, Clone)]
pub(super) struct QueueEntry {
    pub(super) handle: QueueHandle,
    pub(super) spec: QueueSpec,
    /// The session it belongs to, if it is exclusive.
    pub(super) owner: Option<u64>,
}

impl QueueEntry {
    /// Whether there is a record of it.
    pub(super) fn stored(&self) -> bool {
        self.spec.durable && self.owner.is_none()
    }
}

/// One virtual host.
#[derive(Debug)]
pub(super) struct Vhost {
    pub(super) name: Arc<str>,
    /// Its own, for as long as this process runs, from 1: another one of its name has another.
    number: u64,
    pub(super) spec: VhostSpec,
    policies: Policies,
    /// Dropped with it: whoever is connected hears that.
    ended: watch::Sender<()>,
    pub(super) exchanges: HashMap<Arc<str>, Exchange>,
    pub(super) queues: HashMap<Arc<str>, QueueEntry>,
    /// Where messages wait that exchanges keep back; there once there was such an exchange.
    pub(super) lanes: Option<Arc<[QueueHandle]>>,
    bindings: HashMap<u64, Binding>,
    by_destination: HashMap<Destination, BTreeSet<u64>>,
    by_key: HashMap<(Arc<str>, Destination, Bytes), Vec<u64>>,
}

/// A virtual host and a name in it.
type Place = (Arc<str>, Arc<str>);

/// All virtual hosts.
#[derive(Debug, Default)]
pub(super) struct Topology {
    vhosts: HashMap<Arc<str>, Vhost>,
    /// How many there ever were.
    numbered: u64,
    /// Exclusive queues by session.
    pub(super) exclusive: HashMap<u64, HashSet<Place>>,
}

/// What goes together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Removal {
    pub(super) queue: Option<Arc<str>>,
    pub(super) exchanges: Vec<Arc<str>>,
    pub(super) bindings: Vec<u64>,
}

impl Topology {
    pub(super) fn vhost(&self, name: &str) -> Result<&Vhost, QueueError> {
        self.vhosts.get(name).ok_or_else(|| QueueError::NoVhost(Arc::from(name)))
    }

    pub(super) fn vhost_mut(&mut self, name: &str) -> Result<&mut Vhost, QueueError> {
        self.vhosts.get_mut(name).ok_or_else(|| QueueError::NoVhost(Arc::from(name)))
    }

    /// The virtual host that a queue lies in; `None` if that one is gone, whatever has its name now.
    pub(super) fn home_of(&self, queue: &QueueHandle) -> Option<&Vhost> {
        self.vhosts.get(queue.vhost()).filter(|vhost| vhost.number == queue.0.vhost_number)
    }

    /// The number of the virtual host of this name; 0 if there is none.
    pub(super) fn number_of(&self, name: &str) -> u64 {
        self.vhosts.get(name).map_or(0, |vhost| vhost.number)
    }

    pub(super) fn has_vhost(&self, name: &str) -> bool {
        self.vhosts.contains_key(name)
    }

    pub(super) fn vhosts(&self) -> impl Iterator<Item = &Vhost> {
        self.vhosts.values()
    }

    /// Takes a virtual host away, with everything in it; who is connected to it hears that.
    pub(super) fn remove_vhost(&mut self, name: &str) -> Option<Vhost> {
        let vhost = self.vhosts.remove(name)?;
        self.exclusive.retain(|_, places| {
            places.retain(|(at, _)| **at != *name);
            !places.is_empty()
        });
        Some(vhost)
    }

    /// Adds a virtual host with its predeclared exchanges.
    pub(super) fn add_vhost(&mut self, spec: VhostSpec) {
        let name = spec.name.clone();
        self.numbered += 1;
        let mut vhost = Vhost {
            name: name.clone(),
            number: self.numbered,
            spec,
            policies: Policies::default(),
            ended: watch::channel(()).0,
            exchanges: HashMap::new(),
            queues: HashMap::new(),
            lanes: None,
            bindings: HashMap::new(),
            by_destination: HashMap::new(),
            by_key: HashMap::new(),
        };
        for (name, kind, internal) in PREDECLARED {
            let spec = ExchangeSpec {
                name: Arc::from(name),
                kind,
                durable: true,
                auto_delete: false,
                internal,
                arguments: Arguments::default(),
            };
            vhost.add_exchange(spec, true);
        }
        self.vhosts.insert(name, vhost);
    }

    /// Forgets that a queue was a session's.
    pub(super) fn disown(&mut self, session: u64, queue: &QueueHandle) {
        if let Some(names) = self.exclusive.get_mut(&session) {
            names.remove(&(queue.vhost().clone(), queue.name().clone()));
            if names.is_empty() {
                self.exclusive.remove(&session);
            }
        }
    }

    pub(super) fn add_queue(&mut self, entry: QueueEntry) {
        let Ok(vhost) = self.vhost_mut(entry.handle.vhost()) else { return };
        let (name, owner) = (entry.handle.name().clone(), entry.owner);
        let at = vhost.name.clone();
        vhost.queues.insert(name.clone(), entry);
        if let Some(owner) = owner {
            self.exclusive.entry(owner).or_default().insert((at, name));
        }
    }
}

impl Vhost {
    pub(super) fn not_found(&self, entity: Entity, name: &str) -> QueueError {
        QueueError::NotFound { entity, vhost: self.name.clone(), name: Arc::from(name) }
    }

    pub(super) fn exchange(&self, name: &str) -> Result<&Exchange, QueueError> {
        self.exchanges.get(name).ok_or_else(|| self.not_found(Entity::Exchange, name))
    }

    pub(super) fn queue(&self, name: &str) -> Result<&QueueEntry, QueueError> {
        self.queues.get(name).ok_or_else(|| self.not_found(Entity::Queue, name))
    }

    /// The queue, if this session may use it.
    pub(super) fn queue_for(&self, name: &str, session: u64) -> Result<&QueueEntry, QueueError> {
        let entry = self.queue(name)?;
        match entry.owner {
            Some(owner) if owner != session => Err(QueueError::ExclusiveLocked {
                vhost: self.name.clone(),
                name: entry.handle.name().clone(),
            }),
            _ => Ok(entry),
        }
    }

    /// A channel that ends with it.
    pub(super) fn end(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }

    pub(super) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Has other policies apply, to exchanges at once; queues are told by whoever changes them.
    pub(super) fn set_policies(&mut self, policies: Policies) {
        for exchange in self.exchanges.values_mut() {
            exchange.alternate = alternate(&exchange.spec, &policies);
        }
        self.policies = policies;
    }

    /// All bindings.
    pub(super) fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    pub(super) fn add_exchange(&mut self, spec: ExchangeSpec, predeclared: bool) {
        let alternate = alternate(&spec, &self.policies);
        let (name, router) = (spec.name.clone(), Router::new(spec.kind, &spec.arguments));
        let exchange = Exchange { spec, alternate, router, bound: BTreeSet::new(), predeclared };
        self.exchanges.insert(name, exchange);
    }

    pub(super) fn binding(&self, number: u64) -> Option<&Binding> {
        self.bindings.get(&number)
    }

    /// The number of the binding that says the same.
    pub(super) fn find_binding(&self, binding: &Binding) -> Option<u64> {
        let key = (binding.source.clone(), binding.destination.clone(), binding.routing_key.clone());
        let same = |number: &&u64| {
            self.bindings.get(number).is_some_and(|found| found.arguments.equivalent(&binding.arguments))
        };
        self.by_key.get(&key)?.iter().find(same).copied()
    }

    /// Adds a binding between what is there; whether both ends are.
    pub(super) fn add_binding(&mut self, number: u64, binding: Binding) -> bool {
        let target = match &binding.destination {
            Destination::Queue(name) => {
                self.queues.get(name).map(|entry| Target::Queue(entry.handle.clone()))
            }
            Destination::Exchange(name) => {
                self.exchanges.contains_key(name).then(|| Target::Exchange(name.clone()))
            }
        };
        let (Some(target), Some(source)) = (target, self.exchanges.get_mut(&binding.source)) else {
            return false;
        };
        source.router.bind(number, &binding.routing_key, &binding.arguments, target);
        source.bound.insert(number);
        self.by_destination.entry(binding.destination.clone()).or_default().insert(number);
        let key = (binding.source.clone(), binding.destination.clone(), binding.routing_key.clone());
        self.by_key.entry(key).or_default().push(number);
        self.bindings.insert(number, binding);
        true
    }

    /// How many bindings begin at an exchange.
    pub(super) fn bindings_from(&self, exchange: &str) -> usize {
        self.exchanges.get(exchange).map_or(0, |exchange| exchange.bound.len())
    }

    /// What goes with a queue.
    pub(super) fn plan_queue(&self, name: &Arc<str>) -> Removal {
        let bindings = self.leading_to(&Destination::Queue(name.clone()));
        self.plan(Removal { queue: Some(name.clone()), ..Removal::default() }, bindings)
    }

    /// What goes with an exchange.
    pub(super) fn plan_exchange(&self, name: &Arc<str>) -> Removal {
        let removal = Removal { exchanges: vec![name.clone()], ..Removal::default() };
        let mut bindings = self.leading_to(&Destination::Exchange(name.clone()));
        bindings.extend(self.exchanges.get(name).into_iter().flat_map(|exchange| &exchange.bound));
        self.plan(removal, bindings)
    }

    /// What goes with a binding.
    pub(super) fn plan_binding(&self, number: u64) -> Removal {
        self.plan(Removal::default(), vec![number])
    }

    fn leading_to(&self, destination: &Destination) -> Vec<u64> {
        self.by_destination.get(destination).into_iter().flatten().copied().collect()
    }

    fn plan(&self, mut removal: Removal, bindings: Vec<u64>) -> Removal {
        let mut left: HashMap<&Arc<str>, usize> = HashMap::new();
        let mut seen = BTreeSet::new();
        let mut work = bindings;
        while let Some(number) = work.pop() {
            let Some(binding) = self.bindings.get(&number).filter(|_| seen.insert(number)) else { continue };
            removal.bindings.push(number);
            let Some(source) = self.exchanges.get(&binding.source) else { continue };
            let left = left.entry(&binding.source).or_insert(source.bound.len());
            *left -= 1;
            if *left == 0 && source.spec.auto_delete && !removal.exchanges.contains(&binding.source) {
                removal.exchanges.push(binding.source.clone());
                work.extend(self.leading_to(&Destination::Exchange(binding.source.clone())));
            }
        }
        removal
    }

    /// Takes away what was planned.
    pub(super) fn remove(&mut self, removal: &Removal) {
        for number in &removal.bindings {
            let Some(binding) = self.bindings.remove(number) else { continue };
            if let Some(source) = self.exchanges.get_mut(&binding.source) {
                source.router.unbind(*number, &binding.routing_key);
                source.bound.remove(number);
            }
            if let Some(numbers) = self.by_destination.get_mut(&binding.destination) {
                numbers.remove(number);
                if numbers.is_empty() {
                    self.by_destination.remove(&binding.destination);
                }
            }
            let key = (binding.source, binding.destination, binding.routing_key);
            if let Some(numbers) = self.by_key.get_mut(&key) {
                numbers.retain(|other| other != number);
                if numbers.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
        for name in &removal.exchanges {
            self.exchanges.remove(name);
        }
        if let Some(name) = &removal.queue {
            self.queues.remove(name);
        }
    }

    /// Where a message goes; each queue once.
    pub(super) fn route(&self, exchange: &str, message: &Routable<'_>) -> Result<Routed, QueueError> {
        let first = self.exchange(exchange)?;
        if first.spec.internal {
            let (vhost, name) = (self.name.clone(), first.spec.name.clone());
            return Err(QueueError::Internal { vhost, name });
        }
        Ok(self.route_from(first, message))
    }

    /// Where a dead letter goes: from internal exchanges too, and nowhere from one that is not there.
    pub(super) fn route_letter(&self, exchange: &str, message: &Routable<'_>) -> Routed {
        self.exchange(exchange).map(|first| self.route_from(first, message)).unwrap_or_default()
    }

    fn route_from(&self, first: &Exchange, message: &Routable<'_>) -> Routed {
        if first.spec.name.is_empty() {
            return Routed::to(once(self.named(message).collect()));
        }
        let mut queues: Vec<QueueHandle> = Vec::new();
        let mut kept: Vec<Kept> = Vec::new();
        self.walk(first, |exchange, follow| {
            if let Some(copy) = self.keep(exchange, message) {
                return kept.push(copy);
            }
            let mut next = |target: &Target| match target {
                Target::Queue(queue) => queues.push(queue.clone()),
                Target::Exchange(name) => follow(name),
            };
            let any = exchange.router.route(message, &mut next);
            if let (false, Some(alternate)) = (any, &exchange.alternate) {
                follow(alternate);
            }
            // The default exchange as an alternate one routes by name.
            if exchange.spec.name.is_empty() {
                queues.extend(self.named(message));
            }
        });
        Routed::to(once(queues)).keeping(kept)
    }

    /// The copy that an exchange keeps back, if it does.
    fn keep(&self, exchange: &Exchange, message: &Routable<'_>) -> Option<Kept> {
        if exchange.spec.kind != ExchangeKind::Delayed {
            return None;
        }
        let (ms, lanes) = (delay_ms(message.headers)?, self.lanes.as_deref()?);
        let keys = message.keys.iter().skip(1).map(|key| Bytes::copy_from_slice(key)).collect();
        let exchange = Bytes::copy_from_slice(exchange.spec.name.as_bytes());
        Some(Kept { lane: lanes.get(lane_of(ms))?.clone(), delay: Delay { ms, exchange, keys } })
    }

    /// The queues that the routing keys name.
    fn named<'a>(&'a self, message: &'a Routable<'_>) -> impl Iterator<Item = QueueHandle> + 'a {
        let names = message.keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
        names.filter_map(|name| self.queues.get(name)).map(|entry| entry.handle.clone())
    }

    /// Whether an exchange, or one that can be reached from it, may send messages of one routing key to different
    /// places.
    pub(super) fn varies(&self, exchange: &str) -> bool {
        let Some(first) = self.exchanges.get(exchange) else { return false };
        let mut any = false;
        self.walk(first, |exchange, follow| {
            any |= exchange.router.varies() || exchange.spec.kind == ExchangeKind::Delayed;
            exchange.alternate.iter().for_each(|name| follow(name));
            for binding in exchange.bound.iter().filter_map(|number| self.bindings.get(number)) {
                if let Destination::Exchange(name) = &binding.destination {
                    follow(name);
                }
            }
        });
        any
    }

    /// Visits an exchange and those that `visit` follows to, each once.
    fn walk<'a>(&'a self, first: &'a Exchange, mut visit: impl FnMut(&'a Exchange, &mut dyn FnMut(&str))) {
        let mut seen: Vec<&Exchange> = vec![first];
        let mut at = 0;
        while let Some(exchange) = seen.get(at).copied() {
            at += 1;
            visit(exchange, &mut |name| {
                if let Some(next) = self.exchanges.get(name)
                    && !seen.iter().any(|known| std::ptr::eq(*known, next))
                {
                    seen.push(next);
                }
            });
        }
    }
}

/// Where an exchange sends what it has no binding for.
fn alternate(spec: &ExchangeSpec, policies: &Policies) -> Option<Arc<str>> {
    match spec.arguments.get(ALTERNATE) {
        Some(given) => given.as_text().map(Arc::from),
        None => policies.alternate(&spec.name).map(Arc::from),
    }
}

/// Each queue once.
fn once(mut queues: Vec<QueueHandle>) -> Vec<QueueHandle> {
    if queues.len() > 1 {
        queues.sort_unstable_by_key(QueueHandle::log);
        queues.dedup();
    }
    queues
}
