//! Ids, names, and what is no method.

use bytes::BytesMut;

use super::*;
use crate::frame::FRAME_HEAD_BYTES;
use crate::frame_writer::put_any_method;
use crate::table::Table;

#[test]
fn every_method_is_there_once() {
    let mut ids: Vec<MethodId> = Method::NAMES.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), 66);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 66);
    assert_eq!(MethodId { class: 60, method: 40 }.to_string(), "basic.publish");
    assert_eq!(MethodId { class: 40, method: 51 }.to_string(), "exchange.unbind-ok");
    assert_eq!(MethodId { class: 60, method: 41 }.to_string(), "60.41");
}

#[test]
fn what_is_no_method_is_refused() {
    let id = MethodId { class: 60, method: 41 };
    assert_eq!(Method::parse(&[0, 60, 0, 41]), Err(DecodeError::UnknownMethod { id }));
    assert_eq!(MethodId::peek(&[0, 60, 0, 41, 9]), Some(id));
    assert_eq!(MethodId::peek(&[0, 60, 0]), None);
    let payload = Snippet::of(&[0, 60, 0]);
    assert_eq!(Method::parse(&[0, 60, 0]), Err(DecodeError::UnknownFrame { kind: 1, payload }));
    let trailing = DecodeError::TrailingBytes { count: 1 };
    assert_eq!(Method::parse(&[0, 50, 0, 21, 0]), Err(trailing));
    assert_eq!(Method::parse(&[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1]), Err(DecodeError::Truncated));
}

#[test]
fn bits_share_an_octet_and_strings_are_bytes() {
    let declare = queue::Declare {
        queue: b"\xff\xfe",
        passive: true,
        exclusive: true,
        nowait: true,
        arguments: Table::parse(b"\x01aV").unwrap(),
        ..Default::default()
    };
    let mut out = BytesMut::new();
    put_any_method(&mut out, 1, &declare.into()).unwrap();
    let payload = &out[FRAME_HEAD_BYTES..out.len() - 1];
    assert_eq!(payload, b"\0\x32\0\x0a\0\0\x02\xff\xfe\x15\0\0\0\x03\x01aV");
    assert_eq!(Method::parse(payload), Ok(Method::QueueDeclare(declare)));
}

#[test]
fn content_follows_four_methods() {
    let with_content: Vec<&str> = [
        Method::from(basic::Publish::default()),
        basic::Return::default().into(),
        basic::Deliver::default().into(),
        basic::GetOk::default().into(),
        basic::Get::default().into(),
        basic::Ack::default().into(),
    ]
    .iter()
    .filter(|method| method.has_content())
    .map(Method::name)
    .collect();
    assert_eq!(with_content, ["basic.publish", "basic.return", "basic.deliver", "basic.get-ok"]);
}
