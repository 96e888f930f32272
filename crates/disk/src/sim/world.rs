//! Everything a simulated disk is, behind one lock: files, names, faults, space.
//!
//! **Invariant.** An operation that fails changes nothing, except that a failed write may have been done in
//! part, a failed sync leaves any part durable, and the operation that the power cut interrupts is pending.
//!
//! Deliberately absent: permissions, links, times.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, MutexGuard};

use super::crash::Crash;
use super::faults::{Failure, Faults, OpKind, Verdict, power_off};
use super::inode::{Change, Inode};
use super::names::{FileId, Names, Node, Place};
use super::rng::Rng;
use super::trace::Event;
use crate::path;

/// Bytes a disk holds unless told otherwise.
const CAPACITY_DEFAULT: u64 = 1 << 40;

pub(super) struct World {
    inodes: HashMap<FileId, Inode>,
    pub(super) names: Names,
    /// The place of the last change in the order of changes; also the last number given to a node.
    sequence: u64,
    used: u64,
    pub(super) capacity: u64,
    pub(super) cold_percent: u64,
    pub(super) faults: Faults,
    pub(super) trace: Option<Vec<Event>>,
    pub(super) locks: BTreeSet<String>,
    pub(super) sync_holds: usize,
    pub(super) syncs_waiting: usize,
    rng: Rng,
}

/// The moment at which a sync began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    sequence: u64,
    events: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            inodes: HashMap::new(),
            names: Names::default(),
            sequence: 0,
            used: 0,
            capacity: CAPACITY_DEFAULT,
            cold_percent: 0,
            faults: Faults::default(),
            trace: None,
            locks: BTreeSet::new(),
            sync_holds: 0,
            syncs_waiting: 0,
            rng: Rng::new(seed),
        }
    }

    pub(super) fn after_power_cut(&self, crash: &mut Crash, seed: u64) -> World {
        let names = self.names.after_power_cut(crash);
        let mut files: Vec<FileId> = names.linked().into_iter().collect();
        files.sort_unstable();
        let inodes = files.into_iter().map(|file| {
            let bytes = self.inodes[&file].after_power_cut(crash);
            (file, Inode::settled(bytes))
        });
        let inodes = inodes.collect();
        self.reborn(inodes, names, seed)
    }

    pub(super) fn after_kill(&self) -> World {
        let keep = self.names.reachable();
        let inodes = self.inodes.iter().filter(|(file, _)| keep.contains(file));
        let inodes = inodes.map(|(file, inode)| (*file, inode.without_handles())).collect();
        self.reborn(inodes, self.names.clone(), self.sequence)
    }

    fn reborn(&self, inodes: HashMap<FileId, Inode>, names: Names, seed: u64) -> World {
        let used = inodes.values().filter(|inode| inode.linked).map(|inode| inode.cached.used()).sum();
        let (sequence, capacity) = (self.sequence, self.capacity);
        World { inodes, names, sequence, used, capacity, ..World::new(seed) }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(trace) = &mut self.trace {
            trace.push(event());
        }
    }

    pub(super) fn inode(&mut self, file: FileId) -> &mut Inode {
        self.inodes.get_mut(&file).expect("a file lives as long as a name or a handle leads to it")
    }

    /// Counts an operation. `Ok(true)`: do it and then fail, the power goes off meanwhile.
    fn meet(&mut self, kind: OpKind, path: &Path) -> io::Result<bool> {
        match self.faults.meet(kind, &path.to_string_lossy())? {
            Verdict::Go | Verdict::Fail(Failure::ShortRead) => Ok(false),
            Verdict::CutHere => Ok(true),
            Verdict::Fail(failure) => Err(failure.error()),
        }
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<FileId> {
        self.meet(OpKind::Open, path)?;
        let place = self.names.place(&path::parts(path)?)?;
        let file = self.names.file(&place)?;
        self.inode(file).handles += 1;
        Ok(file)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileId> {
        let place = self.names.place(&path::parts(path)?)?;
        let cut = self.meet(OpKind::Create, path)?;
        if self.names.get(&place).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = self.next();
        self.inodes.insert(file, Inode::created());
        self.names.set(file, vec![(place, Some(Node::File(file)))]);
        self.note(|| Event::Create { file, path: path.to_owned() });
        if cut { Err(power_off()) } else { Ok(file) }
    }

    pub(super) fn list(&mut self, dir: &Path) -> io::Result<Vec<String>> {
        self.meet(OpKind::List, dir)?;
        Ok(self.names.list(self.names.dir(&path::parts(dir)?)?))
    }

    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        let cut = self.meet(OpKind::CreateDir, dir)?;
        let parts = path::parts(dir)?;
        let before = self.sequence;
        for depth in 1..=parts.len() {
            let place = self.names.place(&parts[..depth])?;
            match self.names.get(&place) {
                Some(Node::Dir(_)) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let number = self.next();
                    self.names.set(number, vec![(place, Some(Node::Dir(number)))]);
                }
            }
        }
        if self.sequence > before {
            self.note(|| Event::CreateDir { path: dir.to_owned() });
        }
        if cut { Err(power_off()) } else { Ok(()) }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let source = self.names.place(&path::parts(from)?)?;
        let target = self.names.place(&path::parts(to)?)?;
        let cut = self.meet(OpKind::Rename, from)?;
        let file = self.names.file(&source)?;
        if source == target {
            return if cut { Err(power_off()) } else { Ok(()) };
        }
        if let Some(replaced) = self.replaced(&target)? {
            self.unlink(replaced);
        }
        let sequence = self.next();
        self.names.set(sequence, vec![(source, None), (target, Some(Node::File(file)))]);
        self.note(|| Event::Rename { from: from.to_owned(), to: to.to_owned() });
        if cut { Err(power_off()) } else { Ok(()) }
    }

    fn replaced(&self, target: &Place) -> io::Result<Option<FileId>> {
        match self.names.get(target) {
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(file)) => Ok(Some(file)),
            None => Ok(None),
        }
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let place = self.names.place(&path::parts(path)?)?;
        let cut = self.meet(OpKind::Remove, path)?;
        let file = self.names.file(&place)?;
        self.unlink(file);
        let sequence = self.next();
        self.names.set(sequence, vec![(place, None)]);
        self.note(|| Event::Remove { path: path.to_owned() });
        if cut { Err(power_off()) } else { Ok(()) }
    }

    fn unlink(&mut self, file: FileId) {
        let inode = self.inode(file);
        inode.linked = false;
        if inode.handles == 0 {
            self.used -= self.inode(file).cached.used();
        }
    }

    pub(super) fn close(&mut self, file: FileId) {
        let inode = self.inode(file);
        inode.handles -= 1;
        if inode.handles == 0 && !inode.linked {
            let used = inode.cached.used();
            self.used -= used;
            self.forget_unreachable();
        }
    }

    /// Drops files that nothing leads to and no power cut brings back.
    fn forget_unreachable(&mut self) {
        if self.inodes.values().any(|inode| !inode.linked && inode.handles == 0) {
            let keep = self.names.reachable();
            self.inodes.retain(|file, inode| inode.handles > 0 || keep.contains(file));
        }
    }

    /// Notes the moment at which a sync begins: it covers nothing that is written later.
    pub(super) fn sync_begins(&self) -> Begun {
        Begun { sequence: self.sequence, events: self.trace.as_ref().map_or(0, Vec::len) }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path, begun: Begun) -> io::Result<()> {
        let number = self.names.dir(&path::parts(dir)?)?;
        match self.faults.meet(OpKind::SyncDir, &dir.to_string_lossy())? {
            Verdict::Go | Verdict::Fail(Failure::ShortRead) => {}
            Verdict::CutHere => return Err(power_off()),
            Verdict::Fail(failure) => {
                self.names.fail_sync(number, &mut self.rng);
                return Err(failure.error());
            }
        }
        self.names.sync(number, begun.sequence);
        self.note(|| Event::SyncDir { path: dir.to_owned(), covers: begun.events });
        self.forget_unreachable();
        Ok(())
    }

    pub(super) fn sync_data(&mut self, file: FileId, path: &str, begun: Begun) -> io::Result<()> {
        match self.faults.meet(OpKind::SyncData, path)? {
            Verdict::Go | Verdict::Fail(Failure::ShortRead) => {}
            Verdict::CutHere => return Err(power_off()),
            Verdict::Fail(failure) => {
                let mut rng = Rng::new(self.rng.next());
                self.resize(file, |inode| inode.fail_sync(&mut rng));
                return Err(failure.error());
            }
        }
        self.inode(file).sync(begun.sequence);
        self.note(|| Event::SyncData { file, covers: begun.events });
        Ok(())
    }

    pub(super) fn write(&mut self, file: FileId, path: &str, at: u64, bytes: Vec<u8>) -> io::Result<()> {
        let verdict = self.faults.meet(OpKind::Write, path)?;
        let (take, result) = match verdict {
            Verdict::Go | Verdict::Fail(Failure::ShortRead) => {
                let fits = self.fitting(file, at, bytes.len());
                let full = fits < bytes.len();
                (fits, if full { Err(Failure::Enospc.error()) } else { Ok(()) })
            }
            Verdict::CutHere => (bytes.len(), Err(power_off())),
            Verdict::Fail(failure) => {
                let part = self.rng.below(bytes.len() as u64 + 1);
                (
                    usize::try_from(part).unwrap_or(0).min(self.fitting(file, at, bytes.len())),
                    Err(failure.error()),
                )
            }
        };
        if take > 0 {
            let bytes: Arc<[u8]> = if take == bytes.len() { bytes.into() } else { bytes[..take].into() };
            self.note(|| Event::Write { file, position: at, bytes: bytes.clone() });
            self.apply(file, Change::Write { at, bytes });
        }
        result
    }

    /// How many of so many bytes there is room for.
    fn fitting(&mut self, file: FileId, at: u64, count: usize) -> usize {
        let free = self.capacity.saturating_sub(self.used);
        let image = &self.inode(file).cached;
        let (mut fits, mut too_many) = (0, count + 1);
        while fits + 1 < too_many {
            // The whole is tried first: it nearly always fits.
            let probe = if too_many > count { count } else { fits + (too_many - fits) / 2 };
            if image.needs(at..at + probe as u64) <= free {
                fits = probe;
            } else {
                too_many = probe;
            }
        }
        fits
    }

    /// Everything done to a file's bytes but writing.
    pub(super) fn change(
        &mut self,
        kind: OpKind,
        file: FileId,
        path: &str,
        change: Change,
    ) -> io::Result<()> {
        let cut = self.meet(kind, Path::new(path))?;
        if let Change::Allocate(length) = &change {
            let needs = self.inode(file).cached.needs(0..*length);
            if needs > self.capacity.saturating_sub(self.used) {
                return Err(Failure::Enospc.error());
            }
        }
        self.note(|| match &change {
            Change::Write { at, bytes } => Event::Write { file, position: *at, bytes: bytes.clone() },
            Change::SetLen(length) => Event::SetLen { file, length: *length },
            Change::Allocate(length) => Event::Allocate { file, length: *length },
            Change::Punch(range) => Event::Punch { file, range: range.clone() },
        });
        self.apply(file, change);
        if cut { Err(power_off()) } else { Ok(()) }
    }

    fn apply(&mut self, file: FileId, change: Change) {
        let sequence = self.next();
        self.resize(file, |inode| inode.change(sequence, change));
    }

    /// Does something to a file that may change how much space it takes.
    fn resize(&mut self, file: FileId, act: impl FnOnce(&mut Inode)) {
        let inode = self.inode(file);
        let before = inode.cached.used();
        act(inode);
        let after = inode.cached.used();
        self.used = self.used - before + after;
    }

    pub(super) fn read(&mut self, file: FileId, path: &str, into: &mut [u8], at: u64) -> io::Result<usize> {
        let verdict = self.faults.meet(OpKind::Read, path)?;
        let whole = self.inode(file).cached.read(into, at);
        match verdict {
            Verdict::Fail(Failure::ShortRead) => {
                let part = self.rng.below((whole as u64).max(1));
                Ok(usize::try_from(part).unwrap_or(0))
            }
            Verdict::Fail(failure) => Err(failure.error()),
            Verdict::Go | Verdict::CutHere => Ok(whole),
        }
    }

    pub(super) fn is_cold(&mut self) -> bool {
        self.cold_percent > 0 && self.rng.below(100) < self.cold_percent
    }

    pub(super) fn length(&mut self, file: FileId) -> io::Result<u64> {
        if self.faults.stopped { Err(power_off()) } else { Ok(self.inode(file).cached.len()) }
    }

    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        if self.faults.stopped { Err(power_off()) } else { Ok(self.capacity.saturating_sub(self.used)) }
    }

    pub(super) fn take_lock(&mut self, path: &Path, name: &str) -> io::Result<()> {
        if self.locks.contains(name) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.create(path) {
            Ok(file) => self.close(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.locks.insert(name.to_owned());
        Ok(())
    }
}

/// Waiting for a test to let syncs go on.
pub(super) trait WaitForSyncs {
    fn wait_for_syncs(&mut self, released: &Condvar);
}

impl WaitForSyncs for MutexGuard<'_, World> {
    fn wait_for_syncs(&mut self, released: &Condvar) {
        while self.sync_holds > 0 {
            self.syncs_waiting += 1;
            released.wait(self);
            self.syncs_waiting -= 1;
        }
    }
}
