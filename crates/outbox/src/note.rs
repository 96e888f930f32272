//! How far the outbox was relayed.
//!
//! **Invariant.** What was written stays readable: a note says its version, and one of a newer version is refused.
//!
//! Deliberately absent: where it is kept (`ferrymq_broker::queues::RelayLog`).

use bytes::Bytes;
use ferrymq_storage::{ErrorKind, StorageError};
use serde::{Deserialize, Serialize};

/// The version of the stored form.
const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    v: u32,
    /// Whose numbers of transactions these are: `system_identifier` of the database's server.
    pub system_id: i64,
    /// The snapshot up to which all was relayed.
    pub from: String,
    /// The snapshot of the tick that is under way.
    pub to: Option<String>,
    /// The last id of it that was relayed; nothing without `to`.
    pub after: i64,
}

impl Note {
    /// Everything that `from` sees was relayed.
    #[must_use]
    pub fn at(system_id: i64, from: String) -> Note {
        Note { v: VERSION, system_id, from, to: None, after: 0 }
    }

    /// The same within a tick, up to an id.
    #[must_use]
    pub fn within(&self, to: &str, after: i64) -> Note {
        Note { to: Some(to.to_owned()), after, ..self.clone() }
    }

    /// As it is stored.
    ///
    /// # Errors
    /// None; the types cannot say so.
    pub fn encode(&self) -> Result<Bytes, StorageError> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|error| unreadable(&error))
    }

    /// The inverse.
    ///
    /// # Errors
    /// `Internal` for what no version up to this one wrote.
    pub fn decode(bytes: &[u8]) -> Result<Note, StorageError> {
        let note: Note = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
        if note.v > VERSION {
            let text = format!("a newer version wrote the outbox's note: version={} known={VERSION}", note.v);
            return Err(StorageError::new(ErrorKind::Internal, text));
        }
        Ok(note)
    }
}

fn unreadable(error: &serde_json::Error) -> StorageError {
    StorageError::new(ErrorKind::Internal, format!("the outbox's note cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_promised() {
        let note = Note::at(7, "10:20:11,12".to_owned());
        let text = br#"{"v":1,"system_id":7,"from":"10:20:11,12","to":null,"after":0}"#;
        assert_eq!(note.encode().unwrap(), &text[..]);
        assert_eq!(Note::decode(text).unwrap(), note);
        let within = note.within("20:20:", 9);
        let text = br#"{"v":1,"system_id":7,"from":"10:20:11,12","to":"20:20:","after":9}"#;
        assert_eq!(within.encode().unwrap(), &text[..]);
        assert_eq!(Note::decode(text).unwrap(), within);
    }

    #[test]
    fn what_nobody_wrote_is_refused() {
        let newer = br#"{"v":2,"system_id":7,"from":"1:1:","to":null,"after":0}"#;
        assert!(Note::decode(newer).unwrap_err().to_string().contains("version=2 known=1"));
        assert!(Note::decode(b"{}").is_err());
    }
}
