//! Messages that exchanges keep back: the logs they wait in, and what becomes of them when they are due.
//!
//! ```text
//!  publish ─▶ lane by its delay ─▶ durable, confirmed ... due ─▶ mover: read back, routed, one joint commit:
//!                                                                appended at its queues, done in its lane
//! ```
//! A lane is a queue that nobody can name: a log with an ack subscription, for all messages of a virtual host whose delays
//! are of one range. ADR 0012 says why it is so.
//!
//! **Invariants.** A message is in its lane or in its queues, never in both nor in neither, whenever the broker ends.
//! One that a queue refuses is tried again, by itself, and is no hindrance to others while there are not very many such;
//! streams that have taken it meanwhile do not get it again, but for a restart. One that goes nowhere when it is due is
//! dropped.
//!
//! Deliberately absent: when a message is due (`shard/lanes`); the mover (`dead_letters`); headers (a door's,
//! [`DeadLetters::due`]).
//!
//! [`DeadLetters::due`]: super::dead_letters::DeadLetters::due

use std::collections::HashMap;
use std::sync::Arc;

use ferrymq_types::Offset;
use ferrymq_types::limits::QUEUE_MESSAGE_BYTES_MAX;

use super::ack::AckState;
use super::args::Arguments;
use super::consuming::Consuming;
use super::dead_letters::{CHUNK_BYTES, Chunk, DeathReason, Moving};
use super::error::QueueError;
use super::exchange::{Headers, Routable};
use super::handle::Queues;
use super::joint::Parts;
use super::logs::Admin;
use super::records::{DELAYS, DelaysRecord, key, put};
use super::settings::QueueSettings;
use super::shard::joint::Settles;
use super::shard::message::Attached;
use super::streams::{TooLarge, without_streams};
use super::topology::QueueEntry;
use super::types::{Message, Publish, QueueHandle, QueueSpec, Settle};
use crate::to_its_end::to_its_end;

/// How many lanes there are.
pub(super) const LANES: usize = 10;
/// The shortest delay of the second lane, in milliseconds; that of each further one is four times as long. The last
/// begins at twelve days.
const SECOND_MS: u64 = 16_000;

/// Bytes read back at a time: what is due together may lie far from each other.
const READ_BYTES: usize = 128 * 1024;

/// The lane of a delay.
pub(super) fn lane_of(delay_ms: u64) -> usize {
    (1..LANES).rev().find(|lane| delay_ms >= shortest_ms(*lane)).unwrap_or(0)
}

/// The shortest delay in a lane, in milliseconds.
pub(super) fn shortest_ms(lane: usize) -> u64 {
    match lane {
        0 => 0,
        lane => SECOND_MS << (2 * (lane - 1)),
    }
}

/// A lane as a queue that goes with its virtual host.
pub(super) fn entry_of(lane: &QueueHandle) -> QueueEntry {
    let spec = QueueSpec::kept(lane.name().clone(), Arguments::default());
    QueueEntry { handle: lane.clone(), spec, owner: None }
}

impl Queues {
    /// Makes the lanes of a virtual host, unless they are there.
    pub(super) async fn make_lanes(&self, admin: &mut Admin, vhost: &str) -> Result<(), QueueError> {
        if self.topology.read().vhost(vhost)?.lanes.is_some() {
            return Ok(());
        }
        let mut logs = Vec::new();
        for _ in 0..LANES {
            logs.push(self.durable_id(admin).await?);
        }
        let record = DelaysRecord { vhost: vhost.to_owned(), logs: logs.iter().map(|log| log.0).collect() };
        // A record whose logs are not there is as good as one whose logs are empty: the next start makes them.
        self.write(vec![put(key(DELAYS, &[vhost]), record)?]).await?;
        let claims = self.stores.logs.claim(logs, self.owner).await?;
        let mut lanes = Vec::new();
        for (lane, claim) in claims.into_iter().enumerate() {
            let acks = AckState::new(claim.next.0);
            lanes.push(self.attach_lane(vhost, lane, claim, acks).await?);
        }
        self.set_lanes(vhost, lanes)
    }

    /// Has a shard serve a lane.
    pub(super) async fn attach_lane(
        &self,
        vhost: &str,
        lane: usize,
        claim: ferrymq_storage::Claim,
        acks: AckState,
    ) -> Result<QueueHandle, QueueError> {
        let handle =
            self.identify(claim.log, vhost.into(), format!("(delayed messages, {lane})").into(), None);
        let attached = Attached {
            handle: handle.clone(),
            epoch: claim.epoch,
            start: claim.start.0,
            next: claim.next.0,
            durable: true,
            always_durable: true,
            consuming: Consuming::default(),
            acks,
            dead_letter: None,
            settings: QueueSettings::default(),
            ready_bytes: 0,
            lane: Some(shortest_ms(lane)),
            source: None,
        };
        self.attach(attached).await?;
        Ok(handle)
    }

    pub(super) fn set_lanes(&self, vhost: &str, lanes: Vec<QueueHandle>) -> Result<(), QueueError> {
        self.topology.write().vhost_mut(vhost)?.lanes = Some(lanes.into());
        Ok(())
    }

    /// A message that is due, unless it goes nowhere.
    pub(super) fn due(&self, lane: &QueueHandle, message: &Message) -> Option<Publish> {
        let Some(delay) = &message.delay else {
            tracing::error!("a delayed message does not say by what it is routed, and is dropped");
            return None;
        };
        let keys: Vec<&[u8]> =
            std::iter::once(&message.routing_key[..]).chain(delay.keys.iter().map(|key| &key[..])).collect();
        let exchange = std::str::from_utf8(&delay.exchange).unwrap_or_default();
        let mut route = |headers: &dyn Headers| {
            let message = Routable { keys: &keys, headers, rng: &self.rng };
            let topology = self.topology.read();
            let home = topology.home_of(lane);
            home.map(|vhost| vhost.route_letter(exchange, &message)).unwrap_or_default()
        };
        let (mut message, to) = self.letters.0.due(message, delay.ms, &mut route);
        message.delay = None;
        if message.bytes() > QUEUE_MESSAGE_BYTES_MAX {
            tracing::error!("a delayed message has become too large and is dropped");
            return None;
        }
        (!to.is_empty()).then_some(Publish { message, to })
    }

    /// Reads the first of what is due back, routes it and moves it in one commit.
    pub(super) async fn move_due(
        self: &Arc<Queues>,
        moving: &mut Moving,
        at_most: usize,
    ) -> Result<(), QueueError> {
        let Ok(_permit) = self.movers.acquire().await else { return Err(QueueError::Stopped) };
        let mut wanted: Vec<(u64, DeathReason)> = moving.letters.iter().take(at_most).copied().collect();
        wanted.sort_unstable_by_key(|(offset, _)| *offset);
        let (mut chunk, mut bytes) = (Chunk::new(), 0);
        while chunk.len() < wanted.len() && bytes < CHUNK_BYTES {
            let before = chunk.len();
            self.read_ascending(moving.queue.log(), &wanted[before..], READ_BYTES, &mut chunk).await?;
            let read = chunk.iter().skip(before).filter_map(|(_, _, message)| message.as_ref());
            bytes += read.map(Message::bytes).sum::<usize>();
        }
        let mut read: HashMap<u64, Option<Message>> =
            chunk.into_iter().map(|(offset, _, message)| (offset, message)).collect();
        let mut parts = Parts::default();
        let (mut what, mut left) = (Vec::with_capacity(read.len()), moving.letters.clone());
        // In the order in which they are due.
        left.retain(|(offset, _)| {
            let Some(message) = read.remove(offset) else { return true };
            what.push((Offset(*offset), Settle::Ack));
            let due = message.and_then(|message| self.due(&moving.queue, &message));
            parts.publishes.extend(match moving.written.contains(offset) {
                true => due.as_ref().and_then(without_streams),
                false => due,
            });
            false
        });
        parts.settles.push(Settles { queue: moving.queue.clone(), session: None, what });
        let queues = self.clone();
        let (rest, _) = self.append_streams(&parts, TooLarge::Dropped).await?;
        moving.has_written(&parts);
        to_its_end(&self.tasks, async move { queues.commit_queues(&rest).await }).await?;
        moving.letters = left;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_delay_has_a_lane() {
        assert_eq!([1, 15_999].map(lane_of), [0, 0]);
        assert_eq!([16_000, 63_999, 64_000].map(lane_of), [1, 1, 2]);
        assert_eq!(lane_of(u32::MAX.into()), LANES - 1);
        for lane in 1..LANES {
            assert_eq!((lane_of(shortest_ms(lane)), lane_of(shortest_ms(lane) - 1)), (lane, lane - 1));
        }
    }
}
