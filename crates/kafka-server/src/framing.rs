//! Frames off a socket: a four-byte length, then that many bytes.
//!
//! **Invariants.** A frame's bytes are in memory of their own, so that a produce request can be patched in
//! place and kept without keeping others. Memory grows with what has arrived, never with what was declared.
//! Nothing is read for a frame before the budgets have room for it, but for what is read ahead.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is read ahead of the frame in hand.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// Largest step by which a frame's memory grows ahead of its bytes.
const GROW_BYTES: usize = 1024 * 1024;

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader {
    ahead: BytesMut,
}

/// What stands at the front of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A frame of this many bytes follows.
    Frame(usize),
    /// The peer has closed the stream between two frames.
    End,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader { ahead: BytesMut::with_capacity(READ_AHEAD_BYTES) }
    }
}

impl FrameReader {
    /// Reads the next frame's length.
    ///
    /// # Errors
    /// `InvalidData` for a length that is negative or above `bytes_max`; `UnexpectedEof` if the stream ends in
    /// the middle of it.
    pub async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R, bytes_max: usize) -> io::Result<Next> {
        if !self.have(from, 4).await? {
            let clean = self.ahead.is_empty();
            return if clean { Ok(Next::End) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let head: [u8; 4] = self.ahead.split_to(4)[..].try_into().unwrap_or_default();
        let declared = i32::from_be_bytes(head);
        match usize::try_from(declared) {
            Ok(length) if length <= bytes_max => Ok(Next::Frame(length)),
            _ => {
                let text = format!("frame of {declared} bytes, at most {bytes_max} are accepted");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// The key of the API that the frame of `length` bytes asks for, ahead of the frame itself; `None` if it is too
    /// short to have one.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends first.
    pub async fn api_key<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        length: usize,
    ) -> io::Result<Option<i16>> {
        if length < 2 {
            return Ok(None);
        }
        if !self.have(from, 2).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.ahead.first_chunk().map(|key| i16::from_be_bytes(*key)))
    }

    /// Reads until there are `count` bytes; false if the stream ends first.
    async fn have<R: AsyncRead + Unpin>(&mut self, from: &mut R, count: usize) -> io::Result<bool> {
        while self.ahead.len() < count {
            self.ahead.reserve(READ_AHEAD_BYTES);
            if from.read_buf(&mut self.ahead).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the frame of `length` bytes that [`FrameReader::next`] announced.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends first.
    pub async fn body<R: AsyncRead + Unpin>(&mut self, from: &mut R, length: usize) -> io::Result<BytesMut> {
        let mut body = BytesMut::with_capacity(length.min(GROW_BYTES));
        let here = self.ahead.len().min(length);
        body.extend_from_slice(&self.ahead.split_to(here));
        while body.len() < length {
            let missing = length - body.len();
            if missing < READ_AHEAD_BYTES / 4 {
                // A short rest is read together with what follows it.
                self.ahead.reserve(READ_AHEAD_BYTES);
                if from.read_buf(&mut self.ahead).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let here = self.ahead.len().min(missing);
                body.extend_from_slice(&self.ahead.split_to(here));
            } else {
                if body.len() == body.capacity() {
                    body.reserve(missing.min(body.len().max(GROW_BYTES)));
                }
                let room = (body.capacity() - body.len()).min(missing) as u64;
                let mut limited = (&mut *from).take(room);
                if limited.read_buf(&mut body).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of many sizes, cut into reads of many sizes, come out as they went in.
    #[tokio::test]
    async fn frames_survive_any_cut() {
        let sizes = [0usize, 1, 3, 4, 5, 1000, 65_536, 65_537, 300_000, 2_500_000, 17];
        let mut stream = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            stream.extend_from_slice(&u32::try_from(*size).unwrap().to_be_bytes());
            stream.extend((0..*size).map(|at| (at + index).to_le_bytes()[0]));
        }
        for chunk in [1usize, 7, 4096, 100_000, usize::MAX] {
            if chunk == 1 && cfg!(debug_assertions) && stream.len() > 10_000_000 {
                continue;
            }
            let mut reader = FrameReader::default();
            let mut from = Trickle { bytes: &stream, chunk };
            for (index, size) in sizes.iter().enumerate() {
                assert_eq!(reader.next(&mut from, 10_000_000).await.unwrap(), Next::Frame(*size));
                let first = |at: usize| (at + index).to_le_bytes()[0];
                let key = (*size >= 2).then(|| i16::from_be_bytes([first(0), first(1)]));
                assert_eq!(reader.api_key(&mut from, *size).await.unwrap(), key);
                let body = reader.body(&mut from, *size).await.unwrap();
                assert_eq!(body.len(), *size);
                assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at + index).to_le_bytes()[0]));
            }
            assert_eq!(reader.next(&mut from, 10).await.unwrap(), Next::End);
        }
    }

    #[tokio::test]
    async fn bad_lengths_are_refused_and_allocate_nothing() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], &[0x7f, 0xff, 0xff, 0xff]] {
            let mut from = bytes;
            let error = FrameReader::default().next(&mut from, 1000).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let mut from = &[0u8, 0][..];
        let error = FrameReader::default().next(&mut from, 1000).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut from = &b"short"[..];
        let mut reader = FrameReader::default();
        assert!(reader.body(&mut from, 90_000_000).await.is_err());
        assert!(FrameReader::default().api_key(&mut &b"s"[..], 9).await.is_err());
    }

    struct Trickle<'a> {
        bytes: &'a [u8],
        chunk: usize,
    }

    impl AsyncRead for Trickle<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let count = self.bytes.len().min(self.chunk).min(into.remaining());
            let (now, later) = self.bytes.split_at(count);
            into.put_slice(now);
            self.bytes = later;
            std::task::Poll::Ready(Ok(()))
        }
    }
}
