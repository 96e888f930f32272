//! Keeps copies of what recovery cuts off, for a human to look at.
//!
//! **Invariants.** Bounded in bytes: what does not fit is cut without a copy. Never read by the engine.
//!
//! Deliberately absent: removal of old copies; an operator does that.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::DataFile;
use crate::shared::Shared;

const DIRECTORY: &str = "quarantine";
const CHUNK_BYTES: usize = 1 << 20;

/// The quarantine directory and what still fits into it.
pub(super) struct Quarantine<'a> {
    shared: &'a Arc<Shared>,
    room_bytes: u64,
    used: bool,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>) -> io::Result<Quarantine<'a>> {
        let mut held = 0;
        for name in shared.disk.list(Path::new(DIRECTORY))? {
            held += shared.disk.open(&Path::new(DIRECTORY).join(name))?.len()?;
        }
        let room_bytes = shared.options.quarantine_bytes_max.saturating_sub(held);
        Ok(Quarantine { shared, room_bytes, used: false })
    }

    /// Copies a range of a file, without zeros at its end; the bytes that were not zero.
    pub(super) fn copy(&mut self, data: &DataFile, from: u64, to: u64) -> io::Result<u64> {
        let used_to = last_used(data, from, to)?;
        let length = used_to.saturating_sub(from);
        if length == 0 || length > self.room_bytes {
            return Ok(length);
        }
        let path = PathBuf::from(format!("{DIRECTORY}/{:016x}-{from:08x}", data.id.0));
        let disk = &self.shared.disk;
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let copy = disk.create(&path)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = from;
        while at < used_to {
            let want = usize::try_from(used_to - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let read = data.file.read_at(&mut buffer[..want], at)?;
            if read == 0 {
                break;
            }
            copy.write_at(&[IoSlice::new(&buffer[..read])], at - from)?;
            at += read as u64;
        }
        copy.sync_data()?;
        self.room_bytes -= length;
        self.used = true;
        tracing::warn!(path = %path.display(), length, "cut off an unacknowledged tail and kept a copy");
        Ok(length)
    }

    /// Makes the copies' names durable.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.used { self.shared.disk.sync_dir(Path::new(DIRECTORY)) } else { Ok(()) }
    }
}

/// Behind the last byte in a range that is not zero.
fn last_used(data: &DataFile, from: u64, to: u64) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut at, mut used_to) = (from, from);
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let read = data.file.read_at(&mut buffer[..want], at)?;
        if read == 0 {
            break;
        }
        if let Some(last) = buffer[..read].iter().rposition(|byte| *byte != 0) {
            used_to = at + last as u64 + 1;
        }
        at += read as u64;
    }
    Ok(used_to)
}
