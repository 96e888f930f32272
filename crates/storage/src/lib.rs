//! The storage contract: LogStore, MetaStore, their errors, the in-memory engine and the conformance suite.
