//! Cutting a byte stream into frames: a 32-bit length, then as many bytes.
//!
//! **Invariants.** Memory for a frame is taken once its length is known and found to be below
//! [`FRAME_BYTES_MAX`]; a large frame is read straight into memory of its own, and not a byte more.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Largest frame accepted, in bytes: more than any broker's `fetch.max.bytes` by a good margin.
pub const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

const READ_BYTES: usize = 64 * 1024;

/// Reads frames from a socket.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// The next frame without its length; `None` if the stream ends between frames.
    ///
    /// # Errors
    /// If the stream fails, ends inside a frame, or announces one that is too long.
    pub async fn next(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
        while self.buffer.len() < 4 {
            if !self.fill(socket).await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
        let length = usize::try_from(self.buffer.get_i32()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| io::Error::other("the bytes are not Kafka's protocol"))?;
        if self.buffer.len() < length && length > READ_BYTES {
            return self.large(socket, length).await.map(Some);
        }
        while self.buffer.len() < length {
            if !self.fill(socket).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    async fn large(&mut self, socket: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Bytes> {
        let mut frame = BytesMut::with_capacity(length);
        frame.extend_from_slice(&self.buffer.split());
        while frame.len() < length {
            let rest = length - frame.len();
            if socket.read_buf(&mut (&mut frame).limit(rest)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(frame.freeze())
    }

    async fn fill(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.buffer.reserve(READ_BYTES);
        Ok(socket.read_buf(&mut self.buffer).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut bytes: &[u8]) -> io::Result<Vec<Bytes>> {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        while let Some(frame) = reader.next(&mut bytes).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn small_and_large_frames_are_cut() {
        let large = vec![5; 200_000];
        let mut wire = vec![0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0];
        wire.extend_from_slice(&200_000u32.to_be_bytes());
        wire.extend_from_slice(&large);
        wire.extend_from_slice(&[0, 0, 0, 1, 9]);
        let frames = read_all(&wire).await.unwrap();
        assert_eq!(frames, [&[1, 2, 3][..], &[], &large, &[9]]);
        for cut in [1, 5, 12, 100_000, wire.len() - 1] {
            assert!(read_all(&wire[..cut]).await.is_err(), "{cut}");
        }
        assert!(read_all(b"HTTP/1.1 400").await.is_err(), "no memory for nonsense");
        assert!(read_all(&[0xff; 8]).await.is_err());
    }
}
