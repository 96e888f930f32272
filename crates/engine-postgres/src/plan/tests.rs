//! The planner without a database: what the conformance suite cannot see from outside.
//!
//! Deliberately absent: the contract itself; `tests/conformance.rs` has all of it.

use ferrymq_types::{CommitId, OwnerId};

use super::*;

const OWNER: OwnerId = OwnerId(7);

fn plan(next: u64) -> Plan {
    let row = Row { epoch: Epoch(3), owner: OWNER, turn: 10, next: Offset(next), ..Row::default() };
    let mut plan = Plan::default();
    plan.know(LogId(1), Some((row, Holes::default(), 0)));
    plan.know(LogId(2), None);
    plan
}

fn op(log: u64, action: Action) -> Op {
    Op { log: LogId(log), epoch: Epoch(3), owner: OWNER, action }
}

fn append(at: u64, size: usize, class: Durability) -> Op {
    op(
        1,
        Action::Append(Append {
            expect_next: Offset(at),
            commit_id: CommitId { writer: 1, sequence: at },
            class,
            space: ferrymq_storage::Space::Normal,
            batches: vec![Batch::new(Offset(at), 1, 0, vec![b'x'; size].into())],
        }),
    )
}

fn only(plan: Plan) -> Change {
    let mut changes = plan.changes();
    assert_eq!(changes.len(), 1);
    changes.remove(0).1
}

#[test]
fn a_group_that_fails_leaves_no_trace() {
    let mut plan = plan(0);
    plan.apply(&[append(0, 10, Durability::Sync)]).unwrap();
    let steps =
        [append(1, 10, Durability::Memory), append(2, 5, Durability::Sync), append(9, 1, Durability::Sync)];
    assert_eq!(plan.apply(&steps).unwrap_err().kind(), ErrorKind::Conflict);
    let steps = [append(1, 10, Durability::Sync), op(1, Action::Delete), op(1, Action::Trim(Offset(1)))];
    assert_eq!(plan.apply(&steps).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(plan.apply(&[op(2, Action::Delete)]).unwrap_err().kind(), ErrorKind::NotFound);
    let change = only(plan);
    assert_eq!((change.inserts.len(), change.steps, change.memory, change.after.bytes), (1, 1, 0, 10));
    assert_eq!((change.after.next, change.after.deleted), (Offset(1), false));
    assert_eq!(change.before.next, Offset(0));
}

#[test]
fn nothing_is_written_for_groups_that_all_failed() {
    let mut plan = plan(0);
    plan.apply(&[append(7, 1, Durability::Sync)]).unwrap_err();
    assert!(plan.changes().is_empty());
}

#[test]
fn what_comes_and_goes_in_one_round_is_not_inserted() {
    let mut plan = plan(4);
    plan.know_batches(LogId(1), [(2, live(2, 100, Epoch(1), false))]);
    plan.apply(&[append(4, 10, Durability::Sync)]).unwrap();
    let range = Offset(2)..Offset(9);
    plan.apply(&[op(1, Action::Discard(vec![range]))]).unwrap();
    plan.apply(&[append(5, 3, Durability::Memory)]).unwrap();
    let change = only(plan);
    let bases: Vec<u64> = change.inserts.iter().map(|insert| insert.batch.base.0).collect();
    assert_eq!((bases, change.memory), (vec![5], 3));
    assert_eq!(change.holes.edits().collect::<Vec<_>>(), [(2, Some(4))]);
    // The row began with no bytes at all: what is taken away twice does not wrap around.
    assert_eq!(change.after.bytes, 0);
}

#[test]
fn a_replaced_batch_goes_and_the_new_one_keeps_its_epoch() {
    let mut plan = plan(4);
    plan.know_batches(LogId(1), [(0, live(2, 50, Epoch(1), false)), (2, live(2, 50, Epoch(2), false))]);
    let batches = vec![Batch::new(Offset(1), 3, 0, vec![b'y'; 8].into())];
    let range = Offset(0)..Offset(4);
    plan.apply(&[op(1, Action::Replace { range, batches })]).unwrap();
    let change = only(plan);
    assert!(change.replaces());
    assert_eq!(change.replaced, [0, 2]);
    assert_eq!((change.inserts[0].epoch, change.inserts[0].replaces), (Epoch(1), true));
}
