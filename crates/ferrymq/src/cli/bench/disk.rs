//! `ferrymq bench disk`: a bare write and fdatasync loop, the yardstick for durable latency.
//!
//! **Invariant.** One write and one fdatasync at a time, as a log without group commit would do it. The file is
//! removed afterwards.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use ferrymq_runtime::Clock;
use serde_json::json;

use super::super::out::Out;
use super::super::units::parse_bytes;
use super::pacer::now_ns;
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
    /// End after so many seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// End after so many writes
    #[arg(long)]
    writes: Option<u64>,
}

pub(super) fn run(args: DiskArgs) -> anyhow::Result<()> {
    let clock = Clock::system();
    let path = args.dir.join(format!(".ferrymq-bench-disk-{}", std::process::id()));
    let result = measure(&args, &clock, &path);
    let _ = std::fs::remove_file(&path);
    let (latencies, took, cpu) = result?;
    let writes = latencies.count();
    let seconds = took.as_secs_f64();
    let mut out = Out::new();
    out.json(&json!({
        "tool": "ferrymq bench disk",
        "version": env!("CARGO_PKG_VERSION"),
        "settings": {
            "dir": args.dir, "write_bytes": args.write_bytes, "file_bytes": args.file_bytes,
            "pattern": format!("{:?}", args.pattern).to_lowercase(),
            "seconds": args.seconds, "writes": args.writes,
        },
        "writes": writes,
        "seconds": seconds,
        "writes_per_second": writes as f64 / seconds.max(1e-9),
        "write_and_fdatasync_us": latencies.json(),
        "cpu_seconds": cpu,
    }))?;
    out.flush()
}

fn measure(
    args: &DiskArgs,
    clock: &Clock,
    path: &std::path::Path,
) -> anyhow::Result<(Latencies, Duration, f64)> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let block = vec![0x5a; args.write_bytes.max(1)];
    let size = (args.file_bytes / block.len()).max(1) * block.len();
    if args.pattern == Pattern::Overwrite {
        for _ in 0..size / block.len() {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
    }
    let mut latencies = Latencies::new();
    let (cpu, started) = (cpu_seconds(), clock.uptime());
    let end = started + Duration::from_secs(args.seconds);
    let mut at = 0;
    while clock.uptime() < end && args.writes.is_none_or(|writes| latencies.count() < writes) {
        let before = now_ns(clock);
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.record(now_ns(clock) - before);
        at += block.len();
        if args.pattern == Pattern::Overwrite && at == size {
            file.seek(SeekFrom::Start(0))?;
            at = 0;
        }
    }
    Ok((latencies, clock.uptime().saturating_sub(started), cpu_seconds() - cpu))
}
