//! Properties of the building blocks, over arbitrary values.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use bytes::{Buf as _, Bytes};
use ferrymq_kafka_codec::messages::sasl_authenticate::SaslAuthenticateRequest;
use ferrymq_kafka_codec::messages::{FindCoordinatorRequest, SaslHandshakeResponse};
use ferrymq_kafka_codec::{Decoder, Encoder, Frame, Message, Records, RequestHeader, StrBytes};
use proptest::prelude::*;

fn runs() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1200), 0..5)
}

fn round_trip<M: Message>(message: &M, version: i16) -> M {
    let mut e = Encoder::new();
    message.encode(&mut e, version).unwrap();
    let bytes = e.finish().to_bytes();
    let mut d = Decoder::new(&bytes);
    let decoded = M::decode(&mut d, version).unwrap();
    d.finish().unwrap();
    decoded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn varints(value: u32) {
        let mut e = Encoder::new();
        e.uvarint(value);
        let bytes = e.finish().to_bytes();
        prop_assert!(bytes.len() <= 5);
        let mut d = Decoder::new(&bytes);
        prop_assert_eq!(d.uvarint(), Ok(value));
        prop_assert_eq!(d.remaining(), 0);
    }

    #[test]
    fn numbers(a: i8, b: i16, c: i32, d: i64, e: u16, f: bool) {
        let mut out = Encoder::new();
        out.i8(a);
        out.i16(b);
        out.i32(c);
        out.i64(d);
        out.u16(e);
        out.bool(f);
        let bytes = out.finish().to_bytes();
        let mut input = Decoder::new(&bytes);
        prop_assert_eq!(input.i8(), Ok(a));
        prop_assert_eq!(input.i16(), Ok(b));
        prop_assert_eq!(input.i32(), Ok(c));
        prop_assert_eq!(input.i64(), Ok(d));
        prop_assert_eq!(input.u16(), Ok(e));
        prop_assert_eq!(input.bool(), Ok(f));
    }

    #[test]
    fn strings_and_bytes(text: String, list: Vec<String>, bytes: Vec<u8>) {
        let key = StrBytes::from(text);
        let find = FindCoordinatorRequest { key: key.clone(), ..FindCoordinatorRequest::default() };
        for version in [0, 3] {
            prop_assert_eq!(&round_trip(&find, version).key, &key);
        }
        let mechanisms: Vec<StrBytes> = list.into_iter().map(StrBytes::from).collect();
        let handshake = SaslHandshakeResponse { error_code: 0, mechanisms };
        prop_assert_eq!(&round_trip(&handshake, 1), &handshake);
        let authenticate = SaslAuthenticateRequest { auth_bytes: Bytes::from(bytes) };
        for version in [1, 2] {
            prop_assert_eq!(&round_trip(&authenticate, version), &authenticate);
        }
    }

    #[test]
    fn text_orders_as_str(a: String, b: String) {
        let order = StrBytes::from(a.clone()).cmp(&StrBytes::from(b.clone()));
        prop_assert_eq!(order, a.as_str().cmp(b.as_str()));
    }

    #[test]
    fn headers(api_version in 0_i16..20, correlation_id: i32, client_id: Option<String>) {
        let client_id = client_id.map(StrBytes::from);
        for header_version in 0..=2 {
            let client_id = client_id.clone().filter(|_| header_version > 0);
            let header = RequestHeader { api_key: 3, api_version, correlation_id, client_id };
            let mut e = Encoder::new();
            header.encode(&mut e, header_version).unwrap();
            let bytes = e.finish().to_bytes();
            let mut d = Decoder::new(&bytes);
            prop_assert_eq!(RequestHeader::decode_as(&mut d, header_version), Ok(header));
            prop_assert_eq!(d.finish(), Ok(()));
        }
    }

    /// However records are cut into runs and however a frame is sent, the bytes are the same.
    #[test]
    fn runs_and_pieces_do_not_show(runs in runs(), mut pieces in prop::collection::vec(1_usize..700, 1..20)) {
        let whole: Vec<u8> = runs.concat();
        let cut: Records = runs.into_iter().map(Bytes::from).collect();
        prop_assert_eq!(&cut, &Records::from(Bytes::from(whole.clone())));
        let mut e = Encoder::new();
        e.i16(1);
        e.nullable_records(Some(&cut)).unwrap();
        e.i16(2);
        let mut frame: Frame = e.finish();
        let expected = [&[0, 1][..], &u32::try_from(whole.len()).unwrap().to_be_bytes(), &whole, &[0, 2]].concat();
        prop_assert_eq!(&frame.to_bytes(), &expected);
        let mut sent = Vec::new();
        while frame.has_remaining() {
            let count = pieces[0].min(frame.chunk().len());
            sent.extend_from_slice(&frame.chunk()[..count]);
            frame.advance(count);
            pieces.rotate_left(1);
        }
        prop_assert_eq!(sent, expected);
    }
}
