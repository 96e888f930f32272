//! A string that is a slice of the frame it arrived in.
//!
//! Invariant: the bytes are UTF-8, checked once when the value is made. Without unsafe code the check is
//! repeated whenever a `&str` is asked for; for the short ASCII names of the protocol that is a few
//! nanoseconds, and comparing, hashing and encoding do without it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// A cheaply cloned, immutable string.
///
/// A decoded one keeps its whole frame in memory for as long as it lives. What outlives the request
/// should be [detached](Self::detach).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StrBytes(Bytes);

impl StrBytes {
    /// The empty string.
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    /// Wraps a literal, without allocating.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Takes bytes as they are if they are UTF-8.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// The text's bytes; cheaper than [`as_str`](Self::as_str).
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is it the empty string?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The underlying bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// A copy of its own that keeps no frame alive.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// A `String` of its own.
    pub fn to_owned_str(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Deref for StrBytes {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for StrBytes {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for StrBytes {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// As `str` hashes, so that a map keyed by `StrBytes` can be asked with a `&str`.
impl Hash for StrBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// The order of UTF-8 bytes is the order of the strings.
impl Ord for StrBytes {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for StrBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq<str> for StrBytes {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for StrBytes {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl From<&'static str> for StrBytes {
    fn from(text: &'static str) -> Self {
        Self::from_static(text)
    }
}

impl From<String> for StrBytes {
    fn from(text: String) -> Self {
        Self(Bytes::from(text.into_bytes()))
    }
}

impl From<StrBytes> for String {
    fn from(text: StrBytes) -> Self {
        text.to_owned_str()
    }
}

impl fmt::Display for StrBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for StrBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn slices_share_and_detached_ones_do_not() {
        let frame = Bytes::from(b"xxtopicxx".to_vec());
        let name = StrBytes::from_utf8(frame.slice(2..7)).unwrap();
        assert_eq!(name, "topic");
        assert_eq!(name.as_bytes().as_ptr(), frame[2..].as_ptr());
        let own = name.detach();
        assert_eq!(own, name);
        assert_ne!(own.as_bytes().as_ptr(), name.as_bytes().as_ptr());
        assert!(StrBytes::from_utf8(Bytes::from_static(&[0xc3, 0x28])).is_err());
    }

    #[test]
    fn a_map_answers_to_str() {
        let map = HashMap::from([(StrBytes::from("größe".to_owned()), 1)]);
        assert_eq!(map.get("größe"), Some(&1));
        assert_eq!(map.get("grösse"), None);
    }

    #[test]
    fn orders_and_prints_as_str() {
        let mut texts = [StrBytes::from("z"), StrBytes::from("é"), StrBytes::from("a")];
        texts.sort();
        assert_eq!(texts.map(|t| t.to_string()), ["a", "z", "é"]);
        assert_eq!(format!("{:?} {:>3}", StrBytes::from("a\"b"), StrBytes::from("x")), "\"a\\\"b\"   x");
    }
}
