//! From published messages to one call of the queues: routing, checks, gathering.
//!
//! **Invariants.** Messages of one read go to the queues together and in order. A route is kept only for as
//! long as the queues' generation stays, and never for exchanges that look at headers. A message that is
//! mandatory and goes nowhere is returned before it is confirmed.
//!
//! Deliberately absent: what a message's expiration and priority mean (the queues know).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{
    BasicProperties, EncodeError, Properties, ReplyCode, TableBuilder, Value, ValueRef, WireMethod as _,
};
use ferrymq_broker::queues::{Entity, Message, Publish, QueueError, Routed};
use ferrymq_runtime::BytePermit;

use crate::args::MessageView;
use crate::auth::USER;
use crate::confirms::{Batch, Span};
use crate::content::{Content, Facts, Head};
use crate::dead_letters::{claims_deaths, disown};
use crate::expiration;
use crate::failure::Failure;
use crate::replies::{PSEUDO_QUEUE, Target, is_reply_name};
use crate::state::{Connection, State};
use crate::tx::Tx;

/// Routes kept for a connection.
const ROUTES_MAX: usize = 4096;

/// Messages of one read, and the routes of earlier ones.
#[derive(Default)]
pub(crate) struct Gather {
    messages: Vec<Publish>,
    numbers: Vec<Option<(u16, u64)>>,
    /// Messages of the read before: this one has as many at first, so that nothing is copied because a list grows.
    before: usize,
    spans: Vec<Span>,
    /// Channel and number of direct replies that there was no room for.
    refused: Vec<(u16, u64)>,
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
    /// Where a message without carbon copies goes.
    fn find(&mut self, connection: &Connection, head: &Head, properties: &[u8]) -> Result<Route, QueueError> {
        let generation = connection.context.queues.generation();
        if generation != self.generation || self.count >= ROUTES_MAX {
            *self = Routes { generation, ..Routes::default() };
        }
        if let Some(last) = &self.last
            && same(&last.routing_key, &head.routing_key)
            && same(&last.exchange, &head.exchange)
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
            to: queues.route(vhost, exchange, &head.routing_key, &view(properties))?,
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

/// Whether two names are the same. Names are short: byte by byte they are compared in less time than a call of the
/// C library takes (its masked vector loads were 9 % of what a message costs).
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
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
        let mut replies = Vec::new();
        let route = if content.facts.special {
            self.special(connection, number, &mut content, &mut replies)
        } else {
            self.route(connection, &content, &mut replies)
        };
        let Route { exchange, routing_key, to } = route.map_err(|failure| failure.of(basic::Publish::ID))?;
        counters.published_total.fetch_add(1, Ordering::Relaxed);
        let confirm = self.count(connection, number);
        if confirm.is_some() {
            counters.published_confirm_total.fetch_add(1, Ordering::Relaxed);
        }
        if to.is_empty() && replies.is_empty() {
            let by = if content.head.mandatory { &counters.returned_total } else { &counters.dropped_total };
            by.fetch_add(1, Ordering::Relaxed);
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
        let delay = None;
        let message =
            Message { exchange, routing_key, properties, body, persistent, ttl_ms, priority, delay };
        let publish = Publish { message, to };
        if confirm.is_none()
            && let Some(tx) = transaction(&mut connection.state.lock(), number)
        {
            return tx
                .publish(connection, publish, replies)
                .map_err(|failure| failure.of(basic::Publish::ID));
        }
        let targets = publish.to.queues().len() + replies.len();
        counters.routed_total.fetch_add(targets as u64, Ordering::Relaxed);
        if !answer(connection, &replies, &publish.message) {
            self.refused.extend(confirm.map(|publish| (number, publish)));
        }
        if publish.to.is_empty() {
            return Ok(());
        }
        if self.messages.is_empty() {
            self.messages.reserve_exact(self.before);
            self.numbers.reserve_exact(self.before);
        }
        self.messages.push(publish);
        self.numbers.push(confirm.map(|publish| (number, publish)));
        self.room.extend(room);
        Ok(())
    }

    /// Where a message without anything special goes: to queues, and to those who wait for it as a reply.
    fn route(
        &mut self,
        connection: &Connection,
        content: &Content,
        replies: &mut Vec<Arc<Target>>,
    ) -> Result<Route, Failure> {
        let head = &content.head;
        if is_reply(&head.exchange, &head.routing_key) {
            find_reply(connection, &head.routing_key, replies);
            // Not kept: the name goes with its channel.
            let routing_key = Bytes::copy_from_slice(&head.routing_key);
            return Ok(Route { exchange: Bytes::new(), routing_key, to: Routed::default() });
        }
        Ok(self.routes.find(connection, head, &content.properties)?)
    }

    /// Numbers a message, if its channel confirms.
    fn count(&mut self, connection: &Connection, number: u16) -> Option<u64> {
        let mut state = connection.state.lock();
        let channel = state.channels.get_mut(&number)?;
        if !std::mem::replace(&mut channel.publishes, true) {
            connection.context.counters.publishers_open.fetch_add(1, Ordering::Relaxed);
        }
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

    /// A message with headers or with a property that is checked, in RabbitMQ's order.
    fn special(
        &mut self,
        connection: &Connection,
        number: u16,
        content: &mut Content,
        replies: &mut Vec<Arc<Target>>,
    ) -> Result<Route, Failure> {
        let bytes = content.properties.clone();
        let properties = Properties::parse(&bytes)?;
        let mut route = self.route(connection, content, replies)?;
        let mut reply_to = None;
        if properties.reply_to() == Some(PSEUDO_QUEUE.as_bytes()) {
            reply_to = Some(reply_name(connection, number)?);
        }
        if let Some(text) = properties.expiration() {
            content.facts.ttl_ms = Some(expiration::parse(text)?);
        }
        let headers = properties.headers();
        let copies = headers.map(|headers| [headers.get(b"CC"), headers.get(b"BCC")]).unwrap_or_default();
        let keys = carbon_copies(copies)?;
        if let Some(user) = properties.user_id()
            && user != USER
        {
            let (user, own) = (String::from_utf8_lossy(user), String::from_utf8_lossy(USER));
            let text = format!("user_id property set to '{user}' but authenticated user was '{own}'");
            return Err(Failure::new(ReplyCode::PreconditionFailed, text));
        }
        if !keys.is_empty() {
            route.to = with_copies(connection, content, keys, &bytes, replies)?;
        }
        content.properties = as_delivered(&bytes, reply_to.as_deref())?;
        Ok(route)
    }

    /// Hands everything over. This is where back-pressure is felt.
    pub(crate) async fn send(&mut self, connection: &Connection) {
        if self.messages.is_empty() && self.spans.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.messages);
        self.before = messages.len();
        let pending =
            if messages.is_empty() { None } else { Some(connection.context.queues.publish(messages).await) };
        self.room.clear();
        let (spans, numbers) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.numbers));
        let refused = std::mem::take(&mut self.refused);
        connection.confirms.push(Batch { pending, spans, numbers, refused });
        connection.output.wake();
        connection.confirms.room().await;
    }
}

/// Where a message with carbon copies goes, besides to those who are its own routing key's replies.
fn with_copies(
    connection: &Connection,
    content: &Content,
    copies: Vec<&[u8]>,
    properties: &[u8],
    replies: &mut Vec<Arc<Target>>,
) -> Result<Routed, Failure> {
    let head = &content.head;
    let mut keys: Vec<&[u8]> = vec![&head.routing_key];
    keys.extend(copies);
    keys.retain(|key| {
        let is_reply = is_reply(&head.exchange, key);
        if is_reply {
            find_reply(connection, key, replies);
        }
        !is_reply
    });
    let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
    Ok(queues.route_all(vhost, exchange_name(connection, head)?, &keys, &view(properties))?)
}

/// What exchanges may look at besides routing keys.
fn view(properties: &[u8]) -> MessageView<'_> {
    // They were checked when the content header was read.
    MessageView::new(Properties::parse(properties).unwrap_or_default())
}

/// The transaction that a message is published in.
fn transaction(state: &mut State, number: u16) -> Option<&mut Tx> {
    state.channels.get_mut(&number)?.tx.as_mut()
}

/// The routing keys of CC and BCC headers.
pub(crate) fn carbon_copies(headers: [Option<ValueRef<'_>>; 2]) -> Result<Vec<&[u8]>, Failure> {
    let mut keys = Vec::new();
    for (name, value) in ["CC", "BCC"].into_iter().zip(headers) {
        match value {
            None => {}
            // RabbitMQ looks over what is no text.
            Some(ValueRef::Array(array)) => keys.extend(array.iter().filter_map(|key| match key {
                ValueRef::LongString(key) => Some(key),
                _ => None,
            })),
            Some(other) => {
                let kind = Value::from(other).type_name();
                let text = format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
                return Err(Failure::new(ReplyCode::PreconditionFailed, text));
            }
        }
    }
    Ok(keys)
}

/// Gives a reply to all that wait for it; whether all had room.
pub(crate) fn answer(connection: &Connection, replies: &[Arc<Target>], message: &Message) -> bool {
    let refused = replies.iter().filter(|target| !target.send(message)).count();
    if refused > 0 {
        tracing::debug!(peer = %connection.peer, "whoever asked does not read; a direct reply is dropped");
    }
    refused == 0
}

/// Whether the default exchange is asked to route to a name of direct replies.
fn is_reply(exchange: &[u8], key: &[u8]) -> bool {
    exchange.is_empty() && is_reply_name(key)
}

/// Adds whoever waits for replies under a name, once.
fn find_reply(connection: &Connection, name: &[u8], replies: &mut Vec<Arc<Target>>) {
    let found = connection.context.replies.find(&connection.opened.vhost, name);
    replies.extend(found.filter(|target| !replies.iter().any(|known| known.is(target))));
}

/// What the pseudo-queue stands for as the `reply_to` of a message.
fn reply_name(connection: &Connection, number: u16) -> Result<Bytes, Failure> {
    let state = connection.state.lock();
    let consumer = state.channels.get(&number).and_then(|channel| channel.replies.as_ref());
    consumer
        .map(|consumer| consumer.name.clone())
        .ok_or_else(|| Failure::new(ReplyCode::PreconditionFailed, "fast reply consumer does not exist"))
}

/// The properties with another `reply_to`, if one is given, and less the BCC header, which receivers must not see.
fn rewritten(properties: Properties<'_>, reply_to: Option<&[u8]>, blind: bool) -> Result<Bytes, Failure> {
    let mut table = TableBuilder::new();
    let mut changed = properties.decode();
    changed.reply_to = reply_to.or(changed.reply_to);
    if blind {
        for entry in properties.headers().unwrap_or_default() {
            if entry.name() != b"BCC" {
                table.push_entry(entry).map_err(unencodable)?;
            }
        }
        changed.headers = Some(table.as_table());
    }
    encoded(&changed)
}

/// A publisher's properties as receivers get them: with another `reply_to`, if one is given, less the BCC header, and with no claim
/// about deaths where only the broker's would be believed.
pub(crate) fn as_delivered(given: &Bytes, reply_to: Option<&[u8]>) -> Result<Bytes, Failure> {
    let properties = Properties::parse(given)?;
    let headers = properties.headers().unwrap_or_default();
    let blind = headers.get(b"BCC").is_some();
    let mut out = given.clone();
    if reply_to.is_some() || blind {
        out = rewritten(properties, reply_to, blind)?;
    }
    if claims_deaths(headers) {
        let bytes = out.clone();
        let properties = Properties::parse(&bytes)?;
        let table = disown(properties.headers().unwrap_or_default()).map_err(unencodable)?;
        out = with_headers(properties, &table)?;
    }
    Ok(out)
}

/// The properties with other headers.
fn with_headers(properties: Properties<'_>, headers: &TableBuilder) -> Result<Bytes, Failure> {
    let mut changed = properties.decode();
    changed.headers = Some(headers.as_table());
    encoded(&changed)
}

fn encoded(properties: &BasicProperties<'_>) -> Result<Bytes, Failure> {
    let mut out = BytesMut::new();
    properties.encode(&mut out).map_err(unencodable)?;
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
