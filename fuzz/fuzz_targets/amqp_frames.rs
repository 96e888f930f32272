//! Cuts a stream of AMQP frames and decodes every payload.
//!
//! Beyond not panicking: pieces are cut like the whole, and what decodes encodes, and decodes to the same again.
#![no_main]

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::put_any_method;
use ferrymq_amqp_codec::{ContentHeader, FieldTable, FrameKind, FrameReader, Method, Properties};
use libfuzzer_sys::fuzz_target;

fn check_method(payload: &[u8]) {
    let Ok(method) = Method::parse(payload) else { return };
    let mut out = BytesMut::new();
    put_any_method(&mut out, 1, &method).expect("what decodes encodes");
    assert_eq!(Method::parse(&out[7..out.len() - 1]), Ok(method));
}

fn check_header(payload: &[u8]) {
    let Ok(header) = ContentHeader::parse(payload) else { return };
    let mut out = BytesMut::new();
    header.properties.decode().encode(&mut out).expect("what decodes encodes");
    assert_eq!(Properties::parse(&out).expect("what encodes decodes").decode(), header.properties.decode());
    if let Some(headers) = header.properties.headers() {
        let again = FieldTable::from(headers).to_builder().expect("what decodes encodes");
        // Compared as text: a NaN does not equal itself, and `L` has become `l`.
        assert_eq!(format!("{:?}", again.as_table()), format!("{headers:?}"));
    }
}

fuzz_target!(|data: &[u8]| {
    let reader = FrameReader::new(4096);
    let mut rest = data;
    let mut buffer = BytesMut::new();
    loop {
        let whole = reader.peek(rest);
        let Ok(Some(frame)) = whole else {
            let mut tail = BytesMut::from(rest);
            assert_eq!(reader.next(&mut tail).map(drop), whole.map(drop));
            return;
        };
        match frame.kind {
            FrameKind::Method => check_method(frame.payload),
            FrameKind::Header => check_header(frame.payload),
            FrameKind::Body | FrameKind::Heartbeat => {}
        }
        let (this, after) = rest.split_at(frame.wire_bytes());
        let (first, second) = this.split_at(this.len() / 2);
        buffer.extend_from_slice(first);
        assert_eq!(reader.next(&mut buffer), Ok(None), "half a frame is none");
        buffer.extend_from_slice(second);
        let taken = reader.next(&mut buffer).expect("it was one").expect("it is whole");
        assert_eq!(
            (taken.kind, taken.channel, &taken.payload[..]),
            (frame.kind, frame.channel, frame.payload)
        );
        rest = after;
    }
});
