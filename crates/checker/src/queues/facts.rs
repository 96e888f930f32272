//! What a history says of each message, gathered once for all rules.
//!
//! **Invariant.** What may have happened at any time, because nobody knows, is never evidence against the broker.
//!
//! Deliberately absent: judgement, except of notes that contradict themselves.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{
    Answer, Change, DeadLetters, Delivery, Holder, How, Limit, Publishing, QueueHistory, QueueReport,
    QueueRule, Removal, Stop,
};
use crate::history::{Outcome, Value};
use crate::rules::facts::Map;

/// One message: how it came in, and each time that it went out, in order, also out of where its dead letter went.
#[derive(Default)]
pub(super) struct Story<'a> {
    pub(super) publishing: Option<&'a Publishing>,
    pub(super) deliveries: Vec<&'a Delivery>,
}

/// A message: copies in several queues are several.
pub(super) type Key<'a> = (&'a str, &'a Value);

/// Everything, sorted.
pub(super) struct Facts<'a> {
    /// By the queue that a message was published to. What nobody published is where it was seen.
    pub(super) stories: Map<Key<'a>, Story<'a>>,
    /// All deliveries, in the order in which they were taken.
    pub(super) deliveries: Vec<&'a Delivery>,
    pub(super) removals: &'a [Removal],
    pub(super) holders: &'a [Holder],
    pub(super) limits: &'a [Change<Limit>],
    letters: &'a [DeadLetters],
    streams: &'a [String],
    /// When the store failed, or was full.
    failures: Vec<Range<u64>>,
    /// Of queues with limits: when what was confirmed had been, and how many have no answer.
    arrivals: BTreeMap<&'a str, (Vec<u64>, u64)>,
    stops: BTreeMap<u32, Stop>,
}

impl Publishing {
    pub(super) fn is_confirmed(&self) -> bool {
        self.answers.contains(&Answer::Confirmed)
    }
}

impl Delivery {
    /// When it was certainly settled for good, if it was.
    pub(super) fn done(&self) -> Option<u64> {
        if self.no_ack {
            return Some(self.at);
        }
        self.settled.filter(|settled| settled.how == How::Done).and_then(|settled| settled.vouched)
    }

    /// Whether somebody asked for it to be settled for good.
    pub(super) fn may_be_done(&self) -> bool {
        self.no_ack || self.settled.is_some_and(|settled| settled.how == How::Done)
    }

    /// When it was certainly rejected, with dead letters, if it was.
    pub(super) fn rejected(&self) -> Option<u64> {
        self.settled.filter(|settled| settled.how == How::Rejected).and_then(|settled| settled.vouched)
    }

    /// Whether its settlement is durable as soon as it is vouched for.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.settled.is_some_and(|settled| settled.part_of.is_some())
    }

    /// Until when it was certainly held by its channel, if the process lived.
    pub(super) fn held_until(&self) -> u64 {
        if self.no_ack {
            return 0;
        }
        let settled = self.settled.map_or(u64::MAX, |settled| settled.sent);
        settled.min(self.let_go.unwrap_or(u64::MAX))
    }
}

impl Story<'_> {
    /// Whether a delivery is of a dead letter, in the queue where these go.
    pub(super) fn is_letter(&self, delivery: &Delivery) -> bool {
        self.publishing.is_some_and(|publishing| publishing.queue != delivery.queue)
    }
}

impl Removal {
    /// Whether it may have taken something that was published then.
    pub(super) fn may_take(&self, published: u64) -> bool {
        match self.outcome {
            Outcome::Ok => self.ended >= published,
            Outcome::Fail => false,
            Outcome::Info => true,
        }
    }
}

impl Facts<'_> {
    /// When a life began to end.
    pub(super) fn end_of(&self, life: u32) -> u64 {
        self.stops.get(&life).map_or(u64::MAX, |stop| stop.began)
    }

    /// Whether a life, or one after it, ended.
    pub(super) fn ended_since(&self, life: u32) -> bool {
        self.stops.range(life..).next().is_some()
    }

    /// Whether a delivery was taken while its life went on as usual. When it ends, channels are ended by the
    /// broker, unseen by us, and what they held may already have gone to others.
    pub(super) fn is_in_time(&self, delivery: &Delivery) -> bool {
        !delivery.unsure && delivery.at < self.end_of(delivery.life)
    }

    /// Whether a message comes in the order in which it was published: no dead letter does, and nothing that was kept
    /// back.
    pub(super) fn is_in_order(&self, delivery: &Delivery) -> bool {
        let story = self.stories.get(&(&*delivery.queue, &delivery.value));
        story.is_some_and(|story| story.publishing.is_some_and(|publishing| publishing.due.is_none()))
    }

    /// Whether nothing but a settlement that was noted takes a message.
    pub(super) fn keeps(&self, publishing: &Publishing) -> bool {
        let queue = &publishing.queue;
        let lost = self.holders.iter().any(|holder| holder.queue == *queue && holder.loses > 0);
        let removed = self.removals.iter().any(|removal| removal.queue == *queue);
        publishing.routable && !lost && !removed
    }

    /// How many messages may have come into a queue with a limit after one.
    pub(super) fn later(&self, publishing: &Publishing) -> u64 {
        let Some((ended, unknown)) = self.arrivals.get(&*publishing.queue) else { return 0 };
        let surely_before = ended.partition_point(|ended| *ended < publishing.began);
        // Itself it is none of them.
        ((ended.len() - surely_before) as u64 + unknown).saturating_sub(1)
    }

    /// Whether a refusal may be the store's: it failed or was full at the time, or the life ended for that.
    pub(super) fn is_doubtful(&self, publishing: &Publishing) -> bool {
        let end = self.end_of(publishing.life);
        let overlaps =
            |failure: &Range<u64>| failure.start <= publishing.ended && publishing.began <= failure.end;
        self.failures.iter().any(|failure| failure.contains(&end) || overlaps(failure))
    }

    /// Whether a limit was ever set for it.
    pub(super) fn has_limit(&self, queue: &str) -> bool {
        self.limits.iter().any(|limit| limit.of == queue)
    }

    /// Whether it is a stream.
    pub(super) fn is_stream(&self, queue: &str) -> bool {
        self.streams.iter().any(|stream| stream == queue)
    }

    /// Whether what leaves a queue unsettled goes to another.
    pub(super) fn has_letters(&self, queue: &str) -> bool {
        self.letters.iter().any(|letters| letters.source == queue)
    }

    /// Whether what leaves a queue may be in another.
    pub(super) fn may_go(&self, from: &str, to: &str) -> bool {
        self.letters.iter().any(|letters| letters.source == from && letters.target == to)
    }

    /// Whether a settlement that was certain then is durable by what is promised: an answer vouched for it while its life
    /// went on as usual, or the life ended cleanly.
    pub(super) fn is_durable(&self, delivery: &Delivery, done: u64) -> bool {
        let in_time = done < self.end_of(delivery.life);
        in_time && (!delivery.no_ack || self.stops.get(&delivery.life).is_some_and(|stop| stop.clean))
    }
}

/// Sorts notes by messages.
pub(super) fn collect<'a>(history: &'a QueueHistory, report: &mut QueueReport) -> Facts<'a> {
    let mut stops: BTreeMap<u32, Stop> = BTreeMap::new();
    for stop in &history.stops {
        let first = stops.entry(stop.life).or_insert(*stop);
        first.began = first.began.min(stop.began);
        first.clean &= stop.clean;
    }
    let mut stories: Map<Key<'a>, Story<'a>> = Map::default();
    for publishing in &history.publishings {
        let story = stories.entry((&publishing.queue, &publishing.value)).or_default();
        if story.publishing.replace(publishing).is_some() {
            report.add(QueueRule::BadHistory, format!("{} was published twice", publishing.value));
        }
    }
    let mut deliveries: Vec<&Delivery> = history.deliveries.iter().collect();
    // Stable: those of one channel are noted in their order.
    deliveries.sort_by_key(|delivery| delivery.at);
    for delivery in &deliveries {
        if delivery.let_go.is_some_and(|gone| gone < delivery.at) {
            report.add(
                QueueRule::BadHistory,
                format!("{} was taken off a channel that had ended", delivery.value),
            );
        }
        let key = origin(&stories, &history.letters, delivery);
        stories.entry(key).or_default().deliveries.push(delivery);
    }
    Facts {
        stories,
        deliveries,
        removals: &history.removals,
        holders: &history.holders,
        limits: &history.limits,
        letters: &history.letters,
        streams: &history.streams,
        failures: history.broken.iter().chain(&history.full).cloned().collect(),
        arrivals: arrivals(history),
        stops,
    }
}

fn arrivals(history: &QueueHistory) -> BTreeMap<&str, (Vec<u64>, u64)> {
    let mut arrivals: BTreeMap<&str, (Vec<u64>, u64)> = BTreeMap::new();
    let limited = |queue: &str| history.limits.iter().any(|limit| limit.of == queue);
    let routable = history.publishings.iter().filter(|publishing| publishing.routable);
    for publishing in routable.filter(|publishing| limited(&publishing.queue)) {
        let (ended, unknown) = arrivals.entry(&publishing.queue).or_default();
        if publishing.is_confirmed() { ended.push(publishing.ended) } else { *unknown += 1 }
    }
    arrivals.values_mut().for_each(|(ended, _)| ended.sort_unstable());
    arrivals
}

/// Which message a delivery is of: one of its queue or, if nobody published it there, a dead letter of another.
fn origin<'a>(
    stories: &Map<Key<'a>, Story<'a>>,
    letters: &'a [DeadLetters],
    delivery: &'a Delivery,
) -> Key<'a> {
    let published = |key: &Key<'_>| stories.get(key).is_some_and(|story| story.publishing.is_some());
    let here = (&*delivery.queue, &delivery.value);
    let mut sources = letters.iter().filter(|letters| letters.target == delivery.queue);
    let mut sources = sources.by_ref().map(|letters| (&*letters.source, &delivery.value));
    if published(&here) { here } else { sources.find(published).unwrap_or(here) }
}
