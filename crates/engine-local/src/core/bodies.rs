//! What several batches hold is written once to a WAL file: which bytes of the active file may be referred to.
//!
//! ```text
//! records of a group -> plan (by key, length and crc) -> frames in place of what is there -> write -> keep the new
//! ```
//! **Invariants.** A reference leads to bytes that lie as they are in the same file, in an earlier group or an earlier
//! record of the same group; so nothing is there that it needs and that could go without it. What a group brings may
//! be referred to by later groups only once it was written. Bytes count as the same only if their key, their number,
//! and the 64 bits of a crc over them are. Nothing here is looked at for records without shared parts.
//!
//! Deliberately absent: sharing between files, and with what was there before a start; the second file has a body of
//! its own.

use std::collections::{HashMap, VecDeque};

use crc_fast::CrcAlgorithm;
use ferrymq_storage::{SHARED_BYTES_MIN, ShareKey};

use super::{Core, Failure, group_bytes, is_no_room};
use crate::files::FileId;
use crate::format::Record;
use crate::format::frame::{Frame, REFERENCES_MAX, Reference};
use crate::options::SeededBug;
use crate::recovery::{FORMAT_FRAMED, write_format};

/// Bodies remembered, at most: about 1.5 MiB, and 16 MiB of the shortest ones.
const BODIES_MAX: usize = 16 * 1024;

/// Bytes that may be referred to.
#[derive(Debug, Clone, Copy)]
struct Body {
    /// Where they lie in the file; if `of` names a record, in that record's slot.
    position: u32,
    of: Option<usize>,
    bytes: u32,
    crc: u64,
}

/// What a group brings, if it is written.
pub(crate) type NewBodies = Vec<(ShareKey, NewBody)>;

/// See [`NewBodies`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewBody(Body);

/// What the active file holds.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    file: Option<FileId>,
    by_key: HashMap<ShareKey, Body>,
    /// The oldest first.
    order: VecDeque<ShareKey>,
    /// There was no room to say that the directory may hold frames, and that was told.
    refused: bool,
}

impl Bodies {
    fn clear(&mut self) {
        self.by_key.clear();
        self.order.clear();
    }

    /// Puts frames in place of what is there already; what the group brings.
    fn plan(&self, records: &mut [Record]) -> NewBodies {
        let mut new: HashMap<ShareKey, Body> = HashMap::new();
        let mut order = Vec::new();
        for (index, record) in records.iter_mut().enumerate() {
            let mut references = Vec::new();
            let mut brought = Vec::new();
            record.frame = None;
            for part in record.shared.iter().filter(|part| part.bytes as usize >= SHARED_BYTES_MIN) {
                let bytes = &record.payload[part.at as usize..][..part.bytes as usize];
                let crc = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes);
                let known = new.get(&part.key).or_else(|| self.by_key.get(&part.key));
                match known {
                    Some(body) if body.bytes == part.bytes && body.crc == crc => {
                        if references.len() < REFERENCES_MAX {
                            let (position, of) = (body.position, body.of);
                            references.push(Reference { at: part.at, position, bytes: part.bytes, of });
                        }
                    }
                    // Somebody gave a key twice; what is there under it stays.
                    Some(_) => {}
                    None => brought.push((part, crc)),
                }
            }
            record.frame = (!references.is_empty()).then(|| Box::new(Frame::new(references)));
            for (part, crc) in brought {
                let slot = record.frame.as_ref().map_or(part.at as usize, |frame| frame.slot_of(part.at));
                let Ok(position) = u32::try_from(slot) else { continue };
                let body = Body { position, of: Some(index), bytes: part.bytes, crc };
                new.insert(part.key, body);
                order.push((part.key, NewBody(body)));
            }
        }
        order
    }

    /// Remembers what was written.
    pub(crate) fn keep(&mut self, new: NewBodies, written: &[Record]) {
        for (key, NewBody(body)) in new {
            let begin = body.of.map_or(0, |record| written[record].header.position);
            let Some(position) = begin.checked_add(body.position) else { continue };
            if self.by_key.insert(key, Body { position, of: None, ..body }).is_none() {
                self.order.push_back(key);
            }
        }
        while self.order.len() > BODIES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.by_key.remove(&oldest);
            }
        }
    }
}

impl Core {
    /// Makes room for a group in the active file, after what that holds already was taken out of it; what the group
    /// brings.
    pub(super) fn share(&mut self, records: &mut [Record]) -> Result<NewBodies, Failure> {
        if records.iter().all(|record| record.shared.is_empty()) {
            self.make_room(group_bytes(records))?;
            return Ok(NewBodies::new());
        }
        self.follow_file();
        let mut new = self.bodies.plan(records);
        if !self.has_room(records) {
            // It goes into another file, in which there is nothing yet.
            self.forget_bodies();
            new = self.bodies.plan(records);
        }
        if records.iter().any(|record| record.frame.is_some()) && !self.may_frame()? {
            for record in records.iter_mut() {
                record.frame = None;
            }
            new.clear();
        }
        self.make_room(group_bytes(records))?;
        // Without its frames the group may have needed another file, which has nothing of what the old one has.
        self.follow_file();
        Ok(new)
    }

    /// Forgets what another file than the active one holds.
    fn follow_file(&mut self) {
        if self.bodies.file != Some(self.wal.data.id) {
            self.forget_bodies();
            self.bodies.file = Some(self.wal.data.id);
        }
    }

    fn has_room(&self, records: &[Record]) -> bool {
        self.wal.position + group_bytes(records) <= self.wal.length
    }

    fn forget_bodies(&mut self) {
        if !self.shared.options.has(SeededBug::ShareAcrossFiles) {
            self.bodies.clear();
        }
    }

    /// Whether the directory may hold frames: before the first one it says so, so that older programs refuse it.
    fn may_frame(&mut self) -> Result<bool, Failure> {
        if self.format >= FORMAT_FRAMED {
            return Ok(true);
        }
        match write_format(&*self.shared.disk, FORMAT_FRAMED) {
            Ok(()) => self.format = FORMAT_FRAMED,
            // Then everything is written whole, which may not fit either.
            Err(error) if is_no_room(&error) => {
                if !std::mem::replace(&mut self.bodies.refused, true) {
                    tracing::warn!(%error, "no room to say that the directory has another format; nothing is shared");
                }
                return Ok(false);
            }
            Err(error) => return Err(Failure::Fatal { error, wrote: false }),
        }
        Ok(true)
    }
}
