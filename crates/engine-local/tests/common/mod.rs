//! What tests that drive an engine's core step by step share.
//!
//! Deliberately absent: threads, tokio, time.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

pub mod faults;
pub mod journal;
pub mod payload;
pub mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_disk::{Disk, SimDisk};
use ferrymq_engine_local::core::{Core, Done, Submission, Work};
use ferrymq_engine_local::read::Reader;
use ferrymq_engine_local::{Options, SeededBug};
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::{Action, Append, Batch, Op, Space, StorageError};
use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};
use parking_lot::Mutex;

pub fn bytes_of(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    Bytes::from(out)
}

pub fn open(disk: &SimDisk, options: &Options) -> Result<Core, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Core::open(disk, options.clone(), Clock::starting_at(0), &Rng::seeded(7))
}

pub fn tiny(bug: Option<SeededBug>) -> Options {
    Options { seeded_bug: bug, ..Options::tiny() }
}

/// Does work and returns what came of each piece.
pub fn execute(core: &mut Core, work: Vec<Work>) -> Vec<Done> {
    execute_noting(core, work, Arc::new(|_, _| {}))
}

/// What is told of each answer at the moment at which it is given.
pub type OnAnswer = Arc<dyn Fn(usize, &Done) + Send + Sync>;

/// Likewise; `on_answer` hears of each answer at the moment at which it is given.
pub fn execute_noting(core: &mut Core, work: Vec<Work>, on_answer: OnAnswer) -> Vec<Done> {
    let answers: Arc<Mutex<BTreeMap<usize, Done>>> = Arc::default();
    let submissions = work.into_iter().enumerate().map(|(index, work)| {
        let (answers, on_answer) = (answers.clone(), on_answer.clone());
        let reply = Box::new(move |done| {
            on_answer(index, &done);
            assert!(answers.lock().insert(index, done).is_none(), "answered twice");
        });
        Submission { work, reply }
    });
    core.execute(submissions.collect());
    Arc::try_unwrap(answers).expect("all replies are gone").into_inner().into_values().collect()
}

pub fn append(log: u64, epoch: u32, owner: u128, next: u64, class: Durability, batches: Vec<Batch>) -> Op {
    Op {
        log: LogId(log),
        epoch: Epoch(epoch),
        owner: OwnerId(owner),
        action: Action::Append(Append {
            expect_next: Offset(next),
            commit_id: CommitId { writer: 1, sequence: next },
            class,
            space: Space::Normal,
            batches,
        }),
    }
}

pub fn claim(core: &mut Core, logs: &[u64], owner: u128) -> Vec<ferrymq_storage::Claim> {
    let logs = logs.iter().map(|log| LogId(*log)).collect();
    match execute(core, vec![Work::Claim { logs, owner: OwnerId(owner) }]).remove(0) {
        Done::Claim(result) => result.expect("a claim of living logs on a good disk succeeds"),
        Done::Group(_) => unreachable!("a claim was asked for"),
    }
}

/// Everything a log shows, each batch with its bytes.
pub fn show(reader: &Reader, log: u64) -> Result<Vec<(u64, u32, Bytes)>, StorageError> {
    let heads = reader.headers(log, 0, usize::MAX, 0)?;
    let mut out = Vec::new();
    for head in heads {
        let read = reader.read(log, head.base.0, head.base.0 + 1, 1)?;
        assert_eq!(read.runs.len(), 1, "one batch was asked for");
        assert_eq!((read.runs[0].base, read.runs[0].bytes.len()), (head.base, head.size as usize));
        out.push((head.base.0, head.span, read.runs[0].bytes.clone()));
    }
    Ok(out)
}
