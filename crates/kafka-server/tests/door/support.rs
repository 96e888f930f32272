//! A server over a store in memory, and a client that says what it wants in our own codec.
//!
//! Nothing here sleeps: whoever waits, waits for the thing itself, and every wait has an end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use ferrymq_broker::broker::Stores;
use ferrymq_broker::groups::{Groups, GroupsConfig, Start};
use ferrymq_broker::settings::TopicDefaults;
use ferrymq_broker::{Broker, BrokerOptions, NewTopic};
use ferrymq_kafka_codec::message::Body;
use ferrymq_kafka_codec::{ApiKey, Decoder, Frame, Message, Request, ResponseHeader, ResponseKind, StrBytes};
use ferrymq_kafka_server::context::{Space, Surroundings};
use ferrymq_kafka_server::listener::DEFAULT_LISTENER;
use ferrymq_kafka_server::{Context, Endpoint, KafkaConfig, KafkaServer, Listener};
use ferrymq_runtime::{ByteBudget, Clock, Rng, Tasks};
use ferrymq_storage::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_types::LogId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(60);
/// The wall time a server starts at, in milliseconds since 1970.
pub(crate) const START_MS: i64 = 1_700_000_000_000;
/// The node id of every server.
pub(crate) const NODE: i32 = 1;

/// A running server.
pub(crate) struct Server {
    pub(crate) context: Arc<Context>,
    pub(crate) clock: Clock,
    kafka: KafkaServer,
    stores: Stores,
    options: Options,
}

/// What a test wants to be different.
#[derive(Default, Clone)]
pub(crate) struct Options {
    pub(crate) topic_defaults: TopicDefaults,
    pub(crate) fetch_bytes_max: Option<usize>,
    pub(crate) request_bytes_max: Option<usize>,
    pub(crate) rebalance_delay_ms: u64,
    /// Names of listeners, and the hosts that they advertise. None: the default one.
    pub(crate) listeners: Vec<(&'static str, &'static str)>,
}

impl Server {
    /// A server with defaults; the first rebalance of a group does not wait.
    pub(crate) async fn start() -> Server {
        Server::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Server {
        let stores = Stores {
            logs: Arc::new(MemoryStore::new()),
            meta: Arc::new(MemoryMeta::new()),
            state: Arc::new(MemoryMeta::new()),
        };
        Server::start_on(stores, options).await
    }

    /// Stops, and starts on the same store.
    pub(crate) async fn restart(self) -> Server {
        let Server { kafka, stores, options, .. } = self;
        assert!(kafka.stop(PATIENCE).await, "the connections end");
        Server::start_on(stores, options).await
    }

    async fn start_on(stores: Stores, options: Options) -> Server {
        let (clock, rng, tasks) = (Clock::starting_at(START_MS), Rng::from_os(), Tasks::new());
        let broker_options =
            BrokerOptions { topic_defaults: options.topic_defaults.clone(), ..Default::default() };
        let opening =
            Broker::open(stores.clone(), broker_options.clone(), clock.clone(), rng.clone(), tasks.clone());
        let broker = opening.await.expect("a broker opens on this store");
        let groups_config = GroupsConfig {
            initial_rebalance_delay_ms: options.rebalance_delay_ms,
            ..GroupsConfig::default()
        };
        let groups = Groups::start(Start {
            store: broker.logs().clone(),
            logs: (0..4).map(|shard| LogId(16 + shard)).collect(),
            owner: broker.owner(),
            clock: clock.clone(),
            rng,
            tasks: tasks.clone(),
            config: groups_config.clone(),
        });
        let sockets = listen(&options.listeners).await;
        let config = KafkaConfig {
            node_id: NODE,
            auto_create_topics: true,
            default_partitions: 1,
            strict_replication_factor: false,
            request_bytes_max: options.request_bytes_max.unwrap_or(100 * 1024 * 1024),
            fetch_bytes_max: options.fetch_bytes_max.unwrap_or(55 * 1024 * 1024),
            patience: Duration::from_secs(2),
            data_dir: "data".to_owned(),
        };
        let surroundings = Surroundings {
            groups,
            groups_config,
            broker_options,
            listeners: sockets.iter().map(|(_, listener)| listener.clone()).collect(),
            volume: Box::new(|| Some(Space { total_bytes: 1000, usable_bytes: 600 })),
        };
        let budget = ByteBudget::new(128 * 1024 * 1024);
        let context = Context::new(broker, surroundings, config, budget);
        let kafka = KafkaServer::start(sockets, &context, &tasks);
        Server { context, clock, kafka, stores, options }
    }

    /// A new client.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(0).await
    }

    /// A new client that comes through a listener.
    pub(crate) async fn client_of(&self, listener: usize) -> Client {
        let address = self.context.listeners[listener].address;
        let stream = within(TcpStream::connect(address)).await.expect("the server accepts");
        stream.set_nodelay(true).expect("a TCP stream has this option");
        Client { stream, correlation: 0 }
    }

    /// Creates a topic with settings.
    pub(crate) async fn topic(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) {
        let config = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let new = NewTopic { name: name.to_owned(), partitions, config: config.collect() };
        self.context.broker.create_topic(new).await.expect("the topic is new");
    }

    /// The id of a topic.
    pub(crate) fn topic_id(&self, name: &str) -> ferrymq_kafka_codec::Uuid {
        let topic = self.context.broker.topics().get(name).expect("the topic is there");
        ferrymq_kafka_codec::Uuid(*topic.id.as_bytes())
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.context.counters.connections_open.load(Ordering::Relaxed)
    }

    /// Checks that the server still answers, and that nothing of what was done is left behind.
    pub(crate) async fn check_alive_and_clean(&self) {
        until("all connections are gone", || self.open() == 0).await;
        until("no request holds room", || self.context.budget.in_use() == 0).await;
        let request = ferrymq_kafka_codec::messages::MetadataRequest::default();
        let response = self.client().await.call(1, &request).await;
        assert_eq!(response.controller_id, NODE);
        until("the checking connection is gone", || self.open() == 0).await;
    }
}

/// Listeners on free ports.
async fn listen(wanted: &[(&str, &str)]) -> Vec<(TcpListener, Arc<Listener>)> {
    let wanted = if wanted.is_empty() { &[(DEFAULT_LISTENER, "127.0.0.1")] } else { wanted };
    let mut sockets = Vec::new();
    for (name, host) in wanted {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("a bound listener has an address");
        let advertised = Endpoint { host: (*host).to_owned(), port: address.port() };
        sockets.push((socket, Arc::new(Listener { name: (*name).to_owned(), address, advertised })));
    }
    sockets
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    correlation: i32,
}

impl Client {
    /// Sends a request and waits for its answer.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let answered = self.try_call(version, request).await;
        answered.unwrap_or_else(|| panic!("{} version {version} closed the connection", R::API))
    }

    /// Sends a request and waits for its answer; `None`: the server closed instead.
    pub(crate) async fn try_call<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        self.send(version, request).await;
        let body = self.answer().await?;
        let mut decoder = Decoder::new(&body);
        self.check_header(&mut decoder, R::API, version);
        let response = R::Response::decode(&mut decoder, version).expect("an answer decodes");
        decoder.finish().expect("an answer has nothing behind it");
        Some(response)
    }

    /// Waits for the answer to a request that was sent.
    pub(crate) async fn receive(&mut self, api: ApiKey, version: i16) -> Option<ResponseKind> {
        let body = self.answer().await?;
        let mut decoder = Decoder::new(&body);
        self.check_header(&mut decoder, api, version);
        let response = ResponseKind::decode(api, &mut decoder, version).expect("an answer decodes");
        decoder.finish().expect("an answer has nothing behind it");
        Some(response)
    }

    fn check_header(&self, decoder: &mut Decoder<'_>, api: ApiKey, version: i16) {
        let header = ResponseHeader::decode(decoder, api, version).expect("an answer has a header");
        assert!(header.correlation_id <= self.correlation, "an answer to a request that was sent");
    }

    /// Sends a request.
    pub(crate) async fn send(&mut self, version: i16, request: &impl Body) {
        self.correlation += 1;
        let frame = encode(self.correlation, version, request);
        self.raw(&frame).await;
    }

    /// Sends bytes as they are. That the server does not want them any more is not this side's business.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let _closed = within(self.stream.write_all(bytes)).await.is_err();
    }

    /// The next answer without its length; `None`: the server closed the connection.
    pub(crate) async fn answer(&mut self) -> Option<Bytes> {
        let length = within(self.stream.read_i32()).await.ok()?;
        let length = usize::try_from(length).expect("a length is not negative");
        let mut body = BytesMut::zeroed(length);
        within(self.stream.read_exact(&mut body)).await.ok()?;
        Some(body.freeze())
    }

    /// Says that nothing more will be sent, and reads whatever comes until the server closes.
    pub(crate) async fn finish(mut self) -> usize {
        let _closed = self.stream.shutdown().await.is_err();
        let mut sink = Vec::new();
        let _reset = within(self.stream.read_to_end(&mut sink)).await.is_err();
        sink.len()
    }

    /// Waits until the server closes the connection; what it still says is not looked at.
    pub(crate) async fn closed(mut self) {
        let mut sink = Vec::new();
        let _reset = within(self.stream.read_to_end(&mut sink)).await.is_err();
    }
}

/// A request's frame, with its length.
pub(crate) fn encode(correlation: i32, version: i16, request: &impl Body) -> Bytes {
    let client_id = StrBytes::from("door-test");
    let frame = Frame::request(correlation, Some(&client_id), version, request);
    frame.expect("a test's request can be encoded").to_bytes()
}

/// A frame of any bytes.
pub(crate) fn framed(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_u32(u32::try_from(body.len()).expect("a test's frame is small"));
    frame.extend_from_slice(body);
    frame.freeze()
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}

/// A topic's or group's name.
pub(crate) fn name(text: &str) -> StrBytes {
    StrBytes::from(text.to_owned())
}
