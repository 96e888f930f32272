//! What all threads of a run share: where the server is, the logs, the history, what was found wrong.
//!
//! **Invariant.** [`Log::floor`] is an offset that a client was told lies at or below the end of the log, before
//! the reader of it asks again. An answer below it is a violation found at once, not only at the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ferrymq_checker::queues::{QueueHistory, Stop};
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_runtime::Clock;
use parking_lot::{Condvar, Mutex};

use crate::amqp::link::Link;
use crate::client::Client;
use crate::history::{During, History};

/// Violations kept in words, per rule; all are counted.
const DETAILS_MAX: usize = 12;

/// What happens to a log besides being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: every record stays.
    Kept,
    /// Its beginning is deleted by request.
    Trimmed,
    /// Its beginning is deleted by retention.
    Retained,
    /// Its topic comes and goes.
    Churned,
}

/// A partition.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) index: usize,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) kind: Kind,
    /// The log's end is known to be here or later.
    pub(crate) floor: AtomicI64,
    /// The highest offset anybody asked to delete up to.
    pub(crate) trim_asked: AtomicI64,
    /// The highest start of the log that was confirmed.
    pub(crate) trim_done: AtomicI64,
    /// Where the latest reader of the log as a stream is.
    pub(crate) streamed: AtomicI64,
    /// Somebody asked to delete the topic.
    pub(crate) dropped: AtomicBool,
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Something that must not happen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) count: u64,
    pub(crate) details: Vec<String>,
}

/// Counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acked: AtomicU64,
    pub(crate) acked_batches: AtomicU64,
    pub(crate) acked_bytes: AtomicU64,
    pub(crate) info: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) topic_changes: AtomicU64,
    pub(crate) trims: AtomicU64,
    /// Messages of queues that were confirmed, and so on.
    pub(crate) confirmed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) delivered: AtomicU64,
    /// Deliveries that were settled, with a later answer on their channel.
    pub(crate) settled: AtomicU64,
    pub(crate) returned: AtomicU64,
    /// Records that were confirmed to AMQP publishers.
    pub(crate) streamed: AtomicU64,
    /// Records that were read as a stream.
    pub(crate) stream_read: AtomicU64,
}

#[derive(Debug, Default)]
struct Place {
    server: Option<SocketAddr>,
    /// Where AMQP clients connect.
    amqp: Option<SocketAddr>,
    /// Where the management API is.
    api: Option<SocketAddr>,
    /// How often there was a server.
    life: u32,
    stopping: bool,
    /// When given up is what has no answer yet.
    give_up: bool,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) counts: Counts,
    pub(crate) history: Mutex<History>,
    pub(crate) queues: Mutex<QueueHistory>,
    logs: Mutex<Vec<Arc<Log>>>,
    place: Mutex<Place>,
    changed: Condvar,
    writers: AtomicU32,
    /// The power is gone, or going: nothing that is answered counts.
    dark: Arc<AtomicBool>,
    violations: Mutex<BTreeMap<&'static str, (u64, Vec<String>)>>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl World {
    /// An empty one.
    pub(crate) fn new() -> Arc<World> {
        Arc::new(World {
            clock: Clock::system(),
            counts: Counts::default(),
            history: Mutex::default(),
            queues: Mutex::default(),
            logs: Mutex::default(),
            place: Mutex::default(),
            changed: Condvar::new(),
            writers: AtomicU32::new(1),
            dark: Arc::default(),
            violations: Mutex::default(),
            errors: Mutex::default(),
        })
    }

    /// Microseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.clock.uptime().as_micros()).unwrap_or(u64::MAX)
    }

    /// The time since `began`.
    pub(crate) fn since(&self, began: u64) -> During {
        During { began, ended: self.now() }
    }

    /// A number no other writer has.
    pub(crate) fn new_writer(&self) -> u32 {
        self.writers.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a log.
    pub(crate) fn add_log(&self, topic: &str, partition: i32, kind: Kind) -> Arc<Log> {
        let mut logs = self.logs.lock();
        let log = Arc::new(Log {
            index: logs.len(),
            topic: topic.to_owned(),
            partition,
            kind,
            floor: AtomicI64::new(0),
            trim_asked: AtomicI64::new(0),
            trim_done: AtomicI64::new(0),
            streamed: AtomicI64::new(0),
            dropped: AtomicBool::new(false),
        });
        logs.push(log.clone());
        log
    }

    /// Every log there ever was.
    pub(crate) fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.lock().clone()
    }

    /// Notes a violation.
    pub(crate) fn violation(&self, rule: &'static str, detail: impl FnOnce() -> String) {
        let mut violations = self.violations.lock();
        let (count, details) = violations.entry(rule).or_default();
        *count += 1;
        if details.len() < DETAILS_MAX {
            let detail = detail();
            crate::say(&format!("VIOLATION {rule}: {detail}"));
            details.push(detail);
        }
    }

    /// Everything found wrong.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        let violations = self.violations.lock();
        let each = violations.iter();
        each.map(|(rule, (count, details))| Violation { rule, count: *count, details: details.clone() })
            .collect()
    }

    /// Notes an error code a client was given.
    pub(crate) fn error(&self, what: &str, code: i16) {
        let name =
            ErrorCode::from_code(code).map_or_else(|| code.to_string(), |known| known.name().to_owned());
        *self.errors.lock().entry(format!("{what}: {name}")).or_default() += 1;
    }

    /// Notes a connection that broke.
    pub(crate) fn broke(&self, what: &str, error: &std::io::Error) {
        *self.errors.lock().entry(format!("{what}: {:?}", error.kind())).or_default() += 1;
    }

    /// The errors clients were given.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    /// Notes what an AMQP client was told when it was refused.
    pub(crate) fn refused(&self, what: &str, error: &str) {
        *self.errors.lock().entry(format!("{what}: {error}")).or_default() += 1;
    }

    /// Says where the server is, for Kafka and for AMQP clients, and its management API: a new life.
    pub(crate) fn set_server(&self, server: SocketAddr, amqp: Option<SocketAddr>, api: Option<SocketAddr>) {
        let mut place = self.place.lock();
        (place.server, place.amqp, place.api) = (Some(server), amqp, api);
        place.life += 1;
        drop(place);
        self.changed.notify_all();
    }

    /// Says that the server is about to be gone; `clean` if it is asked to end.
    pub(crate) fn end_life(&self, clean: bool) {
        let mut place = self.place.lock();
        (place.server, place.amqp, place.api) = (None, None, None);
        let life = place.life;
        drop(place);
        self.queues.lock().stops.push(Stop { life, began: self.now(), clean });
        self.changed.notify_all();
    }

    /// Says that the power goes, or that it is back.
    pub(crate) fn set_dark(&self, dark: bool) {
        self.dark.store(dark, Ordering::SeqCst);
    }

    /// A connection to the server.
    pub(crate) fn connect(&self, address: SocketAddr, patience: Duration) -> std::io::Result<Client> {
        Client::connect(address, patience, &self.dark)
    }

    /// Where the server is; waits a little for it.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        let mut place = self.place.lock();
        if place.server.is_none() && !place.give_up {
            self.changed.wait_for(&mut place, Duration::from_millis(100));
        }
        place.server
    }

    /// Where AMQP clients connect, and in which life; waits a little for it.
    pub(crate) fn amqp_server(&self) -> Option<(SocketAddr, u32)> {
        let mut place = self.place.lock();
        if place.server.is_none() && !place.give_up {
            self.changed.wait_for(&mut place, Duration::from_millis(100));
        }
        Some((place.amqp?, place.life))
    }

    /// Where the management API is, if there is a server.
    pub(crate) fn api(&self) -> Option<SocketAddr> {
        self.place.lock().api
    }

    /// Whether the power is gone, or going.
    pub(crate) fn is_dark(&self) -> bool {
        self.dark.load(Ordering::SeqCst)
    }

    /// An AMQP connection to the server.
    pub(crate) fn connect_amqp(&self, address: SocketAddr, patience: Duration) -> std::io::Result<Link> {
        Link::connect(address, patience, &self.dark)
    }

    /// No new work.
    pub(crate) fn stop(&self) {
        self.place.lock().stopping = true;
        self.changed.notify_all();
    }

    /// What has no answer now will get none.
    pub(crate) fn give_up(&self) {
        self.place.lock().give_up = true;
        self.changed.notify_all();
    }

    /// Whether to begin nothing new.
    pub(crate) fn stopping(&self) -> bool {
        self.place.lock().stopping
    }

    /// Whether to wait for nothing more.
    pub(crate) fn given_up(&self) -> bool {
        self.place.lock().give_up
    }

    /// Waits, less when the run is stopping.
    pub(crate) fn pause(&self, duration: Duration) {
        let deadline = self.clock.now() + duration;
        let mut place = self.place.lock();
        while !place.stopping && !self.changed.wait_until(&mut place, deadline.into_std()).timed_out() {}
    }

    /// Waits in any case.
    pub(crate) fn wait(&self, duration: Duration) {
        let deadline = self.clock.now() + duration;
        let mut place = self.place.lock();
        while !self.changed.wait_until(&mut place, deadline.into_std()).timed_out() {}
    }

    /// Waits until `ready` or the time is over; whether it is ready.
    pub(crate) fn wait_for(&self, patience: Duration, ready: impl Fn() -> bool) -> bool {
        let deadline = self.clock.now() + patience;
        while !ready() {
            if self.clock.now() >= deadline {
                return false;
            }
            self.wait(Duration::from_millis(5));
        }
        true
    }

    /// Messages confirmed until now.
    pub(crate) fn confirmed(&self) -> u64 {
        self.counts.confirmed.load(Ordering::Relaxed)
    }

    /// Records acknowledged until now.
    pub(crate) fn acked(&self) -> u64 {
        self.counts.acked.load(Ordering::Relaxed)
    }
}
