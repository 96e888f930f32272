//! Byte budgets: permits that are taken before bytes are queued and given back when they are done with.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit stands for this many bytes, so that budgets beyond 2^32 bytes fit a semaphore.
const UNIT_BYTES: usize = 256;

/// A number of bytes that may be in flight at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    permits: Arc<Semaphore>,
    units: usize,
}

/// Bytes taken from a budget; dropping it gives them back.
#[derive(Debug)]
pub struct BytePermit {
    permit: OwnedSemaphorePermit,
}

impl BytePermit {
    /// Bytes it stands for, rounded up to the budget's unit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT_BYTES
    }

    /// Adds what another permit of the same budget stands for.
    ///
    /// # Panics
    /// If the other is of another budget.
    pub fn merge(&mut self, other: BytePermit) {
        self.permit.merge(other.permit);
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        drop(self.permit.split(surplus));
    }
}

impl ByteBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> ByteBudget {
        let units = bytes.div_ceil(UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        ByteBudget { permits: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits until `bytes` are free and takes them, in the order of asking. More than the whole budget takes
    /// the whole budget, so that one large request is slow and not stuck.
    ///
    /// Cancel safety: a dropped wait takes nothing.
    pub async fn take(&self, bytes: usize) -> BytePermit {
        let permit = self.permits.clone().acquire_many_owned(self.units_for(bytes)).await;
        BytePermit { permit: permit.expect("the semaphore of a budget is never closed") }
    }

    /// Takes `bytes` if they are free now.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<BytePermit> {
        let permit = self.permits.clone().try_acquire_many_owned(self.units_for(bytes)).ok()?;
        Some(BytePermit { permit })
    }

    /// A permit that stands for nothing.
    #[must_use]
    pub fn nothing(&self) -> BytePermit {
        let permit = self.permits.clone().try_acquire_many_owned(0);
        BytePermit {
            permit: permit.expect("nothing is always free: the semaphore of a budget is never closed"),
        }
    }

    /// Bytes that are free now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.permits.available_permits().min(self.units) * UNIT_BYTES
    }

    /// Bytes that may be taken in all, rounded up to the budget's unit of 256.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.units * UNIT_BYTES
    }

    /// Bytes taken now, rounded up to the budget's unit of 256.
    #[must_use]
    pub fn in_use(&self) -> usize {
        (self.units - self.permits.available_permits().min(self.units)) * UNIT_BYTES
    }

    fn units_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, self.units)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_budget_is_given_back() {
        let budget = ByteBudget::new(1024);
        let first = budget.take(1000).await;
        assert_eq!((budget.in_use(), budget.capacity()), (1024, 1024));
        assert!(budget.try_take(1).is_none());
        drop(first);
        assert_eq!(budget.in_use(), 0);
        // Larger than the whole: takes the whole rather than waiting for ever.
        let all = budget.take(1 << 30).await;
        assert!(budget.try_take(1).is_none());
        drop(all);
        let (mut one, two) = (budget.take(256).await, budget.take(300).await);
        one.merge(two);
        assert_eq!((one.bytes(), budget.free()), (768, 256));
        one.shrink_to(1);
        assert_eq!((one.bytes(), budget.free(), budget.capacity()), (256, 768, 1024));
        one.shrink_to(4096);
        assert_eq!(budget.in_use(), 256);
        one.shrink_to(0);
        drop(one);
        let (all, nothing) = (budget.take(1024).await, budget.nothing());
        assert_eq!((nothing.bytes(), budget.free()), (0, 0));
        drop((all, nothing));
        assert_eq!(budget.in_use(), 0);
    }
}
