//! What can be said against a request without looking at any log, so that every engine says the same.
//!
//! **Invariant.** An engine calls [`check_group`] and [`check_claim`] before anything else; what they refuse
//! never reaches a log.
//!
//! Deliberately absent: fences, expected offsets, space. Those need the log.

use std::collections::HashSet;
use std::ops::Range;

use ferrymq_types::limits::BATCH_BYTES_MAX;
use ferrymq_types::{LogId, Offset};

use crate::{Action, Append, Batch, ErrorKind, Op, Put, StorageError};

/// Longest key of metadata, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Largest value of metadata, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Largest transaction of metadata, in bytes of keys and values.
pub const TRANSACTION_BYTES_MAX: usize = 16 << 20;

/// Checks a group; `atomic_multi_log` is what the engine says of itself.
///
/// # Errors
/// `InvalidArgument` or `LimitExceeded`.
pub fn check_group(group: &[Op], atomic_multi_log: bool) -> Result<(), StorageError> {
    if let Some(first) = group.first() {
        if group.iter().any(|op| op.owner != first.owner) {
            return Err(invalid("operations of one group name several owners"));
        }
        if !atomic_multi_log && group.iter().any(|op| op.log != first.log) {
            return Err(invalid("this store cannot change several logs in one group"));
        }
    }
    group.iter().try_for_each(|op| match &op.action {
        Action::Append(append) => check_append(append),
        Action::Replace { range, batches } => check_replace(range, batches),
        Action::Trim(_) | Action::Discard(_) | Action::Delete => Ok(()),
    })
}

/// Checks the logs of a claim.
///
/// # Errors
/// `InvalidArgument` if a log is named twice.
pub fn check_claim(logs: &[LogId]) -> Result<(), StorageError> {
    let mut seen = HashSet::with_capacity(logs.len());
    match logs.iter().find(|log| !seen.insert(**log)) {
        Some(log) => Err(invalid(format!("a claim names a log twice: log={log}"))),
        None => Ok(()),
    }
}

fn check_append(append: &Append) -> Result<(), StorageError> {
    let Some(first) = append.batches.first() else {
        return Err(invalid("an append needs at least one batch"));
    };
    if first.base < append.expect_next {
        return Err(invalid("an append begins below the offset it expects"));
    }
    check_batches(&append.batches)
}

fn check_replace(range: &Range<Offset>, batches: &[Batch]) -> Result<(), StorageError> {
    check_batches(batches)?;
    if batches.iter().any(|batch| batch.base < range.start || batch.next() > range.end) {
        return Err(invalid("a batch lies outside the range it replaces"));
    }
    Ok(())
}

fn check_batches(batches: &[Batch]) -> Result<(), StorageError> {
    for batch in batches {
        if batch.span == 0 || batch.bytes.is_empty() {
            return Err(invalid("a batch needs at least one offset and one byte"));
        }
        if batch.bytes.len() > BATCH_BYTES_MAX {
            let size = batch.bytes.len();
            return Err(limit(format!("a batch is too large: max={BATCH_BYTES_MAX} size={size}")));
        }
        if !are_parts(batch) {
            return Err(invalid("shared parts of a batch overlap, descend, are empty or lie outside of it"));
        }
        if u64::from(batch.span) > Offset::MAX.since(batch.base) {
            return Err(limit(format!("a log has no more offsets: base={}", batch.base)));
        }
    }
    if batches.windows(2).any(|pair| pair[1].base < pair[0].next()) {
        return Err(invalid("batches overlap or descend"));
    }
    Ok(())
}

/// Checks what a transaction of metadata is to write.
///
/// # Errors
/// `InvalidArgument` for a key that is empty or put twice, `LimitExceeded` for what is too long.
pub fn check_puts(puts: &[Put]) -> Result<(), StorageError> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for put in puts {
        if put.key.is_empty() || !seen.insert(&put.key) {
            return Err(invalid(format!("a key is empty or put twice: {}", put.key)));
        }
        let value = put.value.as_ref().map_or(0, bytes::Bytes::len);
        bytes += put.key.len() + value;
        if put.key.len() > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(limit("a key or value is too long".to_owned()));
        }
    }
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(limit(format!("a transaction is too large: bytes={bytes}")));
    }
    Ok(())
}

fn are_parts(batch: &Batch) -> bool {
    let mut from = 0;
    batch.shared.iter().all(|part| {
        let begins = std::mem::replace(&mut from, u64::from(part.at) + u64::from(part.bytes));
        part.bytes > 0 && u64::from(part.at) >= begins && from <= batch.bytes.len() as u64
    })
}

fn invalid(what: impl Into<std::sync::Arc<str>>) -> StorageError {
    StorageError::new(ErrorKind::InvalidArgument, what)
}

fn limit(what: String) -> StorageError {
    StorageError::new(ErrorKind::LimitExceeded, what)
}
