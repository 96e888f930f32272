//! A20: every acknowledgement comes after a sync that covers its bytes and the name of their file.
//!
//! The test notes each acknowledgement in the trace of a [`SimDisk`] with [`ack`], at the
//! moment it sees it, with bytes that stand in the acknowledged record and nowhere else. Nothing needs to be
//! known of the engine's files.
//!
//! **Invariant.** Files and directories that were there before the trace began count as durably named.
//!
//! Deliberately absent: what recovery makes of the bytes; see `crash`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ferrymq_disk::SimDisk;
use ferrymq_disk::sim::Event;

use crate::report::{Report, Rule};

const ACK: &[u8] = b"ack ";

/// Notes that the record with these bytes was acknowledged.
pub fn ack(disk: &SimDisk, bytes: &[u8]) {
    disk.mark(&[ACK, bytes].concat());
}

/// Checks every acknowledgement noted in a trace.
#[must_use]
pub fn check(trace: &[Event]) -> Report {
    let mut report = Report::default();
    let mut acks = 0;
    for (at, event) in trace.iter().enumerate() {
        if let Event::Mark(note) = event
            && let Some(bytes) = note.strip_prefix(ACK)
        {
            acks += 1;
            if let Err(why) = is_durable(&trace[..at], bytes) {
                let what = format!("event {at}: {:?}: {why}", String::from_utf8_lossy(bytes));
                report.add(Rule::AckedBeforeSync, what);
            }
        }
    }
    if acks == 0 {
        report.add(Rule::TooFew, "no acknowledgement in the trace");
    }
    report
}

/// Whether some write of these bytes was durable, with its file's name, when `before` was all that had happened.
fn is_durable(before: &[Event], bytes: &[u8]) -> Result<(), &'static str> {
    let mut why = "its bytes were not written";
    for (at, event) in before.iter().enumerate().rev() {
        let Event::Write { file, bytes: written, .. } = event else { continue };
        if !contains(written, bytes) {
            continue;
        }
        let synced = before[at..]
            .iter()
            .any(|event| matches!(event, Event::SyncData { file: synced, covers } if synced == file && *covers > at));
        match (synced, is_named(before, *file)) {
            (true, true) => return Ok(()),
            (true, false) => why = "its file's name was not synced",
            (false, _) => why = "its bytes were not synced",
        }
    }
    Err(why)
}

/// Whether a file's present name is durable, and those of the directories above it.
fn is_named(before: &[Event], file: u64) -> bool {
    let mut names: HashMap<&Path, (u64, usize)> = HashMap::new();
    let mut found: Option<(PathBuf, usize)> = None;
    for (at, event) in before.iter().enumerate() {
        match event {
            Event::Create { file, path } => {
                names.insert(path, (*file, at));
            }
            Event::Rename { from, to } => {
                if let Some((file, _)) = names.remove(&**from) {
                    names.insert(to, (file, at));
                }
            }
            Event::Remove { path } => {
                names.remove(&**path);
            }
            _ => {}
        }
    }
    for (path, (named, at)) in names {
        if named == file {
            found = Some((path.to_owned(), at));
        }
    }
    match found {
        Some((path, at)) => is_entry_synced(before, &path, at) && are_dirs_synced(before, &path),
        // Not created in this trace, or removed since; then its bytes are not what keeps the promise.
        None => !before
            .iter()
            .any(|event| matches!(event, Event::Create { file: created, .. } if *created == file)),
    }
}

fn is_entry_synced(before: &[Event], path: &Path, since: usize) -> bool {
    let parent = path.parent().unwrap_or(Path::new(""));
    before[since..]
        .iter()
        .any(|event| matches!(event, Event::SyncDir { path, covers } if path == parent && *covers > since))
}

fn are_dirs_synced(before: &[Event], path: &Path) -> bool {
    path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).all(|dir| {
        let created = before
            .iter()
            .position(|event| matches!(event, Event::CreateDir { path } if path.starts_with(dir)));
        created.is_none_or(|at| is_entry_synced(before, dir, at))
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use ferrymq_disk::{Disk as _, File};

    use super::*;

    fn traced() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.start_trace();
        disk
    }

    fn write(file: &Arc<dyn File>, bytes: &[u8]) {
        file.write_at(&[IoSlice::new(b"head"), IoSlice::new(bytes)], 0).unwrap();
    }

    fn verdict(disk: &SimDisk) -> Vec<Rule> {
        check(&disk.trace()).rules()
    }

    #[test]
    fn an_ack_behind_both_syncs_is_fine() {
        let disk = traced();
        disk.create_dir(Path::new("wal/new")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk.sync_dir(Path::new("wal")).unwrap();
        let file = disk.create(Path::new("wal/new/1.tmp")).unwrap();
        disk.rename(Path::new("wal/new/1.tmp"), Path::new("wal/new/1")).unwrap();
        write(&file, b"value");
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("wal/new")).unwrap();
        ack(&disk, b"value");
        assert!(check(&disk.trace()).is_clean(), "{}", check(&disk.trace()));
    }

    #[test]
    fn an_ack_without_its_bytes_synced_is_caught() {
        for sync_other in [false, true] {
            let disk = traced();
            let (file, other) = (disk.create(Path::new("1")).unwrap(), disk.create(Path::new("2")).unwrap());
            file.sync_data().unwrap();
            write(&file, b"value");
            if sync_other {
                other.sync_data().unwrap();
            }
            disk.sync_dir(Path::new("")).unwrap();
            ack(&disk, b"value");
            // Too late.
            file.sync_data().unwrap();
            assert_eq!(verdict(&disk), [Rule::AckedBeforeSync]);
        }
    }

    #[test]
    fn a_sync_that_began_before_the_write_does_not_count() {
        let disk = traced();
        let file = disk.create(Path::new("1")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        let hold = disk.hold_syncs();
        std::thread::scope(|scope| {
            scope.spawn(|| file.sync_data().unwrap());
            while disk.syncs_held() == 0 {
                std::thread::yield_now();
            }
            write(&file, b"value");
            drop(hold);
        });
        ack(&disk, b"value");
        assert_eq!(verdict(&disk), [Rule::AckedBeforeSync]);
    }

    #[test]
    fn an_ack_without_its_files_name_synced_is_caught() {
        for early in [false, true] {
            let disk = traced();
            disk.create_dir(Path::new("wal")).unwrap();
            disk.sync_dir(Path::new("")).unwrap();
            if early {
                disk.sync_dir(Path::new("wal")).unwrap();
            }
            let file = disk.create(Path::new("wal/1")).unwrap();
            write(&file, b"value");
            file.sync_data().unwrap();
            ack(&disk, b"value");
            assert_eq!(verdict(&disk), [Rule::AckedBeforeSync]);
        }
    }

    #[test]
    fn an_ack_in_a_directory_without_a_durable_name_is_caught() {
        let disk = traced();
        disk.create_dir(Path::new("wal")).unwrap();
        let file = disk.create(Path::new("wal/1")).unwrap();
        write(&file, b"value");
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("wal")).unwrap();
        ack(&disk, b"value");
        assert_eq!(verdict(&disk), [Rule::AckedBeforeSync]);
    }

    #[test]
    fn a_rename_needs_a_sync_of_its_own() {
        let disk = traced();
        let file = disk.create(Path::new("tmp")).unwrap();
        write(&file, b"value");
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk.rename(Path::new("tmp"), Path::new("final")).unwrap();
        ack(&disk, b"value");
        assert_eq!(verdict(&disk), [Rule::AckedBeforeSync]);
    }

    #[test]
    fn what_was_never_written_or_never_acked_proves_nothing() {
        let disk = traced();
        assert_eq!(verdict(&disk), [Rule::TooFew]);
        ack(&disk, b"value");
        assert_eq!(verdict(&disk), [Rule::AckedBeforeSync]);
    }

    #[test]
    fn files_from_before_the_trace_have_their_names() {
        let disk = SimDisk::new(1);
        let file = disk.create(Path::new("1")).unwrap();
        disk.start_trace();
        write(&file, b"value");
        file.sync_data().unwrap();
        ack(&disk, b"value");
        assert!(check(&disk.trace()).is_clean());
    }

    #[test]
    fn a_copy_that_is_durable_keeps_the_promise() {
        let disk = traced();
        let (first, second) = (disk.create(Path::new("1")).unwrap(), disk.create(Path::new("2")).unwrap());
        write(&first, b"value");
        first.sync_data().unwrap();
        write(&second, b"value");
        disk.sync_dir(Path::new("")).unwrap();
        ack(&disk, b"value");
        assert!(check(&disk.trace()).is_clean());
    }

    #[test]
    fn bytes_are_found_anywhere() {
        assert!(contains(b"aaab", b"aab") && contains(b"ab", b"ab") && contains(b"x", b""));
        assert!(!contains(b"aab", b"aaab") && !contains(b"", b"a"));
    }
}
