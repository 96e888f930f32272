//! The task that sends a producer's batches and learns their fate.
//!
//! **Invariants.** At most `in_flight` requests per broker. A batch's sequence is given once, when it is sealed.
//! Once an idempotent producer has given up a batch that may have been sent, its sequence has a hole: all that
//! follows fails.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_compress::compress;
use ferrymq_kafka_codec::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, TopicProduceData,
};
use ferrymq_kafka_codec::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};
use ferrymq_types::Compression;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::accumulator::{Batch, Body};
use super::{Acks, Delivery, DeliveryCallback, ProducerConfig, Shared};
use crate::{BrokerError, Client, ClientError, TopicInfo};

const INIT_RETRIES: u32 = 50;

/// A request whose answer, or the want of one, is there.
struct Returned {
    node: i32,
    batches: Vec<Batch>,
    result: Result<ProduceResponse, ClientError>,
}

type Awaited = Pin<Box<dyn Future<Output = Returned> + Send>>;

pub(super) struct Sender {
    client: Client,
    topic: String,
    /// The leader of each partition.
    leaders: Vec<i32>,
    /// The leaders, each once.
    nodes: Vec<i32>,
    /// How often they were learnt anew.
    learnt: u64,
    config: ProducerConfig,
    shared: Arc<Shared>,
    on_delivery: Option<DeliveryCallback>,
    producer: Option<(i64, i16)>,
    /// The next sequence of each partition.
    sequences: Vec<i32>,
    in_flight: HashMap<i32, usize>,
    answers: FuturesUnordered<Awaited>,
    broken: Option<ClientError>,
}

impl Sender {
    pub(super) async fn new(
        client: Client,
        topic: &TopicInfo,
        config: ProducerConfig,
        shared: Arc<Shared>,
        on_delivery: Option<DeliveryCallback>,
    ) -> Result<Sender, ClientError> {
        let producer = if config.idempotent { Some(producer_id(&client).await?) } else { None };
        let leaders: Vec<i32> = topic.partitions.iter().map(|one| one.leader).collect();
        Ok(Sender {
            client,
            topic: topic.name.clone(),
            sequences: vec![0; leaders.len()],
            nodes: distinct(&leaders),
            learnt: 0,
            leaders,
            config,
            shared,
            on_delivery,
            producer,
            in_flight: HashMap::new(),
            answers: FuturesUnordered::new(),
            broken: None,
        })
    }

    /// Runs until the producer is dropped.
    pub(super) async fn run(&mut self) {
        let (shared, clock) = (self.shared.clone(), self.client.clock().clone());
        loop {
            let free = self.send_ready().await;
            let deadline = {
                let mut accumulator = shared.accumulator.lock();
                if accumulator.is_closed() {
                    return;
                }
                accumulator.next_deadline().filter(|_| free)
            };
            let lingered = async {
                match deadline {
                    Some(deadline) => clock.sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(returned) = self.answers.next(), if !self.answers.is_empty() => self.settle(returned).await,
                () = shared.wake.notified() => {}
                () = lingered => {}
            }
        }
    }

    /// Sends what can go. Whether some broker has room for more requests.
    async fn send_ready(&mut self) -> bool {
        loop {
            let learnt = self.learnt;
            let free = self.send_to_leaders().await;
            // What was sent may have failed at once and who leads what been learnt anew: it goes to those whose turn was over,
            // or had not come; nothing else would wake us for it.
            if self.learnt == learnt {
                return free;
            }
        }
    }

    async fn send_to_leaders(&mut self) -> bool {
        let mut free = false;
        for node in self.nodes.clone() {
            while self.in_flight.get(&node).is_none_or(|count| *count < self.config.in_flight) {
                let now = self.client.clock().now();
                let leaders = &self.leaders;
                let batches = {
                    let mut accumulator = self.shared.accumulator.lock();
                    accumulator.expire(now);
                    accumulator
                        .take(self.config.request_bytes, |partition| leaders[partition as usize] == node)
                };
                if batches.is_empty() {
                    free = true;
                    break;
                }
                self.send(node, batches).await;
            }
        }
        free
    }

    async fn send(&mut self, node: i32, batches: Vec<Batch>) {
        let mut going = Vec::with_capacity(batches.len());
        let mut data = Vec::with_capacity(batches.len());
        for mut batch in batches {
            match self.seal(&mut batch) {
                Ok(records) => {
                    let index = i32::try_from(batch.partition).unwrap_or(i32::MAX);
                    data.push(PartitionProduceData { index, records: Some(records.into()) });
                    going.push(batch);
                }
                Err(error) => self.give_up(&batch, &error),
            }
        }
        if going.is_empty() {
            return;
        }
        let name = StrBytes::from(self.topic.clone());
        let request = ProduceRequest {
            transactional_id: None,
            acks: self.config.acks.number(),
            timeout_ms: i32::try_from(self.client.patience().as_millis()).unwrap_or(i32::MAX),
            topic_data: vec![TopicProduceData { name, partition_data: data, ..TopicProduceData::default() }],
        };
        self.shared.accumulator.lock().count_request();
        if let Err(error) = self.transmit(node, &request, &mut going).await {
            let result = Err(error);
            *self.in_flight.entry(node).or_default() += 1;
            Box::pin(self.settle(Returned { node, batches: going, result })).await;
        }
    }

    /// Puts a request on the wire. On success `batches` are taken: settled, or awaited.
    async fn transmit(
        &mut self,
        node: i32,
        request: &ProduceRequest,
        batches: &mut Vec<Batch>,
    ) -> Result<(), ClientError> {
        let connection = self.client.node(node).await?;
        if self.config.acks == Acks::None {
            connection.tell(request).await?;
            for batch in batches.drain(..) {
                self.finish(&batch, None, None);
            }
            return Ok(());
        }
        let answer = connection.start(request).await?;
        let batches = std::mem::take(batches);
        *self.in_flight.entry(node).or_default() += 1;
        self.answers.push(Box::pin(async move { Returned { node, batches, result: answer.wait().await } }));
        Ok(())
    }

    /// The batch's bytes as they travel.
    fn seal(&mut self, batch: &mut Batch) -> Result<Bytes, ClientError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.client.clock().now().duration_since(batch.opened) > self.config.delivery_timeout {
            return Err(self.too_late(batch));
        }
        let sealed = match std::mem::replace(&mut batch.body, Body::Sealed(Bytes::new())) {
            Body::Sealed(bytes) => bytes,
            Body::Building(mut builder) => {
                if let Some((id, epoch)) = self.producer {
                    let next = &mut self.sequences[batch.partition as usize];
                    builder.producer(id, epoch, *next);
                    *next = next_sequence(*next, batch.records);
                }
                match self.config.compression {
                    Compression::None => builder.build(),
                    codec => builder.build_compressed(codec, |payload| compress(codec, payload))?,
                }
            }
        };
        batch.body = Body::Sealed(sealed.clone());
        Ok(sealed)
    }

    fn too_late(&self, batch: &Batch) -> ClientError {
        ClientError::Broker(BrokerError {
            what: self.name(batch.partition),
            code: ErrorCode::RequestTimedOut.code(),
            message: Some(format!("not acknowledged within {:?}", self.config.delivery_timeout)),
        })
    }

    fn name(&self, partition: u32) -> String {
        format!("produce to {}/{partition}", self.topic)
    }

    async fn settle(&mut self, returned: Returned) {
        let Returned { node, batches, result } = returned;
        if let Some(count) = self.in_flight.get_mut(&node) {
            *count = count.saturating_sub(1);
        }
        let mut again = false;
        for (index, batch) in batches.into_iter().enumerate() {
            let outcome = match &result {
                Ok(response) => self.outcome(response, index, &batch),
                Err(error) => Err(error.clone()),
            };
            match outcome {
                Ok(base_offset) => self.finish(&batch, base_offset, None),
                Err(error) if self.may_retry(&batch, &error) => {
                    tracing::debug!(error = %error, partition = batch.partition, "sending a batch again");
                    self.shared.accumulator.lock().put_back(batch);
                    again = true;
                }
                Err(error) => self.give_up(&batch, &error),
            }
        }
        if again {
            self.client.pause().await;
            self.refresh().await;
        }
    }

    /// The base offset that the broker gave a batch.
    fn outcome(
        &self,
        response: &ProduceResponse,
        index: usize,
        batch: &Batch,
    ) -> Result<Option<i64>, ClientError> {
        let is_it = |one: &&PartitionProduceResponse| u32::try_from(one.index) == Ok(batch.partition);
        let all = response.responses.first().map_or(&[][..], |topic| &topic.partition_responses);
        // Brokers answer in the order of the request; nothing says they must.
        let found = all.get(index).filter(is_it).or_else(|| all.iter().find(is_it));
        let found = found.ok_or_else(|| {
            ClientError::Invalid(format!("{}: the broker's answer leaves it out", self.name(batch.partition)))
        })?;
        if found.error_code == ErrorCode::DuplicateSequenceNumber.code() {
            return Ok(None);
        }
        let what = || self.name(batch.partition);
        ClientError::check(what, found.error_code, found.error_message.as_ref())?;
        Ok((found.base_offset >= 0).then_some(found.base_offset))
    }

    fn may_retry(&self, batch: &Batch, error: &ClientError) -> bool {
        let age = self.client.clock().now().duration_since(batch.opened);
        if self.broken.is_some() || age + Duration::from_millis(1) > self.config.delivery_timeout {
            return false;
        }
        // The one in front of it failed and is sent again; then this one's turn comes.
        let overtook = error.code() == Some(ErrorCode::OutOfOrderSequenceNumber)
            && self.shared.accumulator.lock().older_waits(batch.partition, batch.ordinal);
        overtook || error.is_retriable()
    }

    fn give_up(&mut self, batch: &Batch, error: &ClientError) {
        if self.producer.is_some() && self.broken.is_none() {
            self.broken = Some(error.clone());
        }
        self.finish(batch, None, Some(error));
    }

    fn finish(&self, batch: &Batch, base_offset: Option<i64>, error: Option<&ClientError>) {
        if let Some(on_delivery) = &self.on_delivery {
            on_delivery(&Delivery { partition: batch.partition, base_offset, tags: &batch.tags, error });
        }
        if self.shared.accumulator.lock().settle(batch, error) {
            self.shared.room.notify_one();
        }
    }

    /// Learns anew who leads what; keeps what it knew if nobody answers.
    async fn refresh(&mut self) {
        if let Ok(topic) = self.client.topic(&self.topic, false).await {
            for one in topic.partitions {
                if let Some(leader) = self.leaders.get_mut(one.partition as usize) {
                    *leader = one.leader;
                }
            }
            self.nodes = distinct(&self.leaders);
            self.learnt += 1;
        }
    }
}

fn distinct(leaders: &[i32]) -> Vec<i32> {
    let mut nodes = leaders.to_vec();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Sequences wrap from `i32::MAX` to 0 (KIP-98).
fn next_sequence(sequence: i32, records: u32) -> i32 {
    (sequence.cast_unsigned().wrapping_add(records) & 0x7fff_ffff).cast_signed()
}

async fn producer_id(client: &Client) -> Result<(i64, i16), ClientError> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        producer_id: -1,
        producer_epoch: -1,
    };
    let mut left = INIT_RETRIES;
    loop {
        let response = client.ask(&request).await?;
        match ClientError::check(|| "get a producer id".to_owned(), response.error_code, None) {
            Ok(()) => return Ok((response.producer_id, response.producer_epoch)),
            Err(error) if error.is_retriable() && left > 0 => left -= 1,
            Err(error) => return Err(error),
        }
        client.pause().await;
    }
}

#[cfg(test)]
mod tests {
    use super::next_sequence;

    #[test]
    fn sequences_wrap_as_kafka_does() {
        assert_eq!(next_sequence(0, 10), 10);
        assert_eq!(next_sequence(i32::MAX - 1, 1), i32::MAX);
        assert_eq!(next_sequence(i32::MAX, 1), 0);
        assert_eq!(next_sequence(i32::MAX - 4, 10), 5);
    }
}
