//! `ferrymq topic describe` against `ferrymq serve`: what is told of a topic that holds something.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};

/// A broker on a fresh directory that ends with the test.
struct Broker {
    process: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Broker {
    fn start() -> Broker {
        let directory = tempfile::tempdir().unwrap();
        let mut process = ferrymq(&["serve", "--kafka-listen", "127.0.0.1:0", "--http-listen", "off"])
            .args(["--amqp-listen", "off", "--log-format", "json", "--data-dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the broker says where it listens").unwrap();
            let told: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if line.contains("Kafka clients connect here") {
                let fields = if told["fields"].is_null() { &told } else { &told["fields"] };
                break fields["listen"].as_str().unwrap().to_owned();
            }
        };
        // Whatever else it says is read, so that it is never stuck saying it.
        ferrymq_runtime::spawn_thread("stderr", move || lines.for_each(drop)).unwrap();
        Broker { process, address, _directory: directory }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = ferrymq(arguments);
        command.env("FERRYMQ_BOOTSTRAP", &self.address);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that reads nothing may have ended already.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

impl Drop for Broker {
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

#[test]
fn the_disk_a_topic_takes_is_told() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--partitions", "2"], "");
    broker.run(&["produce", "t", "--partition", "1"], &"x".repeat(50_000));
    let output = broker.run(&["topic", "describe", "t", "--output", "json"], "");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |index: usize| told["partitions"][index]["bytes"].as_u64().unwrap();
    assert_eq!(bytes(0), 0);
    assert!((50_000..60_000).contains(&bytes(1)), "{told}");
    assert_eq!(told["bytes"].as_u64(), Some(bytes(1)));
    let table = String::from_utf8(broker.run(&["topic", "describe", "t"], "").stdout).unwrap();
    let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last, ["all", "1", bytes(1).to_string().as_str()], "{table}");
}
