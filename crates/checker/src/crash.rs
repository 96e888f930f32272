//! Power cuts at every step of anything that keeps records on a [`SimDisk`].
//!
//! ```text
//!  run once, count the steps -> for each step: run again, cut there -> for each seed: open what is left, look
//! ```
//! What was acknowledged before the cut must be read back, in order and once; of what was handed over and not
//! answered any part may be there, in its place; nothing else. A second cut while the first is being recovered
//! from must lose nothing either, and the recovered subject must take new records.
//!
//! **Invariant.** The subject is driven from one thread and is deterministic, or the failing step and seed that
//! are printed do not lead back to the failure.
//!
//! Deliberately absent: what a record is. The subject says when it took one, and shows what it has.

use std::io;

use ferrymq_disk::SimDisk;

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

/// What a run of the program promised.
#[derive(Debug, Default)]
struct Promised {
    acked: Vec<u64>,
    unanswered: Vec<u64>,
}

/// Tries it all; the number of states looked at.
///
/// # Errors
/// The step, the seed and what is wrong, of the first state that breaks a promise.
pub fn explore<S: CrashSubject>(effort: Effort) -> Result<u64, String> {
    let whole = SimDisk::new(0);
    let promised = run::<S>(&whole, effort.groups);
    if !promised.unanswered.is_empty() {
        return Err("the program fails without any power cut".to_owned());
    }
    let steps = whole.counts().steps();
    let mut states = 0;
    for step in 1..=steps + 1 {
        let disk = SimDisk::new(0);
        disk.stop_at(step);
        let promised = run::<S>(&disk, effort.groups);
        for seed in 0..effort.cuts_per_step {
            let seed = step.wrapping_mul(0x1_0000) + seed;
            let failed = |what| format!("step {step} of {steps}, seed {seed}: {what}");
            states += look::<S>(&disk.crash(seed), &promised).map_err(failed)?;
            if seed % 0x1_0000 < effort.second_cuts {
                states += cut_again::<S>(&disk, seed, &promised).map_err(failed)?;
            }
        }
        let failed = |what| format!("step {step} of {steps}, killed: {what}");
        states += look::<S>(&disk.kill(), &promised).map_err(failed)?;
    }
    Ok(states)
}

/// The program: appends groups of one to three records, with work behind them now and then.
fn run<S: CrashSubject>(disk: &SimDisk, groups: u64) -> Promised {
    let mut promised = Promised::default();
    let Ok(mut subject) = S::open(disk) else { return promised };
    let mut next = 0;
    for group in 0..groups {
        let records: Vec<u64> = (next..next + 1 + group % 3).collect();
        next += records.len() as u64;
        match subject.append(&records) {
            // Whoever answers after the power is off answers nobody, but has promised nothing false either.
            Ok(()) => promised.acked.extend(records),
            Err(_) => {
                promised.unanswered = records;
                return promised;
            }
        }
        if group % 4 == 3 && subject.housekeep().is_err() {
            return promised;
        }
    }
    promised
}

/// Opens what is left and holds it to what was promised.
fn look<S: CrashSubject>(left: &SimDisk, promised: &Promised) -> Result<u64, String> {
    let mut subject = S::open(left).map_err(|error| format!("it does not open: {error}"))?;
    let found = subject.read_all().map_err(|error| format!("it cannot be read: {error}"))?;
    let Some(more) = found.strip_prefix(&promised.acked[..]) else {
        return Err(format!("{:?} were acknowledged and {found:?} are there", promised.acked));
    };
    if !more.is_empty() && more != promised.unanswered {
        return Err(format!("{:?} may be there as a whole and {more:?} are", promised.unanswered));
    }
    subject.append(&[u64::MAX]).map_err(|error| format!("it takes nothing new: {error}"))?;
    drop(subject);
    let again = S::open(&left.crash_to_synced()).and_then(|subject| subject.read_all());
    let expected: Vec<u64> = found.iter().copied().chain([u64::MAX]).collect();
    match again {
        Ok(again) if again == expected => Ok(1),
        Ok(again) => Err(format!("after a second cut {again:?} instead of {expected:?}")),
        Err(error) => Err(format!("it does not open a second time: {error}")),
    }
}

/// Cuts the power again at every step of the recovery.
fn cut_again<S: CrashSubject>(disk: &SimDisk, seed: u64, promised: &Promised) -> Result<u64, String> {
    for step in 1.. {
        let left = disk.crash(seed);
        left.stop_at(step);
        let opened = S::open(&left).and_then(|subject| subject.read_all());
        if !left.is_stopped() {
            return opened.map(|_| step).map_err(|error| format!("recovery fails by itself: {error}"));
        }
        look::<S>(&left.crash(seed ^ step), promised)
            .map_err(|what| format!("recovery cut at {step}: {what}"))?;
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
        assert!(explore::<Toy<SYNC_OF_BYTES>>(EFFORT).is_err());
        assert!(explore::<Toy<SYNC_OF_NAME>>(EFFORT).is_err());
        assert!(explore::<Toy<CHECKSUM>>(EFFORT).is_err());
    }

    #[test]
    fn a_truncation_that_comes_undone_is_harmless_here() {
        // The sync of the frame written next covers the truncation too, so this toy may leave it out.
        explore::<Toy<SYNC_OF_TRUNCATION>>(EFFORT).unwrap();
    }
}
