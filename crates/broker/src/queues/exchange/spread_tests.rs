//! Exchanges that choose one of their bindings: shares, what moves, what is refused.

use std::collections::BTreeSet;

use bytes::Bytes;
use ferrymq_runtime::Rng;

use super::tests::{args, routed};
use super::{HashProperty, Headers, NoHeaders, Routable, Router, check_binding, check_kind};
use crate::queues::args::{Arguments, Value, Width};
use crate::queues::error::Unfit;
use crate::queues::types::ExchangeKind;

fn bound(kind: ExchangeKind, arguments: &Arguments, weights: &[(u64, u32)]) -> Router<u64> {
    let mut router = Router::new(kind, arguments);
    for (id, weight) in weights {
        router.bind(*id, &Bytes::from(weight.to_string()), &Arguments::default(), *id);
    }
    router
}

/// Where each of `count` keys goes.
fn spread(router: &Router<u64>, count: u64) -> Vec<u64> {
    let to = |key: u64| routed(router, format!("key {key}").as_bytes(), &NoHeaders);
    (0..count).map(|key| <[u64; 1]>::try_from(to(key)).unwrap()[0]).collect()
}

#[test]
fn a_consistent_hash_gives_each_its_weight() {
    const KEYS: u64 = 60_000;
    let rng = Rng::seeded(7);
    for _ in 0..10 {
        let count = 2 + rng.below(10);
        let weights: Vec<(u64, u32)> = (0..count).map(|id| (rng.next_u64(), 1 + (id % 4) as u32)).collect();
        let router = bound(ExchangeKind::ConsistentHash, &Arguments::default(), &weights);
        let all: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let found = spread(&router, KEYS);
        for (id, weight) in &weights {
            let got = found.iter().filter(|to| *to == id).count() as f64;
            let share = f64::from(*weight) / f64::from(all);
            let expected = KEYS as f64 * share;
            // Five standard deviations of a fair draw.
            let tolerance = 5.0 * (expected * (1.0 - share)).sqrt();
            assert!((got - expected).abs() < tolerance, "{weight} of {all}: {got}, expected {expected}");
        }
    }
}

#[test]
fn a_consistent_hash_moves_no_more_than_it_must() {
    const KEYS: u64 = 5_000;
    let rng = Rng::seeded(8);
    let mut weights: Vec<(u64, u32)> = (1u32..=6).map(|id| (u64::from(id), 1 + id % 3)).collect();
    let mut router = bound(ExchangeKind::ConsistentHash, &Arguments::default(), &weights);
    let mut before = spread(&router, KEYS);
    for id in 7..60 {
        let gone = if id % 2 == 0 {
            router.bind(id, &Bytes::from_static(b"2"), &Arguments::default(), id);
            weights.push((id, 2));
            None
        } else {
            let at = usize::try_from(rng.below(weights.len() as u64)).unwrap();
            let (gone, weight) = weights.remove(at);
            router.unbind(gone, weight.to_string().as_bytes());
            Some(gone)
        };
        let after = spread(&router, KEYS);
        for (was, is) in before.iter().zip(&after).filter(|(was, is)| was != is) {
            assert!(gone.map_or(*is == id, |gone| *was == gone), "{was} to {is}, {gone:?} gone");
        }
        // The order of binding does not matter, and neither does a restart.
        let mut shuffled = weights.clone();
        shuffled.sort_by_key(|_| rng.next_u64());
        assert_eq!(
            spread(&bound(ExchangeKind::ConsistentHash, &Arguments::default(), &shuffled), KEYS),
            after
        );
        before = after;
    }
}

#[test]
fn a_destination_bound_twice_weighs_what_its_oldest_binding_says() {
    let mut router = Router::new(ExchangeKind::ConsistentHash, &Arguments::default());
    let bind = |router: &mut Router<u64>, id, weight: &'static str, to| {
        router.bind(id, &Bytes::from(weight), &Arguments::default(), to);
    };
    bind(&mut router, 1, "1", 5);
    bind(&mut router, 2, "1", 6);
    let alone = spread(&router, 1000);
    bind(&mut router, 3, "9000", 5);
    assert_eq!(spread(&router, 1000), alone, "the second one does not count");
    router.unbind(1, b"1");
    let heavy = spread(&router, 1000);
    assert!(heavy.iter().filter(|to| **to == 5).count() > 990, "until the first is gone");
    router.unbind(3, b"9000");
    assert!(spread(&router, 1000).iter().all(|to| *to == 6));
    router.unbind(2, b"1");
    assert_eq!(routed(&router, b"x", &NoHeaders), [0; 0]);
}

#[test]
fn a_consistent_hash_looks_at_what_it_was_told_to() {
    struct Properties;
    impl Headers for Properties {
        fn has(&self, _: &str, _: Option<&Value>) -> bool {
            false
        }
        fn value(&self, _: &str) -> Option<Value> {
            None
        }
        fn property(&self, property: HashProperty) -> Option<Vec<u8>> {
            (property == HashProperty::MessageId).then(|| b"7".to_vec())
        }
    }
    let weights: Vec<(u64, u32)> = (0..50).map(|id| (id, 1)).collect();
    let of = |name: &str, value| {
        bound(ExchangeKind::ConsistentHash, &args(&[(name, Value::text(value))]), &weights)
    };
    let by_header = of("hash-header", "h");
    let header = |value| args(&[("h", value)]);
    let places: BTreeSet<u64> =
        (0..100).map(|n| routed(&by_header, b"same", &header(Value::Int(n, Width::I64)))[0]).collect();
    assert!(places.len() > 30, "{places:?}");
    let seven = |width| routed(&by_header, b"any", &header(Value::Int(7, width)));
    assert_eq!(seven(Width::I8), seven(Width::U32));
    let nothing: BTreeSet<u64> = (0..100_u8).map(|key| routed(&by_header, &[key], &NoHeaders)[0]).collect();
    assert_eq!(nothing.len(), 1, "messages without the header stay together");
    assert_ne!(
        routed(&of("hash-property", "message_id"), b"x", &Properties),
        routed(&of("hash-property", "correlation_id"), b"x", &Properties),
        "seven and nothing happen to differ"
    );
    assert!(by_header.varies() && !bound(ExchangeKind::ConsistentHash, &args(&[]), &[]).varies());
}

#[test]
fn carbon_copies_make_no_second_choice() {
    let weights: Vec<(u64, u32)> = (0..9).map(|id| (id, 1)).collect();
    let rng = Rng::seeded(3);
    for kind in [ExchangeKind::ConsistentHash, ExchangeKind::ModulusHash, ExchangeKind::Random] {
        let router = bound(kind, &Arguments::default(), &weights);
        for n in 0..20_u8 {
            let mut found = Vec::new();
            let keys: [&[u8]; 3] = [b"a", &[n], b"b"];
            router.route(&Routable { keys: &keys, headers: &NoHeaders, rng: &rng }, |to| found.push(*to));
            assert_eq!(found.len(), 1, "{kind:?}");
        }
    }
    let mut direct = Router::new(ExchangeKind::Direct, &Arguments::default());
    let mut topic = Router::new(ExchangeKind::Topic, &Arguments::default());
    for (id, key) in [(1, "a"), (2, "b"), (3, "c")] {
        direct.bind(id, &Bytes::from(key), &Arguments::default(), id);
        topic.bind(id, &Bytes::from(key), &Arguments::default(), id);
    }
    for router in [direct, topic] {
        let mut found = Vec::new();
        let keys: [&[u8]; 2] = [b"c", b"a"];
        assert!(
            router.route(&Routable { keys: &keys, headers: &NoHeaders, rng: &rng }, |to| found.push(*to))
        );
        found.sort_unstable();
        assert_eq!(found, [1, 3]);
    }
}

#[test]
fn chance_and_modulus_reach_all_and_one_at_a_time() {
    let weights: Vec<(u64, u32)> = (0..8).map(|id| (id, 1)).collect();
    let rng = Rng::seeded(4);
    for kind in [ExchangeKind::Random, ExchangeKind::LocalRandom, ExchangeKind::ModulusHash] {
        let mut router = bound(kind, &Arguments::default(), &weights);
        let mut counts = [0_u32; 8];
        for n in 0..8000_u32 {
            let key = n.to_be_bytes();
            let message = Routable { keys: &[&key], headers: &NoHeaders, rng: &rng };
            assert!(router.route(&message, |to| counts[usize::try_from(*to).unwrap()] += 1));
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{kind:?} {counts:?}");
        assert_eq!(router.varies(), kind != ExchangeKind::ModulusHash);
        (1..8).for_each(|id| router.unbind(id, b""));
        assert_eq!(routed(&router, b"k", &NoHeaders), [0]);
        router.unbind(0, b"");
        assert_eq!(routed(&router, b"k", &NoHeaders), [0; 0]);
    }
    let modulus = bound(ExchangeKind::ModulusHash, &Arguments::default(), &weights);
    assert_eq!(spread(&modulus, 100), spread(&modulus, 100));
}

#[test]
fn what_does_not_fit_is_told() {
    let check =
        |kind, key: &'static str, classic| check_binding(kind, &Bytes::from(key), &args(&[]), classic);
    for (key, expected) in [
        ("1", Ok(())),
        ("+7", Ok(())),
        ("0010000", Ok(())),
        ("10001", Err(Unfit::WeightTooLarge(10_000))),
        ("99999999999999999999999999", Err(Unfit::WeightTooLarge(10_000))),
        ("0", Err(Unfit::WeightTooSmall)),
        ("-1", Err(Unfit::WeightTooSmall)),
        ("", Err(Unfit::Weight(Bytes::new()))),
        ("+", Err(Unfit::Weight(Bytes::from("+")))),
        ("1 ", Err(Unfit::Weight(Bytes::from("1 ")))),
        ("1.5", Err(Unfit::Weight(Bytes::from("1.5")))),
    ] {
        assert_eq!(check(ExchangeKind::ConsistentHash, key, None), expected, "{key}");
        assert_eq!(check(ExchangeKind::Random, key, None), Ok(()));
    }
    assert_eq!(check(ExchangeKind::LocalRandom, "", Some(true)), Ok(()));
    assert_eq!(check(ExchangeKind::LocalRandom, "", Some(false)), Err(Unfit::NotClassic));
    assert_eq!(check(ExchangeKind::LocalRandom, "", None), Err(Unfit::NotAQueue));
    assert_eq!(check(ExchangeKind::LocalRandom, "k", Some(true)), Err(Unfit::KeyNotEmpty(Bytes::from("k"))));
    let kind = |list: &[(&str, Value)]| check_kind(ExchangeKind::ConsistentHash, &args(list));
    assert_eq!(kind(&[("hash-property", Value::text("timestamp"))]), Ok(()));
    assert_eq!(kind(&[("hash-header", Value::text("any"))]), Ok(()));
    let app = Value::text("app_id");
    assert_eq!(kind(&[("hash-property", app.clone())]), Err(Unfit::Hash(app.clone())));
    assert_eq!(kind(&[("hash-header", Value::Void)]), Err(Unfit::Hash(Value::Void)));
    assert_eq!(kind(&[("hash-property", app.clone()), ("hash-header", app)]), Err(Unfit::TwoHashes));
}

#[test]
fn kinds_are_stored_under_their_names() {
    for name in [
        "direct",
        "fanout",
        "topic",
        "headers",
        "x-consistent-hash",
        "x-modulus-hash",
        "x-random",
        "x-local-random",
    ] {
        let kind = ExchangeKind::parse(name).unwrap();
        assert_eq!((kind.name(), serde_json::to_string(&kind).unwrap()), (name, format!("\"{name}\"")));
        assert_eq!(serde_json::from_str::<ExchangeKind>(&format!("\"{name}\"")).unwrap(), kind);
    }
}
