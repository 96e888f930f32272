"""Publishing in a transaction with psycopg: the example, and what a client sees of each property and header."""

import os
import pathlib
import subprocess
import sys

import pika
import psycopg
from confluent_kafka import Consumer, TopicPartition
from harness import BOOTSTRAP, eventually, main, name, test
from psycopg.types.json import Jsonb

ROOT = pathlib.Path(__file__).resolve().parents[2]
SQL, AMQP = os.environ["SQL"], os.environ["AMQP"]
HOST, PORT = AMQP.rsplit(":", 1)


def database():
    return psycopg.connect(SQL, autocommit=True)


def channel():
    return pika.BlockingConnection(pika.ConnectionParameters(HOST, int(PORT))).channel()


def records(topic, count):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": name("g"), "enable.auto.commit": False,
                         "allow.auto.create.topics": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []

    def enough():
        found.extend(message for message in consumer.consume(1000, 0.5) if message.error() is None)
        return len(found) >= count

    eventually(f"{count} records", enough)
    consumer.close()
    return found


@test
def the_example_runs():
    example = ROOT / "examples" / "postgres" / "greet.py"
    done = subprocess.run([sys.executable, example, SQL, BOOTSTRAP, AMQP], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("over AMQP: A to B: 你好", "over AMQP: B to A: 再见", "over Kafka: A to B: 你好", "over Kafka: B to A: 再见"):
        assert line in done.stdout, done.stdout
    assert "never mind" not in done.stdout


@test
def a_topic_is_made_and_has_key_value_and_headers():
    topic = name("made")
    with database() as connection:
        connection.execute("SELECT ferrymq.publish(%s, %s, key => %s, headers => %s)",
                           (topic, "你好", "键", Jsonb({"a": "ä", "none": None, "twice": ["1", "2"], "n": 7})))
        connection.execute("SELECT ferrymq.publish(%s, %s, %s)", (topic, b"\x00\xff", b"\xfe\x00"))
        connection.execute("SELECT ferrymq.publish(%s, NULL::text, 'tombstone')", (topic,))
    text, binary, tombstone = records(topic, 3)
    assert (text.key().decode(), text.value().decode()) == ("键", "你好")
    headers = sorted(text.headers(), key=lambda header: (header[0], header[1] or b""))
    assert headers == [("a", "ä".encode()), ("n", b"7"), ("none", None), ("twice", b"1"), ("twice", b"2")], headers
    assert (binary.key(), binary.value(), binary.headers()) == (b"\xfe\x00", b"\x00\xff", None)
    assert (tombstone.key(), tombstone.value()) == (b"tombstone", None)


@test
def a_message_has_all_its_properties():
    queue, made = name("queue"), channel()
    made.queue_declare(queue, durable=True)
    properties = {
        "content_type": "text/plain", "content_encoding": "utf-8", "priority": 3, "correlation_id": "c", "reply_to": "r",
        "expiration": "600000", "message_id": "m", "timestamp": 1700000000, "type": "t", "app_id": "a",
        "headers": {"text": "你好", "number": -1, "yes": True, "nothing": None, "list": [1, "x"],
                    "table": {"in": 1}}}
    with database() as connection:
        connection.execute("SELECT ferrymq.publish_to_exchange('', %s, %s, properties => %s)",
                           (queue, "再见", Jsonb(properties)))
    got = []
    eventually("the message", lambda: got.append(made.basic_get(queue, auto_ack=True)) or got[-1][0] is not None)
    _, found, body = got[-1]
    assert body.decode() == "再见"
    for key, value in properties.items():
        assert getattr(found, key) == value, (key, getattr(found, key))
    assert found.delivery_mode == 2


@test
def what_is_rolled_back_is_never_seen():
    topic = name("rolled-back")
    connection = database()
    for number in range(20):
        try:
            with connection.transaction():
                connection.execute("SELECT ferrymq.publish(%s, %s)", (topic, str(number)))
                if number % 2:
                    raise ValueError
        except ValueError:
            pass
    assert [int(record.value()) for record in records(topic, 10)] == list(range(0, 20, 2))


@test
def a_transaction_goes_to_both_doors_in_its_order():
    topic, queue, made = name("both"), name("both"), channel()
    made.queue_declare(queue, durable=True)
    with database() as connection, connection.transaction():
        for number in range(2500):
            connection.execute("SELECT ferrymq.publish(%s, %s), ferrymq.publish_to_exchange('', %s, %s)",
                               (topic, str(number), queue, str(number)))
    assert [int(record.value()) for record in records(topic, 2500)] == list(range(2500))
    found = []
    for method, _, body in made.consume(queue, auto_ack=True, inactivity_timeout=10):
        if method is None:
            break
        found.append(int(body))
        if len(found) == 2500:
            break
    assert found == list(range(2500))


main()
