//! Memory that files are read into, used again: a fresh megabyte for every read would be zeroed twice, by the
//! kernel and by us, which took a tenth of a busy consumer's processor time.
//!
//! **Invariants.** A buffer comes back when the last slice of it is dropped, never before. At most
//! [`KEPT_BYTES_MAX`] lie idle; what is more is freed. What an earlier read left behind is never shown: only what
//! the file gave is.
//!
//! Deliberately absent: buffers below [`CLASS_BYTES_MIN`], which cost less to make than to keep.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smallest size that is kept.
const CLASS_BYTES_MIN: usize = 16 << 10;
/// Sizes kept: 16 KiB, doubled up to 4 MiB, the most that is read at once unless a batch is larger.
const CLASSES: usize = 9;
/// Idle bytes kept: two of the largest answers of Kafka's consumers at their defaults.
const KEPT_BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
struct Idle {
    bytes: usize,
    by_class: [Vec<Vec<u8>>; CLASSES],
}

/// The buffers of a store.
#[derive(Clone, Default)]
pub(crate) struct Buffers {
    idle: Arc<Mutex<Idle>>,
}

impl Buffers {
    /// A buffer for `length` bytes.
    pub(crate) fn take(&self, length: usize) -> Buffer {
        let class = class_of(length);
        let kept = class.and_then(|class| {
            let mut idle = self.idle.lock();
            let bytes = idle.by_class[class].pop()?;
            idle.bytes -= bytes.len();
            Some(bytes)
        });
        let bytes = kept.unwrap_or_else(|| vec![0; class.map_or(length, |class| CLASS_BYTES_MIN << class)]);
        Buffer { bytes, length, home: class.map(|class| (class, self.clone())) }
    }
}

/// The class whose buffers hold `length` bytes without wasting half of one.
fn class_of(length: usize) -> Option<usize> {
    if length < CLASS_BYTES_MIN {
        return None;
    }
    let class = length.div_ceil(CLASS_BYTES_MIN).next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

/// Memory for one read.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Option<(usize, Buffers)>,
}

impl Buffer {
    /// Where the read goes; holds whatever was there before.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// The first `count` bytes, which were read.
    pub(crate) fn filled(mut self, count: usize) -> Bytes {
        self.length = count.min(self.length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some((class, home)) = self.home.take() else { return };
        let mut idle = home.idle.lock();
        if idle.bytes + self.bytes.len() <= KEPT_BYTES_MAX {
            idle.bytes += self.bytes.len();
            idle.by_class[class].push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_is_gone() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(CLASS_BYTES_MIN + 1);
        buffer.space().fill(7);
        let filled = buffer.filled(100);
        let slice = filled.slice(10..20);
        drop(filled);
        assert_eq!(buffers.idle.lock().bytes, 0);
        assert_eq!(slice, [7; 10].as_slice());
        drop(slice);
        assert_eq!(buffers.idle.lock().bytes, 2 * CLASS_BYTES_MIN);
        // What the earlier read left behind is not shown unless it was read again.
        let again = buffers.take(2 * CLASS_BYTES_MIN);
        assert_eq!(buffers.idle.lock().bytes, 0);
        assert_eq!(again.filled(0), Bytes::new());
    }

    #[test]
    fn small_and_huge_ones_are_not_kept_and_idle_ones_are_bounded() {
        let buffers = Buffers::default();
        for length in [0, 1, CLASS_BYTES_MIN - 1, (4 << 20) + 1] {
            let buffer = buffers.take(length);
            assert_eq!(buffer.as_ref().len(), length);
            drop(buffer);
            assert_eq!(buffers.idle.lock().bytes, 0);
        }
        let many: Vec<Buffer> = (0..9).map(|_| buffers.take(4 << 20)).collect();
        drop(many);
        assert_eq!(buffers.idle.lock().bytes, KEPT_BYTES_MAX);
    }
}
