//! The codec as a server and a client use it: whole frames, headers, version rules, what is copied.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use bytes::{Buf as _, Bytes};
use ferrymq_kafka_codec::encode::RECORDS_SPLICE_MIN;
use ferrymq_kafka_codec::messages::api_versions::ApiVersion;
use ferrymq_kafka_codec::messages::fetch::{FetchableTopicResponse, PartitionData};
use ferrymq_kafka_codec::messages::produce::{PartitionProduceData, TopicProduceData};
use ferrymq_kafka_codec::messages::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, InitProducerIdRequest,
    MetadataRequest, OffsetFetchRequest, ProduceRequest,
};
use ferrymq_kafka_codec::{
    ApiKey, DecodeError, Decoder, EncodeError, Encoder, ErrorCode, Frame, Message, Records, Request,
    RequestHeader, RequestKind, ResponseHeader, StrBytes, api,
};

fn produce(records: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: "orders".into(),
            partition_data: vec![PartitionProduceData { index: 3, records: Some(records.into()) }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

/// Takes the length off the front of a frame and checks it.
fn without_length(frame: &Frame) -> Bytes {
    let mut bytes = frame.to_bytes();
    assert_eq!(usize::try_from(bytes.get_i32()).unwrap(), bytes.len());
    bytes
}

fn encoded<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut e = Encoder::new();
    message.encode(&mut e, version)?;
    Ok(e.finish().to_bytes())
}

fn round_trip<M: Message>(message: &M, version: i16) -> M {
    let bytes = encoded(message, version).unwrap();
    M::decode(&mut Decoder::new(&bytes), version).unwrap()
}

fn exchange<R: Request>(request: &R, response: &R::Response, version: i16)
where
    RequestKind: From<R>,
{
    let client_id = StrBytes::from("client");
    let frame = without_length(&Frame::request(77, Some(&client_id), version, request).unwrap());
    let mut d = Decoder::new(&frame);
    let header = RequestHeader::decode(&mut d).unwrap();
    assert_eq!((header.api(), header.api_version), (Some(R::API), version));
    assert_eq!((header.correlation_id, header.client_id.as_deref()), (77, Some("client")));
    let decoded = RequestKind::decode(R::API, &mut d, version).unwrap();
    d.finish().unwrap();
    assert_eq!(decoded, RequestKind::from(request.clone()));

    let frame = without_length(&Frame::response(77, version, response).unwrap());
    let mut d = Decoder::new(&frame);
    assert_eq!(ResponseHeader::decode(&mut d, R::API, version).unwrap().correlation_id, 77);
    assert_eq!(&R::Response::decode(&mut d, version).unwrap(), response);
    d.finish().unwrap();
}

#[test]
fn whole_frames_in_old_and_flexible_versions() {
    let versions = ApiVersionsResponse {
        api_keys: vec![ApiVersion { api_key: 18, min_version: 0, max_version: 4 }],
        ..ApiVersionsResponse::default()
    };
    for version in ApiKey::ApiVersions.decodable().iter() {
        exchange(&ApiVersionsRequest::default(), &versions, version);
    }
    for version in ApiKey::Fetch.decodable().iter() {
        exchange(&FetchRequest::default(), &FetchResponse::default(), version);
    }
}

#[test]
fn an_unknown_version_of_api_versions_can_be_answered() {
    // Version 9, with a tagged field in the header and a body that nobody can read.
    let frame = Bytes::from_static(&[0, 18, 0, 9, 0, 0, 0, 5, 0, 1, b'c', 1, 0, 1, 7, 0xde, 0xad]);
    let mut d = Decoder::new(&frame);
    let header = RequestHeader::decode(&mut d).unwrap();
    assert_eq!((header.correlation_id, header.client_id.as_deref()), (5, Some("c")));
    let unsupported = DecodeError::UnsupportedVersion { api: ApiKey::ApiVersions, version: 9 };
    assert_eq!(RequestKind::decode(ApiKey::ApiVersions, &mut d, 9), Err(unsupported));

    let answer = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: vec![ApiVersion { api_key: 18, min_version: 0, max_version: 4 }],
        ..ApiVersionsResponse::default()
    };
    let frame = without_length(&Frame::response(header.correlation_id, 0, &answer).unwrap());
    assert_eq!(frame, [&[0, 0, 0, 5, 0, 35, 0, 0, 0, 1][..], &[0, 18, 0, 0, 0, 4]].concat());
}

#[test]
fn an_unknown_api_is_an_error_of_its_own() {
    let frame = Bytes::from_static(&[0x03, 0xe8, 0, 0, 0, 0, 0, 5, 0xff, 0xff]);
    let header = RequestHeader::decode(&mut Decoder::new(&frame));
    assert_eq!(header, Err(DecodeError::UnknownApi { key: 1000 }));
}

#[test]
fn trailing_bytes_are_the_servers_to_judge() {
    let bytes = [&encoded(&MetadataRequest::default(), 12).unwrap()[..], &[0, 0]].concat();
    let bytes = Bytes::from(bytes);
    let mut d = Decoder::new(&bytes);
    assert!(RequestKind::decode(ApiKey::Metadata, &mut d, 12).is_ok());
    assert_eq!(d.remaining(), 2);
    assert_eq!(d.finish(), Err(DecodeError::TrailingBytes { count: 2 }));
}

#[test]
fn absent_fields_decode_to_their_defaults() {
    let request = FetchRequest { max_bytes: 1 << 20, session_epoch: 4, ..FetchRequest::default() };
    let old = round_trip(&request, 4);
    assert_eq!(old, FetchRequest { session_epoch: -1, ..request });
}

#[test]
fn what_a_version_cannot_carry_is_refused() {
    let fenced = InitProducerIdRequest { producer_id: 7, ..InitProducerIdRequest::default() };
    let error = EncodeError::FieldNotInVersion { field: "InitProducerIdRequest.producer_id", version: 2 };
    assert_eq!(encoded(&fenced, 2), Err(error));
    assert_eq!(round_trip(&fenced, 3), fenced);

    let all_topics = OffsetFetchRequest { topics: None, ..OffsetFetchRequest::default() };
    let error = EncodeError::NullNotInVersion { field: "OffsetFetchRequest.topics", version: 1 };
    assert_eq!(encoded(&all_topics, 1), Err(error));
    assert_eq!(round_trip(&all_topics, 2), all_topics);

    // And the same null from a peer: an empty group, then a count of -1.
    let null = Bytes::from_static(&[0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(OffsetFetchRequest::decode(&mut Decoder::new(&null), 1), Err(DecodeError::InvalidNull));
    assert!(OffsetFetchRequest::decode(&mut Decoder::new(&null), 2).is_ok());
}

#[test]
fn versions_outside_the_table_are_refused() {
    for (api, range) in api::decodable() {
        for version in [range.min - 1, range.max + 1, i16::MIN, i16::MAX] {
            let result = RequestKind::decode(api, &mut Decoder::new(&Bytes::new()), version);
            assert_eq!(result, Err(DecodeError::UnsupportedVersion { api, version }));
        }
    }
    let error = EncodeError::UnsupportedVersion { api: ApiKey::Produce, version: 2 };
    assert_eq!(encoded(&ProduceRequest::default(), 2), Err(error));
}

#[test]
fn produced_records_are_a_slice_of_the_frame() {
    let records = Bytes::from(vec![7; 10_000]);
    let bytes = encoded(&produce(records.clone()), 9).unwrap();
    let inside = bytes.as_ptr_range();
    let mut decoded = None;
    let memory = allocation_counter::measure(|| {
        decoded = Some(ProduceRequest::decode(&mut Decoder::new(&bytes), 9).unwrap());
    });
    let decoded = decoded.unwrap();
    assert_eq!(decoded, produce(records));
    let records = decoded.topic_data[0].partition_data[0].records.as_ref().unwrap();
    assert!(inside.contains(&records.to_bytes().as_ptr()));
    assert!(inside.contains(&decoded.topic_data[0].name.as_bytes().as_ptr()));
    // One for the topics, one for the partitions, one that makes the frame shared.
    assert!(memory.count_total <= 3, "{memory:?}");
    assert!(memory.bytes_total < 512, "{memory:?}");
}

#[test]
fn fetched_runs_go_out_as_they_are() {
    let runs = [vec![1; 4096], vec![2; RECORDS_SPLICE_MIN], vec![3; 10]].map(Bytes::from);
    let records: Records = runs.iter().cloned().collect();
    let partition = PartitionData { records: Some(records.clone()), ..PartitionData::default() };
    let topic = FetchableTopicResponse { partitions: vec![partition], ..FetchableTopicResponse::default() };
    let response = FetchResponse { responses: vec![topic], ..FetchResponse::default() };
    for version in [4, 11, 12, 18] {
        let frame = Frame::response(1, version, &response).unwrap();
        let chunks: Vec<&Bytes> = frame.chunks().collect();
        assert_eq!(chunks[1].as_ptr(), runs[0].as_ptr());
        assert_eq!(chunks[2].as_ptr(), runs[1].as_ptr());
        assert_eq!(chunks.len(), 4, "the short run is copied into the end of the frame");
        let bytes = without_length(&frame);
        let mut d = Decoder::new(&bytes);
        ResponseHeader::decode(&mut d, ApiKey::Fetch, version).unwrap();
        let decoded = FetchResponse::decode(&mut d, version).unwrap();
        assert_eq!(decoded.responses[0].partitions[0].records, Some(records.clone()));
    }
}

#[test]
fn a_frame_is_cut_where_records_are_deferred() {
    let partition = |front: &'static [u8], deferred| {
        let mut records = Records::from(Bytes::from_static(front));
        records.defer(deferred);
        PartitionData { records: Some(records), ..PartitionData::default() }
    };
    let front: &'static [u8] = &[1; RECORDS_SPLICE_MIN];
    let partitions = vec![partition(front, 700), partition(b"ab", 0), partition(b"", 3), partition(b"cd", 1)];
    let topic = FetchableTopicResponse { partitions, ..FetchableTopicResponse::default() };
    let response = FetchResponse { responses: vec![topic], ..FetchResponse::default() };
    for version in [4, 11, 12, 18] {
        assert_eq!(Frame::response(1, version, &response).unwrap_err(), EncodeError::Deferred);
        let parts = Frame::response_parts(1, version, &response).unwrap();
        assert_eq!(parts.len(), 4);
        let mut whole = parts[0].clone();
        for (part, deferred) in parts[1..].iter().zip([700, 3, 1]) {
            whole.push(Bytes::from(vec![9; deferred]));
            whole.extend(part.clone().into_chunks());
        }
        let bytes = without_length(&whole);
        let mut d = Decoder::new(&bytes);
        ResponseHeader::decode(&mut d, ApiKey::Fetch, version).unwrap();
        let decoded = FetchResponse::decode(&mut d, version).unwrap();
        d.finish().unwrap();
        let records = decoded.responses[0].partitions.iter().map(|data| data.records.as_ref().unwrap());
        let records: Vec<Bytes> = records.map(Records::to_bytes).collect();
        let expected = [[front, &[9; 700]].concat(), b"ab".to_vec(), vec![9; 3], b"cd\x09".to_vec()];
        assert_eq!(records, expected);
    }
}

#[test]
fn no_records_and_empty_records_differ() {
    let partition = |records| PartitionData { records, ..PartitionData::default() };
    for version in [11, 12] {
        assert_eq!(round_trip_partition(partition(None), version).records, None);
        assert_eq!(
            round_trip_partition(partition(Some(Records::new())), version).records,
            Some(Records::new())
        );
    }
}

fn round_trip_partition(partition: PartitionData, version: i16) -> PartitionData {
    let topic = FetchableTopicResponse { partitions: vec![partition], ..FetchableTopicResponse::default() };
    let response = FetchResponse { responses: vec![topic], ..FetchResponse::default() };
    round_trip(&response, version).responses.remove(0).partitions.remove(0)
}

#[test]
fn a_frame_has_a_limit_on_memory() {
    let bytes = encoded(&produce(Bytes::new()), 3).unwrap();
    let with_limit =
        |limit| ProduceRequest::decode(&mut Decoder::with_memory_limit(&bytes, limit), 3).map(|_| ());
    assert_eq!(with_limit(1024), Ok(()));
    assert_eq!(with_limit(16), Err(DecodeError::MemoryLimit));
}
