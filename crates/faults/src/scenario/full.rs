//! The disk is full for a while.
//!
//! Producers get errors they may retry, consumers go on, deleting works, and when there is space again
//! everything goes on by itself; nothing acknowledged is lost, the server does not end.

use std::time::Duration;

use anyhow::Context as _;
use ferrymq_kafka_codec::ApiKey;

use crate::stage::Stage;
use crate::world::Kind;
use crate::{ops, reader};

/// Megabytes of the disk image: room for the reserve and a few files.
pub(crate) const IMAGE_MEGABYTES: u64 = 512;
/// How long the disk may take to be noticed as full.
const NOTICE: Duration = Duration::from_secs(30);
/// How long producers may take to go on when there is space.
const RESUME: Duration = Duration::from_secs(15);

/// Full, and back.
pub(crate) fn cycle(stage: &mut Stage) -> anyhow::Result<()> {
    stage.wait_for_acks(1_000, stage.patience);
    let began = stage.world.now();
    let image = stage.image.as_ref().context("a full disk needs a disk image")?;
    image.fill(stage.rng.below(4) << 20)?;
    stage.count("full disks");
    if !until_silent(stage) {
        stage.world.violation("full-not-noticed", || {
            format!("still acknowledged {NOTICE:?} after the disk was full")
        });
    }
    stage.must_be_alive();
    still_reads_and_deletes(stage)?;
    stage.must_be_alive();
    stage.image.as_ref().context("a full disk needs a disk image")?.free()?;
    let freed = stage.world.clock.uptime();
    if stage.wait_for_acks(1, RESUME) {
        let took = stage.world.clock.uptime().saturating_sub(freed);
        stage.measured("resumed after space was made", took);
    } else {
        stage.must_be_alive();
        stage
            .world
            .violation("not-resumed", || format!("nothing acknowledged {RESUME:?} after space was made"));
    }
    if !stage.wait_for_confirms(100, RESUME) {
        stage
            .world
            .violation("not-resumed", || format!("no message confirmed {RESUME:?} after space was made"));
    }
    stage.wait_for_acks(1_000, stage.patience);
    let ended = stage.world.now();
    stage.world.queues.lock().full.push(began..ended);
    Ok(())
}

/// Waits until nothing has been acknowledged for a second.
fn until_silent(stage: &Stage) -> bool {
    let deadline = stage.world.clock.uptime() + NOTICE;
    while stage.world.clock.uptime() < deadline {
        if !stage.wait_for_acks(1, Duration::from_secs(1)) {
            return true;
        }
    }
    false
}

fn still_reads_and_deletes(stage: &mut Stage) -> anyhow::Result<()> {
    let mut client = stage.client()?;
    for log in &stage.logs {
        if let Err(error) = reader::read_all(&stage.world, &mut client, log) {
            stage.world.violation("full-stops-reading", || error.to_string());
            client = stage.client()?;
        }
    }
    if !ops::served(&mut client)?.contains(&ApiKey::DeleteRecords) {
        return Ok(());
    }
    let log = stage.logs.iter().find(|log| log.kind == Kind::Trimmed).context("no log is trimmed")?;
    let (asked, end) = (&log.trim_asked, &log.floor);
    let to = end.load(std::sync::atomic::Ordering::SeqCst);
    asked.fetch_max(to, std::sync::atomic::Ordering::SeqCst);
    match ops::delete_records(&mut client, &log.topic, log.partition, to) {
        Ok(Ok(start)) => drop(log.trim_done.fetch_max(start, std::sync::atomic::Ordering::SeqCst)),
        Ok(Err(code)) => {
            stage.world.violation("full-stops-deleting", || format!("{log}: DeleteRecords: error {code}"));
        }
        Err(error) => stage.world.violation("full-stops-deleting", || format!("{log}: {error}")),
    }
    Ok(())
}
