//! A broker on PostgreSQL: it is killed, its database is, and the links between them are.
//!
//! Whatever happens there, clients see errors they may retry or wait; when it is over everything goes on by itself, the broker
//! does not end, and nothing acknowledged is lost or there twice.

use anyhow::Context as _;

use super::{between, work_on};
use crate::postgres::Database;
use crate::postgres::links::Way;
use crate::stage::Stage;

/// What can be done; a run does each in turn, beginning anywhere.
const TROUBLES: [fn(&mut Stage) -> anyhow::Result<()>; 8] =
    [kill, terminate, late_after_a_cut, kill_session, cuts, late_after_a_kill, kill_server, held];

/// One fault, and the way back.
pub(crate) fn cycle(stage: &mut Stage, number: u64, records: u64) -> anyhow::Result<()> {
    work_on(stage, records);
    let trouble = TROUBLES[usize::try_from(number % TROUBLES.len() as u64)?];
    trouble(stage)?;
    let over = stage.world.clock.uptime();
    if !stage.wait_for_acks(1, stage.patience) || !stage.wait_for_confirms(1, stage.patience) {
        let patience = stage.patience;
        stage.world.violation("not-resumed", || {
            format!("nothing acknowledged {patience:?} after the fault was over")
        });
    }
    let took = stage.world.clock.uptime().saturating_sub(over);
    stage.measured("both doors went on after the fault was over", took);
    stage.must_be_alive();
    stage.list_topics()
}

/// After the last fault: what shows that tables took turns and that late statements came.
pub(crate) fn account(stage: &mut Stage) -> anyhow::Result<()> {
    let (made, there) = database(stage)?.tables()?;
    let (late, cuts) = (database(stage)?.links.late(), database(stage)?.links.cuts());
    for (what, count) in [
        ("tables of messages made", made),
        ("tables of messages dropped", made.saturating_sub(there)),
        ("messages that came to the database late", late),
        ("links cut at a message", cuts),
    ] {
        *stage.report.counts.entry(what).or_default() += count;
    }
    Ok(())
}

fn database(stage: &mut Stage) -> anyhow::Result<&mut Database> {
    stage.database.as_mut().context("there is no database")
}

fn kill(stage: &mut Stage) -> anyhow::Result<()> {
    stage.kill()?;
    stage.count("kills");
    if stage.rng.below(2) == 0 {
        let time = between(&stage.rng, 0, 400);
        stage.start_and_kill(time)?;
        stage.count("kills during recovery");
    }
    stage.start(None)
}

/// Sessions are ended by an operator.
fn terminate(stage: &mut Stage) -> anyhow::Result<()> {
    let one_in = 1 + stage.rng.below(3);
    let ended = database(stage)?.terminate(one_in)?;
    *stage.report.faults.entry("sessions ended").or_default() += ended;
    Ok(())
}

/// The server's processes end all, because one of them was killed, and it recovers.
fn kill_session(stage: &mut Stage) -> anyhow::Result<()> {
    let nth = stage.rng.below(100);
    if database(stage)?.kill_session(nth)? {
        stage.count("sessions killed");
    }
    Ok(())
}

fn kill_server(stage: &mut Stage) -> anyhow::Result<()> {
    database(stage)?.kill_and_restart()?;
    stage.count("kills of the database");
    Ok(())
}

/// All links at once, then some at any message.
fn cuts(stage: &mut Stage) -> anyhow::Result<()> {
    database(stage)?.links.cut();
    stage.count("cuts of all links");
    let one_in = u32::try_from(20 + stage.rng.below(80))?;
    let time = between(&stage.rng, 300, 2_000);
    database(stage)?.links.cut_one_in(one_in, one_in);
    stage.world.wait(time);
    database(stage)?.links.cut_one_in(0, 0);
    stage.count("times of cut links");
    Ok(())
}

/// One direction passes nothing on for a while.
fn held(stage: &mut Stage) -> anyhow::Result<()> {
    let way = if stage.rng.below(2) == 0 { Way::There } else { Way::Back };
    let time = between(&stage.rng, 100, 2_000);
    database(stage)?.links.hold(way);
    stage.world.wait(time);
    database(stage)?.links.release();
    stage.count("half links held");
    Ok(())
}

/// The broker loses its links, asks over new ones what became of its rounds and goes on; then what it had sent arrives.
fn late_after_a_cut(stage: &mut Stage) -> anyhow::Result<()> {
    let (before, after) = (between(&stage.rng, 20, 200), between(&stage.rng, 0, 800));
    let unnoticed = stage.rng.below(2) == 0;
    database(stage)?.links.hold(Way::There);
    stage.world.wait(before);
    let links = &database(stage)?.links;
    if unnoticed {
        links.abandon()
    } else {
        links.orphan()
    }
    stage.world.wait(after);
    database(stage)?.links.release();
    stage.count(if unnoticed { "links that the database kept" } else { "half links cut" });
    Ok(())
}

/// The broker is killed and another owns its logs; then what the killed one had sent arrives.
fn late_after_a_kill(stage: &mut Stage) -> anyhow::Result<()> {
    let (before, after) = (between(&stage.rng, 20, 200), between(&stage.rng, 0, 300));
    database(stage)?.links.hold(Way::There);
    stage.world.wait(before);
    stage.kill()?;
    database(stage)?.links.orphan();
    stage.start(None)?;
    stage.world.wait(after);
    database(stage)?.links.release();
    stage.count("kills with statements under way");
    Ok(())
}
