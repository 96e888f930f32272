//! The protocol-neutral domain: topics, partitions, producers, groups.

pub mod groups;
