//! Several transactions on what is there: which of them hold, and what is to be written.
//!
//! **Invariant.** Each sees what those before it left; one that does not hold leaves nothing.
//!
//! Deliberately absent: SQL.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use ferrymq_storage::{Compare, ErrorKind, Put, Revision, StorageError};

/// What is to be written: a value for each key, `None` where it goes, and the revision that did it.
type Writes = BTreeMap<String, (Option<Bytes>, Revision)>;

/// See the module.
pub(super) struct Batch {
    /// Of the transactions, in order.
    pub(super) outcomes: Vec<Result<Revision, StorageError>>,
    /// By key.
    pub(super) writes: Writes,
}

/// The keys that transactions compare.
pub(super) fn compared<'a>(transactions: impl Iterator<Item = &'a [Compare]>) -> Vec<Vec<u8>> {
    let keys: BTreeSet<&str> =
        transactions.flat_map(|compares| compares.iter().map(|compare| &*compare.key)).collect();
    keys.into_iter().map(|key| key.as_bytes().to_vec()).collect()
}

/// Applies `transactions`, the first of which has the revision `first`, to a state in which the compared keys that are there
/// have the revisions in `found`.
pub(super) fn apply<'a>(
    transactions: impl Iterator<Item = (&'a [Compare], &'a [Put])>,
    first: Revision,
    mut found: HashMap<String, Revision>,
) -> Batch {
    let mut batch = Batch { outcomes: Vec::new(), writes: Writes::new() };
    for ((compares, puts), revision) in transactions.zip(first.0..) {
        let revision = Revision(revision);
        let failed = compares.iter().find(|compare| found.get(&compare.key).copied() != compare.revision);
        if let Some(failed) = failed {
            let text = format!("the record was changed by somebody else: {}", failed.key);
            batch.outcomes.push(Err(StorageError::new(ErrorKind::Conflict, text)));
            continue;
        }
        for put in puts {
            match &put.value {
                Some(_) => found.insert(put.key.clone(), revision),
                None => found.remove(&put.key),
            };
            batch.writes.insert(put.key.clone(), (put.value.clone(), revision));
        }
        batch.outcomes.push(Ok(revision));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: Option<&'static str>) -> Put {
        Put { key: key.to_owned(), value: value.map(Bytes::from) }
    }

    fn at(key: &str, revision: Option<u64>) -> Compare {
        Compare { key: key.to_owned(), revision: revision.map(Revision) }
    }

    #[test]
    fn each_sees_what_those_before_it_left() {
        let transactions = [
            (vec![at("a", Some(3))], vec![put("a", Some("1")), put("b", None)]),
            (vec![at("a", Some(3))], vec![put("a", Some("2")), put("c", Some("2"))]),
            (vec![at("a", Some(10)), at("b", None)], vec![put("b", Some("3"))]),
            (vec![at("b", Some(12)), at("c", None)], vec![put("a", None)]),
        ];
        let of = || transactions.iter().map(|(compares, puts)| (&compares[..], &puts[..]));
        assert_eq!(compared(of().map(|(compares, _)| compares)), [b"a", b"b", b"c"]);
        let found = [("a".to_owned(), Revision(3)), ("b".to_owned(), Revision(5))].into();
        let batch = apply(of(), Revision(10), found);
        let kinds: Vec<_> = batch
            .outcomes
            .iter()
            .map(|outcome| outcome.as_ref().map_err(StorageError::kind).copied())
            .collect();
        assert_eq!(kinds, [Ok(Revision(10)), Err(ErrorKind::Conflict), Ok(Revision(12)), Ok(Revision(13))]);
        let writes: Vec<_> = batch.writes.into_iter().map(|(key, (value, at))| (key, value, at.0)).collect();
        assert_eq!(writes, [("a".to_owned(), None, 13), ("b".to_owned(), Some(Bytes::from("3")), 12)]);
    }
}
