//! Clients that mean harm or are broken: the server lives, gives back what it lent, and serves the others.

use std::sync::atomic::Ordering;

use bytes::{BufMut as _, Bytes, BytesMut};
use ferrymq_kafka_codec::messages::{ApiVersionsRequest, FetchRequest, MetadataRequest, describe_groups};
use ferrymq_kafka_codec::{ApiKey, ResponseKind, StrBytes, Uuid};
use ferrymq_kafka_server::dispatch::SERVED;
use ferrymq_runtime::Rng;
use ferrymq_types::limits::SMALL_REQUEST_BYTES_MAX;
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;

use super::groups::join_request;
use super::records::{NAMED, batch, fetch, fetch_request, produce_request, values, write};
use super::requests::{TOPIC, full};
use super::support::{Client, Options, Server, encode, framed, name, until, within};

/// Connections at a time: fewer than the smallest usual queue of a listener.
const CROWD: usize = 64;

/// Sends each frame on a connection of its own, closes this side, and waits until the server has closed its.
async fn throw_all(server: &Server, frames: Vec<Bytes>) {
    for crowd in frames.chunks(CROWD) {
        let throw = crowd.iter().map(|frame| async {
            let mut client = server.client().await;
            client.raw(frame).await;
            client.finish().await;
        });
        join_all(throw).await;
    }
}

async fn spoken_of() -> (Server, Uuid) {
    let server = Server::start().await;
    server.topic(TOPIC, 1, &[]).await;
    let id = server.topic_id(TOPIC);
    (server, id)
}

#[tokio::test]
async fn what_is_not_served_closes_the_connection() {
    let server = Server::start().await;
    let frame = |api: i16, version: i16| {
        let mut body = BytesMut::new();
        body.put_i16(api);
        body.put_i16(version);
        body.put_i32(1);
        body.put_i16(-1);
        body.put_bytes(0, 8);
        framed(&body)
    };
    let mut unknown: Vec<(i16, i16)> = vec![(-1, 0), (4, 0), (999, 0), (i16::MIN, 0), (i16::MAX, i16::MAX)];
    unknown.extend(ApiKey::ALL.iter().filter(|api| !SERVED.contains(api)).map(|api| (api.id(), 0)));
    for api in SERVED.iter().filter(|api| **api != ApiKey::ApiVersions) {
        let range = api.decodable();
        unknown.extend([(api.id(), range.min - 1), (api.id(), range.max + 1), (api.id(), i16::MIN)]);
    }
    for (api, version) in unknown {
        let mut client = server.client().await;
        client.raw(&frame(api, version)).await;
        assert_eq!(client.answer().await, None, "API {api} version {version}");
    }
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn lengths_that_make_no_sense_close_the_connection() {
    let options = Options { request_bytes_max: Some(70_000_000), ..Default::default() };
    let server = Server::start_with(options).await;
    for length in [-1, i32::MIN, i32::MAX, 70_000_001, 65 * 1024 * 1024] {
        let mut client = server.client().await;
        client.raw(&length.to_be_bytes()).await;
        assert_eq!(client.answer().await, None, "before a first request: {length}");
    }
    for length in [-1, i32::MIN, i32::MAX, 70_000_001] {
        let mut client = server.client().await;
        client.call(0, &ApiVersionsRequest::default()).await;
        client.raw(&length.to_be_bytes()).await;
        assert_eq!(client.answer().await, None, "after a first request: {length}");
    }
    let mut client = server.client().await;
    client.raw(&framed(&[])).await;
    assert_eq!(client.answer().await, None, "an empty frame holds no header");
    drop(client);
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn only_some_requests_may_be_large() {
    let server = Server::start().await;
    let groups = (0..300_000).map(|at| name(&format!("g{at:07}"))).collect();
    let describing = encode(1, 5, &describe_groups::DescribeGroupsRequest { groups, ..Default::default() });
    assert!(describing.len() > SMALL_REQUEST_BYTES_MAX);
    let partitions: Vec<_> = (0..100_000).map(|at| (at, 0)).collect();
    let fetching = encode(1, NAMED, &fetch_request("t", &partitions));
    assert!(fetching.len() > SMALL_REQUEST_BYTES_MAX);
    for frame in [describing, fetching] {
        let mut client = server.client().await;
        client.raw(&frame).await;
        assert_eq!(client.answer().await, None);
    }
    // Nor is more of it waited for than says what it is.
    let mut client = server.client().await;
    client.raw(&[0, 0x30, 0, 0, 0, 1]).await;
    assert_eq!(client.answer().await, None, "three MiB of a fetch");
    let mut join = join_request("g", &StrBytes::new());
    join.protocols[0].metadata = vec![7; 3 * 1024 * 1024].into();
    let mut client = server.client().await;
    assert_eq!(client.call(3, &join).await.error_code, 0);
    drop(client);
    server.check_alive_and_clean().await;
}

/// Requests cut short at every byte: as a short frame, and as a frame whose rest never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_requests() {
    let (server, id) = spoken_of().await;
    let mut frames = Vec::new();
    for api in SERVED {
        for version in api.decodable().iter() {
            let whole = encode(1, version, &full(*api, version, id));
            let step = (whole.len() / 24).max(1);
            for end in (4..whole.len()).step_by(step) {
                frames.push(framed(&whole[4..end]));
            }
            frames.push(whole.slice(..whole.len() - 1));
        }
    }
    assert!(frames.len() > 2000, "{}", frames.len());
    throw_all(&server, frames).await;
    server.check_alive_and_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits() {
    let seed = Rng::from_os().next_u64();
    println!("seed {seed}");
    let rng = Rng::seeded(seed);
    let (server, id) = spoken_of().await;
    let mut frames = Vec::new();
    for api in SERVED {
        for version in api.decodable().iter() {
            let whole = encode(1, version, &full(*api, version, id));
            for _ in 0..16 {
                let mut bytes = BytesMut::from(&whole[..]);
                for _ in 0..=rng.below(3) {
                    // Not in the length, and not in what says which API it is.
                    let at = 8 + usize::try_from(rng.below(bytes.len() as u64 - 8)).unwrap();
                    bytes[at] ^= 1 << rng.below(8);
                }
                frames.push(bytes.freeze());
            }
        }
    }
    throw_all(&server, frames).await;
    server.check_alive_and_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_mean_nothing() {
    let seed = Rng::from_os().next_u64();
    println!("seed {seed}");
    let rng = Rng::seeded(seed);
    let (server, _) = spoken_of().await;
    let mut frames = vec![Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), framed(&[0; 3])];
    for api in SERVED {
        for version in api.decodable().iter() {
            let mut body = BytesMut::new();
            body.put_i16(api.id());
            body.put_i16(version);
            body.put_i32(1);
            body.put_i16(-1);
            for _ in 0..rng.below(100) {
                // Large counts, nulls and small numbers are where decoders break.
                body.put_u8([0, 1, 2, 0x7f, 0x80, 0xff, 0x0f][usize::try_from(rng.below(7)).unwrap()]);
            }
            frames.push(framed(&body));
        }
    }
    throw_all(&server, frames).await;
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn a_slow_writer_is_served_and_holds_up_nobody() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let (mut slow, mut quick) = (server.client().await, server.client().await);
    let frame = encode(1, NAMED, &produce_request("t", 0, -1, batch(&["slow"])));
    for (at, byte) in frame.iter().enumerate() {
        slow.raw(&[*byte]).await;
        if at % 40 == 0 {
            write(&mut quick, "t", 0, batch(&["quick"])).await;
        }
    }
    assert!(slow.answer().await.is_some());
}

/// Readers that never read hold room for what is read for them and not sent. It is counted and bounded, others are
/// served meanwhile, and in the end they are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_hold_little_and_hold_up_nobody() {
    let server = Server::start().await;
    server.topic("t", 1, &[("max.message.bytes", "5000000")]).await;
    let mut writer = server.client().await;
    // Large batches, which are read as one piece.
    for _ in 0..10 {
        write(&mut writer, "t", 0, batch(&["x".repeat(4_000_000).as_str()])).await;
    }
    let mut request = fetch_request("t", &[(0, 0)]);
    request.topics[0].partitions[0].partition_max_bytes = i32::MAX;
    let mut deaf: Vec<Client> = Vec::new();
    for _ in 0..20 {
        let mut client = server.client().await;
        // More answers than fit anywhere; nobody picks them up.
        for _ in 0..20 {
            client.send(NAMED, &request).await;
        }
        deaf.push(client);
    }
    let answers = &server.context.answers;
    until("they hold most of the room for answers", || answers.in_use() > answers.capacity() / 2).await;
    let requests = server.context.budget.in_use();
    assert!(requests < 1024 * 1024, "{requests} bytes of requests are held");
    for _ in 0..50 {
        write(&mut writer, "t", 0, batch(&["y"])).await;
    }
    let mut reader = server.client().await;
    let got = values(&fetch(&mut reader, "t", 0, 9).await);
    assert_eq!(got[0].0, 9, "another reader gets its first batch at least");
    until("only the reader and the writer are left", || server.open() == 2).await;
    until("room for answers is given back", || answers.in_use() == 0).await;
    drop((deaf, reader, writer));
    server.check_alive_and_clean().await;
}

/// A fetch that waits for more than there is holds no records, and answers all of them in the end.
#[tokio::test]
async fn a_waiting_fetch_holds_no_room_for_answers() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let (mut reader, mut writer) = (server.client().await, server.client().await);
    write(&mut writer, "t", 0, batch(&["x".repeat(900_000).as_str()])).await;
    let mut request = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("t", &[(0, 0)]) };
    request.min_bytes = 1_500_000;
    request.topics[0].partitions[0].partition_max_bytes = i32::MAX;
    reader.send(NAMED, &request).await;
    let waiting = || server.context.broker.topics().partition("t", 0).map_or(0, |one| one.watchers.live());
    until("it waits", || waiting() == 1).await;
    until("it holds no room", || server.context.answers.in_use() == 0).await;
    write(&mut writer, "t", 0, batch(&["y".repeat(900_000).as_str()])).await;
    let Some(ResponseKind::Fetch(response)) = reader.receive(ApiKey::Fetch, NAMED).await else {
        panic!("not an answer to a fetch")
    };
    assert_eq!(values(&response.responses[0].partitions[0]).len(), 2);
    drop((reader, writer));
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn a_client_that_asks_and_asks_is_held_back() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    // The first waits for what never comes, so the others queue up behind it.
    let waiting = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("t", &[(0, 0)]) };
    client.send(NAMED, &waiting).await;
    let frame = encode(2, 1, &MetadataRequest::default());
    let many: Vec<u8> = frame.iter().copied().cycle().take(frame.len() * 10_000).collect();
    let requests = || server.context.counters.requests_total.load(Ordering::Relaxed);
    let (mut half, mut rest) = (0, client.stream);
    let sending = async {
        while half < many.len() {
            match rest.write(&many[half..]).await {
                Ok(sent) if sent > 0 => half += sent,
                _ => break,
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sending => {}
        () = until("no more may wait", || requests() >= 256) => {}
    }
    // Others are served meanwhile, and nothing more is read of this one.
    let mut writer = server.client().await;
    for _ in 0..100 {
        writer.call(1, &MetadataRequest::default()).await;
    }
    assert!(requests() < 256 + 10 + 100, "no more than may wait is read: {}", requests());
    write(&mut writer, "t", 0, batch(&["what it waits for"])).await;
    until("it goes on", || requests() > 3000).await;
    drop(rest);
    drop(writer);
    server.check_alive_and_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut idle = Vec::new();
    for at in 0..1000 {
        let mut client = server.client().await;
        match at % 4 {
            0 => {}
            1 => client.raw(&[0]).await,
            2 => client.raw(&[0, 0, 0, 100, 0, 1]).await,
            _ => drop(client.call(0, &ApiVersionsRequest::default()).await),
        }
        idle.push(client);
    }
    let connected = || server.context.counters.connections_total.load(Ordering::Relaxed);
    until("all are connected", || connected() == 1000).await;
    let mut client = server.client().await;
    for _ in 0..100 {
        write(&mut client, "t", 0, batch(&["a"])).await;
    }
    drop(idle);
    drop(client);
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn a_fetch_that_would_wait_for_ever_ends_with_its_client() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let waiting = || server.context.broker.topics().partition("t", 0).map_or(0, |one| one.watchers.live());
    let request = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("t", &[(0, 0)]) };
    for polite in [true, false] {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = server.client().await;
            client.send(NAMED, &request).await;
            clients.push(client);
        }
        until("all of them wait", || waiting() == 20).await;
        assert_eq!(server.open(), 20);
        if polite {
            within(join_all(clients.into_iter().map(Client::finish))).await;
        } else {
            for client in &clients {
                // Closing with a reset, as a client that crashes does.
                client.stream.set_zero_linger().expect("a TCP stream has this option");
            }
            drop(clients);
        }
        until("no connection is left", || server.open() == 0).await;
        assert_eq!(waiting(), 0, "no watch is left");
    }
    server.check_alive_and_clean().await;
}
