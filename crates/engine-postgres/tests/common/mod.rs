//! A PostgreSQL that a test starts for itself with `scripts/postgres`, and stores on it.
//!
//! **Invariants.** The server lives in a directory of its own and ends with the test's process, however that ends: the
//! script stops it when its input is closed. Without PostgreSQL a test says loudly that it was skipped, and fails
//! where `CI` is set.
//!
//! Deliberately absent: a server that is shared with anybody.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod proxy;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ferrymq_engine_postgres::{Options, PostgresStore, parse_url};
use ferrymq_runtime::Clock;
use ferrymq_storage::Pending;

/// A server.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) directory: tempfile::TempDir,
    settings: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts one with these settings; `None`: it cannot be, and the test is skipped.
    pub(crate) fn start(settings: &[&str]) -> Option<Server> {
        Server::launch(settings, &[])
    }

    fn launch(settings: &[&str], options: &[&str]) -> Option<Server> {
        // In memory where that is possible: what is tested is not the disk. Short: a socket's path has little room.
        let (memory, disk) = (PathBuf::from("/dev/shm"), std::env::temp_dir());
        let root = if memory.is_dir() { memory } else { disk };
        let directory = tempfile::Builder::new().prefix("fmq-pg-").tempdir_in(root).unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        match run(directory.path(), &settings, options) {
            Ok((child, url)) => Some(Server { url, directory, settings, child }),
            Err(why) => {
                let why = format!("PostgreSQL cannot be started: {why}");
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
                eprintln!("\n*** SKIPPED, NOTHING WAS TESTED: {why}\n");
                None
            }
        }
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        let file = std::fs::read_to_string(self.directory.path().join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().trim().parse().unwrap()
    }

    /// Kills the server as a power cut of its process would, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        let killed = Command::new("kill").args(["-KILL", &self.pid().to_string()]).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap();
        (self.child, self.url) = run(self.directory.path(), &self.settings, &[]).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The script stops the server when nobody holds its input any more.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn run(directory: &Path, settings: &[String], options: &[&str]) -> Result<(Child, String), String> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../scripts/postgres"].iter().collect();
    let mut command = Command::new(script);
    command.args(options).arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    for setting in settings {
        command.args(["-c", setting]);
    }
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).map_err(|error| error.to_string())?;
    if line.trim().is_empty() {
        let _ = child.wait();
        return Err("scripts/postgres said why".to_owned());
    }
    Ok((child, line.trim().to_owned()))
}

/// The server that the tests of one process share. Ends with the process, and the script takes its directory away: nobody
/// drops what is static.
pub(crate) fn shared() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Server::launch(&[], &["--remove"])).as_ref()
}

/// A schema that nobody else uses.
pub(crate) fn schema() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Small tables, so that a test crosses them with few bytes.
pub(crate) fn tiny(schema: &str) -> Options {
    Options {
        schema: schema.to_owned(),
        append_connections: 2,
        read_connections: 2,
        round_bytes_max: 64 << 10,
        segment_bytes: 200,
        housekeeping_interval: std::time::Duration::from_millis(20),
        tail_bytes: 300,
        ..Options::default()
    }
}

pub(crate) async fn open(url: &str, options: Options) -> PostgresStore {
    PostgresStore::open(parse_url(url).unwrap(), options, Clock::system()).await.unwrap()
}

pub(crate) fn on_tokio(future: Pending<()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}
