//! The protocol-neutral domain: topics, partitions, producers, groups.
