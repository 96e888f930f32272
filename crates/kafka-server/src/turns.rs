//! Taking turns: a handler that has much to do lets other connections get on in between.
//!
//! A request may name a hundred thousand partitions, and what is done for each rarely waits for anything. Without
//! a pause the thread would serve nobody else until all of it is done.
//!
//! Deliberately absent: clocks. Work is counted, in units of about one look-up of a partition by its name.

/// Units of work after which others get their turn: some hundred microseconds.
const UNITS_PER_TURN: usize = 1000;

/// Work done since the last pause.
#[derive(Debug, Default)]
pub(crate) struct Turns(usize);

impl Turns {
    /// Notes some work, and pauses if it is time.
    ///
    /// Cancel safety: dropping it is fine.
    pub(crate) async fn spend(&mut self, units: usize) {
        self.0 += units;
        if self.0 >= UNITS_PER_TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}
