//! Connections that are cut at the worst moments, and a server that is killed under load: what was acknowledged is there
//! once, what was refused is not, and the store goes on by itself.
//!
//! Deliberately absent: power cuts of the database's machine; those are PostgreSQL's own promise.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use ferrymq_checker::{Expectations, Polled, Recorder, Terms, Value, What};
use ferrymq_engine_postgres::{Options, PostgresStore};
use ferrymq_runtime::{Rng, TaskKind, Tasks};
use ferrymq_storage::{Action, Append, Batch, Claim, LogStore, Op, Outcome, Space};
use ferrymq_types::{CommitId, Durability, LogId, Offset, OwnerId};

use common::proxy::{Cuts, proxy};

const LOGS: u64 = 4;

fn append(claim: &Claim, owner: u128, at: u64, sequence: u64, value: &Value) -> Op {
    let action = Action::Append(Append {
        expect_next: Offset(at),
        commit_id: CommitId { writer: u64::try_from(owner).unwrap(), sequence },
        class: Durability::Sync,
        space: Space::Normal,
        batches: vec![Batch::new(Offset(at), 1, 0, format!("{value};").into())],
    });
    Op { log: claim.log, epoch: claim.epoch, owner: OwnerId(owner), action }
}

fn name(log: u64) -> String {
    format!("log-{log}")
}

/// Writes to its own log, sometimes to all in one group, and notes what it was told.
async fn write(
    store: Arc<PostgresStore>,
    recorder: Recorder,
    log: u64,
    until: Arc<AtomicBool>,
    acknowledged: Sender<()>,
) {
    let owner = u128::from(log) + 1;
    let mut claim = store.claim(vec![LogId(log)], OwnerId(owner)).await.unwrap()[0];
    let (mut at, mut number) = (claim.next.0, 0);
    while !until.load(Ordering::Relaxed) {
        let value = Value::new(&format!("w{log}"), number);
        number += 1;
        let terms = Terms { epoch: Some(claim.epoch.0), ..Terms::default() };
        let what = What::Send { log: name(log), value: value.clone(), offset: Some(at), terms };
        let pending = recorder.begin(&format!("w{log}"), what);
        let group = vec![append(&claim, owner, at, number, &value)];
        let outcome: Outcome = store.commit(vec![group]).await.remove(0);
        match outcome {
            Ok(()) => {
                pending.ok();
                at += 1;
                let _ = acknowledged.send(());
            }
            Err(error) if error.is_definite() => pending.fail(),
            Err(_) => {
                pending.info();
                claim = store.claim(vec![LogId(log)], OwnerId(owner)).await.unwrap()[0];
                at = claim.next.0;
            }
        }
    }
}

async fn read_all(store: &PostgresStore, recorder: &Recorder) {
    for log in 0..LOGS {
        let read = store.read(LogId(log), Offset::ZERO, Offset::MAX, usize::MAX).await.unwrap();
        let mut records = Vec::new();
        for run in read.runs {
            let text = String::from_utf8(run.bytes.to_vec()).unwrap();
            records.push(Polled {
                offset: run.base.0,
                value: Value::from_text(text.trim_end_matches(';')).unwrap(),
            });
        }
        let next = store.stat(LogId(log)).await.unwrap().next.0;
        recorder.begin("reader", What::Poll { log: name(log), from: 0, next, records, last: true }).ok();
    }
}

/// Runs writers while `trouble` happens, and judges.
fn under(
    url: String,
    options: Options,
    acknowledged_min: usize,
    lost_min: u64,
    trouble: impl FnOnce(&Receiver<()>, &PostgresStore) + Send + 'static,
) {
    common::on_tokio(Box::pin(async move {
        let store = Arc::new(common::open(&url, options).await);
        let (recorder, until, tasks) = (Recorder::new(), Arc::new(AtomicBool::new(false)), Tasks::new());
        let (sender, acknowledged) = channel();
        for log in 0..LOGS {
            let writer = write(store.clone(), recorder.clone(), log, until.clone(), sender.clone());
            tasks.spawn(TaskKind::Owner, "a writer", writer);
        }
        let troubled = store.clone();
        let healed = ferrymq_runtime::blocking(move || {
            trouble(&acknowledged, &troubled);
            acknowledged
        });
        drop(healed.await);
        until.store(true, Ordering::Relaxed);
        assert!(tasks.stop_and_wait(std::time::Duration::from_secs(60)).await, "a writer was never answered");
        read_all(&store, &recorder).await;
        let expected = Expectations {
            sends_min: acknowledged_min,
            records_min: acknowledged_min,
            ..Expectations::default()
        };
        let report = ferrymq_checker::check(&recorder.history(), &expected);
        assert!(report.is_clean(), "{report}");
        let lost = store.counters().lost_replies.load(Ordering::Relaxed);
        assert!(lost >= lost_min, "only {lost} replies were lost: nothing was tried");
        assert!(store.health().stopped.is_none(), "{:?}", store.health());
    }));
}

fn with_cuts(before: u32, after: u32) {
    let Some(server) = common::shared() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (made, cut) = channel();
    let cuts = Arc::new(Cuts::none(made));
    let socket = directory.path().to_owned();
    let real: PathBuf = server.directory.path().to_owned();
    let proxying = cuts.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tasks = Tasks::new();
    let entered = runtime.enter();
    proxy(&real, &socket, proxying, Rng::seeded(u64::from(before * 100 + after)), tasks.clone());
    drop(entered);
    let url = format!("postgres:///postgres?user=ferrymq&host={}", socket.display());
    let trouble = cuts;
    let schema = common::schema();
    under(url, Options { schema, ..Options::default() }, 50, 10, move |acknowledged, _| {
        trouble.before.store(before, Ordering::Relaxed);
        trouble.after.store(after, Ordering::Relaxed);
        cut.iter().take(40).for_each(drop);
        trouble.before.store(0, Ordering::Relaxed);
        trouble.after.store(0, Ordering::Relaxed);
        acknowledged.iter().take(50).for_each(drop);
    });
    tasks.stop();
    runtime.shutdown_background();
}

#[test]
fn cut_before_the_statement_arrives() {
    with_cuts(20, 0);
}

#[test]
fn cut_between_the_commit_and_its_reply() {
    with_cuts(0, 20);
}

#[test]
fn the_server_is_killed_again_and_again() {
    let Some(mut server) = common::Server::start(&[]) else { return };
    let url = server.url.clone();
    let (keep, _kept) = channel();
    under(url, Options::default(), 50, 1, move |acknowledged, store| {
        let lost = || store.counters().lost_replies.load(Ordering::Relaxed);
        // A session that is at work finishes its statement before it notices that its server is gone: not every kill
        // costs a reply.
        for kill in 0.. {
            if kill >= 4 && lost() > 0 || kill == 40 {
                break;
            }
            // What was acknowledged meanwhile, and a little more.
            acknowledged.try_iter().for_each(drop);
            acknowledged.iter().take(20).for_each(drop);
            server.kill_and_restart();
        }
        acknowledged.iter().take(20).for_each(drop);
        // What was written is read after this.
        keep.send(server).unwrap();
    });
}
