//! `ferrymq bench amqp` as users run it, against a broker of its own and against the null responder: every shape moves
//! as many messages as were asked for, and what makes no sense is refused.
//!
//! Deliberately absent: how fast it is; `bench/run --amqp` measures that.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// A server that ends with the test.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Starts it and reads where it listens: the word with a port in the first line of stderr that has `text`.
    fn start(arguments: &[&str], text: &str) -> Server {
        let mut process = ferrymq(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it never said {text:?}");
        }
        let at = line.find("127.0.0.1:").unwrap();
        let address = line[at..].split([' ', ',', '\n']).next().unwrap().to_owned();
        // Whatever else it says is read, so that it is never stuck saying it.
        ferrymq_runtime::spawn_thread("stderr", move || {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        })
        .unwrap();
        Server { process, address }
    }

    fn broker(data_dir: &std::path::Path) -> Server {
        let data_dir = data_dir.to_str().unwrap();
        let listen =
            ["--kafka-listen", "127.0.0.1:0", "--amqp-listen", "127.0.0.1:0", "--http-listen", "off"];
        Server::start(
            &[&["serve", "--data-dir", data_dir][..], &listen].concat(),
            "AMQP 0-9-1 clients connect",
        )
    }

    fn null_responder() -> Server {
        Server::start(&["bench", "amqp-null-responder", "--listen", "127.0.0.1:0"], "answering AMQP")
    }

    fn run(&self, line: &str) -> Output {
        let common = ["bench", "amqp", "--address", &self.address];
        ferrymq(&common).args(line.split_whitespace()).stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, line: &str) -> Value {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it; how many messages were published and consumed.
    fn moved(&self, line: &str) -> (Value, Value) {
        let report = self.json(line);
        (report["publish"]["records"].clone(), report["consume"]["records"].clone())
    }
}

impl Drop for Server {
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

/// Shapes that a broker and the null responder both have.
const SHAPES: [(&str, u64, u64); 7] = [
    ("--messages 3000", 3000, 3000),
    ("--messages 300 --window 1 --ack-every 7", 300, 300),
    ("--messages 3001 --queues 3 --publishers 2 --consumers 2", 3001, 3001),
    ("--messages 1000 --queues 4 --fan-out --publishers 2", 1000, 4000),
    ("--messages 2000 --transient --no-ack --no-confirm --message-bytes 0", 2000, 2000),
    ("--messages 3 --message-bytes 300k", 3, 3),
    ("--mode backlog --messages 5000 --consumers 3", 5000, 5000),
];

#[test]
fn every_shape_moves_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for server in [Server::broker(dir.path()), Server::null_responder()] {
        for (line, published, consumed) in SHAPES {
            assert_eq!(server.moved(line), (json!(published), json!(consumed)), "{line}");
        }
    }
}

#[test]
fn what_was_published_stays_until_it_is_consumed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Server::broker(dir.path());
    assert_eq!(broker.moved("--mode publish --messages 500 --queues 2"), (json!(500), Value::Null));
    assert_eq!(broker.moved("--mode consume --messages 100 --queues 2"), (Value::Null, json!(100)));
    // What the first consumers were sent and had not counted came back.
    assert_eq!(broker.moved("--mode consume --queues 2"), (Value::Null, json!(400)));
    let stuck = broker.run("--mode consume --messages 1 --queue bench-0 --patience-seconds 1");
    assert_eq!(stuck.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stuck.stderr).contains("nothing moved for 1 s"));
}

#[test]
fn latency_nacks_and_growth_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Server::broker(dir.path());
    let paced = broker.json("--rate 2000 --seconds 2 --warmup-seconds 1");
    for (mode, figure) in [("publish", "confirm_us"), ("consume", "publish_to_deliver_us")] {
        let count = paced[mode][figure]["count"].as_u64().unwrap();
        let all = paced[mode]["records"].as_u64().unwrap();
        assert!((500..all).contains(&count), "{mode}: {count} of {all}, the warm-up left out");
    }
    let storm = broker.json("--messages 400 --nack");
    assert_eq!((&storm["consume"]["records"], &storm["consume"]["nacked"]), (&json!(400), &json!(400)));
    let backlog = broker.json("--mode backlog --messages 20000 --window 500");
    assert!(backlog["publish"]["growth"]["slowdown"].is_number(), "{backlog}");
    assert_eq!(backlog["settings"]["window"], 500);
}

#[test]
fn idle_queues_and_connections_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Server::broker(dir.path());
    let idle = "--mode idle-queues --queues 500 --connections 3";
    assert_eq!(broker.json(idle)["idle_queues"]["queues"], 500);
    assert_eq!(broker.json(&format!("{idle} --passive"))["mode"], "idle-queues");
    let missing = broker.run("--mode idle-queues --queues 501 --passive");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("NOT_FOUND"), "{missing:?}");
    let opened = broker.json("--mode idle-connections --connections 40 --channels 2");
    assert_eq!(opened["idle_connections"]["connections"], 40);
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    let null = Server::null_responder();
    for (line, code) in
        [("--mode consume --rate 5", 2), ("--rate 5 --queues 6", 2), ("--nack --messages 5", 1)]
    {
        assert_eq!(null.run(line).status.code(), Some(code), "{line}");
    }
}
