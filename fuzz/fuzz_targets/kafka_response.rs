//! Decodes a Kafka response body. The first byte is the API key, the second the version.
//!
//! Beyond not panicking: what decodes encodes, and decodes to the same again.
#![no_main]

use bytes::Bytes;
use ferrymq_kafka_codec::{ApiKey, Decoder, Encoder, ResponseKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [key, version, body @ ..] = data else { return };
    let Some(api) = ApiKey::from_id(i16::from(*key)) else { return };
    let version = i16::from(*version);
    let frame = Bytes::copy_from_slice(body);
    let Ok(message) = ResponseKind::decode(api, &mut Decoder::new(&frame), version) else { return };
    let mut encoder = Encoder::new();
    message.encode(&mut encoder, version).expect("what decodes encodes");
    let frame = encoder.finish().to_bytes();
    let mut decoder = Decoder::new(&frame);
    let again = ResponseKind::decode(api, &mut decoder, version).expect("what encodes decodes");
    decoder.finish().expect("nothing is left");
    // Compared as text: a NaN does not equal itself.
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
});
