//! Reads a data file from its first group to its end, over damage if need be.
//!
//! **Invariants.** Only groups whose head and record headers verify are returned, in ascending order of their
//! numbers. Damage is reported, never judged here: whether it is a torn tail or lost data is for recovery.
//!
//! Deliberately absent: any change of the file.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_disk::File;

use crate::format::frame::{FRAME_HEAD_BYTES, Piece, Source, decode_frame, frame_bytes};
use crate::format::{
    BLOCK_BYTES, FileIdentity, GroupHead, HEAD_BYTES, Kind, Place, RecordHeader, crc_behind, crc32c,
    decode_head, decode_table, payload_crc, place_prefix,
};

/// Read ahead so many bytes at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// A group found in a file.
#[derive(Debug, Clone)]
pub(crate) struct ScannedGroup {
    pub head: GroupHead,
    pub records: Vec<ScannedRecord>,
    /// Whether every payload verified, as far as it was written with this group.
    pub whole: bool,
}

/// A record of a group.
#[derive(Debug, Clone)]
pub(crate) struct ScannedRecord {
    pub header: RecordHeader,
    /// The payload where replay needs it: lists of ranges.
    pub payload: Bytes,
    /// Whether all of the payload verified, also what lies elsewhere.
    pub intact: bool,
}

/// Everything found in a file.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub groups: Vec<ScannedGroup>,
    /// Where something that is not zero did not verify as a group, or groups are missing.
    pub damaged_at: Option<u64>,
    /// Behind the last verified group.
    pub end: u64,
}

/// Scans `file`.
pub(crate) fn scan(file: &Arc<dyn File>, identity: FileIdentity) -> io::Result<Scan> {
    let mut window = Window { file, from: 0, bytes: Vec::new(), length: file.len()? };
    let mut found = Scan { end: BLOCK_BYTES, ..Scan::default() };
    let mut at = BLOCK_BYTES;
    let mut last_seq = None;
    let mut elsewhere = Elsewhere::default();
    while at + HEAD_BYTES as u64 <= window.length {
        match read_group(&mut window, &mut elsewhere, identity, at)? {
            Some(group) if last_seq.is_none_or(|seq| group.head.seq >= seq) => {
                last_seq = Some(group.head.seq);
                at += group.head.total_bytes();
                found.end = at;
                found.groups.push(group);
            }
            _ => {
                if found.damaged_at.is_none() && window.get(at, HEAD_BYTES)?.iter().any(|byte| *byte != 0) {
                    found.damaged_at = Some(at);
                }
                at += BLOCK_BYTES;
            }
        }
    }
    Ok(found)
}

fn read_group(
    window: &mut Window<'_>,
    elsewhere: &mut Elsewhere,
    identity: FileIdentity,
    at: u64,
) -> io::Result<Option<ScannedGroup>> {
    let Some(head) = decode_head(identity, at, window.get(at, HEAD_BYTES)?) else { return Ok(None) };
    // An absurd count must not make us allocate: what lies behind the end of the file cannot verify.
    if at + head.table_bytes() > window.length {
        return Ok(None);
    }
    let table_bytes = usize::try_from(head.table_bytes()).unwrap_or(usize::MAX);
    let Some(headers) = decode_table(&head, window.get(at, table_bytes)?) else { return Ok(None) };
    let mut records = Vec::with_capacity(headers.len());
    let mut whole = true;
    for header in headers {
        if header.framed {
            let (written, intact) = elsewhere.verify(window, identity, &header)?;
            whole &= written;
            records.push(ScannedRecord { header, payload: Bytes::new(), intact });
            continue;
        }
        let length = header.payload_bytes as usize;
        let payload = window.get(u64::from(header.position), length)?;
        let intact = payload.len() == length && payload_crc(identity, &header, payload) == header.crc;
        let keep = intact && header.kind == Kind::Discard;
        let payload = if keep { Bytes::copy_from_slice(payload) } else { Bytes::new() };
        whole &= intact;
        records.push(ScannedRecord { header, payload, intact });
    }
    Ok(Some(ScannedGroup { head, records, whole }))
}

/// What payloads refer to, each part read once: many may refer to one, and reading it for each of them would take as
/// long as if each had been written.
#[derive(Default)]
struct Elsewhere {
    /// By position and length; `None` if the file ends before.
    crcs: HashMap<(u32, u32), Option<u32>>,
}

impl Elsewhere {
    /// Whether a frame was written whole, and whether it and what it refers to make up its payload.
    fn verify(
        &mut self,
        window: &mut Window<'_>,
        identity: FileIdentity,
        header: &RecordHeader,
    ) -> io::Result<(bool, bool)> {
        let position = u64::from(header.position);
        let file = window.file;
        let head = window.get(position, FRAME_HEAD_BYTES)?;
        let Some(length) = frame_bytes(head, header.payload_bytes) else { return Ok((false, false)) };
        if position + length as u64 > window.length {
            return Ok((false, false));
        }
        let frame = window.get(position, length)?;
        let pieces = decode_frame(identity, header.position, header.payload_bytes, frame);
        let Some(pieces) = pieces else { return Ok((false, false)) };
        let mut crc = crc32c(&place_prefix(identity, Place::of(header), header.position));
        for Piece { at, source } in pieces {
            let part = match source {
                Source::Frame(from) => Some(crc32c(&frame[from..from + at.len()])),
                Source::File(from) => self.crc(file, from, at.len())?,
            };
            let Some(part) = part else { return Ok((true, false)) };
            crc = crc_behind(crc, part, at.len() as u64);
        }
        Ok((true, crc == header.crc))
    }

    fn crc(&mut self, file: &Arc<dyn File>, from: u32, length: usize) -> io::Result<Option<u32>> {
        let Ok(bytes) = u32::try_from(length) else { return Ok(None) };
        if let Some(crc) = self.crcs.get(&(from, bytes)) {
            return Ok(*crc);
        }
        let mut buffer = vec![0; length];
        let read = file.read_at(&mut buffer, u64::from(from))?;
        let crc = (read == length).then(|| crc32c(&buffer));
        self.crcs.insert((from, bytes), crc);
        Ok(crc)
    }
}

/// A part of a file held in memory.
struct Window<'a> {
    file: &'a Arc<dyn File>,
    from: u64,
    bytes: Vec<u8>,
    length: u64,
}

impl Window<'_> {
    /// `length` bytes at `at`; fewer at the end of the file.
    fn get(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let held_to = self.from + self.bytes.len() as u64;
        let wanted_to = (at + length as u64).min(self.length);
        if at < self.from || wanted_to > held_to {
            let want = length.max(WINDOW_BYTES) as u64;
            let want = want.min(self.length.saturating_sub(at));
            self.bytes.resize(usize::try_from(want).unwrap_or_default(), 0);
            let read = self.file.read_at(&mut self.bytes, at)?;
            self.bytes.truncate(read);
            self.from = at;
        }
        let start = usize::try_from(at - self.from).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = start.saturating_add(length).min(self.bytes.len());
        Ok(&self.bytes[start..end])
    }
}
