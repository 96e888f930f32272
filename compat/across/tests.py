"""One topic, two doors: what pika publishes confluent-kafka reads, and the other way, while both do."""

import functools
import os
import threading

import pika
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness import BOOTSTRAP, eventually, main, name, test
from pika.exceptions import ChannelClosedByBroker

HOST, PORT = os.environ["AMQP"].rsplit(":", 1)
QUICK = {"bootstrap.servers": BOOTSTRAP, "socket.timeout.ms": 10000}


class opened:
    """`with opened() as channel`: a connection of its own, closed at the end."""

    def __enter__(self):
        settings = {"host": HOST, "port": int(PORT), "heartbeat": 0, "blocked_connection_timeout": 30}
        self.connection = pika.BlockingConnection(pika.ConnectionParameters(**settings))
        return self.connection.channel()

    def __exit__(self, *_):
        if self.connection.is_open:
            self.connection.close()


@functools.cache
def admin():
    """One for all tests: a future dies with the client it came from."""
    return AdminClient(QUICK)


def stream(channel, stem, **arguments):
    made = name(stem)
    channel.queue_declare(made, durable=True, arguments={"x-queue-type": "stream", **arguments})
    return made


def topic(stem, partitions=1):
    made = name(stem)
    admin().create_topics([NewTopic(made, partitions, 1)])[made].result(15)
    return made


def kafka_records(made, count, partition=0, offset=0):
    consumer = Consumer({**QUICK, "group.id": name("g"), "enable.auto.commit": False})
    consumer.assign([TopicPartition(made, partition, offset)])
    found = []

    def enough():
        for message in consumer.consume(500, 0.2):
            assert message.error() is None, message.error()
            found.append(message)
        return len(found) >= count

    eventually(f"{count} records of {made}", enough, 30)
    consumer.close()
    return found


def produce(made, *records, **settings):
    producer = Producer({**QUICK, **{key.replace("_", "."): value for key, value in settings.items()}})
    failed = []
    for key, value, headers in records:
        producer.produce(made, value, key=key, headers=headers, on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(20) == 0
    assert failed == [None] * len(records), failed


def amqp_messages(channel, made, count, prefetch=100, **arguments):
    """(method, properties, body) from the start, or from where the arguments say."""
    found = []
    channel.basic_qos(prefetch_count=prefetch)

    def on_message(_, method, properties, body):
        found.append((method, properties, body))
        channel.basic_ack(method.delivery_tag)

    arguments = {"x-stream-offset": "first", **{key.replace("_", "-"): value for key, value in arguments.items()}}
    tag = channel.basic_consume(made, on_message, arguments=arguments)

    def enough():
        channel.connection.process_data_events(0.05)
        return len(found) >= count

    eventually(f"{count} messages of {made}", enough, 30)
    channel.basic_cancel(tag)
    return found


@test
def pika_to_kafka_with_headers_by_name():
    with opened() as channel:
        made = stream(channel, "s")
        exchange = name("e")
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_bind(made, exchange, "#")
        channel.confirm_delivery()
        headers = {"trace": "t-1", "count": 3, "yes": True, "nothing": None, "raw": b"\xff\x00"}
        properties = pika.BasicProperties(content_type="text/plain", headers=headers, delivery_mode=2, message_id="m")
        channel.basic_publish(exchange, "eu.new", b"body", properties, mandatory=True)
        channel.basic_publish("", made, b"plain", mandatory=True)
        first, second = kafka_records(made, 2)
        assert (first.key(), first.value()) == (b"eu.new", b"body")
        seen = dict(first.headers())
        expected = {"trace": b"t-1", "count": b"3", "yes": b"true", "nothing": None, "raw": b"\xff\x00"}
        assert {key: seen[key] for key in expected} == expected, seen
        assert seen["amqp.content_type"] == b"text/plain" and seen["amqp.message_id"] == b"m", seen
        assert (second.key(), second.value()) == (None, b"plain"), "an address is no key"
        # And over AMQP it is what it was.
        (_, told, body), _ = amqp_messages(channel, made, 2)
        assert body == b"body" and told.content_type == "text/plain" and told.message_id == "m"
        assert {key: told.headers[key] for key in headers} == headers, told.headers
        assert told.headers["x-stream-offset"] == 0


@test
def kafka_to_pika_in_every_compression():
    made = topic("t")
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
    for codec in codecs:
        records = [(f"key-{at}", f"{codec} {at}" * 20, [("trace", "x"), ("trace", "y")]) for at in range(50)]
        produce(made, *records, compression_type=codec, linger_ms=50)
    with opened() as channel:
        found = amqp_messages(channel, made, 250)
        assert [body for _, _, body in found] == [f"{c} {at}".encode() * 20 for c in codecs for at in range(50)]
        assert [p.headers["x-stream-offset"] for _, p, _ in found] == list(range(250))
        method, properties, _ = found[7]
        assert method.routing_key == "key-7" and properties.headers["x-kafka-key"] == "key-7"
        assert properties.headers["trace"] == "y", "the last of a name"
        assert properties.headers["x-kafka-headers"] == [["trace", "x"], ["trace", "y"]]
        half = amqp_messages(channel, made, 1, prefetch=1, x_stream_offset=125)
        assert half[0][2] == b"snappy 25" * 20


def fanout(channel, queue):
    """An exchange that leads to this queue only. Other clients use `amq.fanout` at the same time."""
    exchange = f"{queue}-in"
    channel.exchange_declare(exchange, "fanout", durable=True)
    channel.queue_bind(queue, exchange)
    return exchange


@test
def a_record_that_is_republished_is_the_same():
    made = topic("t")
    headers = [("a", b"1"), ("a", None), ("", b"empty name"), ("bytes", b"\xff"), ("x-stream-offset", b"mine")]
    produce(made, (b"\xfe key", b"value", headers), (None, None, []))
    with opened() as channel:
        copy = stream(channel, "copy")
        exchange = fanout(channel, copy)
        channel.confirm_delivery()
        for method, properties, body in amqp_messages(channel, made, 2):
            channel.basic_publish(exchange, method.routing_key, body, properties)
    first, second = kafka_records(copy, 2)
    assert (first.key(), first.value(), first.headers()) == (b"\xfe key", b"value", headers), first.headers()
    assert (second.key(), second.value(), second.headers()) == (None, None, None), second.headers()


@test
def keys_choose_the_partition_that_kafka_clients_choose():
    made = topic("t", 5)
    with opened() as channel:
        channel.queue_declare(made, durable=True, arguments={"x-queue-type": "stream"})
        exchange = fanout(channel, made)
        channel.confirm_delivery()
        keys = [f"user-{at}" for at in range(20)]
        for key in keys:
            channel.basic_publish(exchange, key, b"amqp")
        produce(made, *[(key, "kafka", []) for key in keys], partitioner="murmur2_random")
        found = amqp_messages(channel, made, 40)
        partitions = {}
        for method, properties, _ in found:
            partitions.setdefault(method.routing_key, set()).add(properties.headers["x-kafka-partition"])
        assert len(partitions) == 20 and all(len(all_) == 1 for all_ in partitions.values()), partitions


@test
def both_write_and_read_at_once():
    made, count = topic("t"), 500
    read = {}

    def kafka_reader():
        read["kafka"] = [message.value() for message in kafka_records(made, 2 * count)]

    def amqp_reader():
        with opened() as channel:
            read["amqp"] = [body for _, _, body in amqp_messages(channel, made, 2 * count, prefetch=10)]

    def kafka_writer():
        produce(made, *[(None, f"k{at}", []) for at in range(count)])

    threads = [threading.Thread(target=target) for target in (kafka_reader, amqp_reader, kafka_writer)]
    for thread in threads:
        thread.start()
    with opened() as channel:
        channel.confirm_delivery()
        for at in range(count):
            channel.basic_publish("", made, f"a{at}".encode(), mandatory=True)
    for thread in threads:
        thread.join(60)
    assert read["kafka"] == read["amqp"], "one order for all"
    for letter in "ka":
        of_one = [body for body in read["amqp"] if body.startswith(letter.encode())]
        assert of_one == [f"{letter}{at}".encode() for at in range(count)]


@test
def a_topic_deleted_with_kafka_cancels_its_consumers():
    with opened() as channel:
        made = stream(channel, "s")
        cancelled = []
        channel.basic_qos(prefetch_count=1)
        channel.add_on_cancel_callback(lambda method: cancelled.append(method))
        channel.basic_consume(made, lambda *_: None)
        admin().delete_topics([made])[made].result(15)

        def told():
            channel.connection.process_data_events(0.05)
            return cancelled

        eventually("basic.cancel", told)
        try:
            channel.queue_declare(made, passive=True)
            raise AssertionError("the stream is still there")
        except ChannelClosedByBroker as error:
            assert error.reply_code == 404, error


@test
def a_stream_deleted_with_amqp_is_no_topic_any_more():
    with opened() as channel:
        made = stream(channel, "s")
        assert made in admin().list_topics(timeout=10).topics
        channel.queue_delete(made)
        assert made not in admin().list_topics(timeout=10).topics


if __name__ == "__main__":
    main()
