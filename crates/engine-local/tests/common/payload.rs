//! Batches that say what they are, so that whoever reads one knows who sent it and whether it is whole.
//!
//! The first eight bytes hold a number, the span and the length; all others follow from these. Long ones hold a body
//! that those of neighbouring numbers hold too.
//!
//! **Invariant.** No two batches of a run begin with the same eight bytes.

use std::ops::Range;

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
    Batch::new(Offset(base), span, max_timestamp, fill(word, length))
}

/// Where a long batch holds the body, in words of eight bytes.
const BODY_WORDS: Range<usize> = 8..146;
/// Numbers whose long batches hold the same one.
const NEIGHBOURS: u64 = 32;

/// Which body a batch of this number and length holds, and where.
pub fn body(number: u64, length: usize) -> Option<(u64, Range<usize>)> {
    let range = BODY_WORDS.start * 8..BODY_WORDS.end * 8;
    (length >= range.end).then_some((number / NEIGHBOURS, range))
}

/// The words of a batch behind the first, without end.
fn words(word: u64, length: usize) -> impl Iterator<Item = u64> {
    let number = word >> (LENGTH_BITS + SPAN_BITS + Writer::BITS);
    let seed = |word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut own = seed(word);
    let shared = body(number, length);
    let mut of_body = seed(shared.as_ref().map_or(0, |(body, _)| !body));
    (1..).map(move |at| {
        let state = if shared.is_some() && BODY_WORDS.contains(&at) { &mut of_body } else { &mut own };
        *state = next(*state);
        *state
    })
}

fn fill(word: u64, length: usize) -> Bytes {
    let mut out = Vec::with_capacity(length + 8);
    out.extend_from_slice(&(word ^ MAGIC).to_le_bytes());
    let count = length.div_ceil(8) - 1;
    words(word, length).take(count).for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
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
    let mut expected = words(word, bytes.len());
    let (chunks, end) = rest.as_chunks::<8>();
    let mut whole = length == bytes.len() as u64 && spans == span;
    for (chunk, word) in chunks.iter().zip(expected.by_ref()) {
        whole &= u64::from_le_bytes(*chunk) == word;
    }
    whole &= expected.next().is_some_and(|word| word.to_le_bytes().starts_with(end));
    let writer = usize::try_from(writer).ok().and_then(|writer| Writer::ALL.get(writer));
    match writer {
        Some(writer) if whole => value(*writer, word >> (LENGTH_BITS + SPAN_BITS + Writer::BITS)),
        _ => nobody(),
    }
}
