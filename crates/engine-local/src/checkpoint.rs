//! Checkpoints: every log's state at one moment, so that a start replays little.
//!
//! ```text
//! checkpoint/<n> | magic u64, version u16, 0 x6, store, number, seq, replay_from, next_file : u64
//!                | count, tombstone ranges (first u64, last u64) | count, files (id u64, kind u8, put u64)
//!                | count, logs (...) with their bad ranges and segments | crc u32 of all before
//! ```
//! **Invariants.** Written under another name, synced, renamed, directory synced; the one before is kept and
//! everything it needs too. Reflects exactly the groups up to `seq`, all of them durable.
//!
//! Deliberately absent: entries (they are in index files) and anything of class `Memory`.

use std::io;
use std::path::{Path, PathBuf};

use ferrymq_disk::Disk;
use ferrymq_types::{CommitId, OwnerId};

use crate::files::FileId;
use crate::format::{FileKind, VERSION, crc32c, u32_at, u64_at};
use crate::log::{LogState, Segment};
use crate::stage::{Tombstones, halves};

/// What a log without segments takes.
const LOG_BYTES: usize = 12 * 8;
const MAGIC: u64 = u64::from_le_bytes(*b"FERRYCHK");
/// The directory of checkpoints.
pub(crate) const DIRECTORY: &str = "checkpoint";

/// What is not about single logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub store: u64,
    pub number: u64,
    /// The last group reflected.
    pub seq: u64,
    /// The first WAL file to replay; its groups up to `seq` are already reflected.
    pub replay_from: u64,
    pub next_file: u64,
}

/// A decoded checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub head: Head,
    pub deleted: Tombstones,
    /// Number, kind and bytes ever put of each data file.
    pub files: Vec<(FileId, FileKind, u64)>,
    /// Each once, in no order.
    pub logs: Vec<(u64, LogState)>,
}

/// Builds the bytes of a checkpoint piece by piece.
pub(crate) struct Encoder {
    out: Vec<u8>,
    logs_at: usize,
    logs: u64,
}

impl Encoder {
    /// Of about so many logs.
    pub(crate) fn new(
        head: &Head,
        deleted: &Tombstones,
        files: &[(FileId, FileKind, u64)],
        logs: usize,
    ) -> Encoder {
        // Most logs of many are idle and have no segment: a buffer that grows would leave as much again behind.
        let mut out = Vec::with_capacity((1 << 16) + logs * LOG_BYTES);
        put(&mut out, MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        for number in [head.store, head.number, head.seq, head.replay_from, head.next_file] {
            put(&mut out, number);
        }
        put(&mut out, deleted.0.len() as u64);
        for (first, last) in &deleted.0 {
            put(&mut out, *first);
            put(&mut out, *last);
        }
        put(&mut out, files.len() as u64);
        for (id, kind, put_bytes) in files {
            put(&mut out, id.0);
            put(&mut out, *kind as u64);
            put(&mut out, *put_bytes);
        }
        let logs_at = out.len();
        put(&mut out, 0);
        Encoder { out, logs_at, logs: 0 }
    }

    /// Adds a log; segments for which `keep` says no are left out.
    pub(crate) fn log(&mut self, id: u64, state: &LogState, keep: impl Fn(FileId) -> bool) {
        let out = &mut self.out;
        let (owner_high, owner_low) = halves(state.owner);
        let commit = state.last_commit.unwrap_or_default();
        for number in [id, u64::from(state.epoch), owner_high, owner_low, state.start, state.next] {
            put(out, number);
        }
        put(out, state.reserved);
        put(out, u64::from(state.last_commit.is_some()));
        put(out, commit.writer);
        put(out, commit.sequence);
        put(out, state.bad.len() as u64);
        for range in &state.bad {
            put(out, range.start);
            put(out, range.end);
        }
        let kept = || state.segments.iter().filter(|segment| keep(segment.file));
        put(out, kept().count() as u64);
        for segment in kept() {
            put(out, segment.file.0);
            put(out, u64::from(segment.position_first) | u64::from(segment.position_last) << 32);
            put(out, segment.base);
            put(out, segment.next);
            put(out, segment.bytes);
            put(out, segment.max_timestamp.cast_unsigned());
            put(out, u64::from(segment.epoch) | u64::from(segment.count) << 32);
        }
        self.logs += 1;
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out[self.logs_at..self.logs_at + 8].copy_from_slice(&self.logs.to_le_bytes());
        let crc = crc32c(&self.out);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Reads numbers off the front.
struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        Some(u64_at(first, 0))
    }

    fn halves(&mut self) -> Option<(u32, u32)> {
        let (first, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        Some((u32_at(first, 0), u32_at(first, 4)))
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn log(&mut self) -> Option<(u64, LogState)> {
        let id = self.number()?;
        let epoch = self.small()?;
        let owner = OwnerId((u128::from(self.number()?) << 64) | u128::from(self.number()?));
        let (start, next, reserved) = (self.number()?, self.number()?, self.number()?);
        let has_commit = self.number()? != 0;
        let commit = CommitId { writer: self.number()?, sequence: self.number()? };
        let mut state = LogState { epoch, owner, start, next, reserved, ..LogState::default() };
        state.last_commit = has_commit.then_some(commit);
        for _ in 0..self.number()? {
            state.bad.push(self.number()?..self.number()?);
        }
        for _ in 0..self.number()? {
            let segment = self.segment()?;
            state.bytes += segment.bytes;
            state.segments.push_back(segment);
        }
        Some((id, state))
    }

    fn segment(&mut self) -> Option<Segment> {
        let file = FileId(self.number()?);
        let (position_first, position_last) = self.halves()?;
        let (base, next, bytes) = (self.number()?, self.number()?, self.number()?);
        let max_timestamp = self.number()?.cast_signed();
        let (epoch, count) = self.halves()?;
        Some(Segment { file, position_first, position_last, base, next, bytes, max_timestamp, epoch, count })
    }
}

/// Decodes a checkpoint; `None` if it does not verify.
pub(crate) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc32c(body) != u32_at(crc, 0) || body.len() < 16 || u64_at(body, 0) != MAGIC {
        return None;
    }
    if u16::from_le_bytes([body[8], body[9]]) != VERSION {
        return None;
    }
    let mut from = Decoder(&body[16..]);
    let head = Head {
        store: from.number()?,
        number: from.number()?,
        seq: from.number()?,
        replay_from: from.number()?,
        next_file: from.number()?,
    };
    let mut checkpoint = Checkpoint { head, ..Checkpoint::default() };
    for _ in 0..from.number()? {
        checkpoint.deleted.0.insert(from.number()?, from.number()?);
    }
    for _ in 0..from.number()? {
        let id = FileId(from.number()?);
        let kind = [FileKind::Wal, FileKind::Run].get(from.small()?.checked_sub(1)? as usize).copied()?;
        checkpoint.files.push((id, kind, from.number()?));
    }
    for _ in 0..from.number()? {
        checkpoint.logs.push(from.log()?);
    }
    Some(checkpoint)
}

fn path(number: u64) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}/{number:016x}"))
}

/// Writes checkpoint `number` durably and removes all others but `previous`. `sync` is off only for a seeded
/// bug.
pub(crate) fn write(disk: &dyn Disk, number: u64, previous: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{DIRECTORY}/next.tmp"));
    if let Err(error) = disk.remove(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let file = disk.create(&temporary)?;
    file.write_at(&[io::IoSlice::new(bytes)], 0)?;
    if sync {
        file.sync_data()?;
    }
    disk.rename(&temporary, &path(number))?;
    if sync {
        disk.sync_dir(Path::new(DIRECTORY))?;
    }
    for old in numbers(disk)?.into_iter().filter(|old| *old != number && *old != previous) {
        disk.remove(&path(old))?;
    }
    Ok(())
}

/// The numbers of all checkpoints that are there, ascending.
pub(crate) fn numbers(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list(Path::new(DIRECTORY))?;
    let parse = |name: &String| (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten();
    Ok(names.iter().filter_map(parse).collect())
}

/// Reads and verifies a checkpoint; `None` if it does not verify.
pub(crate) fn read(disk: &dyn Disk, number: u64) -> io::Result<Option<Checkpoint>> {
    let file = disk.open(&path(number))?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or_default()];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(decode(&bytes).filter(|checkpoint| checkpoint.head.number == number))
}
