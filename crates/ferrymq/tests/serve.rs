//! `ferrymq serve` as its users run it: what it says, what it refuses, how it answers and how it stops.
//!
//! Deliberately absent: what Kafka clients see; the door's tests and `compat/` have that.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A broker that ends with the test.
struct Broker {
    process: Child,
    log: BufReader<ChildStderr>,
    said: String,
}

fn serve(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrymq"));
    command.arg("serve").arg("--data-dir").arg(data_dir).args(arguments);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

const FREE: [&str; 6] =
    ["--kafka-listen", "127.0.0.1:0", "--amqp-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

impl Broker {
    fn start(data_dir: &Path, arguments: &[&str]) -> Broker {
        let mut process = serve(data_dir, &FREE).args(arguments).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut broker = Broker { process, log, said: String::new() };
        broker.wait_for("/metrics");
        broker
    }

    /// Reads the log up to a line that has `text`, and gives that line.
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            let count = self.log.read_line(&mut line).unwrap();
            assert!(count > 0, "it never said {text:?}; it said: {}", self.said);
            self.said.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn http_address(&self) -> String {
        let line = self.said.lines().find(|line| line.contains("/metrics")).unwrap();
        let address = line.split("listen=").nth(1).unwrap();
        address.split_whitespace().next().unwrap().to_owned()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http_address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; the exit code and all it said.
    fn end(mut self) -> (Option<i32>, String) {
        self.log.read_to_string(&mut self.said).unwrap();
        let code = self.process.wait().unwrap().code();
        (code, std::mem::take(&mut self.said))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn health_and_metrics_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    for (path, status) in [("/livez", "200 OK"), ("/readyz", "200 OK"), ("/elsewhere", "404 Not Found")] {
        let answer = broker.get(path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    let metrics = broker.get("/metrics");
    let promised = include_str!("../../../docs/metrics.md");
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<_> = names.map(|line| line.split(' ').next().unwrap()).collect();
    assert!(names.len() > 20, "{metrics}");
    for name in names {
        assert!(promised.contains(name), "{name} is not in docs/metrics.md");
    }
}

#[test]
fn the_amqp_door_answers_unless_it_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    let line = broker.said.lines().find(|line| line.contains("AMQP 0-9-1 clients connect here")).unwrap();
    let address = line.split("listen=").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"AMQP\x00\x01\x00\x00").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"AMQP\x00\x00\x09\x01");
    assert!(broker.get("/metrics").contains("ferrymq_amqp_connections_total 1\n"));
    drop(broker);
    let output = serve(dir.path(), &["--amqp-listen", "0.0.0.0:0"]).output().unwrap();
    assert!(
        text(&output).contains("amqp-listen 0.0.0.0:0 can be reached by other machines"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_stop_is_clean_whoever_hangs_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    // Half a request, a connection that says nothing, and one that has been answered.
    let mut half = TcpStream::connect(broker.http_address()).unwrap();
    half.write_all(b"GET /metrics HT").unwrap();
    let silent = TcpStream::connect(broker.http_address()).unwrap();
    assert!(broker.get("/readyz").contains("ok"));
    broker.signal(Signal::TERM);
    let (code, said) = broker.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped cleanly") && !said.contains("did not end in time"), "{said}");
    drop((half, silent));
    // The next start finds a clean stop.
    let broker = Broker::start(dir.path(), &[]);
    assert!(!broker.said.contains("recover"), "{}", broker.said);
}

#[test]
fn a_data_directory_has_one_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    let second = serve(dir.path(), &FREE).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("another process uses"), "{}", text(&second));
    assert!(broker.get("/livez").contains("ok"));
}

#[test]
fn what_others_can_reach_must_be_asked_for_and_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let open = [
        "--kafka-listen",
        "0.0.0.0:0",
        "--kafka-advertise",
        "broker:9092",
        "--amqp-listen",
        "off",
        "--http-listen",
        "off",
    ];
    let refused = serve(dir.path(), &open).output().unwrap();
    assert_ne!(refused.status.code(), Some(0));
    assert!(text(&refused).contains("--allow-remote"), "{}", text(&refused));
    let mut process = serve(dir.path(), &open).arg("--allow-remote").spawn().unwrap();
    let log = BufReader::new(process.stderr.take().unwrap());
    let mut broker = Broker { process, log, said: String::new() };
    broker.wait_for("advertised=broker:9092");
    assert!(broker.wait_for("users or passwords").contains("WARN"));
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

#[test]
fn sighup_takes_over_what_can_change_and_names_what_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ferrymq.toml");
    std::fs::write(&file, "num-partitions = 2\n").unwrap();
    let data_dir = dir.path().join("data");
    let mut broker =
        Broker::start(&data_dir, &["--config", file.to_str().unwrap(), "--fetch-bytes-max", "1000000"]);
    broker.signal(Signal::HUP);
    // Flags stand over the file still: nothing changed.
    broker.wait_for("was read again");
    std::fs::write(&file, "num-partitions = 3\nlog-level = \"debug\"\n").unwrap();
    broker.signal(Signal::HUP);
    broker.wait_for("log-level taken over");
    assert!(broker.wait_for("need a restart").contains("\"num-partitions\""), "{}", broker.said);
    std::fs::write(&file, "num-partition = 3\n").unwrap();
    broker.signal(Signal::HUP);
    broker.wait_for("not taken over");
    assert!(broker.get("/livez").contains("ok"));
}
