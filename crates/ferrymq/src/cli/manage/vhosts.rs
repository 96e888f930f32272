//! `ferrymq vhost`.

use serde_json::json;

use super::super::out::note;
use super::{ApiArgs, PrintArgs, print};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum VhostCommand {
    /// List virtual hosts
    List(ListArgs),
    /// Create a virtual host, or change what is said of it
    #[command(after_help = "Example: ferrymq vhost create staging --description 'what is tried out'")]
    Create(CreateArgs),
    /// Delete a virtual host with its queues, exchanges and policies; its connections are closed
    Delete(DeleteArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    at: ApiArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: String,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// A word to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// What its queues are that name no x-queue-type: classic, quorum or stream. [default: the broker's]
    #[arg(long, value_name = "TYPE", value_parser = ["classic", "quorum", "stream"], hide_possible_values = true)]
    default_queue_type: Option<String>,
    #[command(flatten)]
    at: ApiArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    at: ApiArgs,
}

pub(crate) async fn run(command: VhostCommand) -> anyhow::Result<()> {
    match command {
        VhostCommand::List(args) => {
            let list = args.at.api().get("vhost", &["vhosts"]).await?;
            let headings = ["VHOST", "DESCRIPTION", "TAGS", "DEFAULT TYPE"];
            print(&args.print, &list, headings, ["name", "description", "tags", "default_queue_type"])
        }
        VhostCommand::Create(args) => {
            let (name, what) = (&args.name, format!("vhost {}", args.name));
            let mut body = json!({ "description": args.description, "tags": args.tags });
            if let Some(kind) = &args.default_queue_type {
                body["default_queue_type"] = kind.as_str().into();
            }
            let is_new = args.at.api().put(&what, &["vhosts", name], &body).await?;
            note(format_args!("{} {what}", if is_new { "created" } else { "updated" }));
            Ok(())
        }
        VhostCommand::Delete(args) => {
            let what = format!("vhost {}", args.name);
            args.at.api().delete(&what, &["vhosts", &args.name], "").await?;
            note(format_args!("deleted {what}"));
            Ok(())
        }
    }
}
