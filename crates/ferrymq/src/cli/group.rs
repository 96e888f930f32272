//! `ferrymq group`: list, describe with lag, and seek.
//!
//! **Invariant.** A group with members is never moved: it would overwrite what was moved with its next commit.

use std::collections::{BTreeMap, BTreeSet};

use ferrymq_kafka_client::{Client, CommittedOffset, OffsetSpec};
use serde_json::json;

use super::connect::ConnectArgs;
use super::consume::Place;
use super::out::{Out, Output, note};
use super::usage;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    /// List consumer groups
    List(ListArgs),
    /// Show a group's committed offsets, its lag and its members
    Describe(DescribeArgs),
    /// Move a group's offsets; the group must have no members
    #[command(after_help = "Examples:\n  ferrymq group seek readers --topic orders --to beginning\n  \
        ferrymq group seek readers --topic orders --partition 3 --to 1200\n  \
        ferrymq group seek readers --to @2026-01-31T12:00:00Z --dry-run")]
    Seek(SeekArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DescribeArgs {
    /// The group
    group: String,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SeekArgs {
    /// The group
    group: String,
    /// Topics to move in; all that the group has committed in by default. May be repeated
    #[arg(long = "topic", short, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Partitions to move in; all by default. May be repeated
    #[arg(long = "partition", short, value_name = "NUMBER")]
    partitions: Vec<u32>,
    /// Where to: beginning, end, an offset, -N for the last N, or @TIME (ms since 1970 or a UTC date)
    #[arg(long, allow_hyphen_values = true, value_name = "WHERE")]
    to: Place,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(command: GroupCommand) -> anyhow::Result<()> {
    match command {
        GroupCommand::List(args) => list(args).await,
        GroupCommand::Describe(args) => describe(args).await,
        GroupCommand::Seek(args) => seek(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let groups = args.connect.client().await?.groups().await?;
    let mut out = Out::new();
    match args.output {
        Output::Table => {
            let rows: Vec<[String; 3]> =
                groups.into_iter().map(|one| [one.group, one.state, one.protocol_type]).collect();
            out.table(["GROUP", "STATE", "TYPE"], &rows)?;
        }
        Output::Json => {
            let value = |one: &ferrymq_kafka_client::GroupListing| json!({ "group": one.group, "state": one.state, "protocol_type": one.protocol_type });
            out.json(&groups.iter().map(value).collect::<Vec<_>>())?;
        }
    }
    out.flush()
}

/// One line of `group describe`.
struct Line {
    topic: String,
    partition: u32,
    committed: Option<i64>,
    end: Option<i64>,
    member: String,
}

impl Line {
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }
}

async fn describe(args: DescribeArgs) -> anyhow::Result<()> {
    let client = args.connect.client().await?;
    let group = client.group(&args.group).await?;
    let committed = client.committed(&args.group).await?;
    if group.state == "Dead" && committed.is_empty() {
        anyhow::bail!("there is no group {}; `ferrymq group list` shows what exists", args.group);
    }
    let mut owners: BTreeMap<(String, u32), String> = BTreeMap::new();
    for member in &group.members {
        for assigned in &member.assigned {
            owners.insert(assigned.clone(), member.member_id.clone());
        }
    }
    let lines = lines(&client, &committed, &owners).await;
    let mut out = Out::new();
    if args.output == Output::Json {
        let line = |line: &Line| {
            json!({
                "topic": line.topic, "partition": line.partition, "committed": line.committed,
                "end": line.end, "lag": line.lag(), "member": line.member,
            })
        };
        let member = |member: &ferrymq_kafka_client::GroupMember| json!({ "member": member.member_id, "client": member.client_id, "host": member.host });
        out.json(&json!({
            "group": group.group, "state": group.state, "assignor": group.assignor,
            "partitions": lines.iter().map(line).collect::<Vec<_>>(),
            "members": group.members.iter().map(member).collect::<Vec<_>>(),
            "lag": lines.iter().filter_map(Line::lag).sum::<i64>(),
        }))?;
        return out.flush();
    }
    out.line(&format!("GROUP  {}   STATE  {}   MEMBERS  {}", group.group, group.state, group.members.len()))?;
    let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let row = |line: &Line| {
        let (partition, lag) = (line.partition.to_string(), number(line.lag()));
        [line.topic.clone(), partition, number(line.committed), number(line.end), lag, line.member.clone()]
    };
    let rows: Vec<[String; 6]> = lines.iter().map(row).collect();
    out.table(["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"], &rows)?;
    out.flush()
}

/// Every partition that the group committed in or is assigned, with the end of its log. A topic that cannot be
/// asked about any more has no end.
async fn lines(
    client: &Client,
    committed: &[CommittedOffset],
    owners: &BTreeMap<(String, u32), String>,
) -> Vec<Line> {
    let offsets: BTreeMap<(String, u32), i64> =
        committed.iter().map(|one| ((one.topic.clone(), one.partition), one.offset)).collect();
    let all: BTreeSet<&(String, u32)> = offsets.keys().chain(owners.keys()).collect();
    let mut by_topic: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (topic, partition) in all {
        by_topic.entry(topic).or_default().push(*partition);
    }
    let mut lines = Vec::new();
    for (topic, partitions) in by_topic {
        let ends = client.offsets(topic, &partitions, OffsetSpec::Latest).await.unwrap_or_default();
        for partition in partitions {
            let at = (topic.to_owned(), partition);
            lines.push(Line {
                topic: topic.to_owned(),
                partition,
                committed: offsets.get(&at).copied(),
                end: ends.get(&partition).and_then(|end| end.offset),
                member: owners.get(&at).cloned().unwrap_or_default(),
            });
        }
    }
    lines
}

async fn seek(args: SeekArgs) -> anyhow::Result<()> {
    let client = args.connect.client().await?;
    let group = client.group(&args.group).await?;
    let active = !group.members.is_empty() || !matches!(group.state.as_str(), "Empty" | "Dead");
    anyhow::ensure!(
        !active,
        "group {} is {} with {} members: stop its consumers first",
        args.group,
        group.state,
        group.members.len()
    );
    let committed = client.committed(&args.group).await?;
    let mut topics: BTreeSet<String> = args.topics.iter().cloned().collect();
    if topics.is_empty() {
        topics.extend(committed.iter().map(|one| one.topic.clone()));
    }
    if topics.is_empty() {
        return Err(usage(format!("group {} has committed nothing yet: say in which --topic", args.group)));
    }
    let mut rows = Vec::new();
    for topic in topics {
        let info = client.topic(&topic, false).await?;
        let all: Vec<u32> = info.partitions.iter().map(|one| one.partition).collect();
        let partitions = if args.partitions.is_empty() { all } else { args.partitions.clone() };
        let offsets = args.to.offsets(&client, &topic, &partitions).await?;
        for (partition, to) in &offsets {
            let is_it = |one: &&CommittedOffset| one.topic == topic && one.partition == *partition;
            let from =
                committed.iter().find(is_it).map_or_else(|| "-".to_owned(), |one| one.offset.to_string());
            rows.push([topic.clone(), partition.to_string(), from, to.to_string()]);
        }
        if !args.dry_run {
            client.commit(&args.group, &topic, &offsets).await?;
        }
    }
    let mut out = Out::new();
    out.table(["TOPIC", "PARTITION", "FROM", "TO"], &rows)?;
    out.flush()?;
    if args.dry_run {
        note(format_args!("nothing was changed"));
    }
    Ok(())
}
