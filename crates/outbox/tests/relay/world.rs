//! A broker on a database, with its relay, and applications of that database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_amqp_server::AmqpStreams;
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Arguments, BindingSpec, ExchangeKind, ExchangeSpec, QueueOptions, QueueSpec, Queues, Topics, Value, Width,
};
use ferrymq_broker::topics::NewTopic;
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_engine_postgres::{Options, PostgresStore};
use ferrymq_outbox::message::Targets;
use ferrymq_outbox::{Counters, Relay};
use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use ferrymq_storage::{LogMeta, LogStore};
use ferrymq_types::batch::HEADER_BYTES;
use ferrymq_types::{BatchHeader, Offset, OwnerId, Records};
use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, NoTls};

use crate::Committed;
use crate::common;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    url: String,
    schema: String,
    pub(crate) clock: Clock,
    broker: Arc<Broker>,
    queues: Arc<Queues>,
    pub(crate) counters: Arc<Counters>,
    tasks: Tasks,
    store: Arc<PostgresStore>,
}

impl World {
    pub(crate) async fn start(url: &str, schema: &str) -> World {
        let options = Options { schema: schema.to_owned(), ..Options::default() };
        let store = Arc::new(common::open(url, options).await);
        let (clock, rng, tasks) = (Clock::system(), Rng::from_os(), Tasks::new());
        let logs: Arc<dyn LogStore> = store.clone();
        let meta = Arc::new(LogMeta::open(logs.clone(), OwnerId(rng.next_u128())).await.unwrap());
        let stores = Stores { logs, meta: meta.clone(), state: meta };
        let options = BrokerOptions::default();
        let broker =
            Broker::open(stores.clone(), options, clock.clone(), rng.clone(), tasks.clone()).await.unwrap();
        let topics = Topics { broker: broker.clone(), translate: Arc::new(AmqpStreams) };
        let options = QueueOptions { topics: Some(topics), ..QueueOptions::default() };
        let queues = Queues::open(stores, options, clock.clone(), rng, tasks.clone()).await.unwrap();
        let targets = Targets { broker: broker.clone(), queues: queues.clone(), create_topics: Some(1) };
        // Small pages and a turn after each, so that a test crosses them with few rows.
        let options = ferrymq_outbox::Options {
            rows_max: 8,
            turn: Duration::ZERO,
            ..ferrymq_outbox::Options::default()
        };
        let counters = Relay::start(store.clone(), targets, options, clock.clone(), &tasks);
        let world = World {
            url: url.to_owned(),
            schema: schema.to_owned(),
            clock,
            broker,
            queues,
            counters,
            tasks,
            store,
        };
        let sql = Application::connect(url, schema).await;
        world.until("the functions are there", async |_| sql.has_functions().await).await;
        world
    }

    /// Ends without a stop of the store, and starts anew.
    pub(crate) async fn restart(self) -> World {
        let (url, schema) = (self.url.clone(), self.schema.clone());
        self.end().await;
        World::start(&url, &schema).await
    }

    pub(crate) async fn stop(self) {
        let store = self.store.clone();
        self.end().await;
        store.stop(PATIENCE).await.unwrap();
    }

    async fn end(self) {
        let World { broker, queues, tasks, .. } = self;
        drop((broker, queues));
        assert!(tasks.stop_and_wait(PATIENCE).await, "all ended");
    }

    /// The topic `t`; the exchange `e`, all of which goes to the queue `q`; a queue `full` that takes nothing.
    pub(crate) async fn declare(&self) {
        let config = BTreeMap::new();
        let new = NewTopic { name: "t".to_owned(), partitions: 1, config };
        self.broker.create_topic(new).await.unwrap();
        let session = self.queues.session();
        let spec = |name: &str, arguments| QueueSpec {
            name: Arc::from(name),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments,
        };
        self.queues.declare_queue(&session, "/", spec("q", Arguments::default())).await.unwrap();
        let arguments =
            [("x-max-length", Value::Int(0, Width::I64)), ("x-overflow", Value::text("reject-publish"))];
        let arguments = Arguments(arguments.map(|(name, value)| (name.to_owned(), value)).to_vec());
        self.queues.declare_queue(&session, "/", spec("full", arguments)).await.unwrap();
        session.close().await;
        self.declare_exchange("e").await;
    }

    /// An exchange, all of which goes to the queue `q`.
    pub(crate) async fn declare_exchange(&self, name: &str) {
        let session = self.queues.session();
        let exchange = ExchangeSpec {
            name: Arc::from(name),
            kind: ExchangeKind::Fanout,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Arguments::default(),
        };
        self.queues.declare_exchange(&session, "/", exchange).await.unwrap();
        let binding = BindingSpec {
            source: Arc::from(name),
            destination: Arc::from("q"),
            routing_key: Bytes::new(),
            arguments: Arguments::default(),
        };
        self.queues.bind(&session, "/", binding).await.unwrap();
        session.close().await;
    }

    /// What is in the topic, by key.
    pub(crate) async fn topic(&self) -> Committed {
        let mut found = Committed::new();
        let Some(topic) = self.broker.topics().get("t") else { return found };
        let partition = &topic.partitions[0];
        let mut from = Offset::ZERO;
        while from < partition.high_watermark() {
            let read = partition.read(from, Offset(u64::MAX), 1 << 20).await.unwrap();
            from = read.next().unwrap();
            for mut run in read.runs.into_iter().map(|run| run.bytes) {
                while !run.is_empty() {
                    let header = BatchHeader::decode(&run).unwrap();
                    let batch = run.split_to(header.total_bytes());
                    for record in Records::new(batch.slice(HEADER_BYTES..), header.record_count) {
                        let record = record.unwrap();
                        note(&mut found, &record.key.unwrap_or_default(), &record.value.unwrap());
                    }
                }
            }
        }
        found
    }

    /// What is in the queue, by routing key; it is empty then.
    pub(crate) async fn drain(&self) -> Committed {
        let mut found = Committed::new();
        let session = self.queues.session();
        while let Some(got) = self.queues.get(&session, "/", "q", true).await.unwrap() {
            note(&mut found, &got.delivery.message.routing_key, &got.delivery.message.body);
        }
        session.close().await;
        found
    }

    pub(crate) async fn queue_length(&self) -> u64 {
        self.queues.inspect_queue("/", "q").await.unwrap().stat.map_or(0, |stat| stat.ready)
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, check: impl AsyncFn(&World) -> bool) {
        let since = self.clock.now();
        while !check(self).await {
            assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            self.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs beside; what comes of it is received.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        Tasks::new().spawn(TaskKind::Background, "session", async move {
            let _gone = reply.send(future.await).is_err();
        });
        answer
    }
}

fn note(found: &mut Committed, key: &[u8], value: &[u8]) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    // Tests of what is refused publish other things besides.
    if let Ok(number) = text(value).parse() {
        found.entry(text(key)).or_default().push(number);
    }
}

/// An application's session with the database.
pub(crate) struct Application {
    pub(crate) client: Client,
    schema: String,
}

impl Application {
    pub(crate) async fn connect(url: &str, schema: &str) -> Application {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        Tasks::new().spawn(TaskKind::Background, "application", async move {
            let _ended = connection.await.is_err();
        });
        Application { client, schema: schema.to_owned() }
    }

    fn here(&self, sql: &str) -> String {
        sql.replace("ferrymq.", &format!("{}.", self.schema))
    }

    /// Runs a statement; how many rows it was about.
    pub(crate) async fn run(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        self.client.execute(&self.here(sql), values).await
    }

    /// The first column of a query.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        self.client.query(&self.here(sql), &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn has_functions(&self) -> bool {
        let sql = "SELECT coalesce(to_regprocedure('ferrymq.publish(text, bytea, bytea, jsonb)')::text, '')";
        !self.texts(sql).await.contains(&String::new())
    }
}

/// Publishes a number to the topic and to the exchange.
pub(crate) async fn publish(client: &impl GenericClient, schema: &str, key: &str, number: u64) {
    let sql = format!(
        "SELECT {schema}.publish('t', $1::text, $2::text), {schema}.publish_to_exchange('e', $2, $1)"
    );
    client.execute(&sql, &[&number.to_string(), &key]).await.unwrap();
}
