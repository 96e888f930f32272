//! Power cuts at every step of anything that keeps records on a [`SimDisk`].
//!
//! ```text
//!  run once, count the steps -> for each step: run again, cut there -> for each seed: open what is left, look
//! ```
//! What was acknowledged before the cut must be read back, in order and once; what was handed over and not answered
//! may be there as a whole, in its place; nothing else. A second cut while the first is being recovered from must
//! lose nothing either, and the recovered subject must take new records. All that is recorded as a history, and
//! [`check`](crate::check) judges it.
//!
//! **Invariant.** The subject is driven from one thread and is deterministic, or the failing step and seed that
//! are printed do not lead back to the failure.
//!
//! Deliberately absent: what a record is. The subject says when it took one, and shows what it has.

use std::io;

use ferrymq_disk::SimDisk;

use crate::history::{History, Polled, Recorder, Terms, Value, What};
use crate::report::{Expectations, Rule, Violation};

/// Something that keeps records in order on a disk.
pub trait CrashSubject: Sized {
    /// Opens what is on the disk, an empty one too.
    ///
    /// # Errors
    /// If the disk fails. What a power cut left is no error.
    fn open(disk: &SimDisk) -> io::Result<Self>;

    /// Hands over records, which stand or fall together, and waits for the answer.
    ///
    /// # Errors
    /// If they were not acknowledged; they may be there or not.
    fn append(&mut self, records: &[u64]) -> io::Result<()>;

    /// Work that goes on behind the appends: rolling files, moving, checkpoints.
    ///
    /// # Errors
    /// If the disk fails.
    fn housekeep(&mut self) -> io::Result<()>;

    /// All records, in order.
    ///
    /// # Errors
    /// If the disk fails, or records that are there cannot be read.
    fn read_all(&self) -> io::Result<Vec<u64>>;
}

/// How much to try.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Groups that are appended.
    pub groups: u64,
    /// Power cuts looked at per step.
    pub cuts_per_step: u64,
    /// Of these, how many are cut once more while they recover, at every step of that.
    pub second_cuts: u64,
}

/// What a run of the program was promised.
#[derive(Debug, Default)]
struct Promised {
    history: History,
    acked: u64,
    failed: bool,
}

/// Tries it all; the number of states looked at.
///
/// # Errors
/// Of the first state that breaks a promise: the rule, the step, the seed and what is wrong.
pub fn explore<S: CrashSubject>(effort: Effort) -> Result<u64, Violation> {
    let whole = SimDisk::new(0);
    if run::<S>(&whole, effort.groups).failed {
        return Err(unusable("the program fails without any power cut"));
    }
    let steps = whole.counts().steps();
    let mut states = 0;
    for step in 1..=steps + 1 {
        let disk = SimDisk::new(0);
        disk.stop_at(step);
        let promised = run::<S>(&disk, effort.groups);
        for seed in 0..effort.cuts_per_step {
            let seed = step.wrapping_mul(0x1_0000) + seed;
            let failed = |it| at(&format!("step {step} of {steps}, seed {seed}"), it);
            states += look::<S>(&disk.crash(seed), &promised).map_err(failed)?;
            if seed % 0x1_0000 < effort.second_cuts {
                states += cut_again::<S>(&disk, seed, &promised).map_err(failed)?;
            }
        }
        let failed = |it| at(&format!("step {step} of {steps}, killed"), it);
        states += look::<S>(&disk.kill(), &promised).map_err(failed)?;
    }
    Ok(states)
}

fn at(place: &str, it: Violation) -> Violation {
    Violation { what: format!("{place}: {}", it.what), ..it }
}

fn unusable(what: impl Into<String>) -> Violation {
    Violation { rule: Rule::Unusable, what: what.into() }
}

const LOG: &str = "log";

fn send(number: u64, group: u64) -> What {
    let terms = Terms { group: Some(group), ..Terms::default() };
    What::Send { log: LOG.to_owned(), value: Value::new("program", number), offset: None, terms }
}

/// The program: appends groups of one to three records, with work behind them now and then.
fn run<S: CrashSubject>(disk: &SimDisk, groups: u64) -> Promised {
    let mut promised = Promised::default();
    let Ok(mut subject) = S::open(disk) else { return Promised { failed: true, ..promised } };
    let recorder = Recorder::new();
    for group in 0..groups {
        let records: Vec<u64> = (promised.acked..promised.acked + 1 + group % 3).collect();
        let sends = records.iter().map(|record| recorder.begin("program", send(*record, group)));
        let sends: Vec<_> = sends.collect();
        // Whoever answers after the power is off answers nobody, but has promised nothing false either.
        promised.failed = subject.append(&records).is_err();
        if promised.failed {
            break;
        }
        sends.into_iter().zip(&records).for_each(|(send, record)| send.sent_at(*record));
        promised.acked += records.len() as u64;
        promised.failed = group % 4 == 3 && subject.housekeep().is_err();
        if promised.failed {
            break;
        }
    }
    promised.history = recorder.history();
    promised
}

/// Opens what is left, uses it, cuts the power once more and holds all of it to what was promised.
fn look<S: CrashSubject>(left: &SimDisk, promised: &Promised) -> Result<u64, Violation> {
    let recorder = Recorder::after(&promised.history);
    let mut subject = reopen::<S>(left, &recorder)?;
    let found = read(&subject, &recorder, false)?;
    let sending = recorder.begin("program", send(u64::MAX, u64::MAX));
    subject.append(&[u64::MAX]).map_err(|error| unusable(format!("it takes nothing new: {error}")))?;
    sending.sent_at(found);
    drop(subject);
    let subject = reopen::<S>(&left.crash_to_synced(), &recorder)?;
    read(&subject, &recorder, true)?;
    let expected = Expectations { sends_min: 1, ..Expectations::default() };
    let report = crate::check_future(&promised.history, &recorder.history(), &expected);
    let what = report.to_string();
    // Reports come in no order; a loss is the worst of them, and the first of the rules.
    report.rules().first().map_or(Ok(1), |rule| Err(Violation { rule: *rule, what }))
}

fn reopen<S: CrashSubject>(left: &SimDisk, recorder: &Recorder) -> Result<S, Violation> {
    let restart = recorder.begin("program", What::Restart { power_cut: true });
    let subject = S::open(left).map_err(|error| unusable(format!("it does not open: {error}")))?;
    restart.ok();
    Ok(subject)
}

/// Reads everything; how many records there are.
fn read<S: CrashSubject>(subject: &S, recorder: &Recorder, last: bool) -> Result<u64, Violation> {
    let found = subject.read_all().map_err(|error| unusable(format!("it cannot be read: {error}")))?;
    let next = found.len() as u64;
    let records =
        (0..).zip(found).map(|(offset, number)| Polled { offset, value: Value::new("program", number) });
    let records = records.collect();
    recorder.begin("reader", What::Poll { log: LOG.to_owned(), from: 0, next, records, last }).ok();
    Ok(next)
}

/// Cuts the power again at every step of the recovery.
fn cut_again<S: CrashSubject>(disk: &SimDisk, seed: u64, promised: &Promised) -> Result<u64, Violation> {
    for step in 1.. {
        let left = disk.crash(seed);
        left.stop_at(step);
        let opened = S::open(&left).and_then(|subject| subject.read_all());
        if !left.is_stopped() {
            let failed = |error| unusable(format!("recovery fails by itself: {error}"));
            return opened.map(|_| step).map_err(failed);
        }
        look::<S>(&left.crash(seed ^ step), promised)
            .map_err(|it| at(&format!("recovery cut at {step}"), it))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;

    use ferrymq_disk::{Disk as _, File};

    use super::*;

    /// What the toy log leaves out.
    const NOTHING: u8 = 0;
    const SYNC_OF_BYTES: u8 = 1;
    const SYNC_OF_NAME: u8 = 2;
    const CHECKSUM: u8 = 3;
    const SYNC_OF_TRUNCATION: u8 = 4;

    /// A log in one file: frames of count, records, checksum; what does not verify at the end is cut off.
    struct Toy<const WITHOUT: u8> {
        file: Arc<dyn File>,
        end: u64,
        records: Vec<u64>,
    }

    fn checksum(bytes: &[u8], position: u64) -> u64 {
        bytes.iter().fold(position ^ 0x1234_5678_9abc_def1, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3).rotate_left(7)
        })
    }

    fn number(bytes: &[u8], at: usize) -> Option<u64> {
        bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
    }

    impl<const WITHOUT: u8> CrashSubject for Toy<WITHOUT> {
        fn open(disk: &SimDisk) -> io::Result<Self> {
            let path = Path::new("log");
            let file = disk.open(path).or_else(|_| disk.create(path))?;
            if WITHOUT != SYNC_OF_NAME {
                disk.sync_dir(Path::new(""))?;
            }
            let mut bytes = vec![0; usize::try_from(file.len()?).unwrap()];
            file.read_at(&mut bytes, 0)?;
            let (mut end, mut records) = (0, Vec::new());
            while let Some(count) = number(&bytes, end).filter(|count| (1..100).contains(count)) {
                let body = end + 8 + usize::try_from(count).unwrap() * 8;
                let Some(stored) = number(&bytes, body) else { break };
                if WITHOUT != CHECKSUM && stored != checksum(&bytes[end..body], end as u64) {
                    break;
                }
                records.extend((end + 8..body).step_by(8).map(|at| number(&bytes, at).unwrap()));
                end = body + 8;
            }
            file.set_len(end as u64)?;
            if WITHOUT != SYNC_OF_TRUNCATION {
                file.sync_data()?;
            }
            Ok(Toy { file, end: end as u64, records })
        }

        fn append(&mut self, records: &[u64]) -> io::Result<()> {
            let mut frame = (records.len() as u64).to_le_bytes().to_vec();
            records.iter().for_each(|record| frame.extend(record.to_le_bytes()));
            frame.extend(checksum(&frame, self.end).to_le_bytes());
            self.file.write_at(&[IoSlice::new(&frame)], self.end)?;
            if WITHOUT != SYNC_OF_BYTES {
                self.file.sync_data()?;
            }
            self.end += frame.len() as u64;
            self.records.extend(records);
            Ok(())
        }

        fn housekeep(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn read_all(&self) -> io::Result<Vec<u64>> {
            Ok(self.records.clone())
        }
    }

    const EFFORT: Effort = Effort { groups: 40, cuts_per_step: 40, second_cuts: 4 };

    #[test]
    fn a_log_that_does_everything_right_loses_nothing() {
        let states = explore::<Toy<NOTHING>>(EFFORT).unwrap();
        assert!(states > 3_000, "{states}");
    }

    #[test]
    fn each_omission_is_found() {
        assert_eq!(explore::<Toy<SYNC_OF_BYTES>>(EFFORT).unwrap_err().rule, Rule::Lost);
        assert_eq!(explore::<Toy<SYNC_OF_NAME>>(EFFORT).unwrap_err().rule, Rule::Lost);
        // Where a sector is missing lie zeros, and record 0 is there once more.
        assert_eq!(explore::<Toy<CHECKSUM>>(EFFORT).unwrap_err().rule, Rule::Duplicated);
    }

    #[test]
    fn a_truncation_that_comes_undone_is_harmless_here() {
        // The sync of the frame written next covers the truncation too, so this toy may leave it out.
        explore::<Toy<SYNC_OF_TRUNCATION>>(EFFORT).unwrap();
    }
}
