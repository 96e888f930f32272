//! `ferrymq topic`: create, list, describe and delete.

use ferrymq_kafka_client::{Client, ConfigEntry, NewTopic, OffsetSpec, PartitionInfo, TopicInfo};
use serde_json::json;

use super::connect::ConnectArgs;
use super::out::{Out, Output, note};
use super::units::parse_pair;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TopicCommand {
    /// Create topics
    #[command(after_help = "Examples:\n  ferrymq topic create orders --partitions 16\n  \
        ferrymq topic create logs --config retention.ms=86400000 --if-not-exists")]
    Create(CreateArgs),
    /// List topics
    List(ListArgs),
    /// Show a topic's partitions, offsets, sizes and configs
    Describe(DescribeArgs),
    /// Delete topics and all their records
    Delete(DeleteArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Names of the topics
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Partitions of each; the broker's num.partitions by default
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Copies of each partition; the broker's default if not given
    #[arg(long, short, value_name = "COPIES")]
    replication_factor: Option<i16>,
    /// A topic config, such as retention.ms=1000; may be repeated
    #[arg(long = "config", short = 'c', value_parser = parse_pair, value_name = "NAME=VALUE")]
    configs: Vec<(String, String)>,
    /// A topic that exists already is fine, whatever its partitions and configs
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Also topics in which the broker keeps its own data
    #[arg(long)]
    internal: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DescribeArgs {
    /// The topic
    name: String,
    /// Also configs that have their default value
    #[arg(long)]
    all: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Names of the topics
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// A topic that does not exist is fine
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(command: TopicCommand) -> anyhow::Result<()> {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Describe(args) => describe(args).await,
        TopicCommand::Delete(args) => delete(args).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let client = args.connect.client().await?;
    for name in args.names {
        let topic = NewTopic {
            name: name.clone(),
            partitions: args.partitions,
            replication_factor: args.replication_factor,
            configs: args.configs.clone(),
        };
        if client.create_topic(&topic, args.if_not_exists).await? {
            note(format_args!("created {name}"));
        } else {
            note(format_args!("{name} exists already"));
        }
    }
    Ok(())
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let client = args.connect.client().await?;
    for name in args.names {
        if client.delete_topic(&name, args.if_exists).await? {
            note(format_args!("deleted {name}"));
        } else {
            note(format_args!("{name} does not exist"));
        }
    }
    Ok(())
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.connect.client().await?;
    let mut topics = client.topics().await?;
    topics.retain(|topic| args.internal || !topic.internal);
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let copies = |topic: &TopicInfo| topic.partitions.first().map_or(0, |one| one.replicas.len());
    let mut out = Out::new();
    match args.output {
        Output::Table => {
            let row = |topic: &TopicInfo| {
                [topic.name.clone(), topic.partitions.len().to_string(), copies(topic).to_string()]
            };
            let rows: Vec<[String; 3]> = topics.iter().map(row).collect();
            out.table(["TOPIC", "PARTITIONS", "REPLICAS"], &rows)?;
        }
        Output::Json => {
            let value = |topic: &TopicInfo| {
                json!({
                    "topic": topic.name, "topic_id": topic.topic_id, "internal": topic.internal,
                    "partitions": topic.partitions.len(), "replicas": copies(topic),
                })
            };
            out.json(&topics.iter().map(value).collect::<Vec<_>>())?;
        }
    }
    out.flush()
}

/// First and next offset of each partition.
async fn ends(client: &Client, topic: &TopicInfo) -> anyhow::Result<Vec<(i64, i64)>> {
    let all: Vec<u32> = topic.partitions.iter().map(|one| one.partition).collect();
    let first = client.offsets(&topic.name, &all, OffsetSpec::Earliest).await?;
    let next = client.offsets(&topic.name, &all, OffsetSpec::Latest).await?;
    let offset = |found: &std::collections::BTreeMap<u32, ferrymq_kafka_client::OffsetAt>, partition| {
        found.get(&partition).and_then(|at| at.offset).unwrap_or(0)
    };
    Ok(all.iter().map(|one| (offset(&first, *one), offset(&next, *one))).collect())
}

/// What is told of one partition.
struct Row<'a> {
    info: &'a PartitionInfo,
    first: i64,
    next: i64,
    /// `None` if its leader does not say.
    bytes: Option<u64>,
}

async fn describe(args: DescribeArgs) -> anyhow::Result<()> {
    let client = args.connect.client().await?;
    let topic = client.topic(&args.name, false).await?;
    let ends = ends(&client, &topic).await?;
    let bytes = client.partition_bytes(&topic).await?;
    let mut configs = client.topic_configs(&args.name).await?;
    configs.retain(|config| args.all || config.source == "topic");
    let row = |(info, (first, next)): (_, &(i64, i64))| {
        let info: &PartitionInfo = info;
        Row { info, first: *first, next: *next, bytes: bytes.get(&info.partition).copied() }
    };
    let rows: Vec<Row<'_>> = topic.partitions.iter().zip(&ends).map(row).collect();
    let mut out = Out::new();
    match args.output {
        Output::Json => out.json(&described(&topic, &rows, &configs))?,
        Output::Table => tables(&mut out, &rows, &configs)?,
    }
    out.flush()
}

/// Bytes of all partitions; `None` if those of one are not known.
fn total(rows: &[Row<'_>]) -> Option<u64> {
    rows.iter().map(|row| row.bytes).sum()
}

fn described(topic: &TopicInfo, rows: &[Row<'_>], configs: &[ConfigEntry]) -> serde_json::Value {
    let partition = |row: &Row<'_>| {
        json!({
            "partition": row.info.partition, "leader": row.info.leader, "replicas": row.info.replicas,
            "in_sync": row.info.in_sync, "first_offset": row.first, "next_offset": row.next,
            "bytes": row.bytes,
        })
    };
    let config =
        |config: &ConfigEntry| json!({ "name": config.name, "value": config.value, "source": config.source });
    json!({
        "topic": topic.name, "topic_id": topic.topic_id, "internal": topic.internal,
        "bytes": total(rows),
        "partitions": rows.iter().map(partition).collect::<Vec<_>>(),
        "configs": configs.iter().map(config).collect::<Vec<_>>(),
    })
}

fn tables(out: &mut Out, rows: &[Row<'_>], configs: &[ConfigEntry]) -> anyhow::Result<()> {
    let told = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    let row = |row: &Row<'_>| {
        let (partition, leader) = (row.info.partition.to_string(), row.info.leader.to_string());
        let records = row.next - row.first;
        [partition, leader, row.first.to_string(), row.next.to_string(), records.to_string(), told(row.bytes)]
    };
    let mut lines: Vec<[String; 6]> = rows.iter().map(row).collect();
    if rows.len() > 1 {
        let records: i64 = rows.iter().map(|row| row.next - row.first).sum();
        let nothing = String::new;
        let (records, bytes) = (records.to_string(), told(total(rows)));
        lines.push(["all".to_owned(), nothing(), nothing(), nothing(), records, bytes]);
    }
    out.table(["PARTITION", "LEADER", "FIRST OFFSET", "NEXT OFFSET", "RECORDS", "BYTES"], &lines)?;
    if configs.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let row = |config: &ConfigEntry| {
        [config.name.clone(), config.value.clone().unwrap_or_default(), config.source.to_owned()]
    };
    out.table(["CONFIG", "VALUE", "SET BY"], &configs.iter().map(row).collect::<Vec<_>>())
}
