//! From published messages to one call of the queues: routing, checks, gathering.
//!
//! **Invariants.** Messages of one read go to the queues together and in order. A route is kept only for as
//! long as the queues' generation stays, and never for exchanges that look at headers. A message that is
//! mandatory and goes nowhere is returned before it is confirmed.
//!
//! Deliberately absent: what a message's expiration and priority mean (the queues know).

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{
    EncodeError, Properties, ReplyCode, Table, TableBuilder, ValueRef, WireMethod as _,
};
use ferrymq_broker::queues::{Entity, Message, NoHeaders, Publish, QueueError, QueueHandle, Routed};
use ferrymq_runtime::BytePermit;

use crate::args::HeaderView;
use crate::auth::USER;
use crate::confirms::{Batch, Span};
use crate::content::{Content, Facts, Head};
use crate::dead_letters::{claims_deaths, disown};
use crate::expiration;
use crate::failure::Failure;
use crate::state::{Connection, State};
use crate::tx::Tx;

/// Routes kept for a connection.
const ROUTES_MAX: usize = 4096;

/// Messages of one read, and the routes of earlier ones.
#[derive(Default)]
pub(crate) struct Gather {
    messages: Vec<Publish>,
    numbers: Vec<Option<(u16, u64)>>,
    spans: Vec<Span>,
    room: Vec<BytePermit>,
    routes: Routes,
}

/// Where messages of an exchange and a routing key go.
#[derive(Debug, Clone)]
struct Route {
    exchange: Bytes,
    routing_key: Bytes,
    to: Routed,
}

#[derive(Default)]
struct Routes {
    generation: u64,
    kept: HashMap<Bytes, HashMap<Bytes, Route>>,
    count: usize,
    last: Option<Route>,
}

impl Routes {
    fn find(&mut self, connection: &Connection, head: &Head) -> Result<Route, QueueError> {
        let generation = connection.context.queues.generation();
        if generation != self.generation || self.count >= ROUTES_MAX {
            *self = Routes { generation, ..Routes::default() };
        }
        if let Some(last) = &self.last
            && last.routing_key == head.routing_key
            && last.exchange == head.exchange
        {
            return Ok(last.clone());
        }
        let known = self.kept.get(&head.exchange).and_then(|routes| routes.get(&head.routing_key));
        if let Some(known) = known {
            self.last = Some(known.clone());
            return Ok(known.clone());
        }
        let exchange = exchange_name(connection, head)?;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        // Copies: the route outlives the memory that the message was read into.
        let route = Route {
            exchange: Bytes::copy_from_slice(&head.exchange),
            routing_key: Bytes::copy_from_slice(&head.routing_key),
            to: queues.route(vhost, exchange, &head.routing_key, &NoHeaders)?,
        };
        if !queues.routes_by_headers(vhost, exchange) {
            let routes = self.kept.entry(route.exchange.clone()).or_default();
            routes.insert(route.routing_key.clone(), route.clone());
            self.count += 1;
            self.last = Some(route.clone());
        }
        Ok(route)
    }
}

/// The exchange's name; one that is not UTF-8 cannot be there.
fn exchange_name<'a>(connection: &Connection, head: &'a Head) -> Result<&'a str, QueueError> {
    std::str::from_utf8(&head.exchange).map_err(|_| QueueError::NotFound {
        entity: Entity::Exchange,
        vhost: connection.opened.vhost.clone(),
        name: String::from_utf8_lossy(&head.exchange).into(),
    })
}

impl Gather {
    /// Takes a message of a channel: routes it, returns it if it has to be, and keeps it for the next send.
    pub(crate) fn add(
        &mut self,
        connection: &Connection,
        number: u16,
        mut content: Content,
    ) -> Result<(), Failure> {
        let counters = &connection.context.counters;
        let route = if content.facts.special {
            self.special(connection, &mut content)
        } else {
            self.routes.find(connection, &content.head).map_err(Failure::from)
        };
        let Route { exchange, routing_key, to } = route.map_err(|failure| failure.of(basic::Publish::ID))?;
        counters.published_total.fetch_add(1, Ordering::Relaxed);
        let confirm = self.count(connection, number);
        if to.is_empty() {
            counters.unroutable_total.fetch_add(1, Ordering::Relaxed);
            if content.head.mandatory {
                if let Some(tx) = transaction(&mut connection.state.lock(), number) {
                    return tx
                        .unroutable(connection, content)
                        .map_err(|failure| failure.of(basic::Publish::ID));
                }
                give_back(connection, number, &content)?;
            }
            return Ok(());
        }
        let Content { facts, properties, body, room, .. } = content;
        let Facts { persistent, priority, ttl_ms, .. } = facts;
        let message = Message { exchange, routing_key, properties, body, persistent, ttl_ms, priority };
        let publish = Publish { message, to };
        if confirm.is_none()
            && let Some(tx) = transaction(&mut connection.state.lock(), number)
        {
            return tx.publish(connection, publish).map_err(|failure| failure.of(basic::Publish::ID));
        }
        self.messages.push(publish);
        self.numbers.push(confirm.map(|publish| (number, publish)));
        self.room.extend(room);
        Ok(())
    }

    /// Numbers a message, if its channel confirms.
    fn count(&mut self, connection: &Connection, number: u16) -> Option<u64> {
        let mut state = connection.state.lock();
        let channel = state.channels.get_mut(&number)?;
        let last = channel.confirms.as_mut()?;
        *last += 1;
        let (publish, incarnation) = (*last, channel.incarnation);
        drop(state);
        match self.spans.last_mut() {
            Some(span) if span.channel == number && span.incarnation == incarnation => span.last = publish,
            _ => self.spans.push(Span { channel: number, incarnation, first: publish, last: publish }),
        }
        Some(publish)
    }

    /// A message with headers or with a property that is checked.
    fn special(&mut self, connection: &Connection, content: &mut Content) -> Result<Route, Failure> {
        let bytes = content.properties.clone();
        let properties = Properties::parse(&bytes)?;
        let mut route = self.routes.find(connection, &content.head)?;
        if let Some(text) = properties.expiration() {
            content.facts.ttl_ms = Some(expiration::parse(text)?);
        }
        if let Some(user) = properties.user_id()
            && user != USER
        {
            let (user, own) = (String::from_utf8_lossy(user), String::from_utf8_lossy(USER));
            let text = format!("user_id property set to '{user}' but authenticated user was '{own}'");
            return Err(Failure::new(ReplyCode::PreconditionFailed, text));
        }
        let Some(headers) = properties.headers() else { return Ok(route) };
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let exchange = exchange_name(connection, &content.head)?;
        let view = HeaderView(headers);
        if queues.routes_by_headers(vhost, exchange) {
            route.to = queues.route(vhost, exchange, &content.head.routing_key, &view)?;
        }
        let more = [headers.get(b"CC"), headers.get(b"BCC")];
        if more.iter().any(Option::is_some) {
            let mut all: Vec<QueueHandle> = route.to.queues().to_vec();
            for key in carbon_copies(more)? {
                let also = queues.route(vhost, exchange, key, &view)?;
                for queue in also.queues() {
                    if !all.contains(queue) {
                        all.push(queue.clone());
                    }
                }
            }
            route.to = Routed::to(all);
            if more[1].is_some() {
                content.properties = with_headers(properties, &without_bcc(headers)?)?;
            }
        }
        if claims_deaths(headers) {
            let bytes = content.properties.clone();
            let properties = Properties::parse(&bytes)?;
            let table = disown(properties.headers().unwrap_or_default()).map_err(unencodable)?;
            content.properties = with_headers(properties, &table)?;
        }
        Ok(route)
    }

    /// Hands everything over. This is where back-pressure is felt.
    pub(crate) async fn send(&mut self, connection: &Connection) {
        if self.messages.is_empty() && self.spans.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.messages);
        let pending =
            if messages.is_empty() { None } else { Some(connection.context.queues.publish(messages).await) };
        self.room.clear();
        let (spans, numbers) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.numbers));
        connection.confirms.push(Batch { pending, spans, numbers });
        connection.output.wake();
        connection.confirms.room().await;
    }
}

/// The transaction that a message is published in.
fn transaction(state: &mut State, number: u16) -> Option<&mut Tx> {
    state.channels.get_mut(&number)?.tx.as_mut()
}

/// The routing keys of CC and BCC headers.
fn carbon_copies(headers: [Option<ValueRef<'_>>; 2]) -> Result<Vec<&[u8]>, Failure> {
    let mut keys = Vec::new();
    for (name, value) in ["CC", "BCC"].into_iter().zip(headers) {
        let wrong = |what: &str| {
            Failure::new(ReplyCode::PreconditionFailed, format_args!("invalid message: {name} header {what}"))
        };
        match value {
            None => {}
            Some(ValueRef::Array(array)) => {
                for key in array {
                    let ValueRef::LongString(key) = key else { return Err(wrong("holds a non-string")) };
                    keys.push(key);
                }
            }
            Some(_) => return Err(wrong("is not an array")),
        }
    }
    Ok(keys)
}

/// Headers less BCC, which receivers must not see.
fn without_bcc(headers: Table<'_>) -> Result<TableBuilder, Failure> {
    let mut table = TableBuilder::new();
    for entry in headers.iter().filter(|entry| entry.name() != b"BCC") {
        table.push_entry(entry).map_err(unencodable)?;
    }
    Ok(table)
}

/// The properties with other headers.
fn with_headers(properties: Properties<'_>, headers: &TableBuilder) -> Result<Bytes, Failure> {
    let mut changed = properties.decode();
    changed.headers = Some(headers.as_table());
    let mut out = BytesMut::new();
    changed.encode(&mut out).map_err(unencodable)?;
    Ok(out.freeze())
}

fn unencodable(error: EncodeError) -> Failure {
    Failure::hard(ReplyCode::InternalError, error)
}

/// Returns a message that goes nowhere.
pub(crate) fn give_back(connection: &Connection, number: u16, content: &Content) -> Result<(), Failure> {
    let returned = basic::Return {
        reply_code: ReplyCode::NoRoute.code(),
        reply_text: b"NO_ROUTE",
        exchange: &content.head.exchange,
        routing_key: &content.head.routing_key,
    };
    let properties = Properties::parse(&content.properties)?;
    let frame_max = connection.opened.frame_max;
    connection
        .output
        .with(|out| put_message(out, number, &returned, properties, &content.body, frame_max))
        .map_err(|error| Failure::hard(ReplyCode::InternalError, error))
}
