// What the tests of amqplib share: connections that are closed behind them, waiting, and the lines that are judged.
"use strict";

const assert = require("node:assert/strict");
const amqp = require("amqplib");

// API: HOST:PORT of the management API.
const { API, BOOTSTRAP, RUN } = process.env;
const [HOST, PORT] = BOOTSTRAP.split(":");
// RabbitMQ before 4.3, which the tests were written against, has other codes here and there.
const OLD_RABBITMQ = process.env.COMPAT_PEER === "rabbitmq";
const tests = [];
let names = 0;
const test = (title, body) => tests.push({ title, body });
const name = (stem) => `${RUN}-${stem}-${++names}`;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const text = (message) => message && message.content.toString();

// Whatever a test opens is closed behind it, also when it fails; what it leaves behind is deleted.
let open = [];
let left = [];
async function connect(options = {}, url = {}) {
  const settings = { noDelay: true, ...options };
  const connection = await amqp.connect({ hostname: HOST, port: Number(PORT), heartbeat: 0, ...url }, settings);
  connection.on("error", (error) => (connection.failure = error));
  open.push(connection);
  return connection;
}
// A channel remembers the connection that it is of and the error that it was closed with.
function watched(model, channel) {
  channel.model = model;
  channel.closed = new Promise((done) => {
    channel.on("error", done);
    channel.on("close", () => setImmediate(done, null));
  });
  return channel;
}
const channelOf = async (connection) => watched(connection, await connection.createChannel());
const confirmsOf = async (connection) => watched(connection, await connection.createConfirmChannel());
const channel = async () => channelOf(await connect());
const confirms = async () => confirmsOf(await connect());

async function queue(on, options = {}) {
  const made = name("q");
  if (options.exclusive === false) left.push((cleaner) => cleaner.deleteQueue(made));
  return (await on.assertQueue(made, { exclusive: true, durable: false, ...options })).queue;
}
async function exchange(on, type, options = {}) {
  const made = name("x");
  left.push((cleaner) => cleaner.deleteExchange(made));
  await on.assertExchange(made, type, { durable: false, ...options });
  return made;
}
// RabbitMQ may count without what was just sent, unless it is confirmed.
const send = (on, key, ...bodies) => bodies.forEach((body) => on.sendToQueue(key, Buffer.from(body)));

async function take(on, key) {
  const found = [];
  for (let message; (message = await on.get(key)); ) {
    found.push(text(message));
    on.ack(message);
  }
  return found;
}

async function until(what, condition, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    assert(Date.now() < end, `not within ${seconds} s: ${what}`);
    await wait(20);
  }
}
// Lets whatever is on its way arrive.
const quiet = () => wait(300);

// Consumes into a list of messages.
async function consumer(on, key, options) {
  const found = [];
  const { consumerTag } = await on.consume(key, (message) => found.push(message), options);
  found.tag = consumerTag;
  return found;
}

// The channel is closed with this code and these words; its connection and other channels go on.
async function closes(on, code, words, action) {
  let refused = null;
  try {
    await action();
  } catch (error) {
    refused = error;
  }
  const late = wait(20_000).then(() => assert.fail(`nothing was closed, expected ${code} ${words}`));
  const error = (await Promise.race([on.closed, late])) || refused;
  assert(error, `nothing was refused, expected ${code} ${words}`);
  assert.equal(error.code, code, error.message);
  assert(error.message.includes(words), error.message);
  await (await channelOf(on.model)).close();
}

// The whole connection is closed with this code and these words.
async function connectionCloses(on, code, words, action) {
  const model = on.model;
  const closed = new Promise((done) => model.on("close", done));
  await Promise.resolve(action()).catch(() => {});
  await Promise.race([closed, wait(20_000)]);
  assert(model.failure, `nothing was closed, expected ${code} ${words}`);
  assert.equal(model.failure.code, code, model.failure.message);
  assert(model.failure.message.includes(words), model.failure.message);
}

// Asks the management API, for policies and virtual hosts.
async function manage(method, path, body) {
  const headers = { authorization: `Basic ${btoa("guest:guest")}`, "content-type": "application/json" };
  const answer = await fetch(`http://${API}/api/${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert(answer.ok, `${method} ${path}: ${answer.status} ${await answer.text()}`);
}

async function main() {
  console.log(`amqplib against ${BOOTSTRAP}, run ${RUN}`);
  const only = process.argv.slice(2);
  for (const { title, body } of tests) {
    if (only.length > 0 && !only.includes(title)) continue;
    let timer;
    const began = Date.now();
    const late = new Promise((_, fail) => (timer = setTimeout(() => fail(new Error("not done within 60 s")), 60_000)));
    try {
      const why = await Promise.race([body(), late]);
      if (process.env.TIMES) console.error(`${Date.now() - began} ms`);
      console.log(why ? `skip ${title}: ${why}` : `ok ${title}`);
    } catch (error) {
      const line = /(?:tests|features|broker)\.js:(\d+)/.exec(error.stack || "");
      const what = String(error.message).replace(/\s+/g, " ").slice(0, 300);
      console.log(`not ok ${title}: line ${line ? line[1] : 0}: ${error.name} ${what}`);
    } finally {
      clearTimeout(timer);
      await tidy();
    }
  }
  console.log("done");
  process.exit(0);
}

async function tidy() {
  await Promise.allSettled(open.map((connection) => Promise.race([connection.close(), wait(5000)])));
  open = [];
  if (left.length > 0) {
    const cleaner = await channel();
    for (const remove of left) await remove(cleaner).catch(() => {});
    await open[0].close();
  }
  left = [];
  open = [];
}

module.exports = {
  BOOTSTRAP, HOST, OLD_RABBITMQ, PORT, RUN,
  amqp, channel, channelOf, closes, confirms, confirmsOf, connect, connectionCloses, consumer, exchange, main, manage, name, queue, quiet, send,
  take, test, text, until, wait, watched,
  leave: (remove) => left.push(remove),
  opened: (connection) => open.push(connection),
};
