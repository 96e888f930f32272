//! All clients of a run: who works on which topics, started together and ended together.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ferrymq_runtime::{Rng, spawn_thread};

use crate::amqp;
use crate::churn::Churn;
use crate::client::Client;
use crate::commits::Committer;
use crate::ops::{self, TopicPlan};
use crate::producer::{Plan, Producer};
use crate::reader::Reader;
use crate::world::{Kind, Log, World};

/// How much work there is.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    pub(crate) producers: u32,
    pub(crate) readers: u32,
    /// Bytes a second of each producer.
    pub(crate) rate: u64,
    pub(crate) churn: bool,
    /// Whether queues are used as well.
    pub(crate) queues: bool,
    /// How long clients may wait for what must come.
    pub(crate) patience: Duration,
}

impl Default for Size {
    fn default() -> Size {
        let patience = Duration::from_secs(30);
        Size { producers: 4, readers: 2, rate: 1 << 20, churn: true, queues: true, patience }
    }
}

/// The group whose offsets are committed.
pub(crate) const GROUP: &str = "faults";

/// Running clients.
pub(crate) struct Workload {
    world: Arc<World>,
    threads: Vec<JoinHandle<()>>,
}

/// The topics of a run.
fn plans() -> Vec<(TopicPlan, Kind)> {
    let plan = |name: &str, partitions, configs| TopicPlan { name: name.to_owned(), partitions, configs };
    let retained = vec![("retention.bytes", (2 << 20).to_string()), ("segment.bytes", (1 << 20).to_string())];
    vec![
        (plan("one", 1, Vec::new()), Kind::Kept),
        (plan("some", 6, Vec::new()), Kind::Kept),
        (plan("trimmed", 2, Vec::new()), Kind::Trimmed),
        (plan("retained", 2, retained), Kind::Retained),
    ]
}

/// Creates the topics of a run.
pub(crate) fn make_topics(world: &World, client: &mut Client) -> anyhow::Result<Vec<Arc<Log>>> {
    let mut logs = Vec::new();
    for (plan, kind) in plans() {
        let code = ops::create_topic(client, &plan)?;
        anyhow::ensure!(code == 0, "{} could not be created: error {code}", plan.name);
        logs.extend((0..plan.partitions).map(|partition| world.add_log(&plan.name, partition, kind)));
    }
    Ok(logs)
}

impl Workload {
    /// Starts all clients on the logs.
    pub(crate) fn start(
        world: &Arc<World>,
        logs: &[Arc<Log>],
        size: &Size,
        rng: &Rng,
    ) -> anyhow::Result<Workload> {
        let mut workload = Workload { world: world.clone(), threads: Vec::new() };
        for index in 0..size.producers {
            // Each on some of the logs, so that logs have one and several writers.
            let chosen =
                logs.iter().skip(usize::try_from(index % 3)?).step_by(1 + usize::try_from(index % 2)?);
            let plan = Plan {
                idempotent: index % 2 == 0,
                logs: chosen.cloned().collect(),
                seed: rng.next_u64(),
                rate: size.rate,
            };
            let producer = Producer::new(world.clone(), plan);
            workload.threads.push(spawn_thread("producer", move || producer.run())?);
        }
        for index in 0..size.readers {
            let reader = Reader::new(world.clone(), index + 1, logs.to_vec());
            workload.threads.push(spawn_thread("reader", move || reader.run())?);
        }
        let of_kind = |kind| logs.iter().filter(move |log| log.kind == kind).cloned().collect();
        let committer = Committer::new(world.clone(), GROUP.to_owned(), of_kind(Kind::Kept), rng.next_u64());
        workload.threads.push(spawn_thread("committer", move || committer.run())?);
        if size.churn {
            let churn = Churn::new(world.clone(), of_kind(Kind::Trimmed), rng.next_u64());
            workload.threads.push(spawn_thread("churn", move || churn.run())?);
        }
        if size.queues {
            workload.threads.extend(amqp::start(world, rng)?);
        }
        Ok(workload)
    }

    /// Ends all clients; what was begun has `patience` to be answered. Whether all was answered in time.
    pub(crate) fn end(self, patience: Duration) -> bool {
        self.world.stop();
        let in_time = self.world.wait_for(patience, || self.threads.iter().all(JoinHandle::is_finished));
        self.world.give_up();
        for thread in self.threads {
            if thread.join().is_err() {
                self.world.violation("harness-panicked", || "a client thread panicked".to_owned());
            }
        }
        in_time
    }
}
