//! Random histories: many members with their own minds, crashes that lose what was not durable, virtual time.
//!
//! **Invariants checked.** After every crash the replayed state is that of the durable records; the live state
//! is that of all emitted records; an acknowledged offset is never lost; once the members behave, every group
//! becomes stable within bounded time; every parked request is answered or lost in a crash.
//!
//! Deliberately absent: shrinking; a failure names its seed, and a history is short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_runtime::Rng;

use super::super::config::GroupsConfig;
use super::super::coordinator::Ticket;
use super::super::types::{
    CommitOffset, CommitRequest, DeleteOffsetsRequest, FetchGroup, GroupError, GroupState, HeartbeatRequest,
    JoinRequest, LeaveMember, LeaveRequest, SyncRequest,
};
use super::world::{Step, World, image, protocol, replay};

const GROUPS: u64 = 3;
const CLIENTS: usize = 7;
const STEPS: usize = 400;
const SEEDS: u64 = 60;
const SESSION_MS: u32 = 10_000;
const REBALANCE_MS: u32 = 20_000;

#[derive(Clone, Debug, Default)]
struct Client {
    group: String,
    instance: Option<String>,
    member: String,
    generation: i32,
    leads: bool,
    others: Vec<String>,
    /// What it waits for.
    join: Option<Ticket>,
    sync: Option<Ticket>,
    stable: bool,
    topic: u64,
}

struct History {
    rng: Rng,
    world: World,
    clients: Vec<Client>,
    /// Records of the log that are durable.
    durable: usize,
    /// Acknowledged offsets by group and partition, and where in the log.
    acked: BTreeMap<(String, u32), i64>,
    next_offset: i64,
    /// Tickets that were given out and not answered.
    open: BTreeSet<Ticket>,
}

#[test]
fn random_histories() {
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(|| History::new(seed).run());
        assert!(result.is_ok(), "seed {seed}");
    }
}

impl History {
    fn new(seed: u64) -> History {
        let rng = Rng::seeded(seed);
        let config = GroupsConfig {
            initial_rebalance_delay_ms: rng.below(2) * 3000,
            group_size_max: if rng.below(4) == 0 { 2 } else { 100 },
            ..GroupsConfig::default()
        };
        let clients = (0..CLIENTS).map(|index| Client {
            group: format!("g{}", rng.below(GROUPS)),
            instance: (rng.below(3) == 0).then(|| format!("i{index}")),
            ..Client::default()
        });
        let clients = clients.collect();
        History {
            world: World::new(config),
            rng,
            clients,
            durable: 0,
            acked: BTreeMap::new(),
            next_offset: 0,
            open: BTreeSet::new(),
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.random_step();
            self.check_image();
        }
        // From here on nobody misbehaves. Whoever is left over from before goes within a session, the new
        // ones' five minutes and a rebalance; then come the rounds of the living.
        self.settle();
        for round in 0.. {
            if self.all_stable() {
                break;
            }
            assert!(round < 400, "not stable after {} s: {:?}", round, self.clients);
            for index in 0..CLIENTS {
                self.behave(index);
            }
            self.advance(1000);
        }
        assert!(self.open.is_empty(), "unanswered: {:?}", self.open);
    }

    fn settle(&mut self) {
        let size_max = self.world.config.group_size_max;
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        for index in 0..CLIENTS {
            let size = sizes.entry(self.clients[index].group.clone()).or_default();
            *size += 1;
            if *size > size_max {
                // No room for it: it is not among the living.
                self.clients[index].group = format!("other{index}");
                self.forget(index);
            }
        }
    }

    fn random_step(&mut self) {
        let index = usize::try_from(self.rng.below(CLIENTS as u64)).unwrap();
        match self.rng.below(30) {
            0 => self.crash(),
            1..=3 => self.durable = self.world.log.len(),
            4..=6 => self.advance(self.rng.below(8000)),
            7 => self.leave(index),
            // It dies, and perhaps another takes its place.
            8 => self.forget(index),
            9 => self.heartbeat(index, -1),
            10 => self.commit(index, -1),
            11 => self.clients[index].topic += 1,
            12 => self.join(index),
            13 => self.delete(index),
            14 => self.commit_simple(index),
            _ => self.behave(index),
        }
    }

    /// What a good client does next.
    fn behave(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.join.is_some() || client.sync.is_some() {
            return;
        }
        if client.member.is_empty() || client.generation == 0 {
            self.join(index);
        } else if !client.stable {
            self.sync(index);
        } else if self.rng.below(2) == 0 {
            self.commit(index, 0);
        } else {
            self.heartbeat(index, 0);
        }
    }

    fn join(&mut self, index: usize) {
        let client = &self.clients[index];
        let topic = format!("t{}", client.topic);
        let request = JoinRequest {
            group: client.group.clone(),
            member_id: client.member.clone(),
            instance_id: client.instance.clone(),
            client_id: format!("c{index}"),
            client_host: String::new(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            protocol_type: "consumer".to_owned(),
            protocols: vec![protocol("range", &[&topic])],
            member_id_required: self.rng.below(2) == 0,
            can_skip_assignment: self.rng.below(2) == 0,
        };
        self.world.fresh += 1;
        let (ticket, fresh) = (self.world.ticket(), self.world.fresh);
        self.open.insert(ticket);
        self.clients[index].join = Some(ticket);
        self.clients[index].sync = None;
        let step = self.world.step(|c, now, fx| c.join(now, ticket, request, fresh, fx)).1;
        self.answers(step);
    }

    fn sync(&mut self, index: usize) {
        let client = &self.clients[index];
        let assignments =
            client.others.iter().map(|id| (id.clone(), Bytes::copy_from_slice(id.as_bytes()))).collect();
        let request = SyncRequest {
            group: client.group.clone(),
            member_id: client.member.clone(),
            instance_id: client.instance.clone(),
            generation: client.generation,
            protocol_type: None,
            protocol_name: None,
            assignments: if client.leads { assignments } else { Vec::new() },
        };
        let ticket = self.world.ticket();
        self.open.insert(ticket);
        self.clients[index].sync = Some(ticket);
        let step = self.world.step(|c, now, fx| c.sync(now, ticket, request, fx)).1;
        self.answers(step);
    }

    fn heartbeat(&mut self, index: usize, older: i32) {
        let client = &self.clients[index];
        let request = HeartbeatRequest {
            group: client.group.clone(),
            member_id: client.member.clone(),
            instance_id: client.instance.clone(),
            generation: client.generation + older,
        };
        let (result, step) = self.world.step(|c, now, fx| c.heartbeat(now, &request, fx));
        self.answers(step);
        if older == 0 {
            self.obey(index, result);
        }
    }

    fn commit(&mut self, index: usize, older: i32) {
        let client = self.clients[index].clone();
        let offset = self.commit_offset();
        let key = (client.group.clone(), offset.partition);
        let request = CommitRequest {
            group: client.group,
            member_id: client.member,
            instance_id: client.instance,
            generation: client.generation + older,
            retention_ms: None,
            offsets: vec![offset],
        };
        self.commit_request(&request, key, index, older == 0);
    }

    fn commit_simple(&mut self, index: usize) {
        let (group, offset) = (self.clients[index].group.clone(), self.commit_offset());
        let key = (group.clone(), offset.partition);
        let (member_id, instance_id) = (String::new(), None);
        let offsets = vec![offset];
        let request =
            CommitRequest { group, member_id, instance_id, generation: -1, retention_ms: None, offsets };
        self.commit_request(&request, key, index, false);
    }

    fn commit_offset(&mut self) -> CommitOffset {
        self.next_offset += 1;
        CommitOffset {
            topic: Arc::from("t"),
            topic_id: None,
            partition: u32::try_from(self.rng.below(2)).unwrap(),
            offset: self.next_offset,
            leader_epoch: None,
            metadata: String::new(),
        }
    }

    fn commit_request(&mut self, request: &CommitRequest, key: (String, u32), index: usize, obeys: bool) {
        let (result, step) = self.world.step(|c, now, fx| c.commit(now, request, fx));
        self.answers(step);
        match result {
            Ok(results) => {
                assert_eq!(results, [Ok(())]);
                // The shard answers when all that was emitted is durable.
                if self.rng.below(2) == 0 {
                    self.durable = self.world.log.len();
                    self.acked.insert(key, request.offsets[0].offset);
                }
            }
            Err(error) if obeys => self.obey(index, Err(error)),
            Err(_) => {}
        }
    }

    fn leave(&mut self, index: usize) {
        let client = &self.clients[index];
        let by_instance = client.instance.is_some() && self.rng.below(2) == 0;
        let member_id = if by_instance { String::new() } else { client.member.clone() };
        let member = LeaveMember { member_id, instance_id: client.instance.clone() };
        let request = LeaveRequest { group: client.group.clone(), members: vec![member] };
        let step = self.world.step(|c, now, fx| c.leave(now, &request, fx)).1;
        self.answers(step);
        self.forget(index);
    }

    fn delete(&mut self, index: usize) {
        let group = self.clients[index].group.clone();
        if self.rng.below(2) == 0 {
            let (result, step) = self.world.step(|c, _, fx| c.delete_group(&group, fx));
            self.answers(step);
            if result.is_ok() {
                self.acked.retain(|(of, _), _| *of != group);
            }
        } else {
            let partitions = vec![(Arc::from("t"), 0)];
            let request = DeleteOffsetsRequest { group: group.clone(), partitions };
            let (result, step) = self.world.step(|c, now, fx| c.delete_offsets(now, &request, fx));
            self.answers(step);
            if result == Ok(vec![Ok(())]) {
                self.acked.remove(&(group, 0));
            }
        }
        // A deletion may be lost in a crash; nobody was promised anything then.
    }

    /// The process ends: what was not durable is gone, and so are all connections.
    fn crash(&mut self) {
        let step = self.world.restart(self.durable);
        self.open.clear();
        for client in &mut self.clients {
            client.join = None;
            client.sync = None;
        }
        self.answers(step);
        for ((group, partition), offset) in self.acked.clone() {
            let partitions = Some(vec![(Arc::from("t"), partition)]);
            let found = self.world.coordinator.fetch(&FetchGroup { group, partitions });
            let found = found[0].committed.as_ref().map(|committed| committed.offset);
            assert!(found >= Some(offset), "acknowledged {offset}, found {found:?}");
        }
    }

    fn advance(&mut self, by_ms: u64) {
        let mut steps = Vec::new();
        self.world.advance(by_ms, |_, step| steps.push(step));
        for step in steps {
            self.answers(step);
        }
    }

    fn answers(&mut self, step: Step) {
        for (ticket, answer) in step.joins {
            assert!(self.open.remove(&ticket), "{ticket:?} answered twice");
            let Some(index) = self.clients.iter().position(|c| c.join == Some(ticket)) else { continue };
            self.clients[index].join = None;
            match answer {
                Ok(joined) => {
                    let client = &mut self.clients[index];
                    client.member = joined.member_id.to_string();
                    client.generation = joined.generation;
                    client.leads = joined.leader == joined.member_id && !joined.skip_assignment;
                    client.others = joined.members.iter().map(|m| m.member_id.to_string()).collect();
                    client.stable = false;
                }
                Err(error) => self.obey(index, Err(error)),
            }
        }
        for (ticket, answer) in step.syncs {
            assert!(self.open.remove(&ticket), "{ticket:?} answered twice");
            let Some(index) = self.clients.iter().position(|c| c.sync == Some(ticket)) else { continue };
            self.clients[index].sync = None;
            self.clients[index].stable = answer.is_ok();
            if let Err(error) = answer {
                self.obey(index, Err(error));
            }
        }
    }

    fn obey(&mut self, index: usize, answer: Result<(), GroupError>) {
        let client = &mut self.clients[index];
        match answer {
            Ok(()) => {}
            Err(GroupError::MemberIdRequired { member_id }) => client.member = member_id.to_string(),
            Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration) => {
                client.generation = 0;
                client.stable = false;
            }
            Err(_) => self.forget(index),
        }
    }

    fn forget(&mut self, index: usize) {
        let Client { group, instance, topic, .. } = self.clients[index].clone();
        self.clients[index] = Client { group, instance, topic, ..Client::default() };
    }

    fn all_stable(&self) -> bool {
        self.clients.iter().all(|client| {
            let Ok(group) = self.world.coordinator.describe(&client.group) else { return false };
            let living = self.clients.iter().filter(|other| other.group == client.group).count();
            client.stable
                && group.state == GroupState::Stable
                && group.generation == client.generation
                && group.members.len() == living
                && group.members.iter().any(|member| *member.member_id == *client.member)
        })
    }

    /// What is live is what was emitted, and what a walk over it says is the last word on every key.
    fn check_image(&self) {
        let live = image(&self.world.coordinator);
        let replayed = replay(&self.world.config, &self.world.log);
        assert_eq!(live, image(&replayed));
        let durable = replay(&self.world.config, &self.world.log[..self.durable.min(self.world.log.len())]);
        let mut expected: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        for (key, value) in &self.world.log[..self.durable.min(self.world.log.len())] {
            match value {
                Some(value) => {
                    expected.insert(key.clone(), value.clone());
                }
                // The tombstone of a group (kind 2) takes its offsets (kind 1, the same group) along.
                None if key[0] == 2 => expected.retain(|other, _| other[2..key.len()] != key[2..]),
                None => {
                    expected.remove(key);
                }
            }
        }
        assert_eq!(image(&durable), expected);
    }
}
