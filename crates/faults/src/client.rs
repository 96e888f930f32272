//! A Kafka connection: blocking, one thread, requests may be pipelined.
//!
//! It shares the codec with the broker and nothing else, so that a mistake of the product's client cannot hide
//! one of the broker.
//!
//! **Invariants.** After an error the connection is not used again: what was asked on it is unknown. An answer
//! that comes when the power is already gone was never heard.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrymq_kafka_codec::{Decoder, Frame, Message, Request, ResponseHeader, StrBytes};

/// Largest answer accepted.
const ANSWER_MAX: usize = 128 << 20;

/// A connection.
pub(crate) struct Client {
    stream: TcpStream,
    correlation: i32,
    dark: Arc<AtomicBool>,
}

impl Client {
    /// Connects; no single wait on this connection is longer than `patience`. Answers are not heard while `dark`.
    pub(crate) fn connect(address: SocketAddr, patience: Duration, dark: &Arc<AtomicBool>) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Client { stream, correlation: 0, dark: dark.clone() })
    }

    /// Sends a request and does not wait for its answer.
    pub(crate) fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<i32> {
        self.correlation += 1;
        let name = StrBytes::from("ferrymq-faults");
        let frame = Frame::request(self.correlation, Some(&name), version, request).map_err(Error::other)?;
        for chunk in frame.chunks() {
            self.stream.write_all(chunk)?;
        }
        Ok(self.correlation)
    }

    /// Waits for the answer to the oldest request not yet answered.
    pub(crate) fn receive<M: Message>(&mut self, correlation: i32, version: i16) -> Result<M> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > ANSWER_MAX {
            return Err(Error::new(ErrorKind::InvalidData, format!("an answer of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if self.dark.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::ConnectionAborted, "the power is gone"));
        }
        let frame = Bytes::from(body);
        let mut decoder = Decoder::new(&frame);
        let header = ResponseHeader::decode(&mut decoder, M::API, version).map_err(Error::other)?;
        if header.correlation_id != correlation {
            return Err(Error::new(ErrorKind::InvalidData, "an answer to another request"));
        }
        let message = M::decode(&mut decoder, version).map_err(Error::other)?;
        decoder.finish().map_err(Error::other)?;
        Ok(message)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        let correlation = self.send(request, version)?;
        self.receive(correlation, version)
    }
}
