//! The rules, each where its evidence is.
//!
//! Deliberately absent: anything that looks at more than one log at a time, except topics and groups.

pub(crate) mod facts;
pub(crate) mod floor;
pub(crate) mod reads;
pub(crate) mod sends;
pub(crate) mod states;
#[cfg(test)]
mod tests;
