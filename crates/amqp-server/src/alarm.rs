//! The alarm: the store has no room for messages.
//!
//! While it is on, a connection that publishes is held back at its next message, which is kept until there is room;
//! whoever only consumes goes on, which is what makes room. RabbitMQ does the same under its disk alarm.
//!
//! **Invariants.** A message that is held back is neither lost nor refused. The client is told
//! `connection.blocked` and `connection.unblocked` if it said that it understands them. A client that is gone is
//! noticed while it is held back.
//!
//! Deliberately absent: who knows how much room there is: [`Context::store_is_full`](crate::Context::store_is_full)
//! is told, and a message that the store refuses for want of room raises the alarm as well.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferrymq_amqp_codec::method::connection::{Blocked, Unblocked};
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::reader::{Halt, Reader};

/// What a client that is held back is told. RabbitMQ's words.
const REASON: &[u8] = b"low on disk";
/// How often to look whether a client that is held back is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the store has no room.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    on: AtomicBool,
    changed: Notify,
}

impl Alarm {
    pub(crate) fn set(&self, on: bool) {
        let was = self.on.swap(on, Ordering::AcqRel);
        match (was, on) {
            (false, true) => tracing::warn!("the store has no room: AMQP publishers are held back"),
            (true, false) => {
                tracing::info!("the store has room again: AMQP publishers go on");
                self.changed.notify_waiters();
            }
            _ => {}
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Waits until it is off.
    async fn off(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_on() {
                return;
            }
            changed.await;
        }
    }
}

impl Reader<'_> {
    /// Waits for the alarm to be off, before a message is taken. What was settled is handed over: it may be what
    /// makes room. Messages of the same read wait with this one.
    pub(crate) async fn hold_back(&mut self) -> Result<(), Halt> {
        let connection = self.connection;
        let context = &connection.context;
        if !context.alarm.is_on() {
            return Ok(());
        }
        self.settlements.send(connection).await;
        if connection.opened.blocked_notify {
            connection.output.method(0, &Blocked { reason: REASON });
        }
        connection.output.wake();
        loop {
            tokio::select! {
                () = context.alarm.off() => break,
                () = context.clock.sleep(LOOK) => {
                    if self.is_gone().await {
                        return Err(Halt::Gone);
                    }
                }
            }
        }
        if connection.opened.blocked_notify {
            connection.output.method(0, &Unblocked {});
        }
        Ok(())
    }

    /// Whether the client has hung up, whatever it sent before.
    async fn is_gone(&self) -> bool {
        tokio::select! {
            biased;
            ready = self.from.ready(Interest::READABLE) => ready.is_ok_and(|ready| ready.is_read_closed()),
            () = std::future::ready(()) => false,
        }
    }
}
