//! Bindings by headers: `x-match` is `all` (the default), `any`, `all-with-x` or `any-with-x`.
//!
//! **Invariants.** Arguments whose names begin with `x-` count only in the `-with-x` forms, `x-match` itself
//! never. A value of nothing asks only for the header to be there. No conditions: `all` fits everything, `any`
//! nothing, as in RabbitMQ.
//!
//! Deliberately absent: an index; each binding is compared.

use super::{Bound, HashProperty};
use crate::queues::args::{Arguments, Value};
use crate::queues::error::Unfit;

/// The headers and properties of a message, looked up by name.
pub trait Headers {
    /// Whether there is a header of this name and, if a value is given, with an
    /// [equivalent](Value::equivalent) one.
    fn has(&self, name: &str, value: Option<&Value>) -> bool;

    /// The header of this name.
    fn value(&self, name: &str) -> Option<Value>;

    /// A property, in bytes.
    fn property(&self, _property: HashProperty) -> Option<Vec<u8>> {
        None
    }
}

/// A message without headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn has(&self, _name: &str, _value: Option<&Value>) -> bool {
        false
    }

    fn value(&self, _name: &str) -> Option<Value> {
        None
    }
}

/// All bindings of a headers exchange.
#[derive(Debug)]
pub struct HeaderBindings<D>(Vec<(Pattern, Bound<D>)>);

impl<D> Default for HeaderBindings<D> {
    fn default() -> Self {
        HeaderBindings(Vec::new())
    }
}

/// What a binding asks of a message.
#[derive(Debug)]
pub(super) struct Pattern {
    all: bool,
    /// `None`: the header must only be there.
    conditions: Vec<(String, Option<Value>)>,
}

impl Pattern {
    pub(super) fn new(arguments: &Arguments) -> Result<Pattern, Unfit> {
        let (all, with_x) = match arguments.get("x-match") {
            None => (true, false),
            Some(value) => match value.as_text() {
                Some("all") => (true, false),
                Some("any") => (false, false),
                Some("all-with-x") => (true, true),
                Some("any-with-x") => (false, true),
                _ => return Err(Unfit::Match(value.clone())),
            },
        };
        let counts = |name: &str| name != "x-match" && (with_x || !name.starts_with("x-"));
        let wanted = |value: &Value| (*value != Value::Void).then(|| value.clone());
        let conditions = arguments.iter().filter(|(name, _)| counts(name));
        let conditions = conditions.map(|(name, value)| (name.to_owned(), wanted(value))).collect();
        Ok(Pattern { all, conditions })
    }

    fn fits(&self, headers: &dyn Headers) -> bool {
        let mut met = self.conditions.iter().map(|(name, value)| headers.has(name, value.as_ref()));
        if self.all { met.all(|met| met) } else { met.any(|met| met) }
    }
}

impl<D> HeaderBindings<D> {
    pub(super) fn insert(&mut self, arguments: &Arguments, bound: Bound<D>) {
        // Arguments that were not checked fit nothing.
        let nothing = Pattern { all: false, conditions: Vec::new() };
        self.0.push((Pattern::new(arguments).unwrap_or(nothing), bound));
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.0.retain(|(_, bound)| bound.id != id);
    }

    pub(super) fn lookup(&self, headers: &dyn Headers, each: &mut impl FnMut(&Bound<D>)) {
        self.0.iter().filter(|(pattern, _)| pattern.fits(headers)).for_each(|(_, bound)| each(bound));
    }
}
