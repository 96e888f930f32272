//! Every bound of the system with its default, and the relations between them.
//!
//! Nothing may grow without a limit named here. A limit that users may change has its default here and its
//! option in the configuration reference.

/// Largest request frame accepted, in bytes. Kafka's `socket.request.max.bytes`.
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Largest first frame of a connection that has not yet sent one valid request. Not small: clients that learnt the
/// served versions on another connection (kafkajs) begin this one with a produce request of any size. What is
/// announced costs nothing until it comes.
pub const FIRST_REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest request that creates topics or brings a member's subscription or the assignments of a whole group.
pub const LARGE_REQUEST_BYTES_MAX: usize = 20 * 1024 * 1024;
/// Largest of all other requests but produce requests. What is decoded takes many times its bytes, and time: this
/// names 60,000 partitions in a fetch, and a hundred thousand in most other requests.
pub const SMALL_REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest record batch, in bytes: the default of a topic's `max.message.bytes`.
pub const BATCH_BYTES_MAX_DEFAULT: usize = 1_048_588;
/// Largest value `max.message.bytes` can be set to.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest decompressed size of one batch that the broker is willing to look into.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Batches that are decompressed at a time, to find a record by its time.
pub const BATCHES_OPEN_AT_ONCE: usize = 2;
/// Bytes of requests being worked on for one connection before it is no longer read.
pub const CONNECTION_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;
/// Bytes of requests being worked on in the whole server before connections are no longer read. One short request
/// and one long one may come on top, so that of those that are half here one can always finish.
pub const SERVER_BYTES_IN_FLIGHT: usize = 128 * 1024 * 1024;
/// Bytes of records in answers that clients have not taken yet, in the whole server. A fetch is answered with less
/// when there is less room; all fetches share it only while their answers are being written.
pub const ANSWER_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// Bytes of requests, other than Produce, that one connection may have waiting beside the server's room. A larger
/// one is read when its turn to be answered comes.
pub const CONNECTION_WAITING_BYTES: usize = 64 * 1024;
/// Requests of one connection being worked on at a time.
pub const CONNECTION_REQUESTS_IN_FLIGHT: usize = 1024;
/// How long a connection may want to send more than there is room for before it is closed.
pub const CONNECTION_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// How long a connection may do nothing before it is closed. Kafka's `connections.max.idle.ms`.
pub const CONNECTION_IDLE_MAX: std::time::Duration = std::time::Duration::from_secs(10 * 60);
/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Largest answer to one fetch, in bytes, whatever the client asks. Kafka's `fetch.max.bytes`.
pub const FETCH_BYTES_MAX: usize = 55 * 1024 * 1024;
/// Partitions that one incremental fetch session remembers. Who follows more fetches without one.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 100_000;
/// Of these, partitions that do not exist. A consumer asks for a few while a topic comes or goes.
pub const FETCH_SESSION_UNKNOWN_MAX: usize = 1000;
/// What a partition in a session takes, in bytes, by measurement and rounded up.
pub const FETCH_SESSION_PARTITION_BYTES: usize = 512;
/// Bytes of all incremental fetch sessions: 262,144 partitions. When they are used up, new sessions are refused, and
/// their clients name all partitions in each fetch. Kafka bounds the number of sessions and forgets old ones; here a
/// session ends with its connection.
pub const FETCH_SESSIONS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Longest a fetch may wait, whatever the client asks, in milliseconds.
pub const FETCH_WAIT_MS_MAX: u64 = 5 * 60 * 1000;
/// Longest topic name, in bytes. Kafka's `Topic.MAX_NAME_LENGTH`.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Partitions one topic may have.
pub const TOPIC_PARTITIONS_MAX: u32 = 100_000;
/// Partitions in the whole server.
pub const PARTITIONS_MAX: usize = 200_000;
/// Batches remembered per idempotent producer and partition (KIP-98, KAFKA-5494).
pub const PRODUCER_BATCHES_REMEMBERED: usize = 5;
/// Longest group, member, client or transactional id, in bytes.
pub const NAME_BYTES_MAX: usize = 32_767;
/// Bytes of members with their subscriptions and assignments in all consumer groups together; they outlive the
/// connections that brought them by a session's timeout.
pub const GROUPS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Longest metadata string beside a committed offset. Kafka's `offset.metadata.max.bytes`.
pub const OFFSET_METADATA_BYTES_MAX: usize = 4096;
/// Longest name of a queue, an exchange or a virtual host, in bytes. AMQP's short string.
pub const QUEUE_NAME_BYTES_MAX: usize = 255;
/// Largest message of a queue, in bytes, with everything that comes with it: it must fit into a batch.
pub const QUEUE_MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX - 64 * 1024;
/// Channels an AMQP connection may have open. RabbitMQ's `channel_max`.
pub const AMQP_CHANNELS_MAX: u16 = 2047;
/// Largest AMQP frame that is negotiated, in bytes. RabbitMQ's `frame_max`.
pub const AMQP_FRAME_BYTES_MAX: u32 = 131_072;
/// Largest AMQP frame before the client has logged in, in bytes. RabbitMQ's `initial_frame_max`.
pub const AMQP_FIRST_FRAME_BYTES_MAX: u32 = 8192;
/// Largest body of an AMQP message, in bytes. RabbitMQ's `max_message_size`.
pub const AMQP_MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of messages that one AMQP transaction may hold until it is committed.
pub const AMQP_TX_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Deliveries a consumer that names no prefetch may have unacknowledged.
pub const AMQP_UNACKED_MAX: u32 = 200_000;
/// Bytes of records that a consumer of a stream has read ahead of what it was sent, one record at least.
pub const STREAM_WINDOW_BYTES: usize = 256 * 1024;
/// The same for all consumers together. Beyond it each reads a record at a time.
pub const STREAM_WINDOWS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Consumers an AMQP connection may have.
pub const AMQP_CONSUMERS_MAX: usize = 16_384;

const _: () = assert!(BATCH_BYTES_MAX_DEFAULT <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(FIRST_REQUEST_BYTES_MAX <= REQUEST_BYTES_MAX);
const _: () = assert!(SMALL_REQUEST_BYTES_MAX <= LARGE_REQUEST_BYTES_MAX);
const _: () = assert!(LARGE_REQUEST_BYTES_MAX <= REQUEST_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX <= SERVER_BYTES_IN_FLIGHT);
const _: () = assert!(CONNECTION_BYTES_IN_FLIGHT <= SERVER_BYTES_IN_FLIGHT);
const _: () = assert!(CONNECTION_WAITING_BYTES <= CONNECTION_BYTES_IN_FLIGHT);
const _: () = assert!(FETCH_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(FETCH_SESSION_UNKNOWN_MAX <= FETCH_SESSION_PARTITIONS_MAX);
const _: () =
    assert!(FETCH_SESSION_PARTITIONS_MAX * FETCH_SESSION_PARTITION_BYTES <= FETCH_SESSIONS_BYTES_MAX / 2);
const _: () = assert!(AMQP_FIRST_FRAME_BYTES_MAX <= AMQP_FRAME_BYTES_MAX);
const _: () = assert!(AMQP_MESSAGE_BYTES_MAX < AMQP_TX_BYTES_MAX as u64);
const _: () = assert!(AMQP_MESSAGE_BYTES_MAX < CONNECTION_BYTES_IN_FLIGHT as u64);
