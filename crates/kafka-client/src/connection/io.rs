//! The task of a connection: writes what is queued, reads what comes, matches the two.
//!
//! **Invariant.** An entry stands in the in-flight queue before its request's first byte is written.

use std::collections::VecDeque;
use std::future::Future;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::frames::FrameReader;
use super::{Outgoing, Pending};

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
    let mut frames = FrameReader::default();
    loop {
        let frame = match frames.next(&mut socket).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "the broker ended it".to_owned(),
            Err(error) => return format!("cannot read: {error}"),
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
