//! `ferrymq bench amqp-null-responder`: speaks enough AMQP 0-9-1 to be published to and consumed from, and stores
//! nothing.
//!
//! **Invariants.** Each queue remembers how many messages it was given and has not delivered, and the newest of
//! them: consumers get as many as were published, each like the newest. Every exchange is a fanout. Publishings
//! are confirmed, several at a time, as soon as they were read.
//!
//! Deliberately absent: acknowledgements and prefetch (everything is sent as fast as it is taken), refusals, gets,
//! everything that would take memory or time.

mod queues;
mod session;

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use ferrymq_amqp_codec::PROTOCOL_HEADER;
use ferrymq_runtime::{TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::super::out::note;
use queues::{Queues, Subscription};
use session::Session;

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of deliveries that are put into one write, about.
const WRITE_BYTES: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct AmqpNullArgs {
    /// Where to listen; port 0 takes a free one and says which
    #[arg(long, default_value = "127.0.0.1:5699", value_name = "HOST:PORT")]
    listen: String,
}

/// What the reading half of a connection tells the writing half.
#[derive(Default)]
struct Outbox {
    answers: Mutex<BytesMut>,
    subscription: Mutex<Option<Subscription>>,
    changed: Notify,
}

pub(super) async fn run(args: AmqpNullArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(&args.listen).await?;
    note(format_args!("answering AMQP on {}, storing nothing", listener.local_addr()?));
    let queues = Arc::new(Queues::default());
    let tasks = Tasks::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = &mut interrupted => return Ok(()),
        };
        let queues = queues.clone();
        tasks.spawn(TaskKind::Connection, "amqp-null-responder", async move {
            if let Err(error) = serve(stream, queues).await {
                note(format_args!("connection ended: {error}"));
            }
        });
    }
}

async fn serve(stream: TcpStream, queues: Arc<Queues>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, write) = stream.into_split();
    let mut header = [0; PROTOCOL_HEADER.len()];
    read.read_exact(&mut header).await?;
    anyhow::ensure!(header == PROTOCOL_HEADER, "not AMQP 0-9-1");
    let outbox = Outbox::default();
    tokio::select! {
        done = read_all(read, Session::new(queues), &outbox) => done,
        failed = write_all(write, &outbox) => failed,
    }
}

/// Reads until the client closes, and answers.
async fn read_all(mut read: OwnedReadHalf, mut session: Session, outbox: &Outbox) -> anyhow::Result<()> {
    session.greet(&mut outbox.answers.lock())?;
    outbox.changed.notify_one();
    let mut input = BytesMut::new();
    loop {
        input.reserve(READ_BYTES);
        if read.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let used = session.take(&input, &mut outbox.answers.lock())?;
        input.advance(used);
        if let Some(subscription) = session.subscription() {
            *outbox.subscription.lock() = Some(subscription);
        }
        outbox.changed.notify_one();
    }
}

/// Writes answers and deliveries; ends only with an error.
async fn write_all(mut write: OwnedWriteHalf, outbox: &Outbox) -> anyhow::Result<()> {
    let mut out = BytesMut::new();
    loop {
        out.unsplit(outbox.answers.lock().split());
        let queue = outbox.subscription.lock().as_mut().map(|subscription| {
            subscription.deliver(&mut out, WRITE_BYTES);
            subscription.queue()
        });
        if !out.is_empty() {
            write.write_all_buf(&mut out).await?;
            continue;
        }
        match queue {
            Some(queue) => tokio::select! {
                () = outbox.changed.notified() => {}
                () = queue.given.notified() => {}
            },
            None => outbox.changed.notified().await,
        }
    }
}
