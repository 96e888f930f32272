"""aiokafka against a broker: the old end of the protocol's versions, from one event loop."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from harness import BOOTSTRAP, RUN, main, name, test


class admin:
    """`async with admin() as client`."""

    async def __aenter__(self):
        self.client = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
        await self.client.start()
        return self.client

    async def __aexit__(self, *_):
        await self.client.close()


async def topic(stem, partitions=1, config=None):
    made = name(stem)
    async with admin() as client:
        answer = await client.create_topics([NewTopic(made, partitions, 1, topic_configs=config or {})])
        for _, code, message in answer.topic_errors:
            assert code == 0, message
        await until("the topic", lambda: has_partitions(client, made, partitions))
    return made


async def has_partitions(client, made, count):
    found = [t for t in await client.describe_topics() if t["topic"] == made]
    return bool(found) and found[0]["error_code"] == 0 and len(found[0]["partitions"]) == count


async def until(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


async def send(made, values, **settings):
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, **settings) as client:
        waiting = [await client.send(made, value, partition=0) for value in values]
        return await asyncio.gather(*waiting)


def reader(*topics, group=None, **settings):
    settings = {"auto_offset_reset": "earliest", **settings}
    return AIOKafkaConsumer(*topics, bootstrap_servers=BOOTSTRAP, group_id=group, **settings)


async def take(client, count, seconds=20):
    found = []

    async def fill():
        while len(found) < count:
            found.append(await client.getone())

    try:
        await asyncio.wait_for(fill(), seconds)
    except asyncio.TimeoutError:
        raise AssertionError(f"{len(found)} messages of {count}") from None
    return found


def values(messages):
    return [message.value for message in messages]


@test
async def create_grow_delete_topic():
    made = await topic("life", 2)
    async with admin() as client:
        try:
            answer = await client.create_topics([NewTopic(made, 1, 1)])
            assert answer.topic_errors[0][1] == TopicAlreadyExistsError.errno
        except TopicAlreadyExistsError:
            pass
        await client.create_partitions({made: NewPartitions(5)})
        await until("five partitions", lambda: has_partitions(client, made, 5))
        answer = await client.delete_topics([made])
        assert all(code == 0 for _, code in answer.topic_error_codes), answer

        async def gone():
            return made not in await client.list_topics()

        await until("the topic is gone", gone)


@test
async def configs_are_described():
    made = await topic("configs", 1, {"retention.ms": "3600000"})
    async with admin() as client:
        answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, made)])
        (code, message, *_, entries) = answers[0].resources[0]
        assert code == 0, message
        found = {entry[0]: entry[1] for entry in entries}
        assert found["retention.ms"] == "3600000" and found["max.message.bytes"] == "1048588"


@test
async def cluster_is_described():
    async with admin() as client:
        found = await client.describe_cluster()
    assert len(found["brokers"]) == 1 and found["brokers"][0]["node_id"] == 1, found


@test
async def produce_acks_all():
    made = await topic("acks")
    reports = await send(made, [b"%d" % n for n in range(1000)], acks="all")
    assert [report.offset for report in reports] == list(range(1000))


@test
async def produce_idempotent():
    made = await topic("idempotent")
    sent = [b"%d" % n for n in range(5000)]
    await send(made, sent, enable_idempotence=True)
    async with reader(made) as client:
        assert values(await take(client, len(sent))) == sent


@test
async def headers_keys_timestamps():
    made = await topic("parts")
    headers = [("a", b"1"), ("b", b"")]
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP) as client:
        await client.send_and_wait(made, b"v", key=b"k", headers=headers, timestamp_ms=1_600_000_000_123)
        await client.send_and_wait(made, None, key=b"gone")
    async with reader(made) as client:
        first, second = await take(client, 2)
    assert (first.key, first.value, list(first.headers)) == (b"k", b"v", headers)
    assert first.timestamp == 1_600_000_000_123 and first.timestamp_type == 0
    assert (second.key, second.value) == (b"gone", None)


async def compressed(codec):
    made = await topic(codec)
    sent = [b"%05d " % n + b"compressible " * 30 for n in range(2000)]
    await send(made, sent, compression_type=codec, linger_ms=5)
    async with reader(made) as client:
        assert values(await take(client, len(sent))) == sent


@test
async def compression_gzip():
    await compressed("gzip")


@test
async def compression_snappy():
    await compressed("snappy")


@test
async def compression_lz4():
    await compressed("lz4")


@test
async def compression_zstd():
    await compressed("zstd")


@test
async def too_large_is_refused():
    made = await topic("small", 1, {"max.message.bytes": "2000"})
    try:
        await send(made, [b"x" * 5000])
    except MessageSizeTooLargeError:
        return
    raise AssertionError("the message was taken")


@test
async def auto_create():
    made = name("auto")
    await send(made, [b"x"])
    async with reader(made) as client:
        assert values(await take(client, 1)) == [b"x"]


@test
async def seek_and_position():
    made = await topic("seek")
    await send(made, [b"%d" % n for n in range(50)])
    where = TopicPartition(made, 0)
    async with reader() as client:
        client.assign([where])
        client.seek(where, 47)
        assert values(await take(client, 3)) == [b"47", b"48", b"49"]
        assert await client.position(where) == 50
        await client.seek_to_beginning(where)
        assert values(await take(client, 1)) == [b"0"]
        await client.seek_to_end(where)
        assert await client.position(where) == 50


@test
async def offsets_for_times_and_ends():
    made = await topic("times")
    where = TopicPartition(made, 0)
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP) as client:
        for n in range(20):
            await client.send(made, b"x", timestamp_ms=1_700_000_000_000 + n * 1000)
    async with reader() as client:
        client.assign([where])
        found = await client.offsets_for_times({where: 1_700_000_004_500})
        assert found[where].offset == 5 and found[where].timestamp == 1_700_000_005_000, found
        assert (await client.offsets_for_times({where: 1_800_000_000_000}))[where] is None
        assert await client.beginning_offsets([where]) == {where: 0}
        assert await client.end_offsets([where]) == {where: 20}


@test
async def out_of_range_is_told():
    made = await topic("range")
    await send(made, [b"x"])
    where = TopicPartition(made, 0)
    async with reader(auto_offset_reset="none") as client:
        client.assign([where])
        client.seek(where, 100)
        try:
            await asyncio.wait_for(client.getone(), 10)
        except OffsetOutOfRangeError:
            return
    raise AssertionError("no error")


@test
async def waiting_fetch_is_woken():
    made = await topic("wake")
    where = TopicPartition(made, 0)
    async with reader(fetch_max_wait_ms=5000) as client, AIOKafkaProducer(bootstrap_servers=BOOTSTRAP) as writer:
        client.assign([where])
        delays = []
        for _ in range(10):
            waiting = asyncio.ensure_future(client.getone())
            await asyncio.sleep(0.05)
            began = time.monotonic()
            await writer.send_and_wait(made, b"x")
            await asyncio.wait_for(waiting, 10)
            delays.append(time.monotonic() - began)
    assert sorted(delays)[5] < 0.3, delays


@test
async def group_commits_and_goes_on():
    made, group = await topic("group"), name("group")
    await send(made, [b"%d" % n for n in range(10)])
    where = TopicPartition(made, 0)
    async with reader(made, group=group, enable_auto_commit=False) as client:
        await take(client, 4)
        await client.commit({where: (4, "so far")})
        assert await client.committed(where) == 4
    async with reader(made, group=group) as client:
        assert (await take(client, 1))[0].offset == 4
    async with admin() as client:
        found = await client.list_consumer_group_offsets(group)
        assert found[where].offset >= 4


@test
async def group_rebalances():
    made, group = await topic("shared", 4), name("group")

    class Listener(ConsumerRebalanceListener):
        def __init__(self):
            self.count = 0

        async def on_partitions_revoked(self, revoked):
            pass

        async def on_partitions_assigned(self, assigned):
            self.count = len(assigned)

    one, two, first, second = reader(group=group), reader(group=group), Listener(), Listener()
    one.subscribe([made], listener=first)
    two.subscribe([made], listener=second)

    async def counts(expected):
        async def reached():
            return [first.count, second.count] == expected

        await until(f"{expected} partitions", reached, 30)

    await one.start()
    await counts([4, 0])
    await two.start()
    await counts([2, 2])
    await one.stop()
    second_alone = asyncio.ensure_future(counts([2, 4]))
    await second_alone
    await two.stop()


@test
async def groups_are_listed_and_described():
    made, group = await topic("listed"), name("group")
    async with reader(made, group=group) as client, admin() as asker:

        async def settled():
            return bool(client.assignment())

        await until("an assignment", settled)
        assert group in [found[0] for found in await asker.list_consumer_groups()]
        answer = (await asker.describe_consumer_groups([group]))[0].groups[0]
        assert answer[0] == 0 and answer[1] == group and answer[2] == "Stable", answer
        assert await asker.find_coordinator(group) == 1


@test
async def unknown_topic_is_told():
    async with admin() as client:
        try:
            answer = await client.delete_topics([name("missing")])
        except UnknownTopicOrPartitionError:
            return
        code = answer.topic_error_codes[0][1]
        assert for_code(code) is UnknownTopicOrPartitionError, code


if __name__ == "__main__":
    print(f"aiokafka against {BOOTSTRAP}, run {RUN}")
    main()
