//! How many messages, and bytes of bodies, a queue may have ready.
//!
//! **Invariants.** Only what is available counts, or will be without anybody doing anything, not what a consumer holds. A
//! queue without a limit pays nothing, one without a limit of bytes counts none. Where new messages are refused, those on
//! their way count as if they were there: the bound is never passed by publishing, only by what consumers give back.
//!
//! Bytes are counted by level and summed.
//!
//! Deliberately absent: what becomes of a message that is refused (`refused`).

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use super::discard::{Discarded, Reason};
use super::levels::place;
use super::queue::{OffsetHasher, Queue};
use crate::queues::settings::{Overflow, QueueSettings};
use crate::queues::types::Message;

/// The limits of one queue.
#[derive(Debug)]
pub(super) struct Limits {
    length_max: u64,
    refuses: bool,
    bytes: Option<Bytes>,
}

/// What is counted for a limit of bytes.
#[derive(Debug)]
pub(super) struct Bytes {
    max: u64,
    ready: u64,
    measuring: Option<Measuring>,
    /// Of what consumers hold.
    held: HashMap<u64, u32, BuildHasherDefault<OffsetHasher>>,
}

/// What was there before anybody counted is being looked at.
#[derive(Debug)]
struct Measuring {
    number: u32,
    /// It tells nothing: what it looks at has been purged meanwhile.
    in_vain: bool,
}

impl Limits {
    /// The limits that are asked for, if any; `ready_bytes` are there.
    pub(super) fn of(settings: &QueueSettings, ready_bytes: u64) -> Option<Box<Limits>> {
        if settings.length_max.is_none() && settings.bytes_max.is_none() {
            return None;
        }
        Some(Box::new(Limits {
            length_max: settings.length_max.unwrap_or(u64::MAX),
            refuses: !matches!(settings.overflow, None | Some(Overflow::DropHead)),
            bytes: settings.bytes_max.map(|max| Bytes {
                max,
                ready: ready_bytes,
                measuring: None,
                held: HashMap::default(),
            }),
        }))
    }

    /// What it has counted.
    pub(super) fn into_counted(self) -> Option<Bytes> {
        self.bytes
    }

    /// Goes on counting where others left off.
    pub(super) fn go_on_with(&mut self, counted: Option<Bytes>) {
        if let (Some(bytes), Some(counted)) = (&mut self.bytes, counted) {
            *bytes = Bytes { max: bytes.max, ..counted };
        }
    }

    /// Whether there is a limit of bytes.
    pub(super) fn counts_bytes(&self) -> bool {
        self.bytes.is_some()
    }
}

impl Queue {
    /// Whether nothing may leave it, because what is there is being counted.
    #[inline]
    pub(super) fn is_measuring(&self) -> bool {
        let measuring =
            |limits: &Limits| limits.bytes.as_ref().is_some_and(|bytes| bytes.measuring.is_some());
        self.limits.as_deref().is_some_and(measuring)
    }

    /// Lets nothing leave until [`Queue::take_measured`]; the number of this measuring.
    pub(super) fn begin_to_measure(&mut self) -> u32 {
        self.measured += 1;
        let number = self.measured;
        // What became visible since an earlier measuring began is measured, too.
        self.for_each(&mut |level| {
            if let Some(counted) = level.counted() {
                counted.ready = 0;
                counted.held.clear();
            }
        });
        if let Some(counted) = self.counted() {
            counted.measuring = Some(Measuring { number, in_vain: false });
        }
        number
    }

    /// A measuring has ended: whether it tells anything; `None` if nobody waits for it any more.
    pub(super) fn ends_measuring(&mut self, number: u32) -> Option<bool> {
        let measuring = self.counted()?.measuring.take_if(|measuring| measuring.number == number)?;
        Some(!measuring.in_vain)
    }

    /// Counts what was available and what was held when the measuring began, of the level with this first place.
    pub(super) fn take_measured(&mut self, base: u64, ready: u64, held: HashMap<u64, u32>) {
        let mut back = 0;
        let mut still_held = Vec::new();
        let waiting: HashSet<u64> = self.waiting.iter().flat_map(|waiting| waiting.ids()).collect();
        for (offset, bytes) in held {
            if self.unacked.contains_key(&(base | offset)) {
                still_held.push((offset, bytes));
            } else if self.level(base).acks.is_returned(offset) || waiting.contains(&(base | offset)) {
                back += u64::from(bytes);
            }
        }
        let Some(counted) = self.level(base).counted() else { return };
        counted.ready += ready + back;
        counted.held.extend(still_held);
    }

    /// Whether a new message is refused.
    #[inline]
    pub(super) fn is_full_for(&self, message: &Message) -> bool {
        self.limits.as_ref().is_some_and(|limits| limits.refuses && self.would_pass(limits, message))
    }

    fn would_pass(&self, limits: &Limits, message: &Message) -> bool {
        let on_the_way = self.each().map(Queue::on_the_way);
        let (count, bytes) = on_the_way.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        let length = self.ready_count() + self.waiting() + count + 1;
        let too_many_bytes = |counted: &Bytes| {
            self.ready_bytes().saturating_add(bytes + message.body.len() as u64) > counted.max
        };
        length > limits.length_max || limits.bytes.as_ref().is_some_and(too_many_bytes)
    }

    /// Whether more is ready than may be and the oldest has to go.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        let over = |limits: &Limits| {
            let ready = self.ready_count();
            let bytes = limits.bytes.as_ref().is_some_and(|bytes| self.ready_bytes() > bytes.max);
            !limits.refuses && ready > 0 && (ready + self.waiting() > limits.length_max || bytes)
        };
        self.limits.as_deref().is_some_and(over)
    }

    /// Takes out the oldest that are too many, at most `left` of them.
    pub(super) fn drop_surplus(&mut self, left: &mut usize, gone: &mut Vec<Discarded>) {
        while *left > 0 && !self.unreadable && self.is_over() {
            let front = self.front();
            match self.take_out(front, Reason::MaxLength, gone) {
                Ok(true) => *left -= 1,
                // It held nothing but a gap.
                Ok(false) if self.front() != front => {}
                Ok(false) => return,
                Err(error) => self.cannot_read(&error),
            }
        }
    }

    /// Bytes of bodies that are available, on all levels.
    fn ready_bytes(&self) -> u64 {
        let counted = self.each().filter_map(|level| level.limits.as_ref()?.bytes.as_ref());
        counted.map(|bytes| bytes.ready).sum()
    }

    fn counted(&mut self) -> Option<&mut Bytes> {
        self.limits.as_mut()?.bytes.as_mut()
    }

    /// These bytes of bodies have become available.
    pub(super) fn count_visible(&mut self, bytes: u64) {
        if let Some(counted) = self.counted() {
            counted.ready += bytes;
        }
    }

    /// A message, by its id, is no longer available; `done`: it does not come back.
    #[inline]
    pub(super) fn count_taken(&mut self, id: u64, message: &Message, done: bool) {
        if self.limits.is_none() {
            return;
        }
        // What waits counts as if it were available.
        let waits = self.waiting() > 0;
        let level = self.level(id);
        let none_left = !waits && level.acks.ready() == 0;
        let Some(counted) = level.counted() else { return };
        let bytes = message.body.len();
        // What damage has taken away was not known: at the latest now it is.
        counted.ready = if none_left { 0 } else { counted.ready.saturating_sub(bytes as u64) };
        if !done {
            counted.held.insert(place(id), u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Nobody holds a message, by its id, any more; `back`: it is available again.
    #[inline]
    pub(super) fn count_settled(&mut self, offset: u64, back: bool) {
        if self.limits.is_none() {
            return;
        }
        let Some(counted) = self.level(offset).counted() else { return };
        let bytes = counted.held.remove(&place(offset)).unwrap_or(0);
        if back {
            counted.ready += u64::from(bytes);
        }
    }

    /// Nothing is available any more.
    pub(super) fn count_none(&mut self) {
        if let Some(counted) = self.counted() {
            counted.ready = 0;
            counted.measuring.iter_mut().for_each(|measuring| measuring.in_vain = true);
        }
    }
}
