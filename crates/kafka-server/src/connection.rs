//! One client: requests are read ahead and answered in order.
//!
//! ```text
//!  socket -> FrameReader -> begin(request) -> queue of answers being made -> write, in order -> socket
//! ```
//! Both directions are one task. A produce request is handed to its owners as soon as it is read; every other
//! request is worked on when its turn to be answered comes.
//!
//! **Invariants.** Bytes in work are bounded per connection and in all (`intake`). A client that closes ends everything
//! that waits on its behalf. A request that cannot be decoded closes the connection, as Kafka does. Whoever
//! neither sends the rest of a request nor takes an answer is not waited for longer than its patience; whoever
//! wants nothing at all is closed after `idle`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Buf as _;
use ferrymq_kafka_codec::Frame;
use ferrymq_types::limits::{CONNECTION_REQUESTS_IN_FLIGHT, FIRST_REQUEST_BYTES_MAX};
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};

use crate::answers::{self, AnswerRoom};
use crate::context::Context;
use crate::dispatch::{self, Begun};
use crate::framing::{FrameReader, Next};
use crate::handlers::fetch::{Deferred, FetchSession};
use crate::intake::{Room, Rooms};
use crate::listener::Listener;

/// How long answers that were begun may still take once the client or the server is done.
const DRAIN: Duration = Duration::from_millis(500);

/// Parts of the connection's patience after which a client that takes nothing is looked at.
const PATIENCE_TICKS: u32 = 10;
/// What a client must take of an answer within that patience to be waited for: 2 kB/s.
const PACE_BYTES: usize = 64 * 1024;

/// How long a connection is quiet before it gives back its memory for reading.
const REST_AFTER: Duration = Duration::from_secs(1);
/// When, how often and how many times a quiet peer is asked whether it is still there: after two minutes it is not.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

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
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Option<Reply>, Closed>> + Send>>;

/// An answer and the room that it takes until it is written.
pub(crate) struct Reply {
    pub(crate) frame: Frame,
    /// What follows: records that are read while the answer goes out, and the part of the frame behind them.
    pub(crate) rest: Vec<(Deferred, Frame)>,
    pub(crate) room: AnswerRoom,
}

/// The connection is to be closed; why, for the log.
#[derive(Debug)]
pub(crate) struct Closed(pub(crate) String);

/// An answer being made and the room its request takes.
struct Job {
    answer: Answer,
    _room: Room,
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
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(peer = %peer, error = %error, "could not switch on keepalive");
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
    let rooms = Rooms::default();
    let mut frames = FrameReader::default();
    let mut bytes_max = FIRST_REQUEST_BYTES_MAX.min(context.config.request_bytes_max);
    loop {
        let next = next_frame(session, &mut frames, read, bytes_max, &rooms).await?;
        let Next::Frame(length) = next else { return Ok(()) };
        let (body, mut room) = rooms.receive(context, &mut frames, read, length).await?;
        context.counters.requests_total.fetch_add(1, Ordering::Relaxed);
        context.counters.bytes_in_total.fetch_add(length as u64 + 4, Ordering::Relaxed);
        let Begun { answer, handed_over } = dispatch::begin(session, body).await.inspect_err(|_| {
            context.counters.bad_requests_total.fetch_add(1, Ordering::Relaxed);
        })?;
        bytes_max = context.config.request_bytes_max;
        if handed_over {
            room.hand_over();
        }
        let job = Job { answer, _room: room };
        if in_time(context, "earlier requests were not answered", jobs.send(job)).await?.is_err() {
            return Ok(());
        }
    }
}

/// Waits for the next request; a connection without one in work is closed after a while.
async fn next_frame(
    session: &Session,
    frames: &mut FrameReader,
    read: &mut ReadHalf<'_>,
    bytes_max: usize,
    rooms: &Rooms,
) -> Result<Next, Closed> {
    let context = &session.context;
    let idle = context.config.idle;
    let mut timer = pin!(context.broker.clock().sleep(REST_AFTER.min(idle)));
    let mut resting = false;
    loop {
        tokio::select! {
            biased;
            next = frames.next(read, bytes_max) => return next.map_err(|error| Closed(error.to_string())),
            () = &mut timer => {
                // Whoever waits for an answer, of a fetch that waits for records say, is not idle.
                if resting && !rooms.in_work() {
                    return Err(Closed("nothing was asked for a long time".to_owned()));
                }
                // Most connections are quiet most of the time: then they hold no memory for reading.
                frames.rest();
                resting = true;
                timer.set(context.broker.clock().sleep(idle));
            }
        }
    }
}

/// Has the system find out about peers that are gone without a word, also while an answer is waited for.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Waits for room, but not for ever: while we wait we do not see whether the client is still there.
pub(crate) async fn in_time<T>(
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
        let Some(reply) = job.answer.await? else { continue };
        write_reply(&session.context, write, reply).await?;
    }
    Ok(())
}

/// Writes an answer; while one piece of it goes out, the next one is read.
async fn write_reply(context: &Context, write: &mut WriteHalf<'_>, reply: Reply) -> Result<(), Closed> {
    let Reply { frame: mut out, rest, room } = reply;
    let bytes = |(deferred, part): &(Deferred, Frame)| deferred.bytes() + part.len();
    let bytes = out.len() + rest.iter().map(bytes).sum::<usize>();
    context.counters.bytes_out_total.fetch_add(bytes as u64, Ordering::Relaxed);
    for (mut deferred, part) in rest {
        while deferred.bytes() > 0 {
            let reading = async { Ok(deferred.next().await) };
            let ((), piece) = tokio::try_join!(write_frame(context, write, &mut out), reading)?;
            out.extend(piece);
        }
        out.extend(part.into_chunks());
    }
    write_frame(context, write, &mut out).await?;
    drop(room);
    Ok(())
}

/// Writes as long as the client takes something.
async fn write_frame(context: &Context, write: &mut WriteHalf<'_>, frame: &mut Frame) -> Result<(), Closed> {
    let tick = || context.broker.clock().sleep(context.config.patience / PATIENCE_TICKS);
    let mut next_tick = pin!(tick());
    let (mut ticks, mut mark) = (0, frame.remaining());
    while frame.has_remaining() {
        tokio::select! {
            biased;
            written = write.write_buf(frame) => match written {
                Ok(0) => return Err(Closed("the client takes nothing any more".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(Closed(error.to_string())),
            },
            () = &mut next_tick => {
                ticks += 1;
                next_tick.set(tick());
            }
        }
        if mark - frame.remaining() >= PACE_BYTES {
            (ticks, mark) = (0, frame.remaining());
        }
        let patient = if answers::is_short(context) { 1 } else { PATIENCE_TICKS };
        if ticks >= patient && frame.has_remaining() {
            // What the system still holds for this client is not to be sent either.
            let _unchanged = write.as_ref().set_zero_linger().is_err();
            return Err(Closed("the client does not take its answer".to_owned()));
        }
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
