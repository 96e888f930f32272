//! Batches that say what they are, so that whoever reads one knows who sent it and whether it is whole.
//!
//! The first eight bytes hold a number, the span and the length; all others follow from these.
//!
//! **Invariant.** No two batches of a run begin with the same eight bytes.

use bytes::Bytes;
use ferrymq_checker::Value;
use ferrymq_storage::Batch;
use ferrymq_types::Offset;

/// Shortest batch: it must say what it is.
pub const LENGTH_MIN: usize = 8;

/// Keeps small numbers, which stand everywhere on the disk, from looking like a batch.
const MAGIC: u64 = 0x5bd1_e995_a3c5_9ac3;
const LENGTH_BITS: u32 = 14;
const SPAN_BITS: u32 = 4;

/// Who asks for a batch to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The log's owner, at its end.
    Owner,
    /// The log's owner, in place of another batch.
    Replacer,
    /// Somebody who owned the log before.
    Stale,
}

impl Writer {
    const ALL: [Writer; 3] = [Writer::Owner, Writer::Replacer, Writer::Stale];
    const BITS: u32 = 2;

    fn name(self) -> &'static str {
        match self {
            Writer::Owner => "owner",
            Writer::Replacer => "replacer",
            Writer::Stale => "stale",
        }
    }
}

/// What a batch carries.
pub fn value(writer: Writer, number: u64) -> Value {
    Value::new(writer.name(), number)
}

/// The batch that carries this value.
pub fn batch(writer: Writer, number: u64, base: u64, span: u32, length: usize) -> Batch {
    assert!((LENGTH_MIN..1 << LENGTH_BITS).contains(&length) && span < 1 << SPAN_BITS);
    let word = (number << Writer::BITS) | writer as u64;
    let word = (word << SPAN_BITS) | u64::from(span);
    let word = (word << LENGTH_BITS) | length as u64;
    let max_timestamp = i64::try_from(number % 1000).unwrap();
    Batch { base: Offset(base), span, max_timestamp, bytes: fill(word, length) }
}

fn fill(word: u64, length: usize) -> Bytes {
    let mut out = Vec::with_capacity(length + 8);
    out.extend_from_slice(&(word ^ MAGIC).to_le_bytes());
    let mut state = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while out.len() < length {
        state = next(state);
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    Bytes::from(out)
}

fn next(state: u64) -> u64 {
    let state = state ^ (state << 13);
    let state = state ^ (state >> 7);
    state ^ (state << 17)
}

/// The value in a batch that was read; a value that nobody sent, if it is not exactly what was written.
pub fn read(bytes: &[u8], span: u64) -> Value {
    let nobody = || Value::new("nobody", bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)));
    let Some((word, rest)) = bytes.split_first_chunk::<8>() else { return nobody() };
    let word = u64::from_le_bytes(*word) ^ MAGIC;
    let length = word & ((1 << LENGTH_BITS) - 1);
    let spans = (word >> LENGTH_BITS) & ((1 << SPAN_BITS) - 1);
    let writer = (word >> (LENGTH_BITS + SPAN_BITS)) & ((1 << Writer::BITS) - 1);
    let mut state = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (words, end) = rest.as_chunks::<8>();
    let mut whole = length == bytes.len() as u64 && spans == span;
    for word in words {
        state = next(state);
        whole &= u64::from_le_bytes(*word) == state;
    }
    whole &= next(state).to_le_bytes().starts_with(end);
    let writer = usize::try_from(writer).ok().and_then(|writer| Writer::ALL.get(writer));
    match writer {
        Some(writer) if whole => value(*writer, word >> (LENGTH_BITS + SPAN_BITS + Writer::BITS)),
        _ => nobody(),
    }
}
