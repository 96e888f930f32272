"""One topic, two doors: what pika publishes confluent-kafka reads, and the other way, while both do."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
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


def over(channel, made, stem="q", kind="quorum", **arguments):
    """A queue over a topic."""
    queue = name(stem)
    arguments = {"x-kafka-topic": made, "x-queue-type": kind, **{k.replace("_", "-"): v for k, v in arguments.items()}}
    return queue, channel.queue_declare(queue, durable=True, arguments=arguments).method.message_count


@test
def workers_share_what_kafka_clients_produce():
    made, count, workers = topic("t", 4), 2000, 4
    with opened() as channel:
        queue, ready = over(channel, made)
        assert ready == 0
    done, lock, over_with = [], threading.Lock(), threading.Event()

    def worker(number):
        with opened() as channel:
            channel.basic_qos(prefetch_count=20)
            seen = 0

            def on_message(_, method, properties, body):
                nonlocal seen
                seen += 1
                # One in ten fails the first time.
                if body.endswith(b"7") and not method.redelivered:
                    return channel.basic_nack(method.delivery_tag, requeue=True)
                channel.basic_ack(method.delivery_tag)
                with lock:
                    done.append((number, body, method.redelivered, properties.headers))
                return None

            channel.basic_consume(queue, on_message)
            while not over_with.is_set():
                channel.connection.process_data_events(0.05)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    records = [(f"key-{at}", f"job {at}", [("at", str(at))]) for at in range(count)]
    produce(made, *records, linger_ms=5, compression_type="lz4")
    try:
        eventually("all jobs", lambda: len(done) >= count, 60)
    finally:
        over_with.set()
        for thread in threads:
            thread.join(30)
    assert sorted(body for _, body, _, _ in done) == sorted(f"job {at}".encode() for at in range(count)), "each once"
    assert {number for number, _, _, _ in done} == set(range(workers)), "all have worked"
    for _, body, redelivered, headers in done:
        assert redelivered == body.endswith(b"7") and f"job {headers['at']}".encode() == body
    with opened() as channel:
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
    # Kafka's clients read all of it whatever the workers did.
    assert sum(len(kafka_records(made, 1, partition)) > 0 for partition in range(4)) == 4


def tasks_of_kafkajs_are_done_by_celery(kind):
    made, count = topic("t", 2), 200
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as home:
        done = os.path.join(home, "done")
        command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "--pool=threads", "--concurrency=4"]
        command += ["--without-gossip", "--without-mingle", "--loglevel=ERROR"]
        environment = {**os.environ, "TOPIC": made, "KIND": kind, "DONE": done, "C_FORCE_ROOT": "1", "PYTHONPATH": here}
        worker = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL)
        try:
            with opened() as channel:
                # The worker declares its queue, which begins with what comes from then on.
                def declared():
                    nonlocal channel
                    try:
                        return channel.queue_declare(f"{made}-tasks", passive=True).method.consumer_count == 1
                    except ChannelClosedByBroker:
                        channel = channel.connection.channel()
                        return False

                eventually("the worker", declared, 40)
                subprocess.run(["node", os.path.join(here, "produce.js"), made, str(count)], check=True, timeout=30)

                def lines():
                    with contextlib.suppress(FileNotFoundError), open(done, encoding="utf-8") as file:
                        return file.read().splitlines()
                    return []

                eventually("all tasks", lambda: len(lines()) >= count, 40)
                assert sorted(lines()) == sorted(f"task-{at} {at + 1}" for at in range(count)), "each once"
                eventually("all acknowledged", lambda: channel.queue_declare(f"{made}-tasks", passive=True).method.message_count == 0)
        finally:
            worker.terminate()
            worker.wait(30)


@test
def tasks_of_kafkajs_are_done_by_celery_from_a_classic_queue():
    tasks_of_kafkajs_are_done_by_celery("classic")


@test
def tasks_of_kafkajs_are_done_by_celery_from_a_quorum_queue():
    tasks_of_kafkajs_are_done_by_celery("quorum")


@test
def a_worker_that_dies_gives_its_records_back():
    made = topic("t")
    produce(made, *[(None, f"{at}", []) for at in range(10)])
    with opened() as dying:
        queue, ready = over(dying, made, kind="classic")
        assert ready == 10
        dying.basic_qos(prefetch_count=4)
        held = []
        dying.basic_consume(queue, lambda _, method, properties, body: held.append((method, body)))

        def enough():
            dying.connection.process_data_events(0.05)
            return len(held) == 4

        eventually("four records", enough)
        dying.basic_ack(held[1][0].delivery_tag)
    with opened() as channel:
        # The ack came before the end.
        eventually("what it had", lambda: channel.queue_declare(queue, passive=True).method.message_count == 9)
        found = []
        while (got := channel.basic_get(queue))[0]:
            found.append((got[2], got[0].redelivered))
            channel.basic_ack(got[0].delivery_tag)
        assert [body for body, _ in found] == [f"{at}".encode() for at in range(10) if at != 1], found
        # The fifth may have been on its way: the ack made room for it.
        expected = {body: body in (b"0", b"2", b"3") for body, _ in found if body != b"4"}
        assert {body: redelivered for body, redelivered in found if body != b"4"} == expected, found


@test
def what_is_published_to_a_queue_over_a_topic_is_a_record():
    made = topic("t")
    with opened() as channel:
        queue, _ = over(channel, made)
        twin, _ = over(channel, made)
        exchange = name("e")
        channel.exchange_declare(exchange, "fanout", durable=True)
        channel.queue_bind(queue, exchange)
        channel.queue_bind(twin, exchange)
        channel.confirm_delivery()
        channel.basic_publish(exchange, "k", b"to both", pika.BasicProperties(headers={"n": 1}), mandatory=True)
        channel.basic_publish("", queue, b"to one", mandatory=True)
        for each in (queue, twin):
            assert [channel.basic_get(each, auto_ack=True)[2] for _ in range(3)] == [b"to both", b"to one", None]
        first, second = kafka_records(made, 2)
        assert (first.key(), first.value(), dict(first.headers())["n"]) == (b"k", b"to both", b"1")
        assert second.value() == b"to one"
        assert channel.queue_delete(queue).method.message_count == 0
        assert made in admin().list_topics(timeout=10).topics, "the topic is not the queue's to delete"


@test
def a_queue_over_a_topic_that_is_not_there_or_says_what_the_topic_says_is_refused():
    made = topic("t")
    for arguments, code, words in (
        ({"x-kafka-topic": name("nowhere")}, 404, "no topic"),
        ({"x-kafka-topic": made, "x-message-ttl": 5}, 406, "the topic's settings say what is kept"),
        ({"x-kafka-topic": made, "x-max-priority": 5}, 406, "the topic's settings say what is kept"),
    ):
        with opened() as channel:
            try:
                channel.queue_declare(name("q"), durable=True, arguments=arguments)
                raise AssertionError("it was taken")
            except ChannelClosedByBroker as error:
                assert error.reply_code == code and words in error.reply_text, error


@test
def records_that_are_rejected_or_deleted_go_where_they_should():
    made = topic("t")
    with opened() as channel:
        letters = name("letters")
        channel.queue_declare(letters, durable=True)
        queue, _ = over(channel, made, x_dead_letter_exchange="", x_dead_letter_routing_key=letters)
        produce(made, *[("key", f"{at}", []) for at in range(5)])
        eventually("the first", lambda: channel.queue_declare(queue, passive=True).method.message_count == 5)
        method, _, _ = channel.basic_get(queue)
        channel.basic_reject(method.delivery_tag, requeue=False)
        eventually("the letter", lambda: channel.queue_declare(letters, passive=True).method.message_count == 1)
        _, properties, body = channel.basic_get(letters, auto_ack=True)
        assert body == b"0" and properties.headers["x-first-death-queue"] == queue, properties.headers
        # A client deletes records: what was not worked off is gone.
        partition = TopicPartition(made, 0, 3)
        list(admin().delete_records([partition]).values())[0].result(15)
        eventually("the rest", lambda: channel.queue_declare(queue, passive=True).method.message_count == 2)
        assert channel.basic_get(queue, auto_ack=True)[2] == b"3"
        assert channel.queue_purge(queue).method.message_count == 1


if __name__ == "__main__":
    main()
