//! The harness's own negative control: a broker that keeps nothing must be found out by a single kill.
//!
//! Without this a harness that reads nothing, or the wrong thing, would pass everything.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The Kafka door on the memory engine, built as this test was.
fn memory_broker() -> PathBuf {
    // target/<profile>/deps/this-test
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().and_then(Path::parent).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "ferrymq-kafka-server", "--example", "memory"]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the example could not be built");
    profile.join("examples").join("memory")
}

#[test]
fn a_kill_of_a_broker_that_keeps_nothing_is_reported_as_loss() {
    let work = tempfile::tempdir().unwrap();
    let report = work.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ferrymq-faults"))
        .args(["run", "kill", "--cycles", "1", "--bare", "--seed", "1", "--patience", "2"])
        .arg("--server")
        .arg(memory_broker())
        .arg("--work")
        .arg(work.path())
        .arg("--report")
        .arg(&report)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let violations = report["violations"].as_array().unwrap();
    let rules: Vec<&str> = violations.iter().filter_map(|violation| violation["rule"].as_str()).collect();
    assert!(rules.contains(&"lost") && rules.contains(&"topic-went-back"), "{rules:?}: {said}");
}
