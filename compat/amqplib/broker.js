// amqplib against a broker: what its operator decides and what happens to it. As pika's tests do.
"use strict";

const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const {
  OLD_RABBITMQ, amqp, channel, closes, confirms, connectionCloses, consumer, leave, manage, name, queue, quiet, take, test, text, until,
} = require("./harness");

// The program, for tests that fill its disk or kill it.
const { API, FERRYMQ } = process.env;
const DURABLE = { exclusive: false, durable: true };
const count = async (on, key) => (await on.checkQueue(key)).messageCount;
const publish = (on, to, key, body, properties = {}) =>
  new Promise((done) => on.publish(to, key, Buffer.from(body), properties, (refused) => done(!refused)));

test("hash-exchanges-spread-by-key", async () => {
  if (OLD_RABBITMQ) return "a plugin of RabbitMQ's that is not enabled";
  const on = await confirms();
  const hashed = name("hash");
  leave((cleaner) => cleaner.deleteExchange(hashed));
  await on.assertExchange(hashed, "x-consistent-hash", { durable: false });
  const queues = [await queue(on), await queue(on), await queue(on)];
  for (const [at, key] of queues.entries()) await on.bindQueue(key, hashed, at === 2 ? "2" : "1");
  const sent = Array.from({ length: 800 }, (_, n) => `key-${n % 400}`);
  await Promise.all(sent.map((key) => publish(on, hashed, key, key)));
  const found = [];
  for (const key of queues) found.push(await take(on, key));
  assert.deepEqual(found.flat().sort(), [...sent].sort());
  for (const [at, bodies] of found.entries()) {
    // Each key goes one way, both times; the third queue weighs as much as the others together.
    for (const other of found.filter((_, where) => where !== at)) assert(!bodies.some((body) => other.includes(body)));
    const [low, high] = at === 2 ? [260, 540] : [80, 330];
    assert(bodies.length > low && bodies.length < high, `${found.map((each) => each.length)}`);
  }
});

test("hash-exchanges-spread-by-header", async () => {
  if (OLD_RABBITMQ) return "a plugin of RabbitMQ's that is not enabled";
  const on = await confirms();
  const hashed = name("hash");
  leave((cleaner) => cleaner.deleteExchange(hashed));
  await on.assertExchange(hashed, "x-consistent-hash", { durable: false, arguments: { "hash-header": "who" } });
  const queues = [await queue(on), await queue(on)];
  for (const key of queues) await on.bindQueue(key, hashed, "1");
  for (let n = 0; n < 60; n++) await publish(on, hashed, `key-${n}`, `${n % 20}`, { headers: { who: `user-${n % 20}` } });
  const found = [];
  for (const key of queues) found.push(await take(on, key));
  assert(found.every((bodies) => bodies.length > 0) && found.flat().length === 60, `${found.map((each) => each.length)}`);
  assert(!found[0].some((body) => found[1].includes(body)));
  await closes(on, 406, "PRECONDITION_FAILED", () => on.bindQueue(queues[0], hashed, "heavy"));
});

test("operator-policies-bound-what-users-ask-for", async () => {
  if (!API) return "set API to the address of the management API";
  const on = await confirms();
  const key = await queue(on, { arguments: { "x-max-length": 5 } });
  const set = (what, definition) =>
    manage("PUT", `${what}/%2F/${key}`, { pattern: `^${key}$`, definition, "apply-to": "queues", priority: 1 });
  leave(() => manage("DELETE", `policies/%2F/${key}`).catch(() => {}));
  leave(() => manage("DELETE", `operator-policies/%2F/${key}`).catch(() => {}));
  for (let n = 0; n < 9; n++) await publish(on, "", key, `${n}`);
  assert.equal(await count(on, key), 5);
  // The lower of two limits holds, whoever set it.
  await set("operator-policies", { "max-length": 3 });
  await until("the operator's", async () => (await count(on, key)) === 3);
  await set("policies", { "max-length": 4, "message-ttl": 3600000 });
  await publish(on, "", key, "9");
  await quiet();
  assert.equal(await count(on, key), 3);
  await manage("DELETE", `operator-policies/%2F/${key}`);
  await until("the queue's own again", async () => (await publish(on, "", key, "more")) && (await count(on, key)) >= 4);
  for (let n = 0; n < 9; n++) await publish(on, "", key, "more");
  assert((await count(on, key)) <= 5);
});

test("names-lose-their-line-ends", async () => {
  const on = await channel();
  const plain = name("line");
  await on.assertQueue(`${plain}\r\n`, { exclusive: true });
  assert.equal((await on.checkQueue(plain)).queue, plain);
  await on.assertExchange(`${plain}\n`, "fanout", { autoDelete: true });
  await on.bindQueue(plain, plain, "");
  on.publish(plain, "", Buffer.from("through"));
  await until("the message", async () => (await count(on, plain)) === 1);
});

test("a-quorum-queue-knows-no-global-prefetch", async () => {
  const on = await channel();
  const key = await queue(on, { ...DURABLE, arguments: { "x-queue-type": "quorum" } });
  const found = await consumer(on, key);
  await on.prefetch(1, true);
  for (const body of ["a", "b", "c"]) on.sendToQueue(key, Buffer.from(body));
  await until("all", () => found.length === 3);
  found.forEach((message) => on.ack(message));
  const other = await channel();
  await other.prefetch(1, true);
  const told = `NOT_IMPLEMENTED - queue '${key}' in vhost '/' does not support global qos`;
  await connectionCloses(other, 540, told, () => other.consume(key, () => {}));
});

// A broker of their own.

const free = () =>
  new Promise((done) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

async function started(home, port, ...more) {
  const words = ["serve", "--data-dir", `${home}/data`, "--kafka-listen", "127.0.0.1:0", "--http-listen", "off"];
  const broker = spawn(FERRYMQ, [...words, "--amqp-listen", `127.0.0.1:${port}`, ...more], { stdio: "ignore" });
  broker.ended = new Promise((done) => broker.on("exit", done));
  const address = `amqp://guest:guest@127.0.0.1:${port}/?heartbeat=0`;
  let model = null;
  await until("it listens", async () => (model = await amqp.connect(address, { noDelay: true }).catch(() => null)));
  model.on("error", () => {});
  return { broker, model, kill: () => (broker.kill("SIGKILL"), broker.ended) };
}

test("what-was-confirmed-survives-a-kill", async () => {
  if (!FERRYMQ) return "set FERRYMQ to the program to be killed and started again";
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "amqplib-"));
  const port = await free();
  let running = await started(home, port);
  try {
    const on = await running.model.createConfirmChannel();
    on.on("error", () => {});
    const keys = { classic: {}, quorum: { arguments: { "x-queue-type": "quorum" } } };
    for (const [key, options] of Object.entries(keys)) await on.assertQueue(key, { durable: true, ...options });
    const confirmed = { classic: new Set(), quorum: new Set() };
    const killed = { yes: false };
    const publishing = Object.keys(keys).map(async (key) => {
      for (let n = 0; !killed.yes; n++) {
        const sent = new Promise((done) => on.sendToQueue(key, Buffer.from(`${n}`), { persistent: true }, (refused) => done(!refused)));
        if (!(await Promise.race([sent, running.broker.ended.then(() => false)]))) return;
        confirmed[key].add(`${n}`);
      }
    });
    await until("some are confirmed", () => confirmed.classic.size > 200 && confirmed.quorum.size > 200);
    await running.kill();
    killed.yes = true;
    await Promise.all(publishing);
    running = await started(home, port);
    const after = await running.model.createChannel();
    for (const [key, expected] of Object.entries(confirmed)) {
      const found = await take(after, key);
      assert.deepEqual([...found].sort((a, b) => a - b), found, "in order");
      assert.equal(new Set(found).size, found.length, "once each");
      assert.deepEqual([...expected].filter((body) => !found.includes(body)), []);
    }
  } finally {
    await running.kill();
    fs.rmSync(home, { recursive: true });
  }
});

test("publishers-are-held-back-while-the-disk-is-full", async () => {
  if (!FERRYMQ) return "set FERRYMQ to the program to be given a small disk";
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "amqplib-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=96m", "tmpfs", home], { stdio: "ignore" });
  } catch {
    fs.rmdirSync(home);
    return "a small disk takes root";
  }
  let running = null;
  try {
    running = await started(home, await free(), "--wal-file-bytes", `${4 << 20}`, "--disk-reserve-bytes", `${8 << 20}`);
    const { model } = running;
    const told = [];
    model.on("blocked", (reason) => told.push(reason));
    model.on("unblocked", () => told.push("unblocked"));
    const on = await model.createChannel();
    await on.assertQueue("q", { durable: true });
    const body = Buffer.alloc(1 << 18, "x");
    let sent = 0;
    await until("it is full", async () => {
      if (told.length === 0) on.sendToQueue("q", body, { persistent: true });
      sent += 1;
      return told.length > 0;
    }, 40);
    assert.deepEqual(told, ["low on disk"]);
    // Who only consumes goes on, and what it takes makes room.
    const other = await amqp.connect({ hostname: "127.0.0.1", port: running.model.connection.stream.remotePort }, { noDelay: true });
    other.on("error", () => {});
    const taking = await other.createChannel();
    let taken = 0;
    await until("room again", async () => {
      for (let message; !told.includes("unblocked") && (message = await taking.get("q")); taken++) taking.ack(message);
      return told.includes("unblocked");
    }, 40);
    assert(taken > 0 && taken <= sent);
    on.sendToQueue("q", Buffer.from("last"), { persistent: true });
    let last = null;
    await until("the last", async () => {
      const message = await taking.get("q", { noAck: true });
      last = text(message) || last;
      return last === "last";
    });
  } finally {
    if (running) await running.kill();
    execFileSync("umount", [home]);
    fs.rmdirSync(home);
  }
});
