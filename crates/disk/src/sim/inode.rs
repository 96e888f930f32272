//! A file's bytes as the page cache has them, as the device has them, and the changes in between.
//!
//! **Invariants.** What is durable changes only by a sync, good or failed. After a power cut every 512-byte
//! sector holds what it held at some moment between the last sync and the cut, independently of all others;
//! the length and what truncations and holes did to the bytes are those after some prefix of the changes.
//!
//! Deliberately absent: names. A file whose name is not durable is gone after a power cut, see
//! [`names`](super::names).

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::crash::{Crash, Fate};
use super::image::Image;
use super::rng::Rng;

/// The unit in which a device writes all or nothing.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Something done to a file's bytes.
#[derive(Clone)]
pub(super) enum Change {
    Write { at: u64, bytes: Arc<[u8]> },
    SetLen(u64),
    Allocate(u64),
    Punch(Range<u64>),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { at, bytes } => image.write(bytes, *at),
            Change::SetLen(length) => image.set_len(*length),
            Change::Allocate(length) => image.allocate(*length),
            Change::Punch(range) => image.punch(range.clone()),
        }
    }

    fn sectors(&self) -> Range<u64> {
        match self {
            Change::Write { at, bytes } if !bytes.is_empty() => {
                at / SECTOR_BYTES..(at + bytes.len() as u64).div_ceil(SECTOR_BYTES)
            }
            _ => 0..0,
        }
    }
}

/// A file without its name.
#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What reads see.
    pub(super) cached: Image,
    /// What a power cut leaves at least.
    pub(super) synced: Image,
    /// What was done since, each with its place in the order of everything done to the disk.
    pending: Vec<(u64, Change)>,
    /// A failed sync left the page cache believing something else than the device holds.
    diverged: bool,
    /// Whether a name leads to it.
    pub(super) linked: bool,
    /// How many handles are open.
    pub(super) handles: usize,
}

impl Inode {
    /// An empty file with a name and a handle.
    pub(super) fn created() -> Inode {
        Inode { linked: true, handles: 1, ..Inode::default() }
    }

    /// The same file with all handles gone, as after the end of the process.
    pub(super) fn without_handles(&self) -> Inode {
        Inode { handles: 0, ..self.clone() }
    }

    /// A file with these bytes, all durable, under a durable name.
    pub(super) fn settled(bytes: Image) -> Inode {
        Inode { cached: bytes.clone(), synced: bytes, linked: true, ..Inode::default() }
    }

    /// Changes bytes that are there, in memory and on the device alike.
    pub(super) fn damage(&mut self, range: Range<u64>, how: impl FnOnce(&mut [u8])) -> io::Result<()> {
        if range.end > self.cached.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        self.cached.read(&mut bytes, range.start);
        how(&mut bytes);
        self.cached.write(&bytes, range.start);
        let synced =
            usize::try_from(self.synced.len().saturating_sub(range.start)).map_or(size, |n| n.min(size));
        if synced > 0 {
            self.synced.write(&bytes[..synced], range.start);
        }
        Ok(())
    }

    /// Does something to the bytes, for readers at once, for the device some day.
    pub(super) fn change(&mut self, sequence: u64, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push((sequence, change));
    }

    /// Makes durable what was done up to `sequence`.
    pub(super) fn sync(&mut self, sequence: u64) {
        let covered = self.pending.partition_point(|(at, _)| *at <= sequence);
        if covered == self.pending.len() && !self.diverged {
            self.synced = self.cached.clone();
            self.pending.clear();
            return;
        }
        for (_, change) in self.pending.drain(..covered) {
            change.apply(&mut self.synced);
        }
    }

    /// A sync that failed: the changes count as written, and are or are not. The page cache keeps the new
    /// bytes (ext4, XFS) or reads the device's anew (Btrfs); Rebello et al., ATC'20.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        self.synced = self.after_power_cut(&mut Crash::random(rng.next(), u64::MAX));
        self.pending.clear();
        if rng.coin() {
            self.cached = self.synced.clone();
            self.diverged = false;
        } else {
            self.diverged = true;
        }
    }

    /// The bytes that one power cut left.
    pub(super) fn after_power_cut(&self, crash: &mut Crash) -> Image {
        if self.pending.is_empty() {
            return self.synced.clone();
        }
        let fates: Vec<Fate> = self.pending.iter().map(|(sequence, _)| crash.fate(*sequence)).collect();
        let settled = crash.settled(&fates);
        let last_kept = self.last_kept(&fates, crash);

        let mut image = self.synced.clone();
        let mut length = image.len();
        for (index, (_, change)) in self.pending.iter().enumerate() {
            let durable = index < settled;
            match change {
                Change::Write { at, bytes } => {
                    for sector in change.sectors() {
                        if last_kept.get(&sector).is_some_and(|last| index <= *last) {
                            poke_sector(&mut image, sector, *at, bytes);
                        }
                    }
                    if durable {
                        length = length.max(at + bytes.len() as u64);
                    }
                }
                Change::SetLen(new) if durable => {
                    length = *new;
                    image.set_len(length);
                }
                Change::Allocate(new) if durable => {
                    image.set_len(length);
                    image.allocate(*new);
                    length = image.len();
                }
                Change::Punch(range) if durable => {
                    image.set_len(length);
                    image.punch(range.clone());
                }
                Change::SetLen(_) | Change::Allocate(_) | Change::Punch(_) => {}
            }
        }
        image.set_len(length);
        image
    }

    /// Per sector the last write that reached the device. Earlier writes to the same sector lie in the same
    /// page, so they reached it too.
    fn last_kept(&self, fates: &[Fate], crash: &mut Crash) -> HashMap<u64, usize> {
        let mut last_kept = HashMap::new();
        for (index, ((_, change), fate)) in self.pending.iter().zip(fates).enumerate() {
            let sectors = change.sectors();
            match fate {
                Fate::Dropped => {}
                Fate::Kept => last_kept.extend(sectors.map(|sector| (sector, index))),
                Fate::Torn => {
                    let survives = crash.tear(sectors.end - sectors.start);
                    let kept = sectors.enumerate().filter(|(place, _)| survives[*place]);
                    last_kept.extend(kept.map(|(_, sector)| (sector, index)));
                }
            }
        }
        last_kept
    }
}

/// Writes the part of `bytes`, which lie at `at`, that falls into one sector.
fn poke_sector(image: &mut Image, sector: u64, at: u64, bytes: &[u8]) {
    let start = at.max(sector * SECTOR_BYTES);
    let end = (at + bytes.len() as u64).min((sector + 1) * SECTOR_BYTES);
    let from = usize::try_from(start - at).expect("a write fits in memory");
    let to = usize::try_from(end - at).expect("a write fits in memory");
    image.poke(&bytes[from..to], start);
}
