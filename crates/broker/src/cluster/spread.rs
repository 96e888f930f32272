//! Who is to own which slot: a pure function of who owns them and who lives.
//!
//! **Invariants.** A slot is taken from its owner by others only if that owner is dead. Once nothing is left to do, those
//! that take slots have as many as each other, give or take one, and the same question has the same answer: nothing.
//! Whoever asks with the same view gets the same answer.
//!
//! Deliberately absent: time, the store.

use std::collections::{BTreeMap, BTreeSet};

use super::SLOTS;
use super::record::Owners;

/// Slots that may be on their way from one living broker to another at a time, but for those of one that stops.
pub(super) const MOVES_MAX: usize = 128;

/// What the owners should be; `None`: as they are. `living` own what they own, `takers` among them may be given more. Slots are
/// moved for evenness only if `settled`.
pub(super) fn spread(
    owners: &Owners,
    living: &BTreeSet<i32>,
    takers: &BTreeSet<i32>,
    settled: bool,
) -> Option<Owners> {
    if takers.is_empty() {
        return None;
    }
    let mut next = owners.clone();
    for slot in 0..SLOTS {
        // Whom a slot was to go to is not there any more: it stays.
        if living.contains(&next.owner[slot]) && !takers.contains(&next.target[slot]) {
            next.target[slot] = next.owner[slot];
        }
    }
    let mut counts: BTreeMap<i32, usize> = takers.iter().map(|id| (*id, 0)).collect();
    for slot in (0..SLOTS).filter(|slot| living.contains(&next.owner[*slot])) {
        if let Some(count) = counts.get_mut(&next.target[slot]) {
            *count += 1;
        }
    }
    for slot in 0..SLOTS {
        let is_orphan = !living.contains(&next.owner[slot]);
        // Only the owner's own hand sets another owner; of one that stops, that is what is asked.
        if is_orphan || !takers.contains(&next.target[slot]) {
            let poorest = poorest(&counts)?;
            next.target[slot] = poorest;
            if is_orphan {
                next.owner[slot] = poorest;
            }
            counts.entry(poorest).and_modify(|count| *count += 1);
        }
    }
    if settled {
        even_out(&mut next, &mut counts);
    }
    (next != *owners).then_some(next)
}

fn poorest(counts: &BTreeMap<i32, usize>) -> Option<i32> {
    counts.iter().min_by_key(|(_, count)| **count).map(|(id, _)| *id)
}

/// Moves what some have too much of, spread over their slots: the logs of a topic are neighbours.
fn even_out(owners: &mut Owners, counts: &mut BTreeMap<i32, usize>) {
    let moving = (0..SLOTS).filter(|slot| owners.owner[*slot] != owners.target[*slot]).count();
    let mut moves = MOVES_MAX.saturating_sub(moving);
    let floor = SLOTS / counts.len();
    let mut extra = SLOTS % counts.len();
    let mut rich: Vec<(usize, i32)> = counts.iter().map(|(id, count)| (*count, *id)).collect();
    // Who has most already keeps what cannot be divided.
    rich.sort_by_key(|(count, id)| (std::cmp::Reverse(*count), *id));
    for (count, id) in rich {
        let quota = floor + usize::from(extra > 0 && count > floor);
        extra -= usize::from(quota > floor);
        let surplus = count.saturating_sub(quota).min(moves);
        let own: Vec<usize> = (0..SLOTS).filter(|slot| owners.is_of(*slot, id)).collect();
        for index in 0..surplus.min(own.len()) {
            let slot = own[index * own.len() / surplus];
            let Some(poorest) = poorest(counts) else { return };
            if counts[&poorest] + 1 >= counts[&id] {
                break;
            }
            owners.target[slot] = poorest;
            counts.entry(poorest).and_modify(|count| *count += 1);
            counts.entry(id).and_modify(|count| *count -= 1);
            moves -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_runtime::Rng;

    fn set(ids: &[i32]) -> BTreeSet<i32> {
        ids.iter().copied().collect()
    }

    /// Asks until nothing changes; what is to move moves in between, if its owner lives.
    fn settle(mut owners: Owners, living: &BTreeSet<i32>, takers: &BTreeSet<i32>) -> (Owners, usize) {
        let mut moved = 0;
        for _ in 0..100 {
            let Some(next) = spread(&owners, living, takers, true) else { return (owners, moved) };
            for slot in 0..SLOTS {
                let (was, is) = (owners.owner[slot], next.owner[slot]);
                assert!(was == is || !living.contains(&was), "slot {slot} was taken from {was}, who lives");
            }
            moved += (0..SLOTS).filter(|slot| next.target[*slot] != owners.target[*slot]).count();
            owners = Owners { owner: next.target.clone(), ..next };
        }
        panic!("it never comes to rest");
    }

    fn counts(owners: &Owners, ids: &BTreeSet<i32>) -> Vec<usize> {
        ids.iter().map(|id| owners.owner.iter().filter(|owner| *owner == id).count()).collect()
    }

    #[test]
    fn many_lives_end_even_with_few_moves() {
        for seed in 0..200 {
            let rng = Rng::seeded(seed);
            let mut owners = Owners::default();
            let mut living = BTreeSet::new();
            for _ in 0..12 {
                let before = living.clone();
                let id = i32::try_from(rng.below(6)).unwrap();
                if !living.remove(&id) || living.is_empty() {
                    living.insert(id);
                }
                let (next, moved) = settle(owners, &living, &living);
                let counts = counts(&next, &living);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "seed {seed}: {counts:?}");
                // One that comes is given its share, one that goes leaves its share.
                let share = SLOTS.div_ceil(living.len().min(before.len().max(1)));
                assert!(moved <= share, "seed {seed}: {moved} moves for a share of {share}");
                owners = next;
            }
        }
    }

    #[test]
    fn neighbours_stay_spread() {
        let mut owners = Owners::default();
        for ids in [&[1][..], &[1, 2], &[1, 2, 3], &[1, 3], &[1, 3, 4]] {
            owners = settle(owners, &set(ids), &set(ids)).0;
        }
        // A topic of 12 partitions on three brokers: nobody has none, nobody has more than eight.
        for first in 0..SLOTS {
            for id in [1, 3, 4] {
                let of = (first..first + 12).filter(|slot| owners.owner[slot % SLOTS] == id).count();
                assert!((1..=8).contains(&of), "{of} of 12 from slot {first} are of broker {id}");
            }
        }
    }

    #[test]
    fn who_stops_is_relieved_at_once_and_who_is_dead_too() {
        let all = settle(Owners::default(), &set(&[1, 2, 3]), &set(&[1, 2, 3])).0;
        let stopping = spread(&all, &set(&[1, 2, 3]), &set(&[1, 3]), false).unwrap();
        assert_eq!(stopping.owner, all.owner, "it hands over itself");
        assert!(!stopping.target.contains(&2));
        let dead = spread(&all, &set(&[1, 3]), &set(&[1, 3]), false).unwrap();
        assert!(!dead.owner.contains(&2) && dead.owner == dead.target);
        // Back before anything moved: it keeps what it has, and nothing moves for evenness until all is settled.
        assert_eq!(spread(&stopping, &set(&[1, 2, 3]), &set(&[1, 2, 3]), false), None);
        assert_eq!(spread(&dead, &set(&[1, 2, 3]), &set(&[1, 2, 3]), false), None);
        assert_eq!(spread(&all, &set(&[1, 2, 3]), &BTreeSet::new(), true), None);
    }

    #[test]
    fn what_was_to_go_to_one_that_died_stays() {
        let mut owners = settle(Owners::default(), &set(&[1]), &set(&[1])).0;
        owners = spread(&owners, &set(&[1, 2]), &set(&[1, 2]), true).unwrap();
        assert_eq!(owners.target.iter().filter(|id| **id == 2).count(), MOVES_MAX);
        let back = spread(&owners, &set(&[1]), &set(&[1]), false).unwrap();
        assert_eq!((back.owner, back.target), (vec![1; SLOTS], vec![1; SLOTS]));
    }
}
