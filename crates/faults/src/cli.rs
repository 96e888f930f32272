//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::report::Report;
use crate::scenario::{Fault, Scenario};
use crate::server::Spec;
use crate::workload::Size;
use crate::{bugs, campaign};

/// Black-box fault tests of a broker process.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one scenario.
    Run {
        /// What to break.
        #[arg(value_enum)]
        fault: Fault,
        /// How often.
        #[arg(long, default_value_t = 10)]
        cycles: u64,
        /// Records that must be acknowledged at least.
        #[arg(long, default_value_t = 1_000)]
        acked: u64,
        /// Messages of queues that must be confirmed at least.
        #[arg(long, default_value_t = 100)]
        confirmed: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Runs the scenarios of a tier.
    Campaign {
        /// How much.
        #[arg(long, value_enum, default_value_t = campaign::Tier::Ci)]
        tier: campaign::Tier,
        #[command(flatten)]
        common: Common,
    },
    /// Breaks the server on purpose and fails if that is not noticed.
    Bugs {
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
        /// How much: those of the engine on PostgreSQL take minutes, and are for the full tier.
        #[arg(long, value_enum, default_value_t = campaign::Tier::Ci)]
        tier: campaign::Tier,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The server's program.
    #[arg(long)]
    server: PathBuf,
    /// The server takes an address as its only argument and keeps nothing: a broker on the memory engine.
    #[arg(long)]
    bare: bool,
    /// More arguments to the server, after `serve`.
    #[arg(long = "server-arg", allow_hyphen_values = true)]
    server_args: Vec<String>,
    /// Size of the server's write-ahead log files, or tables: small, so that a run crosses many.
    #[arg(long, default_value_t = 1 << 20)]
    wal_file_bytes: u64,
    /// Where data, disk images and logs go; what a run makes there, it removes.
    #[arg(long)]
    work: PathBuf,
    /// The same seed makes the same choices, though not the same timing.
    #[arg(long)]
    pub(crate) seed: u64,
    /// Where the JSON report goes.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Megabytes a second that each producer sends.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Seconds that clients may wait for what must come.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

impl Common {
    /// What to start.
    pub(crate) fn spec(&self) -> Spec {
        let mut args = vec!["--retention-check-interval-ms".to_owned(), "400".to_owned()];
        args.extend(self.server_args.iter().cloned());
        let envs = vec![
            ("FERRYMQ_WAL_FILE_BYTES", self.wal_file_bytes.to_string()),
            // Many tables that take turns, on PostgreSQL.
            ("FERRYMQ_POSTGRES_TABLE_BYTES", self.wal_file_bytes.to_string()),
            ("FERRYMQ_POSTGRES_HOUSEKEEPING_MS", "200".to_owned()),
            ("FERRYMQ_LOG_LEVEL", "info".to_owned()),
        ];
        Spec { program: self.server.clone(), bare: self.bare, args, envs, notes: self.work.clone() }
    }

    /// How much work clients do.
    pub(crate) fn size(&self) -> Size {
        #[allow(clippy::cast_possible_truncation, reason = "a rate that is given by hand")]
        #[allow(clippy::cast_sign_loss, reason = "a rate that is given by hand")]
        let rate = (self.rate * 1_048_576.0) as u64;
        Size { rate, patience: Duration::from_secs(self.patience), ..Size::default() }
    }

    /// Where things go.
    pub(crate) fn work(&self) -> anyhow::Result<&Path> {
        std::fs::create_dir_all(&self.work)
            .with_context(|| format!("could not make {}", self.work.display()))?;
        Ok(&self.work)
    }

    /// Writes the report if one is wanted.
    pub(crate) fn write(&self, report: &impl serde::Serialize) -> anyhow::Result<()> {
        let Some(path) = &self.report else { return Ok(()) };
        let text = serde_json::to_string_pretty(report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("could not write {}", path.display()))
    }
}

/// Runs what was asked for; an error or `false` is a failure.
pub(crate) fn run(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::Run { fault, cycles, acked, confirmed, common } => {
            let scenario = Scenario {
                fault,
                cycles,
                acked_min: acked,
                confirmed_min: confirmed,
                seed: common.seed,
                size: common.size(),
                until: &[],
            };
            let Some(report) = scenario.run(&common.spec(), common.work()?)? else {
                return skipped();
            };
            common.write(&report)?;
            Ok(report.passed)
        }
        Command::Campaign { tier, common } => campaign::run(tier, &common),
        Command::Bugs { only, tier, common } => bugs::run(only.as_deref(), tier, &common),
    }
}

/// Whether a run that could not be done is fine: for a user, never where CI counts on it.
pub(crate) fn skipped() -> anyhow::Result<bool> {
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        bail!("CI=true, and a scenario could not be run: run as root");
    }
    Ok(true)
}

/// Whether all passed.
pub(crate) fn all_passed(reports: &[Report]) -> bool {
    reports.iter().all(|report| report.passed)
}
