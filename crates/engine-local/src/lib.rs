//! The embedded engine: one shared write-ahead log with group commit on a local disk.
