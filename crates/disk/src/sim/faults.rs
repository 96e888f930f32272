//! What a test may order to go wrong, and what it may count.
//!
//! Deliberately absent: chance. A fault strikes exactly where it was ordered.

use std::io;

/// The operations that can be counted and made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpKind {
    /// Opening a file that exists.
    Open,
    /// Creating a file.
    Create,
    /// Listing a directory.
    List,
    /// Creating directories.
    CreateDir,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Making names durable.
    SyncDir,
    /// Writing to a file.
    Write,
    /// Reading from a file, cached or not.
    Read,
    /// Making bytes durable.
    SyncData,
    /// Cutting or extending a file.
    SetLen,
    /// Reserving space.
    Allocate,
    /// Giving space back.
    Punch,
}

impl OpKind {
    /// All kinds.
    pub const ALL: [OpKind; 13] = [
        OpKind::Open,
        OpKind::Create,
        OpKind::List,
        OpKind::CreateDir,
        OpKind::Rename,
        OpKind::Remove,
        OpKind::SyncDir,
        OpKind::Write,
        OpKind::Read,
        OpKind::SyncData,
        OpKind::SetLen,
        OpKind::Allocate,
        OpKind::Punch,
    ];
    /// Both kinds of sync.
    pub const SYNCS: [OpKind; 2] = [OpKind::SyncDir, OpKind::SyncData];

    /// Whether the disk may look different after a power cut for it: the steps at which a cut is worth
    /// trying.
    #[must_use]
    pub fn changes_disk(self) -> bool {
        !matches!(self, OpKind::Open | OpKind::List | OpKind::Read)
    }
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The device does not answer. A write may have been done in part; a sync may have made any part of it
    /// durable and forgets the rest.
    Eio,
    /// No space. A write may have been done in part.
    Enospc,
    /// The user's quota of the file system is used up. A write may have been done in part.
    Edquot,
    /// A read finds fewer bytes than the file has, as if somebody else had cut it. Other operations ignore
    /// this.
    ShortRead,
}

impl Failure {
    pub(super) fn error(self) -> io::Error {
        match self {
            Failure::Eio => rustix::io::Errno::IO.into(),
            Failure::Enospc => rustix::io::Errno::NOSPC.into(),
            Failure::Edquot => rustix::io::Errno::DQUOT.into(),
            Failure::ShortRead => io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

/// An order to fail.
#[derive(Debug, Clone)]
pub struct Fault {
    on: Vec<OpKind>,
    skip: u64,
    times: u64,
    path: Option<String>,
    failure: Failure,
}

impl Fault {
    /// The `nth` operation of these kinds from now on fails; 1 is the very next.
    #[must_use]
    pub fn nth(on: &[OpKind], nth: u64, failure: Failure) -> Fault {
        Fault { on: on.to_vec(), skip: nth.saturating_sub(1), times: 1, path: None, failure }
    }

    /// And all of them after it.
    #[must_use]
    pub fn and_after(mut self) -> Fault {
        self.times = u64::MAX;
        self
    }

    /// Counts only operations on paths that contain this text. A file is known by the path it was opened by.
    #[must_use]
    pub fn at(mut self, path: &str) -> Fault {
        self.path = Some(path.to_owned());
        self
    }

    fn concerns(&self, kind: OpKind, path: &str) -> bool {
        self.times > 0 && self.on.contains(&kind) && self.path.as_ref().is_none_or(|part| path.contains(part))
    }
}

/// How often each kind of operation was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts([u64; OpKind::ALL.len()]);

impl Counts {
    /// Operations of one kind.
    #[must_use]
    pub fn of(&self, kind: OpKind) -> u64 {
        self.0[kind as usize]
    }

    /// Operations at which a power cut is worth trying.
    #[must_use]
    pub fn steps(&self) -> u64 {
        OpKind::ALL.into_iter().filter(|kind| kind.changes_disk()).map(|kind| self.of(kind)).sum()
    }
}

/// The faults ordered and the operations counted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    orders: Vec<Fault>,
    pub(super) counts: Counts,
    pub(super) stop_at: Option<u64>,
    pub(super) stopped: bool,
}

/// What is to become of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    Fail(Failure),
    /// The power goes off while this runs.
    CutHere,
}

impl Faults {
    pub(super) fn order(&mut self, fault: Fault) {
        self.orders.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.orders.clear();
    }

    /// Counts an operation and says what is to become of it; an error once the power is off.
    pub(super) fn meet(&mut self, kind: OpKind, path: &str) -> io::Result<Verdict> {
        if self.stopped {
            return Err(power_off());
        }
        self.counts.0[kind as usize] += 1;
        if kind.changes_disk() && self.stop_at.is_some_and(|step| self.counts.steps() >= step) {
            self.stopped = true;
            return Ok(Verdict::CutHere);
        }
        for order in &mut self.orders {
            if !order.concerns(kind, path) {
                continue;
            }
            if order.skip > 0 {
                order.skip -= 1;
                continue;
            }
            if order.times != u64::MAX {
                order.times -= 1;
            }
            return Ok(Verdict::Fail(order.failure));
        }
        Ok(Verdict::Go)
    }
}

/// What every operation answers once the power is off.
pub(super) fn power_off() -> io::Error {
    io::Error::other("simulated power cut")
}
