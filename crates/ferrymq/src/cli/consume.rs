//! `ferrymq consume`: reads records and prints them.
//!
//! **Invariants.** Without `--follow` it ends where the log ended when it started, whatever is written meanwhile.
//! A closed pipe and Ctrl-C are clean ends; what was read is printed before.

use std::collections::BTreeMap;
use std::str::FromStr;

use ferrymq_kafka_client::{Client, ConsumedRecord, Consumer, ConsumerConfig, Fetched, OffsetSpec};
use serde_json::{Value, json};

use super::connect::ConnectArgs;
use super::format::Format;
use super::out::{Out, Output};
use super::units::{parse_bytes, parse_instant};
use super::usage;

/// A place in a log, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Beginning,
    End,
    Offset(i64),
    /// So many before the end.
    Last(i64),
    /// The first record at or after so many milliseconds since 1970.
    Time(i64),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        match text {
            "beginning" | "start" | "earliest" => Ok(Place::Beginning),
            "end" | "latest" => Ok(Place::End),
            _ => match (text.strip_prefix('@'), text.strip_prefix('-')) {
                (Some(time), _) => return parse_instant(time).map(Place::Time),
                (_, Some(last)) => number(last).map(Place::Last),
                _ => number(text).map(Place::Offset),
            }
            .ok_or_else(|| "expected beginning, end, an offset, -N for the last N, or @TIME".to_owned()),
        }
    }
}

impl Place {
    /// The offset in each partition, within the log's ends.
    pub(crate) async fn offsets(
        self,
        client: &Client,
        topic: &str,
        partitions: &[u32],
    ) -> anyhow::Result<Vec<(u32, i64)>> {
        let first = lookup(client, topic, partitions, OffsetSpec::Earliest).await?;
        let end = lookup(client, topic, partitions, OffsetSpec::Latest).await?;
        let timed = match self {
            Place::Time(at) => lookup(client, topic, partitions, OffsetSpec::Timestamp(at)).await?,
            _ => BTreeMap::new(),
        };
        let offset = |partition: &u32| {
            let (first, end) =
                (first.get(partition).copied().unwrap_or(0), end.get(partition).copied().unwrap_or(0));
            let offset = match self {
                Place::Beginning => first,
                Place::End => end,
                Place::Offset(offset) => offset,
                Place::Last(count) => end - count,
                // No record is as late: the end.
                Place::Time(_) => timed.get(partition).copied().unwrap_or(end),
            };
            (*partition, offset.clamp(first, end.max(first)))
        };
        Ok(partitions.iter().map(offset).collect())
    }
}

async fn lookup(
    client: &Client,
    topic: &str,
    partitions: &[u32],
    spec: OffsetSpec,
) -> anyhow::Result<BTreeMap<u32, i64>> {
    let found = client.offsets(topic, partitions, spec).await?;
    Ok(found.into_iter().filter_map(|(partition, at)| Some((partition, at.offset?))).collect())
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Format fields: %t topic, %p partition, %o offset, %T timestamp in ms, %k key, %v value,\n\
    %h headers, %K and %V the lengths of key and value, %% a percent sign; \\n \\t \\0 \\xNN are understood.\n\n\
    Examples:\n  \
    ferrymq consume orders\n  \
    ferrymq consume orders --from -10 --format '%p/%o %k: %v\\n'\n  \
    ferrymq consume orders --from end --follow --output json | jq .value\n  \
    ferrymq consume orders --from @2026-01-31T12:00:00Z --count 1"
)]
pub(crate) struct ConsumeArgs {
    /// The topic
    topic: String,
    /// Where to begin: beginning, end, an offset, -N for the last N of each partition, or @TIME (milliseconds
    /// since 1970 or a UTC date)
    #[arg(long, default_value = "beginning", allow_hyphen_values = true, value_name = "WHERE")]
    from: Place,
    /// Go on when the end is reached
    #[arg(long, short = 'F')]
    follow: bool,
    /// End where the log ends now: what happens without --follow
    #[arg(long, short = 'e', conflicts_with = "follow")]
    exit_at_end: bool,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "RECORDS")]
    count: Option<u64>,
    /// Partitions to read; all by default. May be repeated
    #[arg(long = "partition", short, value_name = "NUMBER")]
    partitions: Vec<u32>,
    /// How a record is printed
    #[arg(long, short, default_value = "%v\\n", value_name = "FORMAT", conflicts_with = "output")]
    format: String,
    /// What is printed for a null key or value
    #[arg(long, default_value = "", value_name = "TEXT")]
    null_as: String,
    /// `json` prints one object per record and line
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Bytes of one fetch
    #[arg(long, default_value = "8m", value_parser = parse_bytes, value_name = "BYTES")]
    fetch_bytes: usize,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What was asked for, and what of it is left.
struct Reading {
    format: Format,
    json: bool,
    out: Out,
    line: Vec<u8>,
    records_left: u64,
    /// Where to end in each partition that has not reached it; not looked at when following.
    ends: BTreeMap<u32, i64>,
    follow: bool,
}

pub(crate) async fn run(args: ConsumeArgs) -> anyhow::Result<()> {
    let format = Format::parse(&args.format, &args.null_as).map_err(usage)?;
    let client = args.connect.client().await?;
    let info = client.topic(&args.topic, false).await?;
    let all: Vec<u32> = info.partitions.iter().map(|one| one.partition).collect();
    let mut partitions = if args.partitions.is_empty() { all } else { args.partitions.clone() };
    partitions.sort_unstable();
    partitions.dedup();
    let starts = args.from.offsets(&client, &args.topic, &partitions).await?;
    let mut ends = lookup(&client, &args.topic, &partitions, OffsetSpec::Latest).await?;
    ends.retain(|partition, end| starts.iter().any(|(one, start)| one == partition && start < end));
    let mut reading = Reading {
        format,
        json: args.output == Output::Json,
        out: Out::new(),
        line: Vec::new(),
        records_left: args.count.unwrap_or(u64::MAX),
        ends,
        follow: args.follow,
    };
    let starts =
        starts.into_iter().filter(|(one, _)| reading.follow || reading.ends.contains_key(one)).collect();
    let config = ConsumerConfig { max_bytes: args.fetch_bytes, ..ConsumerConfig::default() };
    let mut consumer = Consumer::from_offsets(client, &info, starts, config);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while !reading.is_done() {
        let answer = tokio::select! {
            answer = consumer.next() => answer?,
            _ = &mut interrupted => break,
        };
        for fetched in &answer {
            reading.print(fetched)?;
        }
        reading.out.flush()?;
    }
    reading.out.flush()
}

impl Reading {
    fn is_done(&self) -> bool {
        self.records_left == 0 || (!self.follow && self.ends.is_empty())
    }

    fn print(&mut self, fetched: &Fetched) -> anyhow::Result<()> {
        let end = if self.follow { Some(i64::MAX) } else { self.ends.get(&fetched.partition).copied() };
        let Some(end) = end else { return Ok(()) };
        for record in fetched.records() {
            let record = record?;
            if record.offset >= end || self.records_left == 0 {
                break;
            }
            self.records_left -= 1;
            if self.json {
                self.out.json_line(&as_json(fetched, &record))?;
            } else {
                self.line.clear();
                self.format.write(&fetched.topic, fetched.partition, &record, &mut self.line);
                self.out.bytes(&self.line)?;
            }
        }
        if fetched.next >= end {
            self.ends.remove(&fetched.partition);
        }
        Ok(())
    }
}

fn as_json(fetched: &Fetched, record: &ConsumedRecord) -> Value {
    let mut value = json!({
        "topic": &*fetched.topic, "partition": fetched.partition, "offset": record.offset,
        "timestamp": record.timestamp,
    });
    put_bytes(&mut value, "key", record.key.as_deref());
    put_bytes(&mut value, "value", record.value.as_deref());
    let header = |header: &ferrymq_types::Header| {
        let mut value = json!({ "name": String::from_utf8_lossy(&header.key) });
        put_bytes(&mut value, "value", header.value.as_deref());
        value
    };
    value["headers"] = record.headers.iter().map(header).collect();
    value
}

/// Text as text, other bytes in base64 under another name.
fn put_bytes(object: &mut Value, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => object[name] = Value::Null,
        Some(Ok(text)) => object[name] = text.into(),
        Some(Err(bytes)) => object[format!("{name}_base64")] = base64(bytes).into(),
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for index in 0..4 {
            let digit = ALPHABET[((bits >> (18 - 6 * index)) & 63) as usize];
            out.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed() {
        assert_eq!("beginning".parse(), Ok(Place::Beginning));
        assert_eq!("end".parse(), Ok(Place::End));
        assert_eq!("17".parse(), Ok(Place::Offset(17)));
        assert_eq!("-5".parse(), Ok(Place::Last(5)));
        assert_eq!("@1234".parse(), Ok(Place::Time(1234)));
        for bad in ["", "-", "--5", "middle", "@", "@noon", "1.5"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_in_json() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (&[0xff; 4], "/////w==")]
        {
            assert_eq!(base64(bytes), text);
        }
        let mut object = json!({});
        put_bytes(&mut object, "a", Some(b"text"));
        put_bytes(&mut object, "b", Some(&[0xff]));
        put_bytes(&mut object, "c", None);
        assert_eq!(object, json!({ "a": "text", "b_base64": "/w==", "c": null }));
    }
}
