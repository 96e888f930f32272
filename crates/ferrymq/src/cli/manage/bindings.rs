//! `ferrymq binding`.

use anyhow::Context as _;
use serde_json::{Value as Json, json};

use super::super::out::note;
use super::{PlaceArgs, PrintArgs, object, parse_argument, print};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BindingCommand {
    /// List bindings
    List(ListArgs),
    /// Bind a queue, or an exchange, to an exchange; the same binding twice is one
    #[command(after_help = "Examples:\n  ferrymq binding create events orders --routing-key 'order.#'\n  \
        ferrymq binding create events audit --to-exchange")]
    Create(BetweenArgs),
    /// Take a binding away
    Delete(BetweenArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those that begin at this exchange
    #[arg(long, value_name = "EXCHANGE")]
    source: Option<String>,
    /// Only those that lead to this queue or exchange
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BetweenArgs {
    /// The exchange that messages come from
    source: String,
    /// The queue that they go to
    destination: String,
    /// The destination is an exchange
    #[arg(long)]
    to_exchange: bool,
    /// What a routing key is compared with
    #[arg(long, short = 'k', default_value = "", hide_default_value = true, value_name = "KEY")]
    routing_key: String,
    /// An argument; may be repeated
    #[arg(long = "argument", short, value_parser = parse_argument, value_name = "NAME=VALUE")]
    arguments: Vec<(String, Json)>,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(crate) async fn run(command: BindingCommand) -> anyhow::Result<()> {
    match command {
        BindingCommand::List(args) => list(args).await,
        BindingCommand::Create(args) => {
            let what = what(&args);
            let body = json!({ "routing_key": args.routing_key, "arguments": object(&args.arguments)? });
            args.place.at.api().post(&what, &path(&args), &body).await?;
            note(format_args!("bound: {what}"));
            Ok(())
        }
        BindingCommand::Delete(args) => delete(args).await,
    }
}

fn what(args: &BetweenArgs) -> String {
    let BetweenArgs { source, destination, routing_key, place, .. } = args;
    format!("binding {source} -> {destination} with key '{routing_key}' in vhost {}", place.vhost)
}

fn path(args: &BetweenArgs) -> [&str; 6] {
    let sort = if args.to_exchange { "e" } else { "q" };
    ["bindings", &args.place.vhost, "e", &args.source, sort, &args.destination]
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let mut list = args.place.at.api().get("vhost", &["bindings", &args.place.vhost]).await?;
    let wanted = |row: &Json| {
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| row[name].as_str() == Some(wanted))
        };
        is(&args.source, "source") && is(&args.destination, "destination")
    };
    if let Some(rows) = list.as_array_mut() {
        rows.retain(wanted);
    }
    let headings = ["SOURCE", "DESTINATION", "TO", "ROUTING KEY", "ARGUMENTS"];
    let columns = ["source", "destination", "destination_type", "routing_key", "arguments"];
    print(&args.print, &list, headings, columns)
}

async fn delete(args: BetweenArgs) -> anyhow::Result<()> {
    let (api, what) = (args.place.at.api(), what(&args));
    let arguments = object(&args.arguments)?;
    let found = api.get(&what, &path(&args)).await?;
    let is_it = |row: &&Json| row["routing_key"] == *args.routing_key && row["arguments"] == arguments;
    let named = found.as_array().into_iter().flatten().find(is_it);
    let key = named.and_then(|row| row["properties_key"].as_str());
    let key =
        key.with_context(|| format!("there is no {what}; `ferrymq binding list` shows what there is"))?;
    let path: Vec<&str> = path(&args).into_iter().chain([key]).collect();
    api.delete(&what, &path, "").await?;
    note(format_args!("unbound: {what}"));
    Ok(())
}
