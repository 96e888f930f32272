//! The scenarios: what is broken, how often, and what must be true while it is.
//!
//! Each runs in rounds of at most [`ROUND`] faults on a fresh directory, so that memory and the time to check stay
//! bounded however long the whole is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ferrymq_runtime::Rng;

use crate::image::{Image, may_mount};
use crate::postgres::{Database, is_installed};
use crate::report::Report;
use crate::server::{Injection, Spec};
use crate::stage::Stage;
use crate::workload::Size;

mod full;
mod postgres;

/// Faults on one directory.
pub(crate) const ROUND: u64 = 25;
/// Megabytes of a disk image.
const IMAGE_MEGABYTES: u64 = 4096;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 at a random moment, also during recovery, and halts.
    Kill,
    /// The power is cut.
    Power,
    /// A sync fails once.
    Eio,
    /// The disk is full for a while.
    Full,
    /// The broker's store is PostgreSQL: either of them is killed, sessions are, links between them are cut or held.
    Postgres,
}

/// A scenario to run.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) fault: Fault,
    pub(crate) cycles: u64,
    /// Records that must be acknowledged in all.
    pub(crate) acked_min: u64,
    /// Messages of queues that must be confirmed in all.
    pub(crate) confirmed_min: u64,
    pub(crate) seed: u64,
    pub(crate) size: Size,
    /// End after the round by which of each of these groups of rules one was broken.
    pub(crate) until: &'static [&'static [&'static str]],
}

impl Scenario {
    /// Runs it in `work`; `None` if this process may not.
    pub(crate) fn run(&self, spec: &Spec, work: &Path) -> anyhow::Result<Option<Report>> {
        if !matches!(self.fault, Fault::Kill | Fault::Postgres) && !may_mount() {
            crate::say(&format!("SKIPPED {:?}: mounting a disk image needs root", self.fault));
            return Ok(None);
        }
        if self.fault == Fault::Postgres && !is_installed() {
            crate::say("SKIPPED Postgres: there is none: scripts/postgres --install");
            return Ok(None);
        }
        let seeds = Rng::seeded(self.seed);
        let mut all: Option<Report> = None;
        // Who looks for a bug looks often.
        let size = if self.until.is_empty() { ROUND } else { ROUND.div_ceil(5) };
        let rounds = self.cycles.div_ceil(size).max(1);
        for round in 0..rounds {
            let cycles = size.min(self.cycles - round * size);
            let report = self
                .round(spec, work, seeds.next_u64(), cycles, round * size, rounds)
                .with_context(|| format!("{:?}, round {round} of seed {}", self.fault, self.seed))?;
            let report = match all.take() {
                None => report,
                Some(before) => before.and(report),
            };
            let broken = !self.until.is_empty() && report.breaks(self.until).0;
            all = Some(report);
            if broken {
                break;
            }
        }
        let mut all = all.context("nothing was run")?;
        all.seed = self.seed;
        Ok(Some(all))
    }

    fn round(
        &self,
        spec: &Spec,
        work: &Path,
        seed: u64,
        cycles: u64,
        done: u64,
        rounds: u64,
    ) -> anyhow::Result<Report> {
        let acked_min = self.acked_min.div_ceil(rounds);
        let image = match self.fault {
            Fault::Kill | Fault::Postgres => None,
            Fault::Power | Fault::Eio => Some(Image::create(work, IMAGE_MEGABYTES)?),
            Fault::Full => Some(Image::create(work, full::IMAGE_MEGABYTES)?),
        };
        let name = format!("{:?}", self.fault).to_lowercase();
        let database = match self.fault {
            Fault::Postgres => Some(Database::start(seed)?),
            _ => None,
        };
        let mut stage = Stage::open(&name, seed, spec.clone(), work, (image, database), &self.size)?;
        for cycle in 0..cycles {
            match self.fault {
                Fault::Kill => kill(&mut stage, acked_min / cycles)?,
                Fault::Power => power(&mut stage, acked_min / cycles)?,
                Fault::Eio => eio(&mut stage, work, done + cycle, self.cycles)?,
                Fault::Full => full::cycle(&mut stage)?,
                Fault::Postgres => {
                    postgres::cycle(&mut stage, seed.wrapping_add(cycle), acked_min / cycles)?;
                }
            }
        }
        // Something must still be possible after the last fault.
        stage.wait_for_acks(100, stage.patience);
        stage.wait_for_confirms(100, stage.patience);
        if self.fault == Fault::Postgres {
            postgres::account(&mut stage)?;
        }
        stage.finish(acked_min, self.confirmed_min.div_ceil(rounds))
    }
}

fn between(rng: &Rng, low: u64, high: u64) -> Duration {
    Duration::from_millis(low + rng.below(high - low))
}

/// Works for a while: a random time, and until something was acknowledged.
fn work_on(stage: &mut Stage, records: u64) {
    let before = stage.world.acked();
    let time = between(&stage.rng, 50, 1_500);
    stage.world.wait(time);
    let missing = (before + records.max(1)).saturating_sub(stage.world.acked());
    stage.wait_for_acks(missing, stage.patience);
    stage.wait_for_confirms(1, stage.patience);
    stage.must_be_alive();
}

fn kill(stage: &mut Stage, records: u64) -> anyhow::Result<()> {
    work_on(stage, records);
    if stage.rng.below(6) == 0 {
        let time = between(&stage.rng, 50, 900);
        stage.pause(time)?;
        stage.count("halts");
    }
    if stage.rng.below(8) == 0 {
        stage.restart_cleanly()?;
        stage.count("clean restarts");
        work_on(stage, 1);
    }
    stage.kill()?;
    stage.count("kills");
    while stage.rng.below(4) == 0 {
        let time = between(&stage.rng, 0, 60);
        stage.start_and_kill(time)?;
        stage.count("kills during recovery");
    }
    stage.start(None)?;
    stage.list_topics()
}

fn power(stage: &mut Stage, records: u64) -> anyhow::Result<()> {
    work_on(stage, records);
    stage.cut()?;
    stage.count("power cuts");
    if stage.rng.below(4) == 0 {
        let time = between(&stage.rng, 0, 60);
        stage.start_and_kill(time)?;
        stage.image.as_mut().context("no image")?.restore()?;
        stage.count("kills during recovery");
    }
    stage.start(None)?;
    stage.list_topics()
}

/// The N-th sync fails; nothing sent afterwards may be acknowledged, then the power is cut.
fn eio(stage: &mut Stage, work: &Path, cycle: u64, cycles: u64) -> anyhow::Result<()> {
    stage.wait_for_acks(1, stage.patience);
    stage.wait_for_confirms(1, stage.patience);
    stage.stop_cleanly()?;
    let trace: PathBuf = work.join(format!("strace-{cycle}"));
    // With many runs each of the first syncs once, with few some of them.
    let nth = if cycles >= 100 { cycle } else { stage.rng.below(120) };
    let injection = Injection { nth: u32::try_from(nth + 1)?, trace: trace.clone() };
    stage.count("runs with a failing sync");
    match stage.start(Some(&injection)) {
        Ok(()) => {
            let reached = stage.world.wait_for(Duration::from_secs(20), || injection.happened());
            let failed_at = stage.world.now();
            if reached {
                stage.world.wait(Duration::from_millis(600));
                if stage.ended().is_some() {
                    stage.count("servers that ended after it");
                }
            }
            stage.cut()?;
            if reached {
                stage.broken_since(failed_at);
            }
        }
        Err(error) => {
            crate::say(&format!("sync {} failed and the server did not start: {error:#}", nth + 1));
            stage.count("servers that did not start with it");
            stage.cut()?;
        }
    }
    stage.count(if injection.happened() { "syncs that failed" } else { "syncs not reached" });
    std::fs::remove_file(&trace)?;
    stage.start(None)?;
    stage.list_topics()
}
