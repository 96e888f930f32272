//! Stories: scripts of commands with the output they must give, one file per story.
//!
//! ```text
//! # a comment
//! join first g client=a
//! ----
//! first: MemberIdRequired a#1
//! ```
//! `#1` in a member id stands for the first random part given out. Set `FERRYMQ_REWRITE_STORIES=1` to write
//! the output that is there in place of the expected one; then read the difference.
//!
//! **Invariant.** After every command, replaying the log gives the live state.
//!
//! Deliberately absent: anything that a story does not need.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::super::config::GroupsConfig;
use super::super::coordinator::Ticket;
use super::super::record::GroupRecord;
use super::super::types::{
    CommitOffset, CommitRequest, DeleteOffsetsRequest, FetchGroup, GroupError, GroupState, HeartbeatRequest,
    JoinRequest, LeaveMember, LeaveRequest, ListRequest, SyncRequest,
};
use super::world::{Step, World, image, protocol, replay};

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/groups");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "the stories are missing");
    let mut wrong = Vec::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let actual = retell(&expected);
        if actual != expected {
            if std::env::var_os("FERRYMQ_REWRITE_STORIES").is_some() {
                std::fs::write(&path, &actual).unwrap();
            }
            wrong.push(format!("{}:\n{}", path.display(), first_difference(&expected, &actual)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn first_difference(expected: &str, actual: &str) -> String {
    let mut lines = expected.lines().zip(actual.lines()).enumerate();
    match lines.find(|(_, (expected, actual))| expected != actual) {
        Some((line, (expected, actual))) => {
            format!("line {}\n  expected: {expected}\n  actual:   {actual}", line + 1)
        }
        None => format!("{} lines expected, {} told", expected.lines().count(), actual.lines().count()),
    }
}

/// The script with the output that the commands give now.
fn retell(script: &str) -> String {
    let mut teller = Teller { world: World::new(GroupsConfig::default()), waiting: BTreeMap::new() };
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let mut commands = vec![line];
        while let Some(line) = lines.next_if(|line| *line != "----") {
            commands.push(line);
        }
        lines.next();
        while lines.next_if(|line| !line.is_empty()).is_some() {}
        let mut told = String::new();
        for command in &commands {
            teller.tell(command, &mut told);
        }
        writeln!(out, "{}\n----\n{}", commands.join("\n"), told.trim_end_matches('\n')).unwrap();
        if told.is_empty() {
            // An empty line would end the block.
            out.pop();
        }
    }
    out
}

struct Teller {
    world: World,
    waiting: BTreeMap<Ticket, String>,
}

/// The words of a command: those without and those with a name.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Words<'a> {
        let (mut plain, mut named) = (Vec::new(), BTreeMap::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => {
                    named.insert(name, value);
                }
                None => plain.push(word),
            }
        }
        Words { plain, named }
    }

    fn text(&self, name: &str, otherwise: &str) -> String {
        long(self.named.get(name).copied().unwrap_or(otherwise))
    }

    fn option(&self, name: &str) -> Option<String> {
        self.named.get(name).map(|value| (*value).to_owned())
    }

    fn number<T: std::str::FromStr>(&self, name: &str, otherwise: T) -> T {
        self.named.get(name).map_or(otherwise, |value| value.parse().ok().expect("a number"))
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }
}

const RANDOM: &str = "-00000000-0000-4000-8000-0000000000";

fn long(id: &str) -> String {
    match id.split_once('#') {
        Some((client, number)) => format!("{client}{RANDOM}{:02x}", number.parse::<u8>().unwrap()),
        None => id.to_owned(),
    }
}

fn short(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(RANDOM) {
        let number = u8::from_str_radix(&after[..2], 16).unwrap();
        write!(out, "{before}#{number}").unwrap();
        rest = &after[2..];
    }
    out + rest
}

impl Teller {
    fn tell(&mut self, line: &str, out: &mut String) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words = Words::new(rest);
        match command {
            "config" => self.config(&words),
            "join" => self.join(&words, out),
            "sync" => self.sync(&words, out),
            "heartbeat" => self.heartbeat(&words, out),
            "leave" => self.leave(&words, out),
            "commit" => self.commit(rest, out),
            "fetch" => self.fetch(&words, out),
            "delete-offsets" => self.delete_offsets(&words, out),
            "delete-group" => self.delete_group(&words, out),
            "topics-deleted" => self.topics_deleted(&words, out),
            "describe" => self.describe(&words, out),
            "list" => self.list(&words, out),
            "advance" => self.advance(&words, out),
            "restart" => self.restart(out),
            _ => panic!("no such command: {line}"),
        }
        assert_eq!(image(&self.world.coordinator), image(&replay(&self.world.config, &self.world.log)));
    }

    fn config(&mut self, words: &Words<'_>) {
        let default = GroupsConfig::default();
        self.world = World::new(GroupsConfig {
            initial_rebalance_delay_ms: words.number("initial-delay", default.initial_rebalance_delay_ms),
            group_size_max: words.number("size", default.group_size_max),
            group_bytes_max: words.number("bytes", default.group_bytes_max),
            offset_metadata_max: words.number("offset-metadata", default.offset_metadata_max),
            ..default
        });
        self.waiting.clear();
    }

    fn join(&mut self, words: &Words<'_>, out: &mut String) {
        let topics = words.text("topics", "t");
        let topics: Vec<&str> = topics.split(',').collect();
        let protocols = words.text("protocols", "range");
        let request = JoinRequest {
            group: words.plain[1].trim_matches('"').to_owned(),
            member_id: words.text("member", ""),
            instance_id: words.option("instance"),
            client_id: words.text("client", "c"),
            client_host: "/192.0.2.1".to_owned(),
            session_timeout_ms: words.number("session", 10_000),
            rebalance_timeout_ms: words.number("rebalance", 60_000),
            protocol_type: words.text("type", "consumer"),
            protocols: protocols.split(',').map(|name| protocol(name, &topics)).collect(),
            member_id_required: !words.has("old"),
            can_skip_assignment: words.has("skip"),
        };
        // Those that have an id need no new one, so ids count the arrivals.
        self.world.fresh += u128::from(request.member_id.is_empty());
        let (ticket, fresh) = (self.world.ticket(), self.world.fresh);
        self.waiting.insert(ticket, words.plain[0].to_owned());
        let step = self.world.step(|c, now, fx| c.join(now, ticket, request, fresh, fx)).1;
        self.tell_step(step, out);
        if self.waiting.contains_key(&ticket) {
            writeln!(out, "{}: waits", words.plain[0]).unwrap();
        }
    }

    fn sync(&mut self, words: &Words<'_>, out: &mut String) {
        let assign = words.option("assign").unwrap_or_default();
        let assignments = assign.split(',').filter(|one| !one.is_empty()).map(|one| {
            let (member, bytes) = one.split_once(':').unwrap();
            (long(member), Bytes::copy_from_slice(bytes.as_bytes()))
        });
        let request = SyncRequest {
            group: words.plain[1].to_owned(),
            member_id: long(words.plain[2]),
            instance_id: words.option("instance"),
            generation: words.plain[3].parse().unwrap(),
            protocol_type: words.option("type"),
            protocol_name: words.option("protocol"),
            assignments: assignments.collect(),
        };
        let ticket = self.world.ticket();
        self.waiting.insert(ticket, words.plain[0].to_owned());
        let step = self.world.step(|c, now, fx| c.sync(now, ticket, request, fx)).1;
        self.tell_step(step, out);
        if self.waiting.contains_key(&ticket) {
            writeln!(out, "{}: waits", words.plain[0]).unwrap();
        }
    }

    fn heartbeat(&mut self, words: &Words<'_>, out: &mut String) {
        let request = HeartbeatRequest {
            group: words.plain[0].to_owned(),
            member_id: long(words.plain[1]),
            instance_id: words.option("instance"),
            generation: words.plain[2].parse().unwrap(),
        };
        let (result, step) = self.world.step(|c, now, fx| c.heartbeat(now, &request, fx));
        writeln!(out, "{}", outcome(&result)).unwrap();
        self.tell_step(step, out);
    }

    /// `leave g a#1 b#2 /instance b#2/instance`
    fn leave(&mut self, words: &Words<'_>, out: &mut String) {
        let members = words.plain[1..].iter().map(|word| {
            let (id, instance) = word.split_once('/').map_or((*word, None), |(id, i)| (id, Some(i)));
            LeaveMember { member_id: long(id), instance_id: instance.map(str::to_owned) }
        });
        let request = LeaveRequest { group: words.plain[0].to_owned(), members: members.collect() };
        let (result, step) = self.world.step(|c, now, fx| c.leave(now, &request, fx));
        for (word, result) in words.plain[1..].iter().zip(result.unwrap()) {
            writeln!(out, "{word} {}", outcome(&result)).unwrap();
        }
        self.tell_step(step, out);
    }

    /// `commit g member generation t/0=5 t/1=6 [instance:i] [note:text] [keep:ms]`; `-` is no member.
    fn commit(&mut self, rest: &str, out: &mut String) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let note = words.iter().find_map(|word| word.strip_prefix("note:")).unwrap_or_default();
        let offsets = words[3..].iter().filter_map(|word| word.split_once('=')).map(|(place, offset)| {
            let (topic, partition) = place_of(place);
            let (offset, metadata) = (offset.parse().unwrap(), note.to_owned());
            CommitOffset { topic, topic_id: None, partition, offset, leader_epoch: Some(3), metadata }
        });
        let request = CommitRequest {
            group: words[0].to_owned(),
            member_id: if words[1] == "-" { String::new() } else { long(words[1]) },
            instance_id: words.iter().find_map(|word| word.strip_prefix("instance:")).map(str::to_owned),
            generation: words[2].parse().unwrap(),
            retention_ms: words.iter().find_map(|word| word.strip_prefix("keep:")?.parse().ok()),
            offsets: offsets.collect(),
        };
        let (result, step) = self.world.step(|c, now, fx| c.commit(now, &request, fx));
        tell_results(&result, out);
        self.tell_step(step, out);
    }

    fn fetch(&mut self, words: &Words<'_>, out: &mut String) {
        let places: Vec<_> = words.plain[1..].iter().map(|place| place_of(place)).collect();
        let partitions = (!places.is_empty()).then_some(places);
        let request = FetchGroup { group: words.plain[0].to_owned(), partitions };
        for found in self.world.coordinator.fetch(&request) {
            let offset = found.committed.map_or("none".to_owned(), |c| {
                format!("{} epoch={:?} note={:?} at={}", c.offset, c.leader_epoch, c.metadata, c.commit_ms)
            });
            writeln!(out, "{}/{} {offset}", found.topic, found.partition).unwrap();
        }
    }

    fn delete_offsets(&mut self, words: &Words<'_>, out: &mut String) {
        let partitions = words.plain[1..].iter().map(|place| place_of(place)).collect();
        let request = DeleteOffsetsRequest { group: words.plain[0].to_owned(), partitions };
        let (result, step) = self.world.step(|c, now, fx| c.delete_offsets(now, &request, fx));
        tell_results(&result, out);
        self.tell_step(step, out);
    }

    fn delete_group(&mut self, words: &Words<'_>, out: &mut String) {
        let (result, step) = self.world.step(|c, _, fx| c.delete_group(words.plain[0], fx));
        writeln!(out, "{}", outcome(&result)).unwrap();
        self.tell_step(step, out);
    }

    fn topics_deleted(&mut self, words: &Words<'_>, out: &mut String) {
        let topics: Vec<Arc<str>> = words.plain.iter().map(|topic| Arc::from(*topic)).collect();
        let step = self.world.step(|c, now, fx| c.topics_deleted(now, &topics, fx)).1;
        self.tell_step(step, out);
    }

    fn describe(&mut self, words: &Words<'_>, out: &mut String) {
        match self.world.coordinator.describe(words.plain[0]) {
            Err(error) => writeln!(out, "{}", name(&error)).unwrap(),
            Ok(group) => {
                writeln!(
                    out,
                    "{} generation={} type={:?} protocol={:?}",
                    group.state.name(),
                    group.generation,
                    group.protocol_type,
                    group.protocol_name
                )
                .unwrap();
                for member in group.members {
                    writeln!(
                        out,
                        "  {} instance={:?} metadata={} assignment={:?}",
                        short(&member.member_id),
                        member.instance_id.as_deref().unwrap_or_default(),
                        member.metadata.len(),
                        String::from_utf8_lossy(&member.assignment)
                    )
                    .unwrap();
                }
            }
        }
    }

    fn list(&mut self, words: &Words<'_>, out: &mut String) {
        let states = words.option("states").map(|s| s.split(',').filter_map(GroupState::parse).collect());
        for group in self.world.coordinator.list(&ListRequest { states, types: None }) {
            writeln!(out, "{} {} {:?}", group.group, group.state.name(), group.protocol_type).unwrap();
        }
    }

    fn advance(&mut self, words: &Words<'_>, out: &mut String) {
        let mut steps = Vec::new();
        self.world.advance(words.plain[0].parse().unwrap(), |at, step| steps.push((at, step)));
        for (at, step) in steps {
            let mut told = String::new();
            self.tell_step(step, &mut told);
            if !told.is_empty() {
                write!(out, "at {at}:\n{told}").unwrap();
            }
        }
    }

    fn restart(&mut self, out: &mut String) {
        for (_, label) in std::mem::take(&mut self.waiting) {
            writeln!(out, "{label}: lost").unwrap();
        }
        let durable = self.world.log.len();
        let step = self.world.restart(durable);
        self.tell_step(step, out);
    }

    fn tell_step(&mut self, step: Step, out: &mut String) {
        for (ticket, answer) in step.joins {
            let label = self.waiting.remove(&ticket).expect("answered once");
            let told = match answer {
                Err(error) => name(&error),
                Ok(answer) => {
                    let members = answer.members.iter().map(|m| short(&m.member_id)).collect::<Vec<_>>();
                    format!(
                        "generation={} protocol={:?} leader={} member={} members=[{}]{}",
                        answer.generation,
                        answer.protocol_name.unwrap_or_default(),
                        short(&answer.leader),
                        short(&answer.member_id),
                        members.join(" "),
                        if answer.skip_assignment { " skip" } else { "" }
                    )
                }
            };
            writeln!(out, "{label}: {told}").unwrap();
        }
        for (ticket, answer) in step.syncs {
            let label = self.waiting.remove(&ticket).expect("answered once");
            let told = match answer {
                Err(error) => name(&error),
                Ok(answer) => format!("assigned {:?}", String::from_utf8_lossy(&answer.assignment)),
            };
            writeln!(out, "{label}: {told}").unwrap();
        }
        for record in step.records {
            writeln!(out, "record {}", describe_record(&record)).unwrap();
        }
    }
}

fn describe_record(record: &GroupRecord) -> String {
    match record {
        GroupRecord::Offset { group, topic, partition, value } => {
            let value = value.as_ref().map_or("removed".to_owned(), |value| value.offset.to_string());
            format!("{group} {topic}/{partition} {value}")
        }
        GroupRecord::Classic { group, value: None } => format!("{group} deleted"),
        GroupRecord::Classic { group, value: Some(value) } => {
            let members = value.members.iter().map(|m| short(&m.id)).collect::<Vec<_>>();
            format!("{group} generation={} members=[{}]", value.generation, members.join(" "))
        }
    }
}

fn place_of(place: &str) -> (Arc<str>, u32) {
    let (topic, partition) = place.split_once('/').unwrap();
    (Arc::from(topic), partition.parse().unwrap())
}

fn tell_results(result: &Result<Vec<Result<(), GroupError>>, GroupError>, out: &mut String) {
    match result {
        Err(error) => writeln!(out, "{}", name(error)).unwrap(),
        Ok(results) => {
            let told: Vec<String> = results.iter().map(outcome).collect();
            writeln!(out, "{}", told.join(" ")).unwrap();
        }
    }
}

fn outcome(result: &Result<(), GroupError>) -> String {
    result.as_ref().map_or_else(name, |()| "ok".to_owned())
}

fn name(error: &GroupError) -> String {
    match error {
        GroupError::MemberIdRequired { member_id } => format!("MemberIdRequired {}", short(member_id)),
        error => format!("{error:?}"),
    }
}
