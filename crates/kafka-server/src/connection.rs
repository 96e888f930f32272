//! One client: requests are read ahead and answered in order.
//!
//! ```text
//!  socket -> FrameReader -> begin(request) -> queue of answers being made -> write, in order -> socket
//! ```
//! Both directions are one task. A produce request is handed to its owners as soon as it is read; every other
//! request is worked on when its turn to be answered comes.
//!
//! **Invariants.** Bytes in work are bounded per connection and in all. A client that closes ends everything
//! that waits on its behalf. A request that cannot be decoded closes the connection, as Kafka does.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_kafka_codec::Frame;
use ferrymq_runtime::{ByteBudget, BytePermit};
use ferrymq_types::limits::{
    CONNECTION_BYTES_IN_FLIGHT, CONNECTION_REQUESTS_IN_FLIGHT, FIRST_REQUEST_BYTES_MAX,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};

use crate::context::Context;
use crate::dispatch::{self, Begun};
use crate::framing::{FrameReader, Next};
use crate::handlers::fetch::FetchSession;
use crate::listener::Listener;

/// How long answers that were begun may still take once the client or the server is done.
const DRAIN: Duration = Duration::from_millis(500);

/// What is known of one client.
pub(crate) struct Session {
    /// The shared part of the door.
    pub(crate) context: Arc<Context>,
    /// Where it is.
    pub(crate) peer: SocketAddr,
    /// What it came through.
    pub(crate) listener: Arc<Listener>,
    /// Its incremental fetch session, if it has one (KIP-227).
    pub(crate) fetch: Mutex<Option<FetchSession>>,
}

/// An answer being made; `None`: the request wants none (acks=0).
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Option<Frame>, Closed>> + Send>>;

/// The connection is to be closed; why, for the log.
#[derive(Debug)]
pub(crate) struct Closed(pub(crate) String);

/// An answer being made and the room its request takes.
struct Job {
    answer: Answer,
    _own: BytePermit,
    _shared: Option<BytePermit>,
}

/// Serves one connection until either side is done.
pub(crate) async fn run(
    mut stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<Listener>,
    context: Arc<Context>,
    stopping: impl Future<Output = ()>,
) {
    let _open = Open::new(context.clone());
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer = %peer, error = %error, "could not switch off Nagle's algorithm");
    }
    let session = Arc::new(Session { context, peer, listener, fetch: Mutex::new(None) });
    let (mut read, mut write) = stream.split();
    let (jobs, answers) = mpsc::channel(CONNECTION_REQUESTS_IN_FLIGHT);
    let writing = write_loop(&session, &mut write, answers);
    tokio::pin!(writing);
    let ended = tokio::select! {
        ended = read_loop(&session, &mut read, jobs) => ended,
        ended = &mut writing => ended,
        () = stopping => Ok(()),
    };
    // What was begun is answered if that takes no time; a fetch that waits for records does not hold us.
    let ended = match ended {
        Ok(()) => tokio::select! {
            ended = writing => ended,
            () = session.context.broker.clock().sleep(DRAIN) => Ok(()),
        },
        Err(closed) => Err(closed),
    };
    if let Err(Closed(why)) = ended {
        tracing::debug!(peer = %peer, why, "connection closed");
    }
}

async fn read_loop(
    session: &Arc<Session>,
    read: &mut ReadHalf<'_>,
    jobs: mpsc::Sender<Job>,
) -> Result<(), Closed> {
    let context = &session.context;
    let budget = ByteBudget::new(CONNECTION_BYTES_IN_FLIGHT);
    let mut frames = FrameReader::default();
    let mut bytes_max = FIRST_REQUEST_BYTES_MAX.min(context.config.request_bytes_max);
    loop {
        let next = frames.next(read, bytes_max).await.map_err(|error| Closed(error.to_string()))?;
        let Next::Frame(length) = next else { return Ok(()) };
        // Room in the connection first: waiting there must not hold room that others could use.
        let own = in_time(context, "earlier requests were not answered", budget.take(length)).await?;
        let shared = in_time(context, "the server was too busy", context.budget.take(length)).await?;
        let body = frames.body(read, length).await.map_err(|error| Closed(error.to_string()))?;
        context.counters.requests_total.fetch_add(1, Ordering::Relaxed);
        context.counters.bytes_in_total.fetch_add(length as u64 + 4, Ordering::Relaxed);
        let Begun { answer, handed_over } = dispatch::begin(session, body).await.inspect_err(|_| {
            context.counters.bad_requests_total.fetch_add(1, Ordering::Relaxed);
        })?;
        bytes_max = context.config.request_bytes_max;
        // What waits behind a parked fetch must not hold room that other connections need.
        let shared = (!handed_over).then_some(shared);
        let job = Job { answer, _own: own, _shared: shared };
        if in_time(context, "earlier requests were not answered", jobs.send(job)).await?.is_err() {
            return Ok(());
        }
    }
}

/// Waits for room, but not for ever: while we wait we do not see whether the client is still there.
async fn in_time<T>(
    context: &Context,
    why: &'static str,
    room: impl Future<Output = T>,
) -> Result<T, Closed> {
    tokio::select! {
        biased;
        room = room => Ok(room),
        () = context.broker.clock().sleep(context.config.patience) => Err(Closed(why.to_owned())),
    }
}

async fn write_loop(
    session: &Arc<Session>,
    write: &mut WriteHalf<'_>,
    mut answers: mpsc::Receiver<Job>,
) -> Result<(), Closed> {
    while let Some(job) = answers.recv().await {
        let Some(mut frame) = job.answer.await? else { continue };
        session.context.counters.bytes_out_total.fetch_add(frame.len() as u64, Ordering::Relaxed);
        write.write_all_buf(&mut frame).await.map_err(|error| Closed(error.to_string()))?;
    }
    Ok(())
}

/// Counts an open connection for as long as it lives.
struct Open(Arc<Context>);

impl Open {
    fn new(context: Arc<Context>) -> Open {
        context.counters.connections_open.fetch_add(1, Ordering::Relaxed);
        Open(context)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
