//! The task of a connection: writes what is queued, reads what comes, matches the two.
//!
//! **Invariants.** An entry stands in the in-flight queue before its request's first byte is written. Memory
//! for an answer is taken once its length is known and checked, and large answers are read straight into it.

use std::collections::VecDeque;
use std::future::Future;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::{Outgoing, Pending};

/// Largest answer accepted, in bytes: more than any broker's `fetch.max.bytes` by a good margin.
pub const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

const READ_BYTES: usize = 64 * 1024;

type InFlight = Mutex<VecDeque<Pending>>;

/// Runs until the connection ends; says why it did. Dropping the in-flight queue fails the calls in it.
pub(super) async fn run(
    mut stream: TcpStream,
    queue: mpsc::Receiver<Outgoing>,
    stopping: impl Future<Output = ()>,
) -> String {
    let in_flight = InFlight::default();
    let (read, write) = stream.split();
    tokio::select! {
        reason = write_all(write, queue, &in_flight) => reason,
        reason = read_all(read, &in_flight) => reason,
        () = stopping => "given up".to_owned(),
    }
}

async fn write_all(
    mut socket: WriteHalf<'_>,
    mut queue: mpsc::Receiver<Outgoing>,
    in_flight: &InFlight,
) -> String {
    while let Some(Outgoing { mut frame, reply }) = queue.recv().await {
        if let Some(pending) = reply {
            in_flight.lock().push_back(pending);
        }
        if let Err(error) = socket.write_all_buf(&mut frame).await {
            return format!("cannot write: {error}");
        }
    }
    "no longer used".to_owned()
}

async fn read_all(mut socket: ReadHalf<'_>, in_flight: &InFlight) -> String {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        let frame = match read_frame(&mut socket, &mut buffer).await {
            Ok(frame) => frame,
            Err(reason) => return reason,
        };
        let Some(Pending { correlation_id, reply }) = in_flight.lock().pop_front() else {
            return "the broker answered what was not asked".to_owned();
        };
        if frame.first_chunk() != Some(&correlation_id.to_be_bytes()) {
            return "the broker answered out of order".to_owned();
        }
        // Whoever asked may have stopped waiting.
        let _ = reply.send(frame);
    }
}

async fn read_frame(socket: &mut ReadHalf<'_>, buffer: &mut BytesMut) -> Result<Bytes, String> {
    while buffer.len() < 4 {
        fill(socket, buffer, READ_BYTES).await?;
    }
    let length = buffer.get_i32();
    let length = usize::try_from(length).ok().filter(|length| *length <= RESPONSE_BYTES_MAX);
    let length = length.ok_or("the broker's bytes are not Kafka's protocol")?;
    if buffer.len() < length {
        if length > READ_BYTES {
            return read_large(socket, buffer, length).await;
        }
        while buffer.len() < length {
            fill(socket, buffer, READ_BYTES).await?;
        }
    }
    Ok(buffer.split_to(length).freeze())
}

/// Reads the rest of one large frame into memory of its own, and not a byte more.
async fn read_large(
    socket: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    length: usize,
) -> Result<Bytes, String> {
    let mut frame = BytesMut::with_capacity(length);
    frame.extend_from_slice(&buffer.split());
    while frame.len() < length {
        let rest = length - frame.len();
        let mut limited = (&mut frame).limit(rest);
        check_read(socket.read_buf(&mut limited).await)?;
    }
    Ok(frame.freeze())
}

async fn fill(socket: &mut ReadHalf<'_>, buffer: &mut BytesMut, room: usize) -> Result<(), String> {
    buffer.reserve(room);
    check_read(socket.read_buf(buffer).await)
}

fn check_read(result: std::io::Result<usize>) -> Result<(), String> {
    match result {
        Ok(0) => Err("the broker ended it".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot read: {error}")),
    }
}
