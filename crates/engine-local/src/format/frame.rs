//! Frames: payloads of which parts lie elsewhere in the same file. Pure encoding and decoding.
//!
//! ```text
//! frame     | head 16 B | reference 12 B x references | the other bytes of the payload, in order |
//! head        references u32, literal_bytes u32, payload_bytes u32,
//!             crc u32 (of store, file, position, the head before it, references and the other bytes)
//! reference   at u32 (in the payload), position u32 (in the file), bytes u32
//! ```
//! All numbers are little-endian. A reference leads to bytes that lie in the file as they are, before the frame: never
//! to another frame's head, never into another file. So whatever keeps the frame's file keeps what it refers to.
//!
//! **Invariants.** What decodes is consistent: references ascend and lie apart within the payload, lead to before the
//! frame, and make up the payload together with the other bytes. No declared number sizes an allocation beyond what
//! the reader of the payload expects. The frame's own crc says that it was written whole; that what it refers to is
//! what was meant, the record's crc says, over the whole payload.
//!
//! Deliberately absent: what is shared with what; see `core::bodies`.

use std::io::IoSlice;
use std::ops::Range;

use crc_fast::{CrcAlgorithm, Digest};

use super::{BLOCK_BYTES, FileIdentity, narrow, u32_at};

/// Bytes of a frame's head.
pub(crate) const FRAME_HEAD_BYTES: usize = 16;
/// Bytes of one reference.
pub(crate) const REFERENCE_BYTES: usize = 12;
/// References of one frame, at most: what else is shared is written out.
pub(crate) const REFERENCES_MAX: usize = 1024;

/// A part of a payload that lies elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Where it belongs in the payload.
    pub at: u32,
    /// Where it lies in the file; before [`Frame::place`], and if `of` names a record, in that record's slot.
    pub position: u32,
    pub bytes: u32,
    /// The record of the group in whose slot it lies, if that is not written yet.
    pub of: Option<usize>,
}

/// What is written of a payload in place of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    /// Ascending, apart; at least one, at most [`REFERENCES_MAX`].
    pub references: Vec<Reference>,
    /// Head and references as they are written, once their places are known.
    encoded: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(references: Vec<Reference>) -> Frame {
        Frame { references, encoded: Vec::new() }
    }

    /// Bytes of head and references.
    pub(crate) fn table_bytes(&self) -> usize {
        FRAME_HEAD_BYTES + self.references.len() * REFERENCE_BYTES
    }

    /// Bytes that are written for a payload of `payload_bytes`.
    pub(crate) fn bytes(&self, payload_bytes: usize) -> usize {
        let elsewhere: usize = self.references.iter().map(|reference| reference.bytes as usize).sum();
        self.table_bytes() + payload_bytes - elsewhere
    }

    /// Where in the frame a byte of the payload lies that no reference is for.
    pub(crate) fn slot_of(&self, at: u32) -> usize {
        let before = self.references.iter().take_while(|reference| reference.at < at);
        self.table_bytes() + at as usize - before.map(|reference| reference.bytes as usize).sum::<usize>()
    }

    /// Settles where everything lies: the frame at `position`, and what it refers to where `position_of` says that
    /// earlier records of the group lie. `None` if that is beyond 32 bits.
    pub(crate) fn place(
        &mut self,
        identity: FileIdentity,
        position: u32,
        payload: &[u8],
        position_of: impl Fn(usize) -> u32,
    ) -> Option<()> {
        for reference in &mut self.references {
            if let Some(record) = reference.of.take() {
                reference.position = reference.position.checked_add(position_of(record))?;
            }
        }
        let literal_bytes = self.bytes(payload.len()) - self.table_bytes();
        let mut out = Vec::with_capacity(self.table_bytes());
        out.extend_from_slice(&u32::try_from(self.references.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&u32::try_from(literal_bytes).ok()?.to_le_bytes());
        out.extend_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for reference in &self.references {
            for number in [reference.at, reference.position, reference.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let literals = self.literals(payload.len()).map(|range| &payload[range]);
        let crc = crc(identity, position, &out, literals);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        self.encoded = out;
        Some(())
    }

    /// What is written, once it was placed.
    pub(crate) fn chunks<'a>(&'a self, payload: &'a [u8], out: &mut Vec<IoSlice<'a>>) {
        debug_assert_eq!(self.encoded.len(), self.table_bytes(), "a frame is placed before it is written");
        out.push(IoSlice::new(&self.encoded));
        out.extend(self.literals(payload.len()).map(|range| IoSlice::new(&payload[range])));
    }

    /// The parts of the payload that are no reference.
    fn literals(&self, payload_bytes: usize) -> impl Iterator<Item = Range<usize>> {
        let ends = self.references.iter().map(|reference| reference.at as usize + reference.bytes as usize);
        let begins = self.references.iter().map(|reference| reference.at as usize);
        std::iter::once(0)
            .chain(ends)
            .zip(begins.chain(std::iter::once(payload_bytes)))
            .map(|(from, to)| from..to)
            .filter(|range| !range.is_empty())
    }
}

/// A piece of a payload and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// In the payload.
    pub at: Range<usize>,
    pub source: Source,
}

/// Where a piece lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From here on in the frame.
    Frame(usize),
    /// From here on in the file.
    File(u32),
}

/// Bytes of the whole frame, from its first bytes; `None` if a payload of `payload_bytes` has no such frame.
pub(crate) fn frame_bytes(head: &[u8], payload_bytes: u32) -> Option<usize> {
    let head: &[u8; FRAME_HEAD_BYTES] = head.first_chunk()?;
    let references = u32_at(head, 0) as usize;
    let literal_bytes = u32_at(head, 4);
    let fits = u32_at(head, 8) == payload_bytes && literal_bytes < payload_bytes;
    let known = (1..=REFERENCES_MAX).contains(&references);
    (fits && known).then(|| FRAME_HEAD_BYTES + references * REFERENCE_BYTES + literal_bytes as usize)
}

/// The pieces that make up a payload of `payload_bytes`, from the whole frame at `position`; `None` if it does not
/// verify.
pub(crate) fn decode_frame(
    identity: FileIdentity,
    position: u32,
    payload_bytes: u32,
    frame: &[u8],
) -> Option<Vec<Piece>> {
    if frame_bytes(frame, payload_bytes)? != frame.len() {
        return None;
    }
    let references = u32_at(frame, 0) as usize;
    let (table, literals) = frame.split_at(FRAME_HEAD_BYTES + references * REFERENCE_BYTES);
    if crc(identity, position, table, std::iter::once(literals)) != u32_at(frame, 12) {
        return None;
    }
    let mut pieces = Vec::with_capacity(2 * references + 1);
    let (mut at, mut slot) = (0, table.len());
    for reference in table[FRAME_HEAD_BYTES..].chunks_exact(REFERENCE_BYTES) {
        let (begin, from, bytes) = (u32_at(reference, 0), u32_at(reference, 4), u32_at(reference, 8));
        let end = begin.checked_add(bytes).filter(|end| *end <= payload_bytes)? as usize;
        let begin = begin as usize;
        let lies_before = u64::from(from) >= BLOCK_BYTES && from.checked_add(bytes)? <= position;
        if begin < at || bytes == 0 || !lies_before {
            return None;
        }
        if begin > at {
            pieces.push(Piece { at: at..begin, source: Source::Frame(slot) });
            slot += begin - at;
        }
        pieces.push(Piece { at: begin..end, source: Source::File(from) });
        at = end;
    }
    let end = payload_bytes as usize;
    if end > at {
        pieces.push(Piece { at: at..end, source: Source::Frame(slot) });
        slot += end - at;
    }
    (slot == frame.len()).then_some(pieces)
}

/// The crc of a frame, its own field left out.
fn crc<'a>(
    identity: FileIdentity,
    position: u32,
    table: &[u8],
    literals: impl Iterator<Item = &'a [u8]>,
) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&identity.store.to_le_bytes());
    digest.update(&identity.file.to_le_bytes());
    digest.update(&position.to_le_bytes());
    digest.update(&table[..12]);
    digest.update(&table[FRAME_HEAD_BYTES..]);
    literals.for_each(|literal| digest.update(literal));
    narrow(digest.finalize())
}
