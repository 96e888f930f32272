//! What is written: values that nobody else writes, and that show damage.
//!
//! **Invariant.** A value (writer, counter) is sent to one log only, and a writer's counters rise in the order
//! in which it sends. Its bytes follow from it, so that a reader can tell a damaged record from a good one.

/// Bytes of the smallest payload.
pub(crate) const PAYLOAD_MIN: usize = 12;

/// A value no other record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Value {
    /// Who wrote it; a number given once.
    pub(crate) writer: u32,
    /// The writer's count.
    pub(crate) counter: u32,
}

impl Value {
    /// The value `by` counts later.
    pub(crate) fn plus(self, by: u32) -> Value {
        Value { counter: self.counter + by, ..self }
    }

    /// Appends a payload of `size` bytes, at least [`PAYLOAD_MIN`].
    pub(crate) fn write(self, size: usize, out: &mut Vec<u8>) {
        let size = size.max(PAYLOAD_MIN);
        out.extend_from_slice(&self.writer.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
        let pad = self.pad();
        out.resize(out.len() + size - PAYLOAD_MIN, pad);
    }

    /// Reads a payload back.
    pub(crate) fn read(payload: &[u8]) -> Result<Value, String> {
        let word = |at: usize| {
            payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
        };
        let (Some(writer), Some(counter), Some(size)) = (word(0), word(4), word(8)) else {
            return Err(format!("a payload of {} bytes is not one of ours", payload.len()));
        };
        let value = Value { writer, counter };
        if usize::try_from(size) != Ok(payload.len()) {
            return Err(format!("{value}: {} bytes, {size} were written", payload.len()));
        }
        let pad = value.pad();
        match payload[PAYLOAD_MIN..].iter().position(|byte| *byte != pad) {
            None => Ok(value),
            Some(at) => Err(format!("{value}: byte {} is damaged", at + PAYLOAD_MIN)),
        }
    }

    fn pad(self) -> u8 {
        // The low byte of a product mixes both numbers well enough to tell neighbours apart.
        let mixed = self.writer.wrapping_mul(31).wrapping_add(self.counter.wrapping_mul(7)).wrapping_add(1);
        mixed.to_le_bytes()[0]
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}#{}", self.writer, self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_comes_back_and_damage_shows() {
        let value = Value { writer: 7, counter: 300 };
        let mut payload = Vec::new();
        value.write(40, &mut payload);
        assert_eq!(payload.len(), 40);
        assert_eq!(Value::read(&payload), Ok(value));
        payload[20] ^= 1;
        assert!(Value::read(&payload).is_err());
        assert!(Value::read(&payload[..39]).is_err());
        assert!(Value::read(&payload[..5]).is_err());
    }
}
