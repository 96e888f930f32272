//! Checks a record batch as the broker does before it is stored, and reads its records as a consumer would.
//!
//! The input is a batch; its length and its checksum are made true first, so that what lies behind them is
//! reached. Beyond not panicking: what the broker accepts is what a reader finds, record by record.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use ferrymq_broker::TopicConfig;
use ferrymq_broker::settings::TopicDefaults;
use ferrymq_broker::validate::check_batch;
use ferrymq_types::{BatchView, Compression, Records, batch};
use libfuzzer_sys::fuzz_target;

static CONFIG: LazyLock<TopicConfig> = LazyLock::new(|| {
    TopicConfig::new(BTreeMap::new(), &TopicDefaults::default()).expect("the defaults are sound")
});

/// Kafka's batch length counts what is behind it: all but the first twelve bytes.
const LENGTH_COVERS_FROM: usize = 12;

fuzz_target!(|data: &[u8]| {
    if data.len() < batch::HEADER_BYTES {
        return;
    }
    let mut bytes = data.to_vec();
    let length = u32::try_from(data.len() - LENGTH_COVERS_FROM).expect("inputs are short");
    bytes[8..LENGTH_COVERS_FROM].copy_from_slice(&length.to_be_bytes());
    batch::set_crc(&mut bytes);
    let Ok(view) = BatchView::split_from(&mut Bytes::from(bytes)) else { return };
    let Ok(header) = check_batch(&view, &CONFIG, 1_700_000_000_000) else { return };
    if header.compression() != Some(Compression::None) {
        return;
    }
    let records: Vec<_> = Records::new(view.payload(), header.record_count).collect();
    assert_eq!(records.len(), usize::try_from(header.record_count).expect("it was checked"));
    for (index, record) in records.into_iter().enumerate() {
        let record = record.expect("what was accepted can be read");
        assert_eq!(usize::try_from(record.offset_delta).ok(), Some(index));
    }
});
