// amqplib against a broker: what queues, streams and exchanges of RabbitMQ can do beyond the protocol. As pika's tests do.
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
// Not among what the package exports: the frames that it has no methods for.
const defs = require(path.join(path.dirname(require.resolve("amqplib")), "lib/defs.js"));
const {
  OLD_RABBITMQ, channel, channelOf, closes, confirms, confirmsOf, connect, connectionCloses, consumer, exchange, leave, manage, name, queue,
  quiet, send, take, test, text, until, wait,
} = require("./harness");

const { API } = process.env;
const PSEUDO = "amq.rabbitmq.reply-to";
const DURABLE = { exclusive: false, durable: true };
const count = async (on, key) => (await on.checkQueue(key)).messageCount;
const letters = (dead) => ({ deadLetterExchange: "", deadLetterRoutingKey: dead });
const sorted = (messages) => messages.map(text);

// One message with properties, on a channel with confirms; false if it is refused.
const publish = (on, to, key, body, properties = {}) =>
  new Promise((done) => on.publish(to, key, Buffer.from(body), properties, (refused) => done(!refused)));
const put = (on, key, body, properties) => publish(on, "", key, body, properties);

async function got(on, key) {
  let message = false;
  await until("a message", async () => (message = await on.get(key)));
  return message;
}

// Time and length.

test("messages-expire", async () => {
  const on = await confirms();
  const key = await queue(on);
  await put(on, key, "a", { expiration: "0" });
  assert.deepEqual(await take(on, key), []);
  await put(on, key, "b", { expiration: 3600000, priority: 7 });
  const { properties } = await on.get(key, { noAck: true });
  assert.deepEqual([properties.expiration, properties.priority], ["3600000", 7]);
  await put(on, key, "c", { expiration: 50 });
  await until("nobody looked and it is gone", async () => (await count(on, key)) === 0);
  await put(on, key, "stays");
  await put(on, key, "goes", { expiration: 10 });
  await wait(100);
  assert.equal(await count(on, key), 2, "only the head expires");
  assert.equal(text(await on.get(key, { noAck: true })), "stays");
  await until("its turn came", async () => (await count(on, key)) === 0);
  await closes(on, 406, "PRECONDITION_FAILED - invalid expiration 'soon': no_integer", () => put(on, key, "", { expiration: "soon" }));
});

test("queues-have-times-to-live", async () => {
  const on = await confirms();
  const key = await queue(on, { messageTtl: 50 });
  await put(on, key, "a");
  await put(on, key, "b", { expiration: 3600000 });
  await until("both are gone", async () => (await count(on, key)) === 0);
  await put(on, key, "c");
  const held = await on.get(key);
  await wait(200);
  on.nack(held);
  assert.deepEqual(await take(on, key), [], "given back too late");
});

test("queues-that-nobody-uses-are-deleted", async () => {
  const on = await channel();
  const key = await queue(on, { exclusive: false, expires: 300 });
  const found = await consumer(on, key, { noAck: true });
  await wait(600);
  send(on, key, "a");
  await until("used while consumed", () => found.length === 1);
  await on.cancel(found.tag);
  await wait(1000);
  await closes(on, 404, `no queue '${key}'`, () => on.checkQueue(key));
});

test("full-queues-drop-their-oldest", async () => {
  const on = await confirms();
  const dead = await queue(on);
  const key = await queue(on, { maxLength: 2, ...letters(dead) });
  for (const body of ["a", "b", "c"]) await put(on, key, body);
  await until("the dead letter", async () => (await count(on, dead)) === 1);
  const { properties } = await on.get(dead, { noAck: true });
  assert.equal(properties.headers["x-death"][0].reason, "maxlen");
  assert.deepEqual(await take(on, key), ["b", "c"]);
  const bytes = await queue(on, { arguments: { "x-max-length-bytes": 5 } });
  for (const body of ["aaa", "bb", "c"]) await put(on, bytes, body);
  assert.deepEqual(await take(on, bytes), ["bb", "c"]);
});

test("full-queues-refuse-if-asked-to", async () => {
  const on = await confirms();
  for (const overflow of ["reject-publish", "reject-publish-dlx"]) {
    const key = await queue(on, { maxLength: 2, overflow });
    const taken = [];
    for (const body of ["a", "b", "c"]) taken.push(await put(on, key, body));
    assert.deepEqual(taken, [true, true, false]);
    assert.deepEqual(await take(on, key), ["a", "b"]);
    assert(await put(on, key, "d"));
  }
});

test("what-a-full-queue-refuses-can-be-dead-lettered", async () => {
  const on = await confirms();
  const dead = await queue(on);
  const key = await queue(on, { maxLength: 1, overflow: "reject-publish-dlx", ...letters(dead) });
  assert.deepEqual([await put(on, key, "a"), await put(on, key, "b"), await put(on, key, "c")], [true, false, false]);
  await until("they are dead letters", async () => (await count(on, dead)) === 2);
  const message = await on.get(dead, { noAck: true });
  const [{ reason, queue: from, count: times }] = message.properties.headers["x-death"];
  assert.deepEqual([text(message), reason, from, times], ["b", "maxlen", key, 1]);
  assert.deepEqual(await take(on, dead), ["c"]);
  assert.deepEqual(await take(on, key), ["a"]);
});

// Failure.

test("rejected-messages-are-dead-lettered", async () => {
  const on = await channel();
  const dead = await queue(on);
  const dlx = await exchange(on, "fanout");
  await on.bindQueue(dead, dlx, "");
  const key = await queue(on, { deadLetterExchange: dlx });
  on.sendToQueue(key, Buffer.from("body"), { headers: { mine: 1 }, contentType: "text/plain" });
  on.reject(await got(on, key), false);
  const message = await got(on, dead);
  assert.deepEqual([message.fields.exchange, message.fields.routingKey, text(message)], [dlx, key, "body"]);
  const { headers, contentType } = message.properties;
  const [{ time, ...death }] = headers["x-death"];
  assert.equal(time["!"], "timestamp");
  assert.deepEqual(death, { queue: key, reason: "rejected", count: 1, exchange: "", "routing-keys": [key] });
  assert.deepEqual([headers.mine, contentType], [1, "text/plain"]);
  assert.deepEqual(["queue", "reason", "exchange"].map((what) => headers[`x-first-death-${what}`]), [key, "rejected", ""]);
});

test("what-fails-goes-round-and-is-counted", async () => {
  const on = await channel();
  const work = name("q");
  const retry = await queue(on, { messageTtl: 20, ...letters(work) });
  await on.assertQueue(work, { exclusive: true, ...letters(retry) });
  send(on, work, "x");
  for (const times of [undefined, 1, 2, 3]) {
    const message = await got(on, work);
    const deaths = message.properties.headers["x-death"] || [];
    const here = deaths.find((death) => death.queue === work);
    assert.equal(here && here.count, times);
    on.reject(message, false);
  }
});

test("delivery-counts-and-limit", async () => {
  const on = await channel();
  const dead = await queue(on);
  const key = await queue(on, { ...DURABLE, ...letters(dead), arguments: { "x-queue-type": "quorum", "x-delivery-limit": 2 } });
  send(on, key, "a");
  const seen = [];
  for (let n = 0; n < 3; n++) {
    const message = await got(on, key);
    seen.push([message.fields.redelivered, message.properties.headers["x-delivery-count"] || 0]);
    on.reject(message, true);
  }
  assert.deepEqual(seen, [[false, 0], [true, 1], [true, 2]]);
  const { properties } = await got(on, dead);
  assert.equal(properties.headers["x-death"][0].reason, "delivery_limit");
  assert.equal(await on.get(key), false);
});

test("what-fails-waits-before-it-is-tried-again", async () => {
  if (OLD_RABBITMQ) return "delayed retries are of 4.3";
  const on = await channel();
  const retries = { "x-delayed-retry-type": "all", "x-delayed-retry-min": 200, "x-delayed-retry-max": 300 };
  const key = await queue(on, { ...DURABLE, arguments: { "x-queue-type": "quorum", ...retries } });
  send(on, key, "1");
  const found = await consumer(on, key);
  for (const [number, least] of [[1, 200], [2, 300], [3, 300]]) {
    await until("a delivery", () => found.length === number);
    const began = performance.now();
    on.reject(found.at(-1), true);
    await until("it is tried again", () => found.length === number + 1);
    assert(performance.now() - began >= least, `${number}: ${performance.now() - began} ms`);
  }
  assert.equal(found.at(-1).properties.headers["x-delivery-count"], 3);
});

test("who-does-not-acknowledge-in-time-is-cancelled", async () => {
  if (OLD_RABBITMQ) return "quorum queues cancel consumers since 4.3";
  const on = await channel();
  const key = await queue(on, { ...DURABLE, arguments: { "x-queue-type": "quorum", "x-consumer-timeout": 200 } });
  const slow = await consumer(on, key);
  send(on, key, "1");
  await until("it is cancelled", () => slow.includes(null));
  const next = await consumer(on, key);
  await until("another delivery", () => next.length === 1);
  assert.deepEqual([next[0].fields.redelivered, next[0].properties.headers["x-acquired-count"]], [true, 1]);
  on.ack(slow[0]); // Late, and no mistake.
  on.ack(next[0]);
  assert.deepEqual(await take(on, key), []);
  const other = await channelOf(on.model);
  send(on, key, "2");
  await got(other, key);
  await closes(other, 406, "PRECONDITION_FAILED - delivery acknowledgement on channel", () => other.closed);
});

// Delayed messages.

async function delayed(on, type) {
  const later = name("later");
  leave((cleaner) => cleaner.deleteExchange(later));
  await on.assertExchange(later, "x-delayed-message", { arguments: { "x-delayed-type": type } });
  return later;
}

test("messages-can-be-delayed", async () => {
  if (OLD_RABBITMQ) return "a plugin of RabbitMQ's that is not installed";
  const on = await confirms();
  const later = await delayed(on, "direct");
  const returned = [];
  on.on("return", (message) => returned.push(text(message)));
  const key = await queue(on);
  await on.bindQueue(key, later, "k");
  const found = await consumer(on, key, { noAck: true });
  const began = performance.now();
  for (const [body, delay] of [["3", 600], ["1", 200], ["2", "400"], ["0", undefined]]) {
    const headers = delay === undefined ? {} : { "x-delay": delay };
    assert(await publish(on, later, "k", body, { headers, persistent: true, mandatory: true }));
  }
  await until("all of them", () => found.length === 4);
  assert(performance.now() - began >= 600);
  assert.deepEqual(sorted(found), ["0", "1", "2", "3"]);
  assert.deepEqual(found.map(({ properties }) => properties.headers["x-delay"]), [undefined, -200, -400, -600]);
  await publish(on, later, "nobody", "delayed", { headers: { "x-delay": 1 }, mandatory: true });
  await publish(on, later, "nobody", "at once", { mandatory: true });
  await quiet();
  assert.deepEqual(returned, ["at once"]);
});

test("delayed-messages-are-routed-when-they-are-due", async () => {
  if (OLD_RABBITMQ) return "a plugin of RabbitMQ's that is not installed";
  const on = await channel();
  const later = await delayed(on, "topic");
  const [early, late] = [await queue(on), await queue(on)];
  await on.bindQueue(early, later, "#");
  on.publish(later, "a.b", Buffer.from("1"), { headers: { "x-delay": 300 } });
  await on.unbindQueue(early, later, "#");
  await on.bindQueue(late, later, "a.*");
  await until("it is in the other queue", async () => (await count(on, late)) === 1);
  assert.equal(await count(on, early), 0);
  for (const [type, words] of [
    [undefined, "'x-delayed-type' must be an existing exchange type"],
    ["x-delayed-message", "'x-delayed-message' can't be used for 'x-delayed-type'"],
  ]) {
    const other = await channelOf(on.model);
    const options = type ? { arguments: { "x-delayed-type": type } } : {};
    await closes(other, 406, words, () => other.assertExchange(name("wrong"), "x-delayed-message", options));
  }
});

// Streams.

async function stream(on) {
  const key = name("s");
  leave((cleaner) => cleaner.deleteQueue(key));
  await on.assertQueue(key, { durable: true, arguments: { "x-queue-type": "stream" } });
  return key;
}

// This many messages, acknowledged one by one, and no more.
async function readStream(on, key, number, args) {
  const found = [];
  const each = (message) => {
    found.push(message);
    on.ack(message);
  };
  const { consumerTag } = await on.consume(key, each, { arguments: args });
  await until(`${number} messages`, () => found.length >= number);
  await quiet();
  await on.cancel(consumerTag);
  assert.equal(found.length, number);
  return found;
}

test("streams-are-read-from-anywhere", async () => {
  const on = await confirms();
  const key = await stream(on);
  for (const body of ["a", "b", "c"]) assert(await put(on, key, body, { persistent: true }));
  await on.prefetch(1);
  const time = { "!": "timestamp", value: 0 };
  for (const [offset, expected] of [["first", "abc"], [1, "bc"], [time, "abc"], ["1h", "abc"]]) {
    const found = await readStream(on, key, expected.length, { "x-stream-offset": offset });
    assert.equal(sorted(found).join(""), expected);
    const offsets = found.map(({ properties }) => properties.headers["x-stream-offset"]);
    assert.deepEqual(offsets, [0, 1, 2].slice(3 - expected.length));
    assert(found.every(({ fields }) => !fields.redelivered));
  }
  // `last` is a chunk in RabbitMQ, whose size nobody promises; the last message is in it.
  const last = await consumer(await prefetching(on), key, { arguments: { "x-stream-offset": "last" } });
  await until("the last one", () => sorted(last).at(-1) === "c");
  const beyond = await consumer(await prefetching(on), key, { arguments: { "x-stream-offset": 4 } });
  const next = await consumer(await prefetching(on), key, { arguments: { "x-stream-offset": "next" } });
  const unsaid = await consumer(await prefetching(on), key);
  await quiet();
  assert.deepEqual([next.length, unsaid.length, beyond.length], [0, 0, 0]);
  await put(on, key, "d");
  await put(on, key, "e");
  await until("what is new", () => next.length === 2 && unsaid.length === 2 && beyond.length >= 1);
  assert.deepEqual([sorted(next), sorted(unsaid)], [["d", "e"], ["d", "e"]]);
  assert.equal(text(beyond.at(-1)), "e");
});

async function prefetching(on) {
  const fresh = await channelOf(on.model);
  await fresh.prefetch(100);
  return fresh;
}

test("streams-wait-for-acknowledgements", async () => {
  const on = await confirms();
  const key = await stream(on);
  for (const body of ["a", "b", "c", "d"]) await put(on, key, body);
  await on.prefetch(2);
  const found = await consumer(on, key, { arguments: { "x-stream-offset": "first" } });
  await until("two", () => found.length === 2);
  await quiet();
  assert.equal(found.length, 2);
  // To give back is no more than to be done; before RabbitMQ 4 it was not implemented.
  if (OLD_RABBITMQ) on.ack(found[1], true);
  else on.nack(found[1], true, true);
  await until("the next two", () => found.length === 4);
  assert.deepEqual(sorted(found), ["a", "b", "c", "d"]);
});

test("streams-say-what-they-are-not", async () => {
  const key = await stream(await channel());
  const refused = [
    ["basic.get not supported", (on) => on.get(key)],
    ["queue.purge not supported", (on) => on.purgeQueue(key)],
  ];
  // Before 4.3 the words were others.
  if (!OLD_RABBITMQ) refused.push(["automatic acknowledgement", (on) => on.consume(key, () => {}, { noAck: true })]);
  for (const [words, ask] of refused) {
    const on = await channel();
    await on.prefetch(1);
    await connectionCloses(on, 540, words, () => ask(on));
  }
  const on = await channel();
  await closes(on, 406, "consumer prefetch count is not set", () => on.consume(key, () => {}));
  for (const [options, words] of [[{ autoDelete: true }, "invalid property 'auto-delete'"], [{ durable: false }, "'non-durable'"]]) {
    const other = await channelOf(on.model);
    const settings = { durable: true, arguments: { "x-queue-type": "stream" }, ...options };
    await closes(other, 406, words, () => other.assertQueue(name("s"), settings));
  }
  if (OLD_RABBITMQ) return; // It ends the connection.
  const other = await channelOf(on.model);
  await other.prefetch(1);
  await closes(other, 406, "PRECONDITION_FAILED", () => other.consume(key, () => {}, { arguments: { "x-stream-offset": "nonsense" } }));
});

test("streams-are-filtered", async () => {
  if (OLD_RABBITMQ) return "filters came with RabbitMQ 3.13";
  const on = await confirms();
  const key = await stream(on);
  for (const [value, body] of [["eu", "a"], ["us", "b"], [undefined, "c"], ["eu", "d"]]) {
    await put(on, key, body, { headers: value ? { "x-stream-filter-value": value } : {} });
  }
  await on.prefetch(10);
  for (const [filter, unfiltered, expected] of [["eu", false, "ad"], [["eu", "us"], false, "abd"], ["us", true, "bc"]]) {
    const args = { "x-stream-offset": "first", "x-stream-filter": filter, "x-stream-match-unfiltered": unfiltered };
    assert.equal(sorted(await readStream(on, key, expected.length, args)).join(""), expected);
  }
});

test("exchanges-route-into-streams-and-queues", async () => {
  const on = await confirms();
  const key = await stream(on);
  const other = await queue(on);
  const made = await exchange(on, "topic");
  await on.bindQueue(key, made, "a.#");
  await on.bindQueue(other, made, "#");
  for (const routing of ["a", "b", "a.b"]) assert(await publish(on, made, routing, routing, { headers: { n: 1 } }));
  await on.prefetch(10);
  const found = await readStream(on, key, 2, { "x-stream-offset": "first" });
  assert.deepEqual(found.map(({ fields }) => [fields.exchange, fields.routingKey]), [[made, "a"], [made, "a.b"]]);
  assert(found.every(({ properties }) => properties.headers.n === 1));
  assert.deepEqual(await take(on, other), ["a", "b", "a.b"]);
});

// Transactions. The client has no methods for them, but knows the frames.

const tx = async (on, what) => on.rpc(defs[`Tx${what}`], {}, defs[`Tx${what}Ok`]);

test("transactions-of-publishes-and-acknowledgements", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "1", "2");
  await tx(on, "Select");
  const first = await got(on, key);
  on.ack(first);
  send(on, key, "3");
  const other = await channelOf(on.model);
  assert.equal(await count(other, key), 1);
  await tx(on, "Commit");
  assert.deepEqual(await take(other, key), ["2", "3"]);
  send(on, key, "4");
  await tx(on, "Rollback");
  await tx(on, "Commit");
  assert.deepEqual(await take(other, key), []);
});

test("a-rollback-keeps-what-was-acknowledged", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "1");
  await tx(on, "Select");
  const held = await got(on, key);
  on.ack(held);
  await tx(on, "Rollback");
  const other = await channelOf(on.model);
  assert.deepEqual(await take(other, key), []);
  on.nack(held);
  await tx(on, "Commit");
  await until("it is back", async () => (await count(other, key)) === 1);
});

test("transactions-and-confirms-do-not-mix", async () => {
  const confirming = await confirms();
  await closes(confirming, 406, "cannot switch from confirm to tx mode", () => tx(confirming, "Select"));
  const on = await channelOf(confirming.model);
  await tx(on, "Select");
  const select = () => on.rpc(defs.ConfirmSelect, { nowait: false }, defs.ConfirmSelectOk);
  await closes(on, 406, "cannot switch from tx to confirm mode", select);
  for (const what of ["Commit", "Rollback"]) {
    const other = await channelOf(confirming.model);
    await closes(other, 406, "channel is not transactional", () => tx(other, what));
  }
});

// Priorities, and who gets what.

const MIXED = [["none", undefined], ["0", 0], ["3", 3], ["9", 9], ["1", 1], ["3 again", 3]];
const mixed = async (on, key, all = MIXED) => {
  for (const [body, priority] of all) await put(on, key, body, { priority });
};

test("the-highest-priority-comes-first", async () => {
  const on = await confirms();
  const key = await queue(on, { maxPriority: 5 });
  await mixed(on, key);
  const ordered = ["9", "3", "3 again", "1", "none", "0"];
  const held = [];
  for (let n = 0; n < ordered.length; n++) held.push(await on.get(key));
  assert.deepEqual(sorted(held), ordered);
  for (const at of [4, 1, 5, 0, 2, 3]) on.nack(held[at]);
  await until("all are back", async () => (await count(on, key)) === ordered.length);
  await on.prefetch(1);
  const found = [];
  await on.consume(key, (message) => {
    found.push(message);
    on.ack(message);
  });
  await until("all of them", () => found.length === ordered.length);
  assert.deepEqual(sorted(found), ordered);
  assert(found.every(({ fields }) => fields.redelivered));
});

test("priorities-and-limits", async () => {
  const on = await confirms();
  const dead = await queue(on);
  const key = await queue(on, { maxPriority: 5, maxLength: 2, ...letters(dead) });
  // The head goes where there are too many: that is the highest.
  await mixed(on, key, [["low", 0], ["high", 5], ["mid", 2]]);
  await until("the dead letter", async () => (await count(on, dead)) === 1);
  assert.deepEqual(await take(on, dead), ["high"]);
  assert.deepEqual(await take(on, key), ["mid", "low"]);
});

test("quorum-queues-know-priorities", async () => {
  if (OLD_RABBITMQ) return "quorum queues know priorities since 4.0, strictly since 4.3";
  const on = await confirms();
  const key = await queue(on, { ...DURABLE, arguments: { "x-queue-type": "quorum" } });
  await mixed(on, key, [...MIXED, ["40", 40], ["31", 31]]);
  // No priority counts as 4, and what is above 31 as that.
  assert.deepEqual(await take(on, key), ["40", "31", "9", "none", "3", "3 again", "1", "0"]);
});

test("consumer-priorities", async () => {
  const on = await channel();
  const key = await queue(on);
  await on.prefetch(2);
  const [low, none, high] = [await consumer(on, key, { priority: -1 }), await consumer(on, key), await consumer(on, key, { priority: 5 })];
  send(on, key, "0", "1", "2", "3", "4");
  await until("all of them", () => low.length + none.length + high.length === 5);
  assert.deepEqual([high, none, low].map(sorted), [["0", "1"], ["2", "3"], ["4"]]);
  await closes(on, 406, `invalid arg 'x-priority' for queue '${key}' in vhost '/'`, () => on.consume(key, () => {}, { priority: "high" }));
});

test("single-active-consumer", async () => {
  const owner = await channel();
  const first = await channel();
  const second = await channel();
  for (const type of ["classic", "quorum"]) {
    const key = await queue(owner, { ...DURABLE, arguments: { "x-single-active-consumer": true, "x-queue-type": type } });
    const on = await channelOf(first.model);
    const one = await consumer(on, key);
    const two = await consumer(second, key);
    send(owner, key, "a", "b", "c");
    await until("all of them", () => one.length === 3);
    await quiet();
    assert.equal(two.length, 0);
    on.ack(one[1]);
    await on.close();
    await until("what is left", () => two.length === 2);
    assert.deepEqual(two.map((message) => [text(message), message.fields.redelivered]), [["a", true], ["c", true]]);
    if (type === "classic") {
      const other = await channelOf(owner.model);
      await closes(other, 403, "in exclusive use", () => other.consume(key, () => {}, { exclusive: true }));
    }
  }
});

test("direct-replies-reach-the-channel-that-asked", async () => {
  const [asks, answers] = [await channel(), await confirms()];
  const questions = await queue(answers);
  await answers.consume(questions, (message) => {
    const { replyTo, correlationId } = message.properties;
    answers.sendToQueue(replyTo, Buffer.from(text(message).toUpperCase()), { correlationId });
  }, { noAck: true });
  const found = await consumer(asks, PSEUDO, { noAck: true });
  for (const word of ["one", "two"]) asks.sendToQueue(questions, Buffer.from(word), { replyTo: PSEUDO, correlationId: word });
  await until("two answers", () => found.length === 2);
  assert.deepEqual(found.map((message) => [text(message), message.properties.correlationId]), [["ONE", "one"], ["TWO", "two"]]);
  assert(found.every(({ fields }) => fields.routingKey.startsWith(`${PSEUDO}.`)));
  await closes(asks, 406, "reply consumer already set", () => asks.consume(PSEUDO, () => {}, { noAck: true }));
  const returned = [];
  answers.on("return", (message) => returned.push(text(message)));
  await put(answers, found[0].fields.routingKey, "late", { mandatory: true });
  assert.deepEqual(returned, ["late"]);
  const other = await channel();
  await closes(other, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", () => other.consume(PSEUDO, () => {}));
});

test("wrong-arguments-of-queues-are-told", async () => {
  const on = await channel();
  for (const [argument, value, why] of [
    ["x-message-ttl", "5", '"expected integer, got longstr"'],
    ["x-message-ttl", -1, "{value_negative,-1}"],
    ["x-expires", 0, "{value_zero,0}"],
    ["x-max-length", -1, "{value_negative,-1}"],
    ["x-overflow", "burst", "invalid_overflow"],
  ]) {
    const other = await channelOf(on.model);
    const key = name("wrong");
    const words = `PRECONDITION_FAILED - invalid arg '${argument}' for queue '${key}' in vhost '/': ${why}`;
    await closes(other, 406, words, () => other.assertQueue(key, { exclusive: true, arguments: { [argument]: value } }));
  }
});

// Policies and virtual hosts.

test("policies-hold-at-once", async () => {
  if (!API) return "set API to the address of the management API";
  const on = await confirms();
  const dead = await queue(on);
  const key = await queue(on);
  for (const body of ["0", "1", "2", "3", "4"]) await put(on, key, body);
  const policy = (definition) => manage("PUT", `policies/%2F/${key}`, { pattern: `^${key}$`, definition, "apply-to": "queues" });
  leave(() => manage("DELETE", `policies/%2F/${key}`).catch(() => {}));
  const dying = { "dead-letter-exchange": "", "dead-letter-routing-key": dead };
  await policy({ "max-length": 2, ...dying });
  await until("the letters", async () => (await count(on, dead)) === 3);
  assert.equal(await count(on, key), 2);
  await policy({ "max-length": 2, overflow: "reject-publish", ...dying });
  await until("it refuses", async () => !(await put(on, key, "refused")));
  await policy({ expires: 3600000, "max-length": 9, ...dying });
  await until("room again", async () => put(on, key, "taken"));
  await manage("DELETE", `policies/%2F/${key}`);
  assert((await take(on, key)).slice(0, 2).join("") === "34");
});

test("virtual-hosts-are-apart", async () => {
  if (!API) return "set API to the address of the management API";
  const vhost = name("team");
  await manage("PUT", `vhosts/${vhost}`, {});
  leave(() => manage("DELETE", `vhosts/${vhost}`).catch(() => {}));
  const model = await connect({}, { vhost });
  const [there, here] = [await confirmsOf(model), await channel()];
  const key = await queue(there, DURABLE);
  await put(there, key, "theirs");
  await closes(here, 404, `no queue '${key}' in vhost '/'`, () => here.checkQueue(key));
  const other = await channelOf(model);
  await closes(other, 404, `no queue 'nothing' in vhost '${vhost}'`, () => other.checkQueue("nothing"));
  assert.deepEqual(await take(there, key), ["theirs"]);
  // The client takes this code for an orderly end and tells it with `close`.
  const closed = new Promise((done) => model.on("close", done));
  await manage("DELETE", `vhosts/${vhost}`);
  const told = await Promise.race([closed, wait(10_000)]);
  assert.equal(told && told.code, 320);
  const words = `CONNECTION_FORCED - vhost '${vhost}' is `;
  assert(told.message.includes(`${words}deleted`) || (OLD_RABBITMQ && told.message.includes(`${words}down`)), told.message);
});
