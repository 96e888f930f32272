//! The stage of a run: one data directory, one server on it, the clients, and the end where all is checked.
//!
//! **Invariant.** A run ends with a clean stop and start and a reading of everything; no other reading decides
//! what was lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ferrymq_runtime::Rng;

use crate::client::Client;
use crate::history::{Broken, Span, TopicsSeen};
use crate::image::Image;
use crate::postgres::Database;
use crate::report::{Percentiles, Report};
use crate::server::{Injection, Server, Spec};
use crate::workload::{GROUP, Size, Workload, make_topics};
use crate::world::{Kind, Log, World};
use crate::{amqp, commits, ops, reader, rules};

/// How long a clean stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A run in progress.
pub(crate) struct Stage {
    pub(crate) world: Arc<World>,
    pub(crate) rng: Rng,
    pub(crate) spec: Spec,
    pub(crate) image: Option<Image>,
    /// Where the server keeps everything, if not in its directory.
    pub(crate) database: Option<Database>,
    pub(crate) report: Report,
    pub(crate) logs: Vec<Arc<Log>>,
    /// How long clients may wait for what must come.
    pub(crate) patience: Duration,
    /// Whether queues are used.
    queues: bool,
    data: PathBuf,
    server: Option<Server>,
    workload: Option<Workload>,
    ready: Vec<Duration>,
    measured: BTreeMap<&'static str, Vec<Duration>>,
}

impl Stage {
    /// A server on a fresh data directory in `work` with clients on it.
    pub(crate) fn open(
        scenario: &str,
        seed: u64,
        spec: Spec,
        work: &Path,
        (image, database): (Option<Image>, Option<Database>),
        size: &Size,
    ) -> anyhow::Result<Stage> {
        let data = image.as_ref().map_or_else(|| work.join("data"), |image| image.path().join("data"));
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let mut spec = spec;
        if let Some(database) = &database {
            spec.args.extend(["--store".to_owned(), database.url()]);
        }
        let world = World::new();
        let mut stage = Stage {
            rng: Rng::seeded(seed),
            queues: size.queues && !spec.bare,
            spec,
            image,
            database,
            report: Report { scenario: scenario.to_owned(), seed, ..Report::default() },
            logs: Vec::new(),
            patience: size.patience,
            data,
            server: None,
            workload: None,
            ready: Vec::new(),
            measured: BTreeMap::new(),
            world,
        };
        stage.start(None)?;
        let mut client = stage.client()?;
        stage.logs = make_topics(&stage.world, &mut client)?;
        stage.workload = Some(Workload::start(&stage.world, &stage.logs, size, &stage.rng)?);
        Ok(stage)
    }

    /// Counts a fault.
    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.report.faults.entry(fault).or_default() += 1;
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn start(&mut self, inject: Option<&Injection>) -> anyhow::Result<()> {
        let starting = self.spec.spawn(&self.world.clock, &self.data, inject)?;
        let server = starting.wait_ready(&self.world.clock)?;
        if inject.is_none() {
            self.ready.push(server.ready);
        }
        self.world.set_dark(false);
        self.world.set_server(server.address, server.amqp, server.api);
        self.server = Some(server);
        Ok(())
    }

    /// Starts the server and kills it after `after`, ready or not.
    pub(crate) fn start_and_kill(&mut self, after: Duration) -> anyhow::Result<()> {
        let starting = self.spec.spawn(&self.world.clock, &self.data, None)?;
        self.world.wait(after);
        starting.kill()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.world.end_life(false);
        match self.server.take() {
            Some(server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Cuts the power and brings it back; the server is gone.
    pub(crate) fn cut(&mut self) -> anyhow::Result<()> {
        let image = self.image.as_ref().context("a power cut needs a disk image")?;
        image.cut(|| self.world.set_dark(true))?;
        self.kill()?;
        self.image.as_mut().context("a power cut needs a disk image")?.restore()
    }

    /// Halts the server for a while.
    pub(crate) fn pause(&mut self, duration: Duration) -> anyhow::Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        server.pause(true)?;
        self.world.wait(duration);
        server.pause(false)
    }

    /// Whether the server ended without being asked to.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.server.as_mut().and_then(Server::ended).map(|status| status.to_string())
    }

    /// Notes it if the server ended without being asked to.
    pub(crate) fn must_be_alive(&mut self) {
        if let Some(status) = self.ended() {
            self.world.violation("server-ended", || format!("the server ended by itself: {status}"));
        }
    }

    /// A connection of the harness's own.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let address = self.world.server().context("there is no server")?;
        Ok(self.world.connect(address, self.patience)?)
    }

    /// Waits until `records` more are acknowledged; whether they were.
    pub(crate) fn wait_for_acks(&self, records: u64, patience: Duration) -> bool {
        let target = self.world.acked() + records;
        self.world.wait_for(patience, || self.world.acked() >= target)
    }

    /// Waits until so many more messages are confirmed; whether they were. Where there are no queues, they are.
    pub(crate) fn wait_for_confirms(&self, messages: u64, patience: Duration) -> bool {
        let target = self.world.confirmed() + messages;
        !self.queues || self.world.wait_for(patience, || self.world.confirmed() >= target)
    }

    /// Lists the topics into the history.
    pub(crate) fn list_topics(&self) -> anyhow::Result<()> {
        let began = self.world.now();
        let names = ops::topics(&mut self.client()?)?.into_iter().map(|(name, _)| name).collect();
        let during = self.world.since(began);
        self.world.history.lock().topics_seen.push(TopicsSeen { names, during });
        Ok(())
    }

    /// Ends the clients, stops and starts the server, reads everything, checks everything.
    pub(crate) fn finish(mut self, acked_min: u64, confirmed_min: u64) -> anyhow::Result<Report> {
        self.must_be_alive();
        if let Some(workload) = self.workload.take()
            && !workload.end(self.patience)
        {
            let patience = self.patience;
            self.world
                .violation("stuck", || format!("clients had no answer {patience:?} after the last fault"));
        }
        // A bare server keeps nothing: stopping it would hide what the faults did.
        if !self.spec.bare {
            self.restart_cleanly()?;
        }
        self.read_and_check()?;
        for (what, count) in amqp::read_and_check(&self.world, confirmed_min) {
            self.report.counts.insert(what, count as u64);
        }
        let acked = self.world.acked();
        if acked < acked_min {
            self.world.violation("too-few", || format!("{acked} records acknowledged, {acked_min} wanted"));
        }
        self.report.ready_ms = Percentiles::of(&self.ready);
        let measured = self.measured.iter().map(|(what, took)| (*what, Percentiles::of(took)));
        self.report.measured_ms = measured.collect();
        self.report.seconds = self.world.clock.uptime().as_secs_f64();
        self.report.finish(&self.world);
        if self.server.is_some() {
            self.kill()?;
        }
        crate::say(&self.report.line());
        Ok(self.report)
    }

    /// Stops the server as a user would and starts it again.
    pub(crate) fn restart_cleanly(&mut self) -> anyhow::Result<()> {
        self.stop_cleanly()?;
        self.start(None)
    }

    /// Nothing that was sent after `failed_at` and answered until now may have been acknowledged.
    pub(crate) fn broken_since(&mut self, failed_at: u64) {
        let to = self.world.now();
        self.world.history.lock().broken.push(Broken { from: failed_at, to });
        self.world.queues.lock().broken.push(failed_at..to);
    }

    /// Notes how long something took.
    pub(crate) fn measured(&mut self, what: &'static str, took: Duration) {
        self.measured.entry(what).or_default().push(took);
    }

    /// Stops the server as a user would.
    pub(crate) fn stop_cleanly(&mut self) -> anyhow::Result<()> {
        self.world.end_life(true);
        if let Some(server) = self.server.take() {
            let status = server.stop(&self.world.clock, STOP_PATIENCE)?;
            if !status.success() {
                self.world.violation("unclean-stop", || format!("asked to stop, it ended with {status}"));
            }
        }
        Ok(())
    }

    fn read_and_check(&mut self) -> anyhow::Result<()> {
        let mut client = self.client()?;
        self.list_topics()?;
        let mut last = Vec::new();
        for log in self.world.logs() {
            if log.dropped.load(std::sync::atomic::Ordering::SeqCst) {
                continue;
            }
            match reader::read_all(&self.world, &mut client, &log) {
                Ok(span) => last.push(span),
                Err(error) => {
                    self.world.violation("not-read", || error.to_string());
                    // What cannot be read is lost.
                    last.push(Span::starting_at(0, log.index, 0, self.world.now()));
                    client = self.client()?;
                }
            }
        }
        let committed: bool = !self.world.history.lock().commits.is_empty();
        for log in self.logs.iter().filter(|log| committed && log.kind == Kind::Kept) {
            // A coordinator that still loads is asked again, but not for ever.
            let mut tries = 1_000;
            while !commits::read(&self.world, &mut client, GROUP, log)? && tries > 0 {
                self.world.wait(Duration::from_millis(10));
                tries -= 1;
            }
        }
        let history = self.world.history.lock();
        rules::check(&self.world, &history, &last);
        Ok(())
    }
}
