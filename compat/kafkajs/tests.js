// kafkajs against a broker: producer, consumer groups, admin.
"use strict";

const assert = require("node:assert/strict");
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require("kafkajs");
const SnappyCodec = require("kafkajs-snappy");

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec;

const { BOOTSTRAP, RUN } = process.env;
const tests = [];
let names = 0;
const test = (title, body) => tests.push({ title, body });
const name = (stem) => `${RUN}-${stem}-${++names}`;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// Whatever a test opens is closed behind it, also when it fails.
let open = [];
const kafka = new Kafka({
  clientId: "compat",
  brokers: [BOOTSTRAP],
  logLevel: logLevel.NOTHING,
  retry: { retries: 5, initialRetryTime: 50 },
});
async function opened(client) {
  await client.connect();
  open.push(client);
  return client;
}
const admin = () => opened(kafka.admin());
const producer = (settings) => opened(kafka.producer({ allowAutoTopicCreation: false, ...settings }));
const consumer = (groupId, settings) =>
  opened(kafka.consumer({ groupId, sessionTimeout: 10000, heartbeatInterval: 500, rebalanceTimeout: 10000, maxWaitTimeInMs: 500, ...settings }));

async function until(what, condition, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    assert(Date.now() < end, `not within ${seconds} s: ${what}`);
    await wait(50);
  }
}

async function topic(stem, numPartitions = 1, configs = {}) {
  const made = name(stem);
  const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }));
  const client = await admin();
  await client.createTopics({ waitForLeaders: true, topics: [{ topic: made, numPartitions, configEntries }] });
  return made;
}

async function send(made, values, settings = {}) {
  const client = await producer(settings.producer);
  return client.send({
    topic: made,
    acks: -1,
    ...settings.send,
    messages: values.map((value) => ({ value, partition: 0 })),
  });
}

async function read(made, count, settings = {}) {
  const client = await consumer(settings.group ?? name("group"), settings.consumer);
  await client.subscribe({ topics: [made], fromBeginning: true });
  const found = [];
  await client.run({
    ...settings.run,
    eachMessage: async ({ partition, message }) => {
      found.push({ partition, ...message, text: message.value && message.value.toString() });
    },
  });
  await until(`${count} messages`, () => found.length >= count, 30);
  await client.disconnect();
  return found;
}

test("create-describe-delete-topic", async () => {
  const client = await admin();
  const made = await topic("life", 3);
  assert((await client.listTopics()).includes(made));
  const found = (await client.fetchTopicMetadata({ topics: [made] })).topics[0];
  assert.equal(found.partitions.length, 3);
  assert(found.partitions.every((partition) => partition.leader === 1));
  assert.equal(await client.createTopics({ topics: [{ topic: made }] }), false, "created twice");
  await client.createPartitions({ topicPartitions: [{ topic: made, count: 5 }] });
  await until("five partitions", async () => {
    return (await client.fetchTopicMetadata({ topics: [made] })).topics[0].partitions.length === 5;
  });
  await client.deleteTopics({ topics: [made] });
  await until("the topic is gone", async () => !(await client.listTopics()).includes(made));
});

test("cluster", async () => {
  const found = await (await admin()).describeCluster();
  assert.equal(found.brokers.length, 1);
  assert.equal(found.controller, 1);
  assert(found.clusterId);
});

test("configs", async () => {
  const client = await admin();
  const made = await topic("configs", 1, { "retention.ms": "3600000" });
  const resource = { type: ConfigResourceTypes.TOPIC, name: made };
  const value = async (key) => {
    const found = await client.describeConfigs({ resources: [resource], includeSynonyms: false });
    return found.resources[0].configEntries.find((entry) => entry.configName === key).configValue;
  };
  assert.equal(await value("retention.ms"), "3600000");
  await client.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: "retention.ms", value: "60000" }] }] });
  await until("the new value", async () => (await value("retention.ms")) === "60000");
});

test("topic-offsets", async () => {
  const client = await admin();
  const made = await topic("offsets");
  const producing = await producer();
  const messages = [0, 1, 2, 3].map((n) => ({ value: `${n}`, timestamp: `${1700000000000 + n * 1000}` }));
  await producing.send({ topic: made, messages });
  assert.deepEqual(await client.fetchTopicOffsets(made), [{ partition: 0, offset: "4", high: "4", low: "0" }]);
  const found = await client.fetchTopicOffsetsByTimestamp(made, 1700000001500);
  assert.deepEqual(found, [{ partition: 0, offset: "2" }]);
  await client.deleteTopicRecords({ topic: made, partitions: [{ partition: 0, offset: "3" }] });
  assert.deepEqual(await client.fetchTopicOffsets(made), [{ partition: 0, offset: "4", high: "4", low: "3" }]);
});

test("produce-consume", async () => {
  const made = await topic("basic");
  const sent = Array.from({ length: 2000 }, (_, n) => `message ${n}`);
  const [report] = await send(made, sent);
  assert.equal(report.baseOffset, "0");
  assert.deepEqual((await read(made, sent.length)).map((message) => message.text), sent);
});

test("acks-0-and-1", async () => {
  const made = await topic("acks");
  await send(made, ["one"], { send: { acks: 1 } });
  await send(made, ["none"], { send: { acks: 0 } });
  assert.deepEqual((await read(made, 2)).map((message) => message.text), ["one", "none"]);
});

test("idempotent-producer", async () => {
  const made = await topic("idempotent");
  const client = await producer({ idempotent: true, maxInFlightRequests: 1 });
  for (let n = 0; n < 50; n++) {
    await client.send({ topic: made, messages: [{ value: `${n}` }] });
  }
  assert.deepEqual((await read(made, 50)).map((message) => message.text), Array.from({ length: 50 }, (_, n) => `${n}`));
});

test("keys-headers-tombstones", async () => {
  const made = await topic("parts");
  const client = await producer();
  await client.send({ topic: made, messages: [{ key: "k", value: "v", headers: { a: "1" }, timestamp: "1600000000123" }] });
  await client.send({ topic: made, messages: [{ key: "gone", value: null }] });
  const [first, second] = await read(made, 2);
  assert.equal(first.key.toString(), "k");
  assert.equal(first.headers.a.toString(), "1");
  assert.equal(first.timestamp, "1600000000123");
  assert.equal(second.value, null);
});

for (const [codec, type] of [["gzip", CompressionTypes.GZIP], ["snappy", CompressionTypes.Snappy]]) {
  test(`compression-${codec}`, async () => {
    const made = await topic(codec);
    const sent = Array.from({ length: 1000 }, (_, n) => `${n} ` + "compressible ".repeat(20));
    await send(made, sent, { send: { compression: type } });
    assert.deepEqual((await read(made, sent.length)).map((message) => message.text), sent);
  });
}

test("batch-of-many-partitions", async () => {
  const made = await topic("wide", 8);
  const client = await producer();
  const messages = Array.from({ length: 800 }, (_, n) => ({ value: `${n}`, partition: n % 8 }));
  const reports = await client.sendBatch({ topicMessages: [{ topic: made, messages }] });
  assert.equal(reports.length, 8);
  const found = await read(made, 800);
  for (let partition = 0; partition < 8; partition++) {
    const offsets = found.filter((message) => message.partition === partition).map((message) => Number(message.offset));
    assert.deepEqual(offsets, Array.from({ length: 100 }, (_, n) => n));
  }
});

test("too-large-is-refused", async () => {
  const made = await topic("small", 1, { "max.message.bytes": "2000" });
  await assert.rejects(send(made, ["x".repeat(5000)]), /larger than the max|MESSAGE_TOO_LARGE|included a message larger/i);
});

test("unknown-topic-is-told", async () => {
  await assert.rejects(send(name("missing"), ["x"], { producer: { retry: { retries: 1 } } }), /does not host|UNKNOWN/i);
});

test("group-of-two-rebalances", async () => {
  const made = await topic("shared", 4);
  const group = name("group");
  const owned = new Map();
  const member = async (id) => {
    const client = await consumer(group);
    client.on(client.events.GROUP_JOIN, ({ payload }) => owned.set(id, (payload.memberAssignment[made] || []).length));
    await client.subscribe({ topics: [made], fromBeginning: true });
    await client.run({ eachMessage: async () => {} });
    return client;
  };
  const sizes = () => [...owned.values()].join();
  const one = await member("one");
  await until("all partitions at one", () => sizes() === "4");
  const two = await member("two");
  await until("two partitions each", () => sizes() === "2,2", 30);
  await two.disconnect();
  owned.delete("two");
  await until("all partitions at one again", () => sizes() === "4", 30);
  await one.disconnect();
});

test("commit-and-go-on", async () => {
  const made = await topic("commit");
  const group = name("group");
  await send(made, ["0", "1", "2", "3", "4"]);
  const client = await consumer(group);
  await client.subscribe({ topics: [made], fromBeginning: true });
  let seen = 0;
  await client.run({ autoCommit: false, eachMessage: async () => void seen++ });
  await until("five messages", () => seen === 5);
  await client.commitOffsets([{ topic: made, partition: 0, offset: "3", metadata: "so far" }]);
  await client.disconnect();
  const asker = await admin();
  const [found] = await asker.fetchOffsets({ groupId: group, topics: [made] });
  assert.deepEqual(found.partitions, [{ partition: 0, offset: "3", metadata: "so far" }]);
  assert.deepEqual((await read(made, 2, { group })).map((message) => message.text), ["3", "4"]);
});

test("seek-and-pause", async () => {
  const made = await topic("seek");
  await send(made, ["0", "1", "2", "3"]);
  const client = await consumer(name("group"));
  await client.subscribe({ topics: [made], fromBeginning: true });
  const found = [];
  await client.run({ eachMessage: async ({ message }) => void found.push(message.value.toString()) });
  await until("four messages", () => found.length === 4);
  client.pause([{ topic: made }]);
  client.seek({ topic: made, partition: 0, offset: "2" });
  client.resume([{ topic: made }]);
  await until("two messages again", () => found.length === 6);
  assert.deepEqual(found.slice(4), ["2", "3"]);
});

test("groups-are-listed-described-deleted", async () => {
  const made = await topic("grouped");
  const group = name("group");
  const client = await consumer(group);
  await client.subscribe({ topics: [made] });
  await client.run({ eachMessage: async () => {} });
  const asker = await admin();
  const state = async () => (await asker.describeGroups([group])).groups[0].state;
  await until("a stable group", async () => (await state()) === "Stable");
  assert((await asker.listGroups()).groups.some((found) => found.groupId === group));
  await client.disconnect();
  await until("an empty group", async () => (await state()) === "Empty");
  await asker.deleteGroups([group]);
  assert(!(await asker.listGroups()).groups.some((found) => found.groupId === group));
});

test("reset-offsets", async () => {
  const made = await topic("reset");
  const group = name("group");
  await send(made, ["0", "1"]);
  await read(made, 2, { group });
  const asker = await admin();
  await asker.resetOffsets({ groupId: group, topic: made, earliest: true });
  assert.deepEqual((await read(made, 2, { group })).map((message) => message.text), ["0", "1"]);
});

test("reassignments-are-listed", async () => {
  const found = await (await admin()).listPartitionReassignments({});
  assert.deepEqual(found.topics, []);
});

async function main() {
  console.log(`kafkajs against ${BOOTSTRAP}, run ${RUN}`);
  const only = process.argv.slice(2);
  for (const { title, body } of tests) {
    if (only.length > 0 && !only.includes(title)) continue;
    let timer;
    const late = new Promise((_, fail) => (timer = setTimeout(() => fail(new Error("not done within 60 s")), 60000)));
    try {
      await Promise.race([body(), late]);
      console.log(`ok ${title}`);
    } catch (error) {
      const line = /tests\.js:(\d+)/.exec(error.stack || "");
      const what = String(error.message).replace(/\s+/g, " ").slice(0, 300);
      console.log(`not ok ${title}: line ${line ? line[1] : 0}: ${error.type || error.name} ${what}`);
    } finally {
      clearTimeout(timer);
      await Promise.allSettled(open.map((client) => client.disconnect()));
      open = [];
    }
  }
  console.log("done");
  process.exit(0);
}

main();
