//! Random sequences of well-formed methods and of content frames, of either side, on channels that may be open or not: each
//! connection is answered or closed with a code of the specification, and nobody else notices.
//!
//! A sequence comes from a seed that a failure prints; the bytes of a seed are always the same, what comes of them may depend
//! on which of the server's tasks was faster.

use std::sync::atomic::Ordering;

use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::{basic, channel, connection};
use ferrymq_amqp_codec::{FrameKind, FrameReader, Method, MethodId};
use ferrymq_runtime::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Client, Server, persistent, within};

/// Every method of the specification and of RabbitMQ's extensions with its fields: `b` a bit, `B` an octet, `H`, `I` and `Q`
/// numbers of 16, 32 and 64 bits, `s` and `S` short and long strings, `F` a table.
#[rustfmt::skip]
const METHODS: [(u16, u16, &str); 67] = [
    (10, 10, "BBFSS"), (10, 11, "FsSs"), (10, 20, "S"), (10, 21, "S"), (10, 30, "HIH"), (10, 31, "HIH"),
    (10, 40, "ssb"), (10, 41, "s"), (10, 50, "HsHH"), (10, 51, ""), (10, 60, "s"), (10, 61, ""), (10, 70, "Ss"), (10, 71, ""),
    (20, 10, "s"), (20, 11, "S"), (20, 20, "b"), (20, 21, "b"), (20, 40, "HsHH"), (20, 41, ""),
    (30, 10, "sbbbbb"), (30, 11, "H"),
    (40, 10, "HssbbbbbF"), (40, 11, ""), (40, 20, "Hsbb"), (40, 21, ""),
    (40, 30, "HsssbF"), (40, 31, ""), (40, 40, "HsssbF"), (40, 51, ""),
    (50, 10, "HsbbbbbF"), (50, 11, "sII"), (50, 20, "HsssbF"), (50, 21, ""), (50, 30, "Hsb"), (50, 31, "I"),
    (50, 40, "Hsbbb"), (50, 41, "I"), (50, 50, "HsssF"), (50, 51, ""),
    (60, 10, "IHb"), (60, 11, ""), (60, 20, "HssbbbbF"), (60, 21, "s"), (60, 30, "sb"), (60, 31, "s"),
    (60, 40, "Hssbb"), (60, 50, "Hsss"), (60, 60, "sQbss"), (60, 70, "Hsb"), (60, 71, "QbssI"), (60, 72, "s"),
    (60, 80, "Qb"), (60, 90, "Qb"), (60, 100, "b"), (60, 110, "b"), (60, 111, ""), (60, 120, "Qbb"),
    (85, 10, "b"), (85, 11, ""),
    (90, 10, ""), (90, 11, ""), (90, 20, ""), (90, 21, ""), (90, 30, ""), (90, 31, ""),
    // Once more, as it is what most other things need.
    (60, 40, "Hssbb"),
];
/// What a client may send on an open channel; those of the connection come by chance alone.
#[rustfmt::skip]
const FROM_CLIENTS: [(u16, u16); 27] = [
    (40, 10), (40, 20), (40, 30), (40, 40), (50, 10), (50, 20), (50, 30), (50, 40), (50, 50), (60, 10), (60, 20), (60, 30),
    (60, 40), (60, 70), (60, 80), (60, 90), (60, 100), (60, 110), (60, 120), (85, 10), (90, 10), (90, 20), (90, 30),
    (20, 20), (20, 40), (20, 10), (30, 10),
];
/// How many of them end no connection.
const TAME: usize = 23;

const NAMES: [&str; 16] = [
    "",
    "q1",
    "q2",
    "q3",
    "e1",
    "e2",
    "amq.direct",
    "amq.fanout",
    "amq.topic",
    "amq.headers",
    "amq.rabbitmq.reply-to",
    "bystander",
    "direct",
    "fanout",
    "x-delayed-message",
    "\r\n\u{e4}",
];
const ARGUMENTS: [&str; 18] = [
    "x-queue-type",
    "x-max-length",
    "x-max-length-bytes",
    "x-message-ttl",
    "x-expires",
    "x-overflow",
    "x-max-priority",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-match",
    "alternate-exchange",
    "x-priority",
    "x-stream-offset",
    "x-delayed-type",
    "x-single-active-consumer",
    "x-delivery-limit",
    "CC",
];
const TEXTS: [&str; 9] =
    ["quorum", "stream", "classic", "any", "reject-publish", "at-least-once", "direct", "q1", "first"];
/// The specification's codes but 541: an internal error is ours.
const CODES: [u16; 18] =
    [200, 311, 312, 313, 320, 402, 403, 404, 405, 406, 501, 502, 503, 504, 505, 506, 530, 540];

struct Writer<'a> {
    rng: &'a Rng,
    /// Whether it also writes what ends a connection.
    rough: bool,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[usize::try_from(self.rng.below(of.len() as u64)).unwrap()]
    }

    fn short(&mut self) {
        let text = match self.rng.below(20) {
            0 => vec![b'n'; 255],
            1 => vec![0xff, 0],
            _ => self.pick(&NAMES).as_bytes().to_vec(),
        };
        self.out.push(u8::try_from(text.len()).unwrap());
        self.out.extend_from_slice(&text);
    }

    fn long(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    /// A number that is at some edge, often.
    fn number(&self) -> u64 {
        match self.rng.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 31,
            3 => self.rng.next_u64(),
            _ => self.rng.below(6),
        }
    }

    fn table(&mut self, depth: u32) {
        let before = std::mem::take(&mut self.out);
        for _ in 0..[0, 0, 0, 1, 1, 2, 5][usize::try_from(self.rng.below(7)).unwrap()] {
            let name = self.pick(&ARGUMENTS);
            self.out.push(u8::try_from(name.len()).unwrap());
            self.out.extend_from_slice(name.as_bytes());
            self.value(depth);
        }
        let inner = std::mem::replace(&mut self.out, before);
        self.long(&inner);
    }

    fn value(&mut self, depth: u32) {
        let tag = self.pick(b"SSSSIIIlltbBsudTVxFAD");
        let tag = if depth == 0 && b"FA".contains(&tag) { b'V' } else { tag };
        self.out.push(tag);
        let number = self.number().to_be_bytes();
        match tag {
            b'S' | b'x' => self.long(self.pick(&TEXTS).as_bytes()),
            b't' => self.out.push(number[7] & 1),
            b'b' | b'B' => self.out.push(number[7]),
            b's' | b'u' => self.out.extend_from_slice(&number[6..]),
            b'I' => self.out.extend_from_slice(&number[4..]),
            b'l' | b'd' | b'T' => self.out.extend_from_slice(&number),
            b'D' => self.out.extend_from_slice(&number[3..]),
            b'F' => self.table(depth - 1),
            b'A' => {
                let before = std::mem::take(&mut self.out);
                self.value(depth - 1);
                let inner = std::mem::replace(&mut self.out, before);
                self.long(&inner);
            }
            _ => {}
        }
    }

    /// What a bit has to be so that it does not end the connection: neither `immediate` nor `recover` without `requeue` is
    /// served.
    fn tamed(&self, class: u16, method: u16, bit: u32) -> Option<bool> {
        match (class, method, bit) {
            _ if self.rough => None,
            (60, 40, 1) => Some(false),
            (60, 100 | 110, 0) => Some(true),
            _ => None,
        }
    }

    /// A method's payload.
    fn method(&mut self, (class, method, fields): (u16, u16, &str)) {
        self.out.extend_from_slice(&class.to_be_bytes());
        self.out.extend_from_slice(&method.to_be_bytes());
        let mut bits = 0_u32;
        for (at, field) in fields.bytes().enumerate() {
            let number = self.number().to_be_bytes();
            match field {
                b'b' => {
                    if bits == 0 {
                        self.out.push(0);
                    }
                    let is_set = self.rng.below(4) == 0;
                    let is_set = self.tamed(class, method, bits).unwrap_or(is_set);
                    *self.out.last_mut().unwrap() |= u8::from(is_set) << bits;
                    bits += 1;
                }
                b'B' => self.out.push(number[7]),
                b'H' if at == 0 && class >= 40 => self.out.extend_from_slice(&[0, 0]),
                b'H' => self.out.extend_from_slice(&number[6..]),
                // A prefetch in bytes is not served.
                b'I' if !self.rough && (class, method) == (60, 10) => self.out.extend_from_slice(&[0; 4]),
                b'I' => self.out.extend_from_slice(&number[4..]),
                b'Q' => self.out.extend_from_slice(&number),
                b's' => self.short(),
                b'S' => self.long(self.pick(&TEXTS).as_bytes()),
                b'F' => self.table(2),
                other => panic!("no field is written {other}"),
            }
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xce);
}

/// A content header of a class that lies about its size, or not.
fn header(writer: &mut Writer<'_>, size: u64) -> Vec<u8> {
    let class: u16 = if writer.rough && writer.rng.below(10) == 0 { 50 } else { 60 };
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0, 0]);
    let size = match writer.rng.below(if writer.rough { 12 } else { 1 }) {
        _ if !writer.rough => size,
        0 => size + 1,
        1 => size.saturating_sub(1),
        2 => writer.number(),
        _ => size,
    };
    payload.extend_from_slice(&size.to_be_bytes());
    // No properties; or headers; or a delivery mode.
    match writer.rng.below(3) {
        0 => payload.extend_from_slice(&[0, 0]),
        1 => {
            payload.extend_from_slice(&[0x20, 0]);
            writer.table(2);
            payload.append(&mut writer.out);
        }
        _ => payload.extend_from_slice(&[0x10, 0, 2]),
    }
    payload
}

/// The bytes of a sequence: what comes after the connection was opened.
fn sequence(seed: u64) -> Vec<u8> {
    let rng = Rng::seeded(seed);
    let rough = rng.below(4) == 0;
    let mut writer = Writer { rng: &rng, rough, out: Vec::new() };
    let mut out = Vec::new();
    for number in 1..=3 {
        frame(&mut out, 1, number, &[0, 20, 0, 10, 0]);
    }
    for _ in 0..rng.below(60) {
        let number = match rough {
            true => writer.pick(&[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 1, 2, 1, 2, 0, 4, u16::MAX]),
            false => writer.pick(&[1, 2, 3]),
        };
        step(&mut writer, &mut out, number);
    }
    out
}

fn step(writer: &mut Writer<'_>, out: &mut Vec<u8>, number: u16) {
    let (rng, rough) = (writer.rng, writer.rough);
    let method = |writer: &mut Writer<'_>, out: &mut Vec<u8>, of| {
        writer.method(of);
        frame(out, 1, number, &std::mem::take(&mut writer.out));
    };
    match rng.below(40) {
        0..8 => {
            method(writer, out, METHODS[METHODS.len() - 1]);
            let body = vec![7; usize::try_from(rng.below(3000)).unwrap()];
            let header = header(writer, body.len() as u64);
            frame(out, 2, number, &header);
            body.chunks(1000).for_each(|part| frame(out, 3, number, part));
        }
        8 if rough => {
            let header = header(writer, 3);
            frame(out, 2, number, &header);
        }
        9 if rough => frame(out, 3, number, b"body"),
        10 => frame(out, 8, 0, b""),
        11 if rough => {
            let any = writer.pick(&METHODS);
            method(writer, out, any);
        }
        12 if rough => frame(out, 1, number, &[0, 20, 0, 41]),
        // A channel that was closed for a mistake is opened anew; one that was not, too.
        12..16 => {
            frame(out, 1, number, &[0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0]);
            frame(out, 1, number, &[0, 20, 0, 10, 0]);
        }
        _ => {
            let (class, id) = writer.pick(if rough { &FROM_CLIENTS[..] } else { &FROM_CLIENTS[..TAME] });
            let found = METHODS.iter().find(|of| (of.0, of.1) == (class, id));
            // Without its content it would be followed by what is none.
            if rough || (class, id) != (60, 40) {
                method(writer, out, *found.unwrap());
            }
        }
    }
}

/// Plays a sequence on an open connection and says goodbye; how it ended.
async fn play(client: Client, seed: u64) -> u16 {
    let mut bytes = sequence(seed);
    let mut goodbye = bytes::BytesMut::new();
    put_method(&mut goodbye, 0, &connection::Close { reply_code: 200, ..Default::default() }).unwrap();
    bytes.extend_from_slice(&goodbye);
    let (mut read, mut write) = client.stream.into_split();
    let send = async {
        // It may be closed before all of it is written.
        let _closed = write.write_all(&bytes).await.is_err();
    };
    let receive = async {
        let (frames, mut input) = (FrameReader::new(131_072), bytes::BytesMut::new());
        loop {
            while let Some(frame) = frames.next(&mut input).unwrap() {
                if frame.kind != FrameKind::Method {
                    continue;
                }
                match Method::parse(&frame.payload).unwrap() {
                    Method::ConnectionCloseOk(_) => return 200,
                    Method::ConnectionClose(close) => return close.reply_code,
                    Method::ChannelClose(close) => {
                        let text = String::from_utf8_lossy(close.reply_text);
                        assert!(
                            CODES.contains(&close.reply_code),
                            "seed {seed}: {} {text}",
                            close.reply_code
                        );
                    }
                    _ => {}
                }
            }
            match read.read_buf(&mut input).await {
                Ok(1..) => {}
                ended => panic!("seed {seed}: a connection ended without a word: {ended:?}"),
            }
        }
    };
    within(async { tokio::join!(send, receive).1 }).await
}

/// Publishes with a confirm, and gets it delivered.
async fn serves(bystander: &mut Client, seed: u64) {
    let text = seed.to_string();
    bystander.put_publish(1, "", "bystander", &persistent(), text.as_bytes()).send().await;
    let (mut confirmed, mut delivered) = (false, false);
    while !(confirmed && delivered) {
        let payload = bystander.reply(1).await;
        match Method::parse(&payload).unwrap() {
            Method::BasicAck(_) => confirmed = true,
            Method::BasicDeliver(deliver) => {
                let (_, body) = bystander.content(1).await;
                // Others may publish to it as well.
                delivered |= body == text.as_bytes();
                let ack = basic::Ack { delivery_tag: deliver.delivery_tag, multiple: false };
                bystander.put(1, &ack);
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    bystander.send().await;
}

#[test]
fn the_table_has_every_method_and_all_are_well_formed() {
    let rng = Rng::seeded(1);
    let mut writer = Writer { rng: &rng, rough: true, out: Vec::new() };
    for (id, name) in Method::NAMES {
        let found =
            METHODS.iter().find(|(class, method, _)| MethodId { class: *class, method: *method } == *id);
        let found = *found.unwrap_or_else(|| panic!("{name} is not in the table"));
        for _ in 0..200 {
            writer.method(found);
            let payload = std::mem::take(&mut writer.out);
            assert!(Method::parse(&payload).is_ok(), "{name}: {payload:?}: {:?}", Method::parse(&payload));
        }
    }
}

#[tokio::test]
async fn every_connection_is_answered_and_nobody_else_notices() {
    let first = match std::env::var("FERRYMQ_SEED") {
        Ok(seed) => seed.parse().expect("FERRYMQ_SEED is a number"),
        Err(_) => Rng::from_os().below(1 << 40),
    };
    println!("FERRYMQ_SEED={first}");
    let server = Server::start().await;
    let mut bystander = server.channel().await;
    bystander.queue("bystander").await;
    bystander.confirm_select().await;
    bystander.consume("bystander", "tag").await;
    let mut ends = std::collections::BTreeMap::<u16, u32>::new();
    for seed in first..first + 400 {
        let code = play(server.client().await, seed).await;
        assert!(CODES.contains(&code), "seed {seed}: the connection is closed with {code}");
        *ends.entry(code).or_default() += 1;
        serves(&mut bystander, seed).await;
    }
    println!("ends: {ends:?}");
    assert!(ends.len() > 2 && ends[&200] > 200, "sequences do not get far: {ends:?}");
    let counters = &server.context().counters;
    let gauges = [&counters.connections_open, &counters.channels_open, &counters.publishers_open];
    within(async {
        while gauges.iter().any(|gauge| gauge.load(Ordering::Relaxed) > 1) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let budget = &server.context().budget;
    within(async {
        while budget.in_use() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bystander.put(1, &channel::Close { reply_code: 200, ..Default::default() }).send().await;
    within(server.restart()).await;
}
