//! A data directory that an earlier program left must say the same to every later one: topics with their
//! settings, records of every batch kind, committed offsets, what is known of producers.
//!
//! `testdata/data-1` was written by `ferrymq serve`, killed rather than stopped, after several log files had been
//! moved together. To write it anew after a deliberate change of what is stored: delete it and run this once.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Records of the topic that fills log files, and the bytes of each.
const FILLING: (usize, usize) = (300, 2_000);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/data-1")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A broker on a directory; killed when dropped, so that the next start recovers.
struct Broker {
    process: Child,
    address: String,
}

impl Broker {
    fn start(data_dir: &Path) -> Broker {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ferrymq"))
            .args([
                "serve",
                "--kafka-listen",
                "127.0.0.1:0",
                "--amqp-listen",
                "off",
                "--http-listen",
                "off",
                "--wal-file-bytes",
                "65536",
            ])
            .args(["--broker-setting", "group.initial.rebalance.delay.ms=0"])
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Kafka clients connect here") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the broker ended");
        }
        let address = line.split("listen=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        ferrymq_runtime::spawn_thread("log", move || {
            let _ = std::io::copy(&mut log, &mut std::io::sink());
        })
        .unwrap();
        Broker { process, address }
    }

    /// Runs a command of the client with `input`; what it printed.
    fn run(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ferrymq"))
            .args(arguments)
            .env("FERRYMQ_BOOTSTRAP", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn fill(broker: &Broker) {
    let run = |arguments: &[&str], input: &str| broker.run(arguments, input);
    run(&["topic", "create", "plain", "--partitions", "2", "--config", "retention.ms=-1"], "");
    run(
        &["topic", "create", "quick", "--config", "ferrymq.durability=os", "--config", "retention.ms=-1"],
        "",
    );
    run(&["topic", "create", "gone"], "");
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let records = format!("k1\t{compression} one\nk2\t{compression} two\n");
        run(
            &["produce", "plain", "-K", "\t", "-z", compression, "-H", "by=golden", "--idempotent"],
            &records,
        );
    }
    run(&["produce", "quick"], "not synced\n");
    run(&["produce", "gone"], "deleted\n");
    let line = format!("{}\n", "x".repeat(FILLING.1));
    run(&["topic", "create", "filling", "--config", "retention.ms=-1"], "");
    run(&["produce", "filling", "--batch-bytes", "4000"], &line.repeat(FILLING.0));
    run(&["topic", "delete", "gone"], "");
    run(&["group", "seek", "readers", "--topic", "plain", "--to", "1"], "");
}

/// Everything a user can see, apart from what the time of day or the address changes.
fn seen(broker: &Broker) -> String {
    let run = |arguments: &[&str]| broker.run(arguments, "");
    let mut text = run(&["topic", "list"]);
    for topic in ["plain", "quick"] {
        text += &run(&["consume", topic, "--from", "beginning", "-e", "-f", "%t %p %o %k %h %v\n"]);
    }
    let filling = run(&["consume", "filling", "--from", "beginning", "-e", "-f", "%o %V\n"]);
    text += &format!(
        "filling: {} records, the last {}",
        filling.lines().count(),
        filling.lines().last().unwrap()
    );
    text += "\n";
    text += &run(&["group", "describe", "readers", "-o", "json"]);
    text
}

#[test]
fn a_data_directory_of_version_1_says_what_it_said() {
    let expected = golden().join("expected.txt");
    if !expected.exists() {
        let directory = tempfile::tempdir().unwrap();
        let broker = Broker::start(directory.path());
        fill(&broker);
        let text = seen(&broker);
        drop(broker);
        copy(directory.path(), &golden().join("data"));
        fs::write(&expected, text).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    copy(&golden().join("data"), directory.path());
    let expected = fs::read_to_string(expected).unwrap();
    // After recovery, and once more after that start was killed.
    for _ in 0..2 {
        let broker = Broker::start(directory.path());
        assert_eq!(seen(&broker), expected);
        // What was known of producers is known still: a new one gets another id and is accepted.
        broker.run(&["produce", "quick", "--idempotent", "-p", "0"], "");
    }
}
