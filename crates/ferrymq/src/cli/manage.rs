//! `ferrymq vhost|exchange|queue|binding|policy`: what RabbitMQ's clients work with, over the broker's API.
//!
//! **Invariant.** What a command changed it says on stderr; what it lists goes to stdout.

mod api;
mod bindings;
mod exchanges;
mod policies;
mod queues;
mod vhosts;

pub(crate) use bindings::BindingCommand;
pub(crate) use exchanges::ExchangeCommand;
pub(crate) use policies::PolicyCommand;
pub(crate) use queues::QueueCommand;
pub(crate) use vhosts::VhostCommand;
pub(crate) use {
    bindings::run as binding, exchanges::run as exchange, policies::run as policy, queues::run as queue,
    vhosts::run as vhost,
};

use api::{Api, Refused};
use serde_json::{Map, Value as Json};

use super::out::{Out, Output};
use super::units::parse_duration;
use super::usage;

/// Where the broker's API is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ApiArgs {
    /// The broker's HTTP listener
    #[arg(
        long,
        env = "FERRYMQ_API",
        default_value = "127.0.0.1:15672",
        value_name = "HOST:PORT",
        help_heading = "Connection"
    )]
    api: String,
    /// How long to wait for a connection or an answer
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME", help_heading = "Connection")]
    timeout: std::time::Duration,
}

impl ApiArgs {
    fn api(&self) -> Api {
        Api::new(&self.api, self.timeout)
    }
}

/// Where the broker's API is, and which virtual host is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlaceArgs {
    /// The virtual host
    #[arg(
        long,
        short = 'V',
        env = "FERRYMQ_VHOST",
        default_value = "/",
        value_name = "NAME",
        help_heading = "Connection"
    )]
    vhost: String,
    #[command(flatten)]
    at: ApiArgs,
}

/// How a list is printed.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PrintArgs {
    /// How to print
    #[arg(long, short, value_enum, default_value_t, conflicts_with = "json")]
    output: Output,
    /// The same as --output json
    #[arg(long)]
    json: bool,
}

impl PrintArgs {
    fn is_json(&self) -> bool {
        self.json || self.output == Output::Json
    }
}

/// Prints a list as it came, or some of its columns.
fn print<const N: usize>(
    args: &PrintArgs,
    list: &Json,
    headings: [&str; N],
    columns: [&str; N],
) -> anyhow::Result<()> {
    let mut out = Out::new();
    if args.is_json() {
        out.json(list)?;
        return out.flush();
    }
    let rows: Vec<[String; N]> =
        list.as_array().into_iter().flatten().map(|row| columns.map(|column| cell(&row[column]))).collect();
    out.table(headings, &rows)?;
    out.flush()
}

fn cell(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        Json::Bool(true) => "yes".to_owned(),
        Json::Bool(false) => "no".to_owned(),
        Json::Object(map) => {
            map.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(" ")
        }
        Json::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        other @ Json::Number(_) => other.to_string(),
    }
}

/// `NAME=VALUE`: the value is JSON where it is a number, true, false, or quoted; else it is a text.
fn parse_argument(text: &str) -> Result<(String, Json), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as x-max-length=1000")?;
    if name.is_empty() {
        return Err("the name before = is empty".to_owned());
    }
    let value = match serde_json::from_str::<Json>(value) {
        Ok(json) => json,
        Err(_) => Json::from(value),
    };
    Ok((name.to_owned(), value))
}

/// Arguments that were given one by one.
fn object(pairs: &[(String, Json)]) -> anyhow::Result<Json> {
    let mut map = Map::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(usage(format!("{name} is given twice")));
        }
    }
    Ok(Json::Object(map))
}

/// The advice that goes with an error of the API.
pub(crate) fn advice(error: &anyhow::Error) -> Option<String> {
    error.downcast_ref::<Refused>().and_then(Refused::advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_what_they_look_like() {
        for (text, value) in [
            ("a=5", json!(5)),
            ("a=-1", json!(-1)),
            ("a=true", json!(true)),
            ("a=\"5\"", json!("5")),
            ("a=quorum", json!("quorum")),
            ("a=", json!("")),
            ("a=b=c", json!("b=c")),
            ("a={\"b\":1}", json!({ "b": 1 })),
        ] {
            assert_eq!(parse_argument(text), Ok(("a".to_owned(), value)));
        }
        assert!(parse_argument("a").is_err() && parse_argument("=5").is_err());
        assert_eq!(cell(&json!({ "a": 1, "b": [true, "x"], "c": null })), "a=1 b=yes,x c=-");
    }
}
