//! When acknowledgements are durable, and who is told.

use ferrymq_broker::queues::{AckedAt, QueueError, QueueHandle, Settle};
use ferrymq_storage::{ErrorKind, LogStore as _};
use ferrymq_types::Offset;

use crate::rig::{Rig, VHOST, quiet};

fn at(queue: &QueueHandle) -> AckedAt {
    let mut at = AckedAt::default();
    at.note(queue);
    at
}

/// Takes everything out of `q`, a queue of persistent messages.
async fn held(rig: &Rig, bodies: &[&str]) -> QueueHandle {
    let queue = rig.queue("q").await;
    rig.publish("q", bodies).await;
    for _ in bodies {
        rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap();
    }
    quiet().await;
    queue
}

#[tokio::test(start_paused = true)]
async fn who_asks_waits_for_the_commit_and_a_crash_does_not_undo_it() {
    let mut rig = Rig::new().await;
    let queue = held(&rig, &["a", "b", "c"]).await;
    let hold = rig.store.hold_commits();
    // The second is under way when the third is asked about, the third is gathered.
    rig.settle(&queue, &[1], Settle::Ack).await;
    let mut first = Box::pin(rig.queues.acked(at(&queue)));
    assert!(futures_util::poll!(&mut first).is_pending());
    quiet().await;
    rig.settle(&queue, &[2], Settle::Reject).await;
    let mut second = Box::pin(rig.queues.acked(at(&queue)));
    for _ in 0..5 {
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        quiet().await;
    }
    drop(hold);
    first.await.unwrap();
    second.await.unwrap();
    rig.start().await;
    assert_eq!(rig.get_all("q").await, [("a".to_owned(), true)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_owed_is_answered_at_once_and_nothing_is_written_for_it() {
    let rig = Rig::new().await;
    let queue = held(&rig, &["a"]).await;
    let commits = rig.store.commits();
    let _hold = rig.store.hold_commits();
    rig.queues.acked(at(&queue)).await.unwrap();
    rig.queues.acked(AckedAt::default()).await.unwrap();
    assert!(AckedAt::default().is_empty() && !at(&queue).is_empty());
    quiet().await;
    assert_eq!(rig.store.commits(), commits);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_told_and_made_up_for() {
    let mut rig = Rig::new().await;
    let queue = held(&rig, &["a", "b", "c"]).await;
    rig.store.fail_next(ErrorKind::Full, false);
    rig.settle(&queue, &[1], Settle::Ack).await;
    let told = rig.queues.acked(at(&queue)).await;
    assert!(matches!(&told, Err(QueueError::Storage(error)) if error.kind() == ErrorKind::Full), "{told:?}");
    // Nothing was acknowledged since: what was lost is written for whoever asks.
    rig.queues.acked(at(&queue)).await.unwrap();
    rig.start().await;
    let left = rig.get_all("q").await;
    assert_eq!(left, [("a".to_owned(), true), ("c".to_owned(), true)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_write_of_unknown_fate_everybody_is_told() {
    let rig = Rig::new().await;
    let queue = held(&rig, &["a"]).await;
    let start = rig.store.stat(queue.log()).await.unwrap().start;
    rig.store.fail_next(ErrorKind::Unknown, false);
    rig.settle(&queue, &[0], Settle::Ack).await;
    for _ in 0..2 {
        let told = rig.queues.acked(at(&queue)).await;
        assert!(matches!(&told, Err(QueueError::Storage(_))), "{told:?}");
    }
    assert_eq!(start, Offset(0));
}
