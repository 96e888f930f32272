//! Where the broker is: options that every client command has.

use std::time::Duration;

use ferrymq_kafka_client::{Client, ClientConfig};
use ferrymq_runtime::{Clock, Rng, Tasks};

use super::units::parse_duration;

/// How to reach the broker.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Brokers to ask first, as host:port with commas between
    #[arg(
        long,
        short = 'b',
        env = "FERRYMQ_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT",
        help_heading = "Connection"
    )]
    pub(crate) bootstrap: String,
    /// How long to wait for a connection or an answer
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME", help_heading = "Connection")]
    pub(crate) timeout: Duration,
}

impl ConnectArgs {
    /// Connects.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        self.client_with(Clock::system()).await
    }

    /// Connects, with a clock that the caller has too.
    pub(crate) async fn client_with(&self, clock: Clock) -> anyhow::Result<Client> {
        let mut config = ClientConfig::new(&self.bootstrap);
        if config.bootstrap.is_empty() {
            return Err(super::usage("--bootstrap names no broker"));
        }
        config.patience = self.timeout;
        Ok(Client::connect(config, clock, Rng::from_os(), Tasks::new()).await?)
    }
}
