//! Exchanges that give each message to one of their bindings: by consistent hash, by modulus, by chance.
//!
//! A consistent hash draws a number for each destination from the key and the destination's name, and takes the
//! destination whose number is the best for its weight (weighted rendezvous hashing). RabbitMQ's plugin numbers
//! buckets in the order of binding and jumps; taking a binding away there moves most keys of the ones after it.
//!
//! **Invariants.** Of a consistent hash: a destination gets a share of the keys as large as its weight's share of
//! all weights. Adding a destination moves only keys that it gets, taking one away only those that it had,
//! whatever the order and however often the broker was restarted. A destination bound twice counts with its oldest
//! binding. Of the modulus: the destinations' order is that of their names' hashes.
//!
//! Deliberately absent: an index; choosing takes time in the number of destinations.

use super::hash::{Hash, mixed};
use super::{Bound, Destined, Routable};
use crate::queues::args::{Arguments, Value};

/// The argument that names the header to hash.
pub(super) const HASH_HEADER: &str = "hash-header";
/// The argument that names the property to hash.
pub(super) const HASH_PROPERTY: &str = "hash-property";

/// A property of a message that can be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashProperty {
    /// `correlation_id`.
    CorrelationId,
    /// `message_id`.
    MessageId,
    /// `timestamp`, as decimal seconds.
    Timestamp,
}

impl HashProperty {
    pub(super) fn parse(name: &str) -> Option<HashProperty> {
        match name {
            "correlation_id" => Some(HashProperty::CorrelationId),
            "message_id" => Some(HashProperty::MessageId),
            "timestamp" => Some(HashProperty::Timestamp),
            _ => None,
        }
    }
}

/// What of a message is hashed.
#[derive(Debug)]
enum HashOn {
    RoutingKey,
    Header(String),
    Property(HashProperty),
}

/// The bindings of a consistent hash exchange.
#[derive(Debug)]
pub struct ConsistentHash<D> {
    on: HashOn,
    /// By the binding's number.
    entries: Vec<Entry<D>>,
}

#[derive(Debug)]
struct Entry<D> {
    seed: u64,
    weight: f64,
    /// An older binding leads to the same destination.
    shadowed: bool,
    bound: Bound<D>,
}

impl<D: Destined> ConsistentHash<D> {
    pub(super) fn new(arguments: &Arguments) -> ConsistentHash<D> {
        let text = |name| arguments.get(name).and_then(Value::as_text);
        let on = match (text(HASH_HEADER), text(HASH_PROPERTY).and_then(HashProperty::parse)) {
            (Some(header), _) => HashOn::Header(header.to_owned()),
            (None, Some(property)) => HashOn::Property(property),
            (None, None) => HashOn::RoutingKey,
        };
        ConsistentHash { on, entries: Vec::new() }
    }

    /// Whether messages of one routing key may go to different places.
    pub(super) fn varies(&self) -> bool {
        !matches!(self.on, HashOn::RoutingKey)
    }

    pub(super) fn insert(&mut self, weight: u32, bound: Bound<D>) {
        let seed = bound.to.seed();
        let at = self.entries.partition_point(|entry| entry.bound.id < bound.id);
        self.entries.insert(at, Entry { seed, weight: weight.into(), shadowed: false, bound });
        self.shadow(seed);
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&id, |entry| entry.bound.id) {
            let seed = self.entries.remove(at).seed;
            self.shadow(seed);
        }
    }

    /// Of the bindings to one destination the oldest counts.
    fn shadow(&mut self, seed: u64) {
        let its = self.entries.iter_mut().filter(|entry| entry.seed == seed);
        its.enumerate().for_each(|(place, entry)| entry.shadowed = place > 0);
    }

    pub(super) fn lookup(&self, message: &Routable<'_>, each: &mut impl FnMut(&Bound<D>)) {
        let key = self.key(message);
        let counting = self.entries.iter().filter(|entry| !entry.shadowed);
        let best = counting.min_by(|a, b| a.score(key).total_cmp(&b.score(key)));
        best.into_iter().for_each(|entry| each(&entry.bound));
    }

    fn key(&self, message: &Routable<'_>) -> u64 {
        let hash = Hash::new();
        match &self.on {
            HashOn::RoutingKey => hash.bytes(message.keys.first().copied().unwrap_or_default()).finish(),
            HashOn::Header(name) => {
                message.headers.value(name).map_or(0, |value| hash.value(&value).finish())
            }
            HashOn::Property(property) => {
                message.headers.property(*property).map_or(0, |bytes| hash.bytes(&bytes).finish())
            }
        }
    }
}

impl<D> Entry<D> {
    /// How long this destination would have to wait for the key: exponentially distributed with its weight as the
    /// rate, so the first one of all is this one in the share of its weight.
    fn score(&self, key: u64) -> f64 {
        let drawn = mixed(mixed(key ^ self.seed).wrapping_add(self.seed));
        let half = |bits: u64| f64::from(u32::try_from(bits & 0xffff_ffff).unwrap_or(u32::MAX));
        let one = 4_294_967_296.0;
        let between_0_and_1 = (half(drawn >> 32) + (half(drawn) + 0.5) / one) / one;
        -between_0_and_1.ln() / self.weight
    }
}

/// The bindings of an exchange that takes one of them, as many times as they are there.
#[derive(Debug)]
pub struct OneOf<D>(Vec<(u64, Bound<D>)>);

impl<D> Default for OneOf<D> {
    fn default() -> Self {
        OneOf(Vec::new())
    }
}

impl<D: Destined> OneOf<D> {
    pub(super) fn insert(&mut self, bound: Bound<D>) {
        let place = (bound.to.seed(), bound.id);
        let at = self.0.partition_point(|(seed, bound)| (*seed, bound.id) < place);
        self.0.insert(at, (place.0, bound));
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.0.retain(|(_, bound)| bound.id != id);
    }

    /// The one at a number, counted around.
    fn at(&self, number: u64) -> Option<&Bound<D>> {
        let count = self.0.len() as u64;
        let place = usize::try_from(number.checked_rem(count)?).ok()?;
        self.0.get(place).map(|(_, bound)| bound)
    }

    pub(super) fn by_chance(&self, message: &Routable<'_>, each: &mut impl FnMut(&Bound<D>)) {
        let count = self.0.len() as u64;
        let number = if count < 2 { 0 } else { message.rng.below(count) };
        self.at(number).into_iter().for_each(each);
    }

    pub(super) fn by_modulus(&self, message: &Routable<'_>, each: &mut impl FnMut(&Bound<D>)) {
        let hash = message.keys.iter().fold(Hash::new(), |hash, key| hash.bytes(key).bytes(&[0]));
        self.at(hash.finish()).into_iter().for_each(each);
    }
}
