//! Three brokers on one PostgreSQL as their users run them: leaders spread, one killed, one stopped and one paused under load,
//! topics seen everywhere, and what is refused.
//!
//! Deliberately absent: cut links, many faults in a row.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper that fails fails the test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ferrymq_kafka_client::{
    Client, ClientConfig, Consumer, NewTopic, Producer, ProducerConfig, ProducerRecord, Start,
};
use ferrymq_kafka_codec::messages::fetch::{FetchPartition, FetchTopic};
use ferrymq_kafka_codec::messages::produce::{PartitionProduceData, TopicProduceData};
use ferrymq_kafka_codec::messages::{FetchRequest, MetadataRequest, ProduceRequest};
use ferrymq_kafka_codec::{Decoder, ErrorCode, Frame, Message as _, Request, ResponseHeader, StrBytes};
use ferrymq_runtime::{Clock, Rng, Tasks};
use parking_lot::Mutex;
use support::{Ending, database, ferrymq};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PARTITIONS: u32 = 12;

/// A broker and where Kafka clients reach it.
struct Broker {
    process: Ending,
    kafka: String,
}

fn arguments<'a>(url: &'a str, id: &'a str) -> [&'a str; 10] {
    let listen = "127.0.0.1:0";
    [
        "serve",
        "--several-brokers",
        "--node-id",
        id,
        "--kafka-listen",
        listen,
        "--http-listen",
        "off",
        "--store",
        url,
    ]
}

impl Broker {
    fn start(url: &str, id: &str) -> Broker {
        let mut process = ferrymq(&arguments(url, id)).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        let kafka = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {said}");
            said.push_str(&line);
            if line.contains("clients connect here") {
                let at = line.find("127.0.0.1:").unwrap();
                break line[at..].split([' ', ',', '\n']).next().unwrap().to_owned();
            }
        };
        let id = id.to_owned();
        ferrymq_runtime::spawn_thread("stderr", move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("broker {id}: {line}");
            }
        })
        .unwrap();
        Broker { process: Ending(process), kafka }
    }

    fn stop(mut self) {
        let stopped = Command::new("kill").arg(self.process.0.id().to_string()).status().unwrap();
        assert!(stopped.success() && self.process.0.wait().unwrap().success(), "it stops cleanly");
    }
}

async fn connect(brokers: &[&str]) -> Client {
    let config = ClientConfig { patience: Duration::from_secs(5), ..ClientConfig::new(&brokers.join(",")) };
    Client::connect(config, Clock::system(), Rng::from_os(), Tasks::new()).await.unwrap()
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, within: Duration, check: impl Fn() -> F) -> Duration {
    let clock = Clock::system();
    let since = clock.now();
    while !check().await {
        assert!(since.elapsed() < within, "{what}: not within {within:?}");
        clock.sleep(Duration::from_millis(50)).await;
    }
    since.elapsed()
}

/// The leaders of a topic's partitions as a broker tells them.
async fn leaders(client: &Client) -> Vec<i32> {
    match client.topic("orders", false).await {
        Ok(topic) => topic.partitions.iter().map(|partition| partition.leader).collect(),
        Err(_) => Vec::new(),
    }
}

/// What was acknowledged: where, and which number.
type Acknowledged = Arc<Mutex<BTreeMap<(u32, u64), i64>>>;

/// Sends numbers to all partitions in turn until told to end; notes what was acknowledged.
async fn produce(client: Client, acknowledged: Acknowledged, ending: tokio::sync::watch::Receiver<bool>) {
    let config = ProducerConfig { idempotent: true, ..ProducerConfig::default() };
    let noted = acknowledged.clone();
    let callback = move |delivery: &ferrymq_kafka_client::Delivery<'_>| {
        assert!(delivery.error.is_none(), "{:?}", delivery.error);
        let mut noted = noted.lock();
        for (index, tag) in delivery.tags.iter().enumerate() {
            let offset = delivery.base_offset.unwrap() + i64::try_from(index).unwrap();
            noted.insert((delivery.partition, *tag), offset);
        }
    };
    let mut producer = Producer::new(&client, "orders", config, Some(Box::new(callback))).await.unwrap();
    let clock = Clock::system();
    let mut number = 0;
    while !*ending.borrow() {
        for partition in 0..PARTITIONS {
            let value = number.to_string();
            let record = ProducerRecord {
                partition: Some(partition),
                value: Some(value.as_bytes()),
                tag: number,
                ..ProducerRecord::default()
            };
            producer.send(&record).await.unwrap();
            number += 1;
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
    let report = producer.flush().await;
    assert_eq!(report.failed_records, 0, "{:?}", report.first_error);
}

/// Waits until each partition has acknowledged something new.
async fn all_go_on(acknowledged: &Acknowledged) -> Duration {
    let newest = || {
        let mut newest = BTreeMap::new();
        for (partition, number) in acknowledged.lock().keys() {
            newest.insert(*partition, *number);
        }
        newest
    };
    let before = newest();
    let gone_on = async || {
        let now = newest();
        (0..PARTITIONS).all(|partition| now.get(&partition) > before.get(&partition))
    };
    until("every partition takes records", Duration::from_secs(20), gone_on).await
}

/// Reads all, and compares with what was acknowledged: each is there, where it was said to be, in order and once.
async fn judge(client: &Client, acknowledged: &Acknowledged) {
    let mut consumer =
        Consumer::new(client, "orders", &[], Start::Earliest, Default::default()).await.unwrap();
    let mut found: BTreeMap<(u32, u64), i64> = BTreeMap::new();
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    let expected = acknowledged.lock().clone();
    while found.len() < expected.len() {
        for fetched in consumer.next().await.unwrap() {
            for record in fetched.records() {
                let record = record.unwrap();
                let number = std::str::from_utf8(&record.value.unwrap()).unwrap().parse().unwrap();
                let before = last.insert(fetched.partition, number);
                assert!(before < Some(number), "{number} after {before:?} in {}", fetched.partition);
                found.insert((fetched.partition, number), record.offset);
            }
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn one_is_killed_one_stops_one_is_paused_and_nothing_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = database(directory.path(), &[]) else { return };
    let first = Broker::start(&url, "1");
    let (second, third) = (Broker::start(&url, "2"), Broker::start(&url, "3"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let addresses = [&*first.kafka, &*second.kafka, &*third.kafka].map(str::to_owned);
        let all = addresses.each_ref().map(|address| &**address);
        let (one, other) = (connect(&all[..1]).await, connect(&all[2..]).await);
        let new = NewTopic { name: "orders".to_owned(), partitions: Some(PARTITIONS), ..NewTopic::default() };
        one.create_topic(&new, false).await.unwrap();
        until("each leads something, and all say the same", Duration::from_secs(40), async || {
            let (told, also) = (leaders(&one).await, leaders(&other).await);
            let ids: BTreeSet<i32> = told.iter().copied().collect();
            told == also && ids == BTreeSet::from([1, 2, 3])
        })
        .await;
        let acknowledged = Acknowledged::default();
        let (end, ending) = tokio::sync::watch::channel(false);
        // Not by way of the one that is killed: that a client finds another is the client's.
        let client = connect(&all[1..]).await;
        let tasks = Tasks::new();
        let producing = produce(client, acknowledged.clone(), ending);
        let (done, ended) = tokio::sync::oneshot::channel();
        tasks.spawn(ferrymq_runtime::TaskKind::Background, "producing", async move {
            producing.await;
            let _ = done.send(());
        });
        all_go_on(&acknowledged).await;
        let mut first = first;
        first.process.kill();
        let took = all_go_on(&acknowledged).await;
        eprintln!("after a kill every partition went on after {took:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
        let restarted = Broker::start(&url, "1");
        ferrymq_runtime::blocking(|| third.stop()).await;
        let took = all_go_on(&acknowledged).await;
        eprintln!("after a stop every partition went on after {took:?}");
        // Longer than its lease and the others' patience; it wakes up as one that was replaced.
        let pid = second.process.0.id().to_string();
        let signal = |name: &'static str| Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(signal("-STOP").success());
        let took = all_go_on(&acknowledged).await;
        eprintln!("after a pause began every partition went on after {took:?}");
        assert!(signal("-CONT").success());
        all_go_on(&acknowledged).await;
        end.send(true).unwrap();
        ended.await.expect("producing ended well");
        judge(&connect(&[all[1]]).await, &acknowledged).await;
        assert!(acknowledged.lock().len() > 1_000);
        drop(restarted);
    });
}

#[test]
fn topics_and_offsets_are_seen_by_all() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = database(directory.path(), &[]) else { return };
    let (first, second) = (Broker::start(&url, "7"), Broker::start(&url, "9"));
    let run = |broker: &Broker, arguments: &[&str], fine: bool| {
        let output = ferrymq(arguments).env("FERRYMQ_BOOTSTRAP", &broker.kafka).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), fine, "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &said
    };
    run(&first, &["topic", "create", "orders", "--partitions", "3"], true);
    let twice = run(&second, &["topic", "create", "orders", "--partitions", "3"], false);
    assert!(twice.contains("exists"), "{twice}");
    run(&second, &["topic", "describe", "orders"], true);
    run(&second, &["topic", "delete", "orders"], true);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (one, other) = (connect(&[&first.kafka]).await, connect(&[&second.kafka]).await);
        until("the deletion is seen", Duration::from_secs(2), async || leaders(&one).await.is_empty()).await;
        let new = NewTopic { name: "orders".to_owned(), partitions: Some(4), ..NewTopic::default() };
        other.create_topic(&new, false).await.unwrap();
        assert_eq!(leaders(&one).await.len(), 4, "a topic is found at once by whoever asks for it");
        for group in ["a", "b", "c", "d", "e"] {
            until("a group's offsets are kept", Duration::from_secs(20), async || {
                one.commit(group, "orders", &[(0, 0)]).await.is_ok()
            })
            .await;
            assert_eq!(other.committed(group).await.unwrap().len(), 1);
        }
    });
}

/// Asks a broker in the newest version of both sides.
async fn ask<R: Request>(address: &str, request: &R) -> R::Response {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let version = R::API.decodable().max;
    let frame = Frame::request(1, None, version, request).unwrap().to_bytes();
    stream.write_all(&frame).await.unwrap();
    let mut answer = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    let answer = answer.into();
    let mut decoder = Decoder::new(&answer);
    ResponseHeader::decode(&mut decoder, R::API, version).unwrap();
    R::Response::decode(&mut decoder, version).unwrap()
}

#[test]
fn who_asks_the_wrong_broker_is_told_who_leads_and_where() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = database(directory.path(), &[]) else { return };
    let (first, second) = (Broker::start(&url, "1"), Broker::start(&url, "2"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&[&first.kafka, &second.kafka]).await;
        let new = NewTopic { name: "orders".to_owned(), partitions: Some(PARTITIONS), ..NewTopic::default() };
        client.create_topic(&new, false).await.unwrap();
        until("both lead something", Duration::from_secs(40), async || {
            leaders(&client).await.into_iter().collect::<BTreeSet<i32>>() == BTreeSet::from([1, 2])
        })
        .await;
        let index = leaders(&client).await.iter().position(|leader| *leader == 2).unwrap();
        let (index, name) = (i32::try_from(index).unwrap(), StrBytes::from_static("orders"));
        let all = MetadataRequest { topics: None, ..Default::default() };
        let metadata = ask(&second.kafka, &all).await;
        let topic = metadata.topics.iter().find(|topic| topic.name.as_deref() == Some("orders")).unwrap();
        let led = topic.partitions.iter().find(|partition| partition.partition_index == index).unwrap();
        let (leader, port) =
            ((2, led.leader_epoch), second.kafka.rsplit_once(':').unwrap().1.parse().unwrap());
        let produce = ProduceRequest {
            acks: -1,
            topic_data: vec![TopicProduceData {
                name: name.clone(),
                topic_id: topic.topic_id,
                partition_data: vec![PartitionProduceData { index, ..Default::default() }],
            }],
            ..Default::default()
        };
        let fetch = FetchRequest {
            topics: vec![FetchTopic {
                topic: name,
                topic_id: topic.topic_id,
                partitions: vec![FetchPartition { partition: index, ..Default::default() }],
            }],
            ..Default::default()
        };
        // That the leader has claimed it is known here a moment later.
        until("a producer is told", Duration::from_secs(10), async || {
            let answer = ask(&first.kafka, &produce).await;
            let data = &answer.responses[0].partition_responses[0];
            assert_eq!(data.error_code, ErrorCode::NotLeaderOrFollower.code());
            let nodes: Vec<_> = answer.node_endpoints.iter().map(|node| (node.node_id, node.port)).collect();
            (data.current_leader.leader_id, data.current_leader.leader_epoch) == leader
                && nodes == [(2, port)]
        })
        .await;
        let answer = ask(&first.kafka, &fetch).await;
        let data = &answer.responses[0].partitions[0];
        assert_eq!(data.error_code, ErrorCode::NotLeaderOrFollower.code());
        assert_eq!((data.current_leader.leader_id, data.current_leader.leader_epoch), leader);
        let nodes: Vec<_> = answer.node_endpoints.iter().map(|node| (node.node_id, node.port)).collect();
        assert_eq!(nodes, [(2, port)]);
    });
}

#[test]
fn what_several_cannot_do_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = database(directory.path(), &[]) else { return };
    let refused = |arguments: &[&str], why: &str| {
        let output = ferrymq(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    };
    let _running = Broker::start(&url, "4");
    refused(&arguments(&url, "4"), "broker id 4 is in use");
    let with_amqp = [&arguments(&url, "5")[..], &["--amqp-listen", "127.0.0.1:0"]].concat();
    refused(&with_amqp, "does not serve AMQP yet");
    refused(&["serve", "--several-brokers", "--kafka-listen", "127.0.0.1:0"], "a store that brokers share");
    refused(
        &["serve", "--store", &url, "--amqp-listen", "off", "--http-listen", "off"],
        "another broker uses",
    );
}
