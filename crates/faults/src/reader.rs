//! Readers: consumers that follow the logs while faults happen, and the last reading of everything.
//!
//! **Invariant.** A [`Span`] holds everything the broker gave between its two offsets, without a jump. What a
//! reader was given must still be there at the end, whatever was acknowledged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_kafka_codec::messages::fetch::PartitionData;
use ferrymq_kafka_codec::{ErrorCode, Records};

use crate::batch;
use crate::client::Client;
use crate::history::Span;
use crate::ops;
use crate::world::{Kind, Log, World};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
const OUT_OF_RANGE: i16 = ErrorCode::OffsetOutOfRange as i16;

/// A consumer that follows logs from their beginning.
pub(crate) struct Reader {
    world: Arc<World>,
    number: u32,
    /// The logs and where to read on.
    logs: Vec<(Arc<Log>, i64)>,
    spans: Vec<Span>,
}

impl Reader {
    /// A reader at the beginning of its logs; `number` tells it from others.
    pub(crate) fn new(world: Arc<World>, number: u32, logs: Vec<Arc<Log>>) -> Reader {
        Reader { world, number, logs: logs.into_iter().map(|log| (log, 0)).collect(), spans: Vec::new() }
    }

    /// Reads until the run stops.
    pub(crate) fn run(mut self) {
        while !self.world.stopping() {
            let Some(address) = self.world.server() else { continue };
            let result =
                self.world.connect(address, PATIENCE).and_then(|mut client| self.follow(&mut client));
            if let Err(error) = result {
                self.world.broke("fetch", &error);
                self.world.pause(Duration::from_millis(20));
            }
        }
        self.world.history.lock().spans.append(&mut self.spans);
    }

    fn follow(&mut self, client: &mut Client) -> io::Result<()> {
        while !self.world.stopping() {
            let began = self.world.now();
            let floors: Vec<i64> =
                self.logs.iter().map(|(log, _)| log.floor.load(Ordering::SeqCst)).collect();
            let wanted = self.logs.iter().map(|(log, from)| (&*log.topic, log.partition, *from));
            let answer = ops::fetch(client, wanted, 100)?;
            for (topic, data) in answer {
                let place = self
                    .logs
                    .iter()
                    .position(|(log, _)| log.topic == topic && log.partition == data.partition_index);
                let Some(place) = place else {
                    self.world.violation("fetch-answered-wrongly", || format!("{topic} was not asked for"));
                    continue;
                };
                self.one(client, place, &data, floors[place], began)?;
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        client: &mut Client,
        place: usize,
        data: &PartitionData,
        floor: i64,
        began: u64,
    ) -> io::Result<()> {
        let (log, from) = &mut self.logs[place];
        match data.error_code {
            0 => {
                let mut span = Span::starting_at(self.number, log.index, *from, began);
                take(&self.world, log, &mut span, data, floor);
                *from = span.to;
                if !span.runs.is_empty() {
                    self.spans.push(span);
                }
            }
            OUT_OF_RANGE => *from = jump(&self.world, client, log, *from)?,
            code => {
                self.world.error("fetch", code);
                self.world.pause(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

/// Adds an answer's records to a span.
fn take(world: &World, log: &Log, span: &mut Span, data: &PartitionData, floor: i64) {
    let end = data.high_watermark;
    if end < floor {
        let what = || format!("{log}: the end is {end}, a client was told {floor} before");
        world.violation("end-of-log-went-back", what);
    }
    log.floor.fetch_max(end, Ordering::SeqCst);
    let bytes = data.records.as_ref().map(Records::to_bytes).unwrap_or_default();
    let (from, mut seen) = (span.to, 0);
    let next = batch::decode(&bytes, from, &mut |offset, value| {
        seen += 1;
        span.push(offset, value);
    });
    world.counts.read.fetch_add(seen, Ordering::Relaxed);
    match next {
        Ok(Some(next)) => {
            if next > end {
                world.violation("read-past-the-end", || format!("{log}: {next} read, the end is {end}"));
            }
            span.to = span.to.max(next);
        }
        Ok(None) => {}
        Err(what) => world.violation("damaged-records", || format!("{log} from {from}: {what}")),
    }
    span.during.ended = world.now();
}

/// Where to read on when the broker says that the place is out of range.
fn jump(world: &World, client: &mut Client, log: &Log, from: i64) -> io::Result<i64> {
    let (Ok(start), Ok(end)) = (
        ops::offset_at(client, &log.topic, log.partition, ops::EARLIEST)?,
        ops::offset_at(client, &log.topic, log.partition, ops::LATEST)?,
    ) else {
        return Ok(from);
    };
    if (start..=end).contains(&from) {
        return Ok(from);
    }
    if from > end {
        let what = || format!("{log}: read up to {from}, now the log is {start}..{end}");
        world.violation("read-then-vanished", what);
    } else if log.kind == Kind::Kept || log.kind == Kind::Trimmed && start > trim_asked(log) {
        let what = || format!("{log}: starts at {start}, nobody deleted beyond {}", trim_asked(log));
        world.violation("beginning-lost", what);
    }
    Ok(start)
}

fn trim_asked(log: &Log) -> i64 {
    log.trim_asked.load(Ordering::SeqCst)
}

/// Reads a whole log, from where it starts to where it ends now.
pub(crate) fn read_all(world: &World, client: &mut Client, log: &Log) -> io::Result<Span> {
    let bound = |client: &mut Client, point| {
        let found = ops::offset_at(client, &log.topic, log.partition, point)?;
        found.map_err(|code| io::Error::other(format!("{log}: its ends could not be listed: error {code}")))
    };
    let floor = log.floor.load(Ordering::SeqCst);
    let start = bound(client, ops::EARLIEST)?;
    let end = bound(client, ops::LATEST)?;
    if end < floor {
        let what = || format!("{log}: the end is {end}, a client was told {floor} before");
        world.violation("end-of-log-went-back", what);
    }
    let mut span = Span::starting_at(0, log.index, start, world.now());
    while span.to < end {
        let before = span.to;
        let answer = ops::fetch(client, [(&*log.topic, log.partition, span.to)].into_iter(), 1_000)?;
        let Some((_, data)) = answer.first() else {
            return Err(io::Error::other(format!("{log}: no answer from offset {before}")));
        };
        if data.error_code != 0 {
            let what = format!("{log}: error {} at offset {before} of {start}..{end}", data.error_code);
            return Err(io::Error::other(what));
        }
        take(world, log, &mut span, data, 0);
        if span.to == before {
            // A consumer that reads to the end it was told would wait for ever.
            let what = || format!("{log}: nothing comes from {before}, the end is {end}");
            world.violation("no-way-to-the-end", what);
            span.to = end;
        }
    }
    Ok(span)
}
