//! What brokers write for each other to read.
//!
//! **Invariant.** Each record has a version; one that is newer than this program is refused, not guessed.
//!
//! Deliberately absent: addresses of anything but Kafka listeners; nobody needs others yet.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SLOTS;

/// The version of both records.
pub(super) const VERSION: u32 = 1;
/// Where owners stand.
pub(super) const OWNERS: &str = "cluster/owners";

/// Where the record of a broker stands.
pub(super) fn broker_key(id: i32) -> String {
    format!("brokers/{id}")
}

/// A broker in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// The version of the record.
    pub v: u32,
    /// The broker's id.
    pub id: i32,
    /// Drawn at each start.
    pub life: Uuid,
    /// The program's version.
    pub version: String,
    /// What it is doing.
    pub state: State,
    /// Where Kafka clients are told to connect, by the name of the listener.
    pub listeners: Vec<Endpoint>,
}

/// Where clients of a listener connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The listener's name.
    pub listener: String,
    /// An address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What a broker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is not ready to own anything.
    Starting,
    /// It owns what it is given.
    Serving,
    /// It hands over what it owns.
    Stopping,
}

/// Who owns each slot, and who is to. Nobody: -1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// The version of the record.
    pub v: u32,
    /// Who owns it.
    pub owner: Vec<i32>,
    /// Who is to own it.
    pub target: Vec<i32>,
}

impl Default for Owners {
    fn default() -> Owners {
        Owners { v: VERSION, owner: vec![-1; SLOTS], target: vec![-1; SLOTS] }
    }
}

impl Owners {
    /// Whether it has an entry for each slot and is of a version that is understood.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.v == VERSION && self.owner.len() == SLOTS && self.target.len() == SLOTS
    }

    /// Whether a broker owns a slot and is not to hand it over.
    #[must_use]
    pub fn is_of(&self, slot: usize, id: i32) -> bool {
        self.owner[slot] == id && self.target[slot] == id
    }
}
