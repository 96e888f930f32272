//! Replay of the WAL: which groups count, which are damage, where the torn tail begins.
//!
//! **Damage.** `proven` is the highest group number that the checkpoint, the clean-stop marker or any group
//! found says was synced. A missing or broken group at or below it was acknowledged: it is never cut, what
//! verifies is served, the rest is reported. Above it nothing was acknowledged after a sync: everything from the
//! first broken group on is copied to `quarantine/` and cut.
//!
//! **Invariants.** Replaying twice gives the same. Offsets that a lost group may have given out are skipped.
//!
//! Deliberately absent: writing anything but the cut and the indexes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ferrymq_types::IdSet;
use parking_lot::RwLock;

use super::quarantine::Quarantine;
use crate::checkpoint::Head;
use crate::core::maintain::seal_file;
use crate::files::DataFile;
use crate::format::{BLOCK_BYTES, FileKind, Kind};
use crate::index::Entry;
use crate::log::LogState;
use crate::options::SeededBug;
use crate::scan::{Scan, ScannedGroup, scan};
use crate::shared::{Log, Shared};
use crate::stage::Tombstones;

/// Offsets skipped in every log when groups were lost whose logs are not known.
const SKIP_OFFSETS: u64 = 1 << 20;

/// See the module.
pub(super) struct Replay<'a> {
    shared: &'a Arc<Shared>,
    reflected_seq: u64,
    replay_from: u64,
    proven: u64,
    /// Groups were lost: any log may have lost records.
    lost: bool,
    /// The last group that counts.
    pub last_seq: u64,
    /// Whether there was anything to replay.
    pub replayed: bool,
}

/// What to keep of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keep {
    /// Groups before this position count.
    until: u64,
    /// Acknowledged data may lie behind: do not cut.
    damaged: bool,
}

impl<'a> Replay<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, head: &Head, clean_seq: Option<u64>) -> Replay<'a> {
        Replay {
            shared,
            reflected_seq: head.seq,
            replay_from: head.replay_from,
            proven: head.seq.max(clean_seq.unwrap_or(0)),
            lost: false,
            last_seq: head.seq,
            replayed: false,
        }
    }

    pub(super) fn run(&mut self, deleted: &mut Tombstones) -> io::Result<()> {
        let mut files: Vec<Arc<DataFile>> = {
            let files = self.shared.files.read();
            let replayed =
                |data: &&Arc<DataFile>| data.kind == FileKind::Wal && data.id.0 >= self.replay_from;
            files.values().filter(replayed).cloned().collect()
        };
        files.sort_by_key(|data| data.id);
        self.replayed = !files.is_empty();
        let mut scans = Vec::with_capacity(files.len());
        for data in &files {
            scans.push(scan(&data.file, self.shared.identity(data.id))?);
        }
        let groups = scans.iter().flat_map(|scan| &scan.groups);
        self.proven = self.proven.max(groups.map(|group| group.head.durable_seq).max().unwrap_or(0));
        if self.shared.options.has(SeededBug::TruncateBelowDurable) {
            self.proven = 0;
        }
        let keeps = self.judge(&scans);
        // Each group is dropped once it is applied: what becomes of it can have its room.
        for (data, (scan, keep)) in files.iter().zip(scans.into_iter().zip(&keeps)) {
            let counts = |group: &ScannedGroup| u64::from(group.head.position) < keep.until;
            for group in scan.groups.into_iter().filter(counts) {
                self.apply(data, &group, deleted);
            }
        }
        self.skip_lost_offsets();
        self.cut(&files, &keeps)?;
        for (data, keep) in files.iter().zip(&keeps) {
            let logs: IdSet<u64> = self.shared.logs.read().keys().copied().collect();
            seal_file(self.shared, data, &logs, keep.until);
        }
        Ok(())
    }

    /// Decides for each file up to where its groups count.
    fn judge(&mut self, scans: &[Scan]) -> Vec<Keep> {
        let mut keeps: Vec<Keep> = Vec::with_capacity(scans.len());
        let mut torn = false;
        for scan in scans {
            let mut keep = Keep { until: BLOCK_BYTES, damaged: false };
            for group in &scan.groups {
                let seq = group.head.seq;
                if torn || seq <= self.reflected_seq {
                    keep.until = if torn { keep.until } else { end_of(group) };
                    continue;
                }
                let lost = seq - 1 - self.last_seq.min(seq - 1);
                if lost > 0 && self.last_seq < self.proven {
                    self.report_lost(self.last_seq + 1, (seq - 1).min(self.proven));
                    // The lost bytes lie before this group in this file, or at the end of the one before.
                    keep.until = u64::from(group.head.position);
                    self.last_seq = (seq - 1).min(self.proven);
                    if let Some(before) = keeps.last_mut() {
                        before.damaged = true;
                    }
                }
                torn = (lost > 0 && seq - 1 > self.proven) || (!group.whole && seq > self.proven);
                if torn {
                    continue;
                }
                // What lies elsewhere was written before: its damage tears nothing here.
                if group.records.iter().any(|record| !record.intact) {
                    let what = format!("group {seq}: records do not verify");
                    self.shared.report_damage(what);
                }
                self.last_seq = seq;
                keep.until = end_of(group);
            }
            keeps.push(keep);
        }
        if self.last_seq < self.proven {
            self.report_lost(self.last_seq + 1, self.proven);
            if let Some(last) = keeps.last_mut() {
                last.damaged = true;
            }
            self.last_seq = self.proven;
        }
        keeps
    }

    fn report_lost(&mut self, first: u64, last: u64) {
        self.shared.report_damage(format!("groups {first}..={last} are lost"));
        self.lost = true;
    }

    fn apply(&mut self, data: &DataFile, group: &ScannedGroup, deleted: &mut Tombstones) {
        let reflected = group.head.seq <= self.reflected_seq;
        for record in &group.records {
            let header = &record.header;
            let log = self.shared.logs.read().get(&header.log).cloned();
            let log = match log {
                Some(log) => log,
                None if reflected || deleted.contains(header.log) => continue,
                None => self.create(header.log),
            };
            let mut state = log.state.write();
            if reflected {
                // The checkpoint has the segments; only the entries they point at are missing.
                if header.is_batch() {
                    state.put_dense(data.id, Entry::of(header));
                }
                continue;
            }
            if header.is_batch() {
                data.put(u64::from(header.payload_bytes));
                self.mark_bad(&mut state, header.base);
            } else if !record.intact {
                continue;
            }
            state.apply(header, data.id, &record.payload, &**self.shared);
            if header.kind == Kind::Delete {
                drop(state);
                deleted.insert(header.log);
                self.shared.logs.write().remove(&header.log);
            }
        }
    }

    fn create(&self, id: u64) -> Arc<Log> {
        let log = Arc::new(Log { id, state: RwLock::new(LogState::default()) });
        self.shared.logs.write().insert(id, log.clone());
        log
    }

    /// A hole in the offsets may be what was lost, when anything was lost.
    fn mark_bad(&self, state: &mut LogState, base: u64) {
        if self.lost && base > state.next {
            let hole = state.next..base;
            state.bad.push(hole);
        }
    }

    fn skip_lost_offsets(&self) {
        if !self.lost {
            return;
        }
        for log in self.shared.logs.read().values() {
            log.state.write().next += SKIP_OFFSETS;
        }
    }

    /// Cuts what does not count, last file first, and makes all that counts durable.
    fn cut(&self, files: &[Arc<DataFile>], keeps: &[Keep]) -> io::Result<()> {
        let mut quarantine = Quarantine::new(self.shared)?;
        for (data, keep) in files.iter().zip(keeps).rev() {
            let length = data.file.len()?;
            if length > keep.until && !keep.damaged {
                let cut = quarantine.copy(data, keep.until, length)?;
                self.shared.health.lock().tail_bytes_cut += cut;
                data.file.set_len(keep.until)?;
            }
            // After a kill the bytes may be in memory only; they are about to count as durable.
            data.file.sync_data()?;
        }
        if !self.shared.options.has(SeededBug::SkipDirSync) {
            self.shared.disk.sync_dir(Path::new("wal"))?;
        }
        quarantine.finish()?;
        Ok(())
    }
}

fn end_of(group: &ScannedGroup) -> u64 {
    u64::from(group.head.position) + group.head.total_bytes()
}
