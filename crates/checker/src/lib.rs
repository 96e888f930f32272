//! The rules an acknowledged record is held to, as code; every fault test uses it.
