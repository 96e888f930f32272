//! The bytes of a `records` field: opaque here, possibly in several runs.
//!
//! A partition's answer may be made of several stored runs; they are written one after the other without
//! being joined in memory. A decoded value always has one run, a slice of the frame. "No records" on the
//! wire is null or length zero; messages say null with `Option<Records>`.
//!
//! The end of them may be deferred: only its length is known while the message is written, and the bytes are sent when
//! the frame's part in front of them has been ([`Frame::response_parts`](crate::Frame::response_parts)).
//!
//! Deliberately absent: any look inside.

use bytes::{Bytes, BytesMut};

/// Record batches as they are on the wire, in one or more runs.
#[derive(Debug, Clone, Default)]
pub struct Records {
    first: Bytes,
    rest: Vec<Bytes>,
    len: usize,
    deferred: usize,
}

impl Records {
    /// No bytes, which is not the same as null.
    pub const fn new() -> Self {
        Self { first: Bytes::new(), rest: Vec::new(), len: 0, deferred: 0 }
    }

    /// Adds a run at the end.
    pub fn push(&mut self, run: Bytes) {
        if run.is_empty() {
            return;
        }
        self.len += run.len();
        if self.first.is_empty() {
            self.first = run;
        } else {
            self.rest.push(run);
        }
    }

    /// Says that `bytes` more follow behind the runs, from elsewhere.
    pub fn defer(&mut self, bytes: usize) {
        self.deferred += bytes;
    }

    /// Bytes that follow from elsewhere.
    pub fn deferred(&self) -> usize {
        self.deferred
    }

    /// Length in bytes over all runs, and of what is deferred.
    pub fn len(&self) -> usize {
        self.len + self.deferred
    }

    /// Are there no bytes?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs, in order; none is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        Some(&self.first).into_iter().filter(|run| !run.is_empty()).chain(&self.rest)
    }

    /// All bytes that are here in one piece: free for one run, a copy for several.
    pub fn to_bytes(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        let mut joined = BytesMut::with_capacity(self.len);
        for run in self.chunks() {
            joined.extend_from_slice(run);
        }
        joined.freeze()
    }
}

impl From<Bytes> for Records {
    fn from(run: Bytes) -> Self {
        Self { len: run.len(), first: run, rest: Vec::new(), deferred: 0 }
    }
}

impl FromIterator<Bytes> for Records {
    fn from_iter<I: IntoIterator<Item = Bytes>>(runs: I) -> Self {
        let mut records = Self::new();
        runs.into_iter().for_each(|run| records.push(run));
        records
    }
}

/// By content: how the bytes are cut into runs does not reach the wire.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        if self.deferred != other.deferred {
            return false;
        }
        if self.rest.is_empty() && other.rest.is_empty() {
            return self.first == other.first;
        }
        self.len == other.len && self.chunks().flatten().eq(other.chunks().flatten())
    }
}

impl Eq for Records {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_compare_by_content() {
        let cut: Records = ["ab", "", "c"].map(|s| Bytes::from_static(s.as_bytes())).into_iter().collect();
        assert_eq!(cut.chunks().count(), 2);
        assert_eq!(cut.len(), 3);
        assert_eq!(cut, Records::from(Bytes::from_static(b"abc")));
        assert_ne!(cut, Records::from(Bytes::from_static(b"abd")));
        assert_eq!(cut.to_bytes(), "abc");
        assert!(Records::new().is_empty());
        assert_eq!(Records::new().chunks().count(), 0);
    }
}
