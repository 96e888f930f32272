//! From the protocol header to `connection.open-ok`.
//!
//! ```text
//! header ─▶ start ─▶ start-ok ─▶ tune ─▶ tune-ok ─▶ open ─▶ open-ok
//! ```
//! **Invariants.** Until it is through, a client is believed nothing: frames are small, one is read at a time,
//! and the caller keeps a deadline. Offers are RabbitMQ's; less is accepted down to the specification's least.
//!
//! Deliberately absent: claims of capabilities that we do not have.

use std::net::SocketAddr;

use bytes::Bytes;
use ferrymq_amqp_codec::frame::FRAME_MAX_MIN;
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::connection::{Close, CloseOk, Open, OpenOk, Start, StartOk, Tune, TuneOk};
use ferrymq_amqp_codec::{
    EncodeError, FrameKind, Method, MethodId, PROTOCOL_HEADER, ReplyCode, Table, TableBuilder, ValueRef,
    WireMethod,
};
use ferrymq_broker::queues::VhostEnd;
use tokio::net::tcp::ReadHalf;

use crate::auth::{self, Login};
use crate::connection::Ended;
use crate::context::{AmqpConfig, Context};
use crate::failure::Failure;
use crate::input::Input;
use crate::state::Opened;
use crate::writer::Writer;

/// What the server can do besides the specification.
const CAPABILITIES: &[&[u8]] = &[
    b"publisher_confirms",
    b"exchange_exchange_bindings",
    b"basic.nack",
    b"consumer_cancel_notify",
    b"consumer_priorities",
    b"connection.blocked",
    b"authentication_failure_close",
    b"per_consumer_qos",
    b"direct_reply_to",
];

/// As the API and the metrics name it.
const CLUSTER_NAME: &[u8] = b"ferrymq";
const COPYRIGHT: &[u8] = b"Copyright (c) the FerryMQ authors. Licensed under the Apache License 2.0.";
const INFORMATION: &[u8] = b"FerryMQ, speaking RabbitMQ's AMQP 0-9-1";

/// Opens a connection.
///
/// # Errors
/// Why it was not opened.
pub(crate) async fn handshake(
    context: &Context,
    peer: SocketAddr,
    input: &mut Input,
    read: &ReadHalf<'_>,
    writer: &mut Writer<'_>,
) -> Result<Opened, Ended> {
    if !input.header(read).await? {
        writer.buffer.extend_from_slice(&PROTOCOL_HEADER);
        writer.flush().await.map_err(Ended::Io)?;
        return Err(Ended::Refused("the protocol header is not AMQP 0-9-1's".to_owned()));
    }
    let config = &context.config;
    send_start(config, writer).await?;
    let frame = input.frame(read).await?;
    let understood = match next(&frame, input, writer).await? {
        Method::ConnectionStartOk(ok) => log_in(&ok, peer)?,
        other => return Err(unexpected(&other, "starting")),
    };
    let tune =
        Tune { channel_max: config.channel_max, frame_max: config.frame_max, heartbeat: config.heartbeat };
    send(writer, &tune).await?;
    let frame = input.frame(read).await?;
    let tuned = match next(&frame, input, writer).await? {
        Method::ConnectionTuneOk(ok) => negotiate(config, ok)?,
        other => return Err(unexpected(&other, "tuning")),
    };
    input.set_frame_max(tuned.frame_max);
    let frame = input.frame(read).await?;
    let (vhost, vhost_end) = match next(&frame, input, writer).await? {
        Method::ConnectionOpen(open) => enter(context, open.virtual_host)?,
        other => return Err(unexpected(&other, "opening")),
    };
    send(writer, &OpenOk { known_hosts: b"" }).await?;
    Ok(Opened {
        vhost: vhost.into(),
        vhost_end,
        frame_max: tuned.frame_max,
        channel_max: tuned.channel_max,
        heartbeat: tuned.heartbeat,
        cancel_notify: understood.cancel,
        blocked_notify: understood.blocked,
    })
}

async fn send<'a, M: WireMethod<'a>>(writer: &mut Writer<'_>, method: &M) -> Result<(), Ended> {
    put_method(&mut writer.buffer, 0, method).map_err(unencodable)?;
    writer.flush().await.map_err(Ended::Io)
}

fn unencodable(error: EncodeError) -> Ended {
    Ended::Failed(Failure::hard(ReplyCode::InternalError, error))
}

async fn send_start(config: &AmqpConfig, writer: &mut Writer<'_>) -> Result<(), Ended> {
    let properties = server_properties(config).map_err(unencodable)?;
    let start = Start {
        version_major: 0,
        version_minor: 9,
        server_properties: properties.as_table(),
        mechanisms: auth::MECHANISMS,
        locales: b"en_US",
    };
    send(writer, &start).await
}

fn server_properties(config: &AmqpConfig) -> Result<TableBuilder, EncodeError> {
    let mut capabilities = TableBuilder::new();
    for name in CAPABILITIES {
        capabilities.push(name, ValueRef::Bool(true))?;
    }
    let mut properties = TableBuilder::new();
    properties.push(b"capabilities", ValueRef::Table(capabilities.as_table()))?;
    // RabbitMQ's names in RabbitMQ's order.
    let texts: [(&[u8], &[u8]); 6] = [
        (b"cluster_name", CLUSTER_NAME),
        (b"copyright", COPYRIGHT),
        (b"information", INFORMATION),
        (b"platform", config.platform.as_bytes()),
        (b"product", config.product.as_bytes()),
        (b"version", config.version.as_bytes()),
    ];
    for (name, text) in texts {
        properties.push(name, ValueRef::LongString(text))?;
    }
    Ok(properties)
}

/// The method in a frame; a heartbeat or anything that is no method is not its turn yet.
async fn next<'f>(frame: &'f Bytes, input: &Input, writer: &mut Writer<'_>) -> Result<Method<'f>, Ended> {
    let failed = |failure| Err(Ended::Failed(failure));
    let Some(frame) = input.next_of(frame) else {
        return failed(Failure::hard(ReplyCode::FrameError, "no whole frame"));
    };
    if frame.kind != FrameKind::Method || frame.channel != 0 {
        let what =
            format!("type {}, channel {}: the connection is not open", frame.kind as u8, frame.channel);
        return failed(Failure::hard(ReplyCode::UnexpectedFrame, what));
    }
    let method = Method::parse(frame.payload).map_err(|error| {
        let id = MethodId::peek(frame.payload).unwrap_or(MethodId::NONE);
        Ended::Failed(Failure::from(error).of(id))
    })?;
    if let Method::ConnectionClose(Close { .. }) = method {
        send(writer, &CloseOk {}).await?;
        return Err(Ended::Closed);
    }
    Ok(method)
}

fn unexpected(method: &Method<'_>, state: &str) -> Ended {
    let text = format!("unexpected method in connection state {state}");
    Ended::Failed(Failure::hard(ReplyCode::ChannelError, text).of(method.id()))
}

/// What a client understands from us.
struct Understood {
    /// `basic.cancel`.
    cancel: bool,
    /// `connection.blocked`.
    blocked: bool,
}

/// Lets a client in; what it understands.
fn log_in(ok: &StartOk<'_>, peer: SocketAddr) -> Result<Understood, Ended> {
    let capabilities = match ok.client_properties.get(b"capabilities") {
        Some(ValueRef::Table(table)) => table,
        _ => Table::EMPTY,
    };
    let can = |name: &[u8]| capabilities.get(name) == Some(ValueRef::Bool(true));
    let mechanism = String::from_utf8_lossy(ok.mechanism);
    match auth::login(ok.mechanism, ok.response, peer.ip()) {
        Login::Accepted => {
            Ok(Understood { cancel: can(b"consumer_cancel_notify"), blocked: can(b"connection.blocked") })
        }
        Login::Refused if can(b"authentication_failure_close") => Err(Ended::Failed(Failure::hard(
            ReplyCode::AccessRefused,
            format_args!(
                "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
            ),
        ))),
        Login::Refused => Err(Ended::Refused(format!("{mechanism} login refused"))),
        Login::Malformed => Err(Ended::Failed(
            Failure::hard(ReplyCode::SyntaxError, format_args!("response is not {mechanism}'s"))
                .of(StartOk::ID),
        )),
        Login::Unknown => Err(Ended::Failed(
            Failure::hard(
                ReplyCode::CommandInvalid,
                format_args!("unknown authentication mechanism '{mechanism}'"),
            )
            .of(StartOk::ID),
        )),
    }
}

fn negotiate(config: &AmqpConfig, ok: TuneOk) -> Result<TuneOk, Ended> {
    check("frame_max", ok.frame_max, FRAME_MAX_MIN, config.frame_max)?;
    check("channel_max", ok.channel_max.into(), 1, config.channel_max.into())?;
    Ok(ok)
}

/// What a client chose must lie between the least and what was offered; 0 is no limit, on either side.
fn check(field: &str, chosen: u32, least: u32, offered: u32) -> Result<(), Ended> {
    let (than, kind, bound) = if chosen != 0 && chosen < least {
        ("lower", "minimum", least)
    } else if offered != 0 && (chosen == 0 || chosen > offered) {
        ("higher", "maximum", offered)
    } else {
        return Ok(());
    };
    let detail = if chosen == 0 { " (no limit)" } else { "" };
    let text =
        format!("negotiated {field} = {chosen}{detail} is {than} than the {kind} allowed value ({bound})");
    Err(Ended::Failed(Failure::hard(ReplyCode::NotAllowed, text).of(Tune::ID)))
}

fn enter(context: &Context, vhost: &[u8]) -> Result<(String, VhostEnd), Ended> {
    let name = String::from_utf8_lossy(vhost).into_owned();
    match context.queues.enter(&name).filter(|_| name.as_bytes() == vhost) {
        Some(end) => Ok((name, end)),
        None => {
            let failure = Failure::hard(ReplyCode::NotAllowed, format_args!("vhost {name} not found"));
            Err(Ended::Failed(failure.of(Open::ID)))
        }
    }
}
