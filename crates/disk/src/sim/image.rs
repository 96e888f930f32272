//! The bytes of a file, shared block by block between states: copying one costs almost nothing.
//!
//! ```text
//!  image -> leaf (64 blocks) -> block (4 KiB)      absent leaf or block: a hole, reads as zeros
//! ```
//! **Invariant.** No byte at or behind the length is anything but zero, except between
//! [`Image::poke`] and the [`Image::set_len`] that must follow it.
//!
//! Deliberately absent: what is durable. An image is only bytes.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// What the operating system reads, caches and allocates at a time.
pub(super) const BLOCK_BYTES: u64 = 4096;
const LEAF_BLOCKS: usize = 64;

type Block = [u8; 4096];

const _: () = assert!(size_of::<Block>() as u64 == BLOCK_BYTES);

/// All allocated blocks that were never written are this one.
static ZEROS: LazyLock<Arc<Block>> = LazyLock::new(|| Arc::new([0; _]));

#[derive(Clone)]
struct Leaf([Option<Arc<Block>>; LEAF_BLOCKS]);

/// The bytes of a file.
#[derive(Clone, Default)]
pub(super) struct Image {
    leaves: Arc<Vec<Option<Arc<Leaf>>>>,
    len: u64,
    blocks: u64,
}

/// The part of one block that a range covers.
struct Part {
    block: usize,
    from: usize,
    count: usize,
}

/// Cuts a range of a file at block boundaries.
fn parts(range: Range<u64>) -> impl Iterator<Item = Part> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = range.end.min((at / BLOCK_BYTES + 1) * BLOCK_BYTES);
        let part =
            Part { block: size(at / BLOCK_BYTES), from: size(at % BLOCK_BYTES), count: size(end - at) };
        at = end;
        Some(part)
    })
}

/// A position inside a simulated file as an index. Files that do not fit in memory cannot be simulated.
fn size(value: u64) -> usize {
    usize::try_from(value).expect("a simulated file fits in memory")
}

impl Image {
    /// How many bytes there are to read.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes taken up on the device.
    pub(super) fn used(&self) -> u64 {
        self.blocks * BLOCK_BYTES
    }

    /// Bytes that writing or allocating a range would take from the device.
    pub(super) fn needs(&self, range: Range<u64>) -> u64 {
        parts(range).filter(|part| self.block(part.block).is_none()).count() as u64 * BLOCK_BYTES
    }

    fn block(&self, index: usize) -> Option<&Arc<Block>> {
        self.leaves.get(index / LEAF_BLOCKS)?.as_ref()?.0[index % LEAF_BLOCKS].as_ref()
    }

    fn slot(&mut self, index: usize) -> &mut Option<Arc<Block>> {
        let leaves = Arc::make_mut(&mut self.leaves);
        if leaves.len() <= index / LEAF_BLOCKS {
            leaves.resize(index / LEAF_BLOCKS + 1, None);
        }
        let leaf =
            leaves[index / LEAF_BLOCKS].get_or_insert_with(|| Arc::new(Leaf([const { None }; LEAF_BLOCKS])));
        &mut Arc::make_mut(leaf).0[index % LEAF_BLOCKS]
    }

    /// Reads from `position` until `into` is full or the file ends.
    pub(super) fn read(&self, into: &mut [u8], position: u64) -> usize {
        let end = self.len.min(position.saturating_add(into.len() as u64));
        let mut done = 0;
        for part in parts(position..end) {
            let target = &mut into[done..done + part.count];
            match self.block(part.block) {
                Some(block) => target.copy_from_slice(&block[part.from..part.from + part.count]),
                None => target.fill(0),
            }
            done += part.count;
        }
        done
    }

    /// Writes, extending the file if need be.
    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        self.poke(bytes, position);
        self.len = self.len.max(position + bytes.len() as u64);
    }

    /// Writes without moving the end of the file; [`Image::set_len`] must follow.
    pub(super) fn poke(&mut self, bytes: &[u8], position: u64) {
        let mut done = 0;
        for part in parts(position..position + bytes.len() as u64) {
            let slot = self.slot(part.block);
            let taken = slot.is_none();
            let block = Arc::make_mut(slot.get_or_insert_with(|| ZEROS.clone()));
            block[part.from..part.from + part.count].copy_from_slice(&bytes[done..done + part.count]);
            self.blocks += u64::from(taken);
            done += part.count;
        }
    }

    /// Cuts or extends the file; everything behind the end is given back, whatever the length was.
    pub(super) fn set_len(&mut self, length: u64) {
        let allocated = self.leaves.len() as u64 * LEAF_BLOCKS as u64 * BLOCK_BYTES;
        self.clear(length..allocated.max(length));
        let leaves = size(length.div_ceil(BLOCK_BYTES)).div_ceil(LEAF_BLOCKS);
        if self.leaves.len() > leaves {
            Arc::make_mut(&mut self.leaves).truncate(leaves);
        }
        self.len = length;
    }

    /// Takes the space of all bytes up to `length` and extends the file to it.
    pub(super) fn allocate(&mut self, length: u64) {
        for part in parts(0..length) {
            if self.block(part.block).is_none() {
                *self.slot(part.block) = Some(ZEROS.clone());
                self.blocks += 1;
            }
        }
        self.len = self.len.max(length);
    }

    /// Turns a range into zeros and gives whole blocks back.
    pub(super) fn punch(&mut self, range: Range<u64>) {
        self.clear(range.start..range.end.min(self.len));
    }

    fn clear(&mut self, range: Range<u64>) {
        for part in parts(range) {
            if self.block(part.block).is_none() {
                continue;
            }
            let slot = self.slot(part.block);
            if part.count as u64 == BLOCK_BYTES {
                *slot = None;
                self.blocks -= 1;
            } else if let Some(block) = slot {
                Arc::make_mut(block)[part.from..part.from + part.count].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(image: &Image) -> Vec<u8> {
        let mut all = vec![0xee; size(image.len())];
        assert_eq!(image.read(&mut all, 0), all.len());
        all
    }

    /// The same operations on a plain vector.
    #[test]
    fn an_image_behaves_like_a_vector_of_bytes() {
        let mut rng = crate::sim::rng::Rng::new(7);
        let (mut image, mut model) = (Image::default(), Vec::new());
        for step in 0..2_000u64 {
            let before = image.clone();
            let frozen = bytes(&before);
            let at = size(rng.below(600_000));
            let count = size(rng.below(9_000));
            match rng.below(8) {
                0 => {
                    image.set_len(at as u64);
                    model.resize(at, 0);
                }
                1 => {
                    image.punch(at as u64..(at + count) as u64);
                    let end = model.len().min(at + count);
                    model[at.min(end)..end].fill(0);
                }
                2 => {
                    image.allocate(at as u64);
                    model.resize(model.len().max(at), 0);
                }
                _ => {
                    let fill = vec![u8::try_from(step % 251).unwrap() + 1; count];
                    image.write(&fill, at as u64);
                    model.resize(model.len().max(at + count), 0);
                    model[at..at + count].copy_from_slice(&fill);
                }
            }
            assert!(bytes(&image) == model, "step {step}");
            assert!(bytes(&before) == frozen, "an older copy changed at step {step}");
            let held = (0..100_000).filter(|index| image.block(*index).is_some()).count() as u64;
            assert_eq!(image.used(), held * BLOCK_BYTES, "step {step}");
        }
    }

    #[test]
    fn reading_behind_the_end_and_space() {
        let mut image = Image::default();
        assert_eq!(image.read(&mut [0; 4], 10), 0);
        assert_eq!(image.needs(0..BLOCK_BYTES + 1), 2 * BLOCK_BYTES);
        image.write(b"x", 5000);
        assert_eq!((image.len(), image.used()), (5001, BLOCK_BYTES));
        assert_eq!(image.needs(0..BLOCK_BYTES + 1), BLOCK_BYTES);
        image.punch(0..1 << 40);
        assert_eq!((image.len(), image.used()), (5001, BLOCK_BYTES), "a partly covered block stays");
        image.set_len(0);
        assert_eq!((image.len(), image.used()), (0, 0));
    }
}
