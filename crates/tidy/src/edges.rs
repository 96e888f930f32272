//! Which of our crates may depend on which.
//!
//! **Invariant.** The broker, the storage contract and the engines never depend on a wire protocol; the doors
//! never see each other. A new edge or crate is an architectural change: it comes with a line here, a word in
//! `ARCHITECTURE.md` and, if it turns anything around, an ADR.

use serde_json::Value;

use crate::Finding;

/// One crate of ours.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Package name without `ferrymq-`; the binary is `ferrymq`.
    pub name: &'static str,
    /// What it may depend on.
    pub may_use: &'static [&'static str],
    /// What its tests may use besides.
    pub tests_may_use: &'static [&'static str],
}

const fn rule(
    name: &'static str,
    may_use: &'static [&'static str],
    tests_may_use: &'static [&'static str],
) -> Rule {
    Rule { name, may_use, tests_may_use }
}

/// The architecture, from the ground up.
pub const TABLE: &[Rule] = &[
    rule("types", &[], &[]),
    rule("runtime", &["types"], &[]),
    rule("compress", &["types"], &[]),
    rule("kafka-codec", &[], &["types"]),
    rule("kafka-codegen", &[], &[]),
    // Its benchmark asks the clock.
    rule("amqp-codec", &[], &["runtime"]),
    // One message in the shapes of two protocols: what of the record format it needs is in types.
    rule("mapping", &["types", "amqp-codec"], &[]),
    rule("disk", &[], &[]),
    rule("storage", &["types", "runtime"], &[]),
    rule("engine-local", &["disk", "storage", "runtime", "types"], &["checker"]),
    // Its fault tests are judged by the checker.
    rule("engine-postgres", &["storage", "runtime", "types"], &["checker"]),
    rule("broker", &["types", "runtime", "storage", "compress"], &["engine-local", "disk", "checker"]),
    rule(
        "kafka-server",
        // Of storage only its error, which the door maps to Kafka's codes, and what a lookup looks for.
        &["broker", "kafka-codec", "runtime", "types", "compress", "storage"],
        &["engine-local", "disk", "kafka-client"],
    ),
    // Of storage only the store in memory that its tests run on; of compress what Kafka clients would send.
    rule(
        "amqp-server",
        &["broker", "amqp-codec", "mapping", "runtime", "types"],
        &["storage", "engine-local", "disk", "compress"],
    ),
    // What comes from a database's transactions, as records and as AMQP messages that are checked as the door checks them.
    rule(
        "outbox",
        &["broker", "engine-postgres", "amqp-server", "amqp-codec", "storage", "runtime", "types"],
        &[],
    ),
    rule("kafka-client", &["kafka-codec", "types", "runtime", "compress"], &[]),
    rule("checker", &["types", "disk", "storage"], &["engine-local", "runtime"]),
    // A black box's test: of ours the codecs, so that a mistake of the product cannot hide another.
    rule("faults", &["kafka-codec", "amqp-codec", "runtime", "checker"], &[]),
    rule("tidy", &[], &[]),
    rule(
        "ferrymq",
        &[
            "types",
            "runtime",
            "compress",
            "kafka-codec",
            "amqp-codec",
            "mapping",
            "disk",
            "storage",
            "engine-local",
            "engine-postgres",
            "broker",
            "kafka-server",
            "amqp-server",
            "outbox",
            "kafka-client",
            "checker",
        ],
        &[],
    ),
];

/// Dependencies among the packages of `metadata` (`cargo metadata --no-deps`) that `table` does not name.
///
/// # Panics
/// If `metadata` is not what cargo prints.
#[must_use]
pub fn check(metadata: &Value, table: &[Rule]) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let full_name = package["name"].as_str().expect("a package has a name");
        let path = format!("crates/{}/Cargo.toml", short(full_name));
        let Some(rule) = table.iter().find(|rule| rule.name == short(full_name)) else {
            findings.push(Finding::file(&path, "this crate is not in the table of crates/tidy/src/edges.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            if !names.contains(&target) {
                continue;
            }
            let in_tests = dependency["kind"].as_str() == Some("dev");
            let target = short(target);
            if !(rule.may_use.contains(&target) || in_tests && rule.tests_may_use.contains(&target)) {
                let whose = if in_tests { "tests of " } else { "" };
                findings.push(Finding::file(&path, format!("{whose}{} may not use {target}", rule.name)));
            }
        }
    }
    findings
}

fn short(package: &str) -> &str {
    package.strip_prefix("ferrymq-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(from: &str, to: &str, kind: Option<&str>) -> Value {
        serde_json::json!({ "packages": [
            { "name": from, "dependencies": [
                { "name": to, "kind": kind },
                { "name": "tokio", "kind": null },
            ] },
            { "name": to, "dependencies": [] },
        ] })
    }

    #[track_caller]
    fn check_edge(from: &str, to: &str, kind: Option<&str>, expected: &[&str]) {
        let found = check(&metadata(from, to, kind), TABLE);
        let found: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn edges_point_down() {
        check_edge("ferrymq-broker", "ferrymq-storage", None, &[]);
        check_edge("ferrymq", "ferrymq-broker", None, &[]);
        check_edge("ferrymq-storage", "ferrymq-broker", None, &["storage may not use broker"]);
        check_edge("ferrymq-types", "ferrymq-runtime", Some("build"), &["types may not use runtime"]);
    }

    #[test]
    fn tests_may_use_a_little_more() {
        check_edge("ferrymq-broker", "ferrymq-engine-local", Some("dev"), &[]);
        check_edge("ferrymq-broker", "ferrymq-engine-local", None, &["broker may not use engine-local"]);
        check_edge("ferrymq-types", "ferrymq-disk", Some("dev"), &["tests of types may not use disk"]);
    }

    #[test]
    fn the_broker_and_the_engines_know_no_protocol() {
        for from in ["ferrymq-broker", "ferrymq-storage", "ferrymq-engine-local"] {
            for to in
                ["ferrymq-kafka-codec", "ferrymq-kafka-server", "ferrymq-kafka-client", "ferrymq-amqp-codec"]
            {
                assert_eq!(check(&metadata(from, to, None), TABLE).len(), 1, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_new_crate_is_a_decision() {
        let found = check(&metadata("ferrymq-utils", "ferrymq-types", None), TABLE);
        assert!(found[0].what.contains("not in the table"));
    }

    #[test]
    fn the_table_has_no_cycle() {
        let mut below: Vec<&str> = Vec::new();
        for rule in TABLE {
            let missing: Vec<_> = rule.may_use.iter().filter(|name| !below.contains(name)).collect();
            assert!(missing.is_empty(), "{} uses {missing:?}, which stand above it", rule.name);
            below.push(rule.name);
        }
    }
}
