//! What clients of a random life do: declare, publish, consume, get, settle, purge, delete.

use ferrymq_broker::queues::{
    AckedAt, Credit, DeleteIf, Event, NewConsumer, NoHeaders, Publish, QueueSpec, Settle, Value as Argument,
    deliveries,
};
use ferrymq_checker::queues::{
    Answer, Declaration, Delivery, Holder, How, Publishing, Removal, Removed, Settled,
};
use ferrymq_checker::{Outcome, Survives, Value};
use futures_util::FutureExt as _;

use super::{Client, Known, Life, Sent, Style, World};
use crate::rig::{VHOST, arguments, body, durable, message};

impl World {
    pub(super) async fn declare(&mut self, life: &Life, client: &Client, queue: usize) {
        let Known { name, style, there, .. } = self.queues[queue];
        if there {
            return;
        }
        let began = self.tick();
        let mut spec = QueueSpec { durable: style != Style::Transient, ..durable(name) };
        if style == Style::Quorum {
            spec.arguments = arguments(&[("x-queue-type", Argument::text("quorum"))]);
        }
        if style == Style::Exclusive {
            (spec.durable, spec.exclusive) = (false, true);
        }
        if matches!(style, Style::Transient | Style::Exclusive) {
            self.queues[queue].label = format!("{name}#{began}");
        }
        if life.queues.declare_queue(&client.session, VHOST, spec).await.is_err() {
            // Another session's exclusive one is not gone yet.
            assert!(style == Style::Exclusive, "{name}");
            return;
        }
        self.queues[queue].there = true;
        let ended = self.tick();
        if matches!(style, Style::Durable | Style::Quorum) {
            let queue = name.to_owned();
            self.history.declarations.push(Declaration { queue, began, ended, outcome: Outcome::Ok });
        }
    }

    pub(super) async fn publish(&mut self, life: &Life, queue: usize) {
        let Known { name, style, there, .. } = self.queues[queue];
        let Ok(to) = life.queues.route(VHOST, "", name.as_bytes(), &NoHeaders) else { return };
        if !there || to.queues().is_empty() {
            return;
        }
        let (mut batch, mut publishings) = (Vec::new(), Vec::new());
        let transient_head = self.rng.below(3) == 0;
        for place in 0..1 + self.rng.below(14) {
            self.number += 1;
            let persistent = if transient_head { place > 3 } else { self.rng.below(4) > 0 };
            let survives = match style {
                Style::Quorum => Survives::PowerCut,
                Style::Durable if persistent => Survives::PowerCut,
                _ => Survives::Nothing,
            };
            let size = if self.rng.below(12) == 0 { 3_000 } else { 5 };
            let text = format!("{} {}", self.number, "x".repeat(size));
            batch.push(Publish { message: message(name, &text, persistent), to: to.clone() });
            let began = self.tick();
            publishings.push(Publishing {
                queue: self.queues[queue].label.clone(),
                value: Value::new("w", self.number),
                survives,
                routable: true,
                life: life.number,
                began,
                ended: began,
                answers: Vec::new(),
                stayed: false,
                due: None,
                part_of: None,
            });
        }
        self.say(format!("publish {name} ..={} {}", self.number, publishings.len()));
        let pending = life.queues.publish(batch).await;
        self.sent.push(Sent { publishings, pending });
    }

    pub(super) async fn collect(&mut self, wait: bool) {
        for mut sent in std::mem::take(&mut self.sent) {
            let answer =
                if wait { Some((&mut sent.pending).await) } else { (&mut sent.pending).now_or_never() };
            let Some(published) = answer else {
                self.sent.push(sent);
                continue;
            };
            let now = self.tick();
            for (place, mut publishing) in sent.publishings.into_iter().enumerate() {
                let failed = published.failed.iter().any(|(at, _)| *at == place);
                publishing.answers.push(if failed { Answer::Refused } else { Answer::Confirmed });
                publishing.ended = now;
                self.history.publishings.push(publishing);
            }
        }
    }

    fn delivered(
        &mut self,
        life: &Life,
        client: &mut Client,
        label: &str,
        delivery: &ferrymq_broker::queues::Delivery,
        no_ack: bool,
    ) {
        let text = body(delivery);
        let number: u64 = text.split_once(' ').unwrap().0.parse().unwrap();
        let at = self.tick();
        client.deliveries.push(Delivery {
            queue: label.to_owned(),
            value: Value::new("w", number),
            redelivered: delivery.redelivered,
            life: life.number,
            channel: client.channel,
            at,
            stretch: None,
            no_ack,
            settled: None,
            let_go: None,
            unsure: false,
            last: false,
        });
    }

    pub(super) fn take(&mut self, life: &Life, client: &mut Client) {
        let mut consumers = std::mem::take(&mut client.consumers);
        for (label, handle, from, _) in &mut consumers {
            while let Some(event) = from.try_recv() {
                let Event::Deliver(more) = event else { continue };
                for delivery in more {
                    self.delivered(life, client, label, &delivery, false);
                    client.held.push((client.deliveries.len() - 1, handle.clone(), delivery.offset));
                }
            }
        }
        client.consumers = consumers;
    }

    pub(super) async fn consume(&mut self, life: &Life, client: &mut Client, queue: usize) {
        let Known { name, there, ref label, .. } = self.queues[queue];
        if !there || client.consumers.iter().any(|it| it.0 == *label) {
            return;
        }
        let (sink, from) = deliveries(16 * 1024);
        let credit = Credit::Window(u32::try_from(1 + self.rng.below(20)).unwrap());
        let new = NewConsumer::new(1, credit);
        let label = label.clone();
        let began = self.tick();
        client.holders.push(Holder { queue: label.clone(), life: life.number, began, ended: None, loses: 0 });
        if let Ok(consumer) = life.queues.consume(&client.session, VHOST, name, new, &sink).await {
            client.consumers.push((label, consumer.queue, from, sink));
        }
    }

    pub(super) async fn settle(&mut self, life: &Life, client: &mut Client) {
        let mut settled = Vec::new();
        let all = self.rng.below(5) == 0;
        for (place, handle, offset) in std::mem::take(&mut client.held) {
            let how = match self.rng.below(12) {
                _ if all => How::Done,
                0..7 => How::Done,
                7 => How::Returned,
                _ => {
                    client.held.push((place, handle, offset));
                    continue;
                }
            };
            let settle = match how {
                How::Done if self.rng.below(4) == 0 => Settle::Reject,
                How::Done => Settle::Ack,
                How::Returned => Settle::Requeue,
                How::Rejected => Settle::Reject,
            };
            let sent = self.tick();
            client.deliveries[place].settled = Some(Settled { how, sent, vouched: None, part_of: None });
            life.queues.settle(&client.session, &handle, vec![(offset, settle)]).await;
            settled.push((place, handle));
        }
        if self.rng.below(3) > 0 {
            for (place, handle) in settled {
                let mut at = AckedAt::default();
                at.note(&handle);
                let known = life.queues.stat(&handle).await.is_ok() && life.queues.acked(at).await.is_ok();
                let now = self.tick();
                if let Some(settled) = client.deliveries[place].settled.as_mut().filter(|_| known) {
                    settled.vouched = Some(now);
                }
            }
        }
    }

    pub(super) async fn get(&mut self, life: &Life, client: &mut Client, queue: usize) -> bool {
        let Known { name, there, .. } = self.queues[queue];
        let no_ack = self.rng.below(3) == 0;
        if !there {
            return false;
        }
        let Ok(Some(got)) = life.queues.get(&client.session, VHOST, name, no_ack).await else { return false };
        let label = self.queues[queue].label.clone();
        self.delivered(life, client, &label, &got.delivery, no_ack);
        if let Some(delivery) = client.deliveries.last_mut() {
            // What lies in a consumer's sink meanwhile is taken later: there is no order between the two.
            delivery.channel += 1_000_000;
        }
        if !no_ack {
            client.held.push((client.deliveries.len() - 1, got.queue, got.delivery.offset));
        }
        true
    }

    /// Purges or deletes, perhaps without waiting for the answer.
    pub(super) async fn remove(&mut self, life: &Life, client: &Client, queue: usize, what: Removed) {
        let Known { name, there, style, .. } = self.queues[queue];
        if !there || (style == Style::Exclusive && what == Removed::Queue) {
            return;
        }
        let began = self.tick();
        // Whether a queue is another one has to be known where its label says so. A second purge is answered at once
        // while the first is on its way, so none is left alone here.
        let wait = self.rng.below(4) > 0 || style == Style::Transient || what == Removed::Ready;
        self.say(format!("{what:?} of {name}, wait {wait}"));
        let queues = life.queues.clone();
        let ok = if what == Removed::Ready {
            let asked = queues.purge(&client.session, VHOST, name);
            if wait { Some(asked.await.is_ok()) } else { asked.now_or_never().map(|done| done.is_ok()) }
        } else {
            let asked = queues.delete_queue(&client.session, VHOST, name, DeleteIf::default());
            // The next declaration waits for it in any case.
            self.queues[queue].there = false;
            if wait { Some(asked.await.is_ok()) } else { asked.now_or_never().map(|done| done.is_ok()) }
        };
        let outcome = if ok == Some(true) { Outcome::Ok } else { Outcome::Info };
        let (queue, ended) = (self.queues[queue].label.clone(), self.tick());
        self.history.removals.push(Removal { queue, what, began, ended, outcome });
    }
}
