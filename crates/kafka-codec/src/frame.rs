//! An encoded frame: a rope of chunks, ready for a vectored write.
//!
//! It is a [`Buf`], so an async writer's `write_all_buf` sends it with few system calls; nothing is joined.
//!
//! Invariant: the head is empty only when everything is.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::api::{request_header_version, response_header_version};
use crate::encode::{EncodeError, Encoder};
use crate::header::{RequestHeader, ResponseHeader};
use crate::message::Body;

/// Bytes to send, in order.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    head: Bytes,
    tail: VecDeque<Bytes>,
    len: usize,
}

impl Frame {
    /// A whole request frame: length, header, body.
    pub fn request(
        correlation_id: i32,
        client_id: Option<&crate::StrBytes>,
        version: i16,
        body: &impl Body,
    ) -> Result<Self, EncodeError> {
        let mut e = Encoder::new();
        e.begin_frame();
        let header = RequestHeader {
            api_key: body.api().id(),
            api_version: version,
            correlation_id,
            client_id: client_id.cloned(),
        };
        header.encode(&mut e, request_header_version(body.api(), version))?;
        body.encode_body(&mut e, version)?;
        e.finish_frame()
    }

    /// A whole response frame: length, header, body.
    ///
    /// The answer to an ApiVersions request of an unknown version is an `ApiVersionsResponse` in version 0.
    ///
    /// # Errors
    /// What the version cannot carry, and records that are deferred.
    pub fn response(correlation_id: i32, version: i16, body: &impl Body) -> Result<Self, EncodeError> {
        encode_response(correlation_id, version, body)?.finish_frame()
    }

    /// As [`response`](Self::response), cut where records are deferred: there is one part more than such places, and
    /// each place's bytes go between two of them.
    ///
    /// # Errors
    /// What the version cannot carry.
    pub fn response_parts(
        correlation_id: i32,
        version: i16,
        body: &impl Body,
    ) -> Result<Vec<Self>, EncodeError> {
        encode_response(correlation_id, version, body)?.finish_parts()
    }

    /// Cuts `buffer` at the splices' places and puts them in between.
    pub(crate) fn assemble(buffer: Bytes, splices: Vec<(usize, Bytes)>) -> Self {
        if splices.is_empty() {
            return Self { len: buffer.len(), head: buffer, tail: VecDeque::new() };
        }
        let mut frame = Self { tail: VecDeque::with_capacity(2 * splices.len()), ..Self::default() };
        let mut at = 0;
        for (place, bytes) in splices {
            frame.push(buffer.slice(at..place));
            frame.push(bytes);
            at = place;
        }
        frame.push(buffer.slice(at..));
        frame
    }

    /// Adds bytes at the end.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        if self.head.is_empty() {
            self.head = chunk;
        } else {
            self.tail.push_back(chunk);
        }
    }

    /// Bytes left to send.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is nothing left to send?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks, in order; none is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        Some(&self.head).into_iter().filter(|chunk| !chunk.is_empty()).chain(&self.tail)
    }

    /// As [`chunks`](Self::chunks), owned.
    pub fn into_chunks(self) -> impl Iterator<Item = Bytes> {
        Some(self.head).into_iter().filter(|chunk| !chunk.is_empty()).chain(self.tail)
    }

    /// All bytes in one piece: free for one chunk, a copy for several.
    pub fn to_bytes(&self) -> Bytes {
        if self.tail.is_empty() {
            return self.head.clone();
        }
        let mut joined = BytesMut::with_capacity(self.len);
        for chunk in self.chunks() {
            joined.extend_from_slice(chunk);
        }
        joined.freeze()
    }
}

fn encode_response(correlation_id: i32, version: i16, body: &impl Body) -> Result<Encoder, EncodeError> {
    let mut e = Encoder::new();
    e.begin_frame();
    ResponseHeader { correlation_id }.encode(&mut e, response_header_version(body.api(), version));
    body.encode_body(&mut e, version)?;
    Ok(e)
}

impl Extend<Bytes> for Frame {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, chunks: I) {
        chunks.into_iter().for_each(|chunk| self.push(chunk));
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        &self.head
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(self.chunks()) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// # Panics
    ///
    /// As every `Buf`: when told to go past the end.
    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced past the end of the frame");
        self.len -= count;
        while count >= self.head.len() {
            count -= self.head.len();
            match self.tail.pop_front() {
                Some(next) => self.head = next,
                None => {
                    self.head = Bytes::new();
                    return;
                }
            }
        }
        self.head.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Frame {
        let splices = vec![(2, Bytes::from_static(b"XX")), (2, Bytes::from_static(b"YYY"))];
        Frame::assemble(Bytes::from_static(b"abcd"), splices)
    }

    #[test]
    fn splices_stand_where_they_were_put() {
        assert_eq!(sample().to_bytes(), "abXXYYYcd");
        assert_eq!(sample().len(), 9);
        let at_start = Frame::assemble(Bytes::from_static(b"cd"), vec![(0, Bytes::from_static(b"ab"))]);
        assert_eq!(at_start.to_bytes(), "abcd");
        let at_end = Frame::assemble(Bytes::from_static(b"ab"), vec![(2, Bytes::from_static(b"cd"))]);
        assert_eq!(at_end.chunks().count(), 2);
    }

    #[test]
    fn it_can_be_sent_in_pieces_of_any_size() {
        for step in 1..=9 {
            let mut frame = sample();
            let mut sent = Vec::new();
            while frame.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = frame.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
                let count = step.min(seen.len());
                sent.extend_from_slice(&seen[..count]);
                frame.advance(count);
            }
            assert_eq!(sent, b"abXXYYYcd", "step {step}");
            assert!(frame.is_empty() && frame.chunk().is_empty());
        }
    }
}
