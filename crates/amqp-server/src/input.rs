//! Bytes off the socket, in runs of whole frames.
//!
//! **Invariants.** A frame's size is checked against what was negotiated when its head is there. Memory grows
//! with what arrives; an idle connection holds none. What is handed out shares the memory it was read into.
//!
//! Deliberately absent: what the frames mean; timeouts (the heartbeat watches the counter).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::{FrameReader, ProtocolHeader};
use tokio::net::tcp::ReadHalf;

use crate::failure::Failure;

/// What is read at a time at first, and at least.
const READ_BYTES_MIN: usize = 4 * 1024;
/// What is read at a time from a client that sends much.
const READ_BYTES_MAX: usize = 128 * 1024;

/// Why there is no more input.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The client closed the stream.
    End,
    /// The socket failed.
    Io(io::Error),
    /// What came is not AMQP. Frames before it were handed out.
    Broken(Failure),
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct Input {
    buffer: BytesMut,
    frames: FrameReader,
    step: usize,
    /// A mistake behind frames that were handed out first.
    broken: Option<Failure>,
    life: Arc<Life>,
}

/// Signs of life, for the heartbeat.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Bytes read.
    pub(crate) received: AtomicU64,
    /// Bytes written.
    pub(crate) sent: AtomicU64,
    /// Whether the socket is waited for: if not, it is us who are slow.
    pub(crate) listening: AtomicBool,
}

/// For as long as the socket is waited for, however that ends.
struct Listening<'a>(&'a Life);

impl Listening<'_> {
    fn on(life: &Life) -> Listening<'_> {
        life.listening.store(true, Ordering::Relaxed);
        Listening(life)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listening.store(false, Ordering::Relaxed);
    }
}

impl Input {
    pub(crate) fn new(frame_max: u32, life: Arc<Life>) -> Input {
        Input {
            buffer: BytesMut::new(),
            frames: FrameReader::new(frame_max),
            step: READ_BYTES_MIN,
            broken: None,
            life,
        }
    }

    /// Takes frames of up to `frame_max` bytes from now on.
    pub(crate) fn set_frame_max(&mut self, frame_max: u32) {
        self.frames = FrameReader::new(frame_max);
    }

    /// Reads the protocol header; false if it is a wrong one.
    pub(crate) async fn header(&mut self, from: &ReadHalf<'_>) -> Result<bool, Stop> {
        loop {
            match ProtocolHeader::of(&self.buffer) {
                ProtocolHeader::Accepted => {
                    drop(self.buffer.split_to(8));
                    return Ok(true);
                }
                ProtocolHeader::Wrong => return Ok(false),
                ProtocolHeader::Incomplete => self.read(from).await?,
            }
        }
    }

    /// The next frame alone, for as long as each may change how the next is read.
    pub(crate) async fn frame(&mut self, from: &ReadHalf<'_>) -> Result<Bytes, Stop> {
        loop {
            let whole = self.frames.peek(&self.buffer).map_err(|error| Stop::Broken(error.into()))?;
            if let Some(bytes) = whole.map(|frame| frame.wire_bytes()) {
                return Ok(self.buffer.split_to(bytes).freeze());
            }
            self.read(from).await?;
        }
    }

    /// All whole frames that are there; waits for one. Cancel safe: what was read stays here.
    pub(crate) async fn run(&mut self, from: &ReadHalf<'_>) -> Result<Bytes, Stop> {
        if let Some(broken) = self.broken.take() {
            return Err(Stop::Broken(broken));
        }
        loop {
            let mut end = 0;
            while let Some(rest) = self.buffer.get(end..) {
                match self.frames.peek(rest) {
                    Ok(Some(frame)) => end += frame.wire_bytes(),
                    Ok(None) => break,
                    Err(error) if end == 0 => return Err(Stop::Broken(error.into())),
                    Err(error) => {
                        self.broken = Some(error.into());
                        break;
                    }
                }
            }
            if end > 0 {
                return Ok(self.buffer.split_to(end).freeze());
            }
            self.read(from).await?;
        }
    }

    /// Cuts a run into its frames.
    pub(crate) fn next_of<'a>(&self, run: &'a [u8]) -> Option<ferrymq_amqp_codec::FrameRef<'a>> {
        self.frames.peek(run).ok().flatten()
    }

    async fn read(&mut self, from: &ReadHalf<'_>) -> Result<(), Stop> {
        loop {
            let missing = self.frames.missing_bytes(&self.buffer);
            self.buffer.reserve(missing.clamp(self.step, READ_BYTES_MAX));
            match from.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(Stop::End),
                Ok(count) => {
                    let full = self.buffer.len() == self.buffer.capacity() || count >= self.step;
                    self.step = if full {
                        (self.step * 2).min(READ_BYTES_MAX)
                    } else if count < self.step / 4 {
                        (self.step / 2).max(READ_BYTES_MIN)
                    } else {
                        self.step
                    };
                    self.life.received.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.buffer.is_empty() {
                        self.buffer = BytesMut::new();
                    }
                    let listening = Listening::on(&self.life);
                    let readable = from.readable().await;
                    drop(listening);
                    readable.map_err(Stop::Io)?;
                }
                Err(error) => return Err(Stop::Io(error)),
            }
        }
    }
}
