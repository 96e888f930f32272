//! The server process: started, found, paused, killed, stopped.
//!
//! **Invariants.** Every process started is in the file of process ids, so that a script can end it when this
//! program is itself killed; dropping a [`Server`] kills it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ferrymq_runtime::{Clock, spawn_thread};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::ops;

/// The longest a start may take before the run fails.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) program: PathBuf,
    /// Takes an address as its only argument and keeps nothing: the broker example on the memory engine.
    pub(crate) bare: bool,
    pub(crate) args: Vec<String>,
    pub(crate) envs: Vec<(&'static str, String)>,
    /// Where its output and process ids go.
    pub(crate) notes: PathBuf,
}

/// A system call that shall fail, by strace.
#[derive(Debug, Clone)]
pub(crate) struct Injection {
    /// The number of the sync that fails.
    pub(crate) nth: u32,
    /// Where strace writes.
    pub(crate) trace: PathBuf,
}

impl Injection {
    /// Whether it has happened.
    pub(crate) fn happened(&self) -> bool {
        std::fs::read_to_string(&self.trace).is_ok_and(|text| text.contains("(INJECTED)"))
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where AMQP clients connect.
    pub(crate) amqp: Option<SocketAddr>,
    /// Where the management API is.
    pub(crate) api: Option<SocketAddr>,
    /// From the start of the process to its first right answer.
    pub(crate) ready: Duration,
    stopped: bool,
}

/// Where something listens.
#[derive(Debug, PartialEq, Eq)]
enum Listens {
    Kafka(SocketAddr),
    Amqp(SocketAddr),
    Api(SocketAddr),
}

/// A process that was started and has not said yet where it listens.
pub(crate) struct Starting {
    child: Child,
    lines: mpsc::Receiver<Listens>,
    began: Duration,
    known: Option<SocketAddr>,
    /// It has no AMQP door.
    bare: bool,
}

impl Spec {
    /// Starts the process.
    pub(crate) fn spawn(
        &self,
        clock: &Clock,
        data: &Path,
        inject: Option<&Injection>,
    ) -> anyhow::Result<Starting> {
        let mut known = None;
        let mut command = match inject {
            None => Command::new(&self.program),
            Some(injection) => strace(injection, &self.program),
        };
        if self.bare {
            let address = free_address()?;
            known = Some(address);
            command.arg(address.to_string());
        } else {
            command.args(["serve", "--kafka-listen", "127.0.0.1:0", "--amqp-listen", "127.0.0.1:0"]);
            command.args(["--http-listen", "127.0.0.1:0", "--data-dir"]);
            command.arg(data).args(&self.args);
        }
        command.envs(self.envs.iter().map(|(name, value)| (*name, value)));
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let began = clock.uptime();
        let mut child =
            command.spawn().with_context(|| format!("could not start {}", self.program.display()))?;
        let mut pids = append(&self.notes.join("pids"))?;
        writeln!(pids, "{}", child.id())?;
        let mut log = append(&self.notes.join("server.log"))?;
        let stderr = child.stderr.take().context("the server's stderr is not ours")?;
        let (tell, lines) = mpsc::channel();
        spawn_thread("server log", move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = listens(&line) {
                    // Nobody waits any more if the start was given up.
                    let _ = tell.send(address);
                }
                if writeln!(log, "{line}").is_err() {
                    return;
                }
            }
        })?;
        Ok(Starting { child, lines, began, known, bare: self.bare })
    }
}

impl Starting {
    /// Waits until the server answers.
    pub(crate) fn wait_ready(mut self, clock: &Clock) -> anyhow::Result<Server> {
        let deadline = clock.uptime() + START_PATIENCE;
        let (mut known, mut amqp, mut api) = (self.known, None, None);
        while clock.uptime() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended while starting: {status}");
            }
            // The channel is the clock of this loop: it waits, also after the sender is gone.
            match self.lines.recv_timeout(Duration::from_millis(2)) {
                Ok(Listens::Kafka(address)) => known = Some(address),
                Ok(Listens::Amqp(address)) => amqp = Some(address),
                Ok(Listens::Api(address)) => api = Some(address),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::yield_now(),
            }
            let Some(address) = known.filter(|_| self.bare || amqp.is_some() && api.is_some()) else {
                continue;
            };
            let answer = Client::connect(address, START_PATIENCE, &Arc::default())
                .and_then(|mut client| ops::topics(&mut client));
            if answer.is_ok() {
                let ready = clock.uptime().saturating_sub(self.began);
                return Ok(Server { child: self.child, address, amqp, api, ready, stopped: false });
            }
        }
        let _ = self.child.kill();
        self.child.wait()?;
        bail!("the server was not ready after {START_PATIENCE:?}")
    }

    /// Kills it, ready or not.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Server {
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        Ok(())
    }

    /// Stops it in its tracks: nothing is handed on, nothing is written.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.stopped = true;
        // It may have ended by itself.
        let _ = self.signal(Signal::KILL);
        self.child.wait()?;
        Ok(())
    }

    /// Halts it, or lets it go on.
    pub(crate) fn pause(&self, pause: bool) -> anyhow::Result<()> {
        self.signal(if pause { Signal::STOP } else { Signal::CONT })
    }

    /// Whether it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to stop and waits.
    pub(crate) fn stop(mut self, clock: &Clock, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = clock.uptime() + patience;
        let (_keep, tick) = mpsc::channel::<()>();
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.stopped = true;
                return Ok(status);
            }
            if clock.uptime() > deadline {
                bail!("the server did not stop within {patience:?}");
            }
            let _ = tick.recv_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// strace as a grandchild, so that the server is our own child; it ends with the server.
fn strace(injection: &Injection, program: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=fdatasync", "-e", "signal=none", "-o"]);
    command.arg(&injection.trace);
    command.arg("-e").arg(format!("inject=fdatasync:error=EIO:when={}", injection.nth));
    command.arg(program);
    command
}

fn append(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("could not write {}", path.display()))
}

/// An address nothing listens on a moment ago.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// The address in a line that says where clients connect.
fn listens(line: &str) -> Option<Listens> {
    let which = if line.contains("Kafka clients connect here") {
        Listens::Kafka
    } else if line.contains("AMQP 0-9-1 clients connect here") {
        Listens::Amqp
    } else if line.contains("health, metrics and queues") {
        Listens::Api
    } else {
        return None;
    };
    let plain: String = without_colour(line);
    let rest = plain.split("listen=").nth(1)?;
    rest.split_whitespace().next()?.parse().ok().map(which)
}

fn without_colour(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once('m').map_or("", |(_, after)| after);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_found() {
        let line = "2026 INFO ferrymq: Kafka clients connect here \u{1b}[3mlisten\u{1b}[0m\u{1b}[2m=\u{1b}[0m127.0.0.1:4242 advertised=127.0.0.1:4242";
        let address = SocketAddr::from(([127, 0, 0, 1], 4242));
        assert_eq!(listens(line), Some(Listens::Kafka(address)));
        let line = "INFO ferrymq: AMQP 0-9-1 clients connect here, as guest listen=127.0.0.1:4242";
        assert_eq!(listens(line), Some(Listens::Amqp(address)));
        let line = "INFO health, metrics and queues: /livez /readyz listen=127.0.0.1:4242";
        assert_eq!(listens(line), Some(Listens::Api(address)));
        assert_eq!(listens("INFO listen=127.0.0.1:1 other"), None);
    }
}
