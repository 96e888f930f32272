#!/usr/bin/env python3
"""Two users in PostgreSQL, and messages between them in the same transactions.

    greet.py POSTGRES_URL [KAFKA_HOST:PORT [AMQP_HOST:PORT]]

The broker is `ferrymq serve --store` on the same database. Ends with 0 when both consumers received exactly what was
committed, in order.
"""

import sys
import time
import uuid

import confluent_kafka
import confluent_kafka.admin
import pika
import psycopg
import psycopg.types.json

SQL = sys.argv[1]
KAFKA = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9092"
AMQP = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1:5672"
PATIENCE_SECONDS = 30


def make_users(connection):
    with connection.transaction():
        connection.execute("CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY, greeted int NOT NULL, last text)")
        connection.execute("INSERT INTO users VALUES ('A', 0, NULL), ('B', 0, NULL) ON CONFLICT DO NOTHING")


def greet(connection, sender, receiver, words):
    """Updates the sender's data and tells the receiver, over both doors, or none of it."""
    connection.execute("UPDATE users SET greeted = greeted + 1, last = %s WHERE name = %s", (words, sender))
    connection.execute(
        "SELECT ferrymq.publish('greetings', %s, key => %s, headers => %s)",
        (words, receiver, psycopg.types.json.Jsonb({"from": sender})))
    connection.execute(
        "SELECT ferrymq.publish_to_exchange('greetings', %s, %s, properties => %s)",
        (f"user.{receiver}", words, psycopg.types.json.Jsonb({"content_type": "text/plain", "headers": {"from": sender}})))


def amqp_consumer():
    """A queue of all greetings, and the channel that reads it."""
    host, _, port = AMQP.rpartition(":")
    channel = pika.BlockingConnection(pika.ConnectionParameters(host, int(port))).channel()
    channel.exchange_declare("greetings", "topic", durable=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "greetings", "user.*")
    return channel, queue


def kafka_consumer():
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": KAFKA, "group.id": f"greetings-{uuid.uuid4()}", "auto.offset.reset": "latest"})
    assigned = []
    consumer.subscribe(["greetings"], on_assign=lambda _, partitions: assigned.extend(partitions))
    until = time.monotonic() + PATIENCE_SECONDS
    while not assigned and time.monotonic() < until:
        consumer.poll(0.1)
    for partition in assigned:
        # What is published from now on.
        _, end = consumer.get_watermark_offsets(partition)
        consumer.seek(confluent_kafka.TopicPartition(partition.topic, partition.partition, end))
    return consumer


def received_over_amqp(channel, queue, count):
    received = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=PATIENCE_SECONDS):
        if method is None:
            break
        channel.basic_ack(method.delivery_tag)
        received.append((properties.headers["from"], method.routing_key.removeprefix("user."), body.decode()))
        if len(received) == count:
            break
    return received


def received_over_kafka(consumer, count):
    received = []
    until = time.monotonic() + PATIENCE_SECONDS
    while len(received) < count and time.monotonic() < until:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            headers = dict(message.headers() or [])
            received.append((headers["from"].decode(), message.key().decode(), message.value().decode()))
    return received


def main():
    connection = psycopg.connect(SQL, autocommit=True)
    make_users(connection)
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": KAFKA})
    if "greetings" not in admin.list_topics(timeout=10).topics:
        admin.create_topics([confluent_kafka.admin.NewTopic("greetings", 1)])["greetings"].result()
    (channel, queue), consumer = amqp_consumer(), kafka_consumer()

    with connection.transaction():
        greet(connection, "A", "B", "你好")
    try:
        with connection.transaction():
            greet(connection, "A", "B", "never mind")
            raise RuntimeError("something went wrong: nothing of this happened")
    except RuntimeError as error:
        print(f"rolled back: {error}")
    with connection.transaction():
        greet(connection, "B", "A", "再见")

    expected = [("A", "B", "你好"), ("B", "A", "再见")]
    over_amqp, over_kafka = received_over_amqp(channel, queue, 2), received_over_kafka(consumer, 2)
    consumer.close()
    for door, received in (("AMQP", over_amqp), ("Kafka", over_kafka)):
        for sender, receiver, words in received:
            print(f"over {door}: {sender} to {receiver}: {words}")
    for name, greeted, last in connection.execute("SELECT name, greeted, last FROM users ORDER BY name"):
        print(f"in PostgreSQL: {name} greeted {greeted} times, last with {last}")
    sys.exit(0 if over_amqp == expected and over_kafka == expected else 1)


main()
