//! Room for requests while they arrive.
//!
//! A request takes room in the server's budget for what has come of it, never for what it says will come: eight
//! bytes that announce 128 MiB cost nothing. That alone would let many large requests, each half here, hold all
//! the room and wait for each other. So:
//!
//! - The first [`READ_AHEAD_BYTES`] of a request are read without room; a connection has a buffer of that size
//!   anyway. A request that is no larger takes its room when all of it is here and waits for nobody's bytes.
//! - What is larger arrives in steps, in one of two lanes: up to [`SHORT_BYTES`], which is what producers send
//!   unless told otherwise, or beyond. A lane is a part of the budget; both together leave a quarter of it to
//!   requests that are whole. A step is at most three times what has come before it, and at most [`STEP_BYTES`].
//! - Who finds no room in its lane for a step waits for it or for the lane's *last place*, whichever comes first.
//!   There is one last place per lane; who has it needs no more room and so can always finish. In all there is
//!   never more than the budget, one short request and one long one.
//! - A step that does not come within the connection's patience ends the connection. Waiting for room does not
//!   count: that is our doing.
//!
//! What waits for its turn behind a fetch that waits holds none of the server's room: small requests take it from
//! what their connection may have waiting, and a larger one, unless it is a produce request, is not even read
//! before everything ahead of it is answered. Which it is its first two bytes say.
//!
//! **Invariants.** Of those that wait for room in a lane, one always can go on. Room is held until the request
//! is done with ([`Room`]), the lane's part of it only until the request is whole.
//!
//! Deliberately absent: fairness between clients; whoever really sends much holds much for a while.

use std::sync::Arc;

use bytes::BytesMut;
use ferrymq_kafka_codec::ApiKey;
use ferrymq_runtime::{ByteBudget, BytePermit};
use ferrymq_types::limits::{CONNECTION_BYTES_IN_FLIGHT, CONNECTION_WAITING_BYTES};
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::{Closed, in_time};
use crate::context::Context;
use crate::dispatch;
use crate::framing::{FrameReader, READ_AHEAD_BYTES};

/// Largest request of the lane for short ones: what Java's producer sends at most by default, and a bit.
const SHORT_BYTES: usize = 1024 * 1024 + 64 * 1024;
/// Most bytes for which room is taken at a time. Each must come within the connection's patience of 30 s, which
/// is 35 kB/s: slower, clients give up on their own requests.
const STEP_BYTES: usize = 1024 * 1024;

/// The lanes in which requests arrive.
pub(crate) struct Intake {
    short: Lane,
    long: Lane,
}

struct Lane {
    room: ByteBudget,
    last: Arc<Semaphore>,
}

/// The room that one connection has.
pub(crate) struct Rooms {
    own: ByteBudget,
    waiting: ByteBudget,
}

/// What a request holds until it is done with.
pub(crate) struct Room {
    _own: BytePermit,
    beside: Option<Beside>,
}

/// Room of the server, or of what the connection may have waiting.
#[derive(Default)]
struct Beside {
    _waiting: Option<BytePermit>,
    _whole: Option<BytePermit>,
    _last: Option<OwnedSemaphorePermit>,
}

/// What a request holds while it arrives.
#[derive(Default)]
struct Arriving {
    lane: Option<BytePermit>,
    whole: Option<BytePermit>,
    last: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// Lanes that are parts of a budget of `bytes`.
    pub(crate) fn new(bytes: usize) -> Intake {
        let lane = |bytes| Lane { room: ByteBudget::new(bytes), last: Arc::new(Semaphore::new(1)) };
        Intake { short: lane(bytes / 4), long: lane(bytes / 2) }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        let own = ByteBudget::new(CONNECTION_BYTES_IN_FLIGHT);
        Rooms { own, waiting: ByteBudget::new(CONNECTION_WAITING_BYTES) }
    }
}

impl Rooms {
    /// Whether a request of this connection is not done with.
    pub(crate) fn in_work(&self) -> bool {
        self.own.in_use() > 0
    }

    /// Reads the request of `length` bytes that was announced.
    pub(crate) async fn receive<R: AsyncRead + Unpin>(
        &self,
        context: &Context,
        frames: &mut FrameReader,
        from: &mut R,
        length: usize,
    ) -> Result<(BytesMut, Room), Closed> {
        let key = read(context, frames.api_key(from, length)).await?;
        let bytes_max = dispatch::request_bytes_max(key, context.config.request_bytes_max);
        if length > bytes_max {
            return Err(Closed(format!("request of {length} bytes to an API that takes {bytes_max}")));
        }
        let is_produce = key == Some(ApiKey::Produce.id());
        let unanswered = "earlier requests were not answered";
        // Room in the connection first: waiting there must not hold room that others could use.
        if !is_produce && length <= CONNECTION_WAITING_BYTES {
            let waiting = in_time(context, unanswered, self.waiting.take(length)).await?;
            let own = in_time(context, unanswered, self.own.take(length)).await?;
            let mut body = BytesMut::new();
            read(context, frames.body(from, &mut body, length, length)).await?;
            let beside = Beside { _waiting: Some(waiting), ..Beside::default() };
            return Ok((body, Room { _own: own, beside: Some(beside) }));
        }
        if !is_produce {
            // All of the connection's room is free once everything before is answered.
            drop(in_time(context, unanswered, self.own.take(CONNECTION_BYTES_IN_FLIGHT)).await?);
        }
        let own = in_time(context, unanswered, self.own.take(length)).await?;
        let (body, beside) = receive(context, frames, from, length).await?;
        Ok((body, Room { _own: own, beside: Some(beside) }))
    }
}

impl Room {
    /// The request's owners count its bytes from now on.
    pub(crate) fn hand_over(&mut self) {
        self.beside = None;
    }
}

/// Reads a request into room of the server.
async fn receive<R: AsyncRead + Unpin>(
    context: &Context,
    frames: &mut FrameReader,
    from: &mut R,
    length: usize,
) -> Result<(BytesMut, Beside), Closed> {
    let mut body = BytesMut::new();
    if length <= READ_AHEAD_BYTES {
        read(context, frames.body(from, &mut body, length, length)).await?;
        let whole = in_time(context, "the server was too busy", context.budget.take(length)).await?;
        return Ok((body, Beside { _whole: Some(whole), ..Beside::default() }));
    }
    read(context, async { frames.front(from, READ_AHEAD_BYTES).await.map(drop) }).await?;
    let lane = if length <= SHORT_BYTES { &context.intake.short } else { &context.intake.long };
    let mut arriving = Arriving::default();
    while body.len() < length {
        let here = body.len().max(READ_AHEAD_BYTES);
        let until = (here + (here * 3).min(STEP_BYTES)).min(length);
        let grown = arriving.grow(lane, &context.budget, until - body.len());
        in_time(context, "the server was too busy", grown).await?;
        read(context, frames.body(from, &mut body, until, length)).await?;
    }
    Ok((body, arriving.finish(&context.budget, length)))
}

/// Waits for bytes of a request, but not for ever.
async fn read<T>(context: &Context, read: impl Future<Output = std::io::Result<T>>) -> Result<T, Closed> {
    let read = in_time(context, "the rest of a request did not come", read).await?;
    read.map_err(|error| Closed(error.to_string()))
}

impl Arriving {
    /// Takes room for a step, or the last place.
    ///
    /// Cancel safety: a dropped wait takes nothing.
    async fn grow(&mut self, lane: &Lane, whole: &ByteBudget, bytes: usize) {
        if self.last.is_some() {
            return;
        }
        let room = async { (lane.room.take(bytes).await, whole.take(bytes).await) };
        tokio::select! {
            biased;
            (in_lane, in_whole) = room => {
                add(&mut self.lane, in_lane);
                add(&mut self.whole, in_whole);
            }
            last = lane.last.clone().acquire_owned() => self.last = last.ok(),
        }
    }

    /// The request is here.
    fn finish(mut self, budget: &ByteBudget, length: usize) -> Beside {
        if self.last.is_some() {
            let missing = length.saturating_sub(self.whole.as_ref().map_or(0, BytePermit::bytes));
            if let Some(rest) = budget.try_take(missing) {
                add(&mut self.whole, rest);
                self.last = None;
            }
        }
        Beside { _waiting: None, _whole: self.whole, _last: self.last }
    }
}

fn add(held: &mut Option<BytePermit>, more: BytePermit) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}
