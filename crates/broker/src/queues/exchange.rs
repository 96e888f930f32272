//! How an exchange routes: a pure table of bindings for each kind.
//!
//! **Invariants.** A binding has a number, unique within its table; the same destination may be bound under
//! several. Looking up neither locks nor allocates beyond what it answers, and takes time in the number of
//! words and matching bindings, whatever the patterns are.
//!
//! A message has several routing keys if it has carbon copies: kinds that compare keys look at each of them, the
//! others once at the message.
//!
//! Deliberately absent: exchanges that lead to exchanges, alternate exchanges (`topology` walks them), where a
//! binding is stored.

mod delay;
mod hash;
mod headers;
mod pick;
mod topic;

#[cfg(test)]
mod spread_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::Bytes;
use ferrymq_runtime::Rng;

use super::args::{Arguments, Value};
use super::error::Unfit;
use super::types::ExchangeKind;

pub(super) use delay::{DELAYED_TYPE, delay_ms, routes_as};
use hash::Hash;
use headers::{HeaderBindings, Pattern};
pub use headers::{Headers, NoHeaders};
pub use pick::HashProperty;
use pick::{ConsistentHash, HASH_HEADER, HASH_PROPERTY, OneOf};
use topic::Trie;

/// The largest weight of a binding to a consistent hash exchange. RabbitMQ's.
const WEIGHT_MAX: u32 = 10_000;

/// What a message is routed by.
#[derive(Clone, Copy)]
pub struct Routable<'a> {
    /// The routing key it was published with, and those of its carbon copies.
    pub keys: &'a [&'a [u8]],
    /// Its headers and properties.
    pub headers: &'a dyn Headers,
    /// For exchanges that choose by chance.
    pub rng: &'a Rng,
}

/// Something that can be bound.
pub trait Destined {
    /// A number that is its own, and the same after a restart; see [`seed_of`].
    fn seed(&self) -> u64;
}

/// The seed of a queue or an exchange.
#[must_use]
pub fn seed_of(is_queue: bool, name: &str) -> u64 {
    Hash::new().bytes(if is_queue { b"queue/" } else { b"exchange/" }).bytes(name.as_bytes()).finish()
}

/// The bindings of one exchange; `D` is what is bound.
#[derive(Debug)]
pub enum Router<D> {
    /// By the whole routing key.
    Direct(HashMap<Bytes, Vec<Bound<D>>>),
    /// Everything.
    Fanout(Vec<Bound<D>>),
    /// By words.
    Topic(Trie<D>),
    /// By headers.
    Headers(HeaderBindings<D>),
    /// To one, by the hash of a key, as much as its weight says.
    ConsistentHash(ConsistentHash<D>),
    /// To one, by the hash of the routing key.
    ModulusHash(OneOf<D>),
    /// To one, by chance.
    Random(OneOf<D>),
}

/// A destination and the number of its binding.
#[derive(Debug, Clone)]
pub struct Bound<D> {
    /// The binding's number.
    pub id: u64,
    /// Where it leads.
    pub to: D,
}

impl<D: Destined> Router<D> {
    /// A table without bindings, for an exchange with these arguments.
    #[must_use]
    pub fn new(kind: ExchangeKind, arguments: &Arguments) -> Router<D> {
        match kind {
            ExchangeKind::Direct => Router::Direct(HashMap::new()),
            ExchangeKind::Fanout => Router::Fanout(Vec::new()),
            ExchangeKind::Topic => Router::Topic(Trie::default()),
            ExchangeKind::Headers => Router::Headers(HeaderBindings::default()),
            ExchangeKind::ConsistentHash => Router::ConsistentHash(ConsistentHash::new(arguments)),
            ExchangeKind::ModulusHash => Router::ModulusHash(OneOf::default()),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Router::Random(OneOf::default()),
            ExchangeKind::Delayed => Router::new(delay::kind_behind(arguments), arguments),
        }
    }

    /// Adds a binding. `id` must be new. The arguments must have passed [`check_binding`].
    pub fn bind(&mut self, id: u64, routing_key: &Bytes, arguments: &Arguments, to: D) {
        let bound = Bound { id, to };
        match self {
            Router::Direct(table) => table.entry(routing_key.clone()).or_default().push(bound),
            Router::Fanout(all) => all.push(bound),
            Router::Topic(trie) => trie.insert(routing_key, bound),
            Router::Headers(bindings) => bindings.insert(arguments, bound),
            Router::ConsistentHash(ring) => {
                // A key that was not checked weighs nothing that counts.
                ring.insert(weight(routing_key).unwrap_or(1), bound);
            }
            Router::ModulusHash(all) | Router::Random(all) => all.insert(bound),
        }
    }

    /// Takes a binding away; nothing happens if it is not there.
    pub fn unbind(&mut self, id: u64, routing_key: &[u8]) {
        match self {
            Router::Direct(table) => {
                if let Some(bound) = table.get_mut(routing_key) {
                    bound.retain(|bound| bound.id != id);
                    if bound.is_empty() {
                        table.remove(routing_key);
                    }
                }
            }
            Router::Fanout(all) => all.retain(|bound| bound.id != id),
            Router::Topic(trie) => trie.remove(routing_key, id),
            Router::Headers(bindings) => bindings.remove(id),
            Router::ConsistentHash(ring) => ring.remove(id),
            Router::ModulusHash(all) | Router::Random(all) => all.remove(id),
        }
    }

    /// Hands every destination that fits to `each`; one may come several times. Whether there was any.
    pub fn route(&self, message: &Routable<'_>, mut each: impl FnMut(&D)) -> bool {
        let mut any = false;
        let mut found = |bound: &Bound<D>| {
            any = true;
            each(&bound.to);
        };
        match self {
            Router::Direct(table) => {
                let bound = message.keys.iter().filter_map(|key| table.get(*key));
                bound.flatten().for_each(found);
            }
            Router::Fanout(all) => all.iter().for_each(found),
            Router::Topic(trie) => message.keys.iter().for_each(|key| trie.lookup(key, &mut found)),
            Router::Headers(bindings) => bindings.lookup(message.headers, &mut found),
            Router::ConsistentHash(ring) => ring.lookup(message, &mut found),
            Router::ModulusHash(all) => all.by_modulus(message, &mut found),
            Router::Random(all) => all.by_chance(message, &mut found),
        }
        any
    }

    /// Whether messages of one routing key may go to different places.
    #[must_use]
    pub fn varies(&self) -> bool {
        match self {
            Router::Direct(_) | Router::Fanout(_) | Router::Topic(_) | Router::ModulusHash(_) => false,
            Router::Headers(_) | Router::Random(_) => true,
            Router::ConsistentHash(ring) => ring.varies(),
        }
    }
}

/// Checks the arguments of a new exchange of this kind.
///
/// # Errors
/// What is wrong with those that say what is hashed.
pub fn check_kind(kind: ExchangeKind, arguments: &Arguments) -> Result<(), Unfit> {
    if kind == ExchangeKind::Delayed {
        return delay::check(arguments).and_then(|kind| check_kind(kind, arguments));
    }
    if kind != ExchangeKind::ConsistentHash {
        return Ok(());
    }
    match (arguments.get(HASH_HEADER), arguments.get(HASH_PROPERTY)) {
        (Some(_), Some(_)) => Err(Unfit::TwoHashes),
        (Some(header), None) if header.as_text().is_none() => Err(Unfit::Hash(header.clone())),
        (None, Some(property)) if property.as_text().and_then(HashProperty::parse).is_none() => {
            Err(Unfit::Hash(property.clone()))
        }
        _ => Ok(()),
    }
}

/// The weight that a routing key says.
fn weight(routing_key: &[u8]) -> Result<u32, Unfit> {
    let digits =
        routing_key.strip_prefix(b"-").or_else(|| routing_key.strip_prefix(b"+")).unwrap_or(routing_key);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Unfit::Weight(Bytes::copy_from_slice(routing_key)));
    }
    if routing_key.starts_with(b"-") || digits.iter().all(|digit| *digit == b'0') {
        return Err(Unfit::WeightTooSmall);
    }
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    match digits.parse::<u32>() {
        Ok(weight) if weight <= WEIGHT_MAX => Ok(weight),
        _ => Err(Unfit::WeightTooLarge(WEIGHT_MAX)),
    }
}

/// Checks a binding to an exchange of this kind. `classic` says whether it leads to a queue, and if so, whether to a
/// classic one.
///
/// # Errors
/// What is wrong with it.
pub fn check_binding(
    kind: ExchangeKind,
    routing_key: &Bytes,
    arguments: &Arguments,
    classic: Option<bool>,
) -> Result<(), Unfit> {
    match kind {
        ExchangeKind::Headers => Pattern::new(arguments).map(drop),
        ExchangeKind::ConsistentHash => weight(routing_key).map(drop),
        ExchangeKind::LocalRandom if !routing_key.is_empty() => Err(Unfit::KeyNotEmpty(routing_key.clone())),
        ExchangeKind::LocalRandom => match classic {
            Some(true) => Ok(()),
            Some(false) => Err(Unfit::NotClassic),
            None => Err(Unfit::NotAQueue),
        },
        _ => Ok(()),
    }
}

/// Headers as a list, for callers that have them so.
impl Headers for Arguments {
    fn has(&self, name: &str, value: Option<&Value>) -> bool {
        self.get(name).is_some_and(|found| value.is_none_or(|value| value.equivalent(found)))
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.get(name).cloned()
    }
}
