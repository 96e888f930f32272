//! The client's commands as users run them, against the null responder: exit codes, pipes, Ctrl-C, JSON.
//!
//! Deliberately absent: whether what is produced comes back; the null responder stores nothing.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};

/// A null responder that ends with the test.
struct Responder {
    process: Child,
    address: String,
}

impl Responder {
    fn start() -> Responder {
        let mut process =
            ferrymq(&["bench", "null-responder", "--listen", "127.0.0.1:0", "--records", "100000"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.split(' ').find(|word| word.starts_with("127.")).unwrap();
        let address = address.trim_end_matches(',').to_owned();
        // Whatever else it says is read, so that it is never stuck saying it.
        ferrymq_runtime::spawn_thread("stderr", move || {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        })
        .unwrap();
        Responder { process, address }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ferrymq(arguments);
        command.env("FERRYMQ_BOOTSTRAP", &self.address).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ferrymq(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrymq"));
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn exit_codes_tell_failure_from_wrong_usage() {
    let responder = Responder::start();
    let check = |arguments: &[&str], code: i32, said: &str| {
        let output = responder.run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    };
    check(&["topic", "create", "t", "--partitions", "3"], 0, "created t");
    check(&["topic", "create", "t"], 1, "TOPIC_ALREADY_EXISTS");
    check(&["topic", "create", "t", "--if-not-exists"], 0, "exists already");
    check(&["consume", "missing"], 1, "help: `ferrymq topic list`");
    check(&["consume", "t", "--partition", "7"], 1, "no partition 7");
    check(&["consume", "t", "--format", "%q"], 2, "unknown field %q");
    check(&["consume", "t", "--from", "noon"], 2, "expected beginning");
    check(&["produce", "t", "--delimiter", ""], 2, "cuts nothing");
    check(&["topic", "delete", "t"], 0, "deleted t");
    check(&["topic", "delete", "t", "--if-exists"], 0, "does not exist");
    check(&["topic", "list", "--bootstrap", "127.0.0.1:1"], 1, "cannot connect to 127.0.0.1:1");
    let listed = responder.run(&["topic", "list", "--output", "json"]);
    assert_eq!(text(&listed.stdout).trim(), "[]");
}

#[test]
fn stdin_becomes_records() {
    let responder = Responder::start();
    for (arguments, input, records) in [
        (&["produce", "t"][..], &b"a\nb\n\nc"[..], 4),
        (&["produce", "t", "--null", "--compression", "zstd"], b"a\nb\0c\0", 2),
        (&["produce", "t", "--key-separator", ":", "--idempotent"], b"k:v\nnone\n", 2),
        (&["produce", "t", "--format", "%k %v", "--acks", "0"], b"k v\n", 1),
        (&["produce", "t"], b"", 0),
    ] {
        let mut process = responder.command(arguments);
        let mut process = process.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(input).unwrap();
        let output = process.wait_with_output().unwrap();
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        assert!(stderr.contains(&format!("{records} records sent")), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_closed_pipe_and_ctrl_c_are_clean_ends() {
    let responder = Responder::start();
    assert!(responder.run(&["topic", "create", "t"]).status.success());
    // 100 MB would come: far more than a pipe holds.
    let mut process = responder.command(&["consume", "t"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = process.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4096]).unwrap();
    drop(stdout);
    assert_eq!(process.wait().unwrap().code(), Some(0));

    let follow = ["consume", "t", "--follow", "--from", "-1"];
    let mut process = responder.command(&follow).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = process.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1025]).unwrap();
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn consume_ends_at_the_end_or_after_a_count() {
    let responder = Responder::start();
    assert!(responder.run(&["topic", "create", "t", "--partitions", "2"]).status.success());
    let lines = |arguments: &[&str]| {
        let output = responder.run(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut last = lines(&["consume", "t", "--from", "-2", "--format", "%p/%o %V\\n"]);
    last.sort();
    assert_eq!(last, ["0/99998 1024", "0/99999 1024", "1/99998 1024", "1/99999 1024"]);
    assert_eq!(
        lines(&["consume", "t", "--from", "500", "-p", "1", "-n", "1", "--format", "%t %o\\n"]),
        ["t 500"]
    );
    assert_eq!(lines(&["consume", "t", "--exit-at-end", "--format", "%o\\n"]).len(), 200_000);
    assert!(lines(&["consume", "t", "--from", "end"]).is_empty());
    let json = lines(&["consume", "t", "-n", "1", "--output", "json"]);
    let record: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!((&record["topic"], &record["offset"], &record["key"]), (&"t".into(), &0.into(), &().into()));
}

#[test]
fn the_benchmarks_print_json() {
    let responder = Responder::start();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = responder.run(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let common = ["bench", "kafka", "--partitions", "3", "--messages", "5000", "--connections", "2"];
    let produced = json(&[&common[..], &["--mode", "produce", "--message-bytes", "100"]].concat());
    assert_eq!(produced["results"][0]["throughput"]["records"], 5000);
    assert_eq!(produced["settings"]["in_flight"], 5);
    let paced = json(&[&common[..], &["--mode", "produce", "--rate", "20000"]].concat());
    assert_eq!(paced["results"][0]["ack_latency_us"]["count"], 5000);
    let consumed = json(&[&common[..], &["--mode", "consume"]].concat());
    assert_eq!(consumed["results"][0]["complete"], true);
    let dir = tempfile::tempdir().unwrap();
    let disk = json(&["bench", "disk", "--dir", dir.path().to_str().unwrap(), "--writes", "3"]);
    assert_eq!((&disk["writes"], std::fs::read_dir(dir.path()).unwrap().count()), (&3.into(), 0));
    let paced = "--write-bytes 1000 --pattern overwrite --file-bytes 7000 --rate 5000 --writes 50".split(' ');
    let common = ["bench", "disk", "--dir", dir.path().to_str().unwrap()];
    let paced = json(&common.into_iter().chain(paced).collect::<Vec<_>>());
    assert!(paced["writes"].as_u64() >= Some(50), "{paced}");
    assert_eq!(paced["due_to_synced_us"]["count"], paced["writes"]);
}
