//! Room for answers that carry records.
//!
//! What a fetch reads stays in memory until its client has taken it, and some clients never do. So a fetch takes
//! room for the records before it reads them, in one budget of the whole server, and gives it back when the
//! answer is written.
//!
//! - The first [`FIRST_BYTES`] are waited for, in the order of asking: every fetch gets on. What is more is
//!   taken if it is free, and at most a quarter of what is: the less room there is, the smaller the answers.
//! - A fetch that waits for records holds none, and no room.
//! - An answer that is not taken ends its connection after the patience it has; when room is short, after a
//!   tenth of that ([`crate::connection`]). So nobody waits longer for room than for a few of those.
//!
//! **Invariant.** Records in answers take at most the budget, and beyond it one batch for each answer whose first
//! batch is larger than what it took; such a batch is larger than what producers send by default.
//!
//! Deliberately absent: answers without records. One per connection is in the making at a time, and none is much
//! larger than what there is to tell.

use ferrymq_runtime::BytePermit;

use crate::context::Context;

/// What every fetch gets: a batch of the default largest size and what it comes with.
const FIRST_BYTES: usize = 1024 * 1024;
/// Part of what is free that one fetch may take beyond that.
const SHARE: usize = 4;
/// Part of the connection's patience for which a fetch waits for room: some tenths of it, so that those who hold
/// room and take nothing are gone before that.
const WAIT: u32 = 4;
/// Part of the budget below which room is short.
const SHORT: usize = 8;

/// Whether there is little room for answers.
pub(crate) fn is_short(context: &Context) -> bool {
    context.answers.free() < context.answers.capacity() / SHORT
}

/// The room that one answer holds.
#[derive(Debug, Default)]
pub(crate) struct AnswerRoom(Option<BytePermit>);

impl AnswerRoom {
    /// Of an answer that has `used` bytes: makes room for `wanted` more, or for less. The answer is how many may
    /// be read; 0: none, for now.
    ///
    /// Cancel safety: what was taken stays with this room.
    pub(crate) async fn grow(&mut self, context: &Context, used: usize, wanted: usize) -> usize {
        let wanted = wanted.max(1);
        if self.0.is_none() {
            tokio::select! {
                biased;
                first = context.answers.take(wanted.min(FIRST_BYTES)) => self.0 = Some(first),
                // Better an empty answer than one that its client no longer waits for.
                () = context.broker.clock().sleep(context.config.patience / WAIT) => {}
            }
        }
        let Some(held) = &mut self.0 else { return 0 };
        let more = (used + wanted).saturating_sub(held.bytes()).min(context.answers.free() / SHARE);
        if more > 0
            && let Some(taken) = context.answers.try_take(more)
        {
            held.merge(taken);
        }
        wanted.min(held.bytes().saturating_sub(used))
    }

    /// The answer has `used` bytes now: gives back what is left, and takes what is missing if it is there.
    pub(crate) fn settle(&mut self, context: &Context, used: usize) {
        let held = self.0.as_ref().map_or(0, BytePermit::bytes);
        if used == 0 {
            self.0 = None;
        } else if let Some(permit) = &mut self.0 {
            permit.shrink_to(used);
            if used > held
                && let Some(rest) = context.answers.try_take(used - held)
            {
                permit.merge(rest);
            }
        }
    }
}
