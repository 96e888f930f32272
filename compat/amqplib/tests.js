// amqplib against a broker: what Node applications written for RabbitMQ do, and what they are told when it goes wrong.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const callbacks = require("amqplib/callback_api");
const {
  BOOTSTRAP, OLD_RABBITMQ, amqp, channel, channelOf, closes, confirms, connect, connectionCloses, consumer, exchange,
  main, name, opened, queue, quiet, send, take, test, text, until, wait,
} = require("./harness");

// Connections.

test("connects-and-is-told-what-the-server-can", async () => {
  const { serverProperties } = (await connect()).connection;
  for (const needed of ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "exchange_exchange_bindings", "per_consumer_qos", "authentication_failure_close"]) {
    assert.equal(serverProperties.capabilities[needed], true, needed);
  }
  assert.equal(serverProperties.product, "RabbitMQ");
  assert.match(serverProperties.version, /^\d+\.\d+\.\d+/);
});

test("connects-by-address", async () => {
  const connection = await amqp.connect(`amqp://guest:guest@${BOOTSTRAP}/%2F?heartbeat=30&frameMax=8192&channelMax=7&locale=en_US`);
  opened(connection);
  assert.deepEqual([connection.connection.heartbeat, connection.connection.frameMax, connection.connection.channelMax], [30, 8192, 7]);
  await (await connection.createChannel()).close();
});

test("limits-are-negotiated", async () => {
  const { frameMax, channelMax, heartbeat } = (await connect({}, { heartbeat: null })).connection;
  assert.deepEqual([frameMax, channelMax, heartbeat], [131072, 2047, 60]);
});

test("wrong-passwords-are-refused", async () => {
  await assert.rejects(connect({}, { username: "guest", password: "guess" }), /403.*ACCESS[_-]REFUSED.*Login was refused using authentication mechanism PLAIN/);
});

test("amqplain-and-unknown-mechanisms", async () => {
  const connection = await connect({ credentials: amqp.credentials.amqplain("guest", "guest") });
  await (await channelOf(connection)).close();
  await assert.rejects(connect({ credentials: { mechanism: "ODD", response: () => Buffer.from("") } }));
});

test("unknown-virtual-hosts-are-told", async () => {
  // It does not show the words.
  await assert.rejects(connect({}, { vhost: "nowhere" }), /Expected ConnectionOpenOk; got <ConnectionClose/);
});

test("small-frames-are-negotiated", async () => {
  const on = await channelOf(await connect({}, { frameMax: 4096 }));
  const key = await queue(on);
  const body = crypto.randomBytes(100_000);
  on.sendToQueue(key, body);
  assert((await on.get(key, { noAck: true })).content.equals(body));
});

test("heartbeats-keep-an-idle-connection", async () => {
  const connection = await connect({}, { heartbeat: 1 });
  await wait(4000);
  assert.equal(connection.failure, undefined);
  await (await channelOf(connection)).close();
});

test("secrets-are-updated", async () => {
  const connection = await connect();
  await connection.updateSecret(Buffer.from("guest"), "because");
  await (await channelOf(connection)).close();
});

test("many-channels-are-opened", async () => {
  const connection = await connect();
  const channels = await Promise.all([...Array(200)].map(() => channelOf(connection)));
  assert.equal(new Set(channels.map((each) => each.ch)).size, 200);
  await Promise.all(channels.map((each) => each.close()));
  assert.equal((await channelOf(connection)).ch, 1, "numbers are used again");
});

test("more-channels-than-agreed-are-refused", async () => {
  const connection = await connect({}, { channelMax: 2 });
  await channelOf(connection);
  await channelOf(connection);
  await assert.rejects(connection.createChannel(), /No channels left/);
});

test("callbacks-do-as-promises", async () => {
  const call = (on, method, ...given) => new Promise((done, fail) => on[method](...given, (error, value) => (error ? fail(error) : done(value))));
  const connection = await call(callbacks, "connect", `amqp://${BOOTSTRAP}`);
  opened({ close: () => call(connection, "close") });
  const on = await call(connection, "createConfirmChannel");
  const { queue: key } = await call(on, "assertQueue", "", { exclusive: true });
  await call(on, "publish", "", key, Buffer.from("a"), {});
  assert.equal(text(await call(on, "get", key, {})), "a");
});

// Publishing.

test("published-messages-are-got", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "one", "two");
  const { fields, content } = await on.get(key, { noAck: true });
  assert.deepEqual({ ...fields }, { deliveryTag: 1, redelivered: false, exchange: "", routingKey: key, messageCount: 1 });
  assert.equal(content.toString(), "one");
  assert.deepEqual(await take(on, key), ["two"]);
  assert.equal(await on.get(key), false);
});

test("publishes-are-confirmed", async () => {
  const on = await confirms();
  const key = await queue(on, { exclusive: false, durable: true });
  const done = [];
  for (let n = 0; n < 5000; n++) {
    on.sendToQueue(key, Buffer.from(`${n}`), { persistent: true }, (error) => done.push(error));
  }
  await on.waitForConfirms();
  assert.equal(done.length, 5000);
  assert(done.every((error) => error === null));
  assert.equal((await on.checkQueue(key)).messageCount, 5000);
  assert.equal((await on.deleteQueue(key)).messageCount, 5000);
});

test("publishes-to-nowhere-are-confirmed", async () => {
  const on = await confirms();
  on.sendToQueue(name("nowhere"), Buffer.from("dropped"));
  await on.waitForConfirms();
});

test("unroutable-mandatory-messages-come-back-before-their-confirm", async () => {
  const on = await confirms();
  const happened = [];
  on.on("return", (message) => happened.push(message));
  const key = name("nowhere");
  const body = crypto.randomBytes(200_000);
  on.publish("", key, body, { mandatory: true, headers: { a: 1 }, messageId: "m" }, () => happened.push("confirmed"));
  await on.waitForConfirms();
  assert.equal(happened[1], "confirmed");
  const { fields, properties, content } = happened[0];
  assert.deepEqual({ ...fields }, { replyCode: 312, replyText: "NO_ROUTE", exchange: "", routingKey: key });
  assert.deepEqual([properties.headers, properties.messageId], [{ a: 1 }, "m"]);
  assert(content.equals(body));
});

test("mandatory-messages-that-arrive-do-not-come-back", async () => {
  const on = await confirms();
  const key = await queue(on);
  on.on("return", () => assert.fail("came back"));
  on.sendToQueue(key, Buffer.from("a"), { mandatory: true });
  await on.waitForConfirms();
  assert.deepEqual(await take(on, key), ["a"]);
});

test("empty-and-large-bodies-survive", async () => {
  const on = await confirms();
  const key = await queue(on);
  for (const size of [0, 1, 131_064, 131_065, 1_000_000, 15_000_000]) {
    const body = crypto.randomBytes(size);
    on.sendToQueue(key, body);
    await on.waitForConfirms();
    assert((await on.get(key, { noAck: true })).content.equals(body), size);
  }
});

test("too-large-bodies-are-refused", async () => {
  if (OLD_RABBITMQ) return "its limit is 128 MiB";
  const on = await channel();
  // Opened first: amqplib gives a number out again while the rest of the body is still on its way out.
  const other = await channelOf(on.model);
  on.sendToQueue(await queue(on), Buffer.alloc(16_777_217));
  const error = await Promise.race([on.closed, wait(20_000)]);
  assert.equal(error.code, 406);
  assert(error.message.includes("PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216"), error.message);
  await other.close();
});

test("headers-of-every-type-come-back", async () => {
  const on = await channel();
  const key = await queue(on);
  const typed = (kind, value) => ({ "!": kind, value });
  const headers = {
    text: "grüße ☃",
    empty: "",
    long: "x".repeat(5000),
    bytes: Buffer.from([0, 255, 254]),
    yes: true,
    no: false,
    nothing: null,
    int8: -5,
    uint8: typed("uint8", 200),
    int16: -300,
    uint16: typed("uint16", 60_000),
    int32: -70_000,
    uint32: typed("uint32", 4_000_000_000),
    int64: -(2 ** 45),
    least: typed("int64", "-9223372036854775808"),
    float: typed("float", 0.5),
    double: 3.14159,
    decimal: typed("decimal", { places: 2, digits: 314 }),
    timestamp: typed("timestamp", 1_709_208_000),
    list: [1, "two", [3, []], { four: 5 }, null, true],
    table: { nested: { deeper: "value" }, nothing: {} },
    "ключ": "key",
  };
  on.sendToQueue(key, Buffer.from(""), { headers });
  const found = (await on.get(key, { noAck: true })).properties.headers;
  const expected = { ...headers, uint8: 200, uint16: 60_000, uint32: 4_000_000_000, least: -(2 ** 63), float: 0.5 };
  assert.deepEqual(found, expected);
  assert.deepEqual(Object.keys(found), Object.keys(headers), "in the same order");
});

test("all-properties-come-back", async () => {
  const on = await channel();
  const key = await queue(on);
  const sent = {
    contentType: "text/plain", contentEncoding: "utf-8", headers: {}, deliveryMode: 2, priority: 5,
    correlationId: "c".repeat(255), replyTo: "r", messageId: "m", timestamp: 1_700_000_000, type: "t", userId: "guest", appId: "a",
  };
  on.sendToQueue(key, Buffer.from(""), sent);
  const found = (await on.get(key, { noAck: true })).properties;
  assert.deepEqual({ ...found }, { ...sent, expiration: undefined, clusterId: undefined });
});

test("missing-properties-stay-missing", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a");
  const { headers, ...others } = (await on.get(key, { noAck: true })).properties;
  assert.deepEqual(headers, {});
  for (const [property, value] of Object.entries(others)) assert.equal(value, undefined, property);
});

test("a-foreign-user-id-is-refused", async () => {
  const on = await channel();
  const words = "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was 'guest'";
  await closes(on, 406, words, async () => on.sendToQueue(await queue(on), Buffer.from(""), { userId: "somebody" }));
});

test("copies-go-to-cc-and-bcc", async () => {
  const on = await channel();
  const keys = [await queue(on), await queue(on), await queue(on)];
  on.sendToQueue(keys[0], Buffer.from("body"), { CC: keys[1], BCC: [keys[2], keys[0]], headers: { x: 1 } });
  for (const key of keys) {
    const message = await on.get(key, { noAck: true });
    assert.deepEqual([text(message), message.properties.headers], ["body", { CC: [keys[1]], x: 1 }]);
    assert.equal(await on.get(key), false, "one copy");
  }
});

// Consuming.

test("consumed-messages-are-acknowledged", async () => {
  const on = await channel();
  const key = await queue(on);
  const sent = [...Array(100)].map((_, n) => `${n}`);
  send(on, key, ...sent);
  const found = await consumer(on, key);
  await until("100 messages", () => found.length === 100);
  assert.deepEqual(found.map(text), sent);
  assert.deepEqual(found.map(({ fields }) => fields.deliveryTag), sent.map((n) => Number(n) + 1));
  assert(found.every(({ fields }) => fields.consumerTag === found.tag && !fields.redelivered && fields.exchange === ""));
  on.ack(found[59], true);
  found.slice(60).forEach((message) => on.ack(message));
  assert.deepEqual(await on.checkQueue(key), { queue: key, messageCount: 0, consumerCount: 1 });
  await on.close();
  assert.equal(await (await channelOf(on.model)).get(key), false);
});

test("all-at-once-is-acknowledged", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b", "c");
  const found = await consumer(on, key);
  await until("all", () => found.length === 3);
  on.ackAll();
  await on.close();
  assert.equal(await (await channelOf(on.model)).get(key), false);
});

test("all-at-once-goes-back", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b", "c");
  for (let n = 0; n < 3; n++) await on.get(key);
  on.nackAll(true);
  assert.deepEqual(await take(on, key), ["a", "b", "c"]);
});

test("no-ack-consumers-settle-by-receiving", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b");
  const found = await consumer(on, key, { noAck: true });
  await until("both", () => found.length === 2);
  await on.close();
  assert.equal(await (await channelOf(on.model)).get(key), false);
});

test("requeued-messages-return-to-their-place", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b", "c", "d");
  const taken = [await on.get(key), await on.get(key), await on.get(key)];
  on.nack(taken[1], false, true);
  on.reject(taken[0], true);
  const found = [await on.get(key), await on.get(key), await on.get(key)];
  assert.deepEqual(found.map(text), ["a", "b", "d"]);
  assert.deepEqual(found.map(({ fields }) => fields.redelivered), [true, true, false]);
});

test("requeued-messages-reach-another-consumer", async () => {
  const on = await channel();
  const other = await channelOf(on.model);
  const key = await queue(on);
  await on.prefetch(1);
  const first = await consumer(on, key);
  send(on, key, "a");
  await until("the message", () => first.length === 1);
  const second = await consumer(other, key);
  await on.cancel(first.tag);
  on.nack(first[0]);
  await until("the other's", () => second.length === 1);
  assert.equal(second[0].fields.redelivered, true);
});

test("rejected-messages-are-dropped", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b", "c");
  const taken = [await on.get(key), await on.get(key), await on.get(key)];
  on.reject(taken[0], false);
  on.nack(taken[2], true, false);
  assert.equal(await on.get(key), false);
  assert.equal((await on.deleteQueue(key)).messageCount, 0);
});

test("recover-returns-everything", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b");
  assert.deepEqual([text(await on.get(key)), text(await on.get(key))], ["a", "b"]);
  await on.recover();
  const message = await on.get(key);
  assert.deepEqual([text(message), message.fields.redelivered, message.fields.deliveryTag], ["a", true, 3]);
});

test("prefetch-bounds-each-consumer", async () => {
  const on = await channel();
  const key = await queue(on);
  await on.prefetch(3);
  const first = await consumer(on, key);
  await on.prefetch(2);
  const second = await consumer(on, key);
  send(on, key, ..."abcdefghij");
  await until("five", () => first.length + second.length >= 5);
  await quiet();
  assert.deepEqual([first.length, second.length], [3, 2]);
  on.ack(first[1]);
  on.ack(first[0]);
  await until("two more", () => first.length >= 5);
  await quiet();
  assert.deepEqual([first.length, second.length], [5, 2]);
});

test("global-prefetch-bounds-the-channel", async () => {
  const on = await channel();
  const a = await queue(on);
  const b = await queue(on);
  await on.prefetch(3, true);
  const found = [];
  for (const key of [a, b]) await on.consume(key, (message) => found.push(message));
  send(on, a, ..."aaaaa");
  send(on, b, ..."bbbbb");
  for (let n = 3; n <= 10; n++) {
    await until(`${n} messages`, () => found.length >= n);
    await wait(50);
    assert.equal(found.length, n);
    on.ack(found[n - 3]);
  }
});

test("no-prefetch-is-no-bound", async () => {
  const on = await channel();
  const key = await queue(on);
  await on.prefetch(1);
  await on.prefetch(0);
  const found = await consumer(on, key);
  for (let n = 0; n < 3000; n++) send(on, key, "x");
  await until("all", () => found.length === 3000);
});

test("no-ack-consumers-have-no-prefetch", async () => {
  const on = await channel();
  const key = await queue(on);
  await on.prefetch(1);
  const found = await consumer(on, key, { noAck: true });
  send(on, key, ..."abcde");
  await until("all", () => found.length === 5);
});

test("consumers-take-turns", async () => {
  const on = await channel();
  const key = await queue(on);
  await on.prefetch(5);
  const found = [await consumer(on, key), await consumer(on, key)];
  send(on, key, ..."abcdefghij");
  await until("ten", () => found[0].length + found[1].length === 10);
  assert.deepEqual(found.map((each) => each.length), [5, 5]);
});

test("a-closed-channel-gives-back-what-it-had", async () => {
  const on = await channel();
  const key = await queue(on);
  send(on, key, "a", "b");
  const found = await consumer(on, key);
  await until("both", () => found.length === 2);
  await on.close();
  const again = await channelOf(on.model);
  const message = await again.get(key);
  assert.deepEqual([text(message), message.fields.redelivered], ["a", true]);
  assert.equal((await again.checkQueue(key)).consumerCount, 0);
});

test("a-closed-connection-gives-back-what-it-had", async () => {
  const on = await channel();
  const key = await queue(on, { exclusive: false });
  send(on, key, "a");
  assert.equal(text(await on.get(key)), "a");
  await on.model.close();
  const again = await channel();
  let message;
  await until("the message", async () => (message = await again.get(key)));
  assert.deepEqual([text(message), message.fields.redelivered], ["a", true]);
});

test("a-connection-cut-off-gives-back-what-it-had", async () => {
  const on = await channel();
  const key = await queue(on, { exclusive: false });
  send(on, key, "a");
  const found = await consumer(on, key);
  await until("the message", () => found.length === 1);
  on.connection.stream.destroy();
  const again = await channel();
  let message;
  await until("the message again", async () => (message = await again.get(key)));
  assert.deepEqual([text(message), message.fields.redelivered], ["a", true]);
});

test("cancelled-consumers-get-no-more", async () => {
  const on = await channel();
  const key = await queue(on);
  const found = await consumer(on, key, { consumerTag: "mine" });
  assert.equal(found.tag, "mine");
  send(on, key, "a");
  await until("one", () => found.length === 1);
  assert.deepEqual({ ...(await on.cancel("mine")) }, { consumerTag: "mine" });
  send(on, key, "b");
  await quiet();
  assert.equal(found.length, 1);
  assert.equal(text(await on.get(key)), "b");
  on.ack(found[0]);
  await on.cancel("never there");
});

test("server-made-consumer-tags", async () => {
  const on = await channel();
  const key = await queue(on);
  const [first, second] = [await consumer(on, key), await consumer(on, key)];
  assert.match(first.tag, /^amq\.ctag-/);
  assert.notEqual(first.tag, second.tag);
});

test("consumers-are-told-when-their-queue-is-deleted", async () => {
  const on = await channel();
  const key = await queue(on);
  const found = await consumer(on, key);
  await on.deleteQueue(key);
  await until("the cancel", () => found.length === 1);
  assert.equal(found[0], null);
  assert.equal((await on.assertQueue(key, { exclusive: true, durable: false })).consumerCount, 0);
});

test("consumers-elsewhere-are-told-too", async () => {
  const on = await channel();
  const key = await queue(on, { exclusive: false });
  const other = await channel();
  const found = await consumer(other, key);
  await on.deleteQueue(key);
  await until("the cancel", () => found.length === 1);
  assert.equal(found[0], null);
});

test("an-exclusive-consumer-is-alone", async () => {
  const on = await channel();
  const key = await queue(on);
  const { tag } = await consumer(on, key, { exclusive: true });
  const other = await channelOf(on.model);
  await closes(other, 403, `ACCESS_REFUSED - queue '${key}' in vhost '/' in exclusive use`, () => consumer(other, key));
  await on.cancel(tag);
  const third = await channelOf(on.model);
  await consumer(third, key);
  await closes(on, 403, "in exclusive use", () => consumer(on, key, { exclusive: true }));
});

test("consumer-tags-are-used-once", async () => {
  const on = await channel();
  const key = await queue(on);
  await consumer(on, key, { consumerTag: "t" });
  await connectionCloses(on, 530, "NOT_ALLOWED - attempt to reuse consumer tag 't'", () => consumer(on, key, { consumerTag: "t" }));
});

test("unknown-delivery-tags-close-the-channel", async () => {
  for (const method of ["ack", "nack", "reject"]) {
    const on = await channel();
    const key = await queue(on);
    send(on, key, "a");
    const message = await on.get(key);
    on.ack(message);
    await closes(on, 406, "PRECONDITION_FAILED - unknown delivery tag 1", () => on[method](message));
  }
});

test("what-was-taken-by-a-failed-channel-goes-back", async () => {
  const on = await channel();
  const other = await channelOf(on.model);
  const key = await queue(on);
  send(on, key, "a");
  await on.get(key);
  await closes(on, 404, "no queue", () => on.checkQueue(name("missing")));
  assert.equal(text(await other.get(key)), "a");
});

// Queues.

test("queues-are-declared-again", async () => {
  const on = await confirms();
  const key = await queue(on, { exclusive: false });
  send(on, key, "a");
  await on.waitForConfirms();
  assert.deepEqual(await on.assertQueue(key, { durable: false }), { queue: key, messageCount: 1, consumerCount: 0 });
  assert.deepEqual(await on.checkQueue(key), { queue: key, messageCount: 1, consumerCount: 0 });
});

test("server-named-queues-have-names-of-their-own", async () => {
  const on = await channel();
  const first = (await on.assertQueue("", { exclusive: true })).queue;
  const second = (await on.assertQueue("", { exclusive: true })).queue;
  assert.match(first, /^amq\.gen-/);
  assert.notEqual(first, second);
  send(on, first, "a");
  // No name is the queue that was declared last.
  const found = await consumer(on, "");
  send(on, second, "b");
  await until("the last one's", () => found.length === 1);
  assert.equal(text(found[0]), "b");
  assert.deepEqual(await take(on, first), ["a"]);
});

test("no-queue-was-declared-before", async () => {
  const on = await channel();
  await closes(on, 404, "NOT_FOUND - no previously declared queue", () => on.purgeQueue(""));
});

test("missing-queues-are-told", async () => {
  const missing = name("missing");
  for (const action of [
    (on) => on.checkQueue(missing),
    (on) => on.get(missing),
    (on) => consumer(on, missing),
    (on) => on.purgeQueue(missing),
    (on) => on.bindQueue(missing, "amq.direct", "k"),
  ]) {
    const on = await channel();
    await closes(on, 404, `NOT_FOUND - no queue '${missing}' in vhost '/'`, () => action(on));
  }
});

test("what-is-not-there-can-be-deleted-and-unbound", async () => {
  const on = await channel();
  assert.equal((await on.deleteQueue(name("missing"))).messageCount, 0);
  await on.deleteExchange(name("missing"));
  await on.unbindQueue(await queue(on), "amq.direct", "never bound");
});

test("queue-declarations-must-agree", async () => {
  const first = await channel();
  const key = await queue(first, { exclusive: false });
  for (const [option, argument] of [["durable", "durable"], ["autoDelete", "auto_delete"]]) {
    const on = await channel();
    const words = `PRECONDITION_FAILED - inequivalent arg '${argument}' for queue '${key}' in vhost '/': received 'true' but current is 'false'`;
    await closes(on, 406, words, () => on.assertQueue(key, { durable: false, [option]: true }));
  }
});

test("exclusive-queues-are-of-one-connection", async () => {
  const owner = await channel();
  const key = await queue(owner);
  const words = `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${key}' in vhost '/'`;
  for (const action of [
    (on) => on.checkQueue(key),
    (on) => on.assertQueue(key, { exclusive: true, durable: false }),
    (on) => on.deleteQueue(key),
    (on) => on.purgeQueue(key),
    (on) => on.get(key),
    (on) => consumer(on, key),
    (on) => on.bindQueue(key, "amq.direct", "k"),
  ]) {
    const on = await channel();
    await closes(on, 405, words, () => action(on));
  }
  // Anybody may publish to it.
  const other = await confirms();
  send(other, key, "a");
  await other.waitForConfirms();
  assert.deepEqual(await take(owner, key), ["a"]);
  await owner.model.close();
  await closes(other, 404, "no queue", () => other.checkQueue(key));
});

test("auto-delete-queues-go-with-their-last-consumer", async () => {
  const on = await channel();
  const key = await queue(on, { exclusive: false, autoDelete: true });
  const [first, second] = [await consumer(on, key), await consumer(on, key)];
  await on.cancel(first.tag);
  assert.equal((await on.checkQueue(key)).consumerCount, 1);
  await on.cancel(second.tag);
  await closes(on, 404, "no queue", () => on.checkQueue(key));
});

test("auto-delete-queues-go-with-their-consumers-channel", async () => {
  const on = await channel();
  const other = await channelOf(on.model);
  const key = await queue(on, { exclusive: false, autoDelete: true });
  await consumer(other, key);
  await other.close();
  await closes(on, 404, "no queue", () => on.checkQueue(key));
});

test("counts-are-told", async () => {
  const on = await confirms();
  const key = await queue(on, { exclusive: false });
  send(on, key, "a", "b", "c");
  await on.waitForConfirms();
  assert.equal((await on.purgeQueue(key)).messageCount, 3);
  send(on, key, "d");
  await on.waitForConfirms();
  const empty = await channelOf(on.model);
  await closes(empty, 406, `PRECONDITION_FAILED - queue '${key}' in vhost '/' not empty`, () => empty.deleteQueue(key, { ifEmpty: true }));
  const { tag } = await consumer(on, key);
  const unused = await channelOf(on.model);
  await closes(unused, 406, `PRECONDITION_FAILED - queue '${key}' in vhost '/' in use`, () => unused.deleteQueue(key, { ifUnused: true }));
  await on.cancel(tag);
  await on.recover();
  assert.equal((await on.deleteQueue(key, { ifUnused: true })).messageCount, 1);
});

test("purge-leaves-what-is-not-acknowledged", async () => {
  const on = await confirms();
  const key = await queue(on);
  send(on, key, "a", "b", "c");
  await on.waitForConfirms();
  const message = await on.get(key);
  assert.equal((await on.purgeQueue(key)).messageCount, 2);
  on.nack(message);
  assert.deepEqual(await take(on, key), ["a"]);
});

test("a-queue-of-the-same-name-is-another", async () => {
  const on = await channel();
  const key = await queue(on, { exclusive: false });
  send(on, key, "a");
  const message = await on.get(key);
  await on.deleteQueue(key);
  await on.assertQueue(key, { durable: false });
  on.nack(message);
  send(on, key, "b");
  assert.deepEqual(await take(on, key), ["b"]);
});

test("reserved-names-are-refused", async () => {
  for (const [words, action] of [
    ["ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", (on) => on.assertQueue("amq.mine")],
    ["ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'", (on) => on.assertExchange("amq.mine", "direct")],
    ["ACCESS_REFUSED - operation not permitted on the default exchange", (on) => on.assertExchange("", "direct")],
    ["ACCESS_REFUSED - operation not permitted on the default exchange", (on) => on.deleteExchange("")],
    ["ACCESS_REFUSED - operation not permitted on the default exchange", async (on) => on.bindQueue(await queue(on), "", "k")],
    ["ACCESS_REFUSED", (on) => on.deleteExchange("amq.direct")],
  ]) {
    const on = await channel();
    await closes(on, 403, words, () => action(on));
  }
});

// Exchanges.

test("direct-fanout-and-topic-exchanges-route", async () => {
  const on = await channel();
  for (const [kind, pattern, right, wrong] of [
    ["direct", "a.b", ["a.b"], ["a", "a.b.c"]],
    ["fanout", "ignored", ["a.b", ""], []],
    ["topic", "a.*.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c"]],
    ["topic", "a.#", ["a", "a.b", "a.b.c"], ["b.a", ""]],
    ["topic", "#.z", ["z", "a.z"], ["z.a"]],
    ["topic", "a.#.b.*", ["a.b.c", "a.x.b.c", "a.b.b.b"], ["a.b", "a.x.c"]],
    ["topic", "#", ["", "anything.at.all"], []],
  ]) {
    const made = await exchange(on, kind);
    const key = await queue(on);
    await on.bindQueue(key, made, pattern);
    for (const each of [...right, ...wrong]) on.publish(made, each, Buffer.from(each));
    assert.deepEqual(await take(on, key), right, `${kind} ${pattern}`);
  }
});

test("predeclared-exchanges-route", async () => {
  const on = await channel();
  for (const made of ["amq.direct", "amq.fanout", "amq.topic"]) {
    const key = await queue(on);
    await on.bindQueue(key, made, key);
    on.publish(made, key, Buffer.from(made));
    assert((await take(on, key)).includes(made), made);
  }
  for (const made of ["amq.headers", "amq.match", "amq.rabbitmq.trace"]) await on.checkExchange(made);
});

test("one-copy-for-a-queue-bound-twice", async () => {
  const on = await channel();
  const made = await exchange(on, "topic");
  const key = await queue(on);
  await on.bindQueue(key, made, "a.#");
  await on.bindQueue(key, made, "#.b");
  on.publish(made, "a.b", Buffer.from("once"));
  assert.deepEqual(await take(on, key), ["once"]);
  await on.unbindQueue(key, made, "a.#");
  on.publish(made, "a.c", Buffer.from("no"));
  on.publish(made, "a.b", Buffer.from("yes"));
  assert.deepEqual(await take(on, key), ["yes"]);
});

test("headers-exchanges-route", async () => {
  const on = await channel();
  const made = await exchange(on, "headers");
  const cases = [
    [{ "x-match": "all", a: 1, b: "two" }, [{ a: 1, b: "two", c: 3 }], [{ a: 1 }, { a: 1, b: "three" }, undefined]],
    [{ "x-match": "any", a: 1, b: "two" }, [{ a: 1 }, { b: "two" }], [{ a: 2 }, {}, undefined]],
    [{ a: 1 }, [{ a: 1 }], [{ b: 1 }]],
    [{ "x-match": "all", a: null }, [{ a: "whatever" }], [{ b: 1 }]],
  ];
  if (!OLD_RABBITMQ) cases.push([{ "x-match": "any-with-x", "x-a": 1 }, [{ "x-a": 1 }], [{ a: 1 }]]);
  for (const [bound, right, wrong] of cases) {
    const key = await queue(on);
    await on.bindQueue(key, made, "", bound);
    [...right, ...wrong].forEach((headers, n) => on.publish(made, "", Buffer.from(`${n}`), { headers }));
    assert.deepEqual(await take(on, key), right.map((_, n) => `${n}`), JSON.stringify(bound));
    await on.unbindQueue(key, made, "", bound);
    on.publish(made, "", Buffer.from("unbound"), { headers: right[0] });
    assert.deepEqual(await take(on, key), []);
  }
  const key = await queue(on);
  await closes(on, 406, "x-match", () => on.bindQueue(key, made, "", { "x-match": "some" }));
});

test("exchanges-are-bound-to-exchanges", async () => {
  const on = await channel();
  const [source, middle, target] = [await exchange(on, "topic"), await exchange(on, "fanout"), await exchange(on, "direct")];
  const key = await queue(on);
  await on.bindExchange(middle, source, "a.*");
  await on.bindExchange(target, middle, "");
  // A ring ends.
  await on.bindExchange(source, target, "a.b");
  await on.bindQueue(key, target, "a.b");
  on.publish(source, "a.b", Buffer.from("yes"));
  on.publish(source, "a.c", Buffer.from("no"));
  assert.deepEqual(await take(on, key), ["yes"]);
  await on.unbindExchange(middle, source, "a.*");
  on.publish(source, "a.b", Buffer.from("no"));
  assert.deepEqual(await take(on, key), []);
  on.publish(middle, "a.b", Buffer.from("yes"));
  assert.deepEqual(await take(on, key), ["yes"]);
});

test("alternate-exchanges-get-the-rest", async () => {
  const on = await confirms();
  const rest = await exchange(on, "fanout");
  const made = await exchange(on, "direct", { alternateExchange: rest });
  const [known, others] = [await queue(on), await queue(on)];
  await on.bindQueue(known, made, "known");
  await on.bindQueue(others, rest, "");
  on.on("return", () => assert.fail("came back"));
  for (const key of ["known", "unknown"]) on.publish(made, key, Buffer.from(key), { mandatory: true });
  await on.waitForConfirms();
  assert.deepEqual([await take(on, known), await take(on, others)], [["known"], ["unknown"]]);
  await closes(on, 406, "inequivalent arg 'alternate-exchange'", () => on.assertExchange(made, "direct", { durable: false }));
});

test("internal-exchanges-take-no-messages", async () => {
  const on = await channel();
  const made = await exchange(on, "fanout", { internal: true });
  const words = `ACCESS_REFUSED - cannot publish to internal exchange '${made}' in vhost '/'`;
  await closes(on, 403, words, () => on.publish(made, "", Buffer.from("")));
});

test("missing-exchanges-are-told", async () => {
  const missing = name("missing");
  for (const action of [
    (on) => on.checkExchange(missing),
    (on) => on.publish(missing, "k", Buffer.from("")),
    async (on) => on.bindQueue(await queue(on), missing, "k"),
    (on) => on.bindExchange("amq.fanout", missing, ""),
    (on) => on.bindExchange(missing, "amq.fanout", ""),
  ]) {
    const on = await channel();
    await closes(on, 404, `NOT_FOUND - no exchange '${missing}' in vhost '/'`, () => action(on));
  }
});

test("confirms-fail-when-the-channel-is-closed", async () => {
  const on = await confirms();
  let told;
  on.publish(name("missing"), "k", Buffer.from(""), {}, (error) => (told = error));
  await closes(on, 404, "no exchange", () => {});
  assert(told instanceof Error, String(told));
});

test("exchange-declarations-must-agree", async () => {
  const first = await channel();
  const made = await exchange(first, "direct");
  const on = await channel();
  const words = `PRECONDITION_FAILED - inequivalent arg 'type' for exchange '${made}' in vhost '/': received 'fanout' but current is 'direct'`;
  await closes(on, 406, words, () => on.assertExchange(made, "fanout", { durable: false }));
  for (const [option, argument] of [["durable", "durable"], ["autoDelete", "auto_delete"], ["internal", "internal"]]) {
    const other = await channel();
    const inequivalent = `inequivalent arg '${argument}' for exchange '${made}' in vhost '/': received 'true' but current is 'false'`;
    await closes(other, 406, inequivalent, () => other.assertExchange(made, "direct", { durable: false, [option]: true }));
  }
  await first.assertExchange(made, "direct", { durable: false });
  const key = await queue(first);
  await first.bindQueue(key, made, "k");
  const used = await channelOf(first.model);
  await closes(used, 406, `PRECONDITION_FAILED - exchange '${made}' in vhost '/' in use`, () => used.deleteExchange(made, { ifUnused: true }));
  await first.unbindQueue(key, made, "k");
  await first.deleteExchange(made, { ifUnused: true });
});

test("unknown-exchange-types-are-told", async () => {
  const on = await channel();
  const declare = () => on.assertExchange(name("x"), "odd");
  if (OLD_RABBITMQ) await connectionCloses(on, 503, "COMMAND_INVALID", declare);
  else await closes(on, 406, "PRECONDITION_FAILED - unknown exchange type 'odd'", declare);
});

test("auto-delete-exchanges-go-with-their-last-binding", async () => {
  const on = await channel();
  const made = await exchange(on, "direct", { autoDelete: true });
  const key = await queue(on);
  await on.bindQueue(key, made, "k");
  await on.deleteQueue(key);
  await closes(on, 404, "no exchange", () => on.checkExchange(made));
});

test("bindings-go-with-their-queue", async () => {
  const on = await channel();
  const made = await exchange(on, "fanout");
  const key = await queue(on, { exclusive: false });
  await on.bindQueue(key, made, "");
  await on.deleteQueue(key);
  await on.assertQueue(key, { durable: false });
  on.publish(made, "", Buffer.from("a"));
  assert.deepEqual(await take(on, key), []);
});

test("bindings-go-with-their-exchange", async () => {
  const on = await channel();
  const made = await exchange(on, "fanout");
  const key = await queue(on);
  await on.bindQueue(key, made, "");
  await on.deleteExchange(made);
  await on.assertExchange(made, "fanout", { durable: false });
  on.publish(made, "", Buffer.from("a"));
  assert.deepEqual(await take(on, key), []);
});

// Applications.

test("work-is-shared-and-every-message-is-worked-on-once", async () => {
  const key = await queue(await channel(), { exclusive: false, durable: true });
  const done = new Map();
  for (let n = 0; n < 4; n++) {
    const worker = await channel();
    await worker.prefetch(10);
    await worker.consume(key, (message) => {
      const id = text(message);
      // Every tenth is put back once.
      if (Number(id) % 10 === 0 && !message.fields.redelivered) return worker.nack(message);
      done.set(id, (done.get(id) || 0) + 1);
      worker.ack(message);
    });
  }
  const on = await confirms();
  for (let n = 0; n < 2000; n++) on.sendToQueue(key, Buffer.from(`${n}`), { persistent: true });
  await on.waitForConfirms();
  await until("all work", () => done.size === 2000, 30);
  await until("an empty queue", async () => (await on.checkQueue(key)).messageCount === 0);
  assert([...done.values()].every((times) => times === 1));
});

test("requests-are-answered", async () => {
  const server = await channel();
  const key = await queue(server);
  await server.consume(key, (message) => {
    const { replyTo, correlationId } = message.properties;
    server.sendToQueue(replyTo, Buffer.from(text(message).toUpperCase()), { correlationId });
    server.ack(message);
  });
  const client = await channel();
  const { queue: replyTo } = await client.assertQueue("", { exclusive: true });
  const answers = await consumer(client, replyTo, { noAck: true });
  for (const word of ["one", "two", "three"]) client.sendToQueue(key, Buffer.from(word), { replyTo, correlationId: word });
  await until("the answers", () => answers.length === 3);
  assert.deepEqual(answers.map((answer) => [answer.properties.correlationId, text(answer)]), [["one", "ONE"], ["two", "TWO"], ["three", "THREE"]]);
});

test("a-slow-reader-loses-nothing", async () => {
  const on = await channel();
  const key = await queue(on);
  const found = await consumer(on, key, { noAck: true });
  on.connection.stream.pause();
  const other = await confirms();
  const body = crypto.randomBytes(100_000);
  for (let n = 0; n < 300; n++) {
    body.writeUInt32BE(n);
    other.sendToQueue(key, Buffer.from(body));
  }
  await other.waitForConfirms();
  on.connection.stream.resume();
  await until("all", () => found.length === 300);
  found.forEach(({ content }, n) => assert.deepEqual([content.length, content.readUInt32BE()], [100_000, n]));
});

test("clients-recover-their-connection", async () => {
  const connection = await amqp.connect(`amqp://${BOOTSTRAP}`, {
    recovery: { initialDelay: 50, maxDelay: 200, setup: async () => {} },
  });
  opened(connection);
  connection.on("error", () => {});
  const again = new Promise((done) => connection.on("connect", done));
  const on = await connection.createChannel();
  const { queue: key } = await on.assertQueue("", { exclusive: true });
  await on.consume(key, () => {}, { consumerTag: "t" });
  // The broker closes it.
  await on.consume(key, () => {}, { consumerTag: "t" }).catch(() => {});
  await Promise.race([again, wait(20_000).then(() => assert.fail("no new connection"))]);
  await (await connection.createChannel()).close();
});

require("./features");
require("./broker");
main();
