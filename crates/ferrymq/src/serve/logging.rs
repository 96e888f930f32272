//! Structured logs on standard error. Nothing above debug is logged per message.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

use super::settings::{LogFormat, Settings};

/// Changes the log level while running.
pub(crate) struct Reload(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl Reload {
    /// Sets the level; false if `level` cannot be parsed.
    pub(crate) fn level(&self, level: &str) -> bool {
        EnvFilter::try_new(level).is_ok_and(|filter| self.0.reload(filter).is_ok())
    }
}

/// Starts logging.
pub(crate) fn start(settings: &Settings) -> anyhow::Result<Reload> {
    let filter = EnvFilter::try_new(&settings.log_level)
        .with_context(|| format!("log-level {:?} is not a level or filter", settings.log_level))?;
    let (filter, handle) = reload::Layer::new(filter);
    let text = (settings.log_format == LogFormat::Text).then(|| {
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
    });
    let json =
        (settings.log_format == LogFormat::Json).then(|| fmt::layer().json().with_writer(std::io::stderr));
    let subscriber = tracing_subscriber::registry().with(filter).with(text).with(json);
    subscriber.try_init().context("logging was started twice")?;
    Ok(Reload(handle))
}
