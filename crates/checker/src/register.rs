//! Something that is overwritten: which of the values written may a reader see?
//!
//! **Invariant.** A value is legal for a read unless it was certainly overwritten: an acknowledged write began
//! after it had ended, and ended before the read began. Writes that are unknown may take effect at any time
//! after they began, and so are never certainly over.
//!
//! Deliberately absent: full linearizability. Two reads in a row may here see a concurrent write come and go.

use crate::history::{Op, Outcome};

/// A write and what it wrote.
#[derive(Debug, Clone)]
pub(crate) struct Write<'a, T> {
    pub(crate) op: &'a Op,
    pub(crate) value: T,
}

/// The values that `read` may see. `initial` is there before anything was written.
pub(crate) fn legal<T: Clone>(writes: &[Write<'_, T>], read: &Op, initial: T) -> Vec<T> {
    let settled: Vec<&Op> =
        writes.iter().map(|write| write.op).filter(|op| op.is_ok() && op.is_before(read)).collect();
    let mut values = Vec::new();
    if settled.is_empty() {
        values.push(initial);
    }
    for write in writes {
        let possible = write.op.outcome != Outcome::Fail && write.op.began < read.ended;
        let overwritten = settled.iter().any(|later| write.op.is_before(later));
        if possible && !overwritten {
            values.push(write.value.clone());
        }
    }
    values
}
