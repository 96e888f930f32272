//! The shard's task over a store that holds, fails and forgets.
//!
//! **Invariant.** Time that a test depends on is waited for through what it brings about, never slept.
//!
//! Deliberately absent: what groups decide; see `story`.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::{ErrorKind, LogStore};
use ferrymq_types::{LogId, Offset, OwnerId};

use super::super::config::GroupsConfig;
use super::super::handle::{Groups, Start};
use super::super::types::{
    CommitOffset, CommitRequest, FetchGroup, GroupError, GroupState, HeartbeatRequest, JoinRequest,
    LeaveMember, LeaveRequest, ListRequest, SyncRequest,
};
use super::world::protocol;

const LOG: LogId = LogId(77);

struct Fixture {
    store: MemoryStore,
    tasks: Tasks,
    groups: Groups,
}

fn config() -> GroupsConfig {
    GroupsConfig {
        initial_rebalance_delay_ms: 0,
        session_timeout_ms_min: 1,
        retry_pause_ms: 1,
        ..GroupsConfig::default()
    }
}

fn start(store: &MemoryStore, logs: u64, config: GroupsConfig) -> Fixture {
    let tasks = Tasks::new();
    let groups = Groups::start(Start {
        store: Arc::new(store.clone()),
        logs: (LOG.0..LOG.0 + logs).map(LogId).collect(),
        owner: OwnerId(1),
        clock: Clock::starting_at(1_000_000),
        rng: Rng::seeded(1),
        tasks: tasks.clone(),
        config,
    });
    Fixture { store: store.clone(), tasks, groups }
}

impl Fixture {
    async fn stop(self) {
        drop(self.groups);
        assert!(self.tasks.stop_and_wait(std::time::Duration::from_secs(60)).await);
    }

    /// Asks until the shard has loaded.
    async fn loaded(&self) {
        while self.groups.list(ListRequest::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    async fn committed(&self, group: &str) -> Option<i64> {
        let partitions = Some(vec![(Arc::from("t"), 0)]);
        let request = FetchGroup { group: group.to_owned(), partitions };
        loop {
            match self.groups.fetch(request.clone()).await {
                Ok(found) => return found[0].committed.as_ref().map(|committed| committed.offset),
                Err(GroupError::CoordinatorLoading | GroupError::NotCoordinator) => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn commit(&self, group: &str, offset: i64) -> Result<(), GroupError> {
        self.groups.commit(commit(group, "", -1, offset)).await.map(|results| assert_eq!(results, [Ok(())]))
    }

    async fn joined(&self, group: &str, client: &str) -> (String, i32) {
        let joined = self.groups.join(join(group, client, "")).await.unwrap();
        (joined.member_id.to_string(), joined.generation)
    }
}

fn commit(group: &str, member: &str, generation: i32, offset: i64) -> CommitRequest {
    CommitRequest {
        group: group.to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        generation,
        retention_ms: None,
        offsets: vec![CommitOffset {
            topic: Arc::from("t"),
            topic_id: None,
            partition: 0,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }],
    }
}

fn join(group: &str, client: &str, member: &str) -> JoinRequest {
    JoinRequest {
        group: group.to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        client_id: client.to_owned(),
        client_host: "/192.0.2.1".to_owned(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![protocol("range", &["t"])],
        member_id_required: false,
        can_skip_assignment: true,
    }
}

fn sync(group: &str, member: &str, generation: i32, assign: &[(&str, &'static [u8])]) -> SyncRequest {
    SyncRequest {
        group: group.to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        generation,
        protocol_type: None,
        protocol_name: None,
        assignments: assign.iter().map(|(id, bytes)| ((*id).to_owned(), Bytes::from_static(bytes))).collect(),
    }
}

fn heartbeat(group: &str, member: &str, generation: i32) -> HeartbeatRequest {
    let (group, member_id) = (group.to_owned(), member.to_owned());
    HeartbeatRequest { group, member_id, instance_id: None, generation }
}

/// Asks, lets the shard work, and says whether the answer still waits.
async fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    for _ in 0..20 {
        if futures_util::poll!(&mut *future).is_ready() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

#[tokio::test]
async fn a_group_lives_through_a_restart() {
    let store = MemoryStore::new();
    let first = start(&store, 3, config());
    first.loaded().await;
    let (a, generation) = first.joined("g", "a").await;
    let answer = first.groups.sync(sync("g", &a, generation, &[(&a, b"all")])).await.unwrap();
    assert_eq!(&answer.assignment[..], b"all");
    first.groups.commit(commit("g", &a, generation, 5)).await.unwrap();
    for number in 0..20 {
        first.commit(&format!("simple{number}"), number).await.unwrap();
    }
    first.stop().await;

    let second = start(&store, 3, config());
    second.loaded().await;
    assert_eq!(second.groups.heartbeat(heartbeat("g", &a, generation)).await, Ok(()));
    assert_eq!(second.committed("g").await, Some(5));
    for number in 0..20 {
        assert_eq!(second.committed(&format!("simple{number}")).await, Some(number));
    }
    let all = second.groups.list(ListRequest::default()).await.unwrap();
    assert_eq!(all.len(), 21);
    assert!(all.is_sorted_by(|a, b| a.group <= b.group));
    let stable = ListRequest { states: Some(vec![GroupState::Stable]), types: None };
    assert_eq!(second.groups.list(stable).await.unwrap().len(), 1);
    second.groups.topics_deleted(vec![Arc::from("t")]).await.unwrap();
    assert_eq!(second.committed("g").await, None);
    assert_eq!(second.groups.describe("g".to_owned()).await.unwrap().members.len(), 1);
    second.stop().await;
}

#[tokio::test]
async fn a_long_log_is_read_to_its_end() {
    let store = MemoryStore::new();
    let first = start(&store, 1, config());
    first.loaded().await;
    for number in 0..700 {
        let mut request = commit(&format!("g{number}"), "", -1, number);
        request.offsets[0].metadata = "x".repeat(4096);
        first.groups.commit(request).await.unwrap();
    }
    first.stop().await;
    assert!(store.stat(LOG).await.unwrap().bytes > 2 * 1024 * 1024, "several reads");
    let second = start(&store, 1, config());
    for number in 0..700 {
        assert_eq!(second.committed(&format!("g{number}")).await, Some(number));
    }
    second.stop().await;
}

#[tokio::test]
async fn nothing_is_answered_before_it_is_durable() {
    let fixture = start(&MemoryStore::new(), 1, config());
    fixture.loaded().await;
    let (a, generation) = fixture.joined("g", "a").await;
    let hold = fixture.store.hold_commits();
    let mut synced = Box::pin(fixture.groups.sync(sync("g", &a, generation, &[])));
    assert!(waits(&mut synced).await);
    // Readers that would see what is not yet durable wait as well.
    let mut beat = Box::pin(fixture.groups.heartbeat(heartbeat("g", &a, generation)));
    let mut described = Box::pin(fixture.groups.describe("g".to_owned()));
    let mut committing = Box::pin(fixture.commit("other", 1));
    assert!(waits(&mut beat).await && waits(&mut described).await && waits(&mut committing).await);
    let mut fetched = Box::pin(fixture.committed("other"));
    assert!(waits(&mut fetched).await);
    drop(hold);
    assert!(synced.await.is_ok() && beat.await.is_ok());
    assert_eq!(described.await.unwrap().state, GroupState::Stable);
    committing.await.unwrap();
    assert_eq!(fetched.await, Some(1));
    fixture.stop().await;
}

#[tokio::test]
async fn one_commit_serves_many() {
    let fixture = start(&MemoryStore::new(), 1, config());
    fixture.loaded().await;
    let before = fixture.store.commits();
    let hold = fixture.store.hold_commits();
    let mut commits: Vec<_> =
        (0..100).map(|n| Box::pin(fixture.groups.commit(commit(&format!("g{n}"), "", -1, n)))).collect();
    for commit in &mut commits {
        assert!(waits(commit).await);
    }
    drop(hold);
    for commit in commits {
        commit.await.unwrap();
    }
    // Each was sent when the ones before were under way: four places, and one commit for all the rest.
    assert_eq!(fixture.store.commits() - before, 5);
    fixture.stop().await;
}

#[tokio::test]
async fn a_failed_append_fails_all_that_wait_and_loses_nothing_acknowledged() {
    for (kind, applied) in [
        (ErrorKind::Unavailable, false),
        (ErrorKind::Full, false),
        (ErrorKind::Unknown, false),
        (ErrorKind::Unknown, true),
    ] {
        let fixture = start(&MemoryStore::new(), 1, config());
        fixture.loaded().await;
        fixture.commit("g", 1).await.unwrap();
        // A stable group, and one where somebody waits for another to join again.
        let (a, _) = fixture.joined("h", "a").await;
        fixture.groups.sync(sync("h", &a, 1, &[(&a, b"x")])).await.unwrap();
        let mut parked = Box::pin(fixture.groups.join(join("h", "b", "")));
        assert!(waits(&mut parked).await);
        fixture.store.fail_next(kind, applied);
        let hold = fixture.store.hold_commits();
        let mut first = Box::pin(fixture.commit("g", 2));
        assert!(waits(&mut first).await);
        let mut behind = Box::pin(fixture.groups.commit(commit("g2", "", -1, 9)));
        let mut reader = Box::pin(fixture.groups.describe("g".to_owned()));
        assert!(waits(&mut behind).await && waits(&mut reader).await);
        drop(hold);
        assert_eq!(first.await, Err(GroupError::NotCoordinator));
        assert_eq!(behind.await, Err(GroupError::NotCoordinator));
        assert_eq!(reader.await, Err(GroupError::NotCoordinator));
        assert_eq!(parked.await, Err(GroupError::NotCoordinator));
        // Loaded again: what was acknowledged is there, what was unknown may be.
        let expected = if applied { 2 } else { 1 };
        assert_eq!(fixture.committed("g").await, Some(expected), "{kind:?}");
        fixture.commit("g", 3).await.unwrap();
        assert_eq!(fixture.committed("g").await, Some(3));
        assert_eq!(fixture.groups.heartbeat(heartbeat("h", &a, 1)).await, Ok(()));
        assert_eq!(fixture.groups.describe("h".to_owned()).await.unwrap().state, GroupState::Stable);
        fixture.stop().await;
    }
}

#[tokio::test]
async fn a_fenced_shard_stops_and_the_new_owner_has_everything() {
    let store = MemoryStore::new();
    let old = start(&store, 1, config());
    old.loaded().await;
    old.commit("g", 1).await.unwrap();
    let new = start(&store, 1, config());
    new.loaded().await;
    assert_eq!(old.commit("g", 2).await, Err(GroupError::NotCoordinator));
    assert_eq!(old.commit("g", 2).await, Err(GroupError::NotCoordinator));
    assert_eq!(new.committed("g").await, Some(1));
    new.commit("g", 3).await.unwrap();
    old.stop().await;
    new.stop().await;
}

#[tokio::test]
async fn loading_is_said_and_heartbeats_are_answered_well() {
    let store = MemoryStore::new();
    let fixture = start(&store, 1, config());
    fixture.loaded().await;
    store.close();
    assert!(fixture.commit("g", 1).await.is_err());
    assert_eq!(fixture.commit("g", 1).await, Err(GroupError::CoordinatorNotAvailable));
    fixture.stop().await;

    // A claim that does not come back: the shard is loading.
    let fixture = start(&MemoryStore::new(), 1, GroupsConfig { retry_pause_ms: 60_000, ..config() });
    fixture.loaded().await;
    fixture.store.fail_next(ErrorKind::Unavailable, false);
    assert_eq!(fixture.commit("g", 1).await, Err(GroupError::NotCoordinator));
    assert_eq!(fixture.commit("g", 1).await, Err(GroupError::CoordinatorLoading));
    assert_eq!(fixture.groups.list(ListRequest::default()).await, Err(GroupError::CoordinatorLoading));
    assert_eq!(fixture.groups.heartbeat(heartbeat("g", "anybody", 1)).await, Ok(()));
    fixture.stop().await;
}

#[tokio::test]
async fn callers_that_go_away_leave_the_group_whole() {
    let fixture = start(&MemoryStore::new(), 1, config());
    fixture.loaded().await;
    let (a, _) = fixture.joined("g", "a").await;
    // A second and a third wait for the first; the third's connection breaks.
    let mut b = Box::pin(fixture.groups.join(join("g", "b", "")));
    let mut c = Box::pin(fixture.groups.join(JoinRequest { session_timeout_ms: 30, ..join("g", "c", "") }));
    assert!(waits(&mut b).await && waits(&mut c).await);
    drop(c);
    let again = fixture.groups.join(join("g", "a", &a)).await.unwrap();
    let b = b.await.unwrap();
    assert_eq!(again.members.len(), 3);
    // A sync whose caller goes away as well.
    let mut lost = Box::pin(fixture.groups.sync(sync("g", &b.member_id, again.generation, &[])));
    assert!(waits(&mut lost).await);
    drop(lost);
    fixture.groups.sync(sync("g", &a, again.generation, &[(&a, b"x")])).await.unwrap();
    // The third never comes back: its session ends and the others are told.
    while fixture.groups.heartbeat(heartbeat("g", &a, again.generation)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let mut b_again = Box::pin(fixture.groups.join(join("g", "b", &b.member_id)));
    assert!(waits(&mut b_again).await);
    let again = fixture.groups.join(join("g", "a", &a)).await.unwrap();
    assert_eq!(again.members.len(), 2);
    assert_eq!(b_again.await.unwrap().generation, again.generation);
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_no_member_its_session() {
    let fixture = start(&MemoryStore::new(), 1, config());
    fixture.loaded().await;
    let joined = fixture.groups.join(JoinRequest { session_timeout_ms: 40, ..join("g", "a", "") }).await;
    let a = joined.unwrap().member_id;
    fixture.groups.sync(sync("g", &a, 1, &[])).await.unwrap();
    let hold = fixture.store.hold_commits();
    // Four commits are under way, and as many records wait as may: the mailbox is left alone.
    let mut commits = Vec::new();
    for count in [1, 1, 1, 1, 10_000] {
        let mut request = commit("busy", "", -1, 1);
        request.offsets = vec![request.offsets[0].clone(); count];
        let mut committing = Box::pin(fixture.groups.commit(request));
        assert!(waits(&mut committing).await);
        commits.push(committing);
    }
    let mut beat = Box::pin(fixture.groups.heartbeat(heartbeat("g", &a, 1)));
    tokio::time::advance(std::time::Duration::from_millis(60)).await;
    assert!(waits(&mut beat).await);
    drop(hold);
    assert_eq!(beat.await, Ok(()));
    for committing in commits {
        committing.await.unwrap();
    }
    fixture.stop().await;
}

#[tokio::test]
async fn the_log_is_rewritten_and_trimmed() {
    let small = GroupsConfig { rewrite_bytes_min: 20_000, rewrite_chunk_bytes: 500, ..config() };
    let store = MemoryStore::new();
    let fixture = start(&store, 1, small.clone());
    fixture.loaded().await;
    let (a, generation) = fixture.joined("kept", "a").await;
    fixture.groups.sync(sync("kept", &a, generation, &[(&a, b"x")])).await.unwrap();
    for number in 0..30 {
        fixture.commit(&format!("old{number}"), number).await.unwrap();
    }
    let mut most = 0;
    for round in 0..2000i64 {
        fixture.commit(&format!("busy{}", round % 5), round).await.unwrap();
        most = most.max(store.stat(LOG).await.unwrap().bytes);
    }
    let stat = store.stat(LOG).await.unwrap();
    assert!(stat.start > Offset::ZERO, "never trimmed");
    assert!(most < 60_000, "grew to {most} bytes");
    fixture.stop().await;

    let again = start(&store, 1, small.clone());
    again.loaded().await;
    for number in 0..30 {
        assert_eq!(again.committed(&format!("old{number}")).await, Some(number));
    }
    for busy in 0..5 {
        assert_eq!(again.committed(&format!("busy{busy}")).await, Some(1995 + busy));
    }
    assert_eq!(again.groups.heartbeat(heartbeat("kept", &a, generation)).await, Ok(()));
    // With nothing alive, everything is trimmed.
    let members = vec![LeaveMember { member_id: a, instance_id: None }];
    again.groups.leave(LeaveRequest { group: "kept".to_owned(), members }).await.unwrap();
    for group in again.groups.list(ListRequest::default()).await.unwrap() {
        again.groups.delete_group(group.group.to_string()).await.unwrap();
    }
    for round in 0..400 {
        again.commit("last", round).await.unwrap();
        again.groups.delete_group("last".to_owned()).await.unwrap();
    }
    assert!(store.stat(LOG).await.unwrap().bytes < 40_000);
    again.stop().await;
    let last = start(&store, 1, small);
    last.loaded().await;
    assert_eq!(last.groups.list(ListRequest::default()).await, Ok(Vec::new()));
    last.stop().await;
}

#[tokio::test]
async fn a_failure_while_the_log_is_rewritten_loses_nothing() {
    for fail_at in 0..40u64 {
        let small = GroupsConfig { rewrite_bytes_min: 3000, rewrite_chunk_bytes: 300, ..config() };
        let store = MemoryStore::new();
        let fixture = start(&store, 1, small);
        fixture.loaded().await;
        let mut acked = [None; 8];
        for round in 0..120u64 {
            if round == 60 + fail_at {
                store.fail_next(ErrorKind::Unknown, fail_at % 2 == 0);
            }
            let busy = usize::try_from(round % 8).unwrap();
            if fixture.commit(&format!("g{busy}"), round.cast_signed()).await.is_ok() {
                acked[busy] = Some(round.cast_signed());
            }
            fixture.loaded().await;
        }
        for (busy, acked) in acked.iter().enumerate() {
            let found = fixture.committed(&format!("g{busy}")).await;
            assert!(found >= *acked, "fail at {fail_at}: g{busy} acknowledged {acked:?}, found {found:?}");
        }
        assert!(store.stat(LOG).await.unwrap().start > Offset::ZERO);
        fixture.stop().await;
    }
}

#[tokio::test]
async fn consuming_goes_on_when_the_store_is_full() {
    let store = MemoryStore::with_capacity(100_000, 50_000);
    let fixture = start(&store, 1, config());
    fixture.loaded().await;
    let claim = store.claim(vec![LogId(1)], OwnerId(9)).await.unwrap()[0];
    let filled = append(&store, &claim, Bytes::from(vec![0; 50_000]), ferrymq_storage::Space::Normal).await;
    assert_eq!(filled.map_err(|error| error.kind()), Ok(()));
    let claim = store.claim(vec![LogId(1)], OwnerId(9)).await.unwrap()[0];
    let more = append(&store, &claim, Bytes::from(vec![0; 100]), ferrymq_storage::Space::Normal).await;
    assert_eq!(more.map_err(|error| error.kind()), Err(ErrorKind::Full));
    for offset in 0..10 {
        fixture.commit("g", offset).await.unwrap();
    }
    fixture.stop().await;
}

async fn append(
    store: &MemoryStore,
    claim: &ferrymq_storage::Claim,
    bytes: Bytes,
    space: ferrymq_storage::Space,
) -> ferrymq_storage::Outcome {
    let append = ferrymq_storage::Append {
        expect_next: claim.next,
        commit_id: ferrymq_types::CommitId { writer: 9, sequence: 1 },
        class: ferrymq_types::Durability::Sync,
        space,
        batches: vec![ferrymq_storage::Batch::new(claim.next, 1, 0, bytes)],
    };
    let action = ferrymq_storage::Action::Append(append);
    let op = ferrymq_storage::Op { log: claim.log, epoch: claim.epoch, owner: OwnerId(9), action };
    store.commit(vec![vec![op]]).await.pop().unwrap()
}

#[tokio::test]
async fn a_log_of_a_newer_broker_is_refused() {
    let store = MemoryStore::new();
    let fixture = start(&store, 1, config());
    fixture.loaded().await;
    fixture.commit("g", 1).await.unwrap();
    fixture.stop().await;
    let claim = store.claim(vec![LOG], OwnerId(9)).await.unwrap()[0];
    let mut builder = ferrymq_types::BatchBuilder::new(0);
    builder.push(0, Some(b"\x10\x01\x01g"), Some(b"\x01"), &[]);
    append(&store, &claim, builder.build(), ferrymq_storage::Space::Normal).await.unwrap();
    let fixture = start(&store, 1, config());
    loop {
        match fixture.commit("g", 2).await {
            Err(GroupError::CoordinatorLoading) => tokio::task::yield_now().await,
            other => break assert_eq!(other, Err(GroupError::CoordinatorNotAvailable)),
        }
    }
    fixture.stop().await;
}
