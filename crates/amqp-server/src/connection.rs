//! The life of one connection: handshake, open, the end.
//!
//! **Invariants.** Reader, writer and heartbeat run side by side in one task: a client that does not read can
//! still be heard, until too much waits for it. However a connection ends, its session is closed: consumers go,
//! what was not settled is available again, exclusive queues are deleted.
//!
//! Deliberately absent: what methods mean; see `methods/`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_amqp_codec::frame_writer::{put_heartbeat, put_method};
use ferrymq_amqp_codec::method::connection::{Close, CloseOk};
use ferrymq_amqp_codec::{FrameKind, MethodId, ReplyCode, WireMethod as _};
use ferrymq_broker::queues::deliveries;
use ferrymq_types::limits::AMQP_FIRST_FRAME_BYTES_MAX;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use crate::context::Context;
use crate::failure::{Failure, forced, vhost_deleted};
use crate::handshake::handshake;
use crate::input::{Input, Life, Stop};
use crate::reader::read_loop;
use crate::state::Connection;
use crate::writer::Writer;

/// Bytes of deliveries that wait for a client.
const DELIVERY_BYTES: usize = 1024 * 1024;
/// How long a client that was told to close may take to say that it heard.
const LINGER: Duration = Duration::from_secs(2);
/// The heartbeat looks twice in each interval; this many looks without a byte are two intervals.
const SILENT_LOOKS: u32 = 4;

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client said `connection.close`.
    Closed,
    /// The client hung up.
    Gone,
    /// The socket failed.
    Io(io::Error),
    /// Nothing was heard for two heartbeats.
    Silent,
    /// A mistake; the client is told.
    Failed(Failure),
    /// A mistake that the client is not told.
    Refused(String),
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Ended {
        match stop {
            Stop::End => Ended::Gone,
            Stop::Io(error) => Ended::Io(error),
            Stop::Broken(failure) => Ended::Failed(failure),
        }
    }
}

/// Serves one connection until either side is done.
pub(crate) async fn run(
    mut stream: TcpStream,
    peer: SocketAddr,
    context: Arc<Context>,
    stopping: impl Future<Output = ()>,
) {
    let _open = Open::new(context.clone());
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer = %peer, error = %error, "could not switch off Nagle's algorithm");
    }
    let life = Arc::new(Life::default());
    let (mut read, write) = stream.split();
    let mut writer = Writer::new(write, context.clone(), life.clone());
    let mut input = Input::new(AMQP_FIRST_FRAME_BYTES_MAX, life.clone());
    tokio::pin!(stopping);
    let opened = tokio::select! {
        opened = handshake(&context, peer, &mut input, &read, &mut writer) => opened,
        () = context.clock.sleep(context.config.handshake_patience) => {
            Err(Ended::Refused("the handshake took too long".to_owned()))
        }
        () = &mut stopping => Err(Ended::Failed(forced())),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(ended) => {
            say_why(&context, peer, &ended);
            if let Ended::Failed(failure) = ended {
                part(&context, &failure, &mut input, &mut read, &mut writer).await;
            }
            return;
        }
    };
    let heartbeat = opened.heartbeat;
    let (vhost, mut vhost_end) = (opened.vhost.clone(), opened.vhost_end.clone());
    let (sink, mut deliveries) = deliveries(DELIVERY_BYTES);
    let connection = Connection::new(context.clone(), peer, opened, sink, life);
    let ended = tokio::select! {
        () = vhost_end.ended() => Ended::Failed(vhost_deleted(&vhost)),
        ended = read_loop(&connection, &mut input, &read) => ended,
        ended = writer.run(&connection, &mut deliveries) => ended,
        ended = beat(&connection, heartbeat) => ended,
        () = &mut stopping => Ended::Failed(forced()),
    };
    say_why(&context, peer, &ended);
    drop(deliveries);
    connection.output.take_into(&mut writer.buffer);
    // Nobody can reply to what is not there any more.
    connection.forget_channels();
    let Connection { session, .. } = connection;
    match ended {
        Ended::Closed => {
            // What the client finds after it has closed: nothing of its own is left.
            session.close().await;
            if put_method(&mut writer.buffer, 0, &CloseOk {}).is_ok() {
                let flushed = within(&context, LINGER, writer.flush()).await;
                tracing::trace!(peer = %peer, flushed = flushed.is_some(), "closed");
            }
        }
        Ended::Failed(failure) => {
            // First, so that a client that connects again at once finds nothing of its own left, and others need
            // not wait for one that is slow to hear.
            session.close().await;
            part(&context, &failure, &mut input, &mut read, &mut writer).await;
        }
        _ => session.close().await,
    }
}

/// Tells the client why it is closed and waits a little for it to hear: a socket that is closed with input
/// unread would throw away what was just written.
async fn part(
    context: &Context,
    failure: &Failure,
    input: &mut Input,
    read: &mut ReadHalf<'_>,
    writer: &mut Writer<'_>,
) {
    let MethodId { class, method } = failure.method;
    let close = Close {
        reply_code: failure.code.code(),
        reply_text: failure.text.as_bytes(),
        class_id: class,
        method_id: method,
    };
    if put_method(&mut writer.buffer, 0, &close).is_err() {
        return;
    }
    let parting = async {
        if writer.flush().await.is_ok() {
            hear_close_ok(input, read).await;
        }
    };
    if within(context, LINGER, parting).await.is_none() {
        tracing::debug!("a client that was told to close did not say that it heard");
    }
}

/// Reads until `connection.close-ok` or the end.
async fn hear_close_ok(input: &mut Input, read: &mut ReadHalf<'_>) {
    loop {
        let run = match input.run(read).await {
            Ok(run) => run,
            Err(Stop::Broken(_)) => break,
            Err(_) => return,
        };
        let mut rest = &run[..];
        while let Some(frame) = input.next_of(rest) {
            let is_answer = frame.channel == 0
                && frame.kind == FrameKind::Method
                && MethodId::peek(frame.payload) == Some(CloseOk::ID);
            if is_answer {
                return;
            }
            rest = rest.get(frame.wire_bytes()..).unwrap_or_default();
        }
    }
    // Nobody knows where a frame begins any more.
    let mut sink = [0; 4096];
    while read.read(&mut sink).await.is_ok_and(|count| count > 0) {}
}

async fn within<T>(context: &Context, patience: Duration, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = what => Some(done),
        () = context.clock.sleep(patience) => None,
    }
}

/// Sends signs of life, and ends the connection when there are none.
async fn beat(connection: &Connection, seconds: u16) -> Ended {
    if seconds == 0 {
        return std::future::pending().await;
    }
    let look = Duration::from_millis(u64::from(seconds) * 500);
    let life = &connection.life;
    let (mut sent, mut received, mut silent) = (0, 0, 0);
    loop {
        connection.context.clock.sleep(look).await;
        let now = life.sent.load(Ordering::Relaxed);
        if now == sent {
            connection.output.with(put_heartbeat);
            connection.output.wake();
        }
        sent = now;
        let now = life.received.load(Ordering::Relaxed);
        // Where it is us who do not read, silence is no sign.
        silent = if now == received && life.listening.load(Ordering::Relaxed) { silent + 1 } else { 0 };
        received = now;
        if silent >= SILENT_LOOKS {
            return Ended::Silent;
        }
    }
}

fn say_why(context: &Context, peer: SocketAddr, ended: &Ended) {
    match ended {
        Ended::Closed | Ended::Gone => tracing::debug!(peer = %peer, "AMQP connection closed"),
        Ended::Io(error) => tracing::debug!(peer = %peer, error = %error, "AMQP connection failed"),
        Ended::Silent => tracing::info!(peer = %peer, "AMQP connection closed: missed heartbeats"),
        Ended::Refused(why) => {
            context.counters.connection_errors_total.fetch_add(1, Ordering::Relaxed);
            tracing::info!(peer = %peer, why, "AMQP connection refused");
        }
        Ended::Failed(failure) if failure.code == ReplyCode::ConnectionForced => {
            tracing::debug!(peer = %peer, why = failure.text, "AMQP connection closed");
        }
        Ended::Failed(failure) => {
            context.counters.connection_errors_total.fetch_add(1, Ordering::Relaxed);
            tracing::info!(peer = %peer, why = failure.text, method = %failure.method, "AMQP connection closed");
        }
    }
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
