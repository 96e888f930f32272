//! `ferrymq produce`: lines of stdin, or whole files, become records.
//!
//! **Invariant.** The command succeeds only if every record was acknowledged.

use std::path::PathBuf;
use std::time::Duration;

use ferrymq_kafka_client::{Acks, Producer, ProducerConfig, ProducerRecord, ProducerReport};
use ferrymq_runtime::Clock;
use ferrymq_types::{Compression, Header};

use super::connect::ConnectArgs;
use super::format::{Format, Parsed, find};
use super::input::{Delimited, whole};
use super::out::note;
use super::units::{Escaped, parse_bytes, parse_duration, parse_escaped, parse_pair};
use super::usage;

/// What to wait for before a record counts as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AcksArg {
    /// Nothing
    #[value(name = "0", alias = "none")]
    None,
    /// The leader
    #[value(name = "1", alias = "leader")]
    Leader,
    /// All replicas in sync
    #[value(name = "all", alias = "-1")]
    All,
}

impl AcksArg {
    pub(crate) fn acks(self) -> Acks {
        match self {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::All => Acks::All,
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CompressionArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionArg {
    pub(crate) fn compression(self) -> Compression {
        match self {
            CompressionArg::None => Compression::None,
            CompressionArg::Gzip => Compression::Gzip,
            CompressionArg::Snappy => Compression::Snappy,
            CompressionArg::Lz4 => Compression::Lz4,
            CompressionArg::Zstd => Compression::Zstd,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ferrymq produce orders < orders.txt\n  \
    echo 'anna:3 apples' | ferrymq produce orders --key-separator :\n  \
    ferrymq produce orders --format '%p %k %v' < keyed.txt\n  \
    find . -print0 | ferrymq produce files --null\n  \
    ferrymq produce images --key logo logo.png")]
pub(crate) struct ProduceArgs {
    /// The topic
    topic: String,
    /// Files to send, each as one record; `-` is stdin. Without any, stdin is cut at the delimiter
    files: Vec<PathBuf>,
    /// What ends a record on stdin; \n \t \0 \xNN are understood
    #[arg(long, short = 'D', default_value = "\\n", value_parser = parse_escaped, value_name = "TEXT")]
    delimiter: Escaped,
    /// Records end with a NUL byte, as `find -print0` writes them
    #[arg(long, short = '0', conflicts_with = "delimiter")]
    null: bool,
    /// What stands between key and value; a record without it has no key
    #[arg(long, short = 'K', value_parser = parse_escaped, value_name = "TEXT", conflicts_with = "format")]
    key_separator: Option<Escaped>,
    /// How a record is written: %k key, %v value, %p partition, %T timestamp in ms, and text between them
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,
    /// The key of every record
    #[arg(long, short, conflicts_with_all = ["key_separator", "format"])]
    key: Option<String>,
    /// A header of every record; may be repeated
    #[arg(long = "header", short = 'H', value_parser = parse_pair, value_name = "NAME=VALUE")]
    headers: Vec<(String, String)>,
    /// The partition of every record; by key, or any, if not given
    #[arg(long, short)]
    partition: Option<u32>,
    /// How batches are compressed
    #[arg(long, short = 'z', value_enum, default_value = "none")]
    compression: CompressionArg,
    /// What to wait for
    #[arg(long, short, value_enum, default_value = "all")]
    acks: AcksArg,
    /// Let the broker drop what a retry sends twice
    #[arg(long)]
    idempotent: bool,
    /// How long a record may wait for others to travel with
    #[arg(long, default_value = "5ms", value_parser = parse_duration, value_name = "TIME")]
    linger: Duration,
    /// Bytes of one batch
    #[arg(long, default_value = "128k", value_parser = parse_bytes, value_name = "BYTES")]
    batch_bytes: usize,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How one record of the input becomes key and value.
struct Splitter {
    format: Option<Format>,
    key_separator: Option<Vec<u8>>,
    key: Option<String>,
    partition: Option<u32>,
}

impl Splitter {
    fn split<'a>(&'a self, input: &'a [u8]) -> Result<Parsed<'a>, String> {
        let mut parsed = match (&self.format, &self.key_separator) {
            (Some(format), _) => format.read(input)?,
            (None, Some(separator)) => match find(input, separator) {
                Some(at) => Parsed {
                    key: Some(&input[..at]),
                    value: Some(&input[at + separator.len()..]),
                    ..Parsed::default()
                },
                None => Parsed { value: Some(input), ..Parsed::default() },
            },
            (None, None) => Parsed { value: Some(input), ..Parsed::default() },
        };
        parsed.key = parsed.key.or(self.key.as_deref().map(str::as_bytes));
        parsed.partition = parsed.partition.or(self.partition);
        Ok(parsed)
    }
}

pub(crate) async fn run(args: ProduceArgs) -> anyhow::Result<()> {
    let format = args.format.as_deref().map(|text| Format::parse(text, "")).transpose().map_err(usage)?;
    format.as_ref().map_or(Ok(()), Format::check_input).map_err(usage)?;
    let delimiter = if args.null { vec![0] } else { args.delimiter.clone() };
    if delimiter.is_empty() {
        return Err(usage(
            "an empty --delimiter cuts nothing; pass `-` as a file to send stdin as one record",
        ));
    }
    let splitter = Splitter {
        format,
        key_separator: args.key_separator.clone(),
        key: args.key.clone(),
        partition: args.partition,
    };
    let header = |(key, value): &(String, String)| Header {
        key: key.clone().into_bytes().into(),
        value: Some(value.clone().into_bytes().into()),
    };
    let headers: Vec<Header> = args.headers.iter().map(header).collect();
    let clock = Clock::system();
    let client = args.connect.client_with(clock.clone()).await?;
    let config = ProducerConfig {
        acks: args.acks.acks(),
        linger: args.linger,
        batch_bytes: args.batch_bytes,
        compression: args.compression.compression(),
        idempotent: args.idempotent,
        ..ProducerConfig::default()
    };
    let mut producer = Producer::new(&client, &args.topic, config, None).await?;
    let started = clock.uptime();
    let read = if args.files.is_empty() {
        send_stdin(&mut producer, &splitter, &headers, delimiter).await
    } else {
        send_files(&mut producer, &splitter, &headers, &args.files).await
    };
    // What was read before an error is sent all the same.
    let report = tokio::select! {
        report = producer.flush() => Some(report),
        _ = tokio::signal::ctrl_c() => None,
    };
    let interrupted = report.is_none();
    let report = report.unwrap_or_else(|| producer.report());
    summarise(&args.topic, &report, clock.uptime().saturating_sub(started));
    read?;
    anyhow::ensure!(!interrupted, "interrupted before all records were acknowledged");
    match report.first_error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

async fn send_stdin(
    producer: &mut Producer,
    splitter: &Splitter,
    headers: &[Header],
    delimiter: Vec<u8>,
) -> anyhow::Result<()> {
    let mut input = Delimited::stdin(delimiter)?;
    let mut number = 0u64;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let record = tokio::select! {
            record = input.next() => record?,
            _ = &mut interrupted => None,
        };
        let Some(record) = record else { return Ok(()) };
        number += 1;
        send(producer, splitter, headers, record)
            .await
            .map_err(|error| error.context(format!("record {number}")))?;
    }
}

async fn send_files(
    producer: &mut Producer,
    splitter: &Splitter,
    headers: &[Header],
    files: &[PathBuf],
) -> anyhow::Result<()> {
    for path in files {
        let name = || path.display().to_string();
        let bytes = whole(path).map_err(|error| anyhow::Error::new(error).context(name()))?;
        send(producer, splitter, headers, &bytes).await.map_err(|error| error.context(name()))?;
    }
    Ok(())
}

async fn send(
    producer: &mut Producer,
    splitter: &Splitter,
    headers: &[Header],
    input: &[u8],
) -> anyhow::Result<()> {
    let Parsed { key, value, partition, timestamp } = splitter.split(input).map_err(anyhow::Error::msg)?;
    let record = ProducerRecord { partition, timestamp, key, value, headers, tag: 0 };
    Ok(producer.send(&record).await?)
}

fn summarise(topic: &str, report: &ProducerReport, took: Duration) {
    let ProducerReport { acked_records, acked_bytes, failed_records, .. } = report;
    let seconds = took.as_secs_f64();
    note(format_args!("{topic}: {acked_records} records sent, {acked_bytes} bytes in {seconds:.3} s"));
    if *failed_records > 0 {
        note(format_args!("{topic}: {failed_records} records failed"));
    }
}
