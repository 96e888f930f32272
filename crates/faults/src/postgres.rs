//! A PostgreSQL of a run's own: started, killed as a whole or by the session, reached by the broker through [`Links`].
//!
//! **Invariants.** The server ends with this program, however that ends: the script that keeps it running stops it when its
//! input is closed. Its directory lies in the temporary one (`TMPDIR`), short and open to the server's own user.
//!
//! Deliberately absent: a power cut of the database's machine; what survives that is PostgreSQL's own promise.

pub(crate) mod links;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use links::Links;

/// A server that recovers is asked again after so long, so often.
const RECOVERY_PAUSE: Duration = Duration::from_millis(100);
const RECOVERY_TRIES: u32 = 600;

/// A running server.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) links: Links,
    /// Holds the server's own and that of the links; removed at the end.
    home: PathBuf,
    script: Child,
}

impl Database {
    /// Starts a fresh one.
    pub(crate) fn start(seed: u64) -> anyhow::Result<Database> {
        let home = std::env::temp_dir().join(format!("ferrymq-faults-{}", std::process::id()));
        if home.exists() {
            std::fs::remove_dir_all(&home)?;
        }
        let link = home.join("link");
        std::fs::create_dir_all(&link).with_context(|| format!("cannot make {}", link.display()))?;
        let script = launch(&home)?;
        let links = Links::open(&home.join("server"), &link, seed)?;
        Ok(Database { links, home, script })
    }

    /// Where a broker finds it.
    pub(crate) fn url(&self) -> String {
        format!("postgres:///postgres?user=ferrymq&host={}", self.home.join("link").display())
    }

    /// Kills the server as the end of its machine would, without its losing what it wrote, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        let file = std::fs::read_to_string(self.home.join("server/data/postmaster.pid"))?;
        let pid = file.lines().next().unwrap_or_default().trim().parse()?;
        kill(pid)?;
        self.script.wait()?;
        self.script = launch(&self.home)?;
        Ok(())
    }

    /// Ends sessions of the broker as an operator would: all, or one in so many of them; how many.
    pub(crate) fn terminate(&self, one_in: u64) -> anyhow::Result<u64> {
        let ended = self.ask(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'ferrymq' \
             AND pid % {} = 0",
            one_in.max(1)
        ))?;
        Ok(ended.parse()?)
    }

    /// Kills the process of one of the broker's sessions; the server then ends all of them and recovers. Whether there was one.
    pub(crate) fn kill_session(&self, nth: u64) -> anyhow::Result<bool> {
        let pids =
            self.ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'ferrymq' ORDER BY pid")?;
        let pids: Vec<i32> = pids.lines().filter_map(|pid| pid.parse().ok()).collect();
        let Some(index) = usize::try_from(nth)?.checked_rem(pids.len()) else { return Ok(false) };
        kill(pids[index])?;
        Ok(true)
    }

    /// Tables that were made since the start, and of these those that are still there.
    pub(crate) fn tables(&self) -> anyhow::Result<(u64, u64)> {
        let told = self.ask("SELECT coalesce(max(id), 0) || ' ' || count(*) FROM ferrymq.segment")?;
        let (made, there) = told.split_once(' ').context("the tables were not told")?;
        Ok((made.parse()?, there.parse()?))
    }

    /// The answer to a statement, asked of the server itself; of one that recovers, once it has.
    fn ask(&self, sql: &str) -> anyhow::Result<String> {
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-q", "-U", "ferrymq", "-d", "postgres", "-c", sql]);
        command.arg("-h").arg(self.home.join("server"));
        let mut tries = RECOVERY_TRIES;
        loop {
            let output = command.output().context("cannot run psql")?;
            let told = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
            }
            tries -= 1;
            ensure!(tries > 0 && is_recovering(&told), "psql: {told}");
            std::thread::park_timeout(RECOVERY_PAUSE);
        }
    }
}

/// Whether a server that tells this takes connections again by itself: it starts, or ends everybody's session because one
/// was killed.
fn is_recovering(told: &str) -> bool {
    [
        "the database system is",
        "because of crash of another server process",
        "closed the connection unexpectedly",
    ]
    .iter()
    .any(|words| told.contains(words))
}

impl Drop for Database {
    fn drop(&mut self) {
        // The script stops the server when nobody holds its input any more.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// Whether one can be started here.
pub(crate) fn is_installed() -> bool {
    Command::new("psql").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs `scripts/postgres` and waits until its server is ready.
fn launch(home: &Path) -> anyhow::Result<Child> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../scripts/postgres"].iter().collect();
    let mut command = Command::new(&script);
    command.arg(home.join("server")).args(["-c", "max_wal_size=256MB"]);
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("cannot run {}", script.display()))?;
    let output = child.stdout.take().context("the script's output is not ours")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.trim().is_empty() {
        child.wait()?;
        bail!("PostgreSQL cannot be started: scripts/postgres said why");
    }
    Ok(child)
}

fn kill(pid: i32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("not a process")?;
    Ok(kill_process(pid, Signal::KILL)?)
}
