//! How an exchange routes: a pure table of bindings for each kind.
//!
//! **Invariants.** A binding has a number, unique within its table; the same destination may be bound under
//! several. Looking up neither locks nor allocates beyond what it answers, and takes time in the number of
//! words and matching bindings, whatever the patterns are.
//!
//! Deliberately absent: exchanges that lead to exchanges, alternate exchanges (`topology` walks them), where a
//! binding is stored.

mod headers;
mod topic;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::Bytes;

use super::args::{Arguments, Value};
use super::error::{Entity, QueueError};
use super::types::ExchangeKind;

use headers::{HeaderBindings, Pattern};
pub use headers::{Headers, NoHeaders};
use topic::Trie;

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
}

/// A destination and the number of its binding.
#[derive(Debug, Clone)]
pub struct Bound<D> {
    /// The binding's number.
    pub id: u64,
    /// Where it leads.
    pub to: D,
}

impl<D> Router<D> {
    /// A table without bindings.
    #[must_use]
    pub fn new(kind: ExchangeKind) -> Router<D> {
        match kind {
            ExchangeKind::Direct => Router::Direct(HashMap::new()),
            ExchangeKind::Fanout => Router::Fanout(Vec::new()),
            ExchangeKind::Topic => Router::Topic(Trie::default()),
            ExchangeKind::Headers => Router::Headers(HeaderBindings::default()),
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
        }
    }

    /// Hands every destination that fits to `each`; one may come several times. Whether there was any.
    pub fn route(&self, routing_key: &[u8], headers: &dyn Headers, mut each: impl FnMut(&D)) -> bool {
        let mut any = false;
        let mut found = |bound: &Bound<D>| {
            any = true;
            each(&bound.to);
        };
        match self {
            Router::Direct(table) => table.get(routing_key).into_iter().flatten().for_each(found),
            Router::Fanout(all) => all.iter().for_each(found),
            Router::Topic(trie) => trie.lookup(routing_key, &mut found),
            Router::Headers(bindings) => bindings.lookup(headers, &mut found),
        }
        any
    }
}

/// Checks the arguments of a binding to an exchange of this kind.
///
/// # Errors
/// [`QueueError::InvalidArgument`] for an `x-match` that is not known.
pub fn check_binding(kind: ExchangeKind, arguments: &Arguments) -> Result<(), QueueError> {
    if kind == ExchangeKind::Headers {
        Pattern::new(arguments).map(drop).map_err(|(value, why)| QueueError::InvalidArgument {
            entity: Entity::Exchange,
            argument: "x-match".to_owned(),
            value,
            why,
        })?;
    }
    Ok(())
}

/// Headers as a list, for callers that have them so.
impl Headers for Arguments {
    fn has(&self, name: &str, value: Option<&Value>) -> bool {
        self.get(name).is_some_and(|found| value.is_none_or(|value| value.equivalent(found)))
    }
}
