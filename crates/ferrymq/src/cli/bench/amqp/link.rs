//! A connection to an AMQP broker with channel 1 open, as guest.
//!
//! **Invariants.** An answer that is not the expected kind ends the run with what the broker said. A closed link
//! was closed by the protocol: the broker has seen everything that was sent before.

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::{channel, connection};
use ferrymq_amqp_codec::{FrameKind, FrameReader, Method, PROTOCOL_HEADER, Table, ValueRef, WireMethod};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The frames that are asked for, in bytes.
pub(super) const FRAME_MAX: u32 = 131_072;
/// Bytes that are read at a time from a connection that carries messages.
const READ_BYTES: usize = 256 * 1024;
/// The same while it is set up: thousands of idle ones cost little.
const ANSWER_BYTES: usize = 4096;

/// A connection.
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) input: BytesMut,
    pub(super) frames: FrameReader,
    /// The broker's product and version.
    pub(super) server: String,
}

impl Link {
    pub(super) async fn connect(address: &str) -> anyhow::Result<Link> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("could not connect to {address}"))?;
        stream.set_nodelay(true)?;
        let frames = FrameReader::new(FRAME_MAX);
        let mut link = Link { stream, input: BytesMut::new(), frames, server: String::new() };
        link.stream.write_all(&PROTOCOL_HEADER).await?;
        link.server = told(&link.answer().await?)?;
        let login = connection::StartOk {
            client_properties: Table::EMPTY,
            mechanism: b"PLAIN",
            response: b"\0guest\0guest",
            locale: b"en_US",
        };
        link.put(0, &login).await?;
        link.answer().await.context("the login was refused")?;
        link.put(0, &connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 }).await?;
        link.put(0, &connection::Open { virtual_host: b"/", ..Default::default() }).await?;
        link.answer().await?;
        link.open_channel(1).await?;
        Ok(link)
    }

    /// Opens another channel.
    pub(super) async fn open_channel(&mut self, number: u16) -> anyhow::Result<()> {
        self.put(number, &channel::Open::default()).await?;
        self.answer().await?;
        Ok(())
    }

    /// Sends a method on channel 1 and waits for the answer; its payload.
    pub(super) async fn ask<'a, M: WireMethod<'a>>(&mut self, method: &M) -> anyhow::Result<Bytes> {
        self.put(1, method).await?;
        self.answer().await
    }

    async fn put<'a, M: WireMethod<'a>>(&mut self, channel: u16, method: &M) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        put_method(&mut out, channel, method)?;
        self.stream.write_all(&out).await?;
        Ok(())
    }

    /// The payload of the next method; what closes the channel or connection is an error.
    pub(super) async fn answer(&mut self) -> anyhow::Result<Bytes> {
        loop {
            match self.frames.next(&mut self.input)? {
                Some(frame) if frame.kind == FrameKind::Method => {
                    checked(&frame.payload)?;
                    return Ok(frame.payload);
                }
                Some(_) => {}
                None => read_some(&mut self.stream, &mut self.input, ANSWER_BYTES).await?,
            }
        }
    }

    /// Closes the connection and waits until the broker has done so too, whatever it still sends meanwhile.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        self.put(0, &connection::Close { reply_code: 200, ..Default::default() }).await?;
        loop {
            while let Some(frame) = self.frames.peek(&self.input)? {
                if frame.kind == FrameKind::Method
                    && matches!(checked(frame.payload)?, Method::ConnectionCloseOk(_))
                {
                    return Ok(());
                }
                let used = frame.wire_bytes();
                self.input.advance(used);
            }
            read_some(&mut self.stream, &mut self.input, READ_BYTES).await?;
        }
    }
}

fn refused(text: &[u8]) -> anyhow::Result<()> {
    anyhow::bail!("the broker refused: {}", String::from_utf8_lossy(text))
}

/// Product and version in the greeting.
fn told(start: &[u8]) -> anyhow::Result<String> {
    let Method::ConnectionStart(start) = Method::parse(start)? else { anyhow::bail!("no greeting") };
    let text = |name: &[u8]| match start.server_properties.get(name) {
        Some(ValueRef::LongString(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => "?".to_owned(),
    };
    Ok(format!("{} {} ({})", text(b"product"), text(b"version"), text(b"platform")))
}

/// The method in a payload; what closes the channel or connection is an error.
pub(super) fn checked(payload: &[u8]) -> anyhow::Result<Method<'_>> {
    let method = Method::parse(payload)?;
    match method {
        Method::ChannelClose(close) => refused(close.reply_text)?,
        Method::ConnectionClose(close) => refused(close.reply_text)?,
        _ => {}
    }
    Ok(method)
}

/// Reads more of a stream of messages, at least a byte.
pub(super) async fn more<R: AsyncRead + Unpin>(from: &mut R, into: &mut BytesMut) -> anyhow::Result<()> {
    read_some(from, into, READ_BYTES).await
}

async fn read_some<R: AsyncRead + Unpin>(
    from: &mut R,
    into: &mut BytesMut,
    room: usize,
) -> anyhow::Result<()> {
    into.reserve(room);
    let count = from.read_buf(into).await?;
    anyhow::ensure!(count > 0, "the broker closed the connection");
    Ok(())
}
