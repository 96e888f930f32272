//! Frames off a socket: a four-byte length, then that many bytes.
//!
//! **Invariants.** A frame's bytes are in memory of their own, so that a produce request can be patched in
//! place and kept without keeping others. Memory grows with what has arrived, never with what was declared.
//! How much of a frame is read is up to the caller, who takes room for it first (`intake`).

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is read ahead of the frame in hand.
pub const READ_AHEAD_BYTES: usize = 64 * 1024;
/// How much is read ahead of a connection that is new or has been quiet. Every read that fills its memory makes it
/// four times larger, up to [`READ_AHEAD_BYTES`]: most connections never send more than a few small requests.
const QUIET_BYTES: usize = 1024;
/// Largest step by which a frame's memory grows ahead of its bytes: the largest request of producers that are left as
/// they come, and its headers. A little less, and each of those is copied once more when its last bytes come.
const GROW_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader {
    ahead: BytesMut,
    step: usize,
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
        FrameReader { ahead: BytesMut::new(), step: QUIET_BYTES }
    }
}

impl FrameReader {
    /// Reads the next frame's length. Cancel safety: a dropped read loses nothing.
    ///
    /// # Errors
    /// `InvalidData` for a length that is negative or above `bytes_max`; `UnexpectedEof` if the stream ends in
    /// the middle of it.
    pub async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R, bytes_max: usize) -> io::Result<Next> {
        while self.ahead.len() < 4 {
            if !self.read_ahead(from).await? {
                let clean = self.ahead.is_empty();
                return if clean { Ok(Next::End) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
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
        let front = self.front(from, 2).await?;
        Ok(front.first_chunk().map(|key| i16::from_be_bytes(*key)))
    }

    /// Reads until at least `count` bytes, at most [`READ_AHEAD_BYTES`], of the announced frame are here, and
    /// shows them.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends first.
    pub async fn front<R: AsyncRead + Unpin>(&mut self, from: &mut R, count: usize) -> io::Result<&[u8]> {
        while self.ahead.len() < count {
            if !self.read_ahead(from).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.ahead[..count])
    }

    /// Reads on until `body` has `until` bytes of its frame of `length` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends first.
    pub async fn body<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        body: &mut BytesMut,
        until: usize,
        length: usize,
    ) -> io::Result<()> {
        if body.capacity() == 0 {
            body.reserve(length.min(GROW_BYTES));
        }
        while body.len() < until {
            let here = self.ahead.len().min(until - body.len());
            body.extend_from_slice(&self.ahead.split_to(here));
            let missing = until - body.len();
            if missing == 0 {
                break;
            }
            if until == length && missing < READ_AHEAD_BYTES / 4 {
                // A short rest is read together with what follows it.
                self.front(from, missing).await?;
                continue;
            }
            if body.len() == body.capacity() {
                body.reserve((length - body.len()).min(body.len().max(GROW_BYTES)));
            }
            let room = (body.capacity() - body.len()).min(missing) as u64;
            let mut limited = (&mut *from).take(room);
            if limited.read_buf(body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Gives back the memory for reading ahead, if nothing was read ahead, until something comes.
    pub fn rest(&mut self) {
        if self.ahead.is_empty() {
            *self = FrameReader::default();
        }
    }

    /// Whether there was something to read; `false`: the stream has ended.
    async fn read_ahead<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<bool> {
        self.ahead.reserve(self.step);
        let count = from.read_buf(&mut self.ahead).await?;
        if self.ahead.len() == self.ahead.capacity() {
            self.step = (self.step * 4).min(READ_AHEAD_BYTES);
        }
        Ok(count > 0)
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
                let mut body = BytesMut::new();
                let front = reader.front(&mut from, (*size).min(chunk % 1000)).await.unwrap().to_vec();
                for until in (0..*size).step_by(777_777).chain([*size]) {
                    reader.body(&mut from, &mut body, until, *size).await.unwrap();
                    assert_eq!(body.len(), until);
                }
                assert!(body.starts_with(&front));
                if chunk == 7 {
                    reader.rest();
                }
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
        let mut body = BytesMut::new();
        assert!(reader.body(&mut from, &mut body, 90_000_000, 90_000_000).await.is_err());
        assert!(body.capacity() <= 2 * GROW_BYTES);
        assert!(FrameReader::default().api_key(&mut &b"s"[..], 9).await.is_err());
    }

    #[tokio::test]
    async fn a_quiet_connection_keeps_no_memory() {
        let mut reader = FrameReader::default();
        let mut from = Trickle { bytes: &[0, 0, 0, 1, 9, 0, 0, 0, 2, 7], chunk: 6 };
        assert_eq!(reader.next(&mut from, 10).await.unwrap(), Next::Frame(1));
        let mut body = BytesMut::new();
        reader.body(&mut from, &mut body, 1, 1).await.unwrap();
        reader.rest();
        assert!(!reader.ahead.is_empty(), "half a length was read ahead: it is kept");
        assert_eq!(reader.next(&mut from, 10).await.unwrap(), Next::Frame(2));
        reader.front(&mut from, 1).await.unwrap();
        let mut body = BytesMut::new();
        assert!(reader.body(&mut from, &mut body, 2, 2).await.is_err());
        reader.rest();
        assert_eq!(reader.ahead.capacity(), 0);
        assert!(reader.next(&mut from, 10).await.is_ok_and(|next| next == Next::End));
        assert!(reader.ahead.capacity() <= 2 * QUIET_BYTES);
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
