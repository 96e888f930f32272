"""confluent-kafka against a broker: admin, producer, consumer, groups, compression."""

import functools
import threading
import time

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from harness import BOOTSTRAP, RUN, eventually, main, name, test

QUICK = {"bootstrap.servers": BOOTSTRAP, "socket.timeout.ms": 10000}


@functools.cache
def admin():
    """One for all tests: a future dies with the client it came from."""
    return AdminClient(QUICK)


def topic(stem, partitions=1, config=None):
    """Creates a topic and waits until the metadata shows it."""
    made = name(stem)
    create(made, partitions, config)
    return made


def create(made, partitions=1, config=None):
    futures = admin().create_topics([NewTopic(made, partitions, 1, config=config or {})])
    futures[made].result(15)
    eventually("the new topic in the metadata", lambda: len(partitions_of(made)) == partitions)


def partitions_of(made):
    # Asked for all topics: asked for one, the client has the broker create it.
    found = admin().list_topics(timeout=10).topics.get(made)
    return found.partitions if found and found.error is None else {}


def producer(**settings):
    return Producer({**QUICK, "message.timeout.ms": 20000, **{k.replace("_", "."): v for k, v in settings.items()}})


def produce(made, values, partition=0, **settings):
    """Produces values and waits for each delivery; the reports."""
    reports = []
    client = producer(**settings)
    for value in values:
        while True:
            try:
                client.produce(made, value, partition=partition, on_delivery=lambda e, m: reports.append((e, m)))
                break
            except BufferError:
                client.poll(0.1)
        client.poll(0)
    assert client.flush(30) == 0, "messages were not delivered"
    failed = [str(error) for error, _ in reports if error]
    assert not failed, failed[0]
    assert len(reports) == len(values)
    return [message for _, message in reports]


def consumer(group=None, **settings):
    settings = {k.replace("_", "."): v for k, v in settings.items()}
    return Consumer({**QUICK, "group.id": group or name("group"), "auto.offset.reset": "earliest", **settings})


def take(client, count, seconds=25):
    """Polls until `count` messages came."""
    messages, end = [], time.monotonic() + seconds
    while len(messages) < count and time.monotonic() < end:
        for message in client.consume(count - len(messages), 0.5):
            if message.error():
                raise KafkaException(message.error())
            messages.append(message)
    assert len(messages) == count, f"{len(messages)} messages of {count}"
    return messages


def values(messages):
    return [message.value() for message in messages]


def error_of(future):
    try:
        future.result(15)
    except KafkaException as error:
        return error.args[0].code()
    return None


# Admin


@test
def create_describe_delete_topic():
    made = topic("life", 3, {"retention.ms": "3600000"})
    described = admin().list_topics(made, timeout=10).topics[made]
    assert sorted(described.partitions) == [0, 1, 2]
    assert all(partition.leader == 1 for partition in described.partitions.values()), "leader is not node 1"
    assert error_of(admin().create_topics([NewTopic(made, 1, 1)])[made]) == KafkaError.TOPIC_ALREADY_EXISTS
    admin().delete_topics([made])[made].result(15)
    eventually("the topic is gone", lambda: not partitions_of(made))
    code = error_of(admin().delete_topics([made])[made])
    assert code == KafkaError.UNKNOWN_TOPIC_OR_PART, code


@test
def describe_topics_by_name():
    from confluent_kafka import TopicCollection

    made = topic("described", 2)
    found = admin().describe_topics(TopicCollection([made]))[made].result(15)
    assert found.name == made and len(found.partitions) == 2 and found.topic_id is not None


@test
def default_partitions_and_replication():
    made = name("defaults")
    admin().create_topics([NewTopic(made, -1, -1)])[made].result(15)
    eventually("the topic", lambda: len(partitions_of(made)) == 1)


@test
def validate_only_creates_nothing():
    made = name("validate")
    admin().create_topics([NewTopic(made, 1, 1)], validate_only=True)[made].result(15)
    assert made not in admin().list_topics(timeout=10).topics


@test
def invalid_topics_are_refused():
    for bad, expected in [
        (NewTopic("a b", 1, 1), KafkaError.TOPIC_EXCEPTION),
        (NewTopic(name("none"), 0, 1), KafkaError.INVALID_PARTITIONS),
        (NewTopic(name("config"), 1, 1, config={"retention.ms": "soon"}), KafkaError.INVALID_CONFIG),
        (NewTopic(name("config"), 1, 1, config={"no.such": "1"}), KafkaError.INVALID_CONFIG),
    ]:
        code = error_of(admin().create_topics([bad])[bad.topic])
        assert code == expected, f"{bad.topic}: {code}"


@test
def create_partitions():
    made = topic("grow", 1)
    admin().create_partitions([NewPartitions(made, 4)])[made].result(15)
    eventually("four partitions", lambda: len(partitions_of(made)) == 4)
    code = error_of(admin().create_partitions([NewPartitions(made, 2)])[made])
    assert code == KafkaError.INVALID_PARTITIONS, code


@test
def configs_are_described_and_altered():
    made = topic("configs", 1, {"retention.ms": "7200000"})
    resource = ConfigResource(ResourceType.TOPIC, made)
    found = admin().describe_configs([resource])[resource].result(15)
    assert found["retention.ms"].value == "7200000" and not found["retention.ms"].is_default
    assert found["max.message.bytes"].value == "1048588" and found["max.message.bytes"].is_default
    assert found["cleanup.policy"].value == "delete"
    change = ConfigResource(
        ResourceType.TOPIC,
        made,
        incremental_configs=[ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)],
    )
    admin().incremental_alter_configs([change])[change].result(15)

    def altered():
        return admin().describe_configs([resource])[resource].result(15)["retention.ms"].value == "60000"

    eventually("the altered value", altered)
    remove = ConfigResource(
        ResourceType.TOPIC,
        made,
        incremental_configs=[ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE)],
    )
    admin().incremental_alter_configs([remove])[remove].result(15)
    eventually(
        "the default",
        lambda: admin().describe_configs([resource])[resource].result(15)["retention.ms"].value == "604800000",
    )


@test
def broker_configs_are_described():
    resource = ConfigResource(ResourceType.BROKER, "1")
    found = admin().describe_configs([resource])[resource].result(15)
    assert found["auto.create.topics.enable"].value == "true"
    assert "log.retention.hours" in found or "log.retention.ms" in found


@test
def cluster_is_described():
    found = admin().describe_cluster().result(15)
    assert len(found.nodes) == 1 and found.cluster_id
    assert f"{found.nodes[0].host}:{found.nodes[0].port}" == BOOTSTRAP
    assert found.controller.id == 1


@test
def delete_records_moves_the_start():
    made = topic("trim")
    produce(made, [b"%d" % n for n in range(10)])
    where = TopicPartition(made, 0, 6)
    low = admin().delete_records([where])[where].result(15)
    assert low.low_watermark == 6
    client = consumer()
    assert client.get_watermark_offsets(TopicPartition(made, 0), timeout=10) == (6, 10)
    client.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    assert values(take(client, 4)) == [b"6", b"7", b"8", b"9"]
    client.close()


@test
def list_offsets_by_spec():
    made = topic("spec")
    client = producer()
    for n in range(5):
        client.produce(made, b"x", partition=0, timestamp=1_700_000_000_000 + [0, 4000, 2000, 1000, 3000][n])
    assert client.flush(20) == 0
    where = TopicPartition(made, 0)
    for spec, offset in [
        (OffsetSpec.earliest(), 0),
        (OffsetSpec.latest(), 5),
        (OffsetSpec.max_timestamp(), 1),
        (OffsetSpec.for_timestamp(1_700_000_001_500), 1),
        (OffsetSpec.for_timestamp(1_700_000_004_001), -1),
    ]:
        found = admin().list_offsets({where: spec})[where].result(15)
        assert found.offset == offset, f"{spec}: {found.offset}, not {offset}"


# Producer


@test
def delivery_reports_tell_offsets():
    made = topic("reports")
    reports = produce(made, [b"a", b"b", b"c"], acks="all")
    assert [report.offset() for report in reports] == [0, 1, 2]


@test
def idempotent_producer():
    made = topic("idempotent")
    sent = [b"%d" % n for n in range(20000)]
    produce(made, sent, enable_idempotence=True, linger_ms=1)
    client = consumer()
    client.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    assert values(take(client, len(sent))) == sent
    client.close()


@test
def keys_headers_timestamps():
    made = topic("parts")
    client = producer()
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)]
    client.produce(made, b"value", b"key", timestamp=1_600_000_000_123, headers=headers, partition=0)
    client.produce(made, None, b"tombstone", partition=0)
    assert client.flush(20) == 0
    reader = consumer()
    reader.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    first, second = take(reader, 2)
    assert (first.key(), first.value(), first.headers()) == (b"key", b"value", headers)
    assert first.timestamp() == (1, 1_600_000_000_123)
    assert (second.key(), second.value()) == (b"tombstone", None)
    reader.close()


def compressed(codec):
    made = topic(codec)
    sent = [b"%06d " % n + b"compressible " * 20 for n in range(3000)]
    produce(made, sent, compression_type=codec, linger_ms=5)
    client = consumer()
    client.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    assert values(take(client, len(sent))) == sent
    client.assign([TopicPartition(made, 0, 1501)])
    assert take(client, 1)[0].value() == sent[1501], "from the middle of a batch"
    client.close()


@test
def compression_gzip():
    compressed("gzip")


@test
def compression_snappy():
    compressed("snappy")


@test
def compression_lz4():
    compressed("lz4")


@test
def compression_zstd():
    compressed("zstd")


@test
def append_time_topic():
    made = topic("append-time", 1, {"message.timestamp.type": "LogAppendTime"})
    client = producer()
    client.produce(made, b"x", timestamp=1_000, partition=0)
    assert client.flush(20) == 0
    reader = consumer()
    reader.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    kind, stamp = take(reader, 1)[0].timestamp()
    assert kind == 2 and stamp > 1_600_000_000_000, (kind, stamp)
    reader.close()


@test
def too_large_is_refused():
    made = topic("small", 1, {"max.message.bytes": "2000"})
    client, errors = producer(), []
    client.produce(made, b"x" * 5000, partition=0, on_delivery=lambda e, m: errors.append(e))
    assert client.flush(20) == 0
    assert errors[0] is not None and errors[0].code() == KafkaError.MSG_SIZE_TOO_LARGE, errors[0]
    produce(made, [b"fits"])


@test
def unknown_topic_without_auto_create():
    client = consumer(**{"allow.auto.create.topics": False})
    missing = name("missing")
    client.subscribe([missing])
    found = eventually("an error", lambda: client.poll(0.5))
    assert found.error().code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    client.close()
    assert missing not in admin().list_topics(timeout=10).topics


# Consumer


@test
def assign_and_seek():
    made = topic("seek")
    produce(made, [b"%d" % n for n in range(100)])
    client = consumer()
    client.assign([TopicPartition(made, 0, 90)])
    assert values(take(client, 10)) == [b"%d" % n for n in range(90, 100)]
    client.seek(TopicPartition(made, 0, 42))
    assert take(client, 1)[0].offset() == 42
    assert client.position([TopicPartition(made, 0)])[0].offset == 43
    client.close()


@test
def offsets_for_times():
    made = topic("times")
    client = producer(linger_ms=50)
    for n in range(1000):
        client.produce(made, b"x", partition=0, timestamp=1_700_000_000_000 + n * 10)
    assert client.flush(20) == 0
    reader = consumer()
    for asked, offset in [(0, 0), (1_700_000_000_000, 0), (1_700_000_005_001, 501), (1_700_000_009_990, 999)]:
        found = reader.offsets_for_times([TopicPartition(made, 0, asked)], timeout=10)[0]
        assert found.offset == offset, f"{asked}: {found.offset}, not {offset}"
    late = reader.offsets_for_times([TopicPartition(made, 0, 1_800_000_000_000)], timeout=10)[0]
    assert late.offset == OFFSET_END, late.offset
    reader.close()


@test
def watermarks():
    made = topic("marks")
    client = consumer()
    where = TopicPartition(made, 0)
    assert client.get_watermark_offsets(where, timeout=10) == (0, 0)
    produce(made, [b"x"] * 7)
    assert client.get_watermark_offsets(where, timeout=10) == (0, 7)
    client.close()


@test
def out_of_range_resets():
    made = topic("range")
    produce(made, [b"a", b"b"])
    client = consumer()
    client.assign([TopicPartition(made, 0, 999)])
    assert values(take(client, 2)) == [b"a", b"b"]
    client.close()


@test
def tail_latency_is_short():
    """A waiting fetch is woken by the append, not by a timer."""
    made = topic("tail")
    reader = consumer(**{"fetch.wait.max.ms": 5000})
    reader.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    writer, delays = producer(linger_ms=0), []
    for _ in range(20):
        sent = time.monotonic()
        writer.produce(made, b"x", partition=0)
        writer.poll(0)
        take(reader, 1)
        delays.append(time.monotonic() - sent)
    assert sorted(delays)[10] < 0.3, f"median {sorted(delays)[10]:.3f} s"
    reader.close()


@test
def large_messages_are_fetched():
    made = topic("fat", 1, {"max.message.bytes": "8000000"})
    sent = [bytes([n]) * 3_000_000 for n in range(3)]
    produce(made, sent, **{"message_max_bytes": 8_000_000})
    client = consumer(**{"fetch.message.max.bytes": 100_000, "fetch.max.bytes": 1_000_000, "receive.message.max.bytes": 50_000_000})
    client.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    assert values(take(client, 3)) == sent
    client.close()


# Groups


def spin(clients, condition, seconds=40):
    """Polls all clients until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the group did not settle"
        for client in clients:
            client.poll(0.05)


def sizes(*clients):
    return sorted(len(client.assignment()) for client in clients)


@test
def group_of_two_rebalances():
    made, group = topic("shared", 4), name("group")
    one, two = consumer(group), consumer(group)
    one.subscribe([made])
    spin([one], lambda: sizes(one) == [4])
    two.subscribe([made])
    spin([one, two], lambda: sizes(one, two) == [2, 2])
    owned = {p.partition for client in (one, two) for p in client.assignment()}
    assert owned == {0, 1, 2, 3}
    two.close()
    spin([one], lambda: sizes(one) == [4])
    one.close()


@test
def cooperative_rebalance():
    made, group = topic("cooperative", 4), name("group")
    settings = {"partition.assignment.strategy": "cooperative-sticky"}
    one, two = consumer(group, **settings), consumer(group, **settings)
    one.subscribe([made])
    spin([one], lambda: sizes(one) == [4])
    two.subscribe([made])
    spin([one, two], lambda: sizes(one, two) == [2, 2])
    one.close()
    two.close()


@test
def static_member_keeps_its_partitions():
    made, group = topic("static", 2), name("group")
    settings = {"group.instance.id": "i1", "session.timeout.ms": 30000}
    one = consumer(group, **settings)
    one.subscribe([made])
    spin([one], lambda: sizes(one) == [2])
    one.close()
    back = consumer(group, **settings)
    began = time.monotonic()
    back.subscribe([made])
    spin([back], lambda: sizes(back) == [2])
    assert time.monotonic() - began < 20
    back.close()


@test
def many_members_join_at_once():
    made, group = topic("crowd", 12), name("group")
    owned, stop, failures = [0] * 6, threading.Event(), []

    def member(index):
        # Only its own thread may ask a client for its assignment while it polls.
        client = consumer(group)
        client.subscribe([made])
        while not stop.is_set():
            message = client.poll(0.1)
            if message is not None and message.error():
                failures.append(message.error())
            owned[index] = len(client.assignment())
        client.close()

    threads = [threading.Thread(target=member, args=[index], daemon=True) for index in range(6)]
    for thread in threads:
        thread.start()
    try:
        eventually("two partitions each", lambda: owned == [2] * 6, 45)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not failures, failures[0]


@test
def commit_and_committed():
    made, group = topic("commit"), name("group")
    produce(made, [b"%d" % n for n in range(10)])
    client = consumer(group, **{"enable.auto.commit": False})
    where = TopicPartition(made, 0)
    assert client.committed([where], timeout=10)[0].offset == OFFSET_INVALID
    client.assign([TopicPartition(made, 0, OFFSET_BEGINNING)])
    take(client, 4)
    client.commit(offsets=[TopicPartition(made, 0, 4, metadata="so far")], asynchronous=False)
    found = client.committed([where], timeout=10)[0]
    assert (found.offset, found.metadata) == (4, "so far")
    client.close()
    again = consumer(group)
    again.subscribe([made])
    assert take(again, 1)[0].offset() == 4
    again.close()


@test
def auto_commit_survives_close():
    made, group = topic("auto"), name("group")
    produce(made, [b"%d" % n for n in range(20)])
    one = consumer(group)
    one.subscribe([made])
    take(one, 20)
    one.close()
    produce(made, [b"later"])
    two = consumer(group)
    two.subscribe([made])
    assert values(take(two, 1)) == [b"later"]
    two.close()


@test
def regex_subscription_finds_new_topics():
    stem = name("pattern")
    create(f"{stem}-a")
    client = consumer(**{"topic.metadata.refresh.interval.ms": 500, "metadata.max.age.ms": 1000})
    client.subscribe([f"^{stem}-.*"])
    spin([client], lambda: sizes(client) == [1])
    create(f"{stem}-b", 2)
    spin([client], lambda: sizes(client) == [3])
    client.close()


@test
def groups_are_listed_described_deleted():
    made, group = topic("admin-group", 2), name("group")
    client = consumer(group)
    client.subscribe([made])
    spin([client], lambda: sizes(client) == [2])
    listed = admin().list_consumer_groups().result(15)
    assert group in [found.group_id for found in listed.valid] and not listed.errors
    found = admin().describe_consumer_groups([group])[group].result(15)
    assert found.state.name == "STABLE" and len(found.members) == 1
    assert len(found.members[0].assignment.topic_partitions) == 2
    assert error_of(admin().delete_consumer_groups([group])[group]) == KafkaError.NON_EMPTY_GROUP
    client.close()
    eventually(
        "an empty group",
        lambda: admin().describe_consumer_groups([group])[group].result(15).state.name == "EMPTY",
    )
    admin().delete_consumer_groups([group])[group].result(15)
    listed = admin().list_consumer_groups().result(15)
    assert group not in [found.group_id for found in listed.valid]


@test
def group_offsets_by_admin():
    made, group = topic("admin-offsets"), name("group")
    produce(made, [b"x"] * 5)
    change = ConsumerGroupTopicPartitions(group, [TopicPartition(made, 0, 3)])
    admin().alter_consumer_group_offsets([change])[group].result(15)
    ask = ConsumerGroupTopicPartitions(group, [TopicPartition(made, 0)])
    found = admin().list_consumer_group_offsets([ask])[group].result(15)
    assert found.topic_partitions[0].offset == 3


@test
def session_timeout_frees_partitions():
    """A member that vanishes without a goodbye is missed after its session timeout."""
    import os
    import subprocess
    import sys

    made, group = topic("vanish", 2), name("group")
    code = (
        "import os,sys;from confluent_kafka import Consumer;"
        f"c=Consumer({{'bootstrap.servers':'{BOOTSTRAP}','group.id':'{group}','session.timeout.ms':6000}});"
        f"c.subscribe(['{made}'])\n"
        "while not c.assignment(): c.poll(0.1)\n"
        "os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), timeout=30).returncode == 1
    client = consumer(group)
    client.subscribe([made])
    spin([client], lambda: sizes(client) == [2], 30)
    client.close()


if __name__ == "__main__":
    print(f"confluent-kafka against {BOOTSTRAP}, run {RUN}")
    main()
