//! Takes bytes as a record of a Kafka client, and as the properties of an AMQP message, through the mapping and back.
//!
//! Beyond not panicking: the record is the same again, and so is the message, unless it has the form of a Kafka-born one.
#![no_main]

use bytes::Bytes;
use ferrymq_amqp_codec::Properties;
use ferrymq_mapping::{AmqpMessage, KafkaRecord, Place, to_message, to_record};
use ferrymq_types::RecordKey;
use ferrymq_types::record::Records;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    if let Some(Ok(record)) = Records::new(data.clone(), 1).next() {
        let record = KafkaRecord { key: record.key, value: record.value, headers: record.headers };
        for place in [None, Some(Place { offset: 7, partition: Some(1), topic: Some("t") })] {
            let message = to_message(&record, 1_234, place);
            Properties::parse(&message.properties).expect("what is delivered can be read");
            // A record may say by which rule it has its key.
            let named = record.headers.iter().filter(|header| header.key == "amqp.key");
            let named = named.filter_map(|header| std::str::from_utf8(header.value.as_ref()?).ok());
            let mut rules = named.filter_map(RecordKey::parse).chain([RecordKey::default()]);
            assert!(rules.any(|rule| to_record(&message, &rule) == record));
        }
    }
    if Properties::parse(&data).is_ok() {
        let message = AmqpMessage {
            exchange: "e".into(),
            routing_key: "rk".into(),
            properties: data,
            body: Bytes::from_static(b"b"),
        };
        for rule in ["routing_key", "header:a", "correlation_id", "none"].map(RecordKey::parse).into_iter().flatten() {
            let record = to_record(&message, &rule);
            let again = to_message(&record, 1_234, None);
            assert_eq!(to_record(&again, &rule), record);
        }
    }
});
