//! `ferrymq serve`: starts the broker. Deliberately absent so far: the broker.

/// Options of `ferrymq serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {}

/// Runs the broker until it is told to stop.
pub(crate) fn run(_args: ServeArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build has no broker in it")
}
