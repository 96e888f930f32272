//! What waits to be written to a client.
//!
//! **Invariants.** Whole frames are appended, in the order in which the client is to see them. The reader asks
//! for [`Output::room`] before it reads on, so a client that asks and never reads stops being read.
//!
//! Deliberately absent: deliveries and confirms, which the writer fetches when it has nothing else to write.

use bytes::BytesMut;
use ferrymq_amqp_codec::WireMethod;
use ferrymq_amqp_codec::frame_writer::put_method;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes that may wait before the reader does.
const HIGH_BYTES: usize = 256 * 1024;

/// Frames for the writer.
#[derive(Debug, Default)]
pub(crate) struct Output {
    frames: Mutex<BytesMut>,
    /// There is something to do for the writer.
    ready: Notify,
    /// The writer took what was there.
    taken: Notify,
}

impl Output {
    /// Appends a method. The writer is woken by [`Output::wake`].
    pub(crate) fn method<'a, M: WireMethod<'a>>(&self, channel: u16, method: &M) {
        if let Err(error) = put_method(&mut self.frames.lock(), channel, method) {
            tracing::error!(method = M::NAME, error = %error, "an answer could not be encoded");
        }
    }

    /// Appends whatever `write` appends.
    pub(crate) fn with<T>(&self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        write(&mut self.frames.lock())
    }

    /// Tells the writer that there is something to do.
    pub(crate) fn wake(&self) {
        self.ready.notify_one();
    }

    /// Waits for [`Output::wake`]. Cancel safe: a wake that nobody waited for is kept.
    pub(crate) async fn woken(&self) {
        self.ready.notified().await;
    }

    /// Waits until little enough waits to be written.
    pub(crate) async fn room(&self) {
        while self.frames.lock().len() > HIGH_BYTES {
            self.wake();
            self.taken.notified().await;
        }
    }

    /// Moves everything to the end of `into`.
    pub(crate) fn take_into(&self, into: &mut BytesMut) {
        let mut frames = self.frames.lock();
        if frames.is_empty() {
            return;
        }
        if into.is_empty() {
            std::mem::swap(&mut *frames, into);
        } else {
            into.extend_from_slice(&frames);
            frames.clear();
        }
        drop(frames);
        self.taken.notify_one();
    }
}
