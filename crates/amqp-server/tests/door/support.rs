//! A server over a store in memory, and a client that says what it wants in our own codec.
//!
//! Nothing here sleeps: whoever waits, waits for the thing itself, and every wait has an end. That the
//! codes and words are RabbitMQ's is shown by `compat/pika`, whose tests run against RabbitMQ as well.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::{put_any_method, put_message, put_method};
use ferrymq_amqp_codec::method::{basic, channel, confirm, connection, queue};
use ferrymq_amqp_codec::{
    BasicProperties, ContentHeader, Frame, FrameKind, FrameReader, Method, MethodId, PROTOCOL_HEADER,
    Properties, Table, TableBuilder, ValueRef, WireMethod,
};
use ferrymq_amqp_server::{AmqpConfig, AmqpDeadLetters, AmqpServer, AmqpStreams, Context};
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{LetterWriter, QueueOptions, Queues, Topics};
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_runtime::{ByteBudget, Clock, Rng, Tasks};
use ferrymq_storage::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    own: Option<Own>,
}

struct Own {
    amqp: AmqpServer,
    context: Arc<Context>,
    tasks: Tasks,
    stores: Stores,
    config: AmqpConfig,
    broker: Arc<Broker>,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::start_with(|_| {}).await
    }

    /// A server with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut AmqpConfig)) -> Server {
        let mut config = AmqpConfig { patience: Duration::from_secs(5), ..AmqpConfig::default() };
        change(&mut config);
        Server::start_on(stores(MemoryStore::new()), config).await
    }

    /// A server whose store takes this many bytes of messages, and a little more for what makes room.
    pub(crate) async fn start_small(bytes: u64) -> Server {
        let store = MemoryStore::with_capacity(bytes + 64 * 1024, 64 * 1024);
        Server::start_on(stores(store), AmqpConfig::default()).await
    }

    /// A server over a store that the test keeps a hand on.
    pub(crate) async fn start_over(store: MemoryStore) -> Server {
        Server::start_on(stores(store), AmqpConfig::default()).await
    }

    /// A server that listens there.
    pub(crate) async fn start_at(listen: &str) -> Server {
        Server::start_all(stores(MemoryStore::new()), AmqpConfig::default(), listen).await
    }

    async fn start_on(stores: Stores, config: AmqpConfig) -> Server {
        Server::start_all(stores, config, "127.0.0.1:0").await
    }

    async fn start_all(stores: Stores, config: AmqpConfig, listen: &str) -> Server {
        let (clock, rng, tasks) = (Clock::system(), Rng::from_os(), Tasks::new());
        let letters = LetterWriter(Arc::new(AmqpDeadLetters));
        let broker_options = BrokerOptions::default();
        let broker = Broker::open(stores.clone(), broker_options, clock.clone(), rng.clone(), tasks.clone())
            .await
            .expect("topics open on this store");
        let topics = Some(Topics { broker: broker.clone(), translate: Arc::new(AmqpStreams) });
        let options = QueueOptions { letters, topics, ..QueueOptions::default() };
        let queues = Queues::open(stores.clone(), options, clock.clone(), rng.clone(), tasks.clone())
            .await
            .expect("queues open on this store");
        let budget = ByteBudget::new(128 * 1024 * 1024);
        let context = Context::new(queues, config.clone(), budget, clock, rng);
        let socket = TcpListener::bind(listen).await.expect("loopback has a free port");
        let amqp = AmqpServer::start(socket, &context, &tasks).expect("it knows its address");
        let address = amqp.address();
        Server { address, own: Some(Own { amqp, context, tasks, stores, config, broker }) }
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect("it is ours and runs")
    }

    /// Who has the topics, as a Kafka client reaches them.
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.own().broker
    }

    pub(crate) fn context(&self) -> &Context {
        &self.own().context
    }

    /// Closes all connections as a stop does.
    pub(crate) async fn stop_door(&self) -> bool {
        self.own().amqp.stop(PATIENCE).await
    }

    /// Stops, and starts on the same store.
    pub(crate) async fn restart(mut self) -> Server {
        let Own { amqp, context, tasks, stores, config, broker } =
            self.own.take().expect("it is ours and runs");
        assert!(amqp.stop(PATIENCE).await, "the connections end");
        drop(context);
        drop(broker);
        assert!(tasks.stop_and_wait(PATIENCE).await, "the owners end");
        Server::start_on(stores, config).await
    }

    /// A client before the first byte.
    pub(crate) async fn connect(&self) -> Client {
        let stream = within(TcpStream::connect(self.address)).await.expect("the server accepts");
        stream.set_nodelay(true).expect("a TCP stream has this option");
        let frames = FrameReader::new(131_072);
        Client { stream, input: BytesMut::new(), frames, out: BytesMut::new(), frame_max: 131_072 }
    }

    /// A client whose connection is open.
    pub(crate) async fn client(&self) -> Client {
        self.client_of("/").await
    }

    /// A client whose connection to a virtual host is open.
    pub(crate) async fn client_of(&self, vhost: &str) -> Client {
        let mut client = self.connect().await;
        let tune = connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
        client.handshake_with(tune, vhost).await;
        client
    }

    /// A client with channel 1 open.
    pub(crate) async fn channel(&self) -> Client {
        let mut client = self.client().await;
        client.open(1).await;
        client
    }
}

fn stores(logs: MemoryStore) -> Stores {
    Stores { logs: Arc::new(logs), meta: Arc::new(MemoryMeta::new()), state: Arc::new(MemoryMeta::new()) }
}

/// Fails what takes too long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    input: BytesMut,
    frames: FrameReader,
    out: BytesMut,
    pub(crate) frame_max: u32,
}

/// What a message is sent with.
pub(crate) fn properties(properties: BasicProperties<'_>) -> Bytes {
    let mut out = BytesMut::new();
    properties.encode(&mut out).expect("it has an encoding");
    out.freeze()
}

pub(crate) fn persistent() -> Bytes {
    properties(BasicProperties { delivery_mode: Some(2), ..BasicProperties::default() })
}

/// Client properties with these capabilities.
pub(crate) fn capable(names: &[&str]) -> TableBuilder {
    let mut capabilities = TableBuilder::new();
    for name in names {
        capabilities.push(name.as_bytes(), ValueRef::Bool(true)).expect("a short name");
    }
    let mut properties = TableBuilder::new();
    properties.push(b"capabilities", ValueRef::Table(capabilities.as_table())).expect("it is not deep");
    properties
}

/// A login with these properties.
pub(crate) fn start_ok<'a>(
    mechanism: &'a str,
    response: &'a [u8],
    client_properties: Table<'a>,
) -> connection::StartOk<'a> {
    connection::StartOk { client_properties, mechanism: mechanism.as_bytes(), response, locale: b"en_US" }
}

impl Client {
    /// Puts a method into the next write.
    pub(crate) fn put<'a, M: WireMethod<'a>>(&mut self, channel: u16, method: &M) -> &mut Self {
        put_method(&mut self.out, channel, method).expect("it has an encoding");
        self
    }

    /// Puts bytes into the next write.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Puts a message into the next write.
    pub(crate) fn put_publish(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        properties: &[u8],
        body: &[u8],
    ) -> &mut Self {
        let publish = basic::Publish {
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            mandatory: true,
            ..basic::Publish::default()
        };
        let properties = Properties::parse(properties).expect("properties");
        put_message(&mut self.out, channel, &publish, properties, body, self.frame_max).expect("it fits");
        self
    }

    /// Writes what was put.
    pub(crate) async fn send(&mut self) {
        let out = self.out.split();
        within(self.stream.write_all(&out)).await.expect("the server reads");
    }

    /// Writes what was put, if the server still reads.
    pub(crate) async fn try_send(&mut self) -> bool {
        let out = self.out.split();
        self.stream.write_all(&out).await.is_ok()
    }

    /// The next frame but heartbeats; `None` at the end of the stream.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next(&mut self.input).expect("frames of the agreed size") {
                if frame.kind == FrameKind::Heartbeat {
                    continue;
                }
                return Some(frame);
            }
            match within(self.stream.read_buf(&mut self.input)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The payload of the next frame, which is a method on this channel.
    pub(crate) async fn reply(&mut self, channel: u16) -> Bytes {
        let frame = self.frame().await.expect("an answer");
        let told = Method::parse(&frame.payload);
        assert_eq!((frame.kind, frame.channel), (FrameKind::Method, channel), "{told:?}");
        frame.payload
    }

    /// The next frame is exactly this method.
    #[track_caller]
    pub(crate) fn expect<'a, M: WireMethod<'a>>(
        &mut self,
        channel: u16,
        method: &M,
    ) -> impl Future<Output = ()> {
        let mut expected = BytesMut::new();
        put_method(&mut expected, channel, method).expect("it has an encoding");
        let at = std::panic::Location::caller();
        async move {
            let found = self.reply(channel).await;
            let found = Method::parse(&found).expect("a method");
            let mut bytes = BytesMut::new();
            put_any_method(&mut bytes, channel, &found).expect("it was encoded before");
            let expected_method = Method::parse(&expected[7..expected.len() - 1]).expect("a method");
            assert_eq!(bytes, expected, "at {at}:\n found {found:?}\n expected {expected_method:?}");
        }
    }

    /// Sends a method and expects an answer.
    #[track_caller]
    pub(crate) fn ask<'a, 'b, M: WireMethod<'a>, A: WireMethod<'b>>(
        &mut self,
        channel: u16,
        method: &M,
        answer: &A,
    ) -> impl Future<Output = ()> {
        self.put(channel, method);
        let mut expected = BytesMut::new();
        put_method(&mut expected, channel, answer).expect("it has an encoding");
        let at = std::panic::Location::caller();
        async move {
            self.send().await;
            let found = self.reply(channel).await;
            assert_eq!(
                &found[..],
                &expected[7..expected.len() - 1],
                "at {at}: found {:?}",
                Method::parse(&found)
            );
        }
    }

    /// Opens the connection.
    pub(crate) async fn handshake(&mut self, tune: connection::TuneOk) {
        self.handshake_with(tune, "/").await;
    }

    /// Opens the connection to a virtual host.
    pub(crate) async fn handshake_with(&mut self, tune: connection::TuneOk, vhost: &str) {
        self.tune(tune).await;
        let open = connection::Open { virtual_host: vhost.as_bytes(), ..connection::Open::default() };
        self.ask(0, &open, &connection::OpenOk::default()).await;
    }

    /// Does everything that comes before entering a virtual host.
    pub(crate) async fn tune(&mut self, tune: connection::TuneOk) {
        self.put_bytes(&PROTOCOL_HEADER).send().await;
        let start = self.reply(0).await;
        assert_eq!(MethodId::peek(&start), Some(connection::Start::ID));
        let understood = ["consumer_cancel_notify", "authentication_failure_close", "connection.blocked"];
        let properties = capable(&understood);
        self.put(0, &start_ok("PLAIN", b"\0guest\0guest", properties.as_table())).send().await;
        let offered = self.reply(0).await;
        assert_eq!(MethodId::peek(&offered), Some(connection::Tune::ID));
        self.frame_max = tune.frame_max;
        self.put(0, &tune).send().await;
    }

    pub(crate) async fn open(&mut self, channel: u16) {
        self.ask(channel, &channel::Open::default(), &channel::OpenOk::default()).await;
    }

    /// Declares an exclusive queue, or a durable one if its name says so.
    pub(crate) async fn queue(&mut self, name: &str) {
        let durable = name.starts_with("durable");
        let declare = queue::Declare {
            queue: name.as_bytes(),
            durable,
            exclusive: !durable,
            ..queue::Declare::default()
        };
        let ok = queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 0 };
        self.ask(1, &declare, &ok).await;
    }

    pub(crate) async fn confirm_select(&mut self) {
        self.ask(1, &confirm::Select::default(), &confirm::SelectOk {}).await;
    }

    /// Publishes to a queue and waits for the confirm; channel 1 confirms.
    pub(crate) async fn published(&mut self, key: &str, bodies: &[&str]) {
        for body in bodies {
            self.put_publish(1, "", key, &persistent(), body.as_bytes());
            self.send().await;
            let reply = self.reply(1).await;
            assert_eq!(MethodId::peek(&reply), Some(basic::Ack::ID), "{:?}", Method::parse(&reply));
        }
    }

    /// The content header and body that follow a method.
    pub(crate) async fn content(&mut self, channel: u16) -> (Bytes, Bytes) {
        let header = self.frame().await.expect("a header");
        assert_eq!((header.kind, header.channel), (FrameKind::Header, channel));
        let parsed = ContentHeader::parse(&header.payload).expect("a content header");
        let properties = header.payload.slice_ref(parsed.properties.as_bytes());
        let mut body = BytesMut::new();
        while (body.len() as u64) < parsed.body_size_bytes {
            let part = self.frame().await.expect("the rest of the body");
            assert_eq!((part.kind, part.channel), (FrameKind::Body, channel));
            body.extend_from_slice(&part.payload);
        }
        (properties, body.freeze())
    }

    /// A delivery on channel 1: its tag, whether it was redelivered, and the body as text.
    pub(crate) async fn delivery(&mut self) -> (u64, bool, String) {
        let payload = self.reply(1).await;
        let Ok(Method::BasicDeliver(deliver)) = Method::parse(&payload) else {
            panic!("no delivery: {:?}", Method::parse(&payload));
        };
        let (_, body) = self.content(1).await;
        (deliver.delivery_tag, deliver.redelivered, String::from_utf8_lossy(&body).into_owned())
    }

    /// Gets a message on channel 1: tag, redelivered, body; `None` if there is none.
    pub(crate) async fn get(&mut self, queue: &str) -> Option<(u64, bool, String)> {
        self.put(1, &basic::Get { queue: queue.as_bytes(), ..basic::Get::default() }).send().await;
        let payload = self.reply(1).await;
        match Method::parse(&payload).expect("a method") {
            Method::BasicGetEmpty(_) => None,
            Method::BasicGetOk(ok) => {
                let (_, body) = self.content(1).await;
                Some((ok.delivery_tag, ok.redelivered, String::from_utf8_lossy(&body).into_owned()))
            }
            other => panic!("no answer to a get: {other:?}"),
        }
    }

    /// Begins to consume a queue on channel 1, as `tag`.
    pub(crate) async fn consume(&mut self, queue: &str, tag: &str) {
        let consume = basic::Consume {
            queue: queue.as_bytes(),
            consumer_tag: tag.as_bytes(),
            ..basic::Consume::default()
        };
        self.ask(1, &consume, &basic::ConsumeOk { consumer_tag: tag.as_bytes() }).await;
    }

    pub(crate) async fn qos(&mut self, prefetch_count: u16, global: bool) {
        let qos = basic::Qos { prefetch_count, global, ..basic::Qos::default() };
        self.ask(1, &qos, &basic::QosOk {}).await;
    }

    /// Channel 1 is closed with this code and text; answers, and shows that the connection is well by opening
    /// the channel again.
    pub(crate) async fn channel_closes(&mut self, code: u16, text: &str, method: MethodId) {
        let close = channel::Close {
            reply_code: code,
            reply_text: text.as_bytes(),
            class_id: method.class,
            method_id: method.method,
        };
        self.expect(1, &close).await;
        self.put(1, &channel::CloseOk {});
        self.open(1).await;
    }

    /// Sends a method for which channel 1 is closed.
    pub(crate) async fn channel_error<'a, M: WireMethod<'a>>(&mut self, method: &M, code: u16, text: &str) {
        self.put(1, method).send().await;
        self.channel_closes(code, text, M::ID).await;
    }

    /// The connection is closed with this code and text.
    pub(crate) async fn connection_closes(mut self, code: u16, text: &str, method: MethodId) {
        let close = connection::Close {
            reply_code: code,
            reply_text: text.as_bytes(),
            class_id: method.class,
            method_id: method.method,
        };
        self.expect(0, &close).await;
        self.put(0, &connection::CloseOk {}).send().await;
        assert!(self.frame().await.is_none(), "then the socket is closed");
    }

    /// Closes the connection and waits for the answer.
    pub(crate) async fn close(mut self) {
        let close = connection::Close { reply_code: 200, ..connection::Close::default() };
        self.ask(0, &close, &connection::CloseOk {}).await;
    }
}
