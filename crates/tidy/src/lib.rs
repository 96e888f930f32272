//! What the compiler does not check about this repository, as tests that explain themselves.
//!
//! `cargo test -p ferrymq-tidy` runs every rule over the work tree (`tests/tidy.rs`); each rule also has unit
//! tests beside it that show how it fails. A rule is a plain function from text to [`Finding`]s, so that it can
//! be fed bad text. What a rule must put up with for now is listed in `allow.toml`, which may only shrink.
//!
//! Modules in reading order: [`repo`] (which files there are), [`finding`] and [`allow`], then the rules:
//! [`source`] (Rust files), [`edges`] (who may depend on whom), [`words`] (what is not written here), [`docs`]
//! (Markdown), [`licences`] (what we build on).
//!
//! Deliberately absent: anything rustc, clippy or rustfmt can say; fixing files.

#![forbid(unsafe_code)]

pub mod allow;
pub mod docs;
pub mod edges;
pub mod finding;
pub mod licences;
pub mod repo;
pub mod source;
pub mod words;

pub use allow::Allow;
pub use finding::{Finding, report};
pub use repo::{Repo, TextFile};
