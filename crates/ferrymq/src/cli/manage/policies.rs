//! `ferrymq policy`.

use serde_json::{Value as Json, json};

use super::super::out::note;
use super::super::usage;
use super::{PlaceArgs, PrintArgs, object, parse_argument, print};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum PolicyCommand {
    /// List policies in the order in which they are tried
    List(ListArgs),
    /// Set a policy, in the place of one of the same name; it holds at once
    #[command(
        after_help = "Examples:\n  ferrymq policy set ttl '^jobs\\.' message-ttl=60000 dead-letter-exchange=dead\n  \
        ferrymq policy set limits '' max-length=100000 overflow=reject-publish --apply-to quorum_queues\n  \
        ferrymq policy set caps '^(?!amq\\.)' max-length-bytes=1000000000 --operator --priority 10"
    )]
    Set(SetArgs),
    /// Clear a policy
    Clear(ClearArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Operator policies
    #[arg(long)]
    operator: bool,
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Its name
    name: String,
    /// What must be found in a name: a regular expression
    pattern: String,
    /// What it sets, such as message-ttl=60000
    #[arg(value_parser = parse_argument, value_name = "KEY=VALUE")]
    settings: Vec<(String, Json)>,
    /// The same as JSON, as rabbitmqctl takes it
    #[arg(long, value_name = "JSON", conflicts_with = "settings")]
    definition: Option<String>,
    /// What it applies to: all, queues, classic_queues, quorum_queues, streams or exchanges
    #[arg(long, default_value = "all", value_name = "WHAT")]
    apply_to: String,
    /// Of those that fit, the one with the highest applies
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_name = "NUMBER")]
    priority: i64,
    /// An operator policy: it limits what others say
    #[arg(long)]
    operator: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClearArgs {
    /// Its name
    name: String,
    /// An operator policy
    #[arg(long)]
    operator: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

const fn sort(operator: bool) -> &'static str {
    if operator { "operator-policies" } else { "policies" }
}

pub(crate) async fn run(command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::List(args) => {
            let path = [sort(args.operator), args.place.vhost.as_str()];
            let list = args.place.at.api().get("vhost", &path).await?;
            let headings = ["POLICY", "PATTERN", "APPLY TO", "PRIORITY", "DEFINITION"];
            print(&args.print, &list, headings, ["name", "pattern", "apply-to", "priority", "definition"])
        }
        PolicyCommand::Set(args) => set(args).await,
        PolicyCommand::Clear(args) => {
            let what = format!("policy {} in vhost {}", args.name, args.place.vhost);
            let path = [sort(args.operator), args.place.vhost.as_str(), &args.name];
            args.place.at.api().delete(&what, &path, "").await?;
            note(format_args!("cleared {what}"));
            Ok(())
        }
    }
}

async fn set(args: SetArgs) -> anyhow::Result<()> {
    let definition = match &args.definition {
        Some(text) => serde_json::from_str(text).map_err(|error| {
            usage(format!("--definition is not JSON: {error}; it may be '{{\"max-length\":5}}'"))
        })?,
        None => object(&args.settings)?,
    };
    let what = format!("policy {} in vhost {}", args.name, args.place.vhost);
    let body = json!({
        "pattern": args.pattern, "definition": definition, "priority": args.priority,
        "apply-to": args.apply_to,
    });
    let path = [sort(args.operator), args.place.vhost.as_str(), &args.name];
    let is_new = args.place.at.api().put(&what, &path, &body).await?;
    note(format_args!("{what} {}", if is_new { "set" } else { "changed" }));
    Ok(())
}
