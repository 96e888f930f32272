//! Several brokers on one store: who is there, who is to own what, and what each may believe of it.
//!
//! ```text
//! brokers/<id>      a record for each life, written again as a heartbeat       [`members`] counts silence
//! cluster/owners    an owner and a target for each slot of logs                [`spread`] works out targets
//!        \______ polled by each broker ______ [`View`]: what doors and owners go by
//! ```
//! `docs/adr/0015-several-brokers.md` has the races, one by one.
//!
//! **Invariants.** Nothing here is needed for what was acknowledged to be kept: a log's row in the store alone says who may
//! append to it. Every view may be late. A broker that could not say for [`LEASE`] that it lives serves nothing as an owner.
//!
//! Deliberately absent: a controller, clocks of other machines, anything that brokers say to each other but by the store.

mod keeper;
mod members;
mod record;
mod spread;
mod tick;
mod view;

pub use keeper::{Cluster, JoinError, Joined, Start, join};
pub use record::{BrokerRecord, Endpoint, Owners, State};
pub use view::View;

use std::time::Duration;

/// Slots that logs are spread over.
pub const SLOTS: usize = 1024;
/// Between two heartbeats, and between two looks at everything.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// How long after it sent its last heartbeat that was answered a broker still serves as an owner.
pub const LEASE: Duration = Duration::from_secs(2);
/// How long another is silent until it is taken for dead. Longer than [`LEASE`].
pub const SILENCE: Duration = Duration::from_millis(2500);
/// How long membership must stay the same before slots are moved between the living.
pub const SETTLED: Duration = Duration::from_secs(5);

/// The slot of a log.
#[must_use]
pub fn slot_of(log: ferrymq_types::LogId) -> usize {
    usize::try_from(log.0 % SLOTS as u64).unwrap_or(0)
}
