//! `ferrymq queue`.

use serde_json::{Value as Json, json};

use super::super::out::{Out, note};
use super::{PlaceArgs, PrintArgs, cell, object, parse_argument, print};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues with what is in them
    List(ListArgs),
    /// Show one queue
    Describe(DescribeArgs),
    /// Create a queue; one that is the same already is fine
    #[command(after_help = "Examples:\n  ferrymq queue create orders --type quorum\n  \
        ferrymq queue create jobs --argument x-message-ttl=60000 --argument x-dead-letter-exchange=dead")]
    Create(CreateArgs),
    /// Delete a queue and its messages
    Delete(DeleteArgs),
    /// Drop all messages that are ready
    Purge(PurgeArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DescribeArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: String,
    /// Its type: classic, quorum or stream
    #[arg(long = "type", short, value_name = "TYPE")]
    kind: Option<String>,
    /// It does not survive a restart
    #[arg(long)]
    transient: bool,
    /// It goes with its last consumer
    #[arg(long)]
    auto_delete: bool,
    /// An argument; may be repeated
    #[arg(long = "argument", short, value_parser = parse_argument, value_name = "NAME=VALUE")]
    arguments: Vec<(String, Json)>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Its name
    name: String,
    /// Only if it has no consumers
    #[arg(long)]
    if_unused: bool,
    /// Only if no message is ready
    #[arg(long)]
    if_empty: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PurgeArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(crate) async fn run(command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::List(args) => {
            let list = args.place.at.api().get("vhost", &["queues", &args.place.vhost]).await?;
            let headings = ["QUEUE", "TYPE", "READY", "UNACKED", "CONSUMERS", "POLICY", "ARGUMENTS"];
            let columns = [
                "name",
                "type",
                "messages_ready",
                "messages_unacknowledged",
                "consumers",
                "policy",
                "arguments",
            ];
            print(&args.print, &list, headings, columns)
        }
        QueueCommand::Describe(args) => describe(&args).await,
        QueueCommand::Create(args) => create(args).await,
        QueueCommand::Delete(args) => {
            let what = format!("queue {} in vhost {}", args.name, args.place.vhost);
            let only_if = [(args.if_unused, "if-unused=true"), (args.if_empty, "if-empty=true")];
            let query: Vec<&str> =
                only_if.iter().filter(|(given, _)| *given).map(|(_, text)| *text).collect();
            let path = ["queues", &args.place.vhost, &args.name];
            args.place.at.api().delete(&what, &path, &query.join("&")).await?;
            note(format_args!("deleted {what}"));
            Ok(())
        }
        QueueCommand::Purge(args) => {
            let what = format!("queue {} in vhost {}", args.name, args.place.vhost);
            let path = ["queues", &args.place.vhost, &args.name, "contents"];
            args.place.at.api().delete(&what, &path, "").await?;
            note(format_args!("purged {what}"));
            Ok(())
        }
    }
}

async fn describe(args: &DescribeArgs) -> anyhow::Result<()> {
    let what = format!("queue {} in vhost {}", args.name, args.place.vhost);
    let queue = args.place.at.api().get(&what, &["queues", &args.place.vhost, &args.name]).await?;
    let mut out = Out::new();
    if args.print.is_json() {
        out.json(&queue)?;
    } else {
        let rows: Vec<[String; 2]> = queue
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| [name.clone(), cell(value)])
            .collect();
        out.table(["PROPERTY", "VALUE"], &rows)?;
    }
    out.flush()
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let what = format!("queue {} in vhost {}", args.name, args.place.vhost);
    let mut arguments = args.arguments;
    arguments.extend(args.kind.map(|kind| ("x-queue-type".to_owned(), Json::from(kind))));
    let body = json!({
        "durable": !args.transient, "auto_delete": args.auto_delete, "arguments": object(&arguments)?,
    });
    let path = ["queues", &args.place.vhost, &args.name];
    let is_new = args.place.at.api().put(&what, &path, &body).await?;
    note(format_args!("{what} {}", if is_new { "created" } else { "is there already" }));
    Ok(())
}
