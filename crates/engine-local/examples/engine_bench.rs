//! Append throughput of the engine against a bare loop of write and fdatasync, on a real directory.
//!
//! ```text
//! cargo run --release -p ferrymq-engine-local --example engine_bench [directory] [megabytes per row]
//! ```
//! Each row: so many writers, each with one batch in flight, spread over so many logs.
//!
//! Deliberately absent: statistics over runs; run it twice.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a program for humans"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ferrymq_disk::{Disk, RealDisk};
use ferrymq_engine_local::{Counters, LocalStore, Options};
use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use ferrymq_storage::{Action, Append, Batch, LogStore, Op, Space};
use ferrymq_types::{CommitId, Durability, LogId, Offset, OwnerId};

/// CPU seconds of this process, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

struct Row {
    logs: u64,
    writers: u64,
    batch_bytes: usize,
    batches: u64,
}

async fn engine(directory: &Path, row: &Row, clock: &Clock) -> (f64, f64, Arc<Counters>) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory).unwrap());
    let store = LocalStore::open(disk, Options::default(), clock.clone(), &Rng::from_os()).unwrap();
    let store = Arc::new(store);
    let owner = OwnerId(1);
    let claims = store.claim((0..row.logs).map(LogId).collect(), owner).await.unwrap();
    let epoch = claims[0].epoch;
    let left = Arc::new(AtomicU64::new(row.batches));
    let tasks = Tasks::new();
    let (cpu, began) = (cpu_seconds(), clock.uptime());
    for writer in 0..row.writers {
        let (store, left) = (store.clone(), left.clone());
        // Each writer owns its logs and goes round among them.
        let logs: Vec<u64> = (writer..row.logs).step_by(usize::try_from(row.writers).unwrap()).collect();
        let payload = Bytes::from(vec![7; row.batch_bytes]);
        tasks.spawn(TaskKind::Background, "bench", async move {
            let mut next = vec![0_u64; logs.len()];
            let mut turn = 0;
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let at = turn % logs.len();
                turn += 1;
                let batch = Batch::new(Offset(next[at]), 1, 0, payload.clone());
                let append = Append {
                    expect_next: Offset(next[at]),
                    commit_id: CommitId { writer: 1, sequence: next[at] },
                    class: Durability::Sync,
                    space: Space::Normal,
                    batches: vec![batch],
                };
                next[at] += 1;
                let op = Op { log: LogId(logs[at]), epoch, owner, action: Action::Append(append) };
                store.commit(vec![vec![op]]).await.remove(0).unwrap();
            }
        });
    }
    while tasks.running() > 0 {
        tokio::task::yield_now().await;
        clock.sleep(std::time::Duration::from_millis(1)).await;
    }
    let seconds = (clock.uptime() - began).as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    store.stop().await.unwrap();
    (seconds, cpu, store.counters())
}

/// The floor: writes of the same size, one after the other, each followed by fdatasync.
fn bare(directory: &Path, chunk_bytes: usize, chunks: u64, clock: &Clock) -> (f64, f64) {
    let disk = RealDisk::open(directory).unwrap();
    let file = disk.create(Path::new("bare")).unwrap();
    file.allocate(chunk_bytes as u64 * chunks).unwrap();
    file.sync_data().unwrap();
    let chunk = vec![7; chunk_bytes];
    let (cpu, began) = (cpu_seconds(), clock.uptime());
    for at in 0..chunks {
        file.write_at(&[std::io::IoSlice::new(&chunk)], at * chunk_bytes as u64).unwrap();
        file.sync_data().unwrap();
    }
    ((clock.uptime() - began).as_secs_f64(), cpu_seconds() - cpu)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("engine-bench");
    let megabytes: u64 = arguments.next().map_or(256, |text| text.parse().unwrap());
    let clock = Clock::system();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "{:>6} {:>7} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>8}",
        "logs",
        "writers",
        "batch B",
        "batch/s",
        "MB/s",
        "group KiB",
        "bare MB/s",
        "ratio",
        "cpu s/GB",
        "written"
    );
    for (logs, writers) in [(1, 1), (16, 16), (1000, 64), (1000, 256)] {
        for batch_bytes in [1 << 10, 16 << 10, 1 << 20] {
            let _ = std::fs::remove_dir_all(&root);
            let batches =
                ((megabytes << 20) / batch_bytes as u64).min(if writers == 1 { 20_000 } else { 200_000 });
            let row = Row { logs, writers, batch_bytes, batches };
            let (seconds, cpu, counters) = runtime.block_on(engine(&root, &row, &clock));
            let bytes = (batches * batch_bytes as u64) as f64;
            let written = Counters::get(&counters.bytes_written) as f64;
            let groups = Counters::get(&counters.groups).max(1);
            let group_bytes = (bytes / groups as f64) as usize;
            let chunk = group_bytes.next_multiple_of(4096);
            let chunks = ((bytes / chunk as f64) as u64).clamp(1, 300);
            let _ = std::fs::remove_dir_all(&root);
            let (bare_seconds, _) = bare(&root, chunk, chunks, &clock);
            let bare_rate = chunk as f64 * chunks as f64 / bare_seconds;
            let rate = bytes / seconds;
            // The bare loop pays for padding that the engine also writes: compare payload with payload.
            let bare_payload = bare_rate * group_bytes as f64 / chunk as f64;
            println!(
                "{logs:>6} {writers:>7} {batch_bytes:>9} {:>9.0} {:>9.1} {:>9} {:>8.1} {:>8.2} {:>7.2} {:>8.2}",
                batches as f64 / seconds,
                rate / 1e6,
                group_bytes >> 10,
                bare_payload / 1e6,
                rate / bare_payload,
                cpu / (bytes / 1e9),
                written / bytes,
            );
        }
    }
    let _ = std::fs::remove_dir_all(&root);
}
