//! What a policy may say, which one applies, and what comes out: a table of RabbitMQ 4.3's rules.

use std::sync::Arc;

use super::*;
use crate::queues::args::Width;
use crate::queues::types::QueueSpec;

fn int(value: i64) -> Value {
    Value::Int(value, Width::I64)
}

fn arguments(list: &[(&str, Value)]) -> Arguments {
    Arguments(list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn policy(
    name: &str,
    pattern: &str,
    apply_to: ApplyTo,
    priority: i64,
    key: &str,
    value: Value,
) -> PolicySpec {
    let definition = arguments(&[(key, value)]);
    PolicySpec { name: Arc::from(name), pattern: pattern.to_owned(), apply_to, priority, definition }
}

fn queue(name: &str, list: &[(&str, Value)]) -> QueueSpec {
    QueueSpec {
        name: Arc::from(name),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: arguments(list),
    }
}

fn kinds() -> [(&'static str, Value); 3] {
    ["classic", "quorum", "stream"].map(|kind| ("x-queue-type", Value::text(kind)))
}

#[test]
fn one_policy_applies() {
    let mut policies = Policies::default();
    let mut add = |spec: PolicySpec| {
        policies.insert(PolicySort::Policy, Policy::new(spec, PolicySort::Policy).unwrap());
    };
    add(policy("all", "", ApplyTo::All, 0, "expires", int(9)));
    add(policy("b", "^a", ApplyTo::Queues, 1, "expires", int(9)));
    add(policy("a", "^a", ApplyTo::Queues, 1, "expires", int(9)));
    add(policy("none of amq", "^(?!amq\\.)e", ApplyTo::Exchanges, 5, "alternate-exchange", Value::text("x")));
    add(policy("classic", "c$", ApplyTo::ClassicQueues, 7, "expires", int(9)));
    add(policy("quorum", "c$", ApplyTo::QuorumQueues, 7, "expires", int(9)));
    add(policy("limited", "^l", ApplyTo::Queues, 3, "delivery-limit", int(9)));
    add(policy("bytes", "s$", ApplyTo::Queues, 3, "max-length-bytes", int(9)));
    add(policy("stream", "t$", ApplyTo::Streams, 3, "max-length-bytes", int(9)));
    add(policy("aged", "^d", ApplyTo::All, 3, "max-age", Value::text("5D")));
    let applied = |subject| policies.applied(&subject).policy.map(|policy| policy.spec.name.to_string());
    use QueueType::{Classic, Quorum, Stream};
    for (subject, name) in [
        (Subject::Queue("other", Classic), Some("all")),
        // Streams know no such key.
        (Subject::Queue("other", Stream), None),
        (Subject::Queue("a queue", Classic), Some("a")),
        (Subject::Queue("abc", Classic), Some("classic")),
        (Subject::Queue("abc", Quorum), Some("quorum")),
        (Subject::Queue("limited", Quorum), Some("limited")),
        // Classic queues know no such key: the next one is tried.
        (Subject::Queue("limited", Classic), Some("all")),
        (Subject::Queue("logs", Classic), Some("bytes")),
        (Subject::Queue("logs", Stream), Some("bytes")),
        (Subject::Queue("dot", Stream), Some("aged")),
        (Subject::Queue("dot", Quorum), Some("all")),
        (Subject::Queue("jot", Stream), Some("stream")),
        (Subject::Queue("jot", Classic), Some("all")),
        (Subject::Exchange("e"), Some("none of amq")),
        (Subject::Exchange("amq.e"), Some("all")),
    ] {
        assert_eq!(applied(subject).as_deref(), name, "{subject:?}");
    }
}

/// A key, what a user, an operator and an argument say, and what comes out in classic and in quorum queues.
type Row = (&'static str, Option<Value>, Option<Value>, Option<Value>, Option<Value>, Option<Value>);

#[test]
#[allow(clippy::too_many_lines, reason = "it is a table")]
fn what_comes_out() {
    let (n, t) = (|value| Some(int(value)), |value: &str| Some(Value::text(value)));
    let rows: Vec<Row> = vec![
        ("message-ttl", n(5), None, None, n(5), n(5)),
        ("message-ttl", None, n(5), None, n(5), n(5)),
        ("message-ttl", n(5), n(3), None, n(3), n(3)),
        ("message-ttl", n(3), n(5), None, n(3), n(3)),
        ("message-ttl", n(5), None, n(3), n(3), n(3)),
        ("message-ttl", n(3), None, n(5), n(3), n(3)),
        ("message-ttl", n(9), n(7), n(8), n(7), n(7)),
        ("expires", n(5), n(7), n(6), n(5), n(5)),
        ("expires", n(9), None, n(6), n(6), n(6)),
        ("max-length", n(0), n(7), n(6), n(0), n(0)),
        ("max-length", None, n(7), n(6), n(6), n(6)),
        ("max-length-bytes", n(8), n(7), None, n(7), n(7)),
        ("max-length-bytes", n(8), None, n(9), n(8), n(8)),
        ("overflow", t("drop-head"), t("reject-publish"), None, t("reject-publish"), t("reject-publish")),
        ("overflow", t("drop-head"), None, t("reject-publish"), t("reject-publish"), t("drop-head")),
        ("overflow", None, t("drop-head"), t("reject-publish"), t("reject-publish"), t("drop-head")),
        ("dead-letter-exchange", t("p"), None, None, t("p"), t("p")),
        ("dead-letter-exchange", t("p"), None, t("a"), t("a"), t("a")),
        ("dead-letter-routing-key", t("p"), None, t("a"), t("a"), t("a")),
        ("dead-letter-strategy", t("at-least-once"), None, None, None, t("at-least-once")),
        (
            "dead-letter-strategy",
            t("at-least-once"),
            None,
            t("at-most-once"),
            t("at-most-once"),
            t("at-most-once"),
        ),
        // Below zero is no limit.
        ("delivery-limit", n(5), n(3), None, None, n(3)),
        ("delivery-limit", n(-1), n(3), None, None, n(3)),
        ("delivery-limit", n(5), n(-1), None, None, n(5)),
        ("delivery-limit", n(-1), n(-5), None, None, n(-1)),
        ("delivery-limit", n(5), None, n(9), n(9), n(5)),
        ("delivery-limit", n(5), None, n(-1), n(-1), n(5)),
        ("delivery-limit", n(-1), None, n(9), n(9), n(9)),
        ("consumer-timeout", n(5), None, None, n(5), n(5)),
        ("consumer-timeout", n(5), None, n(3), n(3), n(3)),
        ("consumer-timeout", n(3), None, n(5), n(3), n(3)),
        ("delayed-retry-min", n(5), n(7), None, n(7), n(7)),
        ("delayed-retry-min", n(5), None, n(7), n(5), n(5)),
        ("delayed-retry-max", n(5), n(7), None, n(5), n(5)),
        ("delayed-retry-max", n(9), None, n(7), n(7), n(7)),
        ("delayed-retry-type", t("disabled"), None, t("all"), t("disabled"), t("disabled")),
        ("delayed-retry-type", None, t("disabled"), t("all"), t("disabled"), t("disabled")),
        // What has no effect is not among the arguments.
        ("consumer-disconnected-timeout", n(1), None, None, None, None),
        ("queue-version", n(1), n(2), None, None, None),
        ("max-in-memory-length", n(1), n(2), None, None, None),
    ];
    for (key, user, operator, argument, classic, quorum) in rows {
        let mut policies = Policies::default();
        for (sort, value) in [(PolicySort::Policy, &user), (PolicySort::Operator, &operator)] {
            if let Some(value) = value {
                let spec = policy("p", ".*", ApplyTo::All, 0, key, value.clone());
                policies.insert(sort, Policy::new(spec, sort).unwrap());
            }
        }
        let name = format!("x-{key}");
        for (kind, expected) in kinds().into_iter().zip([&classic, &quorum]) {
            let mut list = vec![kind.clone()];
            list.extend(argument.clone().map(|value| (name.as_str(), value)));
            let spec = queue("q", &list);
            let found = policies.effective(&spec).arguments.get(&name).cloned();
            assert_eq!(&found, expected, "{key} in {kind:?}: {user:?} {operator:?} {argument:?}");
        }
    }
}

#[test]
fn keys_that_only_one_says_are_kept() {
    let mut policies = Policies::default();
    let of = |list: &[(&str, Value)]| PolicySpec {
        definition: arguments(list),
        ..policy("p", "", ApplyTo::All, 0, "expires", int(1))
    };
    let user = of(&[("expires", int(5)), ("max-length", int(7)), ("alternate-exchange", Value::text("ae"))]);
    policies.insert(PolicySort::Policy, Policy::new(user, PolicySort::Policy).unwrap());
    let operator = of(&[("max-length", int(6)), ("message-ttl", int(4))]);
    policies.insert(PolicySort::Operator, Policy::new(operator, PolicySort::Operator).unwrap());
    let spec = queue("q", &[("x-anything", Value::Void)]);
    let effective = policies.effective(&spec);
    let found: Vec<_> = ["x-expires", "x-max-length", "x-message-ttl", "x-anything", "x-alternate-exchange"]
        .iter()
        .map(|name| effective.arguments.get(name).cloned())
        .collect();
    assert_eq!(found, [Some(int(5)), Some(int(6)), Some(int(4)), Some(Value::Void), None]);
    assert_eq!(policies.alternate("any").as_deref(), Some("ae"));
    // The merged definition is in the order of its keys' first mention.
    let names: Vec<String> =
        policies.of_queue(&spec).definition().iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["expires", "max-length", "alternate-exchange", "message-ttl"]);
}

#[test]
fn what_a_policy_may_not_say() {
    let check = |key: &str, value: Value, sort| {
        Policy::new(policy("p", "", ApplyTo::All, 0, key, value), sort).map(drop)
    };
    let text = Value::text;
    for (key, value) in [
        ("message-ttl", int(-1)),
        ("message-ttl", text("5")),
        ("expires", int(0)),
        ("max-length", int(-1)),
        ("max-length-bytes", Value::F64(1.0)),
        ("overflow", text("drop")),
        ("dead-letter-exchange", int(5)),
        ("dead-letter-strategy", text("never")),
        ("delivery-limit", text("5")),
        ("alternate-exchange", Value::Void),
        ("queue-mode", text("fast")),
        ("queue-version", int(3)),
        ("stream-filter-size-bytes", int(15)),
        ("target-group-size", int(0)),
        ("consumer-timeout", int(-1)),
        ("delayed-retry-type", text("sometimes")),
        ("delayed-retry-min", int(0)),
        ("max-age", text("5d")),
        ("max-age", int(5)),
        ("stream-max-segment-size-bytes", int(3_000_000_001)),
    ] {
        let name = keys::find(key).unwrap().name;
        let expected = Err(BadPolicy::Value(name, value.clone()));
        assert_eq!(check(key, value, PolicySort::Policy), expected, "{key}");
    }
    let unknown = |key: &str, value: Value| Err(BadPolicy::Unknown(vec![(key.to_owned(), value)]));
    assert_eq!(check("ha-mode", text("all"), PolicySort::Policy), unknown("ha-mode", text("all")));
    assert_eq!(check("max-priority", int(5), PolicySort::Policy), unknown("max-priority", int(5)));
    let key = "dead-letter-exchange";
    assert_eq!(check(key, text("x"), PolicySort::Operator), unknown(key, text("x")));
    let retry = |list: &[(&str, Value)]| {
        let one = policy("p", "", ApplyTo::All, 0, "expires", int(1));
        let spec = PolicySpec { definition: arguments(list), ..one };
        Policy::new(spec, PolicySort::Operator).map(drop)
    };
    let (kind, min, max) = ("delayed-retry-type", "delayed-retry-min", "delayed-retry-max");
    assert_eq!(retry(&[(kind, text("all"))]), Err(BadPolicy::RetryWithoutMin("all".to_owned())));
    assert_eq!(retry(&[(kind, text("disabled"))]), Ok(()));
    let below = BadPolicy::RetryMaxBelowMin { min: 2, max: 1 };
    assert_eq!(retry(&[(kind, text("all")), (min, int(2)), (max, int(1))]), Err(below));
    assert_eq!(retry(&[(kind, text("all")), (min, int(2)), (max, int(2))]), Ok(()));
    let with = |pattern: &str, definition: Arguments| {
        let spec = PolicySpec { definition, ..policy("p", pattern, ApplyTo::All, 0, "expires", int(1)) };
        Policy::new(spec, PolicySort::Policy).map(drop)
    };
    let one = || arguments(&[("expires", int(1))]);
    assert_eq!(with("", Arguments::default()), Err(BadPolicy::Empty));
    let twice = arguments(&[("expires", int(1)), ("expires", int(2))]);
    assert_eq!(with("", twice), Err(BadPolicy::Twice("expires".to_owned())));
    assert!(matches!(with("a(", one()), Err(BadPolicy::Pattern(_))));
    assert!(matches!(with("((a{1000}){1000}){1000}", one()), Err(BadPolicy::Pattern(_))));
    assert_eq!(with(&"a".repeat(PATTERN_BYTES_MAX + 1), one()), Err(BadPolicy::PatternTooLong));
    let long = arguments(&[(key, text(&"a".repeat(DEFINITION_BYTES_MAX)))]);
    assert_eq!(with("", long), Err(BadPolicy::TooLong));
}

#[test]
fn a_pattern_that_takes_too_many_steps_fits_nothing() {
    // Look-around makes it go back and forth; this one doubles with each letter.
    let spec = policy("p", "^(?=(a+a+)+$)(a+a+)+\\1b", ApplyTo::All, 0, "expires", int(1));
    let policy = Policy::new(spec, PolicySort::Policy).unwrap();
    assert!(!policy.fits(&Subject::Exchange(&"a".repeat(250))));
}
