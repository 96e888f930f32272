//! The ack machine against a naive one, with crashes.

use std::collections::BTreeMap;

use ferrymq_runtime::Rng;

use super::{AckRecord, AckState, Acquired, Full, Next, Replay};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Available,
    Acquired,
}

/// Every message that exists and is not done.
#[derive(Debug, Clone, Copy)]
struct Naive {
    place: Place,
    returned: u16,
    failed: u16,
    delivered: bool,
}

struct World {
    rng: Rng,
    state: AckState,
    naive: BTreeMap<u64, Naive>,
    /// What exists, done or not.
    existing: Vec<std::ops::Range<u64>>,
    end: u64,
    records: Vec<AckRecord>,
    trimmed: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let rng = Rng::seeded(seed);
        let start = rng.below(3) * 1000;
        World {
            state: AckState::new(start),
            naive: BTreeMap::new(),
            existing: Vec::new(),
            end: start,
            records: Vec::new(),
            trimmed: start,
            rng,
        }
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..3 => self.publish(),
            3..9 => (0..self.rng.below(30)).for_each(|_| self.acquire()),
            9..13 => self.finish(),
            13..15 => self.release(),
            15 => self.finish_range(),
            16 if self.rng.below(4) == 0 => self.purge(),
            17 => self.snapshot(),
            18 if self.rng.below(3) == 0 => self.crash(),
            19 => self.lose(),
            18 if self.rng.below(4) == 0 => self.trim(),
            _ => self.flush(),
        }
        self.check();
    }

    fn publish(&mut self) {
        let gap = if self.rng.below(3) == 0 { self.rng.below(3000) } else { 0 };
        let start = self.end + gap;
        self.end = start + 1 + self.rng.below(60);
        self.state.extend(start..self.end);
        self.existing.push(start..self.end);
        let fresh = Naive { place: Place::Available, returned: 0, failed: 0, delivered: false };
        self.naive.extend((start..self.end).map(|offset| (offset, fresh)));
    }

    fn acquire(&mut self) {
        let expected = self.naive.iter_mut().find(|(_, message)| message.place == Place::Available);
        let next = self.state.first_available();
        let Some((&offset, message)) = expected else {
            assert_eq!(next, None);
            return;
        };
        match next {
            Some(Next::Returned(at)) => assert_eq!(at, offset),
            Some(Next::Fresh(at)) => assert!(at <= offset, "{at} {offset}"),
            None => panic!("{offset} is available"),
        }
        let told =
            Acquired { redelivered: message.delivered, returned: message.returned, failed: message.failed };
        assert_eq!(self.state.acquire(offset), Ok(told), "{offset}");
        message.place = Place::Acquired;
        message.delivered = true;
    }

    fn acquired(&self) -> Vec<u64> {
        let acquired = self.naive.iter().filter(|(_, message)| message.place == Place::Acquired);
        acquired.map(|(offset, _)| *offset).collect()
    }

    fn some_acquired(&self) -> Vec<u64> {
        let all = self.acquired();
        match self.rng.below(3) {
            // In order, from the front.
            0 => all.into_iter().take(usize::try_from(self.rng.below(40)).unwrap()).collect(),
            _ => all.into_iter().filter(|_| self.rng.below(4) == 0).collect(),
        }
    }

    fn finish(&mut self) {
        for offset in self.some_acquired() {
            assert!(self.state.finish(offset));
            assert!(!self.state.finish(offset), "only once");
            self.naive.remove(&offset);
        }
    }

    fn release(&mut self) {
        for offset in self.some_acquired() {
            let message = self.naive.get_mut(&offset).unwrap();
            assert_eq!(self.state.failed(offset), message.failed);
            let (failed, counted) = (self.rng.below(3) == 0, self.rng.below(2) == 0);
            if failed {
                assert!(self.state.fail(offset));
            } else {
                assert!(self.state.release(offset, counted));
            }
            assert!(!self.state.release(offset, counted) && !self.state.fail(offset), "only once");
            message.place = Place::Available;
            message.returned += u16::from(counted || failed);
            message.failed += u16::from(failed);
        }
    }

    fn finish_range(&mut self) {
        let start = self.state.floor() + self.rng.below(200);
        let range = start..start + self.rng.below(200);
        let mine: Vec<u64> = self.acquired().into_iter().filter(|offset| range.contains(offset)).collect();
        assert_eq!(self.state.finish_range(range), mine.len() as u64);
        self.naive.retain(|offset, _| !mine.contains(offset));
    }

    fn purge(&mut self) {
        let before = self.naive.len();
        self.naive.retain(|_, message| message.place == Place::Acquired);
        assert_eq!(self.state.finish_available(), (before - self.naive.len()) as u64);
    }

    /// Whatever is available in front turns out to be damaged.
    fn lose(&mut self) {
        let at = match self.state.first_available() {
            Some(Next::Returned(at) | Next::Fresh(at)) if self.rng.below(5) == 0 => at,
            _ => return,
        };
        // Only where offsets are dense does a lost range tell how many messages it held.
        let until = (at..self.end).find(|at| !self.existing.iter().any(|range| range.contains(at)));
        let range = at..(at + 5).min(until.unwrap_or(self.end));
        self.state.lost(range.clone());
        self.naive.retain(|at, message| message.place == Place::Acquired || !range.contains(at));
    }

    /// A topic trims what it likes; who has some of it keeps that.
    fn trim(&mut self) {
        let start = self.state.floor() + self.rng.below(4000);
        let start = start.min(self.end);
        let existing = self.existing.clone();
        let told = |range: std::ops::Range<u64>| {
            let of = |one: &std::ops::Range<u64>| {
                one.end.min(range.end).saturating_sub(one.start.max(range.start))
            };
            existing.iter().map(of).sum()
        };
        let gone = |at: &u64, message: &Naive| *at < start && message.place == Place::Available;
        let expected = self.naive.iter().filter(|(at, message)| gone(at, message)).count() as u64;
        assert_eq!(self.state.trimmed(start, told), expected);
        self.naive.retain(|at, message| !gone(at, message));
    }

    /// What a commit does: the trim and the delta.
    fn flush(&mut self) {
        self.trimmed = self.trimmed.max(self.state.floor());
        let delta = self.state.take_delta();
        if !delta.is_empty() {
            self.records.push(AckRecord::Delta(delta));
        }
    }

    fn snapshot(&mut self) {
        self.flush();
        let records = self.state.snapshot();
        if self.rng.below(2) == 0 {
            self.records.clear();
        }
        self.records.extend(records);
    }

    /// Everything durable comes back; nothing is acquired any more.
    fn crash(&mut self) {
        self.flush();
        let mut replay = Replay::default();
        for record in &self.records {
            replay.apply(AckRecord::decode(&record.encode()).unwrap());
        }
        let trimmed = self.trimmed;
        self.state = replay.restore(trimmed, self.end, self.existing.iter().cloned(), false);
        for message in self.naive.values_mut() {
            message.place = Place::Available;
            message.delivered = true;
        }
    }

    fn check(&mut self) {
        let count = |place| self.naive.values().filter(|message| message.place == place).count() as u64;
        assert_eq!(self.state.ready(), count(Place::Available));
        assert_eq!(self.state.acquired(), count(Place::Acquired));
        let lowest = self.naive.keys().next().copied();
        let floor = self.state.floor();
        assert!(lowest.is_none_or(|lowest| floor <= lowest), "the floor {floor} is above {lowest:?}");
        if let Some(lowest) = lowest.filter(|lowest| *lowest < self.state.fresh()) {
            assert_eq!(floor, lowest, "the floor is the lowest that is not done");
        }
        for range in self.state.done_ranges() {
            assert!(self.naive.range(range.clone()).next().is_none(), "{range:?} is not done");
            assert!(range.start >= floor);
        }
    }
}

#[test]
fn it_is_a_naive_machine_that_survives_crashes() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.step();
        }
    }
}

#[test]
fn what_is_untouched_costs_nothing_and_what_is_done_costs_nothing_either() {
    let mut state = AckState::new(0);
    state.extend(0..10_000_000);
    assert_eq!((state.ready(), state.chunks()), (10_000_000, 0));
    // One is stuck; all behind it are done.
    state.acquire(0).unwrap();
    for offset in 1..1_000_000 {
        state.acquire(offset).unwrap();
        state.finish(offset);
    }
    assert_eq!((state.floor(), state.chunks()), (0, 1));
    let delta = state.take_delta();
    assert_eq!(delta.done, vec![1..1_000_000]);
    assert_eq!(state.done_ranges().collect::<Vec<_>>(), vec![1..1_000_000]);
    assert!(state.snapshot().iter().map(|record| record.encode().len()).sum::<usize>() < 40);
    state.finish(0);
    assert_eq!((state.floor(), state.chunks()), (1_000_000, 0));
    assert!(state.take_delta().is_empty(), "the floor says it all");
}

#[test]
fn beyond_its_bound_it_pushes_back() {
    let mut state = AckState::new(0).with_chunks_max(2);
    state.extend(0..10_000);
    for offset in 0..2048 {
        state.acquire(offset).unwrap();
    }
    assert_eq!(state.acquire(2048), Err(Full));
    assert_eq!(state.first_available(), Some(Next::Fresh(2048)));
    assert!(state.release(7, true));
    assert_eq!(state.first_available(), Some(Next::Returned(7)), "what has a place goes on");
    state.acquire(7).unwrap();
    assert_eq!(state.finish_range(0..1024), 1024);
    assert_eq!(state.acquire(2048), Ok(Acquired { redelivered: false, returned: 0, failed: 0 }));
}

#[test]
fn a_clean_stop_remembers_what_was_delivered() {
    let mut state = AckState::new(0);
    state.extend(0..10);
    for offset in 0..4 {
        state.acquire(offset).unwrap();
    }
    let mut replay = Replay::default();
    state.snapshot().into_iter().for_each(|record| replay.apply(record));
    let mut state = replay.restore(0, 10, std::iter::once(0..10), true);
    let redelivered: Vec<bool> = (0..10).map(|offset| state.acquire(offset).unwrap().redelivered).collect();
    assert_eq!(redelivered, [[true; 4].as_slice(), &[false; 6]].concat());
}

#[test]
fn bytes_that_are_no_record_are_refused() {
    let mut delta = super::Delta { done: vec![5..9, 12..13], counts: vec![(10..11, 300)], failures: vec![] };
    let pinned = [1, 1, 2, 5, 4, 3, 1, 1, 10, 1, 0xac, 2];
    for pinned in [&pinned[..], &[1, 3, 2, 5, 4, 3, 1, 1, 10, 1, 0xac, 2, 1, 10, 1, 7]] {
        let whole = AckRecord::Delta(delta.clone());
        let bytes = whole.encode();
        assert_eq!(&bytes[..], pinned);
        assert_eq!(AckRecord::decode(&bytes), Ok(whole));
        for end in 0..bytes.len() {
            assert!(AckRecord::decode(&bytes[..end]).is_err(), "{end}");
        }
        delta.failures.push((10..11, 7));
    }
    for bad in
        [&[2, 1, 0, 0][..], &[1, 9], &[1, 1, 0, 0, 0], &[1, 3, 0, 0], &[1, 1, 0xff, 0xff, 0xff, 0x7f, 0, 0]]
    {
        assert!(AckRecord::decode(bad).is_err(), "{bad:?}");
    }
    let rng = Rng::seeded(1);
    for _ in 0..20_000 {
        let mut bytes = vec![1, 1 + u8::try_from(rng.below(3)).unwrap()];
        bytes.extend(rng.next_u128().to_le_bytes().iter().take(usize::try_from(rng.below(17)).unwrap()));
        if let Ok(record) = AckRecord::decode(&bytes) {
            let mut replay = Replay::default();
            replay.apply(record);
            drop(replay.restore(0, 5000, std::iter::once(0..5000), false));
        }
    }
}
