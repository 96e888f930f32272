//! The Kafka door over TCP: what every API answers, what records do, and what bad clients cannot do.

mod admin;
mod committing;
mod configs;
mod deferred;
mod every_version;
mod fetching;
mod groups;
mod hostile;
mod intake;
mod listeners;
mod offsets;
mod producing;
mod records;
mod requests;
mod sessions;
mod stalling;
mod support;
mod waiting;
