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
        self.table_bytes() + payload_bytes - self.elsewhere_bytes()
    }

    /// Bytes of the payload that lie elsewhere.
    pub(crate) fn elsewhere_bytes(&self) -> usize {
        self.references.iter().map(|reference| reference.bytes as usize).sum()
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
    let (table, literals) = frame.split_at(table_bytes(frame));
    if crc(identity, position, table, std::iter::once(literals)) != u32_at(frame, 12) {
        return None;
    }
    pieces(position, payload_bytes, frame)
}

/// What a frame at `position` of its file says of a payload of `payload_bytes`, whatever its crc: where each part of it
/// begins in the payload, where in the file it lies and how long it is; `None` if it is none. For tests of the decoder
/// with bytes that no program wrote; the engine believes nothing that does not verify.
#[must_use]
pub fn inspect_frame(position: u32, payload_bytes: u32, frame: &[u8]) -> Option<Vec<(usize, u64, usize)>> {
    if frame_bytes(frame, payload_bytes)? != frame.len() {
        return None;
    }
    let lies_at = |source| match source {
        Source::Frame(from) => u64::from(position) + from as u64,
        Source::File(from) => u64::from(from),
    };
    let pieces = pieces(position, payload_bytes, frame)?;
    Some(pieces.into_iter().map(|piece| (piece.at.start, lies_at(piece.source), piece.at.len())).collect())
}

fn table_bytes(frame: &[u8]) -> usize {
    FRAME_HEAD_BYTES + u32_at(frame, 0) as usize * REFERENCE_BYTES
}

/// Of a frame that is as long as it says.
fn pieces(position: u32, payload_bytes: u32, frame: &[u8]) -> Option<Vec<Piece>> {
    let table = &frame[..table_bytes(frame)];
    let references = u32_at(frame, 0) as usize;
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

#[cfg(test)]
mod tests {
    use ferrymq_runtime::Rng;

    use super::*;

    const IDENTITY: FileIdentity = FileIdentity { store: 5, file: 7 };

    fn payload(length: usize) -> Vec<u8> {
        (0u8..=250).cycle().take(length).collect()
    }

    fn written(frame: &Frame, payload: &[u8]) -> Vec<u8> {
        let mut chunks = Vec::new();
        frame.chunks(payload, &mut chunks);
        chunks.iter().flat_map(|chunk| chunk.to_vec()).collect()
    }

    fn frame(references: &[(u32, u32, u32)], position: u32, payload: &[u8]) -> Frame {
        let reference = |(at, position, bytes): &(u32, u32, u32)| Reference {
            at: *at,
            position: *position,
            bytes: *bytes,
            of: None,
        };
        let mut frame = Frame::new(references.iter().map(reference).collect());
        frame.place(IDENTITY, position, payload, |_| 0).unwrap();
        frame
    }

    /// Stored bytes: another layout is another version.
    #[test]
    fn the_layout_is_pinned() {
        let payload = payload(12);
        let bytes = written(&frame(&[(2, 5000, 6)], 9000, &payload), &payload);
        let expected = [
            &[1, 0, 0, 0, 6, 0, 0, 0, 12, 0, 0, 0][..],
            &[42, 9, 174, 101],
            &[2, 0, 0, 0, 0x88, 0x13, 0, 0, 6, 0, 0, 0],
            &[0, 1, 8, 9, 10, 11],
        ];
        assert_eq!(bytes, expected.concat());
    }

    /// Whatever parts lie elsewhere: the pieces make up the payload, in order, each from where it lies.
    #[test]
    fn pieces_make_up_the_payload() {
        let rng = Rng::seeded(3);
        for _ in 0..2_000 {
            let payload = payload(1 + usize::try_from(rng.below(400)).unwrap());
            let (mut references, mut at) = (Vec::new(), 0);
            while at < payload.len() as u64 && references.len() < 20 {
                let from = at + rng.below(30);
                let bytes = 1 + rng.below(60);
                if from + bytes <= payload.len() as u64 {
                    let position = 4096 + rng.below(4096);
                    references
                        .push([from, position, bytes].map(|number| u32::try_from(number).unwrap()).into());
                }
                at = from + bytes;
            }
            if references.is_empty() {
                continue;
            }
            let frame = frame(&references, 10_000, &payload);
            let bytes = written(&frame, &payload);
            assert_eq!(bytes.len(), frame.bytes(payload.len()));
            let length = u32::try_from(payload.len()).unwrap();
            assert_eq!(frame_bytes(&bytes, length), Some(bytes.len()));
            let pieces = decode_frame(IDENTITY, 10_000, length, &bytes).unwrap();
            let mut end = 0;
            let mut left = references.iter();
            for Piece { at, source } in pieces {
                assert_eq!(at.start, end);
                end = at.end;
                match source {
                    Source::Frame(from) => {
                        assert_eq!(bytes[from..from + at.len()], payload[at.clone()]);
                        assert_eq!(frame.slot_of(u32::try_from(at.start).unwrap()), from);
                    }
                    Source::File(from) => {
                        let here = (at.start, from, at.len());
                        let (at, position, bytes): &(u32, u32, u32) = left.next().unwrap();
                        assert_eq!(here, (*at as usize, *position, *bytes as usize));
                    }
                }
            }
            assert_eq!((end, left.next()), (payload.len(), None));
        }
    }

    #[test]
    fn no_other_place_and_no_damage_verifies() {
        let payload = payload(300);
        let bytes = written(&frame(&[(10, 5000, 100), (200, 4096, 50)], 9000, &payload), &payload);
        assert!(decode_frame(IDENTITY, 9000, 300, &bytes).is_some());
        assert!(decode_frame(IDENTITY, 9001, 300, &bytes).is_none());
        assert!(decode_frame(IDENTITY, 9000, 301, &bytes).is_none());
        assert!(decode_frame(FileIdentity { file: 8, ..IDENTITY }, 9000, 300, &bytes).is_none());
        assert!(decode_frame(FileIdentity { store: 6, ..IDENTITY }, 9000, 300, &bytes).is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(decode_frame(IDENTITY, 9000, 300, &damaged).is_none(), "byte {at}");
            assert!(decode_frame(IDENTITY, 9000, 300, &bytes[..at]).is_none());
        }
    }

    /// What is consistent in itself and leads to what cannot be there is refused, whatever its crc.
    #[test]
    fn only_what_lies_before_is_referred_to() {
        let refused = |references: &[(u32, u32, u32)]| {
            let payload = payload(300);
            let bytes = written(&frame(references, 9000, &payload), &payload);
            inspect_frame(9000, 300, &bytes).is_none() && decode_frame(IDENTITY, 9000, 300, &bytes).is_none()
        };
        assert!(!refused(&[(0, 8700, 299)]));
        assert!(refused(&[(0, 8702, 299)]), "reaches into the frame");
        assert!(refused(&[(0, 4095, 20)]), "the file's header");
        assert!(refused(&[(0, u32::MAX, 20)]));
        let references: Vec<(u32, u32, u32)> = (0..1025).map(|at| (at, 5000, 1)).collect();
        let payload = payload(2000);
        let bytes = written(&frame(&references, 9000, &payload), &payload);
        assert!(decode_frame(IDENTITY, 9000, 2000, &bytes).is_none(), "too many");
        assert!(decode_frame(IDENTITY, 9000, 2000, &[]).is_none());
    }
}
