//! The storage contract, on a simulated and on a real disk.
//!
//! Deliberately absent: crashes; see `crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::Arc;

use ferrymq_disk::{Disk, RealDisk, SimDisk};
use ferrymq_engine_local::{LocalStore, Options};
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::Pending;
use ferrymq_storage::conformance::{self, Opened};

/// Opens what is on `disk`; opening again follows a clean stop.
fn opened(disk: Arc<dyn Disk>, options: Options) -> Opened {
    let store = LocalStore::open(disk.clone(), options.clone(), Clock::system(), &Rng::seeded(1)).unwrap();
    let store = Arc::new(store);
    let stopping = store.clone();
    let reopen = move || -> Pending<Opened> {
        Box::pin(async move {
            stopping.stop().await.unwrap();
            drop(stopping);
            opened(disk, options)
        })
    };
    Opened { store, reopen: Some(Box::new(reopen)) }
}

fn on_tokio(future: Pending<()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

#[test]
fn tiny_files_on_a_simulated_disk() {
    let factory =
        || -> Pending<Opened> { Box::pin(async { opened(Arc::new(SimDisk::new(1)), Options::tiny()) }) };
    conformance::run_all(&factory, &on_tokio);
}

#[test]
fn cold_reads_on_a_simulated_disk() {
    let factory = || -> Pending<Opened> {
        Box::pin(async {
            let disk = SimDisk::new(2);
            disk.set_cold_percent(50);
            opened(Arc::new(disk), Options { index_cache_bytes: 0, ..Options::tiny() })
        })
    };
    conformance::run_all(&factory, &on_tokio);
}

#[test]
fn defaults_on_a_real_disk() {
    let root = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU64::new(0);
    let path = root.path().to_owned();
    let factory = move || -> Pending<Opened> {
        let store = path.join(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string());
        Box::pin(async move {
            let disk = RealDisk::open(&store).unwrap();
            opened(Arc::new(disk), Options { wal_file_bytes: 1 << 20, ..Options::default() })
        })
    };
    conformance::run_all(&factory, &on_tokio);
}

#[test]
fn random_lives_on_a_simulated_disk() {
    let factory =
        || -> Pending<Opened> { Box::pin(async { opened(Arc::new(SimDisk::new(3)), Options::tiny()) }) };
    conformance::random::run(&factory, &on_tokio, 2_000);
}
