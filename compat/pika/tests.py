"""pika against a broker: what applications written for RabbitMQ do, and what they are told when it goes wrong."""

import datetime
import decimal
import functools
import os
import socket
import subprocess
import tempfile
import time

import pika
from harness import BOOTSTRAP, Skip, eventually, main, name, test
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    UnroutableError,
)

HOST, PORT = BOOTSTRAP.rsplit(":", 1)
PSEUDO = "amq.rabbitmq.reply-to"
# RabbitMQ before 4.3, which the tests were written against, has other codes here and there.
OLD_RABBITMQ = os.environ.get("COMPAT_PEER") == "rabbitmq"


def connect(**settings):
    settings = {"host": HOST, "port": int(PORT), "heartbeat": 0, "blocked_connection_timeout": 30, **settings}
    return pika.BlockingConnection(pika.ConnectionParameters(**settings))


class opened:
    """`with opened() as channel`: a connection of its own, closed at the end."""

    def __init__(self, **settings):
        self.connection = connect(**settings)

    def __enter__(self):
        return self.connection.channel()

    def __exit__(self, *_):
        if self.connection.is_open:
            self.connection.close()


def queue(channel, stem="q", **settings):
    return channel.queue_declare(name(stem), **{"exclusive": True, **settings}).method.queue


def send(channel, key, *bodies, exchange="", **properties):
    for body in bodies:
        channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties))


def take(channel, key):
    """All messages, acknowledged."""
    found = []
    while True:
        method, _, body = channel.basic_get(key)
        if method is None:
            return found
        channel.basic_ack(method.delivery_tag)
        found.append(body)


def consumer(channel, key, **settings):
    """Consumes into a list of (method, properties, body)."""
    found = []
    tag = channel.basic_consume(key, lambda _, *message: found.append(message), **settings)
    return tag, found


def until(connection, what, condition, seconds=20):
    def look():
        connection.process_data_events(0.02)
        return condition()

    return eventually(what, look, seconds)


def quiet(connection, seconds=0.3):
    """Lets whatever is on its way arrive."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.process_data_events(0.05)


def closes(code, text, action, kind=ChannelClosedByBroker):
    try:
        action()
    except kind as closed:
        assert closed.reply_code == code, closed
        assert text in closed.reply_text, closed
        return
    raise AssertionError(f"nothing was closed, expected {code} {text}")


def channel_closes(channel, code, text, action):
    def act():
        action()
        # What has no answer of its own is found out at the next one.
        channel.queue_declare("", exclusive=True)

    closes(code, text, act)
    assert channel.connection.is_open
    assert channel.connection.channel().is_open, "another channel can be opened"


def connection_closes(channel, code, text, action):
    def act():
        action()
        channel.queue_declare("", exclusive=True)

    closes(code, text, act, ConnectionClosedByBroker)


# Connections.


@test
def connects_and_is_told_what_the_server_can():
    connection = connect()
    properties = connection._impl.server_properties
    capabilities = properties["capabilities"]
    for needed in ("publisher_confirms", "basic.nack", "consumer_cancel_notify", "exchange_exchange_bindings"):
        assert capabilities[needed] is True, needed
    assert properties["product"] == "RabbitMQ" and properties["version"], properties
    connection.close()


@test
def wrong_passwords_are_refused():
    try:
        connect(credentials=pika.PlainCredentials("guest", "guess"))
    except pika.exceptions.ProbableAuthenticationError as refused:
        assert "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in str(refused)
        return
    raise AssertionError("let in")


@test
def unknown_virtual_hosts_are_told():
    try:
        connect(virtual_host="nowhere")
    except AMQPConnectionError as closed:
        assert "530" in str(closed) and "NOT_ALLOWED - vhost nowhere not found" in str(closed), closed
        return
    raise AssertionError("let in")


@test
def small_frames_are_negotiated():
    with opened(frame_max=4096) as channel:
        key = queue(channel)
        body = os.urandom(100_000)
        send(channel, key, body)
        assert take(channel, key) == [body]


@test
def heartbeats_keep_an_idle_connection():
    connection = connect(heartbeat=1)
    channel = connection.channel()
    quiet(connection, 4)
    assert channel.queue_declare("", exclusive=True)
    connection.close()


@test
def a_client_that_falls_silent_is_closed():
    sock = socket.create_connection((HOST, int(PORT)))
    sock.settimeout(20)
    sock.sendall(b"AMQP\x00\x00\x09\x01")
    read_frame(sock)
    start_ok = b"\x00\x0a\x00\x0b" + long(b"") + short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US")
    sock.sendall(frame(start_ok))
    read_frame(sock)
    sock.sendall(frame(b"\x00\x0a\x00\x1f" + b"\x07\xff" + b"\x00\x00\x10\x00" + b"\x00\x01"))
    sock.sendall(frame(b"\x00\x0a\x00\x28" + short(b"/") + short(b"") + b"\x00"))
    began = time.monotonic()
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    assert 1.5 < time.monotonic() - began < 10


def short(data):
    return bytes([len(data)]) + data


def long(data):
    return len(data).to_bytes(4, "big") + data


def frame(payload, channel=0, kind=1):
    return bytes([kind]) + channel.to_bytes(2, "big") + long(payload) + b"\xce"


def read_frame(sock):
    head = sock.recv(7, socket.MSG_WAITALL)
    return sock.recv(int.from_bytes(head[3:7], "big") + 1, socket.MSG_WAITALL)


@test
def secrets_are_updated():
    connection = connect()
    connection.update_secret("guest", "because")
    assert connection.channel().is_open
    connection.close()


@test
def a_wrong_protocol_header_is_answered_with_the_right_one():
    for header in (b"AMQP\x00\x01\x00\x00", b"GET / HTTP/1.1\r\n\r\n"):
        sock = socket.create_connection((HOST, int(PORT)))
        sock.settimeout(20)
        sock.sendall(header)
        answer = b""
        try:
            while part := sock.recv(64):
                answer += part
        except ConnectionResetError:
            pass
        if header.startswith(b"AMQP") and not OLD_RABBITMQ:
            assert answer == b"AMQP\x00\x00\x09\x01", answer


# Publishing.


@test
def published_messages_are_got():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"one", b"two")
        method, properties, body = channel.basic_get(key, auto_ack=True)
        assert (body, method.routing_key, method.exchange, method.redelivered) == (b"one", key, "", False)
        assert method.message_count == 1, method
        assert take(channel, key) == [b"two"]
        assert channel.basic_get(key)[0] is None


@test
def publishes_are_confirmed():
    with opened() as channel:
        key = queue(channel, exclusive=False, durable=True)
        channel.confirm_delivery()
        for n in range(200):
            channel.basic_publish("", key, str(n).encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
        assert take(channel, key) == [str(n).encode() for n in range(200)]
        channel.queue_delete(key)


@test
def many_publishes_in_flight_are_confirmed_once_each():
    with opened() as channel:
        key = queue(channel, exclusive=False, durable=True)
        confirmed = []
        impl = channel._impl
        impl.confirm_delivery(lambda frame: confirmed.append((frame.method.delivery_tag, frame.method.multiple)))
        for n in range(5000):
            impl.basic_publish("", key, b"x" * 100, pika.BasicProperties(delivery_mode=2))
        until(channel.connection, "all confirms", lambda: confirmed and confirmed[-1][0] == 5000)
        covered, last = 0, 0
        for tag, multiple in confirmed:
            assert tag > last
            covered += tag - last if multiple else 1
            last = tag if multiple else max(last, tag)
        assert covered == 5000, covered
        assert channel.queue_delete(key).method.message_count == 5000


@test
def unroutable_mandatory_messages_come_back_before_their_confirm():
    with opened() as channel:
        channel.confirm_delivery()
        body = os.urandom(200_000)
        try:
            channel.basic_publish("", name("nowhere"), body, pika.BasicProperties(headers={"a": 1}), mandatory=True)
        except UnroutableError as returned:
            message = returned.messages[0]
            assert message.method.reply_code == 312 and message.method.reply_text == "NO_ROUTE"
            assert message.body == body and message.properties.headers == {"a": 1}
        else:
            raise AssertionError("not returned")
        channel.basic_publish("", name("nowhere"), b"dropped", mandatory=False)


@test
def empty_and_large_bodies_survive():
    with opened() as channel:
        key = queue(channel)
        channel.confirm_delivery()
        bodies = [b"", b"x", os.urandom(131_064), os.urandom(131_065), os.urandom(1_000_000), os.urandom(15_000_000)]
        for body in bodies:
            channel.basic_publish("", key, body, mandatory=True)
            assert take(channel, key) == [body], len(body)


@test
def too_large_bodies_are_refused():
    if OLD_RABBITMQ:
        raise Skip("its limit is 128 MiB")
    with opened() as channel:
        key = queue(channel)
        text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216"
        channel_closes(channel, 406, text, lambda: send(channel, key, bytes(16_777_217)))


@test
def headers_of_every_type_come_back_byte_for_byte():
    headers = {
        "text": "grüße \N{SNOWMAN}",
        "bytes": b"\x00\xff\xfe",
        "long-text": "x" * 5000,
        "bool": True,
        "int": -5,
        "big": 2**40,
        "decimal": decimal.Decimal("3.14"),
        "time": datetime.datetime(2024, 2, 29, 12, 0, 0),
        "nothing": None,
        "list": [1, "two", [3], {"four": 5}],
        "table": {"nested": {"deeper": "value"}},
    }
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"", headers=headers)
        _, properties, _ = channel.basic_get(key, auto_ack=True)
        found = dict(properties.headers)
        found["time"] = found["time"].replace(tzinfo=None)
        assert found == headers, found
        assert list(properties.headers) == list(headers), "in the same order"


@test
def all_properties_come_back():
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={},
        delivery_mode=2,
        priority=5,
        correlation_id="c" * 255,
        reply_to="r",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
        cluster_id="k",
    )
    with opened() as channel:
        key = queue(channel)
        channel.basic_publish("", key, b"", sent)
        _, found, _ = channel.basic_get(key, auto_ack=True)
        assert found == sent, found


@test
def a_foreign_user_id_is_refused():
    with opened() as channel:
        text = "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was 'guest'"
        channel_closes(channel, 406, text, lambda: send(channel, queue(channel), b"", user_id="somebody"))


@test
def copies_go_to_cc_and_bcc():
    with opened() as channel:
        a, b, c = queue(channel), queue(channel), queue(channel)
        send(channel, a, b"body", headers={"CC": [b], "BCC": [c, a], "x": 1})
        for key in (a, b, c):
            _, properties, body = channel.basic_get(key, auto_ack=True)
            assert body == b"body" and properties.headers == {"CC": [b], "x": 1}, properties
            assert channel.basic_get(key)[0] is None, "one copy"


# Consuming.


@test
def consumed_messages_are_acknowledged():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, *[str(n).encode() for n in range(100)])
        _, found = consumer(channel, key)
        until(channel.connection, "100 messages", lambda: len(found) == 100)
        assert [body for _, _, body in found] == [str(n).encode() for n in range(100)]
        tags = [method.delivery_tag for method, _, _ in found]
        assert tags == list(range(1, 101))
        channel.basic_ack(60, multiple=True)
        for tag in tags[60:]:
            channel.basic_ack(tag)
        assert channel.queue_declare(key, passive=True).method.message_count == 0
        channel.close()
        again = channel.connection.channel()
        assert again.basic_get(key)[0] is None


@test
def no_ack_consumers_settle_by_receiving():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"a", b"b")
        _, found = consumer(channel, key, auto_ack=True)
        until(channel.connection, "both", lambda: len(found) == 2)
        channel.close()
        assert channel.connection.channel().basic_get(key)[0] is None


@test
def requeued_messages_return_to_their_place():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"a", b"b", b"c", b"d")
        tags = [channel.basic_get(key)[0].delivery_tag for _ in range(3)]
        channel.basic_nack(tags[1], requeue=True)
        channel.basic_reject(tags[0], requeue=True)
        found = [channel.basic_get(key) for _ in range(3)]
        assert [body for _, _, body in found] == [b"a", b"b", b"d"]
        assert [method.redelivered for method, _, _ in found] == [True, True, False]


@test
def rejected_messages_are_dropped():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"a", b"b", b"c")
        tags = [channel.basic_get(key)[0].delivery_tag for _ in range(3)]
        channel.basic_reject(tags[0], requeue=False)
        channel.basic_nack(tags[2], multiple=True, requeue=False)
        assert channel.basic_get(key)[0] is None
        assert channel.queue_delete(key).method.message_count == 0


@test
def recover_returns_everything():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"a", b"b")
        assert channel.basic_get(key)[2] == b"a" and channel.basic_get(key)[2] == b"b"
        channel.basic_recover(requeue=True)
        method, _, body = channel.basic_get(key)
        assert (body, method.redelivered, method.delivery_tag) == (b"a", True, 3)


@test
def prefetch_bounds_each_consumer():
    with opened() as channel:
        key = queue(channel)
        channel.basic_qos(prefetch_count=3)
        _, found = consumer(channel, key)
        send(channel, key, *[b"x"] * 10)
        until(channel.connection, "three", lambda: len(found) >= 3)
        quiet(channel.connection)
        assert len(found) == 3
        channel.basic_ack(found[1][0].delivery_tag, multiple=True)
        until(channel.connection, "two more", lambda: len(found) >= 5)
        quiet(channel.connection)
        assert len(found) == 5


@test
def global_prefetch_bounds_the_channel():
    with opened() as channel:
        a, b = queue(channel), queue(channel)
        channel.basic_qos(prefetch_count=3, global_qos=True)
        _, from_a = consumer(channel, a)
        _, from_b = consumer(channel, b)
        send(channel, a, *[b"a"] * 5)
        send(channel, b, *[b"b"] * 5)
        until(channel.connection, "three", lambda: len(from_a + from_b) >= 3)
        quiet(channel.connection)
        assert len(from_a + from_b) == 3
        done = 0
        while done < 10:
            found = from_a + from_b
            until(channel.connection, "the rest", lambda: len(from_a + from_b) > done)
            tag = sorted(method.delivery_tag for method, _, _ in found)[done] if len(found) > done else done + 1
            channel.basic_ack(tag)
            done += 1
        assert (len(from_a), len(from_b)) == (5, 5)


@test
def what_a_global_prefetch_keeps_back_stays_in_its_queue():
    with opened() as channel, opened() as other:
        a, b = queue(channel, exclusive=False, auto_delete=True), queue(channel, exclusive=False, auto_delete=True)
        channel.basic_qos(prefetch_count=1, global_qos=True)
        _, from_a = consumer(channel, a)
        _, from_b = consumer(channel, b, auto_ack=True)
        send(channel, a, b"1", b"2")
        until(channel.connection, "one", lambda: len(from_a) >= 1)
        send(channel, b, b"b")
        quiet(channel.connection)
        # Without acknowledgements it counts for nothing, but waits.
        assert (len(from_a), from_b) == (1, [])
        counts = [channel.queue_declare(key, passive=True).method.message_count for key in (a, b)]
        assert counts == [1, 1]
        _, elsewhere = consumer(other, a)
        until(other.connection, "the second", lambda: elsewhere)
        assert elsewhere[0][0].redelivered is False and elsewhere[0][2] == b"2"
        channel.basic_ack(from_a[0][0].delivery_tag)
        until(channel.connection, "b", lambda: from_b)


@test
def quorum_queues_know_no_global_prefetch():
    with opened() as channel:
        key = channel.queue_declare(name("q"), durable=True, arguments={"x-queue-type": "quorum"}).method.queue
        try:
            _, found = consumer(channel, key)
            channel.basic_qos(prefetch_count=1, global_qos=True)
            send(channel, key, b"a", b"b", b"c")
            until(channel.connection, "all", lambda: len(found) == 3)
            told = f"NOT_IMPLEMENTED - queue '{key}' in vhost '/' does not support global qos"
            with opened() as other:
                other.basic_qos(prefetch_count=1, global_qos=True)
                connection_closes(other, 540, told, lambda: other.basic_consume(key, lambda *_: None))
        finally:
            channel.queue_delete(key)


@test
def consumers_take_turns():
    with opened() as channel:
        key = queue(channel)
        channel.basic_qos(prefetch_count=5)
        found = [consumer(channel, key)[1] for _ in range(2)]
        send(channel, key, *[b"x"] * 10)
        until(channel.connection, "ten", lambda: sum(map(len, found)) == 10)
        assert [len(each) for each in found] == [5, 5]


@test
def a_closed_channel_gives_back_what_it_had():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"a", b"b")
        _, found = consumer(channel, key)
        until(channel.connection, "both", lambda: len(found) == 2)
        connection = channel.connection
        channel.close()
        again = connection.channel()
        method, _, body = again.basic_get(key)
        assert (body, method.redelivered) == (b"a", True)
        assert again.queue_declare(key, passive=True).method.consumer_count == 0


@test
def a_closed_connection_gives_back_what_it_had():
    with opened() as channel:
        key = queue(channel, exclusive=False)
        send(channel, key, b"a")
        assert channel.basic_get(key)[2] == b"a"
    with opened() as channel:
        method, _, body = channel.basic_get(key)
        assert (body, method.redelivered) == (b"a", True)
        channel.queue_delete(key)


@test
def cancelled_consumers_get_no_more():
    with opened() as channel:
        key = queue(channel)
        tag, found = consumer(channel, key, consumer_tag="mine")
        assert tag == "mine"
        send(channel, key, b"a")
        until(channel.connection, "one", lambda: found)
        channel.basic_cancel(tag)
        send(channel, key, b"b")
        quiet(channel.connection)
        assert len(found) == 1
        assert channel.basic_get(key)[2] == b"b"


@test
def consumers_are_told_when_their_queue_is_deleted():
    with opened() as channel:
        key = queue(channel)
        told = []
        channel.add_on_cancel_callback(lambda frame: told.append(frame.method.consumer_tag))
        tag, _ = consumer(channel, key)
        channel.queue_delete(key)
        until(channel.connection, "the cancel", lambda: told)
        assert told == [tag]


@test
def an_exclusive_consumer_is_alone():
    with opened() as channel:
        key = queue(channel)
        consumer(channel, key, exclusive=True)
        other = channel.connection.channel()
        text = f"ACCESS_REFUSED - queue '{key}' in vhost '/' in exclusive use"
        closes(403, text, lambda: other.basic_consume(key, lambda *_: None))


@test
def consumer_tags_are_used_once():
    with opened() as channel:
        key = queue(channel)
        channel._impl.basic_consume(key, lambda *_: None, consumer_tag="t")
        channel._impl._consumers.clear()
        channel._impl._consumers_with_noack.clear()
        text = "NOT_ALLOWED - attempt to reuse consumer tag 't'"
        connection_closes(channel, 530, text, lambda: channel._impl.basic_consume(key, lambda *_: None, consumer_tag="t"))


@test
def unknown_delivery_tags_close_the_channel():
    with opened() as channel:
        channel_closes(channel, 406, "PRECONDITION_FAILED - unknown delivery tag 7", lambda: channel.basic_ack(7))
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"a")
        tag = channel.basic_get(key)[0].delivery_tag
        channel.basic_ack(tag)
        channel_closes(channel, 406, f"unknown delivery tag {tag}", lambda: channel.basic_nack(tag))


# Queues.


@test
def server_named_queues_have_names_of_their_own():
    with opened() as channel:
        first = channel.queue_declare("", exclusive=True).method.queue
        second = channel.queue_declare("", exclusive=True).method.queue
        assert first.startswith("amq.gen-") and first != second
        channel.exchange_declare(exchange := name("x"), "fanout", auto_delete=True)
        channel.queue_bind("", exchange)
        send(channel, "", b"to the last", exchange=exchange)
        assert take(channel, second) == [b"to the last"] and take(channel, first) == []


@test
def no_queue_was_declared_before():
    with opened() as channel:
        channel_closes(channel, 404, "NOT_FOUND - no previously declared queue", lambda: channel.queue_purge(""))


@test
def missing_queues_are_told():
    missing = name("missing")
    text = f"NOT_FOUND - no queue '{missing}' in vhost '/'"
    for action in (
        lambda channel: channel.queue_declare(missing, passive=True),
        lambda channel: channel.basic_get(missing),
        lambda channel: channel.basic_consume(missing, lambda *_: None),
        lambda channel: channel.queue_purge(missing),
        lambda channel: channel.queue_bind(missing, "amq.direct", "k"),
    ):
        with opened() as channel:
            channel_closes(channel, 404, text, lambda: action(channel))


@test
def what_is_not_there_can_be_deleted_and_unbound():
    with opened() as channel:
        assert channel.queue_delete(name("missing")).method.message_count == 0
        channel.exchange_delete(name("missing"))
        key = queue(channel)
        channel.queue_unbind(key, "amq.direct", "never bound")


@test
def declarations_must_agree():
    with opened() as channel:
        key = queue(channel, exclusive=False)
        text = f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{key}' in vhost '/': received 'true' but current is 'false'"
        channel_closes(channel, 406, text, lambda: channel.queue_declare(key, durable=True))
    with opened() as channel:
        text = f"inequivalent arg 'auto_delete' for queue '{key}' in vhost '/': received 'true' but current is 'false'"
        channel_closes(channel, 406, text, lambda: channel.queue_declare(key, auto_delete=True))
    with opened() as channel:
        assert channel.queue_declare(key).method.queue == key
        channel.queue_delete(key)


@test
def exclusive_queues_are_of_one_connection():
    with opened() as channel:
        key = queue(channel)
        with opened() as other:
            text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{key}' in vhost '/'"
            channel_closes(other, 405, text, lambda: other.queue_declare(key, passive=True))
        with opened() as other:
            channel_closes(other, 405, text, lambda: other.basic_consume(key, lambda *_: None))
        with opened() as other:
            channel_closes(other, 405, text, lambda: other.queue_declare(key, exclusive=True))
    with opened() as other:
        channel_closes(other, 404, "no queue", lambda: other.queue_declare(key, passive=True))


@test
def auto_delete_queues_go_with_their_last_consumer():
    with opened() as channel:
        key = queue(channel, exclusive=False, auto_delete=True)
        first, _ = consumer(channel, key)
        second, _ = consumer(channel, key)
        channel.basic_cancel(first)
        assert channel.queue_declare(key, passive=True).method.consumer_count == 1
        channel.basic_cancel(second)
        channel_closes(channel, 404, "no queue", lambda: channel.queue_declare(key, passive=True))


@test
def counts_are_told():
    with opened() as channel:
        key = queue(channel, exclusive=False)
        channel.confirm_delivery()
        send(channel, key, b"a", b"b", b"c")
        declared = channel.queue_declare(key).method
        assert (declared.message_count, declared.consumer_count) == (3, 0)
        assert channel.queue_purge(key).method.message_count == 3
        send(channel, key, b"d")
        text = f"PRECONDITION_FAILED - queue '{key}' in vhost '/' not empty"
        other = channel.connection.channel()
        closes(406, text, lambda: other.queue_delete(key, if_empty=True))
        tag, _ = consumer(channel, key)
        text = f"PRECONDITION_FAILED - queue '{key}' in vhost '/' in use"
        other = channel.connection.channel()
        closes(406, text, lambda: other.queue_delete(key, if_unused=True))
        channel.basic_cancel(tag)
        channel.close()
        assert channel.connection.channel().queue_delete(key, if_unused=True).method.message_count == 1


@test
def reserved_names_are_refused():
    with opened() as channel:
        text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
        channel_closes(channel, 403, text, lambda: channel.queue_declare("amq.mine"))
    with opened() as channel:
        text = "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'"
        channel_closes(channel, 403, text, lambda: channel.exchange_declare("amq.mine", "direct"))
    for action in (
        lambda channel: channel.exchange_declare("", "direct"),
        lambda channel: channel.exchange_delete(""),
        lambda channel: channel.queue_bind(queue(channel), "", "k"),
    ):
        with opened() as channel:
            text = "ACCESS_REFUSED - operation not permitted on the default exchange"
            channel_closes(channel, 403, text, lambda: action(channel))
    with opened() as channel:
        channel_closes(channel, 403, "ACCESS_REFUSED", lambda: channel.exchange_delete("amq.direct"))


@test
def line_ends_in_names_are_dropped():
    with opened() as channel:
        stem = name("lines")
        # pika waits for an answer with the name that it asked for: ask for none.
        channel._impl._send_method(pika.spec.Queue.Declare(queue=f"{stem}\r\n-x\n", exclusive=True, nowait=True))
        send(channel, f"{stem}-x", b"a")
        assert take(channel, f"{stem}-x") == [b"a"]


# Exchanges.


@test
def direct_fanout_and_topic_exchanges_route():
    with opened() as channel:
        for kind, pattern, right, wrong in (
            ("direct", "a.b", ["a.b"], ["a", "a.b.c"]),
            ("fanout", "", ["a.b", ""], []),
            ("topic", "a.*.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c"]),
            ("topic", "a.#", ["a", "a.b", "a.b.c"], ["b.a", ""]),
            ("topic", "#.z", ["z", "a.z"], ["z.a"]),
            ("topic", "#", ["", "anything.at.all"], []),
        ):
            exchange, key = name("x"), queue(channel)
            channel.exchange_declare(exchange, kind, auto_delete=True)
            channel.queue_bind(key, exchange, pattern)
            for routing_key in right + wrong:
                send(channel, routing_key, routing_key.encode(), exchange=exchange)
            assert take(channel, key) == [each.encode() for each in right], (kind, pattern)


@test
def headers_exchanges_route():
    with opened() as channel:
        cases = (
            ({"x-match": "all", "a": 1, "b": "two"}, [{"a": 1, "b": "two", "c": 3}], [{"a": 1}, {"a": 1, "b": "three"}, None]),
            ({"x-match": "any", "a": 1, "b": "two"}, [{"a": 1}, {"b": "two"}], [{"a": 2}, {}, None]),
            ({"a": 1}, [{"a": 1}], [{"b": 1}]),
            ({"x-match": "all", "a": None}, [{"a": "whatever"}], [{"b": 1}]),
        )
        if not OLD_RABBITMQ:
            cases += (({"x-match": "any-with-x", "x-a": 1}, [{"x-a": 1}], [{"a": 1}]),)
        for arguments, right, wrong in cases:
            key = queue(channel)
            channel.queue_bind(key, "amq.headers", "", arguments)
            for number, headers in enumerate(right + wrong):
                send(channel, "", str(number).encode(), exchange="amq.headers", headers=headers)
            assert take(channel, key) == [str(number).encode() for number in range(len(right))], arguments
        channel_closes(channel, 406, "x-match", lambda: channel.queue_bind(key, "amq.headers", "", {"x-match": "some"}))


@test
def exchanges_are_bound_to_exchanges():
    with opened() as channel:
        source, target, key = name("source"), name("target"), queue(channel)
        channel.exchange_declare(source, "topic", auto_delete=True)
        channel.exchange_declare(target, "fanout", auto_delete=True)
        channel.exchange_bind(target, source, "a.*")
        channel.queue_bind(key, target)
        send(channel, "a.b", b"yes", exchange=source)
        send(channel, "b.a", b"no", exchange=source)
        assert take(channel, key) == [b"yes"]
        channel.exchange_unbind(target, source, "a.*")
        closes(404, f"no exchange '{source}'", lambda: channel.exchange_declare(source, passive=True))


@test
def alternate_exchanges_get_the_rest():
    with opened() as channel:
        rest, exchange, key = name("rest"), name("x"), queue(channel)
        channel.exchange_declare(rest, "fanout")
        channel.queue_bind(key, rest)
        channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": rest})
        channel.confirm_delivery()
        channel.basic_publish(exchange, "nobody", b"a", mandatory=True)
        assert take(channel, key) == [b"a"]
        channel.exchange_delete(exchange)
        channel.exchange_delete(rest)


@test
def internal_exchanges_take_no_messages():
    with opened() as channel:
        exchange = name("inside")
        channel.exchange_declare(exchange, "fanout", internal=True)
        text = f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'"
        channel_closes(channel, 403, text, lambda: send(channel, "", b"", exchange=exchange))
    with opened() as channel:
        channel.exchange_delete(exchange)


@test
def missing_exchanges_are_told():
    missing = name("missing")
    text = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    for action in (
        lambda channel: channel.exchange_declare(missing, passive=True),
        lambda channel: send(channel, "k", b"", exchange=missing),
        lambda channel: channel.queue_bind(queue(channel), missing, "k"),
        lambda channel: channel.exchange_bind("amq.fanout", missing),
    ):
        with opened() as channel:
            channel_closes(channel, 404, text, lambda: action(channel))


@test
def exchange_declarations_must_agree():
    with opened() as channel:
        exchange = name("x")
        channel.exchange_declare(exchange, "direct")
        text = f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': received 'fanout' but current is 'direct'"
        channel_closes(channel, 406, text, lambda: channel.exchange_declare(exchange, "fanout"))
    with opened() as channel:
        text = f"inequivalent arg 'durable' for exchange '{exchange}' in vhost '/': received 'true' but current is 'false'"
        channel_closes(channel, 406, text, lambda: channel.exchange_declare(exchange, "direct", durable=True))
    with opened() as channel:
        channel.queue_bind(queue(channel), exchange)
        text = f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use"
        channel_closes(channel, 406, text, lambda: channel.exchange_delete(exchange, if_unused=True))
    with opened() as channel:
        channel.exchange_delete(exchange, if_unused=True)


@test
def unknown_exchange_types_are_told():
    with opened() as channel:
        if OLD_RABBITMQ:
            connection_closes(channel, 503, "COMMAND_INVALID", lambda: channel.exchange_declare(name("x"), "odd"))
        else:
            text = "PRECONDITION_FAILED - unknown exchange type 'odd'"
            channel_closes(channel, 406, text, lambda: channel.exchange_declare(name("x"), "odd"))


@test
def auto_delete_exchanges_go_with_their_last_binding():
    with opened() as channel:
        exchange, key = name("x"), queue(channel)
        channel.exchange_declare(exchange, "direct", auto_delete=True)
        channel.queue_bind(key, exchange, "k")
        channel.queue_unbind(key, exchange, "k")
        channel_closes(channel, 404, "no exchange", lambda: channel.exchange_declare(exchange, passive=True))


# What is not there, and says so.


@test
def exchanges_can_choose_one_queue():
    if OLD_RABBITMQ:
        raise Skip("these exchanges are plugins of RabbitMQ, which are off")
    with opened() as channel:
        keys = [queue(channel) for _ in range(3)]
        by_message = {"hash-property": "message_id"}
        for kind, arguments in (
            ("x-consistent-hash", {}),
            ("x-consistent-hash", {"hash-header": "n"}),
            ("x-consistent-hash", by_message),
            ("x-modulus-hash", {}),
            ("x-random", {}),
            ("x-local-random", {}),
        ):
            exchange = name("x")
            channel.exchange_declare(exchange, kind, arguments=arguments)
            for key in keys:
                channel.queue_bind(key, exchange, "10" if kind == "x-consistent-hash" else "")
            places = []
            for _ in range(2):
                for n in range(90):
                    routing_key = "same" if arguments else str(n)
                    send(channel, routing_key, str(n).encode(), exchange=exchange, headers={"n": n}, message_id=str(n))
                places.append([sorted(take(channel, key)) for key in keys])
                assert sum(map(len, places[-1])) == 90, f"each goes to one queue: {kind} {places}"
                assert all(len(place) > 9 for place in places[-1]), f"all get some: {kind} {places}"
            assert (places[0] == places[1]) is ("random" not in kind), f"a hash stays: {kind} {places}"
            channel.exchange_delete(exchange)


@test
def a_consistent_hash_has_weights():
    if OLD_RABBITMQ:
        raise Skip("these exchanges are plugins of RabbitMQ, which are off")
    for weight, text in (
        ("much", 'PRECONDITION_FAILED - The binding key must be an integer: <<"much">>'),
        ("0", "PRECONDITION_FAILED - The binding key must be greater than 0"),
        ("10001", "PRECONDITION_FAILED - The binding key must not exceed 10000"),
    ):
        with opened() as channel:
            exchange = name("x")
            channel.exchange_declare(exchange, "x-consistent-hash", auto_delete=True)
            key = queue(channel)
            channel_closes(channel, 406, text, lambda: channel.queue_bind(key, exchange, weight))
    with opened() as channel:
        both = {"hash-header": "a", "hash-property": "message_id"}
        text = "PRECONDITION_FAILED - hash-header and hash-property are mutually exclusive"
        declare = lambda: channel.exchange_declare(name("x"), "x-consistent-hash", arguments=both)
        channel_closes(channel, 406, text, declare)


@test
def arguments_that_differ_are_told():
    with opened() as channel:
        exchange = name("x")
        channel.exchange_declare(exchange, "fanout", auto_delete=True, arguments={"alternate-exchange": "one"})
        declare = lambda: channel.exchange_declare(
            exchange, "fanout", auto_delete=True, arguments={"alternate-exchange": "two"}
        )
        where = f"for exchange '{exchange}' in vhost '/'"
        text = f"inequivalent arg 'alternate-exchange' {where}: received 'two' but current is 'one'"
        channel_closes(channel, 406, text, declare)
    with opened() as channel:
        declare = lambda: channel.exchange_declare(exchange, "fanout", auto_delete=True)
        text = f"{where}: received none but current is the value 'one' of type 'longstr'"
        channel_closes(channel, 406, text, declare)
    with opened() as channel:
        wrong = {"alternate-exchange": 5}
        channel_closes(channel, 406, "PRECONDITION_FAILED - invalid type '", lambda: channel.exchange_declare(name("x"), "fanout", arguments=wrong))
    with opened() as channel:
        channel.exchange_delete(exchange)
        key = queue(channel)
        assert channel.queue_declare(key, exclusive=True, arguments={"x-queue-type": "classic"}).method.queue == key
        channel_closes(channel, 404, "NOT_FOUND - no queue ''", lambda: channel.queue_declare("", passive=True))


@test
def what_rabbitmq_does_not_have_is_told():
    def publish_immediate(channel):
        immediate = pika.spec.Basic.Publish(exchange="", routing_key="k", immediate=True)
        channel._impl._send_method(immediate, (pika.BasicProperties(), b""))

    for action, text in (
        (lambda channel: channel.basic_qos(prefetch_size=1), "NOT_IMPLEMENTED - prefetch_size!=0 (1)"),
        (lambda channel: channel.basic_recover(requeue=False), "NOT_IMPLEMENTED - requeue=false"),
        (lambda channel: channel.flow(False), "NOT_IMPLEMENTED - active=false"),
        (publish_immediate, "NOT_IMPLEMENTED - immediate=true"),
    ):
        with opened() as channel:
            connection_closes(channel, 540, text, lambda: action(channel))


@test
def transactions():
    with opened() as channel:
        key = queue(channel)
        channel.tx_select()
        send(channel, key, b"a")
        channel.tx_rollback()
        send(channel, key, b"b")
        channel.tx_commit()
        assert take(channel, key) == [b"b"]


# Time and length.


def count(channel, key):
    return channel.queue_declare(key, passive=True).method.message_count


@test
def message_expiration():
    with opened() as channel:
        key = queue(channel)
        channel.confirm_delivery()
        send(channel, key, b"a", expiration="0")
        assert take(channel, key) == []
        send(channel, key, b"b", expiration="3600000", priority=7)
        _, properties, body = channel.basic_get(key, auto_ack=True)
        assert (body, properties.expiration, properties.priority) == (b"b", "3600000", 7)
        send(channel, key, b"c", expiration="50")
        assert count(channel, key) == 1
        eventually("nobody looked and it is gone", lambda: count(channel, key) == 0)


@test
def a_message_that_may_stay_keeps_those_behind_it():
    with opened() as channel:
        key = queue(channel)
        channel.confirm_delivery()
        send(channel, key, b"stays")
        send(channel, key, b"goes", expiration="10")
        send(channel, key, b"stays too")
        quiet(channel.connection, 0.2)
        assert count(channel, key) == 3
        assert channel.basic_get(key, auto_ack=True)[2] == b"stays"
        eventually("its turn came", lambda: count(channel, key) == 1)
        assert take(channel, key) == [b"stays too"]


@test
def no_time_at_all_is_enough_for_a_consumer_who_is_there():
    with opened() as channel:
        key = queue(channel, arguments={"x-message-ttl": 0})
        channel.confirm_delivery()
        send(channel, key, b"nobody")
        _, found = consumer(channel, key)
        send(channel, key, b"somebody")
        until(channel.connection, "the delivery", lambda: found)
        assert [body for _, _, body in found] == [b"somebody"]


@test
def wrong_expirations_are_told():
    with opened() as channel:
        key = queue(channel)
        for value, why in (("soon", "no_integer"), ("5ms", '{leftover_string,"ms"}'), ("-1", "{value_negative,-1}")):
            other = channel.connection.channel()
            text = f"PRECONDITION_FAILED - invalid expiration '{value}': {why}"
            channel_closes(other, 406, text, lambda: send(other, key, b"", expiration=value))


@test
def queues_have_times_to_live():
    with opened() as channel:
        channel.confirm_delivery()
        key = queue(channel, arguments={"x-message-ttl": 50})
        send(channel, key, b"a")
        send(channel, key, b"b", expiration="3600000")
        assert count(channel, key) == 2
        eventually("both are gone", lambda: count(channel, key) == 0)
        # What somebody holds does not expire; given back too late it is gone.
        send(channel, key, b"c")
        tag = channel.basic_get(key)[0].delivery_tag
        quiet(channel.connection, 0.2)
        channel.basic_nack(tag, requeue=True)
        assert take(channel, key) == []


@test
def queues_that_nobody_uses_are_deleted():
    with opened() as channel:
        key = queue(channel, arguments={"x-expires": 300})
        _, found = consumer(channel, key)
        quiet(channel.connection, 0.6)
        send(channel, key, b"a")
        until(channel.connection, "used while consumed", lambda: found)
    with opened() as channel, opened() as other:
        name_ = queue(channel, "expires", exclusive=False, arguments={"x-expires": 400})
        for _ in range(6):
            quiet(channel.connection, 0.1)
            other.basic_get(name_)
        quiet(channel.connection, 1.0)
        channel_closes(channel, 404, f"no queue '{name_}'", lambda: channel.queue_declare(name_, passive=True))


@test
def full_queues_drop_their_oldest():
    with opened() as channel:
        channel.confirm_delivery()
        key = queue(channel, arguments={"x-max-length": 2})
        send(channel, key, b"a", b"b", b"c")
        assert count(channel, key) == 2
        held = channel.basic_get(key)
        assert held[2] == b"b"
        send(channel, key, b"d")
        assert count(channel, key) == 2, "what somebody holds does not count"
        channel.basic_nack(held[0].delivery_tag, requeue=True)
        eventually("the oldest is the one that came back", lambda: count(channel, key) == 2)
        assert take(channel, key) == [b"c", b"d"]
        key = queue(channel, arguments={"x-max-length-bytes": 5})
        send(channel, key, b"aaa", b"bb")
        assert count(channel, key) == 2
        send(channel, key, b"c")
        assert take(channel, key) == [b"bb", b"c"]


@test
def full_queues_refuse_if_asked_to():
    with opened() as channel:
        channel.confirm_delivery()
        for overflow in ("reject-publish", "reject-publish-dlx"):
            key = queue(channel, arguments={"x-max-length": 2, "x-overflow": overflow})
            send(channel, key, b"a", b"b")
            try:
                send(channel, key, b"c")
            except pika.exceptions.NackError:
                pass
            else:
                raise AssertionError("taken")
            assert take(channel, key) == [b"a", b"b"]
            send(channel, key, b"d")
            assert take(channel, key) == [b"d"]


@test
def what_a_full_queue_refuses_can_be_dead_lettered():
    with opened() as channel:
        channel.confirm_delivery()
        dead = queue(channel, "dead")
        arguments = {
            "x-max-length": 1,
            "x-overflow": "reject-publish-dlx",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
        }
        key = queue(channel, arguments=arguments)
        send(channel, key, b"a")
        for body in (b"b", b"c"):
            try:
                send(channel, key, body)
            except pika.exceptions.NackError:
                pass
            else:
                raise AssertionError("taken")
        eventually("they are dead letters", lambda: count(channel, dead) == 2)
        _, properties, body = channel.basic_get(dead, auto_ack=True)
        assert body == b"b"
        death = properties.headers["x-death"][0]
        assert (death["reason"], death["queue"], death["count"]) == ("maxlen", key, 1), death
        assert take(channel, dead) == [b"c"]
        assert take(channel, key) == [b"a"]


@test
def who_does_not_acknowledge_in_time_is_cancelled():
    if OLD_RABBITMQ:
        raise Skip("quorum queues cancel consumers since 4.3")
    with opened() as channel:
        arguments = {"x-queue-type": "quorum", "x-consumer-timeout": 200}
        key = queue(channel, exclusive=False, durable=True, arguments=arguments)
        cancelled = []
        channel.add_on_cancel_callback(cancelled.append)
        _, slow = consumer(channel, key)
        send(channel, key, b"1")
        until(channel.connection, "a delivery", lambda: slow)
        until(channel.connection, "the consumer is cancelled", lambda: cancelled)
        _, next_ = consumer(channel, key)
        until(channel.connection, "another delivery", lambda: next_)
        method, properties, body = next_[0]
        assert method.redelivered and body == b"1"
        assert properties.headers["x-acquired-count"] == 1, properties
        channel.basic_ack(slow[0][0].delivery_tag)  # Late, and no mistake.
        channel.basic_ack(method.delivery_tag)
        assert take(channel, key) == []
        send(channel, key, b"2")
        eventually("it is there", lambda: count(channel, key) == 1)
        other = channel.connection.channel()
        method, _, _ = other.basic_get(key)
        assert method

        def goes_on():
            for _ in range(1000):
                other.basic_qos(prefetch_count=0)
                time.sleep(0.01)

        closes(406, "PRECONDITION_FAILED - delivery acknowledgement on channel", goes_on)
        channel.queue_delete(key)


@test
def what_fails_waits_before_it_is_tried_again():
    if OLD_RABBITMQ:
        raise Skip("delayed retries are of 4.3")
    with opened() as channel:
        arguments = {
            "x-queue-type": "quorum",
            "x-delayed-retry-type": "all",
            "x-delayed-retry-min": 200,
            "x-delayed-retry-max": 300,
        }
        key = queue(channel, exclusive=False, durable=True, arguments=arguments)
        send(channel, key, b"1")
        _, found = consumer(channel, key)
        for number, least in ((1, 0.2), (2, 0.3), (3, 0.3)):
            until(channel.connection, "a delivery", lambda: len(found) == number)
            began = time.monotonic()
            channel.basic_reject(found[-1][0].delivery_tag, requeue=True)
            until(channel.connection, "it is tried again", lambda: len(found) == number + 1)
            waited = time.monotonic() - began
            # The first failure waits once the minimum, the second twice, up to the maximum.
            assert waited >= least, (number, waited)
        assert found[-1][1].headers["x-delivery-count"] == 3, found[-1]
        channel.queue_delete(key)


def delayed_exchange(channel, kind="direct"):
    if OLD_RABBITMQ:
        raise Skip("a plugin of RabbitMQ's that is not installed")
    later = name("later")
    arguments = {"x-delayed-type": kind}
    channel.exchange_declare(later, "x-delayed-message", durable=True, arguments=arguments)
    return later


@test
def messages_can_be_delayed():
    with opened() as channel:
        later = delayed_exchange(channel)
        channel.confirm_delivery()
        key = queue(channel)
        channel.queue_bind(key, later, "k")
        _, found = consumer(channel, key, auto_ack=True)
        began = time.monotonic()
        for body, delay in ((b"3", 600), (b"1", 200), (b"2", "400"), (b"0", None)):
            headers = {} if delay is None else {"x-delay": delay}
            properties = pika.BasicProperties(headers=headers, delivery_mode=2)
            channel.basic_publish(later, "k", body, properties, mandatory=True)
        until(channel.connection, "all of them", lambda: len(found) == 4)
        assert [body for _, _, body in found] == [b"0", b"1", b"2", b"3"]
        assert time.monotonic() - began >= 0.6
        assert [message[1].headers.get("x-delay") for message in found] == [None, -200, -400, -600]
        properties = pika.BasicProperties(headers={"x-delay": 1})
        channel.basic_publish(later, "nobody", b"", properties, mandatory=True)  # Not returned.
        try:
            channel.basic_publish(later, "nobody", b"", mandatory=True)
        except UnroutableError:
            pass
        else:
            raise AssertionError("without a delay it is returned")
        channel.exchange_delete(later)


@test
def delayed_messages_are_routed_when_they_are_due():
    with opened() as channel:
        later = delayed_exchange(channel, "topic")
        early, late = queue(channel), queue(channel)
        channel.queue_bind(early, later, "#")
        channel.basic_publish(later, "a.b", b"1", pika.BasicProperties(headers={"x-delay": 300}))
        channel.queue_unbind(early, later, "#")
        channel.queue_bind(late, later, "a.*")
        eventually("it is in the other queue", lambda: count(channel, late) == 1)
        assert count(channel, early) == 0
        channel.exchange_delete(later)
        for arguments, text in (
            ({}, "'x-delayed-type' must be an existing exchange type"),
            ({"x-delayed-type": "x-delayed-message"}, "'x-delayed-message' can't be used for 'x-delayed-type'"),
        ):
            other = channel.connection.channel()

            def declare(other=other, arguments=arguments):
                other.exchange_declare(name("wrong"), "x-delayed-message", arguments=arguments)

            channel_closes(other, 406, text, declare)


@test
def wrong_arguments_of_queues_are_told():
    with opened() as channel:
        for argument, value, why in (
            ("x-message-ttl", "5", '"expected integer, got longstr"'),
            ("x-message-ttl", -1, "{value_negative,-1}"),
            ("x-expires", 0, "{value_zero,0}"),
            ("x-max-length", -1, "{value_negative,-1}"),
            ("x-overflow", "burst", "invalid_overflow"),
            ("x-overflow", 5, "{unacceptable_type,"),
        ):
            other = channel.connection.channel()
            key = name("wrong")
            text = f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{key}' in vhost '/': {why}"
            channel_closes(other, 406, text, lambda: queue_named(other, key, {argument: value}))
        key = queue(channel, arguments={"x-message-ttl": 1000})
        text = f"inequivalent arg 'x-message-ttl' for queue '{key}' in vhost '/': received '2000' but current is '1000'"
        channel_closes(channel, 406, text, lambda: queue_named(channel, key, {"x-message-ttl": 2000}))


def queue_named(channel, key, arguments):
    channel.queue_declare(key, exclusive=True, arguments=arguments)


@test
def transactions_of_publishes_and_acknowledgements():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"1", b"2")
        channel.tx_select()
        method, _, body = channel.basic_get(key)
        assert body == b"1"
        channel.basic_ack(method.delivery_tag)
        send(channel, key, b"3")
        other = channel.connection.channel()
        assert other.queue_declare(key, passive=True).method.message_count == 1
        channel.tx_commit()
        assert take(other, key) == [b"2", b"3"]
        send(channel, key, b"4")
        channel.tx_rollback()
        channel.tx_commit()
        assert take(other, key) == []


@test
def a_rollback_keeps_what_was_acknowledged():
    with opened() as channel:
        key = queue(channel)
        send(channel, key, b"1")
        channel.tx_select()
        method, _, _ = channel.basic_get(key)
        channel.basic_ack(method.delivery_tag)
        channel.tx_rollback()
        other = channel.connection.channel()
        assert take(other, key) == []
        channel.basic_nack(method.delivery_tag, requeue=True)
        channel.tx_commit()
        assert take(other, key) == [b"1"]


@test
def transactions_and_confirms_do_not_mix():
    for first, then, text in (
        ("confirm_delivery", "tx_select", "cannot switch from confirm to tx mode"),
        ("tx_select", "confirm_delivery", "cannot switch from tx to confirm mode"),
    ):
        with opened() as channel:
            getattr(channel, first)()
            channel_closes(channel, 406, text, getattr(channel, then))
    with opened() as channel:
        channel_closes(channel, 406, "channel is not transactional", channel.tx_commit)
    with opened() as channel:
        channel_closes(channel, 406, "channel is not transactional", channel.tx_rollback)


@test
def rejected_messages_are_dead_lettered():
    with opened() as channel:
        dead = queue(channel, "dead")
        exchange = name("dlx")
        channel.exchange_declare(exchange, "fanout", auto_delete=True)
        channel.queue_bind(dead, exchange)
        key = queue(channel, arguments={"x-dead-letter-exchange": exchange})
        send(channel, key, b"body", headers={"mine": 1}, content_type="text/plain")
        method, _, _ = channel.basic_get(key)
        channel.basic_reject(method.delivery_tag, requeue=False)
        found = []
        eventually("the dead letter", lambda: found.append(channel.basic_get(dead)) or found[-1][0])
        method, properties, body = found[-1]
        assert (method.exchange, method.routing_key, body) == (exchange, key, b"body")
        headers = properties.headers
        (death,) = headers["x-death"]
        assert isinstance(death.pop("time"), datetime.datetime)
        assert death == {"queue": key, "reason": "rejected", "count": 1, "exchange": "", "routing-keys": [key]}, death
        assert (headers["mine"], properties.content_type) == (1, "text/plain")
        first = [headers[f"x-first-death-{what}"] for what in ("queue", "reason", "exchange")]
        assert first == [key, "rejected", ""], first


@test
def dead_letters_with_a_routing_key():
    with opened() as channel:
        key = queue(channel)
        retry = queue(channel, "retry", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": key})
        send(channel, retry, b"x")
        for count in (1, 2, 3):
            method, _, _ = channel.basic_get(retry)
            channel.basic_nack(method.delivery_tag, requeue=False)
            found = []
            eventually("the dead letter", lambda: found.append(channel.basic_get(key)) or found[-1][0])
            method, properties, body = found[-1]
            assert method.routing_key == key
            assert properties.headers["x-death"][0]["count"] == 1
            channel.basic_ack(method.delivery_tag)
            send(channel, retry, body)


@test
def queue_arguments():
    with opened() as channel:
        dead = queue(channel)
        arguments = {"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        key = queue(channel, arguments=arguments)
        send(channel, key, b"a", b"b")
        eventually("the dead letter", lambda: take(channel, dead) == [b"a"])
        channel.queue_declare("", exclusive=True, arguments={"x-message-ttl": 10})
        channel.queue_declare("", exclusive=True, arguments={"x-max-priority": 3})


def stream(channel, stem="s", **arguments):
    arguments = {"x-queue-type": "stream", **arguments}
    return channel.queue_declare(name(stem), durable=True, arguments=arguments).method.queue


def read_stream(channel, key, count, **arguments):
    """(method, properties, body) of this many messages, acknowledged one by one."""
    found = []

    def on_message(_, *message):
        found.append(message)
        channel.basic_ack(message[0].delivery_tag)

    arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
    tag = channel.basic_consume(key, on_message, arguments=arguments)
    until(channel.connection, f"{count} messages", lambda: len(found) >= count)
    quiet(channel.connection)
    channel.basic_cancel(tag)
    assert len(found) == count, found
    return found


@test
def streams_are_read_from_anywhere():
    with opened() as channel:
        key = stream(channel)
        channel.confirm_delivery()
        for body in (b"a", b"b", b"c"):
            channel.basic_publish("", key, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
        channel.basic_qos(prefetch_count=1)
        started = datetime.datetime.fromtimestamp(0)
        places = [("first", b"abc"), (1, b"bc"), (started, b"abc"), ("1h", b"abc")]
        for offset, expected in places:
            found = read_stream(channel, key, len(expected), x_stream_offset=offset)
            assert b"".join(body for _, _, body in found) == expected, (offset, found)
            offsets = [properties.headers["x-stream-offset"] for _, properties, _ in found]
            assert offsets == list(range(3 - len(expected), 3)), offsets
            assert not any(method.redelivered for method, _, _ in found)
        # Nothing says where: what comes from now on.
        found = []
        channel.basic_consume(key, lambda _, *message: found.append(message))
        quiet(channel.connection)
        assert found == []
        channel.basic_publish("", key, b"d")
        until(channel.connection, "what is new", lambda: found)
        assert found[0][2] == b"d" and found[0][1].headers["x-stream-offset"] == 3
        # RabbitMQ counts every five seconds.
        eventually("the count", lambda: channel.queue_declare(key, passive=True).method.message_count == 4)
        channel.queue_delete(key)


@test
def streams_wait_for_acknowledgements_and_do_not_give_back():
    with opened() as channel:
        key = stream(channel)
        channel.confirm_delivery()
        send(channel, key, b"a", b"b", b"c", b"d")
        channel.basic_qos(prefetch_count=2)
        _, found = consumer(channel, key, arguments={"x-stream-offset": "first"})
        until(channel.connection, "two", lambda: len(found) == 2)
        quiet(channel.connection)
        assert len(found) == 2
        # To give back is no more than to be done; before RabbitMQ 4 it was not implemented.
        settle = channel.basic_ack if OLD_RABBITMQ else functools.partial(channel.basic_nack, requeue=True)
        settle(found[1][0].delivery_tag, multiple=True)
        until(channel.connection, "the next two", lambda: len(found) == 4)
        assert [body for _, _, body in found] == [b"a", b"b", b"c", b"d"]
        channel.queue_delete(key)


@test
def streams_say_what_they_are_not():
    with opened() as channel:
        key = stream(channel)
    # Where RabbitMQ closes the connection for it, so that each needs its own.
    not_implemented = [
        ("automatic acknowledgement", lambda channel: channel.basic_consume(key, print, auto_ack=True)),
        ("basic.get not supported", lambda channel: channel.basic_get(key)),
        ("queue.purge not supported", lambda channel: channel.queue_purge(key)),
    ]
    # Before 4.3 the words of the first were others.
    for text, ask in not_implemented[1 if OLD_RABBITMQ else 0 :]:
        with opened() as channel:
            channel.basic_qos(prefetch_count=1)
            try:
                ask(channel)
                raise AssertionError(f"{text}: not refused")
            except ConnectionClosedByBroker as error:
                assert error.reply_code == 540 and text in error.reply_text, error
    with opened() as channel:
        channel_closes(channel, 406, "consumer prefetch count is not set", lambda: channel.basic_consume(key, print))
    for settings, text in [({"auto_delete": True}, "invalid property 'auto-delete'"), ({"durable": False}, "'non-durable'")]:
        with opened() as channel:
            settings = {"durable": True, "arguments": {"x-queue-type": "stream"}, **settings}
            channel_closes(channel, 406, text, lambda: channel.queue_declare(name("s"), **settings))
    with opened() as channel:
        channel.queue_delete(key)


@test
def streams_are_filtered():
    if OLD_RABBITMQ:
        raise Skip("filters came with RabbitMQ 3.13")
    with opened() as channel:
        key = stream(channel)
        channel.confirm_delivery()
        for value, body in [("eu", b"a"), ("us", b"b"), (None, b"c"), ("eu", b"d")]:
            headers = {"x-stream-filter-value": value} if value else {}
            channel.basic_publish("", key, body, pika.BasicProperties(headers=headers))
        channel.basic_qos(prefetch_count=10)
        cases = [
            ({"x_stream_filter": "eu"}, b"ad"),
            ({"x_stream_filter": ["eu", "us"]}, b"abd"),
            ({"x_stream_filter": "us", "x_stream_match_unfiltered": True}, b"bc"),
        ]
        for arguments, expected in cases:
            found = read_stream(channel, key, len(expected), x_stream_offset="first", **arguments)
            assert b"".join(body for _, _, body in found) == expected, (arguments, found)
        channel.queue_delete(key)


@test
def direct_replies_reach_the_channel_that_asked():
    with opened() as asks, opened() as answers:
        assert asks.connection._impl.server_properties["capabilities"]["direct_reply_to"] is True
        questions = queue(answers)

        def answer(channel, method, properties, body):
            channel.basic_ack(method.delivery_tag)
            correlated = pika.BasicProperties(correlation_id=properties.correlation_id)
            channel.basic_publish("", properties.reply_to, body.upper(), correlated, mandatory=True)

        answers.basic_consume(questions, answer)
        _, found = consumer(asks, PSEUDO, auto_ack=True)
        for n in range(3):
            send(asks, questions, b"question %d" % n, reply_to=PSEUDO, correlation_id=str(n))

        def all_answered():
            answers.connection.process_data_events(0.02)
            return len(found) == 3

        until(asks.connection, "three answers", all_answered)
        for n, (method, properties, body) in enumerate(found):
            assert (body, properties.correlation_id) == (b"QUESTION %d" % n, str(n)), found
            assert method.exchange == "" and method.routing_key.startswith(f"{PSEUDO}."), method
            assert method.delivery_tag == n + 1 and not method.redelivered
        name_of_replies = found[0][0].routing_key
        assert answers.queue_declare(name_of_replies, passive=True).method.consumer_count == 1
        asks.close()
        answers.confirm_delivery()
        try:
            answers.basic_publish("", name_of_replies, b"late", mandatory=True)
            raise AssertionError("nobody is there any more")
        except UnroutableError:
            pass
        channel_closes(answers, 404, "no queue 'amq.rabbitmq.reply-to.", lambda: answers.queue_declare(name_of_replies, passive=True))


@test
def direct_replies_have_rules():
    with opened() as channel:
        channel_closes(channel, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", lambda: consumer(channel, PSEUDO))
    with opened() as channel:
        consumer(channel, PSEUDO, auto_ack=True)
        channel_closes(channel, 406, "reply consumer already set", lambda: consumer(channel, PSEUDO, auto_ack=True))
    with opened() as channel:
        text = "PRECONDITION_FAILED - fast reply consumer does not exist"
        channel_closes(channel, 406, text, lambda: send(channel, "anywhere", b"", reply_to=PSEUDO))
    with opened() as channel:
        assert channel.queue_declare(PSEUDO, passive=True).method.consumer_count == 1


@test
def consumer_priorities():
    with opened() as channel:
        assert channel.connection._impl.server_capabilities["consumer_priorities"] is True
        key = queue(channel)
        channel.basic_qos(prefetch_count=2)
        found = {
            priority: consumer(channel, key, arguments={"x-priority": priority})[1] for priority in (-1, 0, 5)
        }
        send(channel, key, *(b"%d" % n for n in range(5)))
        until(channel.connection, "all of them", lambda: sum(map(len, found.values())) == 5)
        bodies = {priority: [body for _, _, body in got] for priority, got in found.items()}
        assert bodies == {5: [b"0", b"1"], 0: [b"2", b"3"], -1: [b"4"]}, bodies


def prioritized(channel, key, *all):
    """Sends each body with its priority, and waits until all are there."""
    channel.confirm_delivery()
    for body, priority in all:
        send(channel, key, body, **({} if priority is None else {"priority": priority}))


MIXED = [(b"none", None), (b"0", 0), (b"3", 3), (b"9", 9), (b"1", 1), (b"3 again", 3)]


@test
def the_highest_priority_comes_first():
    with opened() as channel:
        key = queue(channel, arguments={"x-max-priority": 5})
        prioritized(channel, key, *MIXED)
        ordered = [b"9", b"3", b"3 again", b"1", b"none", b"0"]
        held = [channel.basic_get(key) for _ in ordered]
        assert [body for *_, body in held] == ordered, held
        assert channel.basic_get(key)[0] is None
        # Given back in any order, each goes to its old place.
        for at in (4, 1, 5, 0, 2, 3):
            channel.basic_nack(held[at][0].delivery_tag)
        again = [channel.basic_get(key) for _ in ordered]
        assert [body for *_, body in again] == ordered, again
        assert all(method.redelivered for method, *_ in again)
        channel.basic_ack(0, multiple=True)
        assert channel.queue_purge(key).method.message_count == 0


@test
def a_consumer_gets_the_highest_priority_that_waits():
    with opened() as channel:
        key = queue(channel, arguments={"x-max-priority": 5})
        channel.basic_qos(prefetch_count=1)
        found = []

        def work(channel, method, properties, body):
            found.append((body, properties.priority))
            channel.basic_ack(method.delivery_tag)

        prioritized(channel, key, *MIXED)
        channel.basic_consume(key, work)
        until(channel.connection, "all of them", lambda: len(found) == len(MIXED))
        assert found == sorted(MIXED, key=lambda one: -min(one[1] or 0, 5)), found


@test
def priorities_and_limits():
    with opened() as channel:
        dead = queue(channel)
        letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        key = queue(channel, arguments={"x-max-priority": 5, "x-max-length": 2, **letters})
        # The head goes where there are too many: that is the highest.
        prioritized(channel, key, (b"low", 0), (b"high", 5), (b"mid", 2))
        eventually("the dead letter", lambda: take(channel, dead) == [b"high"])
        assert take(channel, key) == [b"mid", b"low"]
        # Only the head expires: behind one that may stay, the others wait.
        key = queue(channel, arguments={"x-max-priority": 5, **letters})
        prioritized(channel, key, (b"stays", 5))
        send(channel, key, b"short", expiration="20")
        send(channel, key, b"shorter", expiration="10")
        time.sleep(0.1)
        assert count(channel, key) == 3
        assert channel.basic_get(key, auto_ack=True)[2] == b"stays"
        found = []
        eventually("the dead letters", lambda: found.extend(take(channel, dead)) or found == [b"short", b"shorter"])
        assert take(channel, key) == []


@test
def quorum_queues_know_priorities():
    with opened() as channel:
        key = queue(channel, exclusive=False, durable=True, arguments={"x-queue-type": "quorum"})
        prioritized(channel, key, *MIXED, (b"40", 40), (b"31", 31))
        # No priority counts as 4, and what is above 31 as that.
        held = [channel.basic_get(key) for _ in range(3)]
        assert [body for *_, body in held] == [b"40", b"31", b"9"], held
        # What is given back goes first.
        channel.basic_nack(held[2][0].delivery_tag)
        prioritized(channel, key, (b"20", 20))
        assert take(channel, key) == [b"9", b"20", b"none", b"3", b"3 again", b"1", b"0"]
        channel.queue_delete(key)


@test
def consumer_arguments_are_checked():
    with opened() as channel:
        key = queue(channel)
        channel_closes(
            channel,
            406,
            f"invalid arg 'x-priority' for queue '{key}' in vhost '/'",
            lambda: channel.basic_consume(key, lambda *_: None, arguments={"x-priority": "high"}),
        )


@test
def single_active_consumer():
    arguments = {"x-single-active-consumer": True}
    with opened() as owner, opened() as first, opened() as second:
        key = name("single")
        owner.queue_declare(key, arguments=arguments, durable=True)
        try:
            _, one = consumer(first, key)
            _, two = consumer(second, key)
            send(owner, key, b"a", b"b", b"c")
            until(first.connection, "all of them", lambda: len(one) == 3)
            quiet(second.connection)
            assert two == []
            first.basic_ack(one[1][0].delivery_tag)
            first.connection.close()
            until(second.connection, "what is left", lambda: len(two) == 2)
            assert [(body, method.redelivered) for method, _, body in two] == [(b"a", True), (b"c", True)]
            channel_closes(
                owner, 403, "in exclusive use", lambda: owner.basic_consume(key, lambda *_: None, exclusive=True)
            )
        finally:
            with opened() as channel:
                channel.queue_delete(key)


@test
def delivery_counts_and_limit():
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2}
    with opened() as channel:
        key = name("limited")
        channel.queue_declare(key, durable=True, arguments=arguments)
        try:
            send(channel, key, b"a", headers={"mine": 1})
            seen = []
            for _ in range(3):
                method, properties, _ = channel.basic_get(key)
                seen.append((method.redelivered, properties.headers.get("x-delivery-count")))
                channel.basic_reject(method.delivery_tag, requeue=True)
            assert seen == [(False, None), (True, 1), (True, 2)], seen
            assert channel.basic_get(key)[0] is None, "the third failure was once too often"
            if OLD_RABBITMQ:
                return
            send(channel, key, b"b")
            for count in range(10):
                method, properties, _ = channel.basic_get(key)
                headers = properties.headers or {}
                assert headers.get("x-acquired-count", 0) == count and "x-delivery-count" not in headers
                channel.basic_nack(method.delivery_tag, requeue=True)
        finally:
            channel.queue_delete(key)


# Durability.


@test
def policies_and_virtual_hosts_of_the_command_line():
    binary = os.environ.get("FERRYMQ")
    if not binary:
        raise Skip("set FERRYMQ to the program to be started")
    with tempfile.TemporaryDirectory() as home:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            port, api = one.getsockname()[1], other.getsockname()[1]
        command = [binary, "serve", "--data-dir", f"{home}/data", "--kafka-listen", "127.0.0.1:0"]
        command += ["--http-listen", f"127.0.0.1:{api}", "--amqp-listen", f"127.0.0.1:{port}"]
        broker = start_broker(command, port)

        def ferrymq(*words):
            environment = {**os.environ, "FERRYMQ_API": f"127.0.0.1:{api}"}
            subprocess.run([binary, *words], check=True, env=environment, stderr=subprocess.DEVNULL)

        def ready(channel, key):
            return channel.queue_declare(key, passive=True).method.message_count

        try:
            ferrymq("vhost", "create", "team")
            settings = {"port": port, "virtual_host": "team"}
            with opened(**settings) as channel:
                channel.queue_declare("jobs", durable=True)
                channel.queue_declare("dead", durable=True)
                channel.confirm_delivery()
                send(channel, "jobs", *(b"%d" % n for n in range(5)))
                letters = ["dead-letter-exchange=", "dead-letter-routing-key=dead"]
                ferrymq("policy", "set", "-V", "team", "limit", "^jobs$", "max-length=2", *letters)
                until(channel.connection, "the letters", lambda: ready(channel, "dead") == 3)
                assert ready(channel, "jobs") == 2
                ferrymq("policy", "set", "-V", "team", "limit", "^jobs$", "message-ttl=50")
                until(channel.connection, "their time is over", lambda: ready(channel, "jobs") == 0)
                assert ready(channel, "dead") == 3
                ferrymq("policy", "clear", "-V", "team", "limit")
                send(channel, "jobs", b"stays")
                quiet(channel.connection)
                assert ready(channel, "jobs") == 1
                ferrymq("vhost", "delete", "team")
                try:
                    quiet(channel.connection, 5)
                except ConnectionClosedByBroker as closed:
                    told = (closed.reply_code, closed.reply_text)
                    assert told == (320, "CONNECTION_FORCED - vhost 'team' is deleted"), told
                else:
                    raise AssertionError("it is not told")
            try:
                connect(**settings)
            except AMQPConnectionError as closed:
                assert "NOT_ALLOWED - vhost team not found" in str(closed), closed
            else:
                raise AssertionError("it is there still")
        finally:
            broker.kill()
            broker.wait()


@test
def what_was_confirmed_survives_a_kill():
    binary = os.environ.get("FERRYMQ")
    if not binary:
        raise Skip("set FERRYMQ to the program to be killed and started again")
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        command = [binary, "serve", "--data-dir", f"{home}/data", "--kafka-listen", "127.0.0.1:0"]
        command += ["--http-listen", "off", "--amqp-listen", f"127.0.0.1:{port}"]
        broker = start_broker(command, port)
        try:
            with opened(port=port) as channel:
                channel.exchange_declare("durable", "topic", durable=True)
                channel.exchange_declare("transient", "topic")
                for each, durable in (("durable", True), ("transient", False)):
                    channel.queue_declare(each, durable=durable)
                    channel.queue_bind(each, "durable", "#")
                channel.confirm_delivery()
                for n in range(300):
                    channel.basic_publish("durable", str(n), b"x" * n, pika.BasicProperties(delivery_mode=2))
                channel.basic_publish("durable", "gone", b"", pika.BasicProperties(delivery_mode=1))
                for _ in range(100):
                    channel.basic_ack(channel.basic_get("durable")[0].delivery_tag)
                assert channel.queue_declare("durable", passive=True).method.message_count == 201
            broker.kill()
            broker.wait()
            broker = start_broker(command, port)
            with opened(port=port) as channel:
                found = {}
                while (got := channel.basic_get("durable"))[0] is not None:
                    found[int(got[0].routing_key)] = got[2]
                    channel.basic_ack(got[0].delivery_tag)
                # Acknowledgements ride on later writes: what was acknowledged last may come again.
                assert set(range(100, 300)) <= set(found), sorted(found)
                assert all(body == b"x" * n for n, body in found.items())
                channel.exchange_declare("durable", passive=True)
            with opened(port=port) as channel:
                channel_closes(channel, 404, "no queue 'transient'", lambda: channel.queue_declare("transient", passive=True))
            with opened(port=port) as channel:
                channel_closes(channel, 404, "no exchange", lambda: channel.exchange_declare("transient", passive=True))
        finally:
            broker.kill()
            broker.wait()


@test
def a_stream_survives_a_kill_in_order():
    binary = os.environ.get("FERRYMQ")
    if not binary:
        raise Skip("set FERRYMQ to the program to be killed and started again")
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        command = [binary, "serve", "--data-dir", f"{home}/data", "--kafka-listen", "127.0.0.1:0"]
        command += ["--http-listen", "off", "--amqp-listen", f"127.0.0.1:{port}"]
        broker = start_broker(command, port)
        try:
            with opened(port=port) as channel:
                arguments = {"x-queue-type": "stream", "x-max-age": "7D"}
                channel.queue_declare("s", durable=True, arguments=arguments)
                channel.queue_bind("s", "amq.topic", "#")
                channel.confirm_delivery()
                # Transient ones too: a stream keeps all.
                for n in range(200):
                    channel.basic_publish("amq.topic", str(n), b"x" * n, pika.BasicProperties(delivery_mode=1 + n % 2))
            broker.kill()
            broker.wait()
            broker = start_broker(command, port)
            with opened(port=port) as channel:
                assert channel.queue_declare("s", durable=True, arguments=arguments).method.message_count == 200
                channel.confirm_delivery()
                channel.basic_publish("amq.topic", "200", b"x" * 200, mandatory=True)
                channel.basic_qos(prefetch_count=50)
                found = read_stream(channel, "s", 201, x_stream_offset="first")
                assert [len(body) for _, _, body in found] == list(range(201))
                assert [p.headers["x-stream-offset"] for _, p, _ in found] == list(range(201))
        finally:
            broker.kill()
            broker.wait()


@test
def publishers_are_held_back_while_the_disk_is_full():
    binary = os.environ.get("FERRYMQ")
    if not binary:
        raise Skip("set FERRYMQ to the program to be given a small disk")
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", home]
        if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            raise Skip("a small disk takes root")
        command = [binary, "serve", "--data-dir", f"{home}/data", "--kafka-listen", "127.0.0.1:0"]
        command += ["--http-listen", "off", "--amqp-listen", f"127.0.0.1:{port}"]
        command += ["--wal-file-bytes", str(4 << 20), "--disk-reserve-bytes", str(8 << 20)]
        broker = start_broker(command, port)
        try:
            with opened(port=port, blocked_connection_timeout=None) as publisher, opened(port=port) as consumer:
                connection, told = publisher.connection, []
                connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
                connection.add_on_connection_unblocked_callback(lambda _, frame: told.append("unblocked"))
                consumer.queue_declare("q", durable=True)
                body, sent = b"x" * (1 << 18), 0
                while not told:
                    send(publisher, "q", body, delivery_mode=2)
                    sent += 1
                    connection.process_data_events(0.01)
                    assert sent < 2000, "the disk is never full"
                assert told == ["low on disk"], told
                # Who only consumes goes on, and what it takes makes room.
                taken = 0

                def unblocked():
                    nonlocal taken
                    method, _, got = consumer.basic_get("q")
                    if method is not None:
                        assert got == body
                        consumer.basic_ack(method.delivery_tag)
                        taken += 1
                    connection.process_data_events(0.01)
                    return told[-1] == "unblocked"

                until(consumer.connection, "room again", unblocked, 40)
                send(publisher, "q", b"last", delivery_mode=2)
                quiet(connection)
                found = []
                while not found or found[-1] != b"last":
                    found.extend(take(consumer, "q"))
                # What the store refused before the alarm was raised is lost without confirms.
                assert sent - 20 <= taken + len(found) - 1 <= sent, (sent, taken, len(found))
        finally:
            broker.kill()
            broker.wait()
            subprocess.run(["umount", home], check=True)


def start_broker(command, port):
    broker = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    eventually("the broker listens", listens)
    return broker


if __name__ == "__main__":
    main()
