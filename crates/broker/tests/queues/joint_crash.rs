//! Power cuts and kills under joint commits: tokens are moved between queues of different shards, each move an
//! acknowledgement here and a message there. However a life ends, each token is there exactly once.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use ferrymq_broker::queues::{
    Got, Message, NoHeaders, Publish, QueueError, QueueHandle, Queues, Session, Settle,
};
use ferrymq_disk::SimDisk;
use ferrymq_runtime::Rng;
use ferrymq_types::Offset;
use futures_util::FutureExt as _;

use crate::crash::Life;
use crate::priorities::prioritized;
use crate::rig::{VHOST, body, durable, message};

const QUEUES: [&str; 4] = ["a", "b", "c", "d"];
const TOKENS: u64 = 12;

type Committing = Pin<Box<dyn Future<Output = Result<(), QueueError>> + Send>>;

/// A move under way: which tokens, to which version, and what was settled for it.
struct Move {
    tokens: Vec<(u64, u64)>,
    pending: Committing,
}

struct World {
    rng: Rng,
    /// The version that was last committed, and the last that was tried.
    versions: BTreeMap<u64, (u64, u64)>,
    moves: Vec<Move>,
}

/// Its priority differs from version to version; only some queues mind.
fn token(queues: &Queues, queue: &str, token: u64, version: u64) -> Publish {
    let to = queues.route(VHOST, "", queue.as_bytes(), &NoHeaders).unwrap();
    let priority = u8::try_from((token + version) % 4).ok();
    let message = Message { priority, ..message(queue, &format!("{token} {version}"), true) };
    Publish { message, to }
}

/// Token and version; `None` for noise.
fn parse(got: &Got) -> Option<(u64, u64)> {
    let body = body(&got.delivery);
    let (token, version) = body.split_once(' ')?;
    Some((token.parse().unwrap(), version.parse().unwrap()))
}

impl World {
    fn any_queue(&mut self) -> &'static str {
        QUEUES[usize::try_from(self.rng.below(4)).unwrap()]
    }

    /// Begins to move what some queues have at their heads.
    async fn begin_move(&mut self, queues: &Arc<Queues>, session: &Arc<Session>) {
        let (mut publishes, mut tokens) = (Vec::new(), Vec::new());
        let mut settles: Vec<(QueueHandle, Vec<(Offset, Settle)>)> = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let from = self.any_queue();
            let Some(got) = queues.get(session, VHOST, from, false).await.unwrap() else { continue };
            settles.push((got.queue.clone(), vec![(got.delivery.offset, Settle::Ack)]));
            let Some((number, version)) = parse(&got) else { continue };
            let to = self.any_queue();
            publishes.push(token(queues, to, number, version + 1));
            self.versions.entry(number).or_default().1 = version + 1;
            tokens.push((number, version + 1));
        }
        // Noise beside it in the same queues, which is acknowledged once it comes along.
        let noise = self.any_queue();
        let to = queues.route(VHOST, "", noise.as_bytes(), &NoHeaders).unwrap();
        let _confirmed = queues.publish(vec![Publish { message: message(noise, "noise", false), to }]).await;
        let (queues, session) = (queues.clone(), session.clone());
        let mut pending: Committing =
            Box::pin(async move { queues.commit(&session, publishes, settles).await });
        match pending.as_mut().now_or_never() {
            None => self.moves.push(Move { tokens, pending }),
            Some(done) => self.note(&tokens, done),
        }
    }

    fn note(&mut self, tokens: &[(u64, u64)], done: Result<(), QueueError>) {
        done.unwrap();
        for (token, version) in tokens {
            self.versions.entry(*token).or_default().0 = *version;
        }
    }

    async fn collect(&mut self, wait: bool) {
        for mut one in std::mem::take(&mut self.moves) {
            let done =
                if wait { Some((&mut one.pending).await) } else { one.pending.as_mut().now_or_never() };
            match done {
                Some(done) => self.note(&one.tokens, done),
                None => self.moves.push(one),
            }
        }
    }

    async fn check(&mut self, queues: &Arc<Queues>, seed: u64) {
        let session = queues.session();
        let mut found = BTreeMap::new();
        for queue in QUEUES {
            while let Some(got) = queues.get(&session, VHOST, queue, false).await.unwrap() {
                let Some((token, version)) = parse(&got) else { continue };
                let twice = found.insert(token, version);
                assert_eq!(twice, None, "seed {seed}: token {token} is there twice");
            }
        }
        for (token, (committed, tried)) in &mut self.versions {
            let version = found.get(token).copied();
            let version = version.unwrap_or_else(|| panic!("seed {seed}: token {token} is lost: {found:?}"));
            assert!((*committed..=*tried).contains(&version), "seed {seed}: {token} at {version}");
            (*committed, *tried) = (version, version);
        }
        session.close().await;
    }
}

async fn one_seed(seed: u64) {
    let mut disk = SimDisk::new(seed);
    let mut world = World { rng: Rng::seeded(seed), versions: BTreeMap::new(), moves: Vec::new() };
    let mut life = Life::begin(&disk, seed).await;
    for name in QUEUES {
        let spec = if seed.is_multiple_of(2) { durable(name) } else { prioritized(name, 3) };
        life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
    }
    let first: Vec<Publish> =
        (0..TOKENS).map(|number| token(&life.queues, world.any_queue(), number, 0)).collect();
    assert!(life.queues.publish(first).await.await.failed.is_empty());
    world.versions.extend((0..TOKENS).map(|token| (token, (0, 0))));
    for round in 0..4 {
        let session = Arc::new(life.queues.session());
        for _ in 0..8 + world.rng.below(24) {
            world.begin_move(&life.queues, &session).await;
            let wait = world.rng.below(4) == 0;
            world.collect(wait).await;
        }
        let next = match world.rng.below(4) {
            0 => disk.crash(seed * 10 + round),
            1 => disk.crash_to_synced(),
            2 => disk.kill(),
            _ => {
                world.collect(true).await;
                disk.clone()
            }
        };
        world.moves.clear();
        drop(session);
        life.end(false).await;
        disk = next;
        life = Life::begin(&disk, seed + 1000 * (round + 1)).await;
        world.check(&life.queues, seed).await;
    }
    life.end(true).await;
}

#[tokio::test]
async fn each_token_is_there_once() {
    for seed in 0..40 {
        one_seed(seed).await;
    }
}
