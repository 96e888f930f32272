//! Many queues wait to look at their heads, and reading is slow: none is forgotten.

use std::sync::Arc;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{Credit, deliveries};
use ferrymq_runtime::Tasks;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::{BatchHead, Claim, Find, Group, LogStore, Outcome, Pending, Read, Stat, StorageError};
use ferrymq_types::{LogId, Offset, OwnerId};

use crate::rig::{Rig, int, open, pass, quiet};

/// A store whose reads wait until they may.
#[derive(Clone)]
struct SlowReads {
    memory: MemoryStore,
    open: tokio::sync::watch::Receiver<bool>,
}

impl LogStore for SlowReads {
    fn atomic_multi_log(&self) -> bool {
        self.memory.atomic_multi_log()
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        self.memory.claim(logs, owner)
    }

    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        self.memory.commit(groups)
    }

    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max: usize,
    ) -> Pending<Result<Read, StorageError>> {
        let (memory, mut open) = (self.memory.clone(), self.open.clone());
        Box::pin(async move {
            if log.0 >= 1 << 40 {
                open.wait_for(|open| *open).await.unwrap();
            }
            memory.read(log, from, until, max).await
        })
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        self.memory.headers(log, from, max, prefix)
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        self.memory.find(log, what)
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        self.memory.stat(log)
    }
}

/// After a start many queues wait to look at their heads; some get consumers meanwhile. The others are not forgotten.
#[tokio::test(start_paused = true)]
async fn no_queue_waits_for_ever_to_look_at_its_head() {
    let mut rig = Rig::new().await;
    let names: Vec<String> = (0..200).map(|number| format!("q{number:03}")).collect();
    for name in &names {
        rig.queue_with(name, &[("x-message-ttl", int(1000))]).await;
        rig.publish(name, &["1"]).await;
    }
    let (opener, gate) = tokio::sync::watch::channel(false);
    let logs = Arc::new(SlowReads { memory: rig.store.clone(), open: gate });
    let stores = Stores { logs, meta: rig.meta.clone(), state: rig.meta.clone() };
    rig.queues = open(stores, 9, &Tasks::new()).await;
    rig.session = rig.queues.session();
    quiet().await;
    let (sink, _events) = deliveries(1 << 20);
    for name in &names[64..132] {
        rig.consume(name, Credit::Window(1), &sink).await;
    }
    quiet().await;
    opener.send_replace(true);
    for _ in 0..60 {
        pass(1000).await;
    }
    let mut stuck = Vec::new();
    for name in &names {
        let queue = rig.route("", name).queues()[0].clone();
        if rig.stat(&queue).await.ready > 0 {
            stuck.push(name.clone());
        }
    }
    assert!(stuck.is_empty(), "older than a minute, with a time to live of a second: {stuck:?}");
}
