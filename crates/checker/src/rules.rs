//! The rules, each where its evidence is.
//!
//! Deliberately absent: anything that looks at more than one log at a time, except topics and groups of both kinds.

#[cfg(test)]
mod engine_tests;
pub(crate) mod facts;
pub(crate) mod floor;
pub(crate) mod owners;
pub(crate) mod reads;
pub(crate) mod sends;
pub(crate) mod states;
#[cfg(test)]
mod tests;
pub(crate) mod whole;
