//! Properties in place: each alone, all together, changed, and refused.

use super::*;
use crate::table::ValueRef;
use crate::table_builder::TableBuilder;

const ALL: BasicProperties<'static> = BasicProperties {
    content_type: Some(b"text/plain"),
    content_encoding: Some(b"gzip"),
    headers: Some(Table::EMPTY),
    delivery_mode: Some(2),
    priority: Some(9),
    correlation_id: Some(b"c"),
    reply_to: Some(b"amq.rabbitmq.reply-to"),
    expiration: Some(b"60000"),
    message_id: Some(b"m"),
    timestamp: Some(1_700_000_000),
    kind: Some(b"order"),
    user_id: Some(b"guest"),
    app_id: Some(b"shop"),
    cluster_id: Some(b""),
};

fn encoded(properties: &BasicProperties<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    properties.encode(&mut out).unwrap();
    out.to_vec()
}

#[test]
fn all_of_them_and_each_alone() {
    assert_eq!(ALL.flags(), FLAGS);
    assert_eq!(Properties::parse(&encoded(&ALL)).unwrap().decode(), ALL);
    let none = BasicProperties::default();
    assert_eq!(encoded(&none), Properties::EMPTY.as_bytes());
    assert_eq!(Properties::EMPTY.decode(), none);
    let alone = [
        BasicProperties { content_type: ALL.content_type, ..none },
        BasicProperties { content_encoding: ALL.content_encoding, ..none },
        BasicProperties { headers: ALL.headers, ..none },
        BasicProperties { delivery_mode: ALL.delivery_mode, ..none },
        BasicProperties { priority: ALL.priority, ..none },
        BasicProperties { correlation_id: ALL.correlation_id, ..none },
        BasicProperties { reply_to: ALL.reply_to, ..none },
        BasicProperties { expiration: ALL.expiration, ..none },
        BasicProperties { message_id: ALL.message_id, ..none },
        BasicProperties { timestamp: ALL.timestamp, ..none },
        BasicProperties { kind: ALL.kind, ..none },
        BasicProperties { user_id: ALL.user_id, ..none },
        BasicProperties { app_id: ALL.app_id, ..none },
        BasicProperties { cluster_id: ALL.cluster_id, ..none },
    ];
    for (index, properties) in alone.iter().enumerate() {
        assert_eq!(properties.flags(), 0x8000 >> index);
        assert_eq!(Properties::parse(&encoded(properties)).unwrap().decode(), *properties);
    }
}

#[test]
fn changing_some_keeps_the_rest() {
    let mut headers = TableBuilder::new();
    headers.push(b"x", ValueRef::I32(1)).unwrap().push(b"x", ValueRef::Void).unwrap();
    let before = encoded(&BasicProperties { headers: Some(headers.as_table()), ..ALL });
    let mut changed = Properties::parse(&before).unwrap().decode();
    changed.expiration = None;
    let mut more = TableBuilder::new();
    for entry in changed.headers.unwrap() {
        more.push_entry(entry).unwrap();
    }
    more.push(b"x-death", ValueRef::I64(1)).unwrap();
    changed.headers = Some(more.as_table());
    let after = encoded(&changed);
    let after = Properties::parse(&after).unwrap();
    assert_eq!(after.expiration(), None);
    assert_eq!(after.message_id(), Some(&b"m"[..]));
    let names: Vec<&[u8]> = after.headers().unwrap().iter().map(|entry| entry.name()).collect();
    assert_eq!(names, [&b"x"[..], b"x", b"x-death"]);
}

#[test]
fn what_is_wrong_is_refused() {
    let check = |bytes: &[u8], error| assert_eq!(Properties::parse(bytes), Err(error), "{bytes:x?}");
    check(b"", DecodeError::Truncated);
    check(b"\x10", DecodeError::Truncated);
    check(b"\x10\0", DecodeError::Truncated);
    check(b"\x80\0\x02a", DecodeError::Truncated);
    check(b"\0\x40\0\0\0\0\0\0\0", DecodeError::Truncated);
    check(b"\x10\0\x02\x02", DecodeError::TrailingBytes { count: 1 });
    check(b"\0\x01\0\0", DecodeError::PropertyFlags { flags: 1 });
    check(b"\x20\0\0\0\0\x02\x01a", DecodeError::FieldLength);
    let ignored = Properties::parse(b"\x10\x02\x02").unwrap();
    assert_eq!((ignored.delivery_mode(), ignored.as_bytes()), (Some(2), &b"\x10\x02\x02"[..]));
    let mut out = BytesMut::from(&b"before"[..]);
    let long = [0; 256];
    let error = BasicProperties { app_id: Some(&long), ..ALL }.encode(&mut out);
    assert_eq!(error, Err(EncodeError::ShortStringTooLong { size_bytes: 256 }));
    assert_eq!(&out[..], b"before");
}

#[test]
fn a_content_header_is_basic_and_has_no_weight() {
    let payload = b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\x10\0\x02";
    let header = ContentHeader::parse(payload).unwrap();
    assert_eq!((header.body_size_bytes, header.properties.delivery_mode()), (5, Some(2)));
    let with = |at: usize, octet| {
        let mut wrong = payload.to_vec();
        wrong[at] = octet;
        ContentHeader::parse(&wrong).map(drop)
    };
    assert_eq!(with(1, 10), Err(DecodeError::ContentClass { class: 10 }));
    assert_eq!(with(3, 1), Err(DecodeError::ContentWeight { weight: 1 }));
    assert_eq!(ContentHeader::parse(&payload[..11]), Err(DecodeError::Truncated));
}
