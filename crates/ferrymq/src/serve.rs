//! `ferrymq serve`: the composition root. Everything a broker is made of is put together here, once.
//!
//! Order of starting: settings, engine, metadata, broker, doors. Order of stopping: doors (no new work, what
//! was begun is answered), owners, engine (a clean stop is marked last). A second signal ends the process.
//!
//! Deliberately absent: anything that decides; parts are chosen and connected here, not implemented.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ferrymq_amqp_server::{AmqpDeadLetters, AmqpStreams};
use ferrymq_broker::broker::Stores;
use ferrymq_broker::cluster::{Cluster, Joined};
use ferrymq_broker::groups::{self, Groups, SHARDS_DEFAULT};
use ferrymq_broker::queues::{LetterWriter, QueueOptions, Queues, Topics};
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_kafka_server::context::Surroundings;
use ferrymq_kafka_server::{Context, KafkaServer};
use ferrymq_runtime::{ByteBudget, Clock, Rng, Tasks};
use ferrymq_types::{LogId, OwnerId};
use tokio::signal::unix::{SignalKind, signal};

mod amqp;
mod broker_settings;
mod http;
mod limits;
mod listeners;
mod logging;
mod outbox;
mod reload;
mod settings;
mod several;
mod store;

pub(crate) use settings::ServeArgs;
use settings::{Said, Settings};
use store::Store;

/// The first of the logs that hold consumer groups.
const FIRST_GROUP_LOG: u64 = 16;
/// How long a thread for blocking work waits for more of it. The allocator gives back to the system what was freed a
/// second ago or earlier, but only when somebody asks it for much or a thread ends: after a start, when nobody does,
/// this is what gives back what opening took. Tokio's own ten seconds would do it, too, but late.
const BLOCKING_KEPT: Duration = Duration::from_secs(2);
/// How long a stop waits for clients and owners.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a broker until a signal stops it.
///
/// # Errors
/// Whatever keeps the broker from starting, with what to do about it.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let (settings, said) = Settings::resolve(args)?;
    let reload = logging::start(&settings)?;
    limits::raise_open_files();
    limits::use_small_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.worker_threads)
        .thread_keep_alive(BLOCKING_KEPT)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let result = runtime.block_on(serve(settings, said, reload));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// A started broker and what it stands on.
struct Running {
    store: Store,
    broker: Arc<Broker>,
    context: Arc<Context>,
    kafka: KafkaServer,
    amqp: Arc<Option<amqp::Door>>,
    http: Option<http::HttpServer>,
    cluster: Option<Cluster>,
    owners: Tasks,
}

async fn serve(mut settings: Settings, said: Said, reload: logging::Reload) -> anyhow::Result<()> {
    let clock = Clock::system();
    let started = clock.now();
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("could not listen for SIGHUP")?;
    let running = start(&settings, &clock).await?;
    announce(&settings, &running, started.elapsed());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload::reload(&mut settings, &said, &reload),
            () = several::ended(&running.broker) => {
                anyhow::bail!("another broker has this one's node id now; this one ends");
            }
        }
    }
    tracing::info!("stopping; a second signal ends the process at once");
    tokio::select! {
        () = stop(running) => tracing::info!("stopped cleanly"),
        _ = terminate.recv() => anyhow::bail!("ended by a second signal; the next start recovers"),
        _ = interrupt.recv() => anyhow::bail!("ended by a second signal; the next start recovers"),
    }
    Ok(())
}

async fn start(settings: &Settings, clock: &Clock) -> anyhow::Result<Running> {
    let rng = Rng::from_os();
    let store = Store::open(settings, clock, &rng).await?;
    let logs = store.logs();
    let owners = Tasks::new();
    let owner = OwnerId(rng.next_u128());
    let meta = store.metadata(settings, owner, &rng).await?;
    let joined = several::join(settings, &meta, clock, &rng).await?;
    let options = BrokerOptions {
        shards: settings.worker_threads,
        topic_defaults: settings.topic_defaults.clone(),
        retention_interval: Duration::from_millis(settings.retention_check_interval_ms),
        trust_clock: settings.trust_clock,
        strict_copies: settings.strict_replication_factor,
        cluster: joined.as_ref().map(Joined::view),
        ..BrokerOptions::default()
    };
    let options = settings.broker.over(options);
    let stores = Stores { logs: logs.clone(), meta: meta.clone(), state: meta };
    let broker = Broker::open(stores.clone(), options.clone(), clock.clone(), rng.clone(), owners.clone())
        .await
        .context("could not start the broker on its store")?;
    let queues = match &joined {
        // Their logs are one broker's.
        Some(_) => None,
        None => Some(open_queues(settings, stores, &broker, clock, &rng, &owners).await?),
    };
    let groups_config = settings.broker.groups.clone();
    let groups_start = groups::Start {
        store: logs,
        // Their number is fixed: a group's shard is its id's hash modulo this.
        logs: (FIRST_GROUP_LOG..).take(SHARDS_DEFAULT).map(LogId).collect(),
        owner: broker.owner(),
        clock: clock.clone(),
        rng: rng.clone(),
        tasks: owners.clone(),
        config: groups_config.clone(),
    };
    let groups = match &joined {
        Some(joined) => Groups::start_elsewhere(groups_start, joined.view()),
        None => Groups::start(groups_start),
    };
    let sockets = listeners::bind(&settings.listeners, settings.allow_remote).await?;
    let budget = ByteBudget::new(settings.bytes_in_flight_max);
    let surroundings = Surroundings {
        groups,
        groups_config,
        broker_options: options,
        listeners: sockets.iter().map(|(_, listener)| listener.clone()).collect(),
        volume: settings.store.volume(settings.data_dir.clone()),
    };
    let context = Context::new(broker.clone(), surroundings, settings.kafka_config(), budget);
    let kafka = KafkaServer::start(sockets, &context, &owners);
    let (amqp, remote) = (&settings.amqp, settings.allow_remote);
    let amqp =
        amqp::start(amqp, remote, queues.as_ref(), context.budget.clone(), clock, &rng, &owners).await?;
    amqp.iter().for_each(|door| door.watch(&store, &owners));
    let amqp = Arc::new(amqp);
    let relayed = outbox::start(settings, &store, &context, queues.as_ref(), &owners);
    let http = match settings.http_listen {
        None => None,
        Some(address) => {
            let parts = (store.clone(), context.clone(), queues, amqp.clone(), relayed);
            Some(http::HttpServer::start(address, parts, &owners).await?)
        }
    };
    let cluster = several::start(joined, &context).await?;
    Ok(Running { store, broker, context, kafka, amqp, http, cluster, owners })
}

async fn open_queues(
    settings: &Settings,
    stores: Stores,
    broker: &Arc<Broker>,
    clock: &Clock,
    rng: &Rng,
    owners: &Tasks,
) -> anyhow::Result<Arc<Queues>> {
    let options = QueueOptions {
        letters: LetterWriter(Arc::new(AmqpDeadLetters)),
        topics: Some(Topics { broker: broker.clone(), translate: Arc::new(AmqpStreams) }),
        consumer_timeout_ms: settings.amqp.consumer_timeout_ms,
        default_queue_type: settings.amqp.default_queue_type,
        ..QueueOptions::default()
    };
    Queues::open(stores, options, clock.clone(), rng.clone(), owners.clone())
        .await
        .context("could not start the queues on their store")
}

fn announce(settings: &Settings, running: &Running, took: Duration) {
    let topics = running.broker.topics().with(|topics| (topics.len(), topics.partitions()));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = %settings.store.describe(settings),
        topics = topics.0,
        partitions = topics.1,
        ready_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "FerryMQ is ready"
    );
    listeners::announce(&running.context.listeners);
    running.amqp.iter().for_each(amqp::Door::announce);
    if let Some(http) = &running.http {
        tracing::info!(listen = %http.address(), "health, metrics and queues: /livez /readyz /metrics /api");
    }
}

async fn stop(running: Running) {
    if let Some(http) = &running.http {
        http.say_stopping();
    }
    if let Some(cluster) = &running.cluster {
        cluster.stop(STOP_PATIENCE).await;
    }
    let stop_amqp = async {
        match &*running.amqp {
            Some(amqp) => amqp.server.stop(STOP_PATIENCE).await,
            None => true,
        }
    };
    let (kafka, amqp) = tokio::join!(running.kafka.stop(STOP_PATIENCE), stop_amqp);
    if !kafka {
        tracing::warn!("some Kafka connections did not end in time");
    }
    if !amqp {
        tracing::warn!("some AMQP connections did not end in time");
    }
    // The owners end when nobody can send to them any more.
    drop(running.cluster);
    drop(running.context);
    drop(running.amqp);
    drop(running.broker);
    if !running.owners.stop_and_wait(STOP_PATIENCE).await {
        tracing::warn!("some tasks did not end in time");
    }
    running.store.stop(STOP_PATIENCE).await;
}
