//! Zeros behind small groups, so that a sync of the next ones has only their own bytes to wait for.
//!
//! Deliberately absent: how much that saves, which a simulated disk cannot tell, and that they harm no recovery: the tests of
//! crashes write them, too.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use common::{append, bytes_of, claim, execute, open};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::core::{Core, Done, Work};
use ferrymq_engine_local::{Counters, Options};
use ferrymq_storage::Batch;
use ferrymq_types::{Durability, Offset};

const BLOCK: u64 = 4_096;
const AHEAD: u64 = 64 * BLOCK;

#[test]
fn small_groups_have_zeros_behind_them_once_and_large_ones_have_none() {
    let options = Options { zeros_ahead_bytes: AHEAD, ..Options::default() };
    let mut core = open(&SimDisk::new(1), &options).unwrap();
    let epoch = claim(&mut core, &[1], 1)[0].epoch.0;
    let written = |core: &Core| Counters::get(&core.reader().counters().bytes_written);
    let (mut before, mut base) = (written(&core), 0);
    let mut costs = |bytes: usize| {
        let batch = Batch::new(Offset(base), 1, 0, bytes_of(base, bytes));
        let work = Work::Group(vec![append(1, epoch, 1, base, Durability::Sync, vec![batch])]);
        assert!(matches!(execute(&mut core, vec![work])[..], [Done::Group(Ok(()))]));
        base += 1;
        let cost = written(&core) - before;
        before += cost;
        cost / BLOCK
    };
    // The claim was the first small group, with zeros for the next 64.
    for _ in 0..64 {
        assert_eq!(costs(3_000), 1);
    }
    assert_eq!(costs(3_000), 65, "they are used up");
    assert_eq!(costs(100_000), 25, "into zeros");
    assert_eq!(costs(200_000), 49, "beyond them, and too large for more");
    assert_eq!(costs(3_000), 65);
}
