//! `ferrymq bench null-responder`: speaks enough Kafka to be produced to and consumed from, and stores nothing.
//!
//! **Invariants.** Each topic remembers only its number of partitions; each partition only how many records it was
//! sent. Fetches are answered from one prepared batch, whose base offset stands outside its checksum and is
//! written for each copy, so clients see sound batches at rising offsets.
//!
//! Deliberately absent: groups, transactions, everything that would take memory or time.

mod answer;

use std::collections::HashMap;
use std::sync::Arc;

use ferrymq_kafka_client::connection::FrameReader;
use ferrymq_kafka_codec::{ApiKey, Decoder, Frame, Message as _, RequestHeader, messages};
use ferrymq_runtime::{TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::super::out::note;
use super::super::units::parse_bytes;
use answer::{Prepared, Topics};

#[derive(Debug, clap::Args)]
pub(crate) struct NullArgs {
    /// Where to listen; port 0 takes a free one and says which
    #[arg(long, default_value = "127.0.0.1:9099", value_name = "HOST:PORT")]
    listen: String,
    /// Partitions of topics nobody created
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    partitions: u32,
    /// Bytes of each message's value in fetch answers
    #[arg(long, default_value = "1024", value_parser = parse_bytes, value_name = "BYTES")]
    message_bytes: usize,
    /// Bytes of each batch in fetch answers
    #[arg(long, default_value = "128k", value_parser = parse_bytes, value_name = "BYTES")]
    batch_bytes: usize,
    /// Records each partition claims to hold
    #[arg(long, default_value_t = 1_000_000_000, value_name = "RECORDS")]
    records: i64,
}

/// What all connections share.
struct Responder {
    host: String,
    port: i32,
    partitions_default: u32,
    topics: Mutex<Topics>,
    prepared: Prepared,
    records: i64,
}

pub(super) async fn run(args: NullArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(&args.listen).await?;
    let address = listener.local_addr()?;
    let responder = Arc::new(Responder {
        host: address.ip().to_string(),
        port: i32::from(address.port()),
        partitions_default: args.partitions,
        topics: Mutex::new(HashMap::new()),
        prepared: Prepared::new(args.message_bytes, args.batch_bytes),
        records: args.records,
    });
    note(format_args!("answering Kafka on {address}, storing nothing"));
    let tasks = Tasks::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = &mut interrupted => return Ok(()),
        };
        let responder = responder.clone();
        tasks.spawn(TaskKind::Connection, "null-responder", async move {
            if let Err(error) = serve(stream, &responder).await {
                note(format_args!("connection ended: {error}"));
            }
        });
    }
}

async fn serve(mut stream: TcpStream, responder: &Responder) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.split();
    let mut frames = FrameReader::default();
    while let Some(frame) = frames.next(&mut read).await? {
        let mut decoder = Decoder::new(&frame);
        let header = RequestHeader::decode(&mut decoder)?;
        if let Some(mut answer) = responder.answer(&header, &mut decoder)? {
            write.write_all_buf(&mut answer).await?;
        }
    }
    Ok(())
}

impl Responder {
    /// The answer to a request; nothing for Produce with acks=0.
    fn answer(&self, header: &RequestHeader, decoder: &mut Decoder<'_>) -> anyhow::Result<Option<Frame>> {
        let (version, id) = (header.api_version, header.correlation_id);
        let api = header.api().ok_or_else(|| anyhow::anyhow!("unknown API {}", header.api_key))?;
        let frame = match api {
            ApiKey::ApiVersions => {
                let known = api.decodable().contains(version);
                Frame::response(id, if known { version } else { 0 }, &answer::api_versions(known))
            }
            ApiKey::Metadata => {
                let request = messages::MetadataRequest::decode(decoder, version)?;
                Frame::response(id, version, &self.metadata(&request, version))
            }
            ApiKey::CreateTopics => {
                let request = messages::CreateTopicsRequest::decode(decoder, version)?;
                Frame::response(id, version, &self.create_topics(&request))
            }
            ApiKey::DeleteTopics => {
                let request = messages::DeleteTopicsRequest::decode(decoder, version)?;
                Frame::response(id, version, &self.delete_topics(&request))
            }
            ApiKey::Produce => {
                let request = messages::ProduceRequest::decode(decoder, version)?;
                if request.acks == 0 {
                    return Ok(None);
                }
                Frame::response(id, version, &answer::produce(request))
            }
            ApiKey::Fetch => {
                let request = messages::FetchRequest::decode(decoder, version)?;
                Frame::response(id, version, &self.fetch(request))
            }
            ApiKey::ListOffsets => {
                let request = messages::ListOffsetsRequest::decode(decoder, version)?;
                Frame::response(id, version, &self.list_offsets(request))
            }
            ApiKey::InitProducerId => {
                let response = messages::InitProducerIdResponse {
                    producer_id: 1,
                    ..messages::InitProducerIdResponse::default()
                };
                Frame::response(id, version, &response)
            }
            other => anyhow::bail!("{other} is not answered here"),
        };
        Ok(Some(frame?))
    }
}
