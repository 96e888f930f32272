//! Tests of the groups.
