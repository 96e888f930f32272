//! Random methods and properties have the same fields and bytes here and in the `amq-protocol` crate.
//!
//! Its limits are respected: short strings are UTF-8, tables are sorted and without duplicates, reserved
//! fields have their defaults, `L` does not come.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::needless_update, reason = "one form for methods with and without reserved fields")]

mod support;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{self as theirs, AMQPClass};
use amq_protocol::types::{
    AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
};
use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::{put_any_method, put_content_header};
use ferrymq_amqp_codec::{
    BasicProperties, ContentHeader, FrameKind, FrameReader, Method, Properties, Table, TableBuilder,
    ValueRef, method as ours,
};
use support::Random;

/// What a field of each domain is made of: their value, and ours from it.
trait Domain {
    fn random(random: &mut Random) -> Self;
}

impl Domain for bool {
    fn random(random: &mut Random) -> Self {
        random.bool()
    }
}

macro_rules! integers {
    ($($int:ty),*) => { $(impl Domain for $int {
        fn random(random: &mut Random) -> Self {
            // The low bytes of a random number.
            let bytes = random.next().to_le_bytes();
            Self::from_le_bytes(*bytes.first_chunk().unwrap())
        }
    })* };
}
integers!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Domain for ShortString {
    fn random(random: &mut Random) -> Self {
        let len = [0, 3, 60][random.below(3)];
        let text: String =
            std::iter::repeat_with(|| ['a', 'ß', '€', '.', '\0'][random.below(5)]).take(len).collect();
        text.into()
    }
}

impl Domain for LongString {
    fn random(random: &mut Random) -> Self {
        let len = random.below(300);
        random.bytes(len).into()
    }
}

impl Domain for FieldTable {
    fn random(random: &mut Random) -> Self {
        random_table(random, 4)
    }
}

fn random_table(random: &mut Random, depth: usize) -> FieldTable {
    let mut table = FieldTable::default();
    for _ in 0..random.below(6) {
        table.insert(ShortString::random(random), random_value(random, depth));
    }
    table
}

fn random_value(random: &mut Random, depth: usize) -> AMQPValue {
    match random.below(if depth == 0 { 15 } else { 17 }) {
        0 => AMQPValue::Boolean(random.bool()),
        1 => AMQPValue::ShortShortInt(i8::random(random)),
        2 => AMQPValue::ShortShortUInt(u8::random(random)),
        3 => AMQPValue::ShortInt(i16::random(random)),
        4 => AMQPValue::ShortUInt(u16::random(random)),
        5 => AMQPValue::LongInt(i32::random(random)),
        6 => AMQPValue::LongUInt(u32::random(random)),
        7 => AMQPValue::LongLongInt(i64::random(random)),
        8 => AMQPValue::Float(f32::from(i16::random(random)) / 8.0),
        9 => AMQPValue::Double(f64::from(i32::random(random)) / 8.0),
        10 => AMQPValue::DecimalValue(DecimalValue { scale: u8::random(random), value: u32::random(random) }),
        11 => AMQPValue::LongString(LongString::random(random)),
        12 => AMQPValue::ByteArray(ByteArray::from(LongString::random(random).as_bytes())),
        13 => AMQPValue::Timestamp(u64::random(random)),
        14 => AMQPValue::Void,
        15 => AMQPValue::FieldTable(random_table(random, depth - 1)),
        _ => {
            let values: Vec<_> = (0..random.below(5)).map(|_| random_value(random, depth - 1)).collect();
            AMQPValue::FieldArray(FieldArray::from(values))
        }
    }
}

fn is_same(ours: ValueRef<'_>, theirs: &AMQPValue) -> bool {
    match (ours, theirs) {
        (ValueRef::Bool(a), AMQPValue::Boolean(b)) => a == *b,
        (ValueRef::I8(a), AMQPValue::ShortShortInt(b)) => a == *b,
        (ValueRef::U8(a), AMQPValue::ShortShortUInt(b)) => a == *b,
        (ValueRef::I16(a), AMQPValue::ShortInt(b)) => a == *b,
        (ValueRef::U16(a), AMQPValue::ShortUInt(b)) => a == *b,
        (ValueRef::I32(a), AMQPValue::LongInt(b)) => a == *b,
        (ValueRef::U32(a), AMQPValue::LongUInt(b)) => a == *b,
        (ValueRef::I64(a), AMQPValue::LongLongInt(b)) => a == *b,
        (ValueRef::F32(a), AMQPValue::Float(b)) => a.to_bits() == b.to_bits(),
        (ValueRef::F64(a), AMQPValue::Double(b)) => a.to_bits() == b.to_bits(),
        (ValueRef::Decimal { scale, value }, AMQPValue::DecimalValue(b)) => {
            (scale, value) == (b.scale, b.value)
        }
        (ValueRef::LongString(a), AMQPValue::LongString(b)) => a == b.as_bytes(),
        (ValueRef::Binary(a), AMQPValue::ByteArray(b)) => a == b.as_slice(),
        (ValueRef::Timestamp(a), AMQPValue::Timestamp(b)) => a == *b,
        (ValueRef::Void, AMQPValue::Void) => true,
        (ValueRef::Table(a), AMQPValue::FieldTable(b)) => is_same_table(a, b),
        (ValueRef::Array(a), AMQPValue::FieldArray(b)) => {
            a.iter().count() == b.as_slice().len() && a.iter().zip(b.as_slice()).all(|(a, b)| is_same(a, b))
        }
        _ => false,
    }
}

fn is_same_table(ours: Table<'_>, theirs: &FieldTable) -> bool {
    ours.iter().count() == theirs.inner().len()
        && ours.iter().zip(theirs.inner()).all(|(entry, (name, value))| {
            entry.name() == name.as_str().as_bytes() && is_same(entry.value(), value)
        })
}

/// Our entries of their table, in their order.
fn our_table(theirs: &FieldTable) -> TableBuilder {
    let frame = AMQPFrame::Method(
        0,
        AMQPClass::Queue(theirs::queue::AMQPMethod::Declare(theirs::queue::Declare {
            queue: "".into(),
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: theirs.clone(),
        })),
    );
    let bytes = their_bytes(&frame);
    let Ok(Method::QueueDeclare(declare)) = Method::parse(&bytes[7..bytes.len() - 1]) else {
        panic!("{bytes:x?}");
    };
    assert!(is_same_table(declare.arguments, theirs), "{:?} and {theirs:?}", declare.arguments);
    let mut builder = TableBuilder::new();
    for entry in declare.arguments {
        builder.push(entry.name(), entry.value()).unwrap();
    }
    builder
}

fn their_bytes(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0
}

/// Both write the same bytes, and each reads them as its own.
#[track_caller]
fn check(our_method: Method<'_>, their_method: AMQPClass) {
    let frame = AMQPFrame::Method(7, their_method);
    let bytes = their_bytes(&frame);
    let mut out = BytesMut::new();
    put_any_method(&mut out, 7, &our_method).unwrap();
    assert_eq!(&out[..], &bytes[..], "{our_method:?} and {frame:?}");
    let (rest, parsed) = parse_frame(&out[..]).unwrap();
    assert!(rest.is_empty() && parsed == frame, "{parsed:?} and {frame:?}");
    let cut = FrameReader::new(131_072).peek(&bytes).unwrap().unwrap();
    assert_eq!((cut.kind, cut.channel), (FrameKind::Method, 7));
    assert_eq!(Method::parse(cut.payload), Ok(our_method));
}

/// Makes our value of a field of theirs.
macro_rules! our_field {
    ($field:ident shortstr) => {
        $field.as_str().as_bytes()
    };
    ($field:ident longstr) => {
        $field.as_bytes()
    };
    ($field:ident table) => {
        our_table(&$field).into_bytes().leak_as_table()
    };
    ($field:ident $plain:ident) => {
        $field
    };
}

/// Tables of a test live as long as the test program.
trait LeakAsTable {
    fn leak_as_table(self) -> Table<'static>;
}

impl LeakAsTable for Vec<u8> {
    fn leak_as_table(self) -> Table<'static> {
        Table::parse(self.leak()).unwrap()
    }
}

/// Declares a test per class: every method, its fields by name and domain.
macro_rules! methods {
    ($($test:ident $class:ident $class_name:ident { $($name:ident { $($field:ident: $domain:ident),* })* })*) => { $(
        #[test]
        fn $test() {
            for seed in 0..200 {
                let mut random = Random(seed);
                let _ = &mut random;
                $({
                    $(let $field = Domain::random(&mut random);)*
                    let method = theirs::$class::$name { $($field),* };
                    #[allow(clippy::clone_on_copy, reason = "one form for all")]
                    let theirs::$class::$name { $($field),* } = method.clone();
                    let our_method = ours::$class::$name { $($field: our_field!($field $domain),)* ..Default::default() };
                    check(our_method.into(), AMQPClass::$class_name(theirs::$class::AMQPMethod::$name(method)));
                })*
            }
        }
    )* };
}

methods! {
    class_connection connection Connection {
        Start { version_major: octet, version_minor: octet, server_properties: table, mechanisms: longstr,
                locales: longstr }
        StartOk { client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr }
        Secure { challenge: longstr }
        SecureOk { response: longstr }
        Tune { channel_max: short, frame_max: long, heartbeat: short }
        TuneOk { channel_max: short, frame_max: long, heartbeat: short }
        Open { virtual_host: shortstr }
        OpenOk {}
        Close { reply_code: short, reply_text: shortstr, class_id: short, method_id: short }
        CloseOk {}
        Blocked { reason: shortstr }
        Unblocked {}
        UpdateSecret { new_secret: longstr, reason: shortstr }
        UpdateSecretOk {}
    }
    class_channel channel Channel {
        Open {}
        OpenOk {}
        Flow { active: bit }
        FlowOk { active: bit }
        Close { reply_code: short, reply_text: shortstr, class_id: short, method_id: short }
        CloseOk {}
    }
    class_access access Access {
        Request { realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit }
    }
    class_exchange exchange Exchange {
        Declare { exchange: shortstr, kind: shortstr, passive: bit, durable: bit, auto_delete: bit,
                  internal: bit, nowait: bit, arguments: table }
        DeclareOk {}
        Delete { exchange: shortstr, if_unused: bit, nowait: bit }
        DeleteOk {}
        Bind { destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit, arguments: table }
        BindOk {}
        Unbind { destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit,
                 arguments: table }
        UnbindOk {}
    }
    class_queue queue Queue {
        Declare { queue: shortstr, passive: bit, durable: bit, exclusive: bit, auto_delete: bit, nowait: bit,
                  arguments: table }
        DeclareOk { queue: shortstr, message_count: long, consumer_count: long }
        Bind { queue: shortstr, exchange: shortstr, routing_key: shortstr, nowait: bit, arguments: table }
        BindOk {}
        Purge { queue: shortstr, nowait: bit }
        PurgeOk { message_count: long }
        Delete { queue: shortstr, if_unused: bit, if_empty: bit, nowait: bit }
        DeleteOk { message_count: long }
        Unbind { queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table }
        UnbindOk {}
    }
    class_basic basic Basic {
        Qos { prefetch_count: short, global: bit }
        QosOk {}
        Consume { queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit, exclusive: bit,
                  nowait: bit, arguments: table }
        ConsumeOk { consumer_tag: shortstr }
        Cancel { consumer_tag: shortstr, nowait: bit }
        CancelOk { consumer_tag: shortstr }
        Publish { exchange: shortstr, routing_key: shortstr, mandatory: bit, immediate: bit }
        Return { reply_code: short, reply_text: shortstr, exchange: shortstr, routing_key: shortstr }
        Deliver { consumer_tag: shortstr, delivery_tag: longlong, redelivered: bit, exchange: shortstr,
                  routing_key: shortstr }
        Get { queue: shortstr, no_ack: bit }
        GetOk { delivery_tag: longlong, redelivered: bit, exchange: shortstr, routing_key: shortstr,
                message_count: long }
        GetEmpty {}
        Ack { delivery_tag: longlong, multiple: bit }
        Reject { delivery_tag: longlong, requeue: bit }
        RecoverAsync { requeue: bit }
        Recover { requeue: bit }
        RecoverOk {}
        Nack { delivery_tag: longlong, multiple: bit, requeue: bit }
    }
    class_tx tx Tx {
        Select {}
        SelectOk {}
        Commit {}
        CommitOk {}
        Rollback {}
        RollbackOk {}
    }
    class_confirm confirm Confirm {
        Select { nowait: bit }
        SelectOk {}
    }
}

fn maybe<T: Domain>(random: &mut Random) -> Option<T> {
    random.bool().then(|| T::random(random))
}

/// Sets a property of theirs if it is there.
macro_rules! with {
    ($properties:ident, $($setter:ident $value:ident),*) => {
        $(if let Some(value) = $value.clone() { $properties = $properties.$setter(value); })*
    };
}

#[test]
fn content_headers() {
    for seed in 0..500 {
        let random = &mut Random(seed);
        let strings: [Option<ShortString>; 10] = std::array::from_fn(|_| maybe(random));
        let [a, b, c, d, e, f, g, h, i, j] = &strings;
        let (mode, priority): (Option<u8>, Option<u8>) = (maybe(random), maybe(random));
        let (time, table): (Option<u64>, Option<FieldTable>) = (maybe(random), maybe(random));
        let mut properties = theirs::basic::AMQPProperties::default();
        with!(properties, with_content_type a, with_content_encoding b, with_headers table,
            with_delivery_mode mode, with_priority priority, with_correlation_id c, with_reply_to d,
            with_expiration e, with_message_id f, with_timestamp time, with_type g, with_user_id h,
            with_app_id i, with_cluster_id j);
        let body_size = random.next();
        let frame = AMQPFrame::Header(7, AMQPContentHeader { class_id: 60, body_size, properties });
        let bytes = their_bytes(&frame);

        let headers = table.as_ref().map(our_table);
        let [a, b, c, d, e, f, g, h, i, j] =
            strings.each_ref().map(|string| string.as_ref().map(|string| string.as_str().as_bytes()));
        let ours = BasicProperties {
            content_type: a,
            content_encoding: b,
            headers: headers.as_ref().map(TableBuilder::as_table),
            delivery_mode: mode,
            priority,
            correlation_id: c,
            reply_to: d,
            expiration: e,
            message_id: f,
            timestamp: time,
            kind: g,
            user_id: h,
            app_id: i,
            cluster_id: j,
        };
        let mut encoded = BytesMut::new();
        ours.encode(&mut encoded).unwrap();
        let mut out = BytesMut::new();
        let properties = Properties::parse(&encoded).unwrap();
        put_content_header(&mut out, 7, body_size, properties, 131_072).unwrap();
        assert_eq!(&out[..], &bytes[..]);
        let (rest, parsed) = parse_frame(&out[..]).unwrap();
        assert!(rest.is_empty() && parsed == frame);
        let header = ContentHeader::parse(&bytes[7..bytes.len() - 1]).unwrap();
        assert_eq!((header.body_size_bytes, header.properties.decode()), (body_size, ours));
    }
}
