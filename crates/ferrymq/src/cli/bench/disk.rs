//! `ferrymq bench disk`: a bare write and fdatasync loop, the yardstick for durable latency.
//!
//! Without `--rate` one write and one fdatasync after the other, as a log without group commit would do it; each is
//! timed by itself. A disk that stands still for 50 ms is then one slow sync among tens of thousands. With `--rate` so
//! many writes are due a second, whatever becomes of the earlier ones; all that are due go out together, with one
//! fdatasync, and each is timed from when it was due. Those 50 ms are then 500 late writes at 10,000 a second, as they are
//! to whoever sends messages at that rate: this is what latencies of a broker at a rate are to be compared with.
//!
//! **Invariant.** The file is removed afterwards.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrymq_runtime::Clock;
use serde_json::json;

use super::super::out::Out;
use super::super::units::parse_bytes;
use super::pacer::{Pacer, now_ns};
use super::report::{Latencies, cpu_seconds};

/// Where writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Pattern {
    /// To the end: each sync also writes the file's new size
    Append,
    /// Round and round over blocks written before, as a preallocated log does
    Overwrite,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiskArgs {
    /// The directory to write in; its file system is what is measured
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Bytes of each write
    #[arg(long, default_value = "16k", value_parser = parse_bytes, value_name = "BYTES")]
    write_bytes: usize,
    /// Where writes go
    #[arg(long, value_enum, default_value = "append")]
    pattern: Pattern,
    /// Bytes of the file with --pattern overwrite
    #[arg(long, default_value = "64m", value_parser = parse_bytes, value_name = "BYTES")]
    file_bytes: usize,
    /// Writes that are due per second; those that are due together go out with one fdatasync. Default: one after
    /// the other, as fast as it goes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "RATE")]
    rate: Option<u64>,
    /// End after so many seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// End after so many writes
    #[arg(long)]
    writes: Option<u64>,
}

pub(super) async fn run(args: DiskArgs) -> anyhow::Result<()> {
    let path = args.dir.join(format!(".ferrymq-bench-disk-{}", std::process::id()));
    let result = measure(&args, &path).await;
    let _ = std::fs::remove_file(&path);
    let (latencies, took, cpu) = result?;
    let writes = latencies.count();
    let seconds = took.as_secs_f64();
    let timed = if args.rate.is_some() { "due_to_synced_us" } else { "write_and_fdatasync_us" };
    let mut out = Out::new();
    out.json(&json!({
        "tool": "ferrymq bench disk",
        "version": env!("CARGO_PKG_VERSION"),
        "settings": {
            "dir": args.dir, "write_bytes": args.write_bytes, "file_bytes": args.file_bytes,
            "pattern": format!("{:?}", args.pattern).to_lowercase(), "rate": args.rate,
            "seconds": args.seconds, "writes": args.writes,
        },
        "writes": writes,
        "seconds": seconds,
        "writes_per_second": writes as f64 / seconds.max(1e-9),
        timed: latencies.json(),
        "cpu_seconds": cpu,
    }))?;
    out.flush()
}

async fn measure(args: &DiskArgs, path: &Path) -> anyhow::Result<(Latencies, Duration, f64)> {
    let clock = Clock::system();
    let mut target = Target::new(args, path)?;
    let mut latencies = Latencies::new();
    let (cpu, started) = (cpu_seconds(), clock.uptime());
    let end = started + Duration::from_secs(args.seconds);
    let mut pacer = args.rate.map(|rate| Pacer::start(&clock, rate)).transpose()?;
    while clock.uptime() < end && args.writes.is_none_or(|writes| latencies.count() < writes) {
        let due: Vec<u64> = match &mut pacer {
            Some(pacer) => pacer.due().await?.collect(),
            None => vec![now_ns(&clock)],
        };
        target.write_and_sync(due.len())?;
        let now = now_ns(&clock);
        due.iter().for_each(|due| latencies.record(now.saturating_sub(*due)));
    }
    Ok((latencies, clock.uptime().saturating_sub(started), cpu_seconds() - cpu))
}

/// The file that is written.
struct Target {
    file: File,
    block: Vec<u8>,
    /// Where the file begins anew; `None`: never.
    size: Option<usize>,
    at: usize,
}

impl Target {
    fn new(args: &DiskArgs, path: &Path) -> anyhow::Result<Target> {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        let block = vec![0x5a; args.write_bytes.max(1)];
        let size = (args.file_bytes / block.len()).max(1) * block.len();
        if args.pattern == Pattern::Overwrite {
            for _ in 0..size / block.len() {
                file.write_all(&block)?;
            }
            file.sync_all()?;
            file.seek(SeekFrom::Start(0))?;
        }
        Ok(Target { file, block, size: (args.pattern == Pattern::Overwrite).then_some(size), at: 0 })
    }

    /// So many blocks, one write for all that fit into the file, one sync.
    fn write_and_sync(&mut self, mut blocks: usize) -> anyhow::Result<()> {
        while blocks > 0 {
            let room = self.size.map_or(blocks, |size| (size - self.at) / self.block.len());
            let now = blocks.min(room);
            self.file.write_all(&self.block.repeat(now))?;
            self.at += now * self.block.len();
            blocks -= now;
            if self.size == Some(self.at) {
                self.file.seek(SeekFrom::Start(0))?;
                self.at = 0;
            }
        }
        Ok(self.file.sync_data()?)
    }
}
