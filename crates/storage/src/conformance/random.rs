//! Random lives of a few logs, compared step by step with [`MemoryStore`].
//!
//! **Invariant.** Whatever is done, the engine and the oracle answer the same: outcomes by kind, claims,
//! reads, descriptions, finds. The smallest life that makes them differ is printed.
//!
//! Deliberately absent: the class `Memory` (what a restart leaves of it is the engine's business; see
//! `restart`), and several calls at a time (see `append` and `fence`).

use std::sync::Arc;

use ferrymq_types::{CommitId, Durability, LogId, Offset, OwnerId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::bench::{Bench, sized};
use super::{Factory, Runner};
use crate::{
    Action, Append, Batch, Claim, Find, Group, LogStore, MemoryStore, Op, Outcome, Space, StorageError,
};

const LOGS: u64 = 3;

/// Something done to a log. Places are in 16ths of the log as it then is, so that they mean something
/// whatever was done before.
#[derive(Debug, Clone)]
enum Act {
    Append {
        gap: u8,
        wrong_by: i8,
        batches: Vec<(u8, i8, u8)>,
        os: bool,
    },
    Trim(u8),
    Discard(Vec<(u8, u8)>),
    /// Replaces a part by batches at the beginnings of every n-th batch of it.
    Replace {
        part: (u8, u8),
        every: usize,
    },
    Delete,
}

#[derive(Debug, Clone)]
enum Step {
    Claim {
        log: u64,
        owner: u128,
    },
    /// One group; `stale`: sent by somebody who has lost the logs.
    Commit {
        acts: Vec<(u64, Act)>,
        stale: bool,
    },
    Read {
        log: u64,
        from: u8,
        until: u8,
        max_bytes: usize,
    },
    Headers {
        log: u64,
        from: u8,
        max: usize,
        prefix: usize,
    },
    Find {
        log: u64,
        what: Find,
    },
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let batches = vec((1u8..6, any::<i8>(), 1u8..40), 0..4);
    let wrong_by = prop_oneof![9 => Just(0i8), 1 => any::<i8>()];
    let place = 0u8..18;
    prop_oneof![
        10 => (0u8..3, wrong_by, batches, any::<bool>())
            .prop_map(|(gap, wrong_by, batches, os)| Act::Append { gap, wrong_by, batches, os }),
        2 => place.clone().prop_map(Act::Trim),
        3 => vec((place.clone(), place.clone()), 0..3).prop_map(Act::Discard),
        3 => ((place.clone(), place), 1usize..4).prop_map(|(part, every)| Act::Replace { part, every }),
        1 => Just(Act::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let log = 0..LOGS;
    let find = prop_oneof![
        any::<i8>().prop_map(|at| Find::Timestamp(at.into())),
        Just(Find::MaxTimestamp),
        (0u64..200).prop_map(Find::TailBytes),
    ];
    prop_oneof![
        2 => (log.clone(), 0u128..3).prop_map(|(log, owner)| Step::Claim { log, owner }),
        12 => (vec((log.clone(), act()), 1..4), prop::bool::weighted(0.05))
            .prop_map(|(acts, stale)| Step::Commit { acts, stale }),
        3 => (log.clone(), 0u8..18, 0u8..18, 0usize..200)
            .prop_map(|(log, from, until, max_bytes)| Step::Read { log, from, until, max_bytes }),
        2 => (log.clone(), 0u8..18, 0usize..6, 0usize..30)
            .prop_map(|(log, from, max, prefix)| Step::Headers { log, from, max, prefix }),
        2 => (log, find).prop_map(|(log, what)| Step::Find { log, what }),
        1 => Just(Step::Reopen),
    ]
}

/// Lives `lives` random lives of up to 60 steps.
pub fn run(factory: &Factory, run: &Runner, lives: u32) {
    let config =
        Config { cases: lives, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let result = TestRunner::new(config).run(&vec(step(), 1..60), |steps| {
        let opening = factory();
        run(Box::pin(async move { live(Bench::new(opening.await), steps).await }));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

async fn live(bench: Bench, steps: Vec<Step>) {
    let mut twins = Twins { bench, oracle: MemoryStore::new(), epochs: Vec::new(), sequence: 0 };
    for log in 0..LOGS {
        twins.claim(log, 1).await;
    }
    for step in &steps {
        twins.step(step).await;
        for log in 0..LOGS {
            twins.compare(log).await;
        }
    }
}

/// The engine and the oracle side by side.
struct Twins {
    bench: Bench,
    oracle: MemoryStore,
    /// Present owner and the engine's and the oracle's epoch, which need not be the same numbers.
    epochs: Vec<Held>,
    sequence: u64,
}

#[derive(Clone, Copy)]
struct Held {
    owner: OwnerId,
    engine: Claim,
    oracle: Claim,
}

impl Twins {
    async fn step(&mut self, step: &Step) {
        match step {
            Step::Claim { log, owner } => self.claim(*log, *owner).await,
            Step::Commit { acts, stale } => self.commit(acts, *stale).await,
            Step::Read { log, from, until, max_bytes } => {
                let (from, until) = (self.place(*log, *from).await, self.place(*log, *until).await);
                let read = |store: &dyn LogStore| store.read(LogId(*log), from, until, *max_bytes);
                let bytes = |read: crate::Read| {
                    let next = read.next();
                    (read.runs.iter().flat_map(|run| run.bytes.to_vec()).collect::<Vec<u8>>(), next)
                };
                same(read(&**self.bench.store()).await.map(bytes), read(&self.oracle).await.map(bytes));
            }
            Step::Headers { log, from, max, prefix } => {
                let from = self.place(*log, *from).await;
                let ask = |store: &dyn LogStore| store.headers(LogId(*log), from, *max, *prefix);
                let told = ask(&**self.bench.store()).await;
                same(told.map(without_epochs), ask(&self.oracle).await.map(without_epochs));
            }
            Step::Find { log, what } => {
                let found = self.bench.store().find(LogId(*log), *what).await;
                let oracle = self.oracle.find(LogId(*log), *what).await;
                same(
                    found.map(|head| head.map(|head| head.base)),
                    oracle.map(|head| head.map(|head| head.base)),
                );
            }
            Step::Reopen => {
                self.bench.reopen().await;
                for log in 0..LOGS {
                    self.claim(log, 1).await;
                }
            }
        }
    }

    async fn claim(&mut self, log: u64, owner: u128) {
        let owner = OwnerId(owner);
        let engine = self.bench.store().claim(vec![LogId(log)], owner).await;
        let oracle = self.oracle.claim(vec![LogId(log)], owner).await;
        let told = |claims: &Vec<Claim>| (claims[0].start, claims[0].next, claims[0].last_commit);
        same(
            engine.as_ref().map(told).map_err(Clone::clone),
            oracle.as_ref().map(told).map_err(Clone::clone),
        );
        if let (Ok(engine), Ok(oracle)) = (engine, oracle) {
            let held = Held { owner, engine: engine[0], oracle: oracle[0] };
            self.epochs.retain(|held| held.oracle.log != LogId(log));
            self.epochs.push(held);
        }
    }

    fn held(&self, log: u64) -> Held {
        *self.epochs.iter().find(|held| held.oracle.log == LogId(log)).expect("all logs are claimed at first")
    }

    async fn commit(&mut self, acts: &[(u64, Act)], stale: bool) {
        let atomic = self.bench.store().atomic_multi_log();
        let owner = self.held(acts[0].0).owner;
        let (mut engine, mut oracle): (Group, Group) = (Vec::new(), Vec::new());
        // What the group has appended so far, so that later steps of it expect the right offset.
        let mut appended = vec![None; usize::try_from(LOGS).expect("small")];
        for (log, act) in acts {
            let log = if atomic { *log } else { acts[0].0 };
            let held = self.held(log);
            let next = &mut appended[usize::try_from(log).expect("small")];
            let action = self.action(log, act, next).await;
            let op = |epoch| Op { log: LogId(log), epoch, owner, action: action.clone() };
            let epochs = if stale {
                (ferrymq_types::Epoch(held.engine.epoch.0 - 1), ferrymq_types::Epoch(held.oracle.epoch.0 - 1))
            } else {
                (held.engine.epoch, held.oracle.epoch)
            };
            engine.push(op(epochs.0));
            oracle.push(op(epochs.1));
        }
        let engine: Outcome = self.bench.store().commit(vec![engine]).await.remove(0);
        same(engine, self.oracle.commit(vec![oracle]).await.remove(0));
    }

    async fn action(&mut self, log: u64, act: &Act, appended: &mut Option<u64>) -> Action {
        match act {
            Act::Append { gap, wrong_by, batches, os } => {
                let next = match appended {
                    Some(next) => *next,
                    None => self.oracle.stat(LogId(log)).await.map_or(0, |stat| stat.next.0),
                };
                let mut at = next + u64::from(*gap);
                let mut made = Vec::new();
                for (span, stamp, size) in batches {
                    made.push(sized(at, u32::from(*span), i64::from(*stamp), usize::from(*size)));
                    at += u64::from(*span);
                }
                *appended = Some(at);
                self.sequence += 1;
                Action::Append(Append {
                    expect_next: Offset(next.saturating_add_signed((*wrong_by).into())),
                    commit_id: CommitId { writer: 1, sequence: self.sequence },
                    class: if *os { Durability::Os } else { Durability::Sync },
                    space: Space::Normal,
                    batches: made,
                })
            }
            Act::Trim(place) => Action::Trim(self.place(log, *place).await),
            Act::Discard(parts) => {
                let mut ranges = Vec::new();
                for (from, to) in parts {
                    ranges.push(self.place(log, *from).await..self.place(log, *to).await);
                }
                Action::Discard(ranges)
            }
            Act::Replace { part, every } => {
                let range = self.place(log, part.0).await..self.place(log, part.1).await;
                let heads = self.oracle.headers(LogId(log), range.start, 100, 0).await.unwrap_or_default();
                let inside = heads.iter().filter(|head| range.start <= head.base && end(head) <= range.end);
                let batches = inside.step_by(*every).map(|head| sized(head.base.0, head.span, 1, 9));
                let batches: Vec<Batch> = batches.collect();
                Action::Replace { range, batches }
            }
            Act::Delete => Action::Delete,
        }
    }

    /// An offset that lies so many 16ths of the way from start to next, or a little behind it.
    async fn place(&self, log: u64, sixteenths: u8) -> Offset {
        match self.oracle.stat(LogId(log)).await {
            Ok(stat) => Offset(stat.start.0 + stat.next.since(stat.start) * u64::from(sixteenths) / 16),
            Err(_) => Offset(u64::from(sixteenths)),
        }
    }

    async fn compare(&self, log: u64) {
        let log = LogId(log);
        let store: &Arc<dyn LogStore> = self.bench.store();
        let bounds = |stat: crate::Stat| (stat.start, stat.next, stat.bytes);
        same(store.stat(log).await.map(bounds), self.oracle.stat(log).await.map(bounds));
        let (from, prefix) = (Offset::ZERO, 1_000);
        let heads = store.headers(log, from, usize::MAX, prefix).await;
        same(
            heads.map(without_epochs),
            self.oracle.headers(log, from, usize::MAX, prefix).await.map(without_epochs),
        );
    }
}

fn end(head: &crate::BatchHead) -> Offset {
    head.base.plus(u64::from(head.span))
}

/// The engine need not count epochs as the oracle does; `fence` checks that they rise.
fn without_epochs(mut heads: Vec<crate::BatchHead>) -> Vec<crate::BatchHead> {
    heads.iter_mut().for_each(|head| head.epoch = ferrymq_types::Epoch(0));
    heads
}

/// Checks that both said the same, or refused in the same way.
fn same<T: PartialEq + std::fmt::Debug>(engine: Result<T, StorageError>, oracle: Result<T, StorageError>) {
    let kinds = |result: Result<T, StorageError>| result.map_err(|error| error.kind());
    assert_eq!(kinds(engine), kinds(oracle), "the engine (left) and the oracle (right) differ");
}
