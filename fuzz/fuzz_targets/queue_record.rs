//! Decodes records of queues' acks, one behind the other, and restores a state from them; the first two bytes say where
//! the log begins and ends, and each record has its length in front.
//!
//! Beyond not panicking: what decodes encodes and decodes to the same again; what is restored is within the log,
//! and a snapshot of it restores the same.
#![no_main]

use ferrymq_broker::queues::ack::{AckRecord, AckState, Replay};
use libfuzzer_sys::fuzz_target;

/// Messages for each step of the bytes that say where a log begins and ends.
const STEP: u64 = 40;

fn shape(state: &AckState) -> (u64, u64) {
    (state.floor(), state.ready())
}

fuzz_target!(|data: &[u8]| {
    let [start, more, rest @ ..] = data else { return };
    let start = u64::from(*start) * STEP;
    let next = start + u64::from(*more) * STEP;
    let mut rest = rest;
    let mut replay = Replay::default();
    while let [length, bytes @ ..] = rest {
        let Some((record, behind)) = bytes.split_at_checked(usize::from(*length)) else { break };
        rest = behind;
        let Ok(record) = AckRecord::decode(record) else { continue };
        let again = AckRecord::decode(&record.encode()).expect("what encodes decodes");
        assert_eq!(again, record);
        replay.apply(record);
    }
    let state = replay.restore(start, next, [start..next], true);
    let (floor, ready) = shape(&state);
    assert!(floor >= start && floor <= next && ready <= next - floor);
    let mut copy = Replay::default();
    state.snapshot().into_iter().for_each(|record| copy.apply(record));
    assert_eq!(shape(&copy.restore(start, next, [start..next], true)), (floor, ready));
});
