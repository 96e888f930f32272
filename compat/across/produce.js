// Produces tasks of Celery with kafkajs: records with the headers by which they are AMQP messages with properties.
"use strict";

const { Kafka } = require("kafkajs");
const [topic, count] = process.argv.slice(2);

async function main() {
  const producer = new Kafka({ brokers: [process.env.BOOTSTRAP], logLevel: 1 }).producer();
  await producer.connect();
  const messages = Array.from({ length: Number(count) }, (_, n) => {
    const id = `task-${n}`;
    return {
      key: id,
      value: JSON.stringify([[n, 1], {}, {}]),
      headers: {
        // What AMQP has besides comes last; a key is told as a header, too.
        lang: "js", task: "add", id, root_id: id, "x-kafka-key": id,
        "amqp.content_type": "application/json", "amqp.content_encoding": "utf-8", "amqp.correlation_id": id,
      },
    };
  });
  await producer.send({ topic, messages });
  await producer.disconnect();
}

main();
