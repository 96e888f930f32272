//! What a broker wants of the operating system: limits raised, memory in small pages, how much room a disk has.

use std::path::PathBuf;

use ferrymq_kafka_server::context::{Space, Volume};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer open files than this are said to be too few.
const OPEN_FILES_WANTED: u64 = 16_384;

/// Raises the limit of open files to what the system allows, and says so if that is little.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("the limit of open files could not be raised");
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if current < OPEN_FILES_WANTED {
        tracing::warn!(
            current,
            wanted = OPEN_FILES_WANTED,
            "few open files are allowed: raise the limit with ulimit -n or LimitNOFILE, or clients may be refused"
        );
    }
}

/// Takes memory from the system in pages of 4 KiB, never of 2 MiB.
///
/// The allocator keeps blocks of each size, of each thread, in regions of their own and asks for huge pages for all of
/// them: a region of which 100 KiB are in use then takes 2 MiB. A start with 10,000 partitions uses 12 MiB, which lay in
/// 74 MiB of huge pages.
pub(crate) fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        // Only memory: everything else works as well.
        tracing::debug!(%error, "huge pages could not be switched off");
    }
}

/// Tells how much room is left on the volume of `data_dir`.
pub(crate) fn volume(data_dir: PathBuf) -> impl Volume {
    move || {
        let stat = rustix::fs::statvfs(&data_dir).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Some(Space { total_bytes: bytes(stat.f_blocks), usable_bytes: bytes(stat.f_bavail) })
    }
}
