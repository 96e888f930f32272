//! A set of offsets as ranges that neither overlap nor touch.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of offsets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds these.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&before, &until)) = self.0.range(..=end).next_back() {
            if until < start {
                break;
            }
            self.0.remove(&before);
            start = start.min(before);
            end = end.max(until);
        }
        self.0.insert(start, end);
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// Behind the last one; 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// The first at or above `at` that is not in the set.
    #[must_use]
    pub fn first_missing(&self, at: u64) -> u64 {
        self.0.range(..=at).next_back().map_or(at, |(_, end)| at.max(*end))
    }

    /// Those of `within` that are not in the set, ascending.
    pub fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut at = within.start;
        let mut missing = Vec::new();
        let first = self.0.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (&start, &end) in self.0.range(first..within.end.max(first)) {
            if at < start {
                missing.push(at..start);
            }
            at = at.max(end);
        }
        if at < within.end {
            missing.push(at..within.end);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ferrymq_runtime::Rng;

    use super::*;

    #[test]
    fn ranges_are_a_set() {
        for seed in 0..100 {
            let rng = Rng::seeded(seed);
            let (mut ranges, mut naive) = (Ranges::default(), BTreeSet::new());
            for _ in 0..30 {
                let start = rng.below(100);
                let range = start..start + rng.below(8);
                ranges.insert(range.clone());
                naive.extend(range);
                let found: Vec<Range<u64>> = ranges.iter().collect();
                assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "apart: {found:?}");
                assert!(found.into_iter().flatten().eq(naive.iter().copied()));
                let start = rng.below(110);
                let within = start..start + rng.below(20);
                let missing: Vec<u64> = ranges.missing(within.clone()).into_iter().flatten().collect();
                let expected: Vec<u64> = within.filter(|offset| !naive.contains(offset)).collect();
                assert_eq!(missing, expected, "seed {seed} {ranges:?}");
                let first = (start..).find(|offset| !naive.contains(offset));
                assert_eq!(Some(ranges.first_missing(start)), first, "seed {seed} {ranges:?}");
            }
            assert_eq!(ranges.end(), naive.last().map_or(0, |last| last + 1));
        }
    }
}
