//! The bytes of data files: file header, write group, record header. Pure encoding and decoding.
//!
//! ```text
//! file    | header block 4 KiB | group | group | ...            each group starts on a 4 KiB boundary
//! group   | head 64 B | record header 64 B x record_count | payloads back to back | zeros up to 4 KiB |
//! head    magic u32, version u16, 0 u16, store u64, file u64, seq u64, durable_seq u64,
//!         position u32, body_bytes u32, record_count u32, crc u32 (over head and record headers), 0 u64
//! record  kind u8, class u8, form u16, epoch u32, log u64, base u64, span u32, payload_bytes u32,
//!         max_timestamp i64, a u64, b u64, position u32, crc u32
//! ```
//! All numbers are little-endian. `a` and `b` hold a commit id (append), an owner (claim) or a range
//! (replace). A record's crc covers its store, file, log, offset, span, epoch, position and payload, so that a
//! stale or misdirected block never verifies; it can be checked from an index entry without the record header.
//!
//! `form` is 0 for a payload that lies there as it is, and 1 for one of which parts lie elsewhere in the file: then a
//! frame lies at `position` ([`frame`]), while `payload_bytes` and `crc` are those of the whole payload. A group with
//! such a record has version 2, all others version 1; a directory that may hold one says so in `FORMAT`.
//!
//! **Invariants.** Zeros never verify as anything. WAL files, volatile files and run files share this format.
//! A change of any byte here is a new version.
//!
//! Deliberately absent: compression, encryption, anything that looks into a payload.

use std::io::IoSlice;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use ferrymq_storage::SharedPart;

pub(crate) mod frame;

use frame::Frame;

/// Version of file headers, and of groups and indexes in which every payload lies as it is.
pub(crate) const VERSION: u16 = 1;
/// Version of groups and indexes in which some do not.
pub(crate) const VERSION_FRAMED: u16 = 2;
/// Groups and the file header are aligned to this many bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Bytes of a group head and of a record header.
pub(crate) const HEAD_BYTES: usize = 64;
/// Positions in a file are 32 bits wide.
pub(crate) const FILE_BYTES_MAX: u64 = u32::MAX as u64;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"FERRYLOG");
const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"FqGr");

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A batch at the end of its log.
    Append = 1,
    /// A new owner; `a` and `b` are the owner's two halves.
    Claim = 2,
    /// The start moves up to `base`.
    Trim = 3,
    /// Ranges are freed; the payload lists them as pairs of u64.
    Discard = 4,
    /// The batches inside `a..b` make way for the [`Kind::ReplaceBatch`] records that follow.
    Replace = 5,
    /// A batch put in place of others.
    ReplaceBatch = 6,
    /// The log is gone for good.
    Delete = 7,
    /// Offsets below `base` may have been given out to batches that no disk keeps.
    Reserve = 8,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Kind> {
        use Kind::{Append, Claim, Delete, Discard, Replace, ReplaceBatch, Reserve, Trim};
        [Append, Claim, Trim, Discard, Replace, ReplaceBatch, Delete, Reserve]
            .into_iter()
            .find(|kind| *kind as u8 == value)
    }
}

/// A record header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub kind: Kind,
    pub class: u8,
    /// Parts of the payload lie elsewhere.
    pub framed: bool,
    pub epoch: u32,
    pub log: u64,
    pub base: u64,
    pub span: u32,
    pub payload_bytes: u32,
    pub max_timestamp: i64,
    pub a: u64,
    pub b: u64,
    pub position: u32,
    pub crc: u32,
}

impl RecordHeader {
    /// A header of `kind` for `log` with everything else zero.
    pub(crate) fn new(kind: Kind, log: u64, epoch: u32) -> RecordHeader {
        RecordHeader {
            kind,
            class: 0,
            framed: false,
            epoch,
            log,
            base: 0,
            span: 0,
            payload_bytes: 0,
            max_timestamp: 0,
            a: 0,
            b: 0,
            position: 0,
            crc: 0,
        }
    }

    /// Whether this record holds a batch.
    pub(crate) fn is_batch(&self) -> bool {
        matches!(self.kind, Kind::Append | Kind::ReplaceBatch)
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[self.kind as u8, self.class, u8::from(self.framed), 0]);
        into.extend_from_slice(&self.epoch.to_le_bytes());
        into.extend_from_slice(&self.log.to_le_bytes());
        into.extend_from_slice(&self.base.to_le_bytes());
        into.extend_from_slice(&self.span.to_le_bytes());
        into.extend_from_slice(&self.payload_bytes.to_le_bytes());
        into.extend_from_slice(&self.max_timestamp.to_le_bytes());
        into.extend_from_slice(&self.a.to_le_bytes());
        into.extend_from_slice(&self.b.to_le_bytes());
        into.extend_from_slice(&self.position.to_le_bytes());
        into.extend_from_slice(&self.crc.to_le_bytes());
    }

    /// `None` for a kind or a form this version does not know.
    pub(crate) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<RecordHeader> {
        let kind = Kind::from_u8(bytes[0])?;
        let framed = match [bytes[2], bytes[3]] {
            [0, 0] => false,
            [1, 0] if matches!(kind, Kind::Append | Kind::ReplaceBatch) => true,
            _ => return None,
        };
        Some(RecordHeader {
            kind,
            class: bytes[1],
            framed,
            epoch: u32_at(bytes, 4),
            log: u64_at(bytes, 8),
            base: u64_at(bytes, 16),
            span: u32_at(bytes, 24),
            payload_bytes: u32_at(bytes, 28),
            max_timestamp: u64_at(bytes, 32).cast_signed(),
            a: u64_at(bytes, 40),
            b: u64_at(bytes, 48),
            position: u32_at(bytes, 56),
            crc: u32_at(bytes, 60),
        })
    }
}

/// One record about to be written: its header and its payload as it came.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub header: RecordHeader,
    pub payload: Bytes,
    /// Parts of the payload that others may hold too.
    pub shared: Vec<SharedPart>,
    /// What of the payload is not written, because it lies in the file already.
    pub frame: Option<Box<Frame>>,
}

impl Record {
    /// One that shares nothing.
    pub(crate) fn new(header: RecordHeader, payload: Bytes) -> Record {
        Record { header, payload, shared: Vec::new(), frame: None }
    }

    /// Bytes it takes in a group: an empty payload takes one, so that positions tell records apart.
    pub(crate) fn slot_bytes(&self) -> usize {
        match &self.frame {
            None => self.payload.len().max(1),
            Some(frame) => frame.bytes(self.payload.len()),
        }
    }

    /// What is written behind the table, in order.
    pub(crate) fn chunks<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        match &self.frame {
            None if self.payload.is_empty() => out.push(IoSlice::new(&[0])),
            None => out.push(IoSlice::new(&self.payload)),
            Some(frame) => frame.chunks(&self.payload, out),
        }
    }
}

/// Which file of which store: part of every checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub store: u64,
    pub file: u64,
}

/// A group head, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHead {
    pub seq: u64,
    pub durable_seq: u64,
    pub position: u32,
    pub body_bytes: u32,
    pub record_count: u32,
    pub crc: u32,
}

impl GroupHead {
    /// Bytes of head and record headers.
    pub(crate) fn table_bytes(&self) -> u64 {
        (u64::from(self.record_count) + 1) * HEAD_BYTES as u64
    }

    /// Bytes of the whole group, padding included.
    pub(crate) fn total_bytes(&self) -> u64 {
        (self.table_bytes() + u64::from(self.body_bytes)).next_multiple_of(BLOCK_BYTES)
    }
}

/// Encodes head and record headers of a group at `position`, filling in each record's position and crc.
/// What [`Record::chunks`] says is to be written behind it.
///
/// `None` if the group does not fit 32-bit positions.
pub(crate) fn encode_group(
    identity: FileIdentity,
    position: u64,
    seq: u64,
    durable_seq: u64,
    records: &mut [Record],
) -> Option<Vec<u8>> {
    let table_bytes = (records.len() + 1) * HEAD_BYTES;
    let mut at = position + table_bytes as u64;
    let body_from = at;
    let mut version = VERSION;
    for index in 0..records.len() {
        let (before, rest) = records.split_at_mut(index);
        let record = &mut rest[0];
        let position = u32::try_from(at).ok()?;
        record.header.position = position;
        record.header.payload_bytes = u32::try_from(record.payload.len()).ok()?;
        record.header.framed = record.frame.is_some();
        record.header.crc = payload_crc(identity, &record.header, &record.payload);
        at += record.slot_bytes() as u64;
        if let Some(frame) = &mut record.frame {
            version = VERSION_FRAMED;
            frame.place(identity, position, &record.payload, |index| before[index].header.position)?;
        }
    }
    let head = GroupHead {
        seq,
        durable_seq,
        position: u32::try_from(position).ok()?,
        body_bytes: u32::try_from(at - body_from).ok()?,
        record_count: u32::try_from(records.len()).ok()?,
        crc: 0,
    };
    u32::try_from(at.next_multiple_of(BLOCK_BYTES)).ok()?;
    let mut out = Vec::with_capacity(table_bytes);
    encode_head(identity, version, &head, &mut out);
    for record in records.iter() {
        record.header.encode(&mut out);
    }
    let crc = group_crc(&out);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Some(out)
}

const CRC_AT: usize = 52;

fn encode_head(identity: FileIdentity, version: u16, head: &GroupHead, out: &mut Vec<u8>) {
    out.extend_from_slice(&GROUP_MAGIC.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&identity.store.to_le_bytes());
    out.extend_from_slice(&identity.file.to_le_bytes());
    out.extend_from_slice(&head.seq.to_le_bytes());
    out.extend_from_slice(&head.durable_seq.to_le_bytes());
    out.extend_from_slice(&head.position.to_le_bytes());
    out.extend_from_slice(&head.body_bytes.to_le_bytes());
    out.extend_from_slice(&head.record_count.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
}

/// Decodes a group head and checks everything but its crc, which needs the record headers too.
pub(crate) fn decode_head(identity: FileIdentity, position: u64, bytes: &[u8]) -> Option<GroupHead> {
    let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    let named = FileIdentity { store: u64_at(bytes, 8), file: u64_at(bytes, 16) };
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    let is_known = version == VERSION || version == VERSION_FRAMED;
    if u32_at(bytes, 0) != GROUP_MAGIC || !is_known || named != identity {
        return None;
    }
    let head = GroupHead {
        seq: u64_at(bytes, 24),
        durable_seq: u64_at(bytes, 32),
        position: u32_at(bytes, 40),
        body_bytes: u32_at(bytes, 44),
        record_count: u32_at(bytes, 48),
        crc: u32_at(bytes, CRC_AT),
    };
    (u64::from(head.position) == position).then_some(head)
}

/// Checks the crc of `table` (head and record headers) and decodes the record headers.
pub(crate) fn decode_table(head: &GroupHead, table: &[u8]) -> Option<Vec<RecordHeader>> {
    if group_crc(table) != head.crc {
        return None;
    }
    table[HEAD_BYTES..]
        .chunks_exact(HEAD_BYTES)
        .map(|chunk| chunk.first_chunk().and_then(RecordHeader::decode))
        .collect()
}

/// The crc of head and record headers, with the crc field itself taken as left out.
fn group_crc(table: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&table[..CRC_AT]);
    digest.update(&table[CRC_AT + 4..]);
    narrow(digest.finalize())
}

/// The crc of a record's payload and of where and what it is.
pub(crate) fn payload_crc(identity: FileIdentity, header: &RecordHeader, payload: &[u8]) -> u32 {
    place_crc(identity, Place::of(header), header.position, payload)
}

/// What a batch is, for its checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub log: u64,
    pub base: u64,
    pub span: u32,
    pub epoch: u32,
}

impl Place {
    pub(crate) fn of(header: &RecordHeader) -> Place {
        Place { log: header.log, base: header.base, span: header.span, epoch: header.epoch }
    }
}

/// The same as [`payload_crc`] from parts, as an index entry has them.
pub(crate) fn place_crc(identity: FileIdentity, place: Place, position: u32, payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&place_prefix(identity, place, position));
    digest.update(payload);
    narrow(digest.finalize())
}

/// What of its checksum is not payload.
pub(crate) fn place_prefix(identity: FileIdentity, place: Place, position: u32) -> [u8; 44] {
    let mut prefix = [0_u8; 44];
    prefix[..8].copy_from_slice(&identity.store.to_le_bytes());
    prefix[8..16].copy_from_slice(&identity.file.to_le_bytes());
    prefix[16..24].copy_from_slice(&place.log.to_le_bytes());
    prefix[24..32].copy_from_slice(&place.base.to_le_bytes());
    prefix[32..36].copy_from_slice(&place.span.to_le_bytes());
    prefix[36..40].copy_from_slice(&place.epoch.to_le_bytes());
    prefix[40..44].copy_from_slice(&position.to_le_bytes());
    prefix
}

/// The CRC-32C of one piece behind another, from theirs.
pub(crate) fn crc_behind(first: u32, second: u32, second_bytes: u64) -> u32 {
    let (first, second) = (u64::from(first), u64::from(second));
    narrow(crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, first, second, second_bytes))
}

/// A plain CRC-32C.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    narrow(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

fn narrow(crc: u64) -> u32 {
    u32::try_from(crc).expect("a 32-bit CRC fits in 32 bits")
}

/// What a data file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileKind {
    /// Write-ahead log.
    Wal = 1,
    /// Batches moved out of the log, each log's lying together.
    Run = 2,
    /// Batches of class `Memory`; wiped at start.
    Volatile = 3,
}

/// Encodes the first block of a data file. For humans and later formats: groups name their file too, so that
/// damage here costs nothing.
pub(crate) fn encode_file_header(identity: FileIdentity, kind: FileKind, first_seq: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(usize::try_from(BLOCK_BYTES).unwrap_or_default());
    out.extend_from_slice(&FILE_MAGIC.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&identity.store.to_le_bytes());
    out.extend_from_slice(&identity.file.to_le_bytes());
    out.extend_from_slice(&first_seq.to_le_bytes());
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.resize(4096, 0);
    out
}

/// Encodes the ranges of a discard.
pub(crate) fn encode_ranges(ranges: impl Iterator<Item = (u64, u64)>) -> Bytes {
    let mut out = Vec::new();
    for (from, to) in ranges {
        out.extend_from_slice(&from.to_le_bytes());
        out.extend_from_slice(&to.to_le_bytes());
    }
    Bytes::from(out)
}

/// Decodes the ranges of a discard.
pub(crate) fn decode_ranges(payload: &[u8]) -> Vec<std::ops::Range<u64>> {
    payload.chunks_exact(16).map(|pair| u64_at(pair, 0)..u64_at(pair, 8)).collect()
}

/// A little-endian u64 inside `bytes`, which must be long enough.
pub(crate) fn u64_at(bytes: &[u8], from: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[from..from + 8]);
    u64::from_le_bytes(out)
}

/// A little-endian u32 inside `bytes`, which must be long enough.
pub(crate) fn u32_at(bytes: &[u8], from: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[from..from + 4]);
    u32::from_le_bytes(out)
}
