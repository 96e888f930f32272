//! A connection to an AMQP broker with channel 1 open, as guest.
//!
//! **Invariant.** An answer that is not the expected kind ends the run with what the broker said.

use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::{channel, connection};
use ferrymq_amqp_codec::{
    Frame, FrameKind, FrameReader, Method, PROTOCOL_HEADER, Table, ValueRef, WireMethod,
};
use ferrymq_runtime::Clock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The frames that are asked for, in bytes.
pub(super) const FRAME_MAX: u32 = 131_072;
/// Bytes that are read at a time.
const READ_BYTES: usize = 256 * 1024;

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
        let start = link.answer().await?;
        link.server = told(&start)?;
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
        link.ask(&channel::Open::default()).await?;
        Ok(link)
    }

    /// Sends a method on channel 1 and waits for the answer.
    pub(super) async fn ask<'a, M: WireMethod<'a>>(&mut self, method: &M) -> anyhow::Result<()> {
        self.put(1, method).await?;
        let answer = self.answer().await?;
        match Method::parse(&answer)? {
            Method::ChannelClose(close) => refused(close.reply_text),
            Method::ConnectionClose(close) => refused(close.reply_text),
            _ => Ok(()),
        }
    }

    async fn put<'a, M: WireMethod<'a>>(&mut self, channel: u16, method: &M) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        put_method(&mut out, channel, method)?;
        self.stream.write_all(&out).await?;
        Ok(())
    }

    async fn answer(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(frame) = self.frames.next(&mut self.input)? {
                if frame.kind == FrameKind::Method {
                    return Ok(frame.payload);
                }
                continue;
            }
            let count = self.stream.read_buf(&mut self.input).await?;
            anyhow::ensure!(count > 0, "the broker closed the connection");
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

/// Reads more, at least a byte, within the patience.
pub(super) async fn more<R: AsyncRead + Unpin>(
    from: &mut R,
    into: &mut BytesMut,
    clock: &Clock,
    patience_seconds: u64,
) -> anyhow::Result<()> {
    into.reserve(READ_BYTES);
    tokio::select! {
        count = from.read_buf(into) => {
            anyhow::ensure!(count? > 0, "the broker closed the connection");
            Ok(())
        }
        () = clock.sleep(Duration::from_secs(patience_seconds)) => anyhow::bail!("no progress"),
    }
}

/// The method in a frame, if it is one; what closes the channel or connection is an error.
pub(super) fn method(frame: &Frame) -> anyhow::Result<Option<Method<'_>>> {
    if frame.kind != FrameKind::Method {
        return Ok(None);
    }
    let method = Method::parse(&frame.payload)?;
    match method {
        Method::ChannelClose(close) => refused(close.reply_text)?,
        Method::ConnectionClose(close) => refused(close.reply_text)?,
        _ => {}
    }
    Ok(Some(method))
}
