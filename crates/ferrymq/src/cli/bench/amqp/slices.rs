//! Whether publishing becomes slower while a backlog grows: the rates of its tenths.
//!
//! **Invariant.** A tenth is counted by confirmed messages, not by time, so each weighs the same.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::{Value, json};

const SLICES: usize = 10;

/// When each tenth was done.
pub(super) struct Slices {
    messages: u64,
    started: Duration,
    done: RefCell<Vec<(u64, Duration)>>,
}

impl Slices {
    pub(super) fn new(messages: u64, started: Duration) -> Slices {
        Slices { messages, started, done: RefCell::new(Vec::new()) }
    }

    /// So many were confirmed in all at that time.
    pub(super) fn confirmed(&self, count: u64, now: Duration) {
        let mut done = self.done.borrow_mut();
        let tenth = u128::from(count) * SLICES as u128 / u128::from(self.messages.max(1));
        if tenth > done.len() as u128 {
            // What one confirm settles may end several tenths: they become one slice.
            let seen = usize::try_from(tenth).unwrap_or(usize::MAX).min(SLICES);
            done.resize(seen, (count, now));
        }
    }

    /// Messages per second of each slice, and by how much the last three are slower than the first three: the
    /// medians compared, 0.1 is ten per cent. Null if there were fewer than six slices.
    pub(super) fn json(&self) -> Value {
        let mut rates = Vec::new();
        let mut before = (0, self.started);
        for &(count, at) in self.done.borrow().iter() {
            let seconds = at.saturating_sub(before.1).as_secs_f64();
            if seconds > 0.0 {
                rates.push((count - before.0) as f64 / seconds);
                before = (count, at);
            }
        }
        let slowdown =
            (rates.len() >= 6).then(|| 1.0 - middle(&rates[rates.len() - 3..]) / middle(&rates[..3]));
        json!({ "slices_per_second": rates, "slowdown": slowdown })
    }
}

/// The middle one of three.
fn middle(three: &[f64]) -> f64 {
    let mut sorted = three.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: &[u64]) -> Value {
        let slices = Slices::new(100, Duration::from_secs(5));
        let mut at = 5;
        for (index, took) in seconds.iter().enumerate() {
            at += took;
            slices.confirmed(10 * (index as u64 + 1), Duration::from_secs(at));
        }
        slices.json()
    }

    #[test]
    fn an_even_pace_has_no_slowdown_and_one_bad_slice_makes_none() {
        assert_eq!(measured(&[1; 10])["slowdown"], 0.0);
        assert_eq!(measured(&[1, 1, 1, 1, 1, 1, 1, 1, 9, 1])["slowdown"], 0.0);
        assert_eq!(measured(&[1; 10])["slices_per_second"].as_array().unwrap().len(), 10);
    }

    #[test]
    fn half_the_pace_at_the_end_is_a_half() {
        assert_eq!(measured(&[1, 1, 1, 1, 2, 2, 2, 2, 2, 2])["slowdown"], 0.5);
    }

    #[test]
    fn too_few_slices_say_nothing() {
        let slices = Slices::new(10, Duration::ZERO);
        slices.confirmed(10, Duration::from_secs(1));
        assert_eq!(slices.json()["slowdown"], Value::Null);
        assert_eq!(slices.json()["slices_per_second"][0], 10.0);
    }
}
