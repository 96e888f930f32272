//! Whole plays on bare logs: what the contract is for.

use std::collections::{BTreeMap, BTreeSet};

use ferrymq_types::{LogId, Offset};

use super::bench::{ALL, Bench, Owner, batch, refused, row};
use crate::{Batch, ErrorKind};

const QUEUE: u64 = 1;
const DEAD: u64 = 2;
const ACKS: u64 = 3;

/// A queue's owner: hands out nothing, remembers what is done with.
struct Queue {
    owner: Owner,
    batches: Vec<Batch>,
    done: BTreeSet<u64>,
    dead_next: u64,
    acks_next: u64,
}

impl Queue {
    /// Takes the logs over and reads back what is done with.
    async fn open(bench: &Bench, nonce: u128, batches: Vec<Batch>) -> Queue {
        let mut owner = Owner::new(bench.store(), nonce);
        let claims = owner.claim(&[QUEUE, DEAD, ACKS]).await;
        let mut done: BTreeSet<u64> = (0..claims[0].start.0).collect();
        let read =
            bench.store().read(LogId(ACKS), Offset::ZERO, Offset::MAX, ALL).await.expect("the log is there");
        for run in read.runs {
            let said = String::from_utf8(run.bytes.to_vec()).expect("acks are text");
            done.extend(said.split_terminator(';').map(|offset| offset.parse::<u64>().expect("an offset")));
        }
        Queue { owner, batches, done, dead_next: claims[1].next.0, acks_next: claims[2].next.0 }
    }

    /// Is done with one message: durably, with its dead letter first, and frees what nobody needs.
    async fn settle(&mut self, offset: u64, dead: bool, atomic: bool) {
        let mut group = Vec::new();
        if dead {
            let mut letter = batch(self.dead_next, 1);
            letter.bytes = format!("dead {offset};").into();
            group.push(self.owner.append(DEAD, &[letter]));
            self.dead_next += 1;
        }
        let mut ack = batch(self.acks_next, 1);
        ack.bytes = format!("{offset};").into();
        group.push(self.owner.append(ACKS, &[ack]));
        self.acks_next += 1;
        self.done.insert(offset);
        let from = (0..=offset).rev().take_while(|at| self.done.contains(at)).last().unwrap_or(offset);
        let to = (offset..).find(|at| !self.done.contains(at)).unwrap_or(offset);
        group.push(match from {
            0 => self.owner.trim(QUEUE, to),
            _ => self.owner.discard(QUEUE, &[(from, to)]),
        });
        if atomic {
            self.owner.done(group).await;
        } else {
            for op in group {
                self.owner.done(vec![op]).await;
            }
        }
    }

    fn left(&self) -> Vec<Batch> {
        batches_left(&self.batches, &self.done)
    }
}

/// Batches with a message that is not done with.
fn batches_left(batches: &[Batch], done: &BTreeSet<u64>) -> Vec<Batch> {
    let alive = |batch: &&Batch| (batch.base.0..batch.next().0).any(|offset| !done.contains(&offset));
    batches.iter().filter(alive).cloned().collect()
}

pub(super) async fn ack_queue_with_dead_letters(mut bench: Bench) {
    let atomic = bench.store().atomic_multi_log();
    let batches = row(0, &[1, 3, 2, 1, 1, 4, 1, 1, 2, 3, 1, 5, 1, 1, 3]);
    let mut queue = Queue::open(&bench, 1, batches.clone()).await;
    queue.owner.fill(QUEUE, &batches).await;
    let mut dead = Vec::new();
    // 7 and 30 have no common divisor: every offset once, in no useful order; 13 is stuck till the end.
    for turn in 0..30u64 {
        let offset = turn * 7 % 30;
        if offset == 13 {
            continue;
        }
        let is_dead = turn % 4 == 0;
        queue.settle(offset, is_dead, atomic).await;
        if is_dead {
            dead.push(format!("dead {offset};"));
        }
        bench.holds(QUEUE, &queue.left()).await;
        if turn % 10 == 9 {
            let done = std::mem::take(&mut queue.done);
            let zombie = (turn != 19).then(|| queue.owner.clone());
            drop(queue);
            if zombie.is_none() {
                bench.reopen().await;
            }
            queue = Queue::open(&bench, u128::from(turn), batches.clone()).await;
            if let Some(zombie) = zombie {
                refused(zombie.commit(vec![zombie.discard(QUEUE, &[(0, 30)])]).await, ErrorKind::Fenced);
                bench.holds(QUEUE, &batches_left(&batches, &done)).await;
            }
            assert_eq!(queue.done, done, "what is done with is read back");
        }
    }
    assert_eq!(queue.left(), batches[7..8], "only the batch that holds offset 13");
    let read =
        bench.store().read(LogId(DEAD), Offset::ZERO, Offset::MAX, ALL).await.expect("the log is there");
    let letters: Vec<u8> = read.runs.iter().flat_map(|run| run.bytes.to_vec()).collect();
    assert_eq!(String::from_utf8_lossy(&letters), dead.concat());
    queue.settle(13, false, atomic).await;
    bench.holds(QUEUE, &[]).await;
    assert_eq!(bench.stat(QUEUE).await.next, Offset(30));
}

pub(super) async fn transaction_over_three_logs(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2, 3]).await;
    for log in [1, 2] {
        owner.fill(log, &row(0, &[3])).await;
    }
    let marker = |base| batch(base, 1);
    let end = |owner: &mut Owner, second: u64| {
        vec![
            owner.append(3, &[marker(0)]),
            owner.append(1, &[marker(3)]),
            owner.append_at(2, second, &[marker(second)]),
        ]
    };
    if !bench.store().atomic_multi_log() {
        refused(owner.commit(end(&mut owner.clone(), 3)).await, ErrorKind::InvalidArgument);
        // Then the decision is written first and the markers follow it, one by one.
        for op in end(&mut owner, 3) {
            owner.done(vec![op]).await;
        }
    } else {
        refused(owner.commit(end(&mut owner.clone(), 4)).await, ErrorKind::Conflict);
        for (log, held) in [(1, &row(0, &[3])[..]), (2, &row(0, &[3])), (3, &[])] {
            bench.holds(log, held).await;
        }
        let group = end(&mut owner, 3);
        owner.done(group).await;
    }
    for log in [1, 2] {
        bench.holds(log, &row(0, &[3, 1])).await;
    }
    bench.holds(3, &[marker(0)]).await;
}

/// Records as text: `offset=key;`.
fn records(bytes: &[u8]) -> Vec<(u64, u64)> {
    let text = std::str::from_utf8(bytes).expect("records are text");
    let record = |record: &str| {
        let (offset, key) = record.split_once('=').expect("a record has a key");
        (offset.parse().expect("an offset"), key.parse().expect("a key"))
    };
    text.split_terminator(';').map(record).collect()
}

/// A batch of these records that takes up the offsets from `base` to the last of them.
fn keyed(base: u64, records: &[(u64, u64)]) -> Batch {
    let last = records.last().map_or(base, |(offset, _)| *offset);
    let mut batch = batch(base, u32::try_from(last + 1 - base).expect("small"));
    batch.bytes = records.iter().map(|(offset, key)| format!("{offset}={key};")).collect::<String>().into();
    batch
}

async fn read_records(bench: &Bench, from: u64, max_bytes: usize) -> Vec<(u64, u64)> {
    let read = bench.store().read(LogId(1), Offset(from), Offset::MAX, max_bytes).await;
    let mut found: Vec<(u64, u64)> =
        read.expect("the log is there").runs.iter().flat_map(|run| records(&run.bytes)).collect();
    found.retain(|(offset, _)| *offset >= from);
    found
}

pub(super) async fn compaction_under_a_reader(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let mut next = 0;
    let mut latest = BTreeMap::new();
    for round in 0..4u64 {
        for _ in 0..6 {
            let fresh: Vec<(u64, u64)> =
                (next..next + 4).map(|offset| (offset, offset * 5 % 11 + round)).collect();
            owner.fill(1, &[keyed(next, &fresh)]).await;
            latest.extend(fresh.iter().map(|(offset, key)| (*key, *offset)));
            next += 4;
        }
        let middle = next / 2;
        let before = read_records(&bench, middle, 1).await;
        // Everything but the last batch is compacted; two old batches make one new one.
        let clean = next - 4;
        let kept: Vec<(u64, u64)> = read_records(&bench, 0, ALL).await;
        let kept: Vec<_> = kept.into_iter().filter(|(at, key)| *at >= clean || latest[key] == *at).collect();
        let rewritten: Vec<Batch> = kept
            .chunk_by(|a, b| a.0 / 8 == b.0 / 8)
            .map(|records| records.iter().copied().filter(|(at, _)| *at < clean).collect::<Vec<_>>())
            .filter(|records| !records.is_empty())
            .map(|records| keyed(records[0].0, &records))
            .collect();
        owner.done(vec![owner.replace(1, 0, clean, &rewritten)]).await;
        let after = read_records(&bench, 0, ALL).await;
        assert_eq!(after, kept, "round {round}");
        // A reader that goes on where it was misses nothing that is still there.
        let at = before.last().map_or(middle, |(offset, _)| offset + 1);
        let rest: Vec<_> = after.into_iter().filter(|(offset, _)| *offset >= at).collect();
        assert_eq!(read_records(&bench, at, ALL).await, rest);
        assert_eq!(bench.stat(1).await.next, Offset(next));
    }
}

pub(super) async fn a_thousand_logs_at_once(bench: Bench) {
    let logs: Vec<u64> = (0..1_000).collect();
    let mut owner = bench.owner(1, &logs).await;
    let groups = logs.iter().map(|log| vec![owner.append(*log, &row(0, &[1, 2]))]).collect();
    let outcomes = bench.store().commit(groups).await;
    assert_eq!(outcomes.len(), 1_000);
    outcomes.into_iter().for_each(|outcome| outcome.expect("all logs are owned and in order"));
    let second: Vec<_> = logs.iter().map(|log| owner.append(*log, &[batch(3, 1)])).collect();
    if bench.store().atomic_multi_log() {
        owner.done(second).await;
    } else {
        let groups = second.into_iter().map(|op| vec![op]).collect();
        bench.store().commit(groups).await.into_iter().for_each(|outcome| outcome.expect("in order"));
    }
    for log in logs.iter().step_by(37) {
        bench.holds(*log, &row(0, &[1, 2, 1])).await;
    }
}

pub(super) async fn takeovers_with_lost_replies(bench: Bench) {
    let mut expected = Vec::new();
    let mut unknown: Option<(ferrymq_types::CommitId, Batch)> = None;
    for turn in 0..25u64 {
        let mut owner = Owner::new(bench.store(), u128::from(turn));
        let claim = owner.claim(&[1]).await[0];
        if let Some((id, batch)) = unknown.take()
            && claim.last_commit == Some(id)
        {
            expected.push(batch);
        }
        assert_eq!(claim.next.0, expected.last().map_or(0, |batch: &Batch| batch.next().0));
        bench.holds(1, &expected).await;
        let at = claim.next.0;
        owner.fill(1, &[batch(at, 2)]).await;
        expected.push(batch(at, 2));
        // The reply to this one is lost: only the next owner's claim can tell.
        let op = owner.append(1, &[batch(at + 2, 1)]);
        unknown = Some((owner.commit_id(), batch(at + 2, 1)));
        drop(owner.send(vec![op]));
    }
}
