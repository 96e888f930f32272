//! Routing against naive matchers.

use std::collections::BTreeSet;

use bytes::Bytes;
use ferrymq_runtime::Rng;

use super::{Destined, Headers, NoHeaders, Routable, Router, check_binding};
use crate::queues::args::{Arguments, Value, Width};
use crate::queues::types::ExchangeKind;

impl Destined for u64 {
    fn seed(&self) -> u64 {
        super::hash::mixed(*self)
    }
}

pub(super) fn routed(router: &Router<u64>, key: &[u8], headers: &dyn Headers) -> Vec<u64> {
    let mut found = Vec::new();
    let rng = Rng::seeded(1);
    let any = router.route(&Routable { keys: &[key], headers, rng: &rng }, |to| found.push(*to));
    assert_eq!(any, !found.is_empty());
    found.sort_unstable();
    found
}

pub(super) fn args(list: &[(&str, Value)]) -> Arguments {
    Arguments(list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

#[test]
fn direct_and_fanout() {
    let none = Arguments::default();
    let mut direct = Router::new(ExchangeKind::Direct, &Arguments::default());
    let mut fanout = Router::new(ExchangeKind::Fanout, &Arguments::default());
    for (id, key) in ["a", "a", "b"].into_iter().enumerate() {
        direct.bind(id as u64, &Bytes::from(key), &none, id as u64);
        fanout.bind(id as u64, &Bytes::from(key), &none, id as u64);
    }
    assert_eq!(routed(&direct, b"a", &NoHeaders), [0, 1]);
    assert_eq!(routed(&direct, b"c", &NoHeaders), [0; 0]);
    assert_eq!(routed(&fanout, b"c", &NoHeaders), [0, 1, 2]);
    direct.unbind(0, b"a");
    direct.unbind(7, b"nothing");
    fanout.unbind(0, b"a");
    assert_eq!(routed(&direct, b"a", &NoHeaders), [1]);
    assert_eq!(routed(&fanout, b"", &NoHeaders), [1, 2]);
}

/// The examples of RabbitMQ's documentation and tests.
#[test]
fn topics_by_example() {
    #[track_caller]
    fn check(pattern: &str, key: &str, fits: bool) {
        let mut router = Router::new(ExchangeKind::Topic, &Arguments::default());
        router.bind(1, &Bytes::copy_from_slice(pattern.as_bytes()), &Arguments::default(), 1);
        assert_eq!(routed(&router, key.as_bytes(), &NoHeaders).len(), usize::from(fits), "{pattern} {key}");
    }
    check("*.orange.*", "quick.orange.rabbit", true);
    check("*.orange.*", "orange", false);
    check("lazy.#", "lazy", true);
    check("lazy.#", "lazy.orange.male.rabbit", true);
    check("#", "", true);
    check("#", "a.b", true);
    check("*", "", false);
    check("*", "a", true);
    check("", "", true);
    check("", "a", false);
    check("a..b", "a..b", true);
    check("a.*.b", "a..b", true);
    check("#.#", "a", true);
    check("#.*.#", "", false);
    check("a.#.b", "a.b", true);
    check("a.#.b", "a.b.b", true);
    check("a.#.b", "a.b.c", false);
    check("*#", "ab", false);
}

fn fits(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => fits(rest, key) || !key.is_empty() && fits(pattern, &key[1..]),
        (Some((word, rest)), Some((first, keys))) => (*word == "*" || word == first) && fits(rest, keys),
        _ => false,
    }
}

fn random_key(rng: &Rng, words: &[&'static str], length: u64) -> Vec<&'static str> {
    (0..rng.below(length)).map(|_| words[usize::try_from(rng.below(words.len() as u64)).unwrap()]).collect()
}

#[test]
fn the_trie_is_a_naive_matcher() {
    for seed in 0..200 {
        let rng = Rng::seeded(seed);
        let mut router = Router::new(ExchangeKind::Topic, &Arguments::default());
        let mut naive: Vec<(u64, Vec<&str>)> = Vec::new();
        for id in 0..60 {
            if rng.below(4) == 0 && !naive.is_empty() {
                let at = usize::try_from(rng.below(naive.len() as u64)).unwrap();
                let (gone, pattern) = naive.swap_remove(at);
                router.unbind(gone, pattern.join(".").as_bytes());
            } else {
                let pattern = random_key(&rng, &["a", "b", "*", "#"], 6);
                router.bind(id, &Bytes::from(pattern.join(".")), &Arguments::default(), id);
                naive.push((id, pattern));
            }
            let key = random_key(&rng, &["a", "b", "c"], 7);
            let expected: BTreeSet<u64> =
                naive.iter().filter(|(_, pattern)| fits(pattern, &key)).map(|(id, _)| *id).collect();
            let found = routed(&router, key.join(".").as_bytes(), &NoHeaders);
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "seed {seed} key {key:?} {naive:?}");
        }
        for (id, pattern) in naive {
            router.unbind(id, pattern.join(".").as_bytes());
        }
        let Router::Topic(trie) = router else { panic!("a topic router") };
        assert_eq!(trie.nodes(), 1, "nothing is left behind");
    }
}

/// With backtracking this would take longer than anybody waits.
#[test]
fn many_hashes_do_not_explode() {
    let mut router = Router::new(ExchangeKind::Topic, &Arguments::default());
    let pattern = format!("{}x", "#.".repeat(100));
    router.bind(1, &Bytes::from(pattern), &Arguments::default(), 1);
    let key = "a.".repeat(120);
    assert_eq!(routed(&router, key.as_bytes(), &NoHeaders), [0; 0]);
    assert_eq!(routed(&router, format!("{key}x").as_bytes(), &NoHeaders), [1]);
}

#[test]
fn headers_in_all_four_forms() {
    let int = |value| Value::Int(value, Width::I32);
    let with = |form: &str| {
        let mut list = vec![("a", int(1)), ("b", Value::Void), ("x-c", int(3))];
        list.push(("x-match", Value::text(form)));
        args(&list)
    };
    let mut router = Router::new(ExchangeKind::Headers, &Arguments::default());
    for (id, form) in ["all", "any", "all-with-x", "any-with-x"].into_iter().enumerate() {
        router.bind(id as u64, &Bytes::new(), &with(form), id as u64);
    }
    let check = |headers: &[(&str, Value)], expected: &[u64]| {
        assert_eq!(routed(&router, b"", &args(headers)), expected, "{headers:?}");
    };
    check(&[], &[]);
    check(&[("a", int(1))], &[1, 3]);
    check(&[("a", int(2))], &[]);
    check(&[("a", Value::Int(1, Width::U8))], &[1, 3]);
    check(&[("a", Value::text("1"))], &[]);
    check(&[("b", Value::text("whatever"))], &[1, 3]);
    check(&[("a", int(1)), ("b", Value::Void)], &[0, 1, 3]);
    check(&[("x-c", int(3))], &[3]);
    check(&[("a", int(1)), ("b", int(9)), ("x-c", int(3))], &[0, 1, 2, 3]);
    router.unbind(1, b"");
    assert_eq!(routed(&router, b"", &args(&[("a", int(1))])), [3]);
}

#[test]
fn no_conditions_are_met_by_all_and_never_by_any() {
    let mut router = Router::new(ExchangeKind::Headers, &Arguments::default());
    router.bind(1, &Bytes::new(), &Arguments::default(), 1);
    router.bind(2, &Bytes::new(), &args(&[("x-match", Value::text("any"))]), 2);
    assert_eq!(routed(&router, b"", &NoHeaders), [1]);
}

#[test]
fn a_wrong_match_is_told() {
    for bad in [Value::text("some"), Value::Int(1, Width::I32), Value::Void] {
        let check = |kind| check_binding(kind, &Bytes::new(), &args(&[("x-match", bad.clone())]), Some(true));
        assert!(check(ExchangeKind::Headers).is_err(), "{bad:?}");
        assert!(check(ExchangeKind::Topic).is_ok());
    }
}
