//! `ferrymq exchange`.

use serde_json::{Value as Json, json};

use super::super::out::note;
use super::{PlaceArgs, PrintArgs, object, parse_argument, print};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ExchangeCommand {
    /// List exchanges
    List(ListArgs),
    /// Create an exchange; one that is the same already is fine
    #[command(after_help = "Examples:\n  ferrymq exchange create events --type topic\n  \
        ferrymq exchange create orders --type direct --argument alternate-exchange=unrouted")]
    Create(CreateArgs),
    /// Delete an exchange and its bindings
    Delete(DeleteArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: String,
    /// How it routes: direct, fanout, topic, headers, x-consistent-hash, x-modulus-hash, x-random, x-local-random, or
    /// x-delayed-message (with the argument x-delayed-type)
    #[arg(long = "type", short, default_value = "direct", value_name = "TYPE")]
    kind: String,
    /// It does not survive a restart
    #[arg(long)]
    transient: bool,
    /// It goes with its last binding
    #[arg(long)]
    auto_delete: bool,
    /// Only exchanges may publish to it
    #[arg(long)]
    internal: bool,
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
    /// Only if nothing is bound to it
    #[arg(long)]
    if_unused: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(crate) async fn run(command: ExchangeCommand) -> anyhow::Result<()> {
    match command {
        ExchangeCommand::List(args) => {
            let list = args.place.at.api().get("vhost", &["exchanges", &args.place.vhost]).await?;
            let headings = ["EXCHANGE", "TYPE", "DURABLE", "AUTO-DELETE", "INTERNAL", "POLICY", "ARGUMENTS"];
            let columns = ["name", "type", "durable", "auto_delete", "internal", "policy", "arguments"];
            print(&args.print, &list, headings, columns)
        }
        ExchangeCommand::Create(args) => {
            let what = format!("exchange {} in vhost {}", args.name, args.place.vhost);
            let body = json!({
                "type": args.kind, "durable": !args.transient, "auto_delete": args.auto_delete,
                "internal": args.internal, "arguments": object(&args.arguments)?,
            });
            let path = ["exchanges", &args.place.vhost, &args.name];
            let is_new = args.place.at.api().put(&what, &path, &body).await?;
            note(format_args!("{what} {}", if is_new { "created" } else { "is there already" }));
            Ok(())
        }
        ExchangeCommand::Delete(args) => {
            let what = format!("exchange {} in vhost {}", args.name, args.place.vhost);
            let query = if args.if_unused { "if-unused=true" } else { "" };
            let path = ["exchanges", &args.place.vhost, &args.name];
            args.place.at.api().delete(&what, &path, query).await?;
            note(format_args!("deleted {what}"));
            Ok(())
        }
    }
}
