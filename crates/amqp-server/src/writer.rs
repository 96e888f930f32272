//! Writing to a client: answers first, then confirms, then deliveries, as much as fits a write.
//!
//! **Invariants.** A frame is written whole or the connection ends. Deliveries are fetched only when nothing
//! else waits to be written, so a client that does not read fills its sink and then its queues keep what is
//! theirs. A client that reads nothing for longer than the door's patience is closed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf as _, BytesMut};
use ferrymq_broker::queues::{Deliveries, Event};
use ferrymq_runtime::Clock;
use tokio::net::tcp::WriteHalf;

use crate::confirms::Acks;
use crate::connection::Ended;
use crate::context::Context;
use crate::deliver::undeliverable;
use crate::failure::Failure;
use crate::input::Life;
use crate::state::Connection;

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 128 * 1024;
/// A buffer larger than this is not kept for later.
const KEEP_BYTES: usize = 16 * 1024;

/// The writing side of a socket.
pub(crate) struct Writer<'s> {
    to: WriteHalf<'s>,
    /// What is being written.
    pub(crate) buffer: BytesMut,
    context: Arc<Context>,
    life: Arc<Life>,
}

impl<'s> Writer<'s> {
    pub(crate) fn new(to: WriteHalf<'s>, context: Arc<Context>, life: Arc<Life>) -> Writer<'s> {
        Writer { to, buffer: BytesMut::new(), context, life }
    }

    /// Writes for as long as the connection is open.
    pub(crate) async fn run(&mut self, connection: &Connection, deliveries: &mut Deliveries) -> Ended {
        let mut acks = Acks::default();
        loop {
            let gathered = self.gather(connection, deliveries, &mut acks);
            if let Err(failure) = gathered {
                return Ended::Failed(failure);
            }
            if self.buffer.is_empty() {
                if self.buffer.capacity() > KEEP_BYTES {
                    self.buffer = BytesMut::new();
                }
                let event: Option<Event> = tokio::select! {
                    () = connection.output.woken() => None,
                    () = connection.replies.arrived() => None,
                    decided = connection.confirms.next() => {
                        // A message's return comes before its confirm.
                        connection.output.take_into(&mut self.buffer);
                        match acks.add(connection, decided, &mut self.buffer) {
                            Ok(()) => None,
                            Err(error) => return Ended::Failed(undeliverable(error)),
                        }
                    }
                    event = deliveries.recv() => Some(event),
                };
                if let Some(event) = event {
                    connection.output.take_into(&mut self.buffer);
                    if let Err(failure) = connection.take_event(event, &mut self.buffer) {
                        return Ended::Failed(failure);
                    }
                }
            } else if let Err(error) = self.flush().await {
                return Ended::Io(error);
            }
        }
    }

    /// Fills the buffer with what is there.
    fn gather(
        &mut self,
        connection: &Connection,
        deliveries: &mut Deliveries,
        acks: &mut Acks,
    ) -> Result<(), Failure> {
        connection.output.take_into(&mut self.buffer);
        while let Some(decided) = connection.confirms.try_next() {
            acks.add(connection, decided, &mut self.buffer).map_err(undeliverable)?;
        }
        acks.write(connection, &mut self.buffer).map_err(undeliverable)?;
        // A half for replies and a half for deliveries, if there is more than enough of both.
        while self.buffer.len() < WRITE_BYTES / 2 {
            let Some(reply) = connection.replies.pop() else { break };
            connection.take_reply(&reply, &mut self.buffer)?;
        }
        while self.buffer.len() < WRITE_BYTES || connection.is_drain_wanted() {
            let Some(event) = deliveries.try_recv() else {
                connection.say_drained();
                break;
            };
            connection.take_event(event, &mut self.buffer)?;
        }
        Ok(())
    }

    /// Writes the whole buffer.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.buffer.is_empty() {
            match self.to.try_write(&self.buffer) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.buffer.advance(count);
                    self.life.sent.fetch_add(count as u64, Ordering::Relaxed);
                    self.context.counters.bytes_out_total.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let clock: &Clock = &self.context.clock;
                    tokio::select! {
                        writable = self.to.writable() => writable?,
                        () = clock.sleep(self.context.config.patience) => {
                            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"));
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
